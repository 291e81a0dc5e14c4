//! What the director can tell of a backend's health without a word from it.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{BackendState, CheckState, Health},
    events::{Event, Kind},
};
use lb_tests::{
    clock::now,
    hello::{Session, spread},
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use socket2::{Domain, Socket, Type};

use crate::{
    doctor_backend::rule,
    flood::flood_of_one,
    setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, config, events, happened},
};

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

/// Forty connections at once, of which half go to slave1 and hang; the others are served. For services whose handshakes run
/// out soon (`tcp_syn`): until then the client's kernel may take one of their ports again, whose SYN goes to slave1, too.
pub fn connect_at_once(hello: &HelloLab<'_>) -> Result<()> {
    let connected = hello.client().enter(|| {
        // The first retransmission comes after a second (RFC 6298).
        let connect = || TcpStream::connect_timeout(&HELLO, Duration::from_secs(4)).is_ok();
        thread::scope(|scope| {
            let all: Vec<_> = (0..40).map(|_| scope.spawn(connect)).collect();
            all.into_iter().filter_map(|it| it.join().ok()).filter(|is_ok| *is_ok).count()
        })
    })?;
    ensure!(connected >= 20, "{connected} of 40");
    eventually(PATIENCE, "those that hang to run out", || {
        let [hung, _] = health(hello)?;
        Ok(if hung.incomplete_handshakes >= 20 { Seen::Yes(()) } else { Seen::NotYet(format!("{hung:?}")) })
    })
}

/// Its checks see nothing, as they come from the director: clients are who cannot be answered.
#[test]
fn a_backend_that_its_checks_praise_and_no_client_reaches_is_taken_out() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        let checks = "checks: [{tcp: , interval: 200ms, timeout: 5s}]";
        config.services[0].more =
            format!("{checks}, passive: out, passive_hold: 10m, timeouts: {{tcp_syn: 2s}}");
        let hello = HelloLab::start_with(lab, &config)?;
        let is = |n, state| backend_is(&hello.agent, SERVICE, &hello.key(n), state);
        is(1, BackendState::Up)?;
        is(2, BackendState::Up)?;
        let client = hello.net.client().ipv4();
        hello.net.backends[0].netns.ip(&format!("route add blackhole {client}/32"))?;
        connect_at_once(&hello)?;
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

/// Which backend clients[n] is led to by its template.
fn led_to(hello: &HelloLab<'_>, n: usize) -> Result<String> {
    let answered = spread(&hello.net.clients[n].netns, HELLO, 1)?;
    answered.into_keys().next().context("nobody answered")
}

/// So many connections of each client; they are led to one backend each.
fn both_connect(hello: &HelloLab<'_>, count: usize) -> Result<()> {
    hello.net.clients.iter().try_for_each(|client| {
        let answered = spread(&client.netns, HELLO, count)?;
        ensure!(answered.len() == 1, "{answered:?}");
        Ok(())
    })
}

