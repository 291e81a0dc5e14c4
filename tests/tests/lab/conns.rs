//! `lb conn list` with its filters, and `lb conn flush`.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Result, ensure};
use lb::api::types::{CONNS_AT_ONCE, ConnList, ConnView};
use lb_tests::{
    config::Service,
    hello::{Session, spread},
    lab::Lab,
    topo::{Node, Topology, VIP4, VIP6},
    udp::{self, UdpHello},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, config, service, until_verdict, verdict};

#[test]
fn every_filter() {
    Lab::test(Topology { clients: 2, ..Topology::one_segment(2) }, |lab| {
        let (hello, six) = (three_services(lab)?, SocketAddr::new(VIP6, PORT));
        let _datagrams = UdpHello::on_each(&lab.net.backends, HELLO)?;
        let [first, second] = [0, 1].map(|n| &lab.net.clients[n].netns);
        let _sessions = [
            Session::open(first, HELLO)?,
            Session::open(first, HELLO)?,
            Session::open(second, HELLO)?,
            Session::open(first, six)?,
        ];
        ensure!(spread(second, HELLO, 1)?.len() == 1, "one that is closed again");
        udp::ask(second, HELLO)?;

        let list = |filter: &[&str]| listed(&hello, filter);
        eventually(PATIENCE, "the closed connection's FIN", || {
            let closing = list(&["--state", "fin_wait"])?.total;
            Ok(if closing == 1 { Seen::Yes(()) } else { Seen::NotYet(format!("{closing} closing")) })
        })?;
        let (client, other) = (lab.net.clients[0].ipv4().to_string(), lab.net.clients[1].ipv4().to_string());
        let key = hello.key(1);
        for (filter, total) in [
            (&[][..], 6),
            (&["--service", SERVICE], 4),
            (&["--service", "six"], 1),
            (&["--service", "udp"], 1),
            (&["--backend", &key], 3),
            (&["--service", SERVICE, "--backend", &hello.address(2)], 2),
            (&["--client", &client], 2),
            (&["--client", &other], 3),
            (&["--client", "172.18.14.0/24"], 5),
            (&["--client", "fd00:18:14::/64"], 1),
            (&["--client", "10.0.0.0/8"], 0),
            (&["--state", "ESTABLISHED"], 4),
            (&["--state", "UDP"], 1),
            (&["--service", SERVICE, "--client", &other, "--state", "established"], 1),
        ] {
            let found = list(filter)?;
            ensure!(found.total == total && found.conns.len() as u64 == total, "{filter:?}: {found:#?}");
        }
        let limited = list(&["--limit", "2"])?;
        ensure!(limited.total == 6 && limited.conns.len() == 2, "{limited:#?}");
        let ConnView { client, virtual_address, backend, expires, .. } =
            list(&["--service", "six"])?.conns.remove(0);
        ensure!(
            client.ip() == lab.net.client().ipv6() && virtual_address == six,
            "{client} to {virtual_address}"
        );
        ensure!(
            backend.address == lab.net.backends[0].ipv6() && (800..=900).contains(&expires),
            "{backend} {expires}"
        );
        Ok(())
    });
}

