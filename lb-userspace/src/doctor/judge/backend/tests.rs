use super::*;

const VIP: &str = "10.0.0.100";
const OWN: &str = "10.0.0.11";
const MAC: Mac = [2, 0, 0, 0, 0, 11];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn open(from: &str) -> Reply {
    Reply::Open { from: ip(from), mss: None }
}

fn refused(from: &str) -> Reply {
    Reply::Refused { from: ip(from) }
}

fn echoed(from: &str) -> Reply {
    Reply::Echoed { from: ip(from) }
}

/// A TCP way with these replies.
fn facts(vip: Reply, own: Reply, second: Option<(Reply, Reply)>) -> Facts {
    let way = Way {
        service: "web".into(),
        vip: format!("{VIP}:80").parse().expect("an address"),
        protocol: Protocol::Tcp,
        backend: format!("{OWN}:80").parse().expect("an address"),
        next: Next::Host { ifindex: 1, mac: MAC, tags: (0, 0), mtu: 1500 },
        out: false,
    };
    Facts {
        way,
        source: ip("10.0.0.1"),
        first: Pair { vip, own },
        second: second.map_or(Pair { vip: SILENT, own: SILENT }, |(vip, own)| Pair { vip, own }),
        datagram: None,
        across: None,
        owners: [MAC].into(),
        health: None,
    }
}

fn udp(facts: Facts) -> Facts {
    Facts { way: Way { protocol: Protocol::Udp, ..facts.way }, ..facts }
}

#[track_caller]
fn finds(facts: &Facts, ids: &[Id]) {
    let found: Vec<_> = judge(facts).iter().map(|finding| finding.id).collect();
    assert_eq!(found, ids, "{facts:#?}");
}

const SILENT: Reply = Reply::Silent;

#[test]
fn a_tcp_way() {
    let unreachable = Reply::Unreachable { by: ip(OWN) };
    for (vip, own, second, ids) in [
        (open(VIP), open(OWN), None, &[][..]),
        // A firewall that keeps its own address closed is nobody's business.
        (open(VIP), SILENT, None, &[]),
        (refused(VIP), refused(OWN), None, &[Id::PortClosed]),
        (refused(VIP), SILENT, None, &[Id::PortClosed]),
        (refused(VIP), open(OWN), None, &[Id::NotOnVip]),
        (open(OWN), open(OWN), None, &[Id::WrongSource]),
        (refused(OWN), refused(OWN), None, &[Id::WrongSource]),
        (SILENT, open(OWN), Some((SILENT, SILENT)), &[Id::VipMissing]),
        (SILENT, SILENT, Some((SILENT, echoed(OWN))), &[Id::VipMissing]),
        (Reply::Expired { by: ip(OWN) }, open(OWN), None, &[Id::VipMissing]),
        (SILENT, open(OWN), Some((Reply::Expired { by: ip(OWN) }, echoed(OWN))), &[Id::VipMissing]),
        (SILENT, SILENT, Some((echoed(VIP), echoed(OWN))), &[Id::Filtered]),
        (SILENT, SILENT, Some((echoed(OWN), echoed(OWN))), &[Id::WrongSource]),
        (unreachable, open(OWN), None, &[Id::Rejected]),
        (SILENT, SILENT, Some((SILENT, SILENT)), &[Id::BackendSilent]),
        (Reply::Unsent, Reply::Unsent, None, &[Id::BackendSilent]),
    ] {
        finds(&facts(vip, own, second), ids);
    }
}

#[test]
fn nobody_need_listen_on_udp_or_a_range() {
    for (vip, own, second, ids) in [
        (echoed(VIP), echoed(OWN), None, &[][..]),
        (echoed(OWN), echoed(OWN), None, &[Id::WrongSource]),
        (SILENT, SILENT, Some((refused(VIP), refused(OWN))), &[]),
        (SILENT, echoed(OWN), Some((SILENT, SILENT)), &[Id::VipMissing]),
        (SILENT, SILENT, Some((SILENT, refused(OWN))), &[Id::VipMissing]),
    ] {
        finds(&udp(facts(vip, own, second)), ids);
        let mut range = facts(vip, own, second);
        range.way.vip.set_port(0);
        finds(&range, ids);
    }
}