/// Whom somebody aims at by a source address has more handshakes that hang than anybody else, and completes what it did.
/// When its answers are dropped it does not, and is told from the flood by that.
#[test]
fn a_flood_that_is_aimed_at_one_backend_makes_it_suspect_only_when_it_loses_its_handshakes() {
    /// By then the agent knows what is usual: what it read half a minute ago.
    const LEARNED: Duration = Duration::from_secs(36);
    Lab::test(Topology { clients: 2, ..Topology::one_segment(2) }, |lab| {
        let mut config = config(lab, 2);
        let more =
            "guard: 1000000, passive: out, passive_hold: 10m, persistence: 300, timeouts: {tcp_syn: 2s}";
        config.services[0].more = more.to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        let led = [led_to(&hello, 0)?, led_to(&hello, 1)?];
        ensure!(led[0] != led[1], "rr takes turns: {led:?}");
        let mut floods = (0..200u16).cycle().map(|n| 1024 + n * 300..1024 + (n + 1) * 300);
        let mut round = || {
            flood_of_one(hello.client(), floods.next().context("they have no end")?)?;
            thread::sleep(Duration::from_millis(200));
            anyhow::Ok(())
        };
        let began = now();
        let [one, other] = loop {
            round()?;
            both_connect(&hello, 3)?;
            let ran_out = health(&hello)?.map(|it| it.incomplete_handshakes);
            if ran_out[0].max(ran_out[1]) >= 1000 && now() - began > LEARNED {
                break ran_out;
            }
        };
        ensure!(one.min(other) == 0, "{one} and {other} ran out: it was not aimed");
        for n in 1..=2 {
            let backend = hello.agent.backend(SERVICE, &hello.key(n))?;
            ensure!(backend.state == BackendState::Up, "{backend:?}");
        }
        let events = events(&hello.agent)?;
        let told = |event: &Event| matches!(event.what.kind, Kind::Suspect | Kind::FloodBegin);
        ensure!(!events.iter().any(told), "{events:#?}");

        let n = if one > other { 1 } else { 2 };
        let lost = &hello.net.clients[usize::from(led[0] != format!("slave{n}"))].netns;
        let served = &hello.net.clients[usize::from(led[0] == format!("slave{n}"))].netns;
        let drops = "tcp flags & (syn | ack) == (syn | ack) drop";
        rule(&hello.net.backends[n - 1].netns, "output", drops)?;
        let suspect = eventually(3 * PATIENCE, "it to be out", || {
            round()?;
            lost.enter(|| {
                let connect = || TcpStream::connect_timeout(&HELLO, Duration::from_millis(300)).is_ok();
                thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(connect))));
            })?;
            spread(served, HELLO, 3)?;
            let backend = hello.agent.backend(SERVICE, &hello.key(n))?;
            let is_out = backend.state == BackendState::Down;
            Ok(if is_out { Seen::Yes(backend) } else { Seen::NotYet(format!("{backend:?}")) })
        })?;
        let told = happened(&hello.agent, Kind::Suspect)?;
        ensure!(told.what.backend == Some(suspect.key), "{told:?}");
        let other = hello.agent.backend(SERVICE, &hello.key(3 - n))?;
        ensure!(other.state == BackendState::Up, "{other:?}");
        Ok(())
    });
}

/// It keeps a tenth of its connections, by which it can show that it is well again.
#[test]
fn a_backend_that_loses_handshakes_has_its_weight_lowered_and_gets_it_back() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.services[0].backends.iter_mut().for_each(|(_, weight)| *weight = 10);
        config.services[0].scheduler = "wrr";
        // It begins while the handshakes hang, and lasts until long after the connections that show the lowered weight.
        config.services[0].more = "passive: lower, passive_hold: 20s, timeouts: {tcp_syn: 2s}".to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        let client = hello.net.client().ipv4();
        hello.net.backends[0].netns.ip(&format!("route add blackhole {client}/32"))?;
        connect_at_once(&hello)?;
        let told = happened(&hello.agent, Kind::Suspect)?;
        let lowered = hello.agent.backend(SERVICE, &hello.key(1))?;
        ensure!(told.what.backend == Some(lowered.key), "{told:?}");
        ensure!(lowered.state == BackendState::Up && lowered.health_weight == 1, "{lowered:?}");
        ensure!(lowered.detail.as_ref().is_some_and(|it| it.contains("hang or ran out")), "{lowered:?}");
        let other = hello.agent.backend(SERVICE, &hello.key(2))?;
        ensure!(other.state == BackendState::Up && other.health_weight == 10, "{other:?}");

        hello.net.backends[0].netns.ip(&format!("route del blackhole {client}/32"))?;
        let answered = spread(hello.client(), HELLO, 22)?;
        ensure!(answered == [("slave1".to_owned(), 2), ("slave2".to_owned(), 20)].into(), "{answered:?}");
        happened(&hello.agent, Kind::Trusted)?;
        eventually(PATIENCE, "its weight to be back", || {
            let view = hello.agent.backend(SERVICE, &hello.key(1))?;
            let is = view.health_weight == 10;
            Ok(if is { Seen::Yes(()) } else { Seen::NotYet(format!("{view:?}")) })
        })
    });
}