/// Without `--limit` a listing of a large table is cut, and says so.
#[test]
fn a_large_table_is_listed_in_part() {
    Lab::test(Topology::one_segment(2), |lab| {
        let flows = u64::try_from(CONNS_AT_ONCE)? + 50;
        let hello = three_services(lab)?;
        hello.agent.lb(&["service", "edit", "udp", "--guard", "off"])?.ok()?;
        let ask = || -> Result<()> {
            for port in (20_000..).take(usize::try_from(flows)?) {
                // Nobody answers: the flow is there as soon as it is forwarded.
                UdpSocket::bind(("0.0.0.0", port))?.send_to(udp::QUESTION, HELLO)?;
            }
            Ok(())
        };
        let listed = |args: &[&str]| listed(&hello, args);
        eventually(PATIENCE, "all flows to be there", || {
            // What found a full ring on the way is asked once more; the others' flows are there already.
            hello.client().enter(ask)??;
            let seen = listed(&["--limit", "0"])?.total;
            Ok(if seen == flows { Seen::Yes(()) } else { Seen::NotYet(format!("{seen} of {flows}")) })
        })?;
        let cut = listed(&[])?;
        ensure!(
            cut.total == flows && cut.conns.len() == CONNS_AT_ONCE,
            "{} of {}",
            cut.conns.len(),
            cut.total
        );
        let table = hello.agent.lb(&["conn", "list"])?;
        let note = format!("{CONNS_AT_ONCE} of {flows} connections are listed: `--limit {flows}` lists all");
        ensure!(
            table.stderr.contains(&note) && table.stdout.lines().count() > CONNS_AT_ONCE,
            "{}",
            table.stderr
        );
        ensure!(listed(&["--limit", &flows.to_string()])?.conns.len() as u64 == flows);
        Ok(())
    });
}

/// The hello service, the same on IPv6 (`six`), and one over UDP (`udp`), each with both backends.
fn three_services(lab: &Lab) -> Result<HelloLab<'_>> {
    let mut config = config(lab, 2);
    let sister = service(VIP6, lab.net.backends.iter().map(Node::ipv6));
    config.services.push(Service { name: "six".to_owned(), ..sister });
    let datagrams = Service::tcp("udp", VIP4, PORT, lab.net.backends.iter().map(Node::ipv4));
    config.services.push(Service { protocol: "udp", ..datagrams });
    HelloLab::start_with(lab, &config)
}

/// What is flushed is forgotten: its packets reach nobody, counts follow, and the client's next connection goes
/// elsewhere.
#[test]
fn flush_of_one_backend() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        let mut sessions =
            (0..6).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        sessions.iter_mut().try_for_each(|session| session.echo(b"before"))?;
        let counted = |n| agent.backend(SERVICE, &hello.key(n)).map(|b| (b.active, b.inactive));
        ensure!((counted(1)?, counted(2)?) == ((3, 0), (3, 0)), "{:#?}", agent.services()?);
        agent.lb(&["backend", "drain", SERVICE, &hello.address(1)])?.ok()?;
        // Before anything is forgotten: a client may acknowledge the echo late, and must not be reset for it.
        agent.lb(&["service", "edit", SERVICE, "--reject", "drop"])?.ok()?;

        agent.lb(&["conn", "flush", "--backend", &hello.key(1)])?.ok()?;
        ensure!((counted(1)?, counted(2)?) == ((0, 0), (3, 0)), "{:#?}", agent.services()?);
        let list = listed(&hello, &[])?;
        ensure!(
            list.total == 3 && list.conns.iter().all(|c| c.backend.to_string() == hello.key(2)),
            "{list:#?}"
        );

        let (mut cut, mut kept): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|s| s.server == "slave1");
        let before = verdict(&agent.stats()?, "dropped-no-flow")?;
        cut.iter_mut().try_for_each(|session| session.send(b"lost"))?;
        until_verdict(agent, "dropped-no-flow", before + 3)?;
        kept.iter_mut().try_for_each(|session| session.echo(b"after"))?;
        ensure!(!cut.iter().map(Session::has_answer).collect::<Result<Vec<_>>>()?.contains(&true));
        // The client gives up and connects again.
        let again = Session::open(hello.client(), HELLO)?;
        ensure!(again.server == "slave2", "{} is drained", again.server);
        agent.lb(&["conn", "flush", "--all"])?.ok()?;
        ensure!(listed(&hello, &[])?.total == 0 && counted(2)? == (0, 0));
        agent.lb_fails(2, &["conn", "flush"])?;
        Ok(())
    });
}

fn listed(hello: &HelloLab, filter: &[&str]) -> Result<ConnList> {
    hello.agent.json(&[&["conn", "list"], filter].concat())
}
