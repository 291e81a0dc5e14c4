//! What a service does with connections that are no usual ones: of a removed backend, in their middle, of one packet.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb::api::types::ConnList;
use lb_tests::{
    config::{Config, Service},
    hello::{ANSWER_LIMIT, Session},
    lab::Lab,
    topo::{Node, Topology, VIP4},
    udp::{self, UdpHello},
    wait::{PATIENCE, Seen, eventually},
};
use socket2::{Domain, Socket, Type};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, said, until_verdict, verdict};

/// The hello service over UDP alone, with both backends.
fn datagrams(lab: &Lab) -> Config {
    let backends = lab.net.backends.iter().map(Node::ipv4);
    Config::on_eth0("lab", vec![Service { protocol: "udp", ..Service::tcp(SERVICE, VIP4, PORT, backends) }])
}

fn conns(hello: &HelloLab) -> Result<u64> {
    Ok(hello.agent.json::<ConnList>(&["conn", "list"])?.total)
}

#[test]
fn a_udp_client_of_a_removed_backend_goes_to_another_at_once() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start_with(lab, &datagrams(lab))?;
        let _servers = UdpHello::on_each(&lab.net.backends, HELLO)?;
        let client = hello.client().enter(|| udp::client(HELLO))??;
        let first = udp::ask_by(&client)?;
        ensure!(udp::ask_by(&client)? == first, "one client, one backend");
        let (removed, other) = if first == "slave1" { (1, "slave2") } else { (2, "slave1") };
        hello.agent.lb(&["backend", "del", SERVICE, &hello.address(removed)])?.ok()?;
        // The first datagram already: none is lost.
        ensure!(udp::ask_by(&client)? == other && udp::ask_by(&client)? == other);
        ensure!(conns(&hello)? == 1);

        hello.agent.lb(&["backend", "add", SERVICE, &hello.address(removed)])?.ok()?;
        hello.agent.lb(&["service", "edit", SERVICE, "--expire-nodest", "drop"])?.ok()?;
        hello.agent.lb(&["backend", "del", SERVICE, &hello.address(3 - removed)])?.ok()?;
        let before = verdict(&hello.agent.stats()?, "dropped-backend-removed")?;
        client.send(udp::QUESTION)?;
        until_verdict(&hello.agent, "dropped-backend-removed", before + 1)
    });
}

#[test]
fn one_packet_scheduling_takes_turns_with_every_datagram() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start_with(lab, &datagrams(lab))?;
        let _servers = UdpHello::on_each(&lab.net.backends, HELLO)?;
        hello.agent.lb(&["service", "edit", SERVICE, "--ops"])?.ok()?;
        let client = hello.client().enter(|| udp::client(HELLO))??;
        let answers = (0..6).map(|_| udp::ask_by(&client)).collect::<Result<Vec<_>>>()?;
        ensure!(answers.windows(2).all(|pair| pair[0] != pair[1]), "{answers:?}");
        ensure!(conns(&hello)? == 0, "none is remembered");
        let counted = hello.agent.services()?[0].counters;
        ensure!((counted.connections, counted.packets) == (6, 6), "{counted:?}");
        let error = hello.agent.lb_fails(6, &["service", "edit", SERVICE, "--sloppy-tcp"])?;
        said(&error, &["sloppy_tcp", "tcp", SERVICE])
    });
}

/// A TCP connection from one port of the client.
fn connect_from(hello: &HelloLab, port: u16) -> Result<Session> {
    let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    hello.client().enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&HELLO.into(), ANSWER_LIMIT).context("connect")?;
        Session::greet(socket.into())
    })?
}

#[test]
fn a_syn_to_a_removed_backend_goes_to_another_where_it_shall() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["service", "edit", SERVICE, "--expire-nodest", "reschedule"])?.ok()?;
        let mut session = connect_from(&hello, 40_000)?;
        let removed = if session.server == "slave1" { 1 } else { 2 };
        agent.lb(&["backend", "del", SERVICE, &hello.address(removed)])?.ok()?;
        // Dropped, or answered by a reset if the sweeper was there first.
        let refused = || -> Result<u64> {
            let stats = agent.stats()?;
            Ok(verdict(&stats, "dropped-backend-removed")? + verdict(&stats, "answered-no-flow")?)
        };
        let before = refused()?;
        session.send(b"in the middle")?;
        eventually(PATIENCE, "what is in the middle to be refused", || {
            let seen = refused()?;
            Ok(if seen > before { Seen::Yes(()) } else { Seen::NotYet(format!("{seen}")) })
        })?;
        // The client's reset does not reach the director's table either: what is known there is the old one.
        let old = session.server.clone();
        session.reset()?;
        let mut again = connect_from(&hello, 40_000)?;
        ensure!(again.server != old, "{} was removed", again.server);
        again.echo(b"a new connection")
    });
}

#[test]
fn sloppy_tcp_takes_up_what_was_forgotten() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let agent = &hello.agent;
        let mut session = Session::open(hello.client(), HELLO)?;
        agent.lb(&["service", "edit", SERVICE, "--sloppy-tcp"])?.ok()?;
        agent.lb(&["conn", "flush", "--all"])?.ok()?;
        ensure!(conns(&hello)? == 0);
        session.echo(b"in the middle of a connection that nobody knows")?;
        let list: ConnList = agent.json(&["conn", "list"])?;
        ensure!(list.total == 1 && list.conns[0].state == "ESTABLISHED", "{list:#?}");

        agent.lb(&["service", "edit", SERVICE, "--sloppy-tcp=false"])?.ok()?;
        let before = verdict(&agent.stats()?, "answered-no-flow")?;
        agent.lb(&["conn", "flush", "--all"])?.ok()?;
        // Fails if the client has acknowledged the echo so late that it has its answer, a reset, already.
        let _ = session.send(b"lost");
        until_verdict(agent, "answered-no-flow", before + 1)
    });
}
