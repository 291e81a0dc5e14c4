//! Rules about where clients come from change under traffic.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use lb_common::{
    endpoint::flag,
    source::{MAX_RULES, RULE_ENTRIES, Rule},
};
use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    build::{desired, service},
    kernel::{Kernel, SIZES},
};
use crate::{
    model::{Service, Sources, sources::rule},
    plan::{Op, Snapshot, plan},
};

/// Rules about few networks that lie in each other.
fn sources() -> impl Strategy<Value = Sources> {
    let network = (0..4u8, 0..3u8).prop_map(|(length, place)| match length {
        0 => "0.0.0.0/0".to_owned(),
        1 => format!("{}.0.0.0/8", 10 + place),
        2 => format!("10.{place}.0.0/16"),
        _ => format!("10.1.{place}.0/24"),
    });
    let action = prop_oneof![Just("allow"), Just("deny"), Just("limit 5/s"), Just("limit 7/s per 24")];
    let one =
        (network, action).prop_map(|(network, action)| rule(&format!("{network} {action}")).expect("a rule"));
    vec(one, 0..8).prop_map(|rules| rules.into_iter().collect())
}

fn ruled(sources: Sources) -> Service {
    Service { sources, ..service("web", 80, &["192.0.2.11"]) }
}

/// What a client of `address` meets, as the program looks it up.
fn met(now: &Snapshot, address: IpAddr) -> Option<Rule> {
    let endpoint = now.endpoints.values().find(|endpoint| endpoint.has(flag::OPEN))?;
    if !endpoint.has(flag::RULED) {
        return Some(Rule::ALLOW);
    }
    let its = now.rules.iter().filter(|(key, _)| key.service == endpoint.service());
    let longest =
        its.filter(|(key, _)| key.network.contains(&address)).max_by_key(|(key, _)| key.network.prefix_len());
    Some(longest.map_or(Rule::ALLOW, |(_, rule)| *rule))
}

/// Addresses of every network, and of none.
fn clients() -> Vec<IpAddr> {
    [
        "10.1.0.1", "10.1.1.1", "10.1.2.1", "10.1.9.1", "10.0.0.1", "10.2.0.1", "10.9.0.1", "11.1.1.1",
        "12.1.1.1", "99.1.1.1",
    ]
    .map(|address| address.parse().expect("an address"))
    .to_vec()
}

proptest! {
    /// At any time a client meets the rule that it had, or the one that it is to have: no list is half another one.
    #[test]
    fn each_client_goes_from_its_old_rule_to_its_new_one(
        steps in vec(sources(), 2..6),
        dies in any::<Index>(),
    ) {
        let mut kernel = Kernel::new(SIZES);
        for (n, sources) in steps.iter().enumerate() {
            let want = desired(&[ruled(sources.clone())]);
            let before: BTreeMap<IpAddr, Option<Rule>> =
                clients().into_iter().map(|client| (client, met(&kernel.snapshot(), client))).collect();
            let mut done = Kernel::new(SIZES);
            done.apply(&plan(&want, &done.snapshot()).expect("a plan"));
            let after = done.snapshot();
            // An agent dies somewhere on its way, and the next one goes on.
            let mut ops = plan(&want, &kernel.snapshot()).expect("a plan");
            if n == 1 && !ops.is_empty() {
                ops.truncate(dies.index(ops.len()));
            }
            for ops in [ops, Vec::new()] {
                let ops = if ops.is_empty() { plan(&want, &kernel.snapshot()).expect("a plan") } else { ops };
                kernel.apply_each(&ops, |kernel, op| {
                    for (client, before) in &before {
                        let now = met(&kernel.snapshot(), *client);
                        assert!(now == *before || now == met(&after, *client), "{client} meets {now:?} after {op:?}");
                    }
                });
            }
            prop_assert_eq!(plan(&want, &kernel.snapshot()), Ok(vec![]));
            for client in clients() {
                prop_assert_eq!(met(&kernel.snapshot(), client), met(&after, client));
                let longest = sources.iter().filter(|(network, _)| network.contains(&client));
                let denied = longest.max_by_key(|(network, _)| network.prefix_len());
                let denied = denied.is_some_and(|(_, rule)| rule.to_string() == "deny");
                prop_assert_eq!(met(&after, client) == Some(Rule::DENY), denied);
            }
        }
    }
}

/// Two agents have died while they replaced all rules: what is left of their lists goes before the third one comes.
#[test]
fn what_dead_agents_left_makes_room() {
    let list = |first: u8| -> Sources {
        let text = |n: u32| format!("{}/32 deny", Ipv4Addr::from((u32::from(first) << 24) + n));
        (0..MAX_RULES).map(|n| rule(&text(n)).expect("a rule")).collect()
    };
    let mut kernel = Kernel::new(SIZES);
    for first in [10, 11, 12] {
        let ops = plan(&desired(&[ruled(list(first))]), &kernel.snapshot()).expect("a plan");
        let mut stored = kernel.snapshot().rules.len();
        for op in &ops {
            match op {
                Op::SetRule { .. } => stored += 1,
                Op::DeleteRule { .. } => stored -= 1,
                _ => {}
            }
            assert!(stored <= RULE_ENTRIES as usize, "the trie has no room");
        }
        // The first two die before they take away.
        let dies = |op: &&Op| first != 12 && matches!(op, Op::DeleteRule { .. });
        let done: Vec<Op> = ops.iter().filter(|op| !dies(op)).cloned().collect();
        kernel.apply(&done);
    }
    assert_eq!(kernel.snapshot().rules.len(), MAX_RULES as usize);
}

#[test]
fn limits_are_compiled_for_the_kernels_clock() {
    let both: Vec<(IpNet, _)> = ["0.0.0.0/0 limit 100/s", "10.0.0.0/8 limit 30/m burst 7 per 24"]
        .map(|text| rule(text).expect("a rule"))
        .to_vec();
    let want = desired(&[ruled(both.into_iter().collect())]);
    let mut kernel = Kernel::new(SIZES);
    kernel.apply(&plan(&want, &kernel.snapshot()).expect("a plan"));
    let rules: Vec<Rule> = kernel.snapshot().rules.into_values().collect();
    assert_eq!(rules, [Rule::limit(6000, 200, 32, 250), Rule::limit(30, 7, 24, 250)]);
}
