//! Backends behind the director's second interface.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb::api::types::Status;
use lb_tests::{
    agent::Agent,
    hello::{Session, spread},
    lab::Lab,
    topo::{Link, Segment, Topology, VIP4, VIP6},
    xdp_pass,
};

use crate::setup::{HelloLab, PORT, SERVICE, config, service, xdp_program_of};

#[test]
fn redirect_over_ipv4() {
    Lab::test(Topology::two_segments(2), |lab| redirected(lab, VIP4, |link| IpAddr::V4(link.ipv4)));
}

#[test]
fn redirect_over_ipv6() {
    Lab::test(Topology::two_segments(2), |lab| redirected(lab, VIP6, |link| IpAddr::V6(link.ipv6)));
}

fn redirected(lab: &Lab, vip: IpAddr, address: fn(&Link) -> IpAddr) -> Result<()> {
    let backends: Vec<_> = lab.net.backends.iter().map(|b| address(b.link(Segment::Back))).collect();
    let mut config = config(lab, 0);
    config.services = vec![service(vip, backends.iter().copied())];
    let hello = HelloLab::start_with(lab, &config)?;
    for (address, node) in backends.iter().zip(&lab.net.backends) {
        let backend = hello.agent.backend(SERVICE, &SocketAddr::new(*address, PORT).to_string())?;
        ensure!(backend.interface.as_deref() == Some("eth1"), "{backend:#?}");
        ensure!(backend.mac.as_ref() == Some(&node.link(Segment::Back).mac), "{backend:#?}");
    }
    let to = SocketAddr::new(vip, PORT);
    let answered = spread(hello.client(), to, 100)?;
    ensure!(answered == [("slave1".to_owned(), 50), ("slave2".to_owned(), 50)].into(), "{answered:?}");
    let mut session = Session::open(hello.client(), to)?;
    (0..50).try_for_each(|n| session.echo(&[n; 48 << 10]))
}

/// Some drivers transmit what is redirected to them only with an XDP program of their own: they get one that
/// passes everything, for as long as they are needed.
#[test]
fn a_program_for_an_interface_that_only_transmits() {
    Lab::test(Topology::two_segments(1), |lab| {
        let (director, switch) = (&lab.net.director.netns, &lab.net.switch);
        // A veth says NDO_XMIT while its peer has a program or GRO (`veth_set_xdp_features`).
        xdp_pass::detach(switch, "p-director1")?;
        let backend = IpAddr::V4(lab.net.backends[0].link(Segment::Back).ipv4);
        let mut config = config(lab, 0);
        config.services = vec![service(VIP4, [backend])];
        let hello = HelloLab::start_with(lab, &config)?;
        ensure!(program_of(&hello.agent, "eth1")? == "pass", "{}", program_of(&hello.agent, "eth1")?);
        ensure!(xdp_program_of(director, "eth1")?.contains("name pass"));
        // Not with that either: such packets are lost.
        let warning = warned(&hello.agent)?.context("no warning")?;
        ensure!(warning.starts_with("eth1: its driver transmits no frames"), "{warning}");
        xdp_pass::attach(switch, "p-director1", &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)?;
        let to = SocketAddr::new(VIP4, PORT);
        ensure!(spread(hello.client(), to, 10)?.values().eq(&[10]));

        // A successor keeps it.
        hello.agent.kill9()?;
        hello.agent.start()?;
        ensure!(warned(&hello.agent)?.is_none(), "{:?}", warned(&hello.agent)?);
        ensure!(program_of(&hello.agent, "eth1")? == "pass", "{}", program_of(&hello.agent, "eth1")?);
        ensure!(spread(hello.client(), to, 10)?.values().eq(&[10]));
        hello.agent.detach()?;
        for device in ["eth0", "eth1"] {
            let left = xdp_program_of(director, device)?;
            ensure!(left.is_empty(), "{device}: {left}");
        }
        Ok(())
    });
}

fn warned(agent: &Agent) -> Result<Option<String>> {
    let status: Status = agent.json(&["status"])?;
    Ok(status.warnings.into_iter().next())
}

/// Name of the program that the instance's pinned link holds on a device.
fn program_of(agent: &Agent, device: &str) -> Result<String> {
    let (_, program) = agent.link(device).with_context(|| format!("{device} has no program of ours"))?;
    let mut loaded = aya::programs::loaded_programs().filter_map(Result::ok);
    let found = loaded.find(|loaded| loaded.id() == program);
    Ok(found.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_default())
}
