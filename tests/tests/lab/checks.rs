//! Many health checks at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, ensure};
use lb::api::types::{BackendState, CheckStats};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::PORT;

/// Port of the servers that never answer.
const SILENT: u16 = 7100;
/// Services of each kind, and backends of each: 250 of a kind, by few addresses, since the neighbour table is the machine's.
const SERVICES: u16 = 10;
const BACKENDS: u8 = 25;
const ALL: u64 = SERVICES as u64 * BACKENDS as u64;

fn addresses(node: u8) -> Vec<IpAddr> {
    (1..=BACKENDS).map(|n| Ipv4Addr::new(10, 9, node, n).into()).collect()
}

fn made(agent: &Agent, kind: &str) -> Result<CheckStats> {
    let checks = agent.stats()?.checks;
    checks.into_iter().find(|it| it.kind == kind).with_context(|| format!("no {kind} check was made"))
}

fn under_way(check: &CheckStats) -> u64 {
    check.begun - check.ended
}

#[test]
fn a_burst_of_hanging_backends_delays_nobody_else() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [good, bad] = &lab.net.backends[..] else { unreachable!("there are two") };
        lab.net.director.netns.ip("addr add 10.9.255.1/16 dev eth0")?;
        for (n, node) in (0..).zip([good, bad]) {
            let all: String = addresses(n).iter().map(|it| format!("addr add {it}/16 dev eth0\n")).collect();
            node.netns.ip(&all)?;
        }
        let _servers = (0..SERVICES).map(|n| Hello::start(good, PORT + n)).collect::<Result<Vec<_>>>()?;
        // Nobody accepts: its kernel does, as far as there is room, and then says nothing any more.
        let listen = || TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, SILENT)));
        let _silent = bad.netns.enter(listen)??;
        let services = (0..SERVICES).flat_map(|n| {
            let tcp = Service {
                more: "checks: [{tcp: , interval: 1s, timeout: 20s, via: rip}]".to_owned(),
                ..Service::tcp(&format!("good{n}"), VIP4, PORT + n, addresses(0))
            };
            // Longer than this test takes, or has patience for.
            let http = format!(
                "checks: [{{http: , port: {SILENT}, interval: 1s, timeout: 600s, initial: up, via: rip}}]"
            );
            let http =
                Service { more: http, ..Service::tcp(&format!("bad{n}"), VIP4, 8000 + n, addresses(1)) };
            [tcp, http]
        });
        let agent = lab.start_agent(&Config::on_eth0("lab", services.collect()))?;
        let hung = eventually(PATIENCE, "all checks of silent servers to hang", || {
            let http = made(&agent, "http")?;
            let count = under_way(&http);
            Ok(if count == ALL {
                Seen::Yes(http)
            } else {
                Seen::NotYet(format!("{count} of {ALL}: {http:?}"))
            })
        })?;
        ensure!(hung.begun == ALL && hung.ended == 0, "{hung:?}");
        let before = made(&agent, "tcp")?;
        let after = eventually(PATIENCE, "three more rounds of the others", || {
            let tcp = made(&agent, "tcp")?;
            let is_enough = tcp.ended >= before.ended + 3 * ALL;
            Ok(if is_enough { Seen::Yes(tcp) } else { Seen::NotYet(format!("{before:?} and then {tcp:?}")) })
        })?;
        let still = made(&agent, "http")?;
        ensure!(under_way(&still) == ALL && still.begun == ALL, "{still:?}");
        ensure!(after.failed == 0, "{after:?}");
        // The others may have made up for one whose SYNs were lost.
        eventually(PATIENCE, "all of the others to be up", || {
            let services = agent.services()?;
            let good = services.iter().filter(|it| it.name.to_string().starts_with("good"));
            let up =
                good.flat_map(|it| &it.backends).filter(|it| it.state == BackendState::Up).count() as u64;
            Ok(if up == ALL { Seen::Yes(()) } else { Seen::NotYet(format!("{up} of {ALL}")) })
        })
    });
}
