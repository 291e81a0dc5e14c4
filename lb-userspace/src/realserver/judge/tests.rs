use super::*;
use crate::realserver::{Report, facts::Loopback};

const VIP: &str = "172.18.14.100";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn place(interface: &str, address: &str, prefix: u8) -> Placed {
    Placed { interface: interface.into(), address: ip(address), prefix, tentative: false }
}

/// A backend as it should be.
fn backend() -> Facts {
    let mut facts = Facts {
        loopback: Loopback { index: 1, up: true },
        interfaces: vec![Interface { name: "eth0.100".into(), has_xdp: false }],
        addresses: vec![place("lo", VIP, 32), place("eth0.100", "172.18.14.2", 24)],
        ipv4: Default::default(),
        listeners: vec![at("[::]:3306"), at("127.0.0.1:25")],
        ipv6_off: false,
    };
    for (interface, value) in [("all", [1, 2, 0]), ("lo", [1, 2, 0]), ("eth0.100", [0, 0, 0])] {
        for (key, value) in [ARP_IGNORE, ARP_ANNOUNCE, RP_FILTER].into_iter().zip(value) {
            facts.ipv4.insert((interface.to_owned(), key), value);
        }
    }
    facts
}

fn set_to(mut facts: Facts, interface: &str, key: &'static str, value: i64) -> Facts {
    facts.ipv4.insert((interface.to_owned(), key), value);
    facts
}

/// What is not right, as (verdict, subject, fix).
fn complaints(facts: &Facts, vip: &str) -> Vec<(Verdict, String, String)> {
    judge(facts, &[ip(vip)].into())
        .into_iter()
        .filter(|item| item.verdict != Verdict::Right)
        .map(|item| (item.verdict, item.subject, item.fix.expect("every complaint has a remedy")))
        .collect()
}

