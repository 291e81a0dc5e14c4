//! Floods of SYNs, ACKs and datagrams beside real connections.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{BackendState, ConnList},
    events::Kind,
};
use lb_common::tcp::flag::{ACK, SYN};
use lb_tests::{
    config::{Config, Service},
    hello::{Session, spread},
    lab::Lab,
    netns::Netns,
    packet::Packet,
    topo::{Topology, VIP4},
    udp::{self, UdpHello},
    wait::{PATIENCE, Seen, eventually, until_ok},
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, config, events, happened, verdict};

const SYNS: u32 = 20_000;
const ACKS: u32 = 40_000;
const DATAGRAMS: u32 = 40_000;
const PARTS: u32 = 10;
/// More than a guard of 100 a second has room for.
const PART: usize = 1000;

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
        let begun = flood_until(hello.client(), "the flood in the status and the events", || {
            let (status, events) = (agent.lb(&["status"])?.ok()?, events(agent)?);
            let told = [SERVICE, "guard (100)", "flood"].iter().all(|word| status.contains(word));
            let begun = events.into_iter().find(|event| told && event.what.kind == Kind::FloodBegin);
            Ok(begun.map_or(Seen::NotYet(status), Seen::Yes))
        })?;
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
        flood_until(hello.client(), "the flood in the events", || {
            let events = events(&hello.agent)?;
            let has_begun = events.iter().any(|event| event.what.kind == Kind::FloodBegin);
            Ok(if has_begun { Seen::Yes(()) } else { Seen::NotYet(format!("{events:?}")) })
        })?;
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

/// ACKs of no connection are turned away; after a flood of SYNs, when the hash places some of them, they get few
/// entries, and cost nobody one.
#[test]
fn connections_go_on_and_new_ones_work_beside_an_ack_flood() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["service", "edit", SERVICE, "--guard", "100"])?.ok()?;
        quiet_backends(lab)?;
        let mut sessions =
            (0..20).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        let stored = || -> Result<u64> { Ok(agent.json::<ConnList>(&["conn", "list"])?.total) };
        let ack = Packet::tcp(HELLO, HELLO, ACK);
        for (phase, first) in [("alone", 0), ("after SYNs", 1 << 20)] {
            for part in 0..PARTS {
                flood_of(hello.client(), &ack, first + part * ACKS / PARTS, ACKS / PARTS)?;
                sessions.iter_mut().try_for_each(|session| session.echo(b"established before"))?;
                let mut new = Session::open(hello.client(), HELLO)?;
                new.echo(&[7; 10_000])?;
                sessions.push(new);
            }
            let (stored, stats) = (stored()?, agent.stats()?);
            let real = sessions.len();
            let turned_away = verdict(&stats, "answered-no-flow")? + verdict(&stats, "dropped-no-flow")?;
            println!(
                "{ACKS} ACKs {phase}: {turned_away} turned away so far, {stored} connections stored, {real} real ones go on"
            );
            if first == 0 {
                ensure!(turned_away > u64::from(ACKS / 2), "{stats:#?}");
                ensure!(stored <= real as u64, "{stored} stored of {real}");
                flood(hello.client(), 2 << 20, ACKS)?;
            } else {
                ensure!(verdict(&stats, "event-guarded")? > u64::from(ACKS / 2), "{stats:#?}");
                ensure!(stored < u64::from(ACKS / 2), "{stored} stored");
            }
            ensure!(verdict(&stats, "event-evicted")? == 0, "{stats:#?}");
        }
        let answered = spread(hello.client(), HELLO, 40)?;
        ensure!(answered.len() == 2, "{answered:?}");
        Ok(())
    });
}

