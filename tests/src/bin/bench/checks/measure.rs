//! Readings of the agent before and after.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use lb::api::{
    client::Client,
    types::{CheckStats, LateCount},
};
use lb_tests::clock::now;

use super::{
    shown::{Asked, Load, Request, Thread},
    world::World,
};
use crate::{figures, report::ms};

/// What a thread has used.
#[derive(Clone, Copy, Default)]
struct Used {
    /// Clock ticks, of which 100 are a second on x86 (USER_HZ, proc(5)).
    user: u64,
    system: u64,
    /// Nanoseconds on a CPU, and ready without one (/proc/PID/schedstat).
    ran: u64,
    waited: u64,
}

struct Reading {
    at: Instant,
    accepted: u64,
    checks: Vec<CheckStats>,
    threads: BTreeMap<String, Used>,
}

/// What happened between two readings.
pub struct Measured {
    seconds: f64,
    accepted: u64,
    checks: Vec<CheckStats>,
    threads: BTreeMap<String, Used>,
    /// Backends, at the end.
    pub down: usize,
    /// MiB.
    resident: f64,
}

impl Reading {
    fn now(world: &World) -> Result<Self> {
        let mut threads = BTreeMap::<String, Used>::new();
        for thread in world.threads()? {
            let dir = format!("/proc/{}/task/{thread}", world.pid()?);
            // One that ended meanwhile is none.
            let (Ok(stat), Ok(sched)) =
                (fs::read_to_string(format!("{dir}/stat")), fs::read_to_string(format!("{dir}/schedstat")))
            else {
                continue;
            };
            let (head, tail) = stat.rsplit_once(") ").context("no stat")?;
            let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
            let fields: Vec<&str> = tail.split(' ').collect();
            let sched: Vec<&str> = sched.split_whitespace().collect();
            let used = threads.entry(name).or_default();
            // Fields 14 and 15.
            used.user += fields[11].parse::<u64>()?;
            used.system += fields[12].parse::<u64>()?;
            used.ran += sched[0].parse::<u64>()?;
            used.waited += sched[1].parse::<u64>()?;
        }
        Ok(Self { at: now(), accepted: world.accepted(), checks: world.stats()?.checks, threads })
    }
}

impl Measured {
    pub fn over(world: &World, work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let before = Reading::now(world)?;
        work()?;
        let after = Reading::now(world)?;
        let checks = after.checks.iter().map(|check| {
            let old =
                before.checks.iter().find(|old| (&old.kind, old.via_vip) == (&check.kind, check.via_vip));
            old.map_or_else(|| check.clone(), |old| since(old, check))
        });
        let threads = after.threads.iter().map(|(name, used)| {
            let old = before.threads.get(name).copied().unwrap_or_default();
            let used = Used {
                user: used.user.saturating_sub(old.user),
                system: used.system.saturating_sub(old.system),
                ran: used.ran.saturating_sub(old.ran),
                waited: used.waited.saturating_sub(old.waited),
            };
            (name.clone(), used)
        });
        let status = fs::read_to_string(format!("/proc/{}/status", world.pid()?))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let resident: f64 = resident.split_whitespace().next().context("no figure")?.parse()?;
        Ok(Self {
            seconds: (after.at - before.at).as_secs_f64(),
            accepted: after.accepted - before.accepted,
            checks: checks.collect(),
            threads: threads.collect(),
            down: world.ask(Client::status)?.unhealthy_backends,
            resident: resident / 1024.0,
        })
    }

    fn ended(&self) -> u64 {
        self.checks.iter().map(|check| check.ended).sum()
    }

    pub fn failed(&self) -> u64 {
        self.checks.iter().map(|check| check.failed).sum()
    }

    /// Checks a second.
    pub fn rate(&self) -> f64 {
        self.ended() as f64 / self.seconds
    }

    /// Share of a CPU.
    pub fn cpu(&self) -> f64 {
        self.threads.values().map(|used| used.ran as f64).sum::<f64>() / 1e9 / self.seconds
    }

    /// Microseconds of CPU a check.
    fn cost(&self) -> f64 {
        self.cpu() * 1e6 / self.rate()
    }

    /// The class that this share of all checks began in.
    pub fn late_us(&self, share: f64) -> Option<u64> {
        let mut all: Vec<LateCount> = Vec::new();
        for (n, class) in self.checks.iter().flat_map(|check| check.late.iter().enumerate()) {
            match all.get_mut(n) {
                Some(sum) => sum.checks += class.checks,
                None => all.push(*class),
            }
        }
        let sum = self.checks.first().map(|first| CheckStats { late: all, ..first.clone() });
        sum.and_then(|sum| sum.late_us(share))
    }

    /// Its figures, beside what the bare loop takes for a connection.
    pub fn load(&self, what: &'static str, floor: f64) -> Load {
        let percent = |of: fn(&Used) -> u64| self.threads.values().map(of).sum::<u64>() as f64 / self.seconds;
        let share = |nanoseconds: u64| nanoseconds as f64 / 1e9 / self.seconds;
        let ran = self.threads.iter().filter(|(_, used)| used.ran > 0);
        Load {
            what,
            per_second: self.rate(),
            accepted_per_second: self.accepted as f64 / self.seconds,
            failed: self.failed(),
            down: self.down,
            late_us: [0.5, 0.99, 0.999, 1.0].map(|share| self.late_us(share)),
            of_a_cpu: self.cpu(),
            user_percent: percent(|used| used.user),
            system_percent: percent(|used| used.system),
            us_of_cpu_each: self.cost(),
            of_the_bare_loop: self.cost() / floor,
            resident_mib: self.resident,
            threads: ran
                .map(|(name, used)| Thread {
                    name: name.clone(),
                    of_a_cpu: share(used.ran),
                    ready_without_one: share(used.waited),
                })
                .collect(),
        }
    }
}

fn since(old: &CheckStats, new: &CheckStats) -> CheckStats {
    let late = old.late.iter().zip(&new.late);
    CheckStats {
        begun: new.begun - old.begun,
        ended: new.ended - old.ended,
        failed: new.failed - old.failed,
        late: late.map(|(old, new)| LateCount { checks: new.checks - old.checks, ..*new }).collect(),
        ..new.clone()
    }
}

/// How long the agent took to answer meanwhile.
#[derive(Default)]
pub struct Requests {
    status: Vec<Duration>,
    services: Vec<Duration>,
}

impl Requests {
    pub fn make(world: &World, time: Duration) -> Result<Self> {
        let (mut requests, began) = (Self::default(), now());
        while began.elapsed() < time {
            let since = now();
            world.ask(Client::status)?;
            requests.status.push(since.elapsed());
            let since = now();
            world.ask(Client::services)?;
            requests.services.push(since.elapsed());
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(requests)
    }

    /// Their figures, and those of the checks meanwhile.
    pub fn asked(&self, meanwhile: &Measured) -> Asked {
        let request = |what, times: &[Duration]| Request {
            what,
            times: times.len(),
            median_ms: ms(figures(times).1),
            longest_ms: ms(times.iter().max().copied().unwrap_or_default()),
        };
        Asked {
            requests: vec![request("status", &self.status), request("services", &self.services)],
            checks_per_second: meanwhile.rate(),
            late_us: meanwhile.late_us(0.99),
        }
    }
}
