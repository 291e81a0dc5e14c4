//! `lb stats`: exact counters, and its two loops.

use anyhow::{Result, ensure};
use lb::api::types::{Counters, Stats};
use lb_tests::{
    config::Service,
    hello::spread,
    lab::Lab,
    topo::{Node, Topology, VIP4},
    udp::{self, UdpHello},
    wait::{PATIENCE, Seen, eventually},
};
use serde_json::Value;

use crate::setup::{HELLO, HelloLab, PORT, config, verdict};

/// Datagrams are the client's only packets to a UDP service, so that every number is known.
#[test]
fn counters_are_what_was_sent() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        let datagrams = Service::tcp("udp", VIP4, PORT, lab.net.backends.iter().map(Node::ipv4));
        config.services = vec![Service { protocol: "udp", ..datagrams }];
        let hello = HelloLab::start_with(lab, &config)?;
        let _servers = UdpHello::on_each(&lab.net.backends, HELLO)?;
        // Open until all have asked: the kernel may give a port that was closed again, and so a known flow.
        let ports =
            hello.client().enter(|| (0..30).map(|_| udp::client(HELLO)).collect::<Result<Vec<_>>>())??;
        for port in &ports {
            udp::ask_by(port)?;
        }
        let stats = hello.agent.stats()?;
        // IPv4 and UDP header before the question.
        let of = |packets: u64| Counters {
            connections: packets,
            packets,
            bytes: packets * (20 + 8 + udp::QUESTION.len() as u64),
        };
        let service = &stats.services[0];
        ensure!(stats.total == of(30) && service.counters == of(30), "{stats:#?}");
        ensure!(service.backends.iter().all(|backend| backend.counters == of(15)), "{stats:#?}");
        ensure!(verdict(&stats, "forwarded-tx")? == 30, "{stats:#?}");
        let loads = stats.flows.iter().map(|table| (table.table.as_str(), table.rated));
        ensure!(loads.eq([("ipv4", 64 << 10), ("wide", 16 << 10)]), "{stats:#?}");
        Ok(())
    });
}

#[test]
fn rates_and_watching() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        spread(hello.client(), HELLO, 4)?;
        // Tables for people: as often as asked for, then the end.
        let watched = agent.lb(&["stats", "--watch=0.1", "--count", "3"])?.ok()?;
        ensure!(watched.matches("Total").count() == 3 && watched.contains("forwarded-tx"), "{watched}");
        let rates = agent.lb(&["stats", "--rate", "--watch=0.1", "--count", "2"])?.ok()?;
        ensure!(rates.matches("Total").count() == 2, "{rates}");
        // For programs: one object a line.
        let lines = agent.lb(&["--output", "json", "stats", "--watch=0.1", "--count", "2"])?.ok()?;
        let stats = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Stats>, _>>()?;
        ensure!(stats.len() == 2 && stats[0].total.connections == 4, "{lines}");
        ensure!(stats[0].monotonic_ns < stats[1].monotonic_ns, "{lines}");
        // The agent's estimate at once, then what is exact between two readings.
        let lines =
            agent.lb(&["--output", "json", "stats", "--rate", "--watch=0.1", "--count", "2"])?.ok()?;
        let rates = lines.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        ensure!(rates.len() == 2 && rates[0].get("seconds").is_none(), "{lines}");
        ensure!(rates[1]["seconds"].as_f64().is_some_and(|s| s >= 0.1), "{lines}");
        ensure!(rates[1]["total"]["connections"] == 0.0, "nobody connected meanwhile: {lines}");
        eventually(PATIENCE, "a rate of what comes all the time", || {
            spread(hello.client(), HELLO, 2)?;
            let stats = agent.stats()?;
            let service = &stats.services[0];
            let rates = [service.rate, service.backends[0].rate, service.backends[1].rate];
            let forwarded = stats.verdicts.iter().find(|v| v.name == "forwarded-tx").map(|v| v.rate);
            ensure!(stats.total_rate == service.rate, "it is the only one: {stats:#?}");
            // Ten packets or so and some hundred bytes each.
            let there =
                rates.iter().all(|r| 0.0 < r.connections && r.connections < r.packets && r.packets < r.bytes);
            Ok(if there && forwarded > Some(0.0) {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{rates:?}"))
            })
        })?;
        let rates = agent.lb(&["stats", "--rate"])?.ok()?;
        ensure!(rates.contains("Conns/s") && rates.contains("forwarded-tx"), "{rates}");
        Ok(())
    });
}
