//! The schedulers' exact shares over a thousand connections, and the counters that must agree.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use lb_tests::{config::Config, hello::spread, lab::Lab, topo::Topology};

use crate::setup::{HELLO, HelloLab, SERVICE, config};

#[test]
fn rr_gives_each_the_same() {
    Lab::test(Topology::one_segment(2), |lab| shares(lab, &config(lab, 2), &[500, 500]));
}

#[test]
fn wrr_gives_by_weight() {
    Lab::test(Topology::one_segment(3), |lab| {
        let mut config = config(lab, 3);
        config.services[0].scheduler = "wrr";
        config.services[0]
            .backends
            .iter_mut()
            .zip([3, 2, 1])
            .for_each(|(backend, weight)| backend.1 = weight);
        shares(lab, &config, &[600, 400, 200])
    });
}

#[test]
fn generic_mode_works_too() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.interfaces[0].1 = "generic".to_owned();
        shares(lab, &config, &[100, 100])
    });
}

/// Makes as many connections as `expected` has, and wants exactly these shares for slave1, slave2, ...
fn shares(lab: &Lab, config: &Config, expected: &[usize]) -> Result<()> {
    let hello = HelloLab::start_with(lab, config)?;
    let status: lb::api::types::Status = hello.agent.json(&["status"])?;
    ensure!(
        status.interfaces.len() == 1 && status.interfaces[0].mode == config.interfaces[0].1,
        "{status:#?}"
    );
    let expected: BTreeMap<_, _> = (1..).map(|n| format!("slave{n}")).zip(expected.iter().copied()).collect();
    let total: usize = expected.values().sum();
    let answered = spread(hello.client(), HELLO, total)?;
    ensure!(answered == expected, "{answered:?}, but should be {expected:?}");
    let services = hello.agent.services()?;
    let service = services.iter().find(|s| s.name.to_string() == SERVICE);
    ensure!(service.is_some_and(|s| s.counters.connections == total as u64), "{services:#?}");
    for (n, share) in (1..).zip(expected.values()) {
        let backend = hello.agent.backend(SERVICE, &hello.key(n))?;
        ensure!(backend.counters.connections == *share as u64, "{backend:#?} should have counted {share}");
        // At least SYN, ACK, FIN of each connection.
        ensure!(backend.counters.packets >= 3 * *share as u64, "{backend:#?}");
    }
    Ok(())
}
