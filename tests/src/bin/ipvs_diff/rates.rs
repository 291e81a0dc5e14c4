//! What `ipvsadm -L --rate` and `--stats` show of a load that changes, beside our counters and our estimator: of every
//! service and backend, for half a minute.
//!
//! The load goes by IPVS's own two seconds. Our estimator is read twice: just when theirs was, with the same packets in
//! each interval; and in the middle, as by an agent that began at another time. The first one is to show what IPVS
//! shows. The second one, of services, is to lie between two readings of IPVS: the estimate is linear, and each of its
//! intervals has so much of one of theirs and so much of the next.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb::{
    estimator::Estimator,
    model::{Endpoint, Protocol},
};
use lb_common::{
    counters::Counters,
    tcp::flag::{ACK, SYN},
};
use lb_tests::clock;

use crate::{
    lab::{self, Client},
    run::Directors,
    schedulers::KINDS,
    script::{Options, Settings, Step},
    view,
};

/// A service, or one of its backends.
pub type Counted = (Endpoint, Option<IpAddr>);

/// Packets to each service in each two seconds: up, down, nothing at all, and up again.
const LOADS: [u16; 13] = [80, 80, 80, 80, 8, 8, 40, 40, 0, 0, 64, 64, 64];
/// Packets of each connection: these are as many as there are in the lowest load.
const CONNECTION: u16 = 8;
const FIRST_PORT: u16 = 20_000;
/// With their weights.
const BACKENDS: [(u8, u16); 2] = [(1, 3), (2, 1)];
/// For so long after IPVS has counted are there packets: none while it is about to count them again.
const SENDING: Duration = Duration::from_millis(1900);
/// From IPVS's reading to the second one of ours.
const MIDDLE: Duration = Duration::from_millis(1000);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Within that IPVS has counted again.
const PATIENCE: Duration = Duration::from_secs(4);
/// IPVS takes what came until its timer went off for that of two seconds; the timer is up to 8 jiffies of 4 ms late
/// (`kernel/time/timer.c`): 1.6 %. Ours divides by the time that went by, and is read a look or so later.
const SHARE: f64 = 0.04;
/// IPVS rounds to whole numbers, and had counted one packet before our first reading: connections, packets, bytes.
const ROUNDED: [f64; 3] = [1.0, 1.0, 64.0];

/// How a comparison went.
#[derive(Default)]
pub struct Outcome {
    /// Rates and counters that were compared.
    pub compared: usize,
    /// The greatest rate of packets that IPVS showed.
    pub most: f64,
    pub differences: Vec<String>,
}

/// Compares rates under a load, and at its end the counters.
pub fn compare(directors: &mut Directors) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    outcome.differences.extend(configure(directors)?);
    let mut tick = Tick { shown: directors.ipvs.totals()?, at: clock::now() };
    let mut load = Load::default();
    // For IPVS to have something to show: that tells when it counts.
    outcome.differences.extend(load.packet(directors)?);
    tick.next(directors)?;
    let (mut aligned, mut apart) = (Reader::default(), Reader::default());
    aligned.read(directors)?;
    let mut before = directors.ipvs.rates()?;
    for (round, packets) in LOADS.into_iter().enumerate() {
        let half = packets / 2;
        outcome.differences.extend(load.send(directors, half, tick.at, MIDDLE)?);
        wait_until(tick.at + MIDDLE);
        let mut ours = apart.read(directors)?;
        // A connection is one backend's, so what each gets is not even.
        ours.retain(|(_, backend), _| backend.is_none());
        outcome.differences.extend(load.send(
            directors,
            packets - half,
            tick.at + MIDDLE,
            SENDING - MIDDLE,
        )?);
        tick.next(directors)?;
        let exact = aligned.read(directors)?;
        let ipvs = directors.ipvs.rates()?;
        outcome.rates(&ipvs, &ipvs, &exact, "read with IPVS");
        if round > 0 {
            // The first reading gives no rate, and so no estimate before it was half-way.
            outcome.rates(&before, &ipvs, &ours, "read between");
        }
        before = ipvs;
    }
    // What came since it counted last, IPVS does not show yet.
    let (ipvs, ours) = (directors.ipvs.statistics()?, directors.ours.counted()?);
    for (counted, ours) in &ours {
        outcome.compared += 3;
        let ours = [ours.connections, ours.packets, ours.bytes];
        match ipvs.get(counted) {
            Some(ipvs) if *ipvs == ours => {}
            ipvs => {
                outcome.differences.push(format!("{}: IPVS counted {ipvs:?}, lb {ours:?}", name(counted)))
            }
        }
    }
    ensure!(outcome.most >= 10.0, "IPVS showed no more than {} packets a second", outcome.most);
    directors.clear()?;
    Ok(outcome)
}

