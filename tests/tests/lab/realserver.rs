//! The commands `lb realserver start|status|stop` on a backend: what they say, change, restore, and end with.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use lb_tests::{
    agent::realserver,
    hello::{Hello, spread},
    lab::Lab,
    proc::Finished,
    topo::{Node, Topology, VIP4, VIP6, host_prefix},
};
use serde_json::Value;

use crate::setup::{HELLO, HelloLab, PORT, config, said};

/// `all` and `lo`; arp_ignore and arp_announce.
const SYSCTLS: [&str; 4] = ["all/arp_ignore", "all/arp_announce", "lo/arp_ignore", "lo/arp_announce"];
/// What an operator may have had there before, and what `start` makes of it: what is stricter stays.
const BEFORE: [&str; 4] = ["0", "1", "2", "0"];
const STARTED: [&str; 4] = ["1", "2", "2", "2"];

#[test]
fn start_status_stop() {
    Lab::test(Topology::one_segment(1), |lab| {
        let node = &lab.net.backends[0];
        let (four, six) = (VIP4.to_string(), VIP6.to_string());
        let vips = [four.as_str(), six.as_str()];
        let run = |action: &str, args: &[&str]| realserver(&lab.scope, node, action, args);
        for (key, value) in SYSCTLS.iter().zip(BEFORE) {
            node.netns.sysctl(&format!("ipv4/conf/{key}"), value)?;
        }

        let wrong = run("status", &vips)?;
        ended(&wrong, 1)?;
        said(&wrong.stdout, &[&four, &six, "arp_ignore", "arp_announce", "sysctl -w"])?;
        said(&wrong.stderr, &["wrong"])?;

        ended(&run("start", &vips)?, 0)?;
        ensure!(sysctls(node)? == STARTED, "{:?}", sysctls(node)?);
        ensure!(on_lo(node, &vips)? == [true, true]);
        ended(&run("status", &vips)?, 0)?;
        ended(&run("status", &[])?, 0)?;
        let again = run("start", &[&vips[..], &["--output", "json"]].concat())?;
        ended(&again, 0)?;
        let again: Value = serde_json::from_str(&again.stdout).context(again.stdout)?;
        ensure!(again["changes"] == Value::Array(Vec::new()), "{again:#}");

        // Somebody else's change is found, named, and mended.
        node.netns.sysctl("ipv4/conf/all/arp_ignore", "0")?;
        let wrong = run("status", &[])?;
        ended(&wrong, 1)?;
        said(&wrong.stdout, &["net.ipv4.conf.all.arp_ignore", "sysctl -w net.ipv4.conf.all.arp_ignore=1"])?;
        ended(&run("start", &vips)?, 0)?;
        ensure!(sysctls(node)? == STARTED, "{:?}", sysctls(node)?);

        ended(&run("stop", &[&six])?, 0)?;
        ensure!(on_lo(node, &vips)? == [true, false] && sysctls(node)? == STARTED, "{:?}", sysctls(node)?);
        ended(&run("stop", &[&four])?, 0)?;
        ensure!(on_lo(node, &vips)? == [false, false]);
        ensure!(sysctls(node)? == BEFORE, "not as before: {:?}", sysctls(node)?);
        ended(&run("stop", &vips)?, 0)?;
        ended(&run("status", &vips)?, 1)
    });
}

