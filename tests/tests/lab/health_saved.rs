//! What is in progress with a backend's health goes on with the next agent: neither from its beginning nor as if it had
//! never been.

use anyhow::{Result, ensure};
use lb::{
    api::types::{BackendState, BackendView, CheckState},
    events::{Event, Kind},
};
use lb_tests::{
    config::{Config, Service},
    hello::{Hello, spread},
    lab::Lab,
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    passive::connect_at_once,
    setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, events, happened},
};

/// Both backends with this weight and these options.
fn config(lab: &Lab, weight: u16, options: &str) -> Config {
    let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
    let mut service = Service::tcp(SERVICE, VIP4, PORT, backends);
    service.backends.iter_mut().for_each(|(_, it)| *it = weight);
    service.more = format!("checks: [{{tcp: , interval: 200ms, timeout: 5s, fall: 2, rise: 2}}], {options}");
    Config::on_eth0("lab", vec![service])
}

/// slave1, as the agent shows it.
fn slave1(hello: &HelloLab) -> Result<BackendView> {
    hello.agent.backend(SERVICE, &hello.key(1))
}

/// Its server ends, and it is seen to be down.
fn fail(hello: &mut HelloLab) -> Result<()> {
    drop(hello.servers.remove(0));
    backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Down)
}

/// Its server runs again.
fn repair(hello: &mut HelloLab, lab: &Lab) -> Result<()> {
    hello.servers.insert(0, Hello::start(&lab.net.backends[0], PORT)?);
    Ok(())
}

fn both_up(hello: &HelloLab) -> Result<()> {
    both_are(hello, BackendState::Up)
}

fn both_are(hello: &HelloLab, state: BackendState) -> Result<()> {
    (1..=2).try_for_each(|n| backend_is(&hello.agent, SERVICE, &hello.key(n), state))
}

/// Waits until its weight has come so far, or farther.
fn climbs_to(hello: &HelloLab, weight: u16) -> Result<u16> {
    eventually(3 * PATIENCE, &format!("slave1's weight to be {weight}"), || {
        let view = slave1(hello)?;
        let there = view.health_weight >= weight;
        Ok(if there { Seen::Yes(view.health_weight) } else { Seen::NotYet(format!("{view:?}")) })
    })
}

/// The weight climbs on from where it was. Nothing here depends on how long a restart takes: the steps are what the
/// agents tell of, one after the other.
#[test]
fn a_slow_start_goes_on() {
    /// Of 100, in ten steps: of 4 s each.
    const STEP: u16 = 10;
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello = HelloLab::start_with(lab, &config(lab, 100, "slow_start: 40s"))?;
        both_up(&hello)?;
        fail(&mut hello)?;
        repair(&mut hello, lab)?;
        backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Up)?;
        let up = happened(&hello.agent, Kind::BackendUp)?;
        let before = climbs_to(&hello, 2 * STEP)?;
        ensure!(before < 100, "{before}");
        hello.agent.kill9()?;
        hello.agent.start()?;
        let first = slave1(&hello)?;
        let since = lb_tests::clock::realtime().duration_since(up.time);
        ensure!(first.state == BackendState::Up && first.health_weight >= before, "{first:?} after {before}");
        // One step is there from the begin on; the event is told of a moment later than that was.
        let most = (u64::try_from(since.as_secs())? / 4 + 2).min(10) * u64::from(STEP);
        ensure!(u64::from(first.health_weight) <= most, "{first:?}, at most {most} after {since:?}");
        climbs_to(&hello, (first.health_weight + STEP).min(100)).map(drop)
    });
}

/// Its checks pass, and it stays out: the hold is an hour.
#[test]
fn one_that_flaps_is_held_on() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello = HelloLab::start_with(lab, &config(lab, 1, "flap_hold: 1h"))?;
        both_up(&hello)?;
        for _ in 0..2 {
            fail(&mut hello)?;
            repair(&mut hello, lab)?;
            backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Up)?;
        }
        fail(&mut hello)?;
        repair(&mut hello, lab)?;
        happened(&hello.agent, Kind::Flaps)?;
        outlives_the_agent(&hello, "flaps (3 failures): is kept out for ", Kind::Flaps)
    });
}