#[test]
fn a_udp_port_is_closed_if_it_says_so() {
    let no_port = |by| Reply::NoPort { by: ip(by) };
    let told = |from| Reply::Told { from: ip(from) };
    for (vip, own, ids) in [
        // Whoever is there says nothing to an empty datagram, mostly.
        (SILENT, SILENT, &[][..]),
        (told(VIP), told(OWN), &[]),
        (no_port(VIP), no_port(OWN), &[Id::PortClosed]),
        (no_port(VIP), SILENT, &[Id::PortClosed]),
        (no_port(VIP), told(OWN), &[Id::NotOnVip]),
        (Reply::Unreachable { by: ip(OWN) }, SILENT, &[Id::Rejected]),
        (told(OWN), told(OWN), &[Id::WrongSource]),
    ] {
        let asked = Facts { datagram: Some(Pair { vip, own }), ..udp(facts(echoed(VIP), echoed(OWN), None)) };
        finds(&asked, ids);
        // Its check says so too: one finding, of the cause.
        let health = Some(Health { passes: false, words: "udp".into(), through_vip: true });
        let ids = if ids.is_empty() { &[Id::CheckWrong] } else { ids };
        finds(&Facts { health, ..asked }, ids);
    }
    let own_alone = Some(Pair { vip: no_port(VIP), own: SILENT });
    let own_alone = Facts { datagram: own_alone, ..udp(facts(echoed(VIP), echoed(OWN), None)) };
    assert!(judge(&own_alone)[0].fix.contains("let it listen on 10.0.0.100 too"));
}

#[test]
fn another_mac() {
    let silent = facts(SILENT, SILENT, Some((SILENT, SILENT)));
    finds(&Facts { owners: [[9; 6]].into(), ..silent.clone() }, &[Id::MacChanged]);
    finds(&Facts { owners: BTreeSet::new(), ..silent }, &[Id::BackendSilent]);
}

#[test]
fn from_another_segment() {
    let across = |vip| Some(Across { source: ip("10.9.0.1"), device: "eth1".into(), vip });
    let good = facts(open(VIP), open(OWN), None);
    finds(&Facts { across: across(open(VIP)), ..good.clone() }, &[]);
    finds(&Facts { across: across(SILENT), ..good }, &[Id::ReversePath]);
    // It is dead from everywhere.
    let dead = facts(SILENT, open(OWN), Some((SILENT, SILENT)));
    finds(&Facts { across: across(SILENT), ..dead }, &[Id::VipMissing]);
}

#[test]
fn checks_that_know_better() {
    let health = |passes| Some(Health { passes, words: "tcp".into(), through_vip: false });
    let good = facts(open(VIP), open(OWN), None);
    let dead = facts(SILENT, open(OWN), Some((SILENT, SILENT)));
    finds(&Facts { health: health(true), ..good.clone() }, &[]);
    finds(&Facts { health: health(false), ..good }, &[Id::CheckWrong]);
    finds(&Facts { health: health(true), ..dead.clone() }, &[Id::VipMissing, Id::CheckBlind]);
    finds(&Facts { health: health(false), ..dead.clone() }, &[Id::VipMissing]);
    // It is about to find it.
    let through = Health { passes: true, words: "tcp".into(), through_vip: true };
    finds(&Facts { health: Some(through), ..dead.clone() }, &[Id::VipMissing]);
    // One that is out of the pool already is no error any more.
    let mut out = Facts { health: health(false), ..dead };
    out.way.out = true;
    assert_eq!(judge(&out)[0].severity, Severity::Warning);
}

#[test]
fn what_to_do_names_the_backend_and_the_vip() {
    let found = judge(&facts(SILENT, open(OWN), Some((SILENT, SILENT))));
    assert_eq!(found[0].subject, "VIP 10.0.0.100 at backend 10.0.0.11");
    assert!(found[0].fix.starts_with("on 10.0.0.11: lb realserver start 10.0.0.100"), "{}", found[0].fix);
}
