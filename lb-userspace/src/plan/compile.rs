//! A service's members compiled for the kernel: rr and wrr in IPVS's order (`ip_vs_rr.c`, `ip_vs_wrr.c`),
//! tables of the hashing schedulers, and the bare members of those that look at load.
//!
//! wrr walks the members again and again, each time with the bar `cw` one step lower, and serves
//! those whose weight reaches it; steps are the greatest common divisor of the weights. So its
//! rotation falls into *levels*: runs of bars that the same members reach.

use lb_common::{
    generation::{Header, Level, MAX_MEMBERS, MAX_TABLE, Member, at},
    scheduler::{self, Kind, flag, kind},
};

use crate::model::Scheduler;

use super::{
    rotation::Words,
    spread::spread,
    tables::{Candidate, gcd, maglev, round_robin, source_hash},
};

/// Why a service cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    #[error("{0} backends: at most {MAX_MEMBERS} are possible")]
    TooManyMembers(usize),
}

/// The words of a generation for `candidates` in walk order; [`super::rotation::resume`] fills its third.
pub fn compile(scheduler: Scheduler, candidates: &[Candidate]) -> Result<Vec<u64>, CompileError> {
    if candidates.len() > MAX_MEMBERS as usize {
        return Err(CompileError::TooManyMembers(candidates.len()));
    }
    let members: Vec<Member> = candidates.iter().map(|candidate| candidate.member).collect();
    let levels = levels(scheduler, &members);
    let flags = scheduler.flags();
    let mut header = Header {
        period: period(&levels, scheduler, &members),
        levels: levels.len() as u16,
        members: members.len() as u16,
        table: 0,
        scheduler: number(scheduler),
        spread: 0,
        flags: if flags.fallback { flag::FALLBACK } else { 0 } | if flags.port { flag::PORT } else { 0 },
    };
    let mut words = header.words().to_vec();
    words.push(0);
    words.extend(members.iter().map(|member| member.0));
    words.extend(levels.iter().map(|level| level.0));
    let table = match scheduler {
        Scheduler::Sh(_) => source_hash(&members),
        Scheduler::Dh => round_robin(&members),
        Scheduler::Mh(_) => maglev(candidates),
        _ if header.period > MAX_TABLE => Vec::new(),
        _ => (0..header.period).filter_map(|position| at(&Words(&words), 0, &header, position)).collect(),
    };
    let spread = if kind(header.scheduler) == Kind::Hashed { Vec::new() } else { spread(candidates) };
    (header.table, header.spread) = (table.len() as u32, spread.len() as u16);
    let pair = |pair: &[u32]| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32;
    words.extend(table.chunks(2).map(pair));
    words.extend(spread.chunks(2).map(pair));
    words[..2].copy_from_slice(&header.words());
    Ok(words)
}

fn number(scheduler: Scheduler) -> u8 {
    match scheduler {
        Scheduler::Rr => scheduler::RR,
        Scheduler::Wrr => scheduler::WRR,
        Scheduler::Lc => scheduler::LC,
        Scheduler::Wlc => scheduler::WLC,
        Scheduler::Sed => scheduler::SED,
        Scheduler::Nq => scheduler::NQ,
        Scheduler::Fo => scheduler::FO,
        Scheduler::Ovf => scheduler::OVF,
        Scheduler::Sh(_) => scheduler::SH,
        Scheduler::Mh(_) => scheduler::MH,
        Scheduler::Dh => scheduler::DH,
        Scheduler::Twos => scheduler::TWOS,
        Scheduler::Lblc => scheduler::LBLC,
        Scheduler::Lblcr => scheduler::LBLCR,
    }
}

/// IPVS's name of a generation's scheduler.
pub fn scheduler_name(of: u8) -> Option<&'static str> {
    Scheduler::ALL.into_iter().find(|scheduler| number(*scheduler) == of).map(Scheduler::name)
}

/// The greatest common divisor of all positive weights, 1 if there is none: wrr's step.
pub fn step(members: &[Member]) -> u32 {
    match members.iter().fold(0, |step, member| gcd(step, u32::from(member.weight()))) {
        0 => 1,
        step => step,
    }
}

/// Those that look at load have rr's only level too.
fn levels(scheduler: Scheduler, members: &[Member]) -> Vec<Level> {
    let eligible = |bar: u16| members.iter().filter(|m| m.weight() != 0 && m.weight() >= bar).count();
    if eligible(1) == 0 {
        return Vec::new();
    }
    if kind(number(scheduler)) == Kind::Hashed {
        return Vec::new();
    }
    if scheduler != Scheduler::Wrr {
        return vec![Level::new(0, 1, eligible(1) as u16)];
    }
    let step = step(members);
    let mut weights: Vec<u16> = members.iter().map(|m| m.weight()).filter(|w| *w != 0).collect();
    weights.sort_unstable();
    weights.dedup();
    let (mut first, mut levels) = (0u32, Vec::new());
    for (i, weight) in weights.iter().enumerate().rev() {
        let below = if i == 0 { 0 } else { u32::from(weights[i - 1]) };
        let bars = (u32::from(*weight) - below) / step;
        let served = eligible(*weight);
        levels.push(Level::new(first, *weight, served as u16));
        first += bars * served as u32;
    }
    levels
}

/// Connections until the rotation repeats; where nothing rotates, how many take connections.
fn period(levels: &[Level], scheduler: Scheduler, members: &[Member]) -> u32 {
    match scheduler {
        Scheduler::Wrr if levels.is_empty() => 0,
        Scheduler::Wrr => {
            let step = step(members);
            members.iter().map(|member| u32::from(member.weight()) / step).sum()
        }
        _ => members.iter().filter(|member| member.weight() != 0).count() as u32,
    }
}