/// Every question is answered, by the server that answered the first one.
#[test]
fn clients_keep_their_server_and_lose_nothing_beside_a_flood_of_datagrams() {
    Lab::test(Topology::one_segment(2), |lab| {
        let backends = lab.net.backends.iter().map(|backend| backend.ipv4());
        let service = Service { protocol: "udp", ..Service::tcp("udp", VIP4, PORT, backends) };
        lab.start_realservers(&[VIP4])?;
        let _servers = UdpHello::on_each(&lab.net.backends, HELLO)?;
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        agent.lb(&["service", "edit", "udp", "--guard", "100"])?.ok()?;
        quiet_backends(lab)?;
        let client = &lab.net.client().netns;
        let new = || -> Result<(UdpSocket, String)> {
            let socket = client.enter(|| udp::client(HELLO))??;
            let server = udp::ask_by(&socket)?;
            Ok((socket, server))
        };
        let mut clients = (0..20).map(|_| new()).collect::<Result<Vec<_>>>()?;
        let datagram = Packet::udp(HELLO, HELLO);
        for part in 0..PARTS {
            flood_of(client, &datagram, part * DATAGRAMS / PARTS, DATAGRAMS / PARTS)?;
            until_passed(client)?;
            clients.push(new()?);
            for (n, (socket, server)) in clients.iter().enumerate() {
                let answered = udp::ask_by(socket).with_context(|| format!("client {n} in part {part}"))?;
                ensure!(answered == *server, "client {n}: {answered} instead of {server} in part {part}");
            }
        }
        let (list, stats): (ConnList, _) = (agent.json(&["conn", "list"])?, agent.stats()?);
        let guarded = verdict(&stats, "event-guarded")?;
        println!(
            "{DATAGRAMS} datagrams: {guarded} of them placed by hash, {} connections stored, {} real clients go on",
            list.total,
            clients.len()
        );
        ensure!(guarded > u64::from(DATAGRAMS / 2), "{stats:#?}");
        ensure!(list.total < u64::from(DATAGRAMS / 2), "{} connections are stored", list.total);
        ensure!(verdict(&stats, "event-evicted")? == 0, "{stats:#?}");
        let servers: BTreeSet<_> = clients.iter().map(|(_, server)| server).collect();
        ensure!(servers.len() == 2, "{servers:?}");
        Ok(())
    });
}

/// What comes from nobody they know a way to, the backends' kernels drop: how their sockets bear a flood is another
/// matter.
fn quiet_backends(lab: &Lab) -> Result<()> {
    lab.net.backends.iter().try_for_each(|backend| backend.netns.sysctl("ipv4/conf/eth0/rp_filter", "1"))
}

/// Waits until the flood has passed. As long as a ring on the way is full of it (`VETH_RING_SIZE` in drivers/net/veth.c),
/// as when the CPU that empties it does something else, the kernel drops what comes, and nobody sends a datagram again.
fn until_passed(netns: &Netns) -> Result<()> {
    let last = netns.enter(|| udp::client(HELLO))??;
    last.set_read_timeout(Some(Duration::from_millis(200)))?;
    until_ok(PATIENCE, "the flood to have passed", || udp::ask_by(&last)).map(drop)
}

/// Goes on with SYNs until they are seen. The agent looks once a second, and some seconds after a flood there is nothing
/// to be seen of it: so much a machine may stand still.
fn flood_until<T>(netns: &Netns, what: &str, mut seen: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    let mut parts = (SYNS..).step_by(PART);
    eventually(PATIENCE, what, || {
        flood(netns, parts.next().unwrap_or_default(), PART as u32)?;
        seen()
    })
}

/// SYNs of clients that do not exist.
pub fn flood(netns: &Netns, first: u32, count: u32) -> Result<()> {
    flood_of(netns, &Packet::tcp(HELLO, HELLO, SYN), first, count)
}

/// SYNs of one client that does not exist, from these ports.
pub fn flood_of_one(netns: &Netns, ports: Range<u16>) -> Result<()> {
    let client = |port| SocketAddr::new([10, 0, 0, 1].into(), port);
    flood_from(netns, &Packet::tcp(HELLO, HELLO, SYN), ports.map(client))
}

/// Such packets, each of another client that does not exist.
fn flood_of(netns: &Netns, packet: &Packet, first: u32, count: u32) -> Result<()> {
    let client = |n: u32| SocketAddr::new((0x0a00_0000 + n).to_be_bytes().into(), 40_000);
    flood_from(netns, packet, (first..first + count).map(client))
}

/// Through a raw socket.
fn flood_from(netns: &Netns, packet: &Packet, clients: impl Iterator<Item = SocketAddr>) -> Result<()> {
    let raw = netns
        .enter(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw))??;
    let to = SockaddrStorage::from(SocketAddr::new(HELLO.ip(), 0));
    for client in clients {
        let frame = packet.with(|p| (p.source, p.payload) = (client, Vec::new())).bytes();
        // A full queue of the client's is its business: not all of them have to arrive.
        let _ = sendto(raw.as_raw_fd(), &frame[14..], &to, MsgFlags::empty());
    }
    Ok(())
}
