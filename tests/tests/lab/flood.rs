//! A SYN flood beside real connections.

use std::{net::SocketAddr, os::fd::AsRawFd};

use anyhow::{Result, ensure};
use lb::{
    api::types::{BackendState, ConnList},
    events::Kind,
};
use lb_common::tcp::flag::SYN;
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    netns::Netns,
    packet::Packet,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::setup::{HELLO, HelloLab, SERVICE, config, happened, said, verdict};

const SYNS: u32 = 20_000;

#[test]
fn connections_go_on_and_new_ones_work_beside_a_syn_flood() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["service", "edit", SERVICE, "--guard", "100"])?.ok()?;
        let mut sessions =
            (0..20).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        for part in 0..5 {
            flood(hello.client(), part * SYNS / 5, SYNS / 5)?;
            sessions.iter_mut().try_for_each(|session| session.echo(b"established before"))?;
            // These are placed by hash, and then go on as others do.
            let mut new = Session::open(hello.client(), HELLO)?;
            new.echo(&[7; 10_000])?;
            sessions.push(new);
        }
        said(&agent.lb(&["status"])?.ok()?, &[SERVICE, "guard (100)", "flood"])?;
        let begun = happened(agent, Kind::FloodBegin)?;
        ensure!(begun.what.service == Some(SERVICE.parse()?), "{begun:?}");
        let stats = agent.stats()?;
        ensure!(verdict(&stats, "event-guarded")? > u64::from(SYNS / 2), "{stats:#?}");
        ensure!(verdict(&stats, "event-placed-by-hash")? == 0, "{stats:#?}");
        let list: ConnList = agent.json(&["conn", "list"])?;
        ensure!(list.total < u64::from(SYNS / 2), "{} connections are stored", list.total);
        sessions.iter_mut().try_for_each(|session| session.echo(b"still there"))?;
        let answered = spread(hello.client(), HELLO, 40)?;
        ensure!(answered.len() == 2, "{answered:?}");
        Ok(())
    });
}

/// Also not when its handshakes run out.
#[test]
fn a_spoofed_flood_makes_nobody_suspect() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.services[0].more = "guard: 100, passive: out, timeouts: {tcp_syn: 2s}".to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        for part in 0..5 {
            flood(hello.client(), part * SYNS / 5, SYNS / 5)?;
            spread(hello.client(), HELLO, 4)?;
        }
        happened(&hello.agent, Kind::FloodBegin)?;
        eventually(PATIENCE, "its handshakes to run out", || {
            let stats = hello.agent.stats()?;
            let ran_out = stats.services[0].backends.iter().all(|it| it.health.incomplete_handshakes >= 20);
            Ok(if ran_out { Seen::Yes(()) } else { Seen::NotYet(format!("{stats:#?}")) })
        })?;
        happened(&hello.agent, Kind::FloodEnd)?;
        for n in 1..=2 {
            let backend = hello.agent.backend(SERVICE, &hello.key(n))?;
            ensure!(backend.state == BackendState::Up, "{backend:?}");
        }
        let events = hello.agent.lb(&["events", "--last", "1000"])?.ok()?;
        ensure!(!events.contains("fare worse"), "{events}");
        Ok(())
    });
}

/// SYNs of clients that do not exist, through a raw socket.
pub fn flood(netns: &Netns, first: u32, count: u32) -> Result<()> {
    let raw = netns
        .enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw))??;
    let to = SockaddrStorage::from(SocketAddr::new(HELLO.ip(), 0));
    for n in first..first + count {
        let client = SocketAddr::new((0x0a00_0000 + n).to_be_bytes().into(), 40_000);
        let frame = Packet::tcp(client, HELLO, SYN).with(|p| p.payload.clear()).bytes();
        // A full queue of the client's is its business: not all of them have to arrive.
        let _ = sendto(raw.as_raw_fd(), &frame[14..], &to, MsgFlags::empty());
    }
    Ok(())
}
