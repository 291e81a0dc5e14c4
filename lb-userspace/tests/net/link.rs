//! Links, addresses, routes, and their events.

use std::net::IpAddr;

use lb::net::{Event, Events, Netlink, NewAddress, Route, Vlan, resolve_attach, sysctl::Sysctl};

use crate::namespace::{HERE_MAC, Namespace, Pair};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The first event that `wanted` accepts.
pub async fn event<T>(events: &mut Events, wanted: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        if let Some(found) = wanted(&events.next().await.expect("an event")) {
            return found;
        }
    }
}

#[test]
fn links_are_listed() {
    let pair = Pair::new();
    pair.here.ip("link add br0 type bridge\nlink set eth0 master br0");
    pair.here.run_async(|| async {
        let links = Netlink::connect().expect("connects").links().await.expect("lists");
        let link = |name| links.iter().find(|link| link.name == name).expect("is there");
        assert!(link("lo").loopback && link("lo").up && link("lo").mac == [0; 6]);
        let eth0 = link("eth0");
        assert_eq!((eth0.mac, eth0.mtu, eth0.up, eth0.running), (HERE_MAC, 1500, true, true));
        assert_eq!(eth0.kind.as_deref(), Some("veth"));
        assert_eq!(eth0.parent, None, "the peer's index counts in its own namespace");
        assert_eq!(eth0.master, Some(link("br0").index));
        assert_eq!(resolve_attach(&links, "eth0").expect("resolves").ifindex, eth0.index);
        let error = resolve_attach(&links, "eth1").expect_err("not there").to_string();
        assert!(error.contains("lo, eth0, br0; did you mean \"eth0\"?"), "{error}");
    });
}

#[test]
fn link_changes_are_told() {
    let namespace = Namespace::new();
    namespace.run_async(|| async {
        let mut events = Events::subscribe().expect("subscribes");
        let ip = |line: &str| {
            let status = std::process::Command::new("ip").args(line.split(' ')).status().expect("iproute2");
            assert!(status.success(), "ip {line}");
        };
        ip("link add v0 type veth peer name v1");
        let link = |event: &Event| match event {
            Event::Link(link) if link.name == "v0" => Some(link.clone()),
            _ => None,
        };
        let index = event(&mut events, link).await.index;
        ip("link set v0 address 02:00:00:00:00:aa");
        event(&mut events, |e| link(e).filter(|l| l.mac == [2, 0, 0, 0, 0, 0xaa])).await;
        ip("link set v0 mtu 9000");
        event(&mut events, |e| link(e).filter(|l| l.mtu == 9000)).await;
        ip("link set v0 up");
        event(&mut events, |e| link(e).filter(|l| l.up)).await;
        ip("link set v0 down");
        event(&mut events, |e| link(e).filter(|l| !l.up)).await;
        // Leaving a bridge sends a RTM_DELLINK of AF_BRIDGE, which is no deletion.
        ip("link add br0 type bridge");
        ip("link set v0 master br0");
        ip("link set v0 nomaster");
        ip("link set v0 mtu 1400");
        let next = event(&mut events, |e| match e {
            Event::LinkGone { name, .. } => Some(Err(name.clone())),
            e => link(e).filter(|l| l.mtu == 1400).map(Ok),
        });
        assert_eq!(next.await.expect("not gone").index, index);
        ip("link del v0");
        let gone = |e: &Event| match e {
            Event::LinkGone { index, name } if name == "v0" => Some(*index),
            _ => None,
        };
        assert_eq!(event(&mut events, gone).await, index);
    });
}

#[test]
fn an_overrun_is_told() {
    let namespace = Namespace::new();
    namespace.ip("link set lo up");
    namespace.run_async(|| async {
        let mut events = Events::subscribe_with_buffer(1).expect("subscribes");
        let net = Netlink::connect().expect("connects");
        for last in 1..=200 {
            let address = IpAddr::from([10, 9, 0, last]);
            net.add_address(NewAddress::vip(1, address)).expect("adds");
        }
        event(&mut events, |e| (*e == Event::Resync).then_some(())).await;
        // The stream goes on.
        while tokio::time::timeout(std::time::Duration::from_millis(50), events.next()).await.is_ok() {}
        net.add_address(NewAddress::vip(1, IpAddr::from([10, 9, 1, 1]))).expect("adds");
        let added = |e: &Event| matches!(e, Event::Address(a) if a.address == IpAddr::from([10, 9, 1, 1]));
        event(&mut events, |e| added(e).then_some(())).await;
    });
}

#[test]
fn addresses_come_and_go_idempotently() {
    let pair = Pair::new();
    pair.here.run_async(|| async {
        let net = Netlink::connect().expect("connects");
        let mut events = Events::subscribe().expect("subscribes");
        let eth0 = net.links().await.expect("lists").iter().find(|l| l.name == "eth0").expect("eth0").index;
        for (ifindex, text, prefix) in [
            (1, "172.18.14.100", 32),
            (1, "fd00::100", 128),
            (eth0, "10.0.0.100", 24),
            (eth0, "fd00::101", 64),
        ] {
            let address = ip(text);
            let new = NewAddress { prefix, no_prefix_route: true, ..NewAddress::vip(ifindex, address) };
            assert!(net.add_address(new).expect("adds"), "{text}");
            assert!(!net.add_address(new).expect("has it"), "{text}");
            let listed = net.addresses().await.expect("lists");
            let found = listed.iter().find(|a| a.address == address).expect("is listed");
            assert_eq!((found.ifindex, found.prefix, found.tentative), (ifindex, prefix, false), "{text}");
            event(&mut events, |e| matches!(e, Event::Address(a) if a == found).then_some(())).await;
            assert!(
                !net.delete_address(ifindex, address, prefix - 1).await.expect("another prefix"),
                "{text}"
            );
            assert!(net.delete_address(ifindex, address, prefix).await.expect("deletes"), "{text}");
            assert!(!net.delete_address(ifindex, address, prefix).await.expect("is gone"), "{text}");
            event(&mut events, |e| matches!(e, Event::AddressGone(a) if a.address == address).then_some(()))
                .await;
        }
        let error = net.add_address(NewAddress::vip(999, ip("10.0.0.9"))).expect_err("no interface");
        assert_eq!(error.errno(), Some(libc::ENODEV));
    });
}

