use super::*;
use crate::realserver::facts::{Interface, Loopback, Placed};

const V4: &str = "172.18.14.100";
const V6: &str = "fd00::100";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn vips(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn key(interface: &str, name: &str) -> Sysctl {
    Sysctl::ipv4_conf(interface, name).expect("a name")
}

/// A host as it comes: nothing set.
fn host() -> Facts {
    Facts {
        loopback: Loopback { index: 1, up: true },
        interfaces: vec![Interface { name: "eth0".into(), has_xdp: false }],
        addresses: Vec::new(),
        ipv4: ["all", "lo", "eth0"]
            .into_iter()
            .flat_map(|i| [((i.to_owned(), ARP_IGNORE), 0), ((i.to_owned(), ARP_ANNOUNCE), 0)])
            .collect(),
        listeners: Vec::new(),
        ipv6_off: false,
    }
}

fn with(mut facts: Facts, interface: &str, name: &'static str, value: i64) -> Facts {
    facts.ipv4.insert((interface.to_owned(), name), value);
    facts
}

fn placed(mut facts: Facts, address: &str, prefix: u8) -> Facts {
    facts.addresses.push(Placed { interface: "lo".into(), address: ip(address), prefix, tentative: false });
    facts
}

/// The host after these changes, as the kernel would have it.
fn after(mut facts: Facts, changes: &[Change]) -> Facts {
    for change in changes {
        match change {
            Change::LoopbackUp => facts.loopback.up = true,
            Change::Added { address, prefix } => facts.addresses.push(Placed {
                interface: "lo".into(),
                address: *address,
                prefix: *prefix,
                tentative: false,
            }),
            Change::Removed { address, prefix } => {
                facts.addresses.retain(|p| (p.address, p.prefix) != (*address, *prefix));
            }
            Change::Set { key: to_set, to, .. } | Change::Restored { key: to_set, to, .. } => {
                for ((interface, name), value) in &mut facts.ipv4 {
                    if key(interface, name) == *to_set {
                        *value = *to;
                    }
                }
            }
        }
    }
    facts
}

fn started(facts: Facts, state: State, addresses: &[&str]) -> (Facts, State) {
    let plan = start(&facts, state, &vips(addresses)).expect("a plan");
    (after(facts, &plan.changes), plan.state)
}

fn set(interface: &str, name: &str, to: i64) -> Change {
    Change::Set { key: key(interface, name), from: 0, to }
}

#[test]
fn arp_is_silenced_before_the_vip_is_there() {
    let plan = start(&host(), State::default(), &vips(&[V4])).expect("a plan");
    assert_eq!(
        plan.changes,
        [
            set("all", ARP_IGNORE, 1),
            set("all", ARP_ANNOUNCE, 2),
            set("lo", ARP_IGNORE, 1),
            set("lo", ARP_ANNOUNCE, 2),
            Change::Added { address: ip(V4), prefix: 32 },
        ]
    );
    assert_eq!(plan.state.vips[&ip(V4)], Started { added: true });
    assert_eq!(plan.state.sysctls.len(), 4);
}

#[test]
fn starting_again_changes_nothing_and_keeps_the_originals() {
    let facts = with(host(), "all", ARP_ANNOUNCE, 1);
    let (facts, state) = started(facts, State::default(), &[V4]);
    assert_eq!(state.sysctls[&key("all", ARP_ANNOUNCE)], Saved { before: 1, set: 2 });
    let again = start(&facts, state.clone(), &vips(&[V4])).expect("a plan");
    assert_eq!(again, StartPlan { state: state.clone(), changes: vec![] });

    // Somebody undoes a setting: it is set again, and the original stays the original.
    let mended = start(&with(facts, "all", ARP_ANNOUNCE, 0), state.clone(), &vips(&[V4])).expect("a plan");
    assert_eq!(mended, StartPlan { state, changes: vec![set("all", ARP_ANNOUNCE, 2)] });
}

#[test]
fn ipv6_needs_no_arp_and_the_loopback_comes_up() {
    let mut facts = host();
    facts.loopback.up = false;
    let plan = start(&facts, State::default(), &vips(&[V6])).expect("a plan");
    assert_eq!(plan.changes, [Change::LoopbackUp, Change::Added { address: ip(V6), prefix: 128 }]);
    facts.ipv6_off = true;
    assert!(matches!(start(&facts, State::default(), &vips(&[V6])), Err(Error::Ipv6Off { .. })));
    assert!(start(&facts, State::default(), &vips(&[V4])).is_ok());
}

#[test]
fn a_stricter_setting_of_the_operator_stays() {
    let facts = with(host(), "all", ARP_IGNORE, 2);
    let plan = start(&facts, State::default(), &vips(&[V4])).expect("a plan");
    assert!(!plan.state.sysctls.contains_key(&key("all", ARP_IGNORE)));
    // 3 would answer for a VIP on lo.
    let facts = with(host(), "all", ARP_IGNORE, 3);
    let plan = start(&facts, State::default(), &vips(&[V4])).expect("a plan");
    assert_eq!(plan.state.sysctls[&key("all", ARP_IGNORE)], Saved { before: 3, set: 1 });
}

#[test]
fn stop_gives_back_the_host_as_it_was() {
    let before = with(with(host(), "lo", ARP_IGNORE, 3), "all", ARP_ANNOUNCE, 1);
    let (facts, state) = started(before.clone(), State::default(), &[V4, V6]);
    let plan = stop(&facts, state, &vips(&[V4, V6]), Removal::Ours);
    assert_eq!(plan.changes[0], Change::Removed { address: ip(V4), prefix: 32 }, "before ARP answers again");
    assert_eq!(after(facts, &plan.changes), before);
    assert_eq!((plan.state, plan.notes), (State::default(), vec![]));
}

#[test]
fn arp_stays_silent_until_the_last_ipv4_vip_is_stopped() {
    let (facts, state) = started(host(), State::default(), &[V4, "172.18.14.101", V6]);
    let first = stop(&facts, state, &vips(&[V4]), Removal::Ours);
    assert_eq!(first.changes, [Change::Removed { address: ip(V4), prefix: 32 }]);
    assert_eq!(first.state.sysctls.len(), 4);
    let facts = after(facts, &first.changes);
    let second = stop(&facts, first.state, &vips(&["172.18.14.101"]), Removal::Ours);
    let restored = second.changes.iter().filter(|c| matches!(c, Change::Restored { to: 0, .. })).count();
    assert_eq!(restored, 4);
    assert_eq!(second.state.vips.keys().copied().collect::<Vec<_>>(), [ip(V6)]);
}

#[test]
fn a_vip_that_was_there_before_stays_the_operators() {
    let before = placed(host(), V4, 32);
    let (facts, state) = started(before.clone(), State::default(), &[V4]);
    assert_eq!(state.vips[&ip(V4)], Started { added: false });
    let plan = stop(&facts, state.clone(), &vips(&[V4]), Removal::Ours);
    assert_eq!(after(facts.clone(), &plan.changes), before, "the sysctls go back, the address stays");
    assert_eq!(plan.notes.len(), 1);
    assert_eq!(plan.notes[0].fix.as_deref(), Some("ip address del 172.18.14.100/32 dev lo"));

    let plan = stop(&facts, state, &vips(&[V4]), Removal::Any);
    assert_eq!(after(facts, &plan.changes), host());
}

#[test]
fn a_vip_that_was_never_started_is_not_touched() {
    let (facts, state) = started(host(), State::default(), &[V4]);
    let plan = stop(&facts, state.clone(), &vips(&["10.9.9.9"]), Removal::Ours);
    assert_eq!((plan.changes, plan.state), (vec![], state));
    assert_eq!(plan.notes[0].subject, "10.9.9.9");
}

#[test]
fn a_setting_that_was_changed_meanwhile_is_left() {
    let (facts, state) = started(host(), State::default(), &[V4]);
    let facts = with(facts, "all", ARP_IGNORE, 2);
    let plan = stop(&facts, state, &vips(&[V4]), Removal::Ours);
    assert!(
        !plan
            .changes
            .iter()
            .any(|c| matches!(c, Change::Restored { key: k, .. } if *k == key("all", ARP_IGNORE)))
    );
    assert_eq!(plan.notes[0].fix.as_deref(), Some("sysctl -w net.ipv4.conf.all.arp_ignore=0"));
    assert_eq!(plan.state, State::default());
}

#[test]
fn a_stop_that_was_cut_short_can_be_repeated() {
    let (facts, state) = started(host(), State::default(), &[V4]);
    let plan = stop(&facts, state.clone(), &vips(&[V4]), Removal::Ours);
    for done in 0..plan.changes.len() {
        let facts = after(facts.clone(), &plan.changes[..done]);
        let again = stop(&facts, state.clone(), &vips(&[V4]), Removal::Ours);
        assert_eq!(again.changes, plan.changes[done..], "after {done} changes");
        assert_eq!((again.state, again.notes), (State::default(), vec![]));
    }
}
