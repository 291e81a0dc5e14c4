//! `lb realserver` on a backend (`there`), seen from its neighbour (`here`).

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::PathBuf,
};

use lb::{
    net::{NeighbourState, Netlink},
    realserver::{self, Change, Error, Paths, Removal, Report, Verdict},
};

use crate::{
    namespace::{Namespace, Pair, THERE_MAC},
    neighbour::{eth0, neighbour, resolve},
};

const VIP4: &str = "172.18.14.100";
const VIP6: &str = "fd00::100";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A backend with its state file.
struct Backend {
    pair: Pair,
    directory: tempfile::TempDir,
}

impl Backend {
    fn new() -> Self {
        let pair = Pair::new();
        // The way to the VIP, so that `here` asks for its MAC on eth0.
        pair.here.ip("route add 172.18.14.100/32 dev eth0");
        Self { pair, directory: tempfile::tempdir().expect("a directory") }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("run/realserver.json")
    }

    fn paths(&self) -> Paths {
        Paths { state: self.state() }
    }

    fn start(&self, vips: &[&str]) -> Result<Report, Error> {
        let (vips, paths) = (vips.iter().map(|v| ip(v)).collect::<Vec<_>>(), self.paths());
        self.pair.there.run_async(move || async move { realserver::start(&vips, &paths).await })
    }

    fn stop(&self, vips: &[&str], removal: Removal) -> Report {
        let (vips, paths) = (vips.iter().map(|v| ip(v)).collect::<Vec<_>>(), self.paths());
        self.pair
            .there
            .run_async(move || async move { realserver::stop(&vips, removal, &paths).await.expect("stops") })
    }

    fn status(&self, vips: &[&str]) -> Report {
        let (vips, paths) = (vips.iter().map(|v| ip(v)).collect::<Vec<_>>(), self.paths());
        self.pair
            .there
            .run_async(move || async move { realserver::status(&vips, &paths).await.expect("looks") })
    }

    /// all/arp_ignore, all/arp_announce, lo/arp_ignore, lo/arp_announce.
    fn sysctls(&self) -> [i64; 4] {
        ["all/arp_ignore", "all/arp_announce", "lo/arp_ignore", "lo/arp_announce"]
            .map(|name| self.pair.there.sysctl_value(&format!("ipv4/conf/{name}")))
    }

    fn on_loopback(&self, vip: &str) -> bool {
        let vip = ip(vip);
        self.pair.there.run_async(move || async move {
            let addresses = Netlink::connect().expect("connects").addresses().await.expect("lists");
            addresses.iter().any(|a| a.ifindex == 1 && a.address == vip)
        })
    }

    /// Sends from the VIP to `here`, after forgetting its MAC, and waits until it has arrived.
    fn send_from(&self, vip: &str, to: &str) {
        let (vip, to) = (ip(vip), ip(to));
        let receiver = self.pair.here.run(move || UdpSocket::bind(SocketAddr::new(to, 0)).expect("binds"));
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a bound");
        let address = receiver.local_addr().expect("an address");
        self.pair.there.ip("neigh flush dev eth0");
        self.pair.there.run(move || {
            let sender = UdpSocket::bind(SocketAddr::new(vip, 0)).expect("the VIP is local");
            sender.send_to(b"hello", address).expect("sends");
        });
        let (_, from) = receiver.recv_from(&mut [0; 16]).expect("arrives");
        assert_eq!(from.ip(), vip);
    }

    /// The MAC that `here` has learnt for an address.
    fn learnt(&self, address: &str) -> Option<[u8; 6]> {
        let address = ip(address);
        self.pair.here.run_async(move || async move {
            let net = Netlink::connect().expect("connects");
            neighbour(&net, eth0(&net).await, address).and_then(|entry| entry.mac)
        })
    }
}

fn wrong(report: &Report) -> Vec<&str> {
    report.items.iter().filter(|i| i.verdict == Verdict::Wrong).map(|i| i.subject.as_str()).collect()
}

#[test]
fn start_status_stop() {
    let backend = Backend::new();
    backend.pair.there.sysctl("ipv4/conf/all/arp_announce", 1);
    let before = backend.status(&[VIP4, VIP6]);
    assert_eq!(
        wrong(&before),
        [
            "172.18.14.100 on lo",
            "fd00::100 on lo",
            "net.ipv4.conf.all.arp_ignore",
            "net.ipv4.conf.all.arp_announce",
        ],
        "what one setting mends is said once"
    );

    let report = backend.start(&[VIP4, VIP6]).expect("starts");
    assert_eq!(report.changes.len(), 6, "{report}");
    assert!(report.is_right(), "{report}");
    assert_eq!(backend.sysctls(), [1, 2, 1, 2]);

    let again = backend.start(&[VIP4, VIP6]).expect("starts");
    assert_eq!(again.changes, []);
    assert!(again.is_right());
    // Without VIPs: those that are started.
    let status = backend.status(&[]);
    assert!(status.is_right() && status.items.iter().any(|i| i.subject == "fd00::100 on lo"), "{status}");

    let report = backend.stop(&[VIP4, VIP6], Removal::Ours);
    assert_eq!((report.changes.len(), report.items.len()), (6, 0), "{report}");
    assert_eq!(backend.sysctls(), [0, 1, 0, 0], "as it was, not zeros");
    assert!(!backend.on_loopback(VIP4) && !backend.on_loopback(VIP6));
    assert!(!backend.state().exists());
    assert_eq!(backend.stop(&[VIP4], Removal::Ours).changes, []);
}

