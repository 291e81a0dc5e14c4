//! Checks by datagrams and pings whose answers come late, or say something else.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, BackendView, CheckState};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    detour::{Detour, Fault},
    dns,
    lab::Lab,
    topo::{Segment, Topology, VIP4},
};

use crate::{
    setup::{SERVICE, backend_until},
    via::ways,
};

/// Direct and through the VIP, of each of dns, udp, ping, and of a datagram that needs no answer.
const UP: &[CheckState] = &[CheckState::Up; 8];

/// A busy machine has two seconds more than what is late.
const TIMING: &str = "interval: 300ms, timeout: 3s, rise: 2, fall: 2";
const LATE: Duration = Duration::from_secs(1);
const TOO_LATE: Duration = Duration::from_secs(4);

/// `who.lab` A IN (RFC 1035 section 4.1).
const QUESTION: &str = "0001010000010000000000000377686f036c61620000010001";

#[test]
fn an_answer_that_comes_late_is_waited_for_and_one_that_comes_too_late_or_lies_is_none() {
    Lab::test(Topology::one_segment(1), |lab| {
        let node = &lab.net.backends[0];
        let own = node.ipv4();
        lab.start_realservers(&[VIP4])?;
        let _server = dns::start(&lab.scope, node, &[own, VIP4])?;
        let (front, director) = (node.link(Segment::Front), lab.net.director.link(Segment::Front));
        let selectors = ["ipproto udp sport 53", "ipproto icmp"];
        let detour = Detour::start(node, &selectors, front, director.mac_bytes()?)?;

        // What an honest answer ends with, as text and as bytes.
        let [a, b, c, d] = front.ipv4.octets();
        let named = own.to_string().replace('.', "\\.");
        let checks = format!(
            "{{dns: {{name: {}, type: A, answer: '^{named}$'}}, {TIMING}}}, \
             {{udp: {{send_hex: {QUESTION}, require_reply: true, \
             expect: '(?-u)\\x{a:02x}\\x{b:02x}\\x{c:02x}\\x{d:02x}$'}}, {TIMING}}}, \
             {{ping: , {TIMING}}}, {{udp: {{send_hex: {QUESTION}}}, {TIMING}}}",
            dns::NAME
        );
        let more = format!("checks: [{checks}]");
        let service = Service { protocol: "udp", more, ..Service::tcp(SERVICE, VIP4, 53, [own]) };
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        let key = format!("{own}:53");
        ways(&agent, &key, UP)?;
        // Neither lasts on a machine that stands still for some seconds: it is waited for.
        backend_until(&agent, SERVICE, &key, "nothing to be late", |view| {
            took(view).all(|took| took < LATE)
        })?;

        detour.set(Fault::Late(LATE));
        backend_until(&agent, SERVICE, &key, "late answers that are answers", |view| {
            let passed = view.checks.iter().all(|check| check.passed == Some(true));
            took(view).all(|took| took >= LATE) && passed && view.state == BackendState::Up
        })?;

        // Silence may be what a datagram is answered with, both ways alike.
        detour.set(Fault::Late(TOO_LATE));
        let [up, down] = [CheckState::Up, CheckState::Down];
        let view = ways(&agent, &key, &[down, down, down, down, down, down, up, up])?;
        ensure!(view.state == BackendState::Down, "{view:#?}");
        // On its own address; through the VIP it depends on which of the two failed first.
        fail_by(&agent, &key, ["no answer", "no reply", "no answer"])?;

        // What was too late for the attempts before is no answer to the next ones.
        detour.set(Fault::None);
        ways(&agent, &key, UP)?;

        detour.set(Fault::Lies);
        ways(&agent, &key, &[down, down, down, down, down, down, up, up])?;
        fail_by(&agent, &key, ["none matches", "does not match", "no answer"])?;

        detour.set(Fault::None);
        ways(&agent, &key, UP).map(drop)
    });
}

/// How long the last attempt of each check took; of none nothing is known.
fn took(view: &BackendView) -> impl Iterator<Item = Duration> {
    view.checks.iter().map(|check| Duration::from_micros(check.took_us.unwrap_or_default()))
}

/// Waits until the first checks have failed so on the backend's own address.
fn fail_by(agent: &Agent, key: &str, wanted: [&str; 3]) -> Result<()> {
    backend_until(agent, SERVICE, key, &format!("the failures to be {wanted:?}"), |view| {
        let mut whys = view.checks.iter().step_by(2).zip(wanted);
        whys.all(|(check, wanted)| check.result.as_ref().is_some_and(|why| why.contains(wanted)))
    })
}
