//! A thousand connections, and the program under them replaced twenty times.

use std::time::Duration;

use anyhow::ensure;
use lb_tests::{
    lab::Lab,
    load::Load,
    proc::raise_file_limit,
    topo::{Node, Topology, VIP4, VIP6},
};

use crate::{
    setup::{HELLO, HelloLab, SERVICE, config, service, verdict},
    talk::{MISSES, Talk},
};

const SWAPS: usize = 20;

#[test]
fn twenty_swaps_under_a_thousand_flows() {
    Lab::test(Topology::one_segment(2), |lab| {
        raise_file_limit()?;
        let mut config = config(lab, 2);
        let sister = service(VIP6, lab.net.backends.iter().map(Node::ipv6));
        config.services.push(lb_tests::config::Service { name: "hello6".to_owned(), ..sister });
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let mut talk = Talk::start(lab.net.client(), &[VIP4, VIP6])?;
        talk.wait_for_round("before the first swap")?;
        let short = Load::start(lab.net.client(), HELLO, 1, Duration::from_millis(20))?;

        let before = agent.stats()?;
        let (link, mut program) = agent.link("eth0")?;
        for n in 1..=SWAPS {
            if n % 2 == 0 {
                agent.terminate()?
            } else {
                agent.kill9()?
            }
            talk.wait_for_round(&format!("without an agent, swap {n}"))?;
            agent.start()?;
            let (same, other) = agent.link("eth0")?;
            ensure!(same == link, "swap {n} made a new link, {same} instead of {link}: there was a gap");
            ensure!(other != program, "start {n} did not swap the program");
            program = other;
            talk.wait_for_round(&format!("after swap {n}"))?;
        }

        let after = agent.stats()?;
        for name in MISSES {
            let (old, new) = (verdict(&before, name)?, verdict(&after, name)?);
            ensure!(new == old, "{} packets ended as {name} during the swaps", new - old);
        }
        let failed: Vec<_> = short.finish()?.into_iter().filter(|a| a.failed()).collect();
        ensure!(failed.is_empty(), "of the short connections: {failed:#?}");
        let active: u64 = agent.services()?.iter().flat_map(|s| &s.backends).map(|b| b.active).sum();
        ensure!(active == 1000, "{active} connections are counted as active");
        ensure!(agent.backend(SERVICE, &hello.key(1))?.active == 250, "half of the IPv4 ones are slave1's");
        talk.finish()
    });
}