#[test]
fn only_the_given_vip_is_stopped() {
    let backend = Backend::new();
    backend.start(&[VIP4, "172.18.14.101"]).expect("starts");
    let report = backend.stop(&[VIP4], Removal::Ours);
    assert_eq!(report.changes, [Change::Removed { address: ip(VIP4), prefix: 32 }]);
    assert!(backend.on_loopback("172.18.14.101"));
    assert_eq!(backend.sysctls(), [1, 2, 1, 2]);
    backend.stop(&["172.18.14.101"], Removal::Ours);
    assert_eq!(backend.sysctls(), [0; 4]);
}

#[test]
fn an_operators_vip_stays_unless_asked_for() {
    let backend = Backend::new();
    backend.pair.there.ip("address add 172.18.14.100/32 dev lo");
    backend.start(&[VIP4]).expect("starts");
    let report = backend.stop(&[VIP4], Removal::Ours);
    assert!(backend.on_loopback(VIP4));
    assert_eq!(report.items[0].fix.as_deref(), Some("ip address del 172.18.14.100/32 dev lo"));
    assert_eq!(backend.sysctls(), [0; 4]);
    backend.stop(&[VIP4], Removal::Any);
    assert!(!backend.on_loopback(VIP4));
}

#[test]
fn the_loopback_is_set_up_and_ipv6_must_be_on() {
    let backend = Backend::new();
    backend.pair.there.ip("link set lo down");
    let report = backend.start(&[VIP4]).expect("starts");
    assert_eq!(report.changes[0], Change::LoopbackUp);
    assert!(report.is_right(), "{report}");
    backend.pair.there.sysctl("ipv6/conf/lo/disable_ipv6", 1);
    let error = backend.start(&[VIP6]).expect_err("IPv6 is off");
    assert!(error.to_string().contains("sysctl -w net.ipv6.conf.lo.disable_ipv6=0"), "{error}");
    assert!(!backend.on_loopback(VIP6));
}

#[test]
fn a_state_file_serves_one_namespace() {
    let backend = Backend::new();
    backend.start(&[VIP4]).expect("starts");
    let paths = backend.paths();
    let elsewhere = Namespace::new();
    let error = elsewhere
        .run_async(move || async move { realserver::start(&[ip(VIP4)], &paths).await.expect_err("not its") });
    assert!(matches!(error, Error::OtherNamespace { .. }), "{error}");
}

/// The neighbour gets no MAC for the VIP from the backend, neither by asking nor by being asked. Both
/// would happen without `start`.
#[test]
fn arp_is_silent_for_the_vip() {
    let backend = Backend::new();
    backend.pair.there.ip("address add 172.18.14.100/32 dev lo");
    assert_eq!(resolve(&backend.pair.here, ip(VIP4)), NeighbourState::Reachable, "without start it answers");
    backend.pair.here.ip("neigh flush dev eth0");
    backend.send_from(VIP4, "10.0.0.1");
    assert_eq!(backend.learnt(VIP4), Some(THERE_MAC), "without start it announces the VIP");

    backend.pair.here.ip("neigh flush dev eth0");
    backend.start(&[VIP4]).expect("starts");
    assert_eq!(resolve(&backend.pair.here, ip(VIP4)), NeighbourState::Failed);
    backend.send_from(VIP4, "10.0.0.1");
    assert_eq!(backend.learnt(VIP4), None);
    assert_eq!(resolve(&backend.pair.here, ip("10.0.0.2")), NeighbourState::Reachable, "its own it answers");
}

/// IPv6 needs nothing but the address on lo: Linux neither answers a neighbour solicitation for it on
/// another interface nor solicits with it as source; nor does it as a router.
#[test]
fn nd_is_silent_for_a_vip_on_lo() {
    for forwarding in [0, 1] {
        let backend = Backend::new();
        backend.pair.there.sysctl("ipv6/conf/all/forwarding", forwarding);
        backend.pair.there.ip("address add fd00::200/128 dev eth0 nodad");
        assert_eq!(
            resolve(&backend.pair.here, ip("fd00::200")),
            NeighbourState::Reachable,
            "on eth0 it answers"
        );
        backend.start(&[VIP6]).expect("starts");
        assert_eq!(resolve(&backend.pair.here, ip(VIP6)), NeighbourState::Failed, "forwarding {forwarding}");
        backend.send_from(VIP6, "fd00::1");
        assert_eq!(backend.learnt(VIP6), None, "forwarding {forwarding}");
    }
}
