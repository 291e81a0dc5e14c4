//! MAC resolution by the kernel.

use std::net::IpAddr;

use lb::net::{Event, Events, Neighbour, NeighbourState, Netlink, Probe};

use crate::{
    link::event,
    namespace::{Namespace, Pair, THERE_MAC},
};

const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

/// Index of `eth0`.
pub async fn eth0(net: &Netlink) -> u32 {
    net.links().await.expect("lists").iter().find(|link| link.name == "eth0").expect("eth0").index
}

/// What is begun about one address.
fn probe(net: &Netlink, ifindex: u32, address: IpAddr) -> Probe {
    let outcomes = net.probe(&[(ifindex, address)]).expect("probes");
    outcomes.into_iter().next().expect("an outcome").expect("begins")
}

/// An entry as it is now.
pub fn neighbour(net: &Netlink, ifindex: u32, address: IpAddr) -> Option<Neighbour> {
    net.neighbours_of(&[(ifindex, address)]).expect("asks").into_iter().next().expect("an answer")
}

/// Probes an address over `eth0` until it is known whether it answers.
pub fn resolve(namespace: &Namespace, address: IpAddr) -> NeighbourState {
    namespace.run_async(move || async move {
        let net = Netlink::connect().expect("connects");
        let mut events = Events::subscribe().expect("subscribes");
        probe(&net, eth0(&net).await, address);
        settled(&mut events, address).await.state
    })
}

/// The next state of an address that is no longer a question.
async fn settled(events: &mut Events, address: IpAddr) -> Neighbour {
    use NeighbourState::{Failed, Reachable};
    event(events, |e| match e {
        Event::Neighbour(n) if n.address == address && matches!(n.state, Reachable | Failed) => Some(*n),
        _ => None,
    })
    .await
}

fn resolves_and_notices_a_new_mac(text: &str) {
    let pair = Pair::new();
    let address: IpAddr = text.parse().expect("an address");
    let Pair { here, there } = pair;
    here.run_async(move || async move {
        let net = Netlink::connect().expect("connects");
        let eth0 = eth0(&net).await;
        let mut events = Events::subscribe().expect("subscribes");
        assert_eq!(neighbour(&net, eth0, address), None);

        assert_eq!(probe(&net, eth0, address), Probe::Resolving);
        let found = settled(&mut events, address).await;
        assert_eq!((found.mac, found.state), (Some(THERE_MAC), NeighbourState::Reachable));
        assert_eq!(neighbour(&net, eth0, address), Some(found));
        assert!(net.neighbours().await.expect("lists").contains(&found));

        // Verified by unicast, and confirmed.
        assert_eq!(probe(&net, eth0, address), Probe::Verifying);
        assert_eq!(settled(&mut events, address).await, found);

        // The NIC is swapped, without a word.
        there.ip("link set eth0 address 02:00:00:00:00:22");
        assert_eq!(probe(&net, eth0, address), Probe::Verifying);
        let next = settled(&mut events, address).await;
        // The kernel of the other end may have announced the new MAC itself (IPv6 does).
        if next.state == NeighbourState::Failed {
            assert_eq!(probe(&net, eth0, address), Probe::Resolving);
        }
        event(&mut events, |e| {
            matches!(e, Event::Neighbour(n) if n.address == address && n.mac == Some(NEW_MAC)).then_some(())
        })
        .await;
    });
}

#[test]
fn ipv4_resolves_and_notices_a_new_mac() {
    resolves_and_notices_a_new_mac("10.0.0.2");
}

#[test]
fn ipv6_resolves_and_notices_a_new_mac() {
    resolves_and_notices_a_new_mac("fd00::2");
}

