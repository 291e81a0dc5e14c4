//! What a failed test prints.

use std::fs;

use anyhow::ensure;
use lb_tests::{
    hello::Session,
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, SERVICE, said};

/// Where a connection's packets are seen.
const RECORDED: [&str; 3] = ["client", "slave1", "switch"];

const FORWARDING: &str = "INFO lb::agent::serve: forwarding";

/// Packets, maps and the agent's log, of an agent that has crashed too.
#[test]
fn packets_maps_and_log() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        // It is ready a moment before it says so in its log.
        eventually(PATIENCE, "the log to have it", || {
            let log = hello.agent.log();
            Ok(if log.contains(FORWARDING) { Seen::Yes(()) } else { Seen::NotYet(log) })
        })?;
        hello.agent.kill9()?;
        for node in RECORDED {
            let log = lab.scope.dir().join("packets").join(node).join("log");
            eventually(PATIENCE, &format!("packets of {node} to be recorded"), || {
                let log = fs::read_to_string(&log)?;
                Ok(if log.contains("listening on") { Seen::Yes(()) } else { Seen::NotYet(log) })
            })?;
        }
        let session = Session::open(hello.client(), HELLO)?;
        let client = session.client()?;
        let report = lab.report();
        said(&report, &["agent lab, end of its log", FORWARDING, "not running"])?;
        let flow =
            format!("client {} port {} to port 0 of endpoint 1: destination 1", client.ip(), client.port());
        let address = hello.address(1);
        let dest = format!("DESTS 1: {address} port {} of service 1, host 1, weight 1", HELLO.port());
        said(&report, &["maps in", SERVICE, "VERDICTS forwarded-tx", "1 live flows", &flow, &dest])?;
        // The switch has what XDP sent again.
        let (client, to) =
            (format!("{}.{}", client.ip(), client.port()), format!("{}.{}", HELLO.ip(), HELLO.port()));
        for node in RECORDED {
            let packets = section(&report, &format!("--- {node}: the last "));
            let syn = format!("{client} > {to}: Flags [S]");
            ensure!(packets.contains(&syn), "no {syn} in\n{packets}");
        }
        Ok(())
    });
}

/// The part of a report below a headline.
fn section<'report>(report: &'report str, headline: &str) -> &'report str {
    let found = report.split_once(headline).map(|(_, rest)| rest).unwrap_or_default();
    found.split("\n--- ").next().unwrap_or_default()
}
