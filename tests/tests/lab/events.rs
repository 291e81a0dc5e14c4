//! `lb events`: what happens is told, once, over restarts of the agent too.

use std::fs;

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{BackendState, Status},
    events::{Event, Kind},
};
use lb_tests::{
    agent::Agent,
    hello::Hello,
    lab::Lab,
    proc::Proc,
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HelloLab, PORT, SERVICE, backend_is, service};

/// `lb events --follow --output json`, as long as it lives.
pub struct Follower(Proc);

impl Follower {
    pub fn start(lab: &Lab, agent: &Agent) -> Result<Self> {
        let command = agent.lb_command(&["events", "--follow", "--output", "json"])?;
        let log = lab.scope.dir().join("events-followed");
        Ok(Self(Proc::spawn("lb events", command, &log, lab.scope.lifetime())?))
    }

    /// All that it has printed, notes apart.
    pub fn events(&self) -> Result<Vec<Event>> {
        let log = self.0.log();
        // The last line may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines().filter(|line| !line.starts_with("lb: "));
        lines.map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    }

    /// Waits for the first event of this kind and backend behind the number `after`.
    pub fn sees(&self, after: u64, kind: Kind, backend: Option<&str>) -> Result<Event> {
        let backend = backend.map(|key| key.parse().map_err(anyhow::Error::msg)).transpose()?;
        eventually(PATIENCE, &format!("the event {kind}"), || {
            let events = self.events()?;
            let found =
                events.iter().find(|it| it.seq > after && it.what.kind == kind && it.what.backend == backend);
            Ok(match found {
                Some(event) => Seen::Yes(event.clone()),
                None => Seen::NotYet(format!("{:#?}", events.last())),
            })
        })
    }
}

#[test]
fn a_follower_sees_a_backend_go_and_come_over_restarts_of_the_agent() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut hello_service = service(VIP4, lab.net.backends.iter().map(|b| b.ipv4()));
        hello_service.more =
            "checks: [{tcp: , interval: 300ms, timeout: 5s, fall: 3, rise: 2}], quorum: 2".to_owned();
        let config = lb_tests::config::Config::on_eth0("lab", vec![hello_service]);
        let mut hello = HelloLab::start_with(lab, &config)?;
        backend_is(&hello.agent, SERVICE, &hello.key(1), BackendState::Up)?;
        backend_is(&hello.agent, SERVICE, &hello.key(2), BackendState::Up)?;
        let follower = Follower::start(lab, &hello.agent)?;
        let up = follower.sees(0, Kind::BackendUp, Some(&hello.key(1)))?;

        drop(hello.servers.remove(0));
        let down = follower.sees(up.seq, Kind::BackendDown, Some(&hello.key(1)))?;
        ensure!(down.what.service == Some(SERVICE.parse()?), "{down:?}");
        // On its own address or through the VIP, whichever is tried first.
        let reason = &down.what.reason;
        ensure!(reason.starts_with("tcp") && reason.contains(": connection refused"), "{down:?}");
        let took = down.what.took_us.context("a check decided")?;
        ensure!(took > 0 && down.time > up.time, "{down:?}");
        let quorum = follower.sees(up.seq, Kind::QuorumDown, None)?;
        ensure!(quorum.what.service == down.what.service, "{quorum:?}");
        // The other of its two checks fails at nearly the same time; nothing else happens.
        let other = follower.sees(down.seq, Kind::CheckFails, Some(&hello.key(1)))?;
        ensure!(quorum.seq.max(other.seq) == down.seq + 2, "{quorum:?} {other:?}");
        let last = quorum.seq.max(other.seq);

        hello.agent.kill9()?;
        hello.agent.start()?;
        let start = follower.sees(last, Kind::AgentStart, None)?;
        let swapped = follower.sees(last, Kind::Program, None)?;
        ensure!(swapped.what.reason == "eth0", "{swapped:?}");
        ensure!(start.what.reason.contains("with the tables of an earlier agent"), "{start:?}");
        hello.servers.push(Hello::start(&lab.net.backends[0], PORT)?);
        let up = follower.sees(start.seq, Kind::BackendUp, Some(&hello.key(1)))?;
        follower.sees(up.seq, Kind::QuorumUp, None)?;
        hello.agent.lb(&["backend", "drain", SERVICE, &hello.address(2)])?.ok()?;
        let change = follower.sees(up.seq, Kind::Change, None)?;
        ensure!(change.what.reason.contains(&hello.key(2)), "{change:?}");
        follower.sees(change.seq, Kind::Drained, Some(&hello.key(2)))?;
        fs::write(hello.agent.config_path(), "interfaces: [eth0]\nservices: [{prot: 3}]\n")?;
        hello.agent.lb_fails(6, &["reload"])?;
        let refused = follower.sees(change.seq, Kind::ReloadRefused, None)?;
        ensure!(refused.what.reason.contains("unknown key `prot`"), "{refused:?}");
        hello.agent.write_config(&config.to_yaml(&hello.agent.socket()))?;
        hello.agent.terminate()?;
        // An agent that stops answers who waits. Who was about to ask again, having printed what came
        // just before, hears the last words from the next agent: out of the log, and not twice.
        hello.agent.start()?;
        let stop = follower.sees(refused.seq, Kind::AgentStop, None)?;
        follower.sees(stop.seq, Kind::AgentStart, None)?;

        // Every event once, none twice and none missed; the log of the agents has them, too.
        let seen: Vec<u64> = follower.events()?.iter().map(|event| event.seq).collect();
        ensure!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
        // Read behind them: an event is logged before a follower gets it, and others may come at any time.
        let log = hello.agent.log();
        for seq in seen {
            let numbered = format!("seq={seq}");
            ensure!(log.lines().filter(|line| line.ends_with(&numbered)).count() == 1, "{numbered}: {log}");
        }
        Ok(())
    });
}

#[test]
fn a_damaged_event_log_is_said_and_goes_on() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        hello.agent.terminate()?;
        let path = hello.agent.state().join("events.jsonl");
        let text = fs::read(&path)?;
        ensure!(!text.is_empty(), "nothing was stored");
        fs::write(&path, [b"\xff garbage\n".as_slice(), &text, b"{\"seq\":9"].concat())?;
        hello.agent.start()?;
        let status: Status = hello.agent.json(&["status"])?;
        ensure!(status.warnings.iter().any(|it| it.contains("2 damaged lines")), "{:?}", status.warnings);
        let told = hello.agent.lb(&["events", "--output", "json"])?.ok()?;
        let events: Vec<Event> = told.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let starts = events.iter().filter(|event| event.what.kind == Kind::AgentStart).count();
        ensure!(starts == 2, "{events:#?}");
        Ok(())
    });
}