/// One service of TCP and IPv4, one of UDP and IPv6.
fn services() -> [Endpoint; 2] {
    let vips = lab::vips();
    let of = |is_ipv4: bool| vips.iter().copied().find(|vip| vip.is_ipv4() == is_ipv4).unwrap_or(vips[0]);
    [Endpoint::new(of(true), 80, Protocol::Tcp), Endpoint::new(of(false), 80, Protocol::Udp)]
}

fn configure(directors: &mut Directors) -> Result<Vec<String>> {
    let kind = KINDS.iter().find(|kind| kind.name == "wrr").context("no wrr")?;
    let mut found = Vec::new();
    for to in services() {
        found.extend(directors.step(Step::AddService(to, kind, Options::default()))?);
        for (number, weight) in BACKENDS {
            let settings = Settings { weight, upper: 0, lower: 0 };
            found.extend(directors.step(Step::AddBackend(to, number, settings))?);
        }
    }
    Ok(found)
}

/// What clients send.
#[derive(Default)]
struct Load {
    sent: u16,
}

impl Load {
    /// `packets` to each service, evenly within `time`: what differs between the answers.
    fn send(
        &mut self,
        directors: &mut Directors,
        packets: u16,
        from: Instant,
        time: Duration,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for number in 0..packets {
            wait_until(from + time * u32::from(number) / u32::from(packets));
            found.extend(self.packet(directors)?);
        }
        Ok(found)
    }

    /// The next one to each service.
    fn packet(&mut self, directors: &mut Directors) -> Result<Vec<String>> {
        let client = Client { host: 7, port: FIRST_PORT + self.sent / CONNECTION };
        let flags = if self.sent.is_multiple_of(CONNECTION) { SYN } else { ACK };
        self.sent += 1;
        let mut found = Vec::new();
        for to in services() {
            let packet = lab::packet(client, to, flags);
            found.extend(view::answers(&directors.ipvs.send(&packet)?, &directors.ours.send(&packet)?));
        }
        Ok(found)
    }
}

fn wait_until(then: Instant) {
    thread::sleep(then.saturating_duration_since(clock::now()));
}

/// When IPVS has counted: what it shows of all together changes then, and only then.
struct Tick {
    shown: String,
    at: Instant,
}

impl Tick {
    fn next(&mut self, directors: &mut Directors) -> Result<()> {
        let start = clock::now();
        loop {
            let shown = directors.ipvs.totals()?;
            if shown != self.shown {
                *self = Self { shown, at: clock::now() };
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "IPVS does not estimate:\n{shown}");
            thread::sleep(LOOK);
        }
    }
}

/// Reads our counters for an estimator of ours.
struct Reader {
    estimator: Estimator<Counted>,
    start: Instant,
}

impl Default for Reader {
    fn default() -> Self {
        Self { estimator: Estimator::default(), start: clock::now() }
    }
}

impl Reader {
    fn read(&mut self, directors: &Directors) -> Result<BTreeMap<Counted, [f64; 3]>> {
        let now = self.start.elapsed();
        let counted: BTreeMap<Counted, Counters> = directors.ours.counted()?;
        let mut rates = BTreeMap::new();
        for (key, counters) in counted {
            self.estimator.read(key, now, counters);
            let rate = self.estimator.rate(key);
            rates.insert(key, [rate.connections, rate.packets, rate.bytes]);
        }
        Ok(rates)
    }
}

impl Outcome {
    /// Ours is to lie between two of IPVS's.
    fn rates(
        &mut self,
        one: &BTreeMap<Counted, [u64; 3]>,
        other: &BTreeMap<Counted, [u64; 3]>,
        ours: &BTreeMap<Counted, [f64; 3]>,
        how: &str,
    ) {
        for (counted, ours) in ours {
            let (Some(one), Some(other)) = (one.get(counted), other.get(counted)) else {
                self.differences.push(format!("{}: IPVS has it not", name(counted)));
                continue;
            };
            for (at, what) in ["connections", "packets", "bytes"].into_iter().enumerate() {
                let (low, high) = (one[at].min(other[at]) as f64, one[at].max(other[at]) as f64);
                self.compared += 1;
                if what == "packets" {
                    self.most = self.most.max(high);
                }
                let least = low - low * SHARE - ROUNDED[at];
                if !(least..=high + high * SHARE + ROUNDED[at]).contains(&ours[at]) {
                    self.differences.push(format!(
                        "{} a second of {}, {how}: IPVS {low} to {high}, lb {:.2}",
                        what,
                        name(counted),
                        ours[at]
                    ));
                }
            }
        }
    }
}

fn name((service, backend): &Counted) -> String {
    backend.map_or_else(|| service.to_string(), |backend| format!("{service} -> {backend}"))
}