#[track_caller]
fn check(facts: &Facts, expected: &[(Verdict, &str, &str)]) {
    let found = complaints(facts, VIP);
    let found: Vec<_> = found.iter().map(|(v, s, f)| (*v, s.as_str(), f.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_backend_as_it_should_be() {
    check(&backend(), &[]);
    let items = judge(&backend(), &[ip(VIP)].into());
    let subjects: Vec<_> = items.iter().map(|item| item.subject.as_str()).collect();
    assert_eq!(
        subjects,
        [
            "172.18.14.100 on lo",
            "TCP servers at 172.18.14.100",
            "net.ipv4.conf.all.arp_ignore",
            "net.ipv4.conf.lo.arp_ignore",
            "net.ipv4.conf.eth0/100.arp_ignore",
            "net.ipv4.conf.all.arp_announce",
            "net.ipv4.conf.lo.arp_announce",
            "net.ipv4.conf.eth0/100.arp_announce",
        ]
    );
}

#[test]
fn a_server_listens_on_the_vip_or_elsewhere_alone() {
    let found = |listeners: &[&str]| {
        let facts = Facts { listeners: listeners.iter().copied().map(at).collect(), ..backend() };
        let items = judge(&facts, &[ip(VIP)].into());
        let item = items.into_iter().find(|item| item.subject.starts_with("TCP")).expect("it is there");
        (item.verdict, item.found)
    };
    use Verdict::{Note, Right};
    assert_eq!(found(&["[::]:80", "172.18.14.100:22"]), (Right, "ports 22, 80".to_owned()));
    assert_eq!(found(&["127.0.0.1:3306", "172.18.14.9:3306"]), (Note, "none".to_owned()), "nobody's address");
    let alone = (Note, "port 3306 is served on 172.18.14.2 alone".to_owned());
    assert_eq!(found(&["0.0.0.0:22", "172.18.14.2:3306"]), alone);
    assert_eq!(found(&["172.18.14.100:3306", "172.18.14.2:3306"]), (Right, "ports 3306".to_owned()));
}

#[test]
fn the_vip_is_missing_or_has_another_prefix_or_is_elsewhere() {
    use Verdict::{Note, Wrong};
    let mut facts = backend();
    facts.addresses.retain(|placed| placed.interface != "lo");
    check(&facts, &[(Wrong, "172.18.14.100 on lo", "lb realserver start 172.18.14.100")]);

    let mut facts = backend();
    facts.addresses[0].prefix = 24;
    let fix = "ip address del 172.18.14.100/24 dev lo && lb realserver start 172.18.14.100";
    check(&facts, &[(Wrong, "172.18.14.100 on lo", fix)]);

    let mut facts = backend();
    facts.addresses.push(place("eth0.100", VIP, 32));
    let fix = "ip address del 172.18.14.100/32 dev eth0.100";
    check(&facts, &[(Wrong, "172.18.14.100 on eth0.100", fix)]);
    facts.interfaces[0].has_xdp = true;
    check(&facts, &[(Note, "172.18.14.100 on eth0.100", fix)]);
}

#[test]
fn the_larger_of_all_and_the_interface_counts() {
    use Verdict::{Note, Wrong};
    let off = set_to(set_to(backend(), "all", ARP_IGNORE, 0), "lo", ARP_IGNORE, 0);
    let fix = "sysctl -w net.ipv4.conf.all.arp_ignore=1";
    // Said once.
    check(&off, &[(Wrong, "net.ipv4.conf.all.arp_ignore", fix)]);
    let own = set_to(off, "eth0.100", ARP_IGNORE, 1);
    check(&own, &[(Note, "net.ipv4.conf.all.arp_ignore", fix)]);
    // 3 on the interface beats 1 on all, and answers for addresses on lo.
    let three = set_to(backend(), "eth0.100", ARP_IGNORE, 3);
    let fix = "sysctl -w net.ipv4.conf.eth0/100.arp_ignore=1";
    check(&three, &[(Wrong, "net.ipv4.conf.eth0/100.arp_ignore", fix)]);
}

/// As it is read at night: what is wrong first, and a last line that says how it all is.
#[test]
fn the_worst_comes_first_and_a_last_line_sums_up() {
    let text = |facts: &Facts| Report::new(Vec::new(), judge(facts, &[ip(VIP)].into())).to_string();
    let last = |text: &str| text.lines().last().map(str::to_owned).unwrap_or_default();
    assert_eq!(last(&text(&backend())), "nothing is wrong; 8 things are right");
    let off = set_to(set_to(backend(), "all", ARP_ANNOUNCE, 0), "lo", ARP_ANNOUNCE, 0);
    let off = text(&off);
    assert!(off.starts_with("WRONG  net.ipv4.conf.all.arp_announce: 0\n       causes:  this host"), "{off}");
    assert!(off.contains("\n       mend it: sysctl -w net.ipv4.conf.all.arp_announce=2"), "{off}");
    assert_eq!(last(&off), "1 wrong, 5 right");
}

#[test]
fn strict_reverse_path_is_noted_where_there_are_two_ways() {
    let mut facts = set_to(backend(), "all", RP_FILTER, 1);
    check(&facts, &[]);
    facts.interfaces.push(Interface { name: "eth1".into(), has_xdp: false });
    let subjects: Vec<_> = complaints(&facts, VIP).into_iter().map(|(v, s, _)| (v, s)).collect();
    assert_eq!(
        subjects,
        [
            (Verdict::Note, "net.ipv4.conf.eth0/100.rp_filter".to_owned()),
            (Verdict::Note, "net.ipv4.conf.eth1.rp_filter".to_owned()),
        ]
    );
}

#[test]
fn ipv6_has_no_arp_items() {
    let mut facts = backend();
    facts.ipv4.values_mut().for_each(|value| *value = 0);
    facts.addresses.push(place("lo", "fd00::100", 128));
    assert_eq!(complaints(&facts, "fd00::100"), []);
    facts.addresses.last_mut().expect("just pushed").tentative = true;
    assert_eq!(complaints(&facts, "fd00::100").len(), 1);
}
