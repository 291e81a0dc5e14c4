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
    ask(agent, &[&["tcp", &client, &vip], more].concat())
}

/// Of an ICMP message about a connection of `client`.
fn explain_icmp(agent: &Agent, kind: &str, client: SocketAddr, more: &[&str]) -> Result<Told> {
    let (client, vip) = (client.to_string(), HELLO.to_string());
    ask(agent, &[&["icmp", kind, &client, &vip], more].concat())
}

fn ask(agent: &Agent, question: &[&str]) -> Result<Told> {
    let bpffs = agent.bpffs().to_string_lossy().into_owned();
    agent.json(&[&["--instance", "lab", "explain"], question, &["--bpffs", &bpffs]].concat())
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
            // A router's errors about it go to its backend.
            for kind in ["frag-needed", "time-exceeded", "port-unreachable", "host-unreachable"] {
                let error = explain_icmp(agent, kind, session.client()?, &["--sender", "10.99.0.1"])?;
                ensure!(
                    error.backend == Some(backend) && error.verdict == "forwarded-tx",
                    "{kind}: {error:?}"
                );
            }
        }
        let error = explain_icmp(agent, "time-exceeded", stranger, &[])?;
        ensure!(error.verdict == "passed-no-flow" && error.backend.is_none(), "{error:?}");
        let ping = ask(agent, &["icmp", "echo", "10.1.2.3", "172.18.14.100"])?;
        ensure!(ping.verdict == "passed-not-ip" && ping.frame.is_none(), "{ping:?}");
        ensure!(explain(agent, stranger, &["--fragment", "7,0"])?.verdict == "forwarded-tx");
        // Asking about the first one has left nothing that the later one follows.
        ensure!(explain(agent, stranger, &["--fragment", "7,1480"])?.verdict == "dropped-fragment");
        ensure!(explain(agent, stranger, &["--flags", "ACK"])?.verdict == "answered-no-flow");
        ensure!(explain(agent, stranger, &["--ttl", "1"])?.verdict == "answered-ttl");
        let pins = agent.bpffs().to_string_lossy().into_owned();
        let at = |instance, interface| {
            ["--instance", instance, "explain", "udp", "10.1.2.3:1", "172.18.14.100:53", "--bpffs", &pins]
                .into_iter()
                .chain(["--interface", interface])
                .collect::<Vec<_>>()
        };
        said(&agent.lb_fails(USAGE, &at("lab", "eth7"))?, &["eth7", "eth0"])?;
        said(&agent.lb_fails(NOT_RUNNING, &at("other", "eth0"))?, &["other", "not there"])?;
        // What cannot be asked is said with what can.
        let bad = |question: &[&str], words: &[&str]| {
            let error = agent.lb_fails(
                USAGE,
                &[&["--instance", "lab", "explain"], question, &["--bpffs", &pins]].concat(),
            )?;
            said(&error, words)
        };
        bad(&["icmp", "echo", "10.1.2.3:1", "172.18.14.100"], &["no ports"])?;
        bad(&["icmp", "frag-needed", "10.1.2.3", "172.18.14.100"], &["CLIENT:PORT"])?;
        bad(&["icmp", "redirect", "10.1.2.3:1", "172.18.14.100:2"], &["frag-needed", "echo"])?;
        bad(&["udp", "10.1.2.3:1", "172.18.14.100:2", "--fragment", "7"], &["ID,OFFSET"])?;
        bad(&["udp", "10.1.2.3:1", "172.18.14.100:2", "--fragment", "65536,0"], &["below 65536"])?;
        // The maps say it, not the agent.
        agent.kill9()?;
        let told = explain(agent, stranger, &[])?;
        ensure!(told.backend.is_some() && told.verdict == "forwarded-tx", "{told:?}");
        Ok(())
    });
}
