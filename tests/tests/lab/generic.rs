//! Generic (SKB) mode: full frames, and merged ones where the driver has no native XDP.

use anyhow::{Result, ensure};
use lb::api::types::Status;
use lb_tests::{
    hello::{Session, spread},
    lab::Lab,
    netns::Netns,
    topo::Topology,
};

use crate::setup::{HELLO, HelloLab, config, said};

#[test]
fn full_frames() {
    Lab::test(Topology::one_segment(2), |lab| {
        let mut config = config(lab, 2);
        config.interfaces[0].1 = "generic".to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        echoes(&hello)
    });
}

/// A bridge's driver has no XDP: `auto` takes what there is and says so. The NIC below merges frames before
/// the program sees them (the kernel leaves that to us only on the program's own device, `netif_elide_gro`).
#[test]
fn fallback_where_native_is_refused() {
    Lab::test(Topology::one_segment(2), |lab| {
        let director = &lab.net.director;
        let link = &director.links[0];
        merge(&director.netns)?;
        // A veth leaves it to its peer's TSO otherwise (`veth_skb_is_eligible_for_gro`).
        lab.net.switch.run("ethtool", &["-K", "p-director0", "tso", "off"])?.ok()?;
        director.netns.ip(&format!(
            "addr flush dev eth0\n\
             link add br9 address {} type bridge stp_state 0 mcast_snooping 0\n\
             link set eth0 master br9\n\
             link set br9 up\n\
             addr add {}/24 dev br9\n",
            link.mac, link.ipv4
        ))?;
        let mut config = config(lab, 2);
        config.interfaces = vec![("br9".to_owned(), "auto".to_owned())];
        config.add_to = Some("br9".to_owned());
        let hello = HelloLab::start_with(lab, &config)?;
        let status: Status = hello.agent.json(&["status"])?;
        let [at] = status.interfaces.as_slice() else { anyhow::bail!("{status:#?}") };
        ensure!(at.mode == "generic" && at.attached_to == "br9", "{at:#?}");
        let said_once = status.warnings.iter().filter(|warning| warning.contains("generic mode")).count();
        ensure!(said_once == 1, "{:#?}", status.warnings);
        let words = ["br9", "takes no native XDP program", "not supported", "generic mode", "slower"];
        said(&hello.agent.lb(&["status"])?.ok()?, &words)?;
        said(&hello.agent.log(), &words)?;
        echoes(&hello)?;
        let counters = hello.agent.services()?[0].counters;
        ensure!(counters.bytes > 1500 * counters.packets, "nothing was merged: {counters:?}");
        Ok(())
    });
}

/// Lets GRO of eth0 wait for more segments, as a busy NIC has them by itself.
fn merge(netns: &Netns) -> Result<()> {
    netns.run("ethtool", &["-K", "eth0", "gro", "on"])?.ok()?;
    // The only one of our settings that is in sysfs, which shows the namespace of whoever mounted it.
    let wait = "echo 1000000 > /sys/class/net/eth0/gro_flush_timeout";
    netns.run("ip", &["netns", "exec", netns.name(), "sh", "-c", wait])?.ok()?;
    Ok(())
}

/// Rr, and more than a frame both ways.
fn echoes(hello: &HelloLab) -> Result<()> {
    let answered = spread(hello.client(), HELLO, 20)?;
    ensure!(answered.values().eq(&[10, 10]), "{answered:?}");
    let mut session = Session::open(hello.client(), HELLO)?;
    (0..50).try_for_each(|n| session.echo(&[n; 48 << 10]))
}
