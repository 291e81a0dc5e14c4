//! One service behind two addresses and a range of ports, as keepalived's `virtual_server_group`: control and data
//! connections of a client, as passive FTP has them, go to one backend.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, ConnList, ServiceView, Status};
use lb_tests::{
    hello::{Hello, Session, spread},
    lab::Lab,
    topo::{Topology, VIP4},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, config, said};

/// The second address.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 101));
/// What a server may choose a data port from; these it does.
const RANGE: &str = "50000-50099";
const DATA: [u16; 3] = [50000, 50042, 50099];

struct Group<'lab> {
    hello: HelloLab<'lab>,
    _data: Vec<Hello>,
}

/// Servers on the port of the control connection and on the data ports.
fn start(lab: &Lab) -> Result<Group<'_>> {
    let hello = HelloLab::start(lab, 2)?;
    lab.start_realservers(&[SECOND])?;
    let all = DATA.into_iter().flat_map(|port| lab.net.backends.iter().map(move |b| Hello::start(b, port)));
    let data = all.collect::<Result<Vec<_>>>()?;
    let (second, range) = (format!("tcp/{SECOND}:{PORT}"), format!("tcp/{VIP4}:{RANGE}"));
    let edit = ["service", "edit", SERVICE, "--add-endpoint", &second, "--add-endpoint", &range, "-p", "300"];
    hello.agent.lb(&edit)?.ok()?;
    Ok(Group { hello, _data: data })
}

#[test]
fn a_client_comes_to_one_backend_by_every_address_and_port() {
    Lab::test(Topology { clients: 2, ..Topology::one_segment(2) }, |lab| {
        let Group { hello, .. } = &start(lab)?;
        let [first, second] = [0, 1].map(|n| &lab.net.clients[n].netns);
        let mut control = Session::open(first, HELLO)?;
        let visits = || {
            DATA.map(|port| SocketAddr::new(VIP4, port)).into_iter().chain([SocketAddr::new(SECOND, PORT)])
        };
        for to in visits() {
            let mine = spread(first, to, 3)?;
            ensure!(mine.keys().eq([&control.server]), "{to}: {mine:?} instead of {}", control.server);
            let others = spread(second, to, 3)?;
            ensure!(others.len() == 1 && !others.contains_key(&control.server), "{to}: {others:?}");
        }
        let mut data = Session::open(first, SocketAddr::new(VIP4, DATA[1]))?;
        data.echo(&[7; 20_000])?;

        // One template for each client, one pool, one set of counters; connections are listed where they came to.
        let list: ConnList = hello.agent.json(&["conn", "list", "--service", SERVICE])?;
        let (templates, connections): (Vec<_>, Vec<_>) =
            list.conns.into_iter().partition(|conn| conn.template);
        ensure!(templates.len() == 2, "{templates:#?}");
        ensure!(templates.iter().all(|it| it.virtual_address == SocketAddr::new(VIP4, 0)), "{templates:#?}");
        for to in visits() {
            ensure!(
                connections.iter().any(|conn| conn.virtual_address == to),
                "{to} is not in {connections:#?}"
            );
        }
        let view: ServiceView = hello.agent.json(&["service", "show", SERVICE])?;
        let group: Vec<String> = view.group.iter().map(ToString::to_string).collect();
        ensure!(group == [format!("tcp/{VIP4}:{RANGE}"), format!("tcp/{SECOND}:{PORT}")], "{group:?}");
        ensure!(view.counters.connections == 2 + 2 * 3 * 4, "{view:#?}");
        let table = hello.agent.lb(&["service", "list"])?.ok()?;
        ensure!(table.contains(&format!("{HELLO} +2")), "{table}");

        // The next agent finds it all, and the service by any of its endpoints.
        hello.agent.terminate()?;
        hello.agent.start()?;
        control.echo(b"through the restart")?;
        data.echo(b"through the restart")?;
        let by_range: ServiceView = hello.agent.json(&["service", "show", &format!("{VIP4}:{RANGE}")])?;
        ensure!(by_range.group == view.group, "{by_range:#?}");
        ensure!(spread(first, SocketAddr::new(VIP4, DATA[2]), 3)?.keys().eq([&control.server]));

        // An endpoint that goes cuts nothing, and takes nothing new: the director's stack refuses.
        hello
            .agent
            .lb(&["service", "edit", SERVICE, "--del-endpoint", &format!("tcp/{VIP4}:{RANGE}")])?
            .ok()?;
        data.echo(&[8; 20_000])?;
        ensure!(Session::open(first, SocketAddr::new(VIP4, DATA[1])).is_err());
        let status: Status = hello.agent.json(&["status"])?;
        let told = status.overlay.join("\n");
        ensure!(
            told.contains(&format!("endpoint tcp/{SECOND}:{PORT} added")) && !told.contains(RANGE),
            "{told}"
        );
        Ok(())
    });
}

