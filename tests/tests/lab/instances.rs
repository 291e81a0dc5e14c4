//! Two instances on one host.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use lb_tests::{
    config::Config,
    hello::{Hello, spread},
    lab::Lab,
    topo::{Segment, Topology, VIP4},
};

use crate::setup::{PORT, SERVICE, service};

/// A VIP in the back segment.
const VIP_BACK: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 15, 100));

/// One instance on eth0 with slave1, the other on eth1 with slave2; neither notices the other.
#[test]
fn side_by_side() {
    let topology = Topology { clients_in_back: true, ..Topology::two_segments(2) };
    Lab::test(topology, |lab| {
        let _servers = lab.net.backends.iter().map(|b| Hello::start(b, PORT)).collect::<Result<Vec<_>>>()?;
        lab.start_realservers(&[VIP4, VIP_BACK])?;
        let client = &lab.net.client().netns;
        let address = |n: usize, segment| IpAddr::V4(lab.net.backends[n].link(segment).ipv4);
        let front = Config::on_eth0("front", vec![service(VIP4, [address(0, Segment::Front)])]);
        let mut back = Config::on_eth0("back", vec![service(VIP_BACK, [address(1, Segment::Back)])]);
        back.interfaces[0].0 = "eth1".to_owned();
        back.add_to = Some("eth1".to_owned());

        let front = lab.start_agent(&front)?;
        let back = lab.start_agent(&back)?;
        let each = [(VIP4, "slave1"), (VIP_BACK, "slave2")];
        for (vip, server) in each {
            let answered = spread(client, SocketAddr::new(vip, PORT), 20)?;
            ensure!(answered == [(server.to_owned(), 20)].into(), "{vip}: {answered:?}");
        }
        for agent in [&front, &back] {
            let services = agent.services()?;
            ensure!(services.len() == 1 && services[0].counters.connections == 20, "{services:#?}");
        }

        front.detach()?;
        ensure!(back.pins().exists(), "detaching one instance took the other's pins");
        let answered = spread(client, SocketAddr::new(VIP_BACK, PORT), 20)?;
        ensure!(answered == [("slave2".to_owned(), 20)].into(), "{answered:?}");
        ensure!(back.services()?[0].name.to_string() == SERVICE);
        Ok(())
    });
}
