//! Rules about where clients come from.

use std::{cmp::Reverse, collections::BTreeMap};

use ipnet::IpNet;
use lb_common::source::{RULE_ENTRIES, Rule};

use super::{Op, steps::Planner};
use crate::model::{ServiceName, SourceRule};

/// Key of either trie of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleKey {
    pub service: u16,
    pub network: IpNet,
}

impl Planner<'_> {
    /// Set from the longest prefix to the shortest, and taken away from the shortest to the longest: so at any time an
    /// address has the rule that it had, or the one that it is to have.
    pub(super) fn rules(&mut self, services: &BTreeMap<ServiceName, u16>) {
        let mut wanted: BTreeMap<RuleKey, Rule> = BTreeMap::new();
        for service in &self.want.services {
            let id = services[&service.name];
            let keyed = |(network, rule): (&IpNet, &SourceRule)| {
                (RuleKey { service: id, network: *network }, compiled(*network, rule, self.want.hz))
            };
            wanted.extend(service.sources.iter().map(keyed));
        }
        let new = wanted.iter().filter(|(key, rule)| self.now.rules.get(key) != Some(rule));
        let mut new: Vec<(RuleKey, Rule)> = new.map(|(key, rule)| (*key, *rule)).collect();
        new.sort_by_key(|(key, _)| Reverse(key.network.prefix_len()));
        let added = new.iter().filter(|(key, _)| !self.now.rules.contains_key(key)).count();
        let gone = self.now.rules.keys().filter(|key| !wanted.contains_key(key));
        let mut gone: Vec<RuleKey> = gone.copied().collect();
        gone.sort_by_key(|key| key.network.prefix_len());
        let gone = gone.into_iter().map(|key| Op::DeleteRule { key });
        // Agents that died in the middle, each of another list, leave more than one list's.
        let has_room = self.now.rules.len() + added <= RULE_ENTRIES as usize;
        if has_room {
            self.late.extend(gone)
        } else {
            self.ops.extend(gone)
        }
        self.ops.extend(new.into_iter().map(|(key, rule)| Op::SetRule { key, rule }));
    }
}

fn compiled(network: IpNet, rule: &SourceRule, hz: u32) -> Rule {
    match rule {
        SourceRule::Allow => Rule::ALLOW,
        SourceRule::Deny => Rule::DENY,
        SourceRule::Limit(limit) => {
            Rule::limit(limit.rate.per_minute(), limit.burst(), limit.per(network), hz)
        }
    }
}