#[test]
fn mcast_resolicit_finds_the_new_mac_without_failing() {
    let Pair { here, there } = Pair::new();
    here.sysctl("ipv4/neigh/eth0/mcast_resolicit", 3);
    // An answer with another MAC counts only a second after the last change (`arp_process`, LOCKTIME),
    // which is long over when the broadcasts begin - but not with the short `retrans_time_ms` of these tests.
    here.sysctl("ipv4/neigh/eth0/locktime", 0);
    let address: IpAddr = "10.0.0.2".parse().expect("an address");
    assert_eq!(resolve(&here, address), NeighbourState::Reachable);
    there.ip("link set eth0 address 02:00:00:00:00:22");
    assert_eq!(resolve(&here, address), NeighbourState::Reachable);
    here.run_async(move || async move {
        let net = Netlink::connect().expect("connects");
        let entry = neighbour(&net, eth0(&net).await, address).expect("an entry");
        assert_eq!(entry.mac, Some(NEW_MAC));
    });
}

#[test]
fn nobody_there_fails_and_can_be_probed_again() {
    let pair = Pair::new();
    for text in ["10.0.0.9", "fd00::9"] {
        let address: IpAddr = text.parse().expect("an address");
        assert_eq!(resolve(&pair.here, address), NeighbourState::Failed, "{text}");
        assert_eq!(resolve(&pair.here, address), NeighbourState::Failed, "{text} again");
    }
}

#[test]
fn many_are_asked_at_once_and_each_has_its_own_answer() {
    let pair = Pair::new();
    let fixed = |n: u32| IpAddr::V4((0x0a00_0100 + n).into());
    let neighbours: String = (0..300)
        .filter(|n| n % 3 != 0)
        .map(|n| {
            format!("neigh add {} lladdr 02:00:00:00:00:{:02x} dev eth0 nud permanent\n", fixed(n), n % 256)
        })
        .collect();
    pair.here.ip(format!("addr add 10.0.1.1/16 dev eth0\n{neighbours}"));
    pair.here.run_async(move || async move {
        let net = Netlink::connect().expect("connects");
        let eth0 = eth0(&net).await;
        let mut hosts: Vec<_> = (0..300).map(|n| (eth0, fixed(n))).collect();
        let known = net.neighbours_of(&hosts).expect("asks");
        for (n, entry) in known.iter().enumerate() {
            let mac = entry.and_then(|entry| entry.mac);
            assert_eq!(mac, (n % 3 != 0).then_some([2, 0, 0, 0, 0, (n % 256) as u8]), "host {n}");
        }
        // No such interface: refused, and nobody else minds.
        hosts.push((9999, fixed(7)));
        let outcomes = net.probe(&hosts).expect("probes");
        let (last, others) = outcomes.split_last().expect("outcomes");
        for (entry, outcome) in known.iter().zip(others) {
            let expected = if entry.is_some() { Probe::Fixed } else { Probe::Resolving };
            assert_eq!(outcome.as_ref().ok(), Some(&expected));
        }
        assert_eq!(last.as_ref().expect_err("no interface").errno(), Some(libc::ENODEV));
    });
}

#[test]
fn an_operators_entry_is_left_alone() {
    let pair = Pair::new();
    pair.here.ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    pair.here.run_async(|| async {
        let net = Netlink::connect().expect("connects");
        let eth0 = eth0(&net).await;
        let address: IpAddr = "10.0.0.2".parse().expect("an address");
        assert_eq!(probe(&net, eth0, address), Probe::Fixed);
        let entry = neighbour(&net, eth0, address).expect("an entry");
        assert_eq!((entry.mac, entry.state), (Some([2, 0, 0, 0, 0, 0x99]), NeighbourState::Permanent));
    });
}

#[test]
fn a_deleted_entry_is_told() {
    let pair = Pair::new();
    pair.here.ip("neigh add 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0 nud permanent");
    pair.here.run_async(|| async {
        let mut events = Events::subscribe().expect("subscribes");
        let status = std::process::Command::new("ip").args("neigh del 10.0.0.2 dev eth0".split(' ')).status();
        assert!(status.expect("iproute2").success());
        let gone = |e: &Event| {
            matches!(e, Event::NeighbourGone { address, .. } if address.to_string() == "10.0.0.2")
                .then_some(())
        };
        event(&mut events, gone).await;
    });
}