/// A server that does not come to accept its connections drops SYNs, and takes them when they come again: what is broken
/// never does.
#[test]
fn a_busy_backend_differs_from_a_broken_one() {
    /// It has a queue for so many, and one more (`sk_acceptq_is_full` in include/net/sock.h).
    const QUEUE: i32 = 2;
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.services[0].more = "timeouts: {tcp_syn: 5s}".to_owned();
        let mut hello = HelloLab::prepare(lab, &config)?;
        drop(hello.servers.remove(0));
        let busy = hello.net.backends[0].netns.enter(|| -> Result<_> {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into())?;
            socket.listen(QUEUE)?;
            // Of accept, too (socket(7)).
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(TcpListener::from(socket))
        })??;
        hello.agent.start()?;
        let client = hello.net.client().ipv4();
        hello.net.backends[1].netns.ip(&format!("route add blackhole {client}/32"))?;
        // RFC 6298: SYNs come again after a second, three, seven, or every second (tcp_syn_linear_timeouts). An ACK that
        // the full queue has lost does not, but what is said after it.
        let served = || -> io::Result<()> {
            let mut stream = TcpStream::connect_timeout(&HELLO, Duration::from_secs(9))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])
        };
        let answered = || -> io::Result<TcpStream> {
            let mut stream = busy.accept()?.0;
            stream.read_exact(&mut [0])?;
            stream.write_all(b"!")?;
            Ok(stream)
        };
        let served = hello.client().enter(|| {
            thread::scope(|scope| {
                let all: Vec<_> = (0..20).map(|_| scope.spawn(served)).collect();
                // After the first SYNs that came again.
                thread::sleep(Duration::from_millis(1500));
                // Open until all have their answer: the queue is so short that SYNs are answered by cookies, and what a
                // client says again after the end of its connection would begin another one here, in the place of one
                // of the ten.
                let open = (0..10).map(|_| answered()).collect::<io::Result<Vec<_>>>()?;
                let served = all.into_iter().filter_map(|it| it.join().ok()?.ok()).count();
                drop(open);
                io::Result::Ok(served)
            })
        })??;
        ensure!(served == 10, "{served} of 20");
        let [busy, broken] = eventually(PATIENCE, "those that hang to run out", || {
            let health = health(&hello)?;
            let ran_out = health[1].incomplete_handshakes >= 10;
            Ok(if ran_out { Seen::Yes(health) } else { Seen::NotYet(format!("{health:?}")) })
        })?;
        ensure!(busy.incomplete_handshakes == 0 && busy.syn_retransmissions > 0, "{busy:?}");
        ensure!(broken.incomplete_handshakes == 10, "{broken:?}");
        ensure!(broken.syn_retransmissions > busy.syn_retransmissions, "{broken:?} {busy:?}");
        Ok(())
    });
}

/// Some programs hang up so: it lowers the weight, and takes nobody out.
#[test]
fn a_backend_whose_clients_alone_hang_up_by_a_reset_has_its_weight_lowered() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.services[0].backends.iter_mut().for_each(|(_, weight)| *weight = 10);
        config.services[0].more = "passive: out, passive_hold: 10m".to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        for _ in 0..40 {
            let session = Session::open(hello.client(), HELLO)?;
            if session.server == "slave1" {
                session.reset()?;
            }
        }
        let told = happened(&hello.agent, Kind::Suspect)?;
        let lowered = hello.agent.backend(SERVICE, &hello.key(1))?;
        ensure!(told.what.backend == Some(lowered.key), "{told:?}");
        ensure!(lowered.state == BackendState::Up && lowered.health_weight == 1, "{lowered:?}");
        ensure!(lowered.detail.as_ref().is_some_and(|it| it.contains("reset by clients")), "{lowered:?}");
        let other = hello.agent.backend(SERVICE, &hello.key(2))?;
        ensure!(other.state == BackendState::Up && other.health_weight == 10, "{other:?}");
        Ok(())
    });
}
