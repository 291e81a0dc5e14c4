//! Health checks through the VIP: a backend that answers its own address but serves no client leaves.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb::api::types::{BackendState, CheckState};
use lb_tests::{
    config::{Config, Service},
    hello::spread,
    lab::Lab,
    topo::{Topology, VIP4},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, backend_is};

/// A lost packet is sent again after a second: it must not fail what is healthy.
const CHECKS: &str = "checks: [{tcp: , interval: 300ms, timeout: 1500ms, rise: 2, fall: 2}]";

fn config(lab: &Lab, vip: IpAddr, more: &str) -> Config {
    let own = |node: &lb_tests::topo::Node| if vip.is_ipv4() { node.ipv4() } else { node.ipv6() };
    let backends: Vec<_> = lab.net.backends.iter().map(own).collect();
    let service = Service { more: more.to_owned(), ..Service::tcp(SERVICE, vip, PORT, backends) };
    Config::on_eth0("lab", vec![service])
}

fn is(hello: &HelloLab, n: usize, state: BackendState) -> Result<()> {
    backend_is(&hello.agent, SERVICE, &hello.key(n), state)
}

#[test]
fn a_backend_that_loses_its_vip_leaves_while_its_own_address_answers() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start_with(lab, &config(lab, VIP4, CHECKS))?;
        is(&hello, 1, BackendState::Up)?;
        is(&hello, 2, BackendState::Up)?;
        let view = hello.agent.backend(SERVICE, &hello.key(1))?;
        let names: Vec<_> = view.checks.iter().map(|check| check.check.as_str()).collect();
        ensure!(names == ["tcp", "tcp through the VIP 172.18.14.100"], "{view:#?}");

        let backend = &lab.net.backends[0].netns;
        backend.ip(&format!("addr del {VIP4}/32 dev lo"))?;
        is(&hello, 1, BackendState::Down)?;
        let view = hello.agent.backend(SERVICE, &hello.key(1))?;
        let states: Vec<_> = view.checks.iter().map(|check| check.state).collect();
        ensure!(states == [CheckState::Up, CheckState::Down], "{view:#?}");
        let told = view.detail.unwrap_or_default();
        ensure!(
            told.contains(
                "it answers on its own address, but not here: no answer (is 172.18.14.100 on its lo?"
            ),
            "{told}"
        );
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");

        backend.ip(&format!("addr add {VIP4}/32 dev lo"))?;
        is(&hello, 1, BackendState::Up)?;
        let answered = spread(hello.client(), HELLO, 20)?;
        ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
        Ok(())
    });
}
