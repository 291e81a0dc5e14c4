//! What the director can tell of a backend's health without a word from it.

use std::{net::TcpStream, thread, time::Duration};

use anyhow::{Result, ensure};
use lb::{
    api::types::{BackendState, CheckState, Health},
    events::Kind,
};
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::setup::{HELLO, HelloLab, SERVICE, backend_is, config, happened};

/// Of slave1 and slave2.
fn health(hello: &HelloLab<'_>) -> Result<[Health; 2]> {
    let stats = hello.agent.stats()?;
    let backends = &stats.services[0].backends;
    ensure!(backends.len() == 2, "{backends:#?}");
    Ok([backends[0].health, backends[1].health])
}

#[test]
fn a_broken_backend_differs_from_clients_that_hang_up() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        hello.agent.lb(&["service", "edit", SERVICE, "--timeout", "tcp_syn=5"])?.ok()?;
        // slave1 hears its clients and cannot answer.
        let client = hello.net.client().ipv4();
        hello.net.backends[0].netns.ip(&format!("route add blackhole {client}/32"))?;
        let mut served = Vec::new();
        for turn in 0..4 {
            // The first retransmission comes after a second (RFC 6298).
            let connect = || TcpStream::connect_timeout(&HELLO, Duration::from_secs(4));
            match hello.client().enter(connect)? {
                Ok(stream) => {
                    setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
                    served.push(Session::greet(stream)?);
                }
                Err(error) => ensure!(turn % 2 == 0, "turn {turn}: {error}"),
            }
        }
        ensure!(served.len() == 2 && served.iter().all(|session| session.server == "slave2"));
        let [broken, healthy] = eventually(PATIENCE, "two handshakes to run out", || {
            let health = health(&hello)?;
            let ran_out = health[0].incomplete_handshakes >= 2;
            Ok(if ran_out { Seen::Yes(health) } else { Seen::NotYet(format!("{health:?}")) })
        })?;
        ensure!(broken.incomplete_handshakes == 2 && broken.client_resets == 0, "{broken:?}");
        ensure!(broken.syn_retransmissions >= 2, "{broken:?}");
        ensure!(healthy == Health::default(), "{healthy:?}");

        drop(served);
        eventually(PATIENCE, "two resets", || {
            let [_, healthy] = health(&hello)?;
            let expected = Health { client_resets: 2, ..Health::default() };
            Ok(if healthy == expected { Seen::Yes(()) } else { Seen::NotYet(format!("{healthy:?}")) })
        })?;
        let table = hello.agent.lb(&["stats"])?.ok()?;
        ensure!(table.contains("Incomplete  SYN again  Client RST"), "{table}");
        // They outlive the agent.
        hello.agent.kill9()?;
        hello.agent.start()?;
        let [again, _] = health(&hello)?;
        ensure!(again == broken, "{again:?}");
        Ok(())
    });
}

/// Its checks see nothing, as they come from the director: clients are who cannot be answered.
#[test]
fn a_backend_that_its_checks_praise_and_no_client_reaches_is_taken_out() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        let checks = "checks: [{tcp: , interval: 200ms, timeout: 5s}]";
        config.services[0].more = format!("{checks}, passive: out, passive_hold: 10m");
        let hello = HelloLab::start_with(lab, &config)?;
        let is = |n, state| backend_is(&hello.agent, SERVICE, &hello.key(n), state);
        is(1, BackendState::Up)?;
        is(2, BackendState::Up)?;
        let client = hello.net.client().ipv4();
        hello.net.backends[0].netns.ip(&format!("route add blackhole {client}/32"))?;
        // Half of them go to slave1. The first retransmission comes after a second (RFC 6298).
        let connected = hello.client().enter(|| {
            let connect = || TcpStream::connect_timeout(&HELLO, Duration::from_secs(4)).is_ok();
            thread::scope(|scope| {
                let all: Vec<_> = (0..40).map(|_| scope.spawn(connect)).collect();
                all.into_iter().filter_map(|it| it.join().ok()).filter(|is_ok| *is_ok).count()
            })
        })?;
        ensure!(connected >= 20, "{connected} of 40");
        is(1, BackendState::Down)?;
        let suspect = hello.agent.backend(SERVICE, &hello.key(1))?;
        ensure!(suspect.checks.len() == 2, "{suspect:?}");
        ensure!(suspect.checks.iter().all(|check| check.state == CheckState::Up), "{suspect:?}");
        ensure!(suspect.detail.as_ref().is_some_and(|it| it.contains("SYNs came again")), "{suspect:?}");
        let told = happened(&hello.agent, Kind::Suspect)?;
        ensure!(told.what.backend == Some(suspect.key), "{told:?}");
        let answered = spread(hello.client(), HELLO, 10)?;
        ensure!(answered == [("slave2".to_owned(), 10)].into(), "{answered:?}");

        // Whoever does not believe it says so.
        hello.net.backends[0].netns.ip(&format!("route del blackhole {client}/32"))?;
        config.services[0].more = checks.to_owned();
        hello.agent.write_config(&config.to_yaml(&hello.agent.socket()))?;
        hello.agent.lb(&["reload"])?.ok()?;
        is(1, BackendState::Up)?;
        let answered = spread(hello.client(), HELLO, 10)?;
        ensure!(answered.values().eq(&[5, 5]), "{answered:?}");
        Ok(())
    });
}