/// Its clients can be answered again, so the next agent would have no grounds of its own: the hold is an hour.
#[test]
fn one_that_is_suspect_stays_so() {
    const SUSPECT: &str = "suspect for ";
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start_with(
            lab,
            &config(lab, 1, "passive: out, passive_hold: 1h, timeouts: {tcp_syn: 2s}"),
        )?;
        both_up(&hello)?;
        let route = format!("blackhole {}/32", hello.net.client().ipv4());
        hello.net.backends[0].netns.ip(&format!("route add {route}"))?;
        connect_at_once(&hello)?;
        kept_out(&hello, SUSPECT)?;
        hello.net.backends[0].netns.ip(&format!("route del {route}"))?;
        outlives_the_agent(&hello, SUSPECT, Kind::Suspect)
    });
}

/// One of two has come back, which is enough to keep a quorum and not to have one again: the backup alone serves on.
#[test]
fn a_lost_quorum_stays_lost_until_the_hysteresis_is_reached() {
    Lab::test(Topology::one_segment(3), |lab| {
        let mut config = config(lab, 10, "quorum: 8, hysteresis: 7");
        config.services[0].more_of = vec!["backup: false", "backup: false", "backup: true, checks: []"];
        let mut hello = HelloLab::start_with(lab, &config)?;
        let is = |hello: &HelloLab, n, state| backend_is(&hello.agent, SERVICE, &hello.key(n), state);
        both_up(&hello)?;
        is(&hello, 3, BackendState::Standby)?;
        let failed: Vec<_> = hello.servers.drain(..2).collect();
        drop(failed);
        is(&hello, 3, BackendState::Up)?;
        both_are(&hello, BackendState::Down)?;
        repair(&mut hello, lab)?;
        is(&hello, 1, BackendState::Quiesced)?;
        is(&hello, 3, BackendState::Up)?;
        hello.agent.kill9()?;
        hello.agent.start()?;
        checked_again(&hello)?;
        is(&hello, 1, BackendState::Quiesced)?;
        let backup = hello.agent.backend(SERVICE, &hello.key(3))?;
        ensure!(backup.state == BackendState::Up, "{backup:?}");
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave3".to_owned(), 20)].into(), "{answered:?}");
        once(&hello, Kind::QuorumDown)?;
        let lost = happened(&hello.agent, Kind::QuorumDown)?.seq;
        let regained = |event: &Event| event.what.kind == Kind::QuorumUp && event.seq > lost;
        ensure!(!events(&hello.agent)?.iter().any(regained));
        hello.servers.insert(1, Hello::start(&lab.net.backends[1], PORT)?);
        is(&hello, 2, BackendState::Up)?;
        is(&hello, 3, BackendState::Standby)?;
        eventually(PATIENCE, "the quorum", || {
            let events = events(&hello.agent)?;
            Ok(if events.iter().any(regained) { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) })
        })
    });
}

/// Checks of the agent of now pass on both ways.
fn checked_again(hello: &HelloLab) -> Result<()> {
    let probed = hello.servers[0].accepted().len();
    eventually(PATIENCE, "checks of the next agent", || {
        let now = hello.servers[0].accepted().len();
        Ok(if now >= probed + 8 { Seen::Yes(()) } else { Seen::NotYet(format!("{now}")) })
    })
}

/// What keeps slave1 out, for an hour at most and by one event of this kind, goes on with the next agent.
fn outlives_the_agent(hello: &HelloLab, why: &str, kind: Kind) -> Result<()> {
    let before = kept_out(hello, why)?;
    ensure!(before <= 3600, "{before}");
    hello.agent.kill9()?;
    hello.agent.start()?;
    let after = kept_out(hello, why)?;
    ensure!(after <= before, "{after} s are left of {before}");
    checked_again(hello)?;
    kept_out(hello, why)?;
    let answered = spread(hello.client(), HELLO, 20)?;
    ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
    once(hello, kind)
}

/// It has happened once: with the first agent.
fn once(hello: &HelloLab, kind: Kind) -> Result<()> {
    let events = events(&hello.agent)?;
    ensure!(events.iter().filter(|event| event.what.kind == kind).count() == 1, "{events:#?}");
    Ok(())
}

/// Waits until slave1's checks pass and it is out nevertheless, for this reason; seconds that are left.
fn kept_out(hello: &HelloLab, why: &str) -> Result<u64> {
    eventually(PATIENCE, "slave1 to be kept out although its checks pass", || {
        let view = slave1(hello)?;
        let passes = view.checks.iter().all(|check| check.state == CheckState::Up);
        let words = view.detail.clone().unwrap_or_default();
        let left = words.split_once(why).and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        Ok(match left {
            Some(left) if passes && view.state == BackendState::Down => Seen::Yes(left),
            _ => Seen::NotYet(format!("{view:?}")),
        })
    })
}
