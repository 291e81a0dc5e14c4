//! The notes' section 1.8, line by line: what `persistence_timeout` does and does not mean.

use anyhow::{Context, Result, ensure};
use lb::api::types::{ConnList, ConnView};
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, SERVICE};

/// What is listed: the templates, and the connections.
fn listed(hello: &HelloLab) -> Result<(Vec<ConnView>, Vec<ConnView>)> {
    let list: ConnList = hello.agent.json(&["conn", "list"])?;
    Ok(list.conns.into_iter().partition(|conn| conn.template))
}

#[test]
fn walk_through_of_the_notes() {
    Lab::test(Topology { clients: 2, ..Topology::one_segment(2) }, |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["service", "edit", SERVICE, "-p", "15"])?.ok()?;
        agent.lb(&["timeout", "set", "13", "5", "13"])?.ok()?;
        let [first, second] = [0, 1].map(|n| &lab.net.clients[n].netns);

        // 2. The first connection makes two entries, one of them without a port: it counts down from 15.
        let mut session = Session::open(first, HELLO)?;
        session.echo(b"established")?;
        let (templates, connections) = listed(&hello)?;
        ensure!((templates.len(), connections.len()) == (1, 1), "{templates:#?} {connections:#?}");
        let template = &templates[0];
        ensure!(template.client.ip() == lab.net.clients[0].ipv4() && template.client.port() == 0);
        ensure!(template.state == "ASSURED" && (10..=15).contains(&template.expires), "{template:#?}");
        let connection = &connections[0];
        ensure!(
            connection.state == "ESTABLISHED" && (8..=13).contains(&connection.expires),
            "{connection:#?}"
        );
        ensure!(template.backend == connection.backend, "{template:#?} {connection:#?}");
        let counted: u64 = agent.services()?[0].backends.iter().map(|b| b.active + b.inactive).sum();
        ensure!(counted == 1, "a template is no connection: {counted}");

        // 3. The client's next connections go where the first one went; another client's do not.
        let mine = spread(first, HELLO, 6)?;
        ensure!(mine.len() == 1 && mine.contains_key(&session.server), "{mine:?}");
        let others = spread(second, HELLO, 6)?;
        ensure!(others.len() == 1 && !others.contains_key(&session.server), "{others:?}");

        // 4. As long as one is established, the template is armed again, for 60 s, whatever its timeout is.
        eventually(3 * PATIENCE, "the template to be armed again", || {
            session.echo(b"alive")?;
            let (templates, _) = listed(&hello)?;
            let mine = templates.iter().find(|it| it.client.ip() == lab.net.clients[0].ipv4());
            let left = mine.context("the template of a living connection is gone")?.expires;
            Ok(if (40..=60).contains(&left) { Seen::Yes(()) } else { Seen::NotYet(format!("{left} s")) })
        })?;
        // The other client's connections have ended after 5 s, so its template ends at its 15.
        eventually(2 * PATIENCE, "the other client's template to end", || {
            session.echo(b"alive")?;
            let (templates, _) = listed(&hello)?;
            Ok(if templates.len() == 1 { Seen::Yes(()) } else { Seen::NotYet(format!("{templates:?}")) })
        })?;
        // 5. So it is scheduled anew: the third of the rotation, after its own first and the other's.
        let again = Session::open(second, HELLO)?;
        ensure!(again.server == session.server, "{}, not the next in turn {}", again.server, session.server);
        drop(again);

        // 6. When its last connection has ended, the template that was armed again ends, too.
        drop(session);
        eventually(4 * PATIENCE, "the first client's template to end", || {
            let (templates, connections) = listed(&hello)?;
            let is_over = templates.is_empty() && connections.is_empty();
            Ok(if is_over { Seen::Yes(()) } else { Seen::NotYet(format!("{templates:?} {connections:?}")) })
        })
    });
}

/// What a persistent service is survives a restart, is shown, and is saved.
#[test]
fn it_is_shown_and_saved() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        agent.lb(&["service", "edit", SERVICE, "-p", "5m", "-M", "255.255.255.0"])?.ok()?;
        let _session = Session::open(hello.client(), HELLO)?;
        agent.kill9()?;
        agent.start()?;
        let shown = agent.lb(&["service", "show", SERVICE])?.ok()?;
        ensure!(shown.contains("persistence: 300 s by /24\n"), "{shown}");
        let saved = agent.lb(&["save"])?.ok()?;
        ensure!(saved.contains("persistence: 300\n    persistence_granularity: 24\n"), "{saved}");
        let (templates, _) = listed(&hello)?;
        ensure!(templates.len() == 1 && templates[0].client.to_string().ends_with(".0:0"), "{templates:#?}");
        agent.lb(&["service", "edit", SERVICE, "-p", "0"])?.ok()?;
        let mine = spread(hello.client(), HELLO, 4)?;
        ensure!(mine.len() == 2, "each by itself again: {mine:?}");
        Ok(())
    });
}
