//! Rules about where clients come from.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::source::MAX_RULES;

use super::{
    error::{Pos, Problems},
    fields::Fields,
    schema,
    tree::{Node, Value},
    values::{Fault, word},
};
use crate::model::{
    SourceLimit, SourceRule, Sources,
    sources::{self, burst, network, per},
};

/// The rules in a service's list. `vip` is none where the service's is wrong.
pub(super) fn sources(items: &[Node], vip: Option<IpAddr>, problems: &mut Problems) -> Sources {
    let mut read = Sources::new();
    let mut places: std::collections::BTreeMap<IpNet, Pos> = Default::default();
    for item in items {
        let Some((network, rule)) = source(item, problems) else { continue };
        if let Some((wrong, right)) = sources::fault(network, &rule, vip) {
            problems.add(item.pos, wrong, right);
        } else if let Some(first) = places.get(&network) {
            let wrong = format!("prefix {network} is given twice, first on line {}", first.line);
            problems.add(item.pos, wrong, "keep one of them");
        } else {
            places.insert(network, item.pos);
            read.insert(network, rule);
        }
    }
    read
}

/// How many there may be of all services together.
pub(super) fn check_count(all: usize, pos: Pos, problems: &mut Problems) {
    if all > MAX_RULES as usize {
        let wrong =
            format!("from here on there are more than {MAX_RULES} rules in the `sources` of all services");
        problems.add(pos, wrong, "put prefixes together, or let a firewall deny them");
    }
}

fn source(node: &Node, problems: &mut Problems) -> Option<(IpNet, SourceRule)> {
    use schema::source::*;
    if let Value::Scalar(text) = &node.value {
        return sources::rule(text)
            .map_err(|wrong| {
                let Fault { wrong, right } = split(wrong, "PREFIX allow, PREFIX deny or PREFIX limit 100/s");
                problems.add(node.pos, format!("`sources`: {wrong}"), right);
            })
            .ok();
    }
    let fields = Fields::of(node, &SECTION, problems)?;
    let prefix =
        fields.required(&PREFIX, problems, |text| network(text).map_err(|it| split(it, PREFIX.takes)));
    let action = fields.value(&ACTION, problems, |text| {
        word(text, "action", &[("allow", SourceRule::Allow), ("deny", SourceRule::Deny)])
    });
    let rate = fields.value(&LIMIT, problems, |text| text.parse().map_err(|it| split(it, LIMIT.takes)));
    let burst = fields.value(&BURST, problems, |text| burst(text).map_err(|it| split(it, BURST.takes)));
    let per = fields.value(&PER, problems, |text| per(text).map_err(|it| split(it, PER.takes)));
    let (has_action, has_limit) = (fields.node(&ACTION).is_some(), fields.node(&LIMIT).is_some());
    if has_action == has_limit {
        let wrong = if has_action { "both `action` and `limit`" } else { "neither `action` nor `limit`" };
        problems.add(fields.pos, format!("{} has {wrong}", SECTION.path), "write one of them");
        return None;
    }
    let of_limit = [&BURST, &PER].into_iter().find_map(|key| Some((key, fields.node(key)?)));
    if let Some((key, node)) = of_limit.filter(|_| !has_limit) {
        problems.add(node.pos, format!("`{}` without `limit`", key.name), "write a `limit`, or leave it out");
    }
    let rule = match action {
        Some(action) => action,
        None => SourceRule::Limit(SourceLimit { rate: rate?, burst, per }),
    };
    Some((prefix?, rule))
}

/// `wrong; what to do`.
fn split(text: String, takes: &str) -> Fault {
    match text.split_once("; ") {
        Some((wrong, right)) => Fault { wrong: wrong.to_owned(), right: right.to_owned() },
        None => Fault { wrong: text, right: format!("write {takes}") },
    }
}