/// Each by itself, on a backend that is started.
#[test]
fn what_status_finds_wrong() {
    Lab::test(Topology::two_segments(1), |lab| {
        let node = &lab.net.backends[0];
        let (four, six) = (VIP4.to_string(), VIP6.to_string());
        let server = Hello::start_on(node, (node.ipv4(), PORT).into())?;
        let status = |code: i32, words: &[&str]| -> Result<()> {
            let status = realserver(&lab.scope, node, "status", &[&four, &six])?;
            ended(&status, code)?;
            said(&status.stdout, words)
        };
        ended(&realserver(&lab.scope, node, "start", &[&four, &six])?, 0)?;
        let alone = format!("port {PORT} is served on {} alone", node.ipv4());
        status(
            0,
            &[&format!("TCP servers at {VIP4}"), &alone, &format!("connections to {HELLO} are refused")],
        )?;
        drop(server);
        status(0, &[&format!("TCP servers at {VIP6}: none"), "start the server"])?;
        let _server = Hello::start(node, PORT)?;
        status(
            0,
            &[
                &format!("TCP servers at {VIP4}: ports {PORT}"),
                &format!("TCP servers at {VIP6}: ports {PORT}"),
            ],
        )?;

        let held = host_prefix(VIP4);
        let ip = |batch: &str| node.netns.ip(batch);
        ip(&format!("addr add {VIP4}/24 dev eth0"))?;
        status(1, &[&format!("{VIP4} on eth0: /24"), "come past the director", "ip address del"])?;
        ip(&format!("addr del {VIP4}/24 dev eth0\naddr del {held} dev lo\naddr add {VIP4}/24 dev lo"))?;
        status(1, &["with prefix /24 instead of /32", "cannot reach its neighbours"])?;
        ip(&format!("addr del {VIP4}/24 dev lo"))?;
        status(1, &[&format!("{VIP4} on lo: missing"), &format!("lb realserver start {VIP4}")])?;
        ip(&format!("addr add {held} dev lo"))?;
        node.netns.sysctl("ipv4/conf/all/rp_filter", "1")?;
        // Right where nobody's way back is another one.
        status(0, &["rp_filter: 1 (strict) in effect", "rp_filter=2"])?;
        ip("link set lo down")?;
        status(1, &["lo: down", "ip link set lo up"])
    });
}

#[test]
fn what_it_refuses() {
    Lab::test(Topology::one_segment(1), |lab| {
        let node = &lab.net.backends[0];
        for (code, vip, words) in [
            (1, "127.0.0.5", &["127.0.0.5", "loopback"][..]),
            (1, "224.0.0.1", &["multicast"]),
            (2, "172.18.14.256", &["172.18.14.256"]),
        ] {
            let refused = realserver(&lab.scope, node, "start", &[vip])?;
            ended(&refused, code)?;
            said(&refused.stderr, words)?;
        }
        ensure!(sysctls(node)? == ["0"; 4], "{:?}", sysctls(node)?);
        Ok(())
    });
}

/// A backend that is stopped while the service has it: its connections fail, and come back with `start`.
#[test]
fn stopped_and_started_in_service() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start_with(lab, &config(lab, 1))?;
        ensure!(spread(hello.client(), HELLO, 2)?.values().eq(&[2]));
        let (node, vip) = (&lab.net.backends[0], VIP4.to_string());
        ended(&realserver(&lab.scope, node, "stop", &[&vip])?, 0)?;
        ensure!(on_lo(node, &[&vip])? == [false]);
        ended(&realserver(&lab.scope, node, "start", &[&vip])?, 0)?;
        ensure!(spread(hello.client(), HELLO, 2)?.values().eq(&[2]));
        Ok(())
    });
}

fn ended(command: &Finished, code: i32) -> Result<()> {
    ensure!(command.status.code() == Some(code), "should have ended with {code}: {command:#?}");
    Ok(())
}

fn sysctls(node: &Node) -> Result<Vec<String>> {
    node.netns.enter(|| {
        let read = |key: &&str| -> Result<String> {
            Ok(fs::read_to_string(Path::new("/proc/sys/net/ipv4/conf").join(key))?.trim().to_owned())
        };
        SYSCTLS.iter().map(read).collect()
    })?
}

fn on_lo(node: &Node, vips: &[&str]) -> Result<Vec<bool>> {
    let addresses = node.netns.run("ip", &["addr", "show", "dev", "lo"])?.ok()?;
    vips.iter().map(|vip| Ok(addresses.contains(&format!("{} ", host_prefix(vip.parse()?))))).collect()
}