/// One set of checks for all of it, at the first address and port.
#[test]
fn a_backend_that_fails_its_check_leaves_every_address_and_port() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        let endpoints =
            format!("endpoints: [{{address: {SECOND}, port: {PORT}}}, {{address: {VIP4}, port: {RANGE}}}]");
        config.services[0].more =
            format!("{endpoints}, checks: [{{tcp: , interval: 200ms, timeout: 3s, rise: 1}}]");
        let mut hello = HelloLab::start_with(lab, &config)?;
        lab.start_realservers(&[SECOND])?;
        let _data =
            lab.net.backends.iter().map(|it| Hello::start(it, DATA[0])).collect::<Result<Vec<_>>>()?;
        let is = |hello: &HelloLab, n, state| backend_is(&hello.agent, SERVICE, &hello.key(n), state);
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        let visits = [HELLO, SocketAddr::new(SECOND, PORT), SocketAddr::new(VIP4, DATA[0])];
        for to in visits {
            ensure!(spread(hello.client(), to, 2)?.len() == 2, "{to}");
        }
        // The server of the first port alone is gone.
        drop(hello.servers.remove(0));
        is(&hello, 1, BackendState::Down)?;
        for to in visits {
            let answered = spread(hello.client(), to, 4)?;
            ensure!(answered == [("slave2".to_owned(), 4)].into(), "{to}: {answered:?}");
        }
        hello.servers.clear();
        is(&hello, 2, BackendState::Down)?;
        for to in visits {
            ensure!(Session::open(hello.client(), to).is_err(), "{to}");
        }
        Ok(())
    });
}

#[test]
fn an_endpoint_has_one_service() {
    Lab::test(Topology::one_segment(2), |lab| {
        let Group { hello, .. } = &start(lab)?;
        let overlapping = format!("{VIP4}:50099-50100");
        let error = hello.agent.lb_fails(6, &["service", "add", "other", "-t", &overlapping])?;
        said(
            &error,
            &["50099-50100", "overlaps", RANGE, &format!("of service {SERVICE}"), "no port in common"],
        )?;
        let taken = format!("tcp/{SECOND}:{PORT}");
        let error =
            hello.agent.lb_fails(6, &["service", "add", "other", "-t", "172.18.14.102:1", "-e", &taken])?;
        said(&error, &[&taken, "already served by service hello"])?;
        let first = format!("tcp/{HELLO}");
        let error = hello.agent.lb_fails(6, &["service", "edit", SERVICE, "--del-endpoint", &first])?;
        said(&error, &[&first, "the first of service hello"])?;
        // A port of its own goes before the range.
        hello.agent.lb(&["service", "add", "own", "-t", &format!("{VIP4}:{}", DATA[1])])?.ok()?;
        hello.agent.lb(&["backend", "add", "own", &hello.address(2)])?.ok()?;
        let to = SocketAddr::new(VIP4, DATA[1]);
        ensure!(spread(hello.client(), to, 4)?.keys().eq(["slave2"]));
        Ok(())
    });
}
