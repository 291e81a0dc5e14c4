//! A service's members compiled for the kernel: rr and wrr in IPVS's order
//! (`ip_vs_rr.c`, `ip_vs_wrr.c`).
//!
//! wrr walks the members again and again, each time with the bar `cw` one step lower, and serves
//! those whose weight reaches it; steps are the greatest common divisor of the weights. So its
//! rotation falls into *levels*: runs of bars that the same members reach.

use lb_common::generation::{Header, Level, MAX_MEMBERS, MAX_TABLE, Member, at, scheduler};

use crate::model::Scheduler;

use super::rotation::Words;

/// Why a service cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    #[error("{0} backends: at most {MAX_MEMBERS} are possible")]
    TooManyMembers(usize),
}

/// The words of a generation for `members` in walk order; [`super::rotation::resume`] fills its third.
pub fn compile(scheduler: Scheduler, members: &[Member]) -> Result<Vec<u64>, CompileError> {
    if members.len() > MAX_MEMBERS as usize {
        return Err(CompileError::TooManyMembers(members.len()));
    }
    let levels = levels(scheduler, members);
    let period = period(&levels, scheduler, members);
    let mut header = Header {
        period,
        levels: levels.len() as u16,
        members: members.len() as u16,
        table: 0,
        scheduler: match scheduler {
            Scheduler::Rr => scheduler::RR,
            Scheduler::Wrr => scheduler::WRR,
        },
    };
    let mut words = header.words().to_vec();
    words.push(0);
    words.extend(levels.iter().map(|level| level.0));
    words.extend(members.iter().map(|member| member.0));
    if period <= MAX_TABLE {
        let table: Vec<u32> =
            (0..period).filter_map(|position| at(&Words(&words), 0, &header, position)).collect();
        words.extend(
            table
                .chunks(2)
                .map(|pair| u64::from(pair[0]) | u64::from(pair.get(1).copied().unwrap_or(0)) << 32),
        );
        header.table = period;
        words[..2].copy_from_slice(&header.words());
    }
    Ok(words)
}

/// The greatest common divisor of all positive weights, 1 if there is none: wrr's step.
pub fn step(members: &[Member]) -> u32 {
    let gcd = |mut a: u32, mut b: u32| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    match members.iter().fold(0, |step, member| gcd(step, u32::from(member.weight()))) {
        0 => 1,
        step => step,
    }
}

fn levels(scheduler: Scheduler, members: &[Member]) -> Vec<Level> {
    let eligible = |bar: u16| members.iter().filter(|m| m.weight() != 0 && m.weight() >= bar).count();
    if eligible(1) == 0 {
        return Vec::new();
    }
    if scheduler == Scheduler::Rr {
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

/// Connections until the rotation repeats.
fn period(levels: &[Level], scheduler: Scheduler, members: &[Member]) -> u32 {
    if levels.is_empty() {
        return 0;
    }
    match scheduler {
        Scheduler::Rr => u32::from(levels[0].members()),
        Scheduler::Wrr => {
            let step = step(members);
            members.iter().map(|member| u32::from(member.weight()) / step).sum()
        }
    }
}