#[test]
fn routes_tell_gateways_and_own_addresses() {
    let pair = Pair::new();
    pair.here.ip("route add 192.168.7.0/24 via 10.0.0.2
         route add 192.168.8.0/24 via inet6 fd00::2 dev eth0
         route add blackhole 192.168.9.0/24
         route add unreachable 192.168.10.0/24
         -6 route add fd07::/64 via fd00::2
         -6 route add unreachable fd08::/64");
    pair.here.run_async(|| async {
        let net = Netlink::connect().expect("connects");
        let eth0 = net.links().await.expect("lists").iter().find(|l| l.name == "eth0").expect("eth0").index;
        let route = |text| net.routes_to(&[ip(text)]).expect("answers").remove(0);
        let direct =
            |prefsrc| Some(Route { oif: eth0, gateway: None, prefsrc: Some(ip(prefsrc)), local: false });
        assert_eq!(route("10.0.0.2"), direct("10.0.0.1"));
        assert_eq!(route("fd00::2"), direct("fd00::1"));
        assert_eq!(route("192.168.7.1").expect("a route").gateway, Some(ip("10.0.0.2")));
        assert_eq!(route("192.168.8.1").expect("a route").gateway, Some(ip("fd00::2")));
        assert_eq!(route("fd07::1").expect("a route").gateway, Some(ip("fd00::2")));
        for own in ["10.0.0.1", "fd00::1"] {
            let found = route(own).expect("a route");
            assert!(found.local && found.gateway.is_none(), "{own}: {found:?}");
        }
        for none in ["203.0.113.1", "192.168.9.1", "192.168.10.1", "fd08::1", "2001:db8::1"] {
            assert_eq!(route(none), None, "{none}");
        }
        // Many at once, each in its place.
        let asked: Vec<_> = (0..1000u32).map(|n| IpAddr::V4((0xc0a8_0601 + n).into())).collect();
        let routes = net.routes_to(&asked).expect("answers");
        for (address, found) in asked.iter().zip(routes) {
            let gateway = found.and_then(|found| found.gateway);
            let expected = match address.to_string() {
                text if text.starts_with("192.168.7.") => Some(ip("10.0.0.2")),
                text if text.starts_with("192.168.8.") => Some(ip("fd00::2")),
                _ => None,
            };
            assert_eq!((gateway, found.is_some()), (expected, expected.is_some()), "{address}");
        }
    });
}

#[test]
fn sysctls_of_an_interface_with_a_dot() {
    let namespace = Namespace::new();
    namespace.ip("link add eth0.100 type veth peer name v1");
    namespace.run(|| {
        let name: Sysctl = "net.ipv4.conf.eth0/100.arp_ignore".parse().expect("a name");
        assert_eq!(name.read_number().expect("reads"), 0);
        name.write(1).expect("writes");
        assert_eq!(name.read().expect("reads"), "1");
        let error = name.write("many").expect_err("not a number").to_string();
        assert!(error.contains("\"many\" to /proc/sys/net/ipv4/conf/eth0.100/arp_ignore"), "{error}");
        let missing = Sysctl::ipv4_conf("eth0.101", "arp_ignore").expect("a name");
        assert!(missing.write(1).expect_err("no such interface").is_missing());
    });
}

/// Needs 802.1Q, which this kernel may lack (the VM's has them).
#[test]
fn vlan_devices_resolve_to_their_parent() {
    let namespace = Namespace::new();
    namespace.ip("link add eth0 type veth peer name v1\nlink set eth0 mtu 9000");
    let has_vlans = namespace.run(|| {
        let line = "link add link eth0 name eth0.100 type vlan id 100";
        let output = std::process::Command::new("ip").args(line.split(' ')).output().expect("iproute2");
        let missing = String::from_utf8_lossy(&output.stderr).contains("Unknown device type");
        assert!(output.status.success() || missing, "ip {line}: {output:?}");
        !missing
    });
    if !has_vlans {
        eprintln!("skipped: this kernel has no 802.1Q devices");
        return;
    }
    namespace.ip("link set eth0.100 mtu 1500
         link add link eth0 name service type vlan proto 802.1ad id 7
         link add link service name inner type vlan id 200
         link set inner address 02:00:00:00:00:55
         link add link inner name third type vlan id 1");
    namespace.run_async(|| async {
        let links = Netlink::connect().expect("connects").links().await.expect("lists");
        let one = resolve_attach(&links, "eth0.100").expect("resolves");
        assert_eq!((one.name.as_str(), one.tags(), one.mtu, one.device_mtu), ("eth0", vec![100], 1500, 9000));
        let two = resolve_attach(&links, "inner").expect("resolves");
        assert_eq!((two.name.as_str(), two.mac), ("eth0", [2, 0, 0, 0, 0, 0x55]));
        assert_eq!(two.vlans, [Vlan { tpid: 0x88a8, tag: 7 }, Vlan { tpid: 0x8100, tag: 200 }]);
        assert!(resolve_attach(&links, "third").is_err());
    });
}
