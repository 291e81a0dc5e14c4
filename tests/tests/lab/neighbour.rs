//! A backend's network card is replaced by one with another MAC address.

use std::time::Duration;

use anyhow::{Result, ensure};
use lb::{api::types::BackendState, events::Kind};
use lb_tests::{
    clock::now,
    hello::{Session, spread},
    lab::Lab,
    load::Load,
    topo::Topology,
    wait::{Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, SERVICE, happened};

/// The kernel's neighbour table takes its time to doubt an entry (base_reachable_time, delay_first_probe_time);
/// TCP's retransmissions back off meanwhile.
const LIMIT: Duration = Duration::from_secs(90);

const NEW_MAC: &str = "02:12:0e:00:ff:01";

#[test]
fn backend_with_a_new_mac_under_load() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let mut sessions =
            (0..4).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        sessions
            .iter_mut()
            .try_for_each(|session| session.set_limit(LIMIT).and_then(|()| session.echo(b"before")))?;
        let load = Load::start(lab.net.client(), HELLO, 2, Duration::from_millis(5))?;
        // No announcement: the director has to find out by itself.
        lab.net.backends[0].netns.ip(&format!("link set dev eth0 address {NEW_MAC}"))?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"after"))?;
        eventually(LIMIT, "the new MAC in the backend's listing", || {
            let backend = hello.agent.backend(SERVICE, &hello.key(1))?;
            let mac = backend.mac.unwrap_or_default();
            Ok(if mac == NEW_MAC { Seen::Yes(()) } else { Seen::NotYet(mac) })
        })?;
        let learned = now();
        let changed = happened(&hello.agent, Kind::NeighbourChanged)?;
        ensure!(changed.what.reason.starts_with(&format!("{NEW_MAC} instead of ")), "{changed:?}");
        eventually(LIMIT, "100 connections of the load after that", || {
            let late = load.attempts().iter().filter(|a| a.started > learned).count();
            Ok(if late >= 100 { Seen::Yes(()) } else { Seen::NotYet(format!("{late} made")) })
        })?;
        let attempts = load.finish()?;
        let late: Vec<_> = attempts.iter().filter(|a| a.started > learned).collect();
        let failed: Vec<_> = late.iter().filter(|a| a.failed()).collect();
        ensure!(failed.is_empty(), "{failed:#?}");
        ensure!(late.iter().any(|a| a.server.as_deref() == Some("slave1")), "slave1 gets no new connections");
        Ok(())
    });
}

/// A backend that is not there gets no new connections, and says so; when it comes it gets them.
#[test]
fn unresolved_backend_gets_no_connections() {
    Lab::test(Topology::one_segment(2), |lab| {
        lab.net.backends[1].netns.ip("link set dev eth0 down")?;
        let hello = HelloLab::start(lab, 2)?;
        let state = || Ok::<_, anyhow::Error>(hello.agent.backend(SERVICE, &hello.key(2))?.state);
        ensure!(state()? == BackendState::Unresolved, "{:?}", state()?);
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave1".to_owned(), 20)].into(), "{answered:?}");
        lab.net.backends[1].netns.ip("link set dev eth0 up")?;
        eventually(LIMIT, "slave2 to come up", || {
            let seen = state()?;
            let up = seen == BackendState::Up;
            Ok(if up { Seen::Yes(()) } else { Seen::NotYet(format!("{seen:?}")) })
        })?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        Ok(())
    });
}

/// One that falls silent keeps what it has, gets nothing new, and comes back.
#[test]
fn silent_backend_gets_no_new_connections() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let is = |state| {
            eventually(LIMIT, &format!("slave2 to be {state:?}"), || {
                let backend = hello.agent.backend(SERVICE, &hello.key(2))?;
                Ok(if backend.state == state { Seen::Yes(()) } else { Seen::NotYet(format!("{backend:?}")) })
            })
        };
        let mut session = Session::open(hello.client(), HELLO)?;
        while session.server != "slave2" {
            session = Session::open(hello.client(), HELLO)?;
        }
        session.set_limit(LIMIT)?;
        lab.net.backends[1].netns.ip("link set dev eth0 down")?;
        is(BackendState::Unresolved)?;
        let lost = happened(&hello.agent, Kind::NeighbourLost)?;
        ensure!(lost.what.backend.is_some_and(|key| key.to_string() == hello.key(2)), "{lost:?}");
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave1".to_owned(), 20)].into(), "{answered:?}");

        // The next agent knows no better, and takes no way from an established connection.
        let known = hello.agent.backend(SERVICE, &hello.key(2))?;
        hello.agent.kill9()?;
        hello.agent.start()?;
        let taken_over = hello.agent.backend(SERVICE, &hello.key(2))?;
        ensure!(taken_over.mac.is_some() && taken_over.mac == known.mac, "{taken_over:#?}");
        ensure!(taken_over.state == BackendState::Unresolved, "{taken_over:#?}");
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave1".to_owned(), 20)].into(), "{answered:?}");

        lab.net.backends[1].netns.ip("link set dev eth0 up")?;
        session.echo(b"its connection was not cut")?;
        is(BackendState::Up)?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        Ok(())
    });
}
