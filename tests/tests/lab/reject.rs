//! What a client sees that cannot be served.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::{
    config::{Config, Service},
    hello::{ANSWER_LIMIT, Session},
    lab::Lab,
    topo::{Topology, VIP4, VIP6},
    udp,
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, config, service, until_verdict};

/// What a client's attempt to connect ends with.
fn refusal(hello: &HelloLab<'_>, to: SocketAddr) -> Result<ErrorKind> {
    match hello.client().enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))? {
        Ok(_) => bail!("connected to {to}"),
        Err(error) => Ok(error.kind()),
    }
}

#[test]
fn without_a_backend_clients_are_refused_at_once() {
    Lab::test(Topology::one_segment(1), |lab| {
        for vip in [VIP4, VIP6] {
            let udp = Service { name: "udp".to_owned(), protocol: "udp", ..service(vip, []) };
            let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", vec![service(vip, []), udp]))?;
            let agent = &hello.agent;
            let to = SocketAddr::new(vip, PORT);
            // ICMP port unreachable, then a reset.
            for (how, answered) in [("icmp", 1), ("reset", 2)] {
                agent.lb(&["service", "edit", SERVICE, "--reject", how])?.ok()?;
                let kind = refusal(&hello, to)?;
                // ICMPv6 port unreachable is no hard error of a connection that is being made (`icmp6_err_convert`
                // does say ECONNREFUSED); both families see it alike.
                ensure!(kind == ErrorKind::ConnectionRefused, "{how}: {kind}");
                until_verdict(agent, "answered-no-backend", answered)?;
            }
            let socket: UdpSocket = hello.client().enter(|| udp::client(to))??;
            socket.send(udp::QUESTION)?;
            let error = socket.recv(&mut [0; 8]).err().context("an answer")?;
            ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
            agent.detach()?;
        }
        Ok(())
    });
}

/// As in IPVS, where the director's stack answers.
#[test]
fn a_connection_that_nobody_knows_is_reset() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let mut session = Session::open(hello.client(), HELLO)?;
        session.echo(b"known")?;
        hello.agent.lb(&["conn", "flush", "--all"])?.ok()?;
        let ended = session.echo(b"not known any more").err().context("it goes on")?;
        let kind = ended.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(|e| e.kind());
        ensure!(kind == Some(ErrorKind::ConnectionReset), "{ended:#}");
        until_verdict(&hello.agent, "answered-no-flow", 1)?;
        Session::open(hello.client(), HELLO)?.echo(b"anew")
    });
}

/// A server of last resort on the director itself.
#[test]
fn the_directors_own_stack_takes_what_is_passed_to_it() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start_with(lab, &config(lab, 0))?;
        hello.agent.lb(&["service", "edit", SERVICE, "--reject", "pass"])?.ok()?;
        let any = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), PORT);
        let sorry = lab.net.director.netns.enter(|| TcpListener::bind(any))??;
        let client = hello.client().enter(|| TcpStream::connect_timeout(&HELLO, ANSWER_LIMIT))??;
        let (_, from) = sorry.accept()?;
        ensure!(client.local_addr()? == from);
        until_verdict(&hello.agent, "passed-no-backend", 1)?;
        until_verdict(&hello.agent, "passed-no-flow", 1)
    });
}
