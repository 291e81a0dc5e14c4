//! `lb explain`: it names the backend that the next connection then gets, with an agent and without.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use lb_tests::{agent::Agent, hello::Session, lab::Lab, topo::Topology};
use serde::Deserialize;

use crate::setup::{HELLO, HelloLab, SERVICE, said};

// As `lb --help` documents them.
const USAGE: i32 = 2;
const NOT_RUNNING: i32 = 3;

/// As far as the test looks at it.
#[derive(Debug, Deserialize)]
struct Told {
    interface: String,
    service: Option<String>,
    backend: Option<SocketAddr>,
    state: Option<String>,
    opens: bool,
    verdict: String,
    frame: Option<String>,
}

/// What it says of a segment of `client`.
fn explain(agent: &Agent, client: SocketAddr, more: &[&str]) -> Result<Told> {
    let (client, vip) = (client.to_string(), HELLO.to_string());
    let bpffs = agent.bpffs().to_string_lossy().into_owned();
    let mut args = vec!["--instance", "lab", "explain", "tcp", &client, &vip, "--bpffs", &bpffs];
    args.extend(more);
    agent.json(&args)
}

#[test]
fn what_is_said_is_what_happens_then() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let stranger: SocketAddr = "10.1.2.3:40000".parse()?;
        for attempt in 0..3 {
            let told = explain(agent, stranger, &[])?;
            ensure!(explain(agent, stranger, &[])?.backend == told.backend, "asking moved the cursor");
            ensure!(told.opens && told.state.is_none() && told.verdict == "forwarded-tx", "{told:?}");
            ensure!(told.interface == "eth0" && told.service.as_deref() == Some(SERVICE), "{told:?}");
            ensure!(told.frame.is_some(), "{told:?}");
            let session = Session::open(hello.client(), HELLO)?;
            let number: usize = session.server.trim_start_matches("slave").parse()?;
            let backend = told.backend.context("no backend")?;
            ensure!(backend.to_string() == hello.key(number), "{attempt}: {told:?}, and it was {number}");
            // Now it is known, and rr goes on.
            let known = explain(agent, session.client()?, &["--flags", "ACK"])?;
            ensure!(known.backend == Some(backend) && !known.opens, "{known:?}");
            ensure!(known.state.as_deref() == Some("ESTABLISHED"), "{known:?}");
        }
        ensure!(explain(agent, stranger, &["--flags", "ACK"])?.verdict == "answered-no-flow");
        ensure!(explain(agent, stranger, &["--ttl", "1"])?.verdict == "answered-ttl");
        let pins = agent.bpffs().to_string_lossy().into_owned();
        let ask = |instance, interface| {
            ["--instance", instance, "explain", "udp", "10.1.2.3:1", "172.18.14.100:53", "--bpffs", &pins]
                .into_iter()
                .chain(["--interface", interface])
                .collect::<Vec<_>>()
        };
        said(&agent.lb_fails(USAGE, &ask("lab", "eth7"))?, &["eth7", "eth0"])?;
        said(&agent.lb_fails(NOT_RUNNING, &ask("other", "eth0"))?, &["other", "not there"])?;
        // What it cannot be asked about is said with its reason.
        let icmp = agent.lb_fails(USAGE, &["explain", "icmp", "10.1.2.3", "172.18.14.100", "--type", "3"])?;
        said(&icmp, &["backend of the connection that it quotes", "lb trace icmp"])?;
        let fragment = agent.lb_fails(USAGE, &["explain", "fragment"])?;
        said(&fragment, &["Later ones follow it", "lb explain udp"])?;
        // The maps say it, not the agent.
        agent.kill9()?;
        let told = explain(agent, stranger, &[])?;
        ensure!(told.backend.is_some() && told.verdict == "forwarded-tx", "{told:?}");
        Ok(())
    });
}
