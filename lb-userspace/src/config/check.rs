//! Health checks.

pub(super) mod kinds;
pub(super) mod protocols;

use std::net::IpAddr;

use super::{
    error::Problems,
    fields::Fields,
    schema,
    tree::{Node, Value},
    values::{address, fault, millis, number, word},
};
use crate::model::{
    Protocol,
    check::{Check, CheckKind, Initial, Timing, Via},
    rules::{check_fault, family, same_family},
};

pub(super) const VIAS: [(&str, Via); 3] = [("rip", Via::Rip), ("vip", Via::Vip), ("both", Via::Both)];
pub(super) const INITIALS: [(&str, Initial); 2] = [("down", Initial::Down), ("up", Initial::Up)];

/// What is checked, as far as it is known: the backends' family, the service's port, and which protocols it has.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub family: Option<IpAddr>,
    pub port: Option<u16>,
    pub protocols: &'a [Protocol],
}

/// The checks in a list.
pub(super) fn checks(items: &[Node], of: Of<'_>, problems: &mut Problems) -> Vec<Check> {
    items.iter().filter_map(|item| check(item, of, problems)).collect()
}

fn check(node: &Node, of: Of<'_>, problems: &mut Problems) -> Option<Check> {
    use schema::check::*;
    if let Value::Scalar(word) = &node.value {
        // Short for one with nothing else in it.
        let pos = node.pos;
        let key = super::tree::Key { pos, text: word.clone() };
        let inner = Node { pos, value: Value::Null };
        let long = Node { pos, value: Value::Map(vec![(key, inner)]) };
        return check(&long, of, problems);
    }
    let fields = Fields::of(node, &SECTION, problems)?;
    let kind = kind(&fields, problems);
    let own_address = fields.value(&ADDRESS, problems, address);
    let target = own_address.or(of.family);
    let source = fields.value(&SOURCE, problems, |text| {
        let source = address(text)?;
        match target {
            Some(target) if !same_family(source, target) => fault(
                format!("{source} is {}, but what is checked is {}", family(source), family(target)),
                format!("write one of the director's {} addresses", family(target)),
            ),
            _ => Ok(source),
        }
    });
    let interface = fields.value(&INTERFACE, problems, super::values::interface);
    let port = fields.value(&PORT, problems, |text| number(text, 1..=u16::MAX));
    let timing = timing(&fields, problems);
    let kind = kind?;
    if port.is_none() && fields.node(&PORT).is_none() && of.port == Some(0) && kind.has_port() {
        let wrong = format!("the service has every port, so a {} check needs its own", kind.name());
        problems.add(fields.pos, wrong, "add `port: ...`");
    }
    let unheard = [
        (&ADDRESS, kind.takes_address()),
        (&PORT, kind.takes_port()),
        (&SOURCE, kind.can_bind()),
        (&INTERFACE, kind.can_bind()),
        (&CONNECT_TIMEOUT, kind.connects()),
    ];
    for (key, _) in unheard.into_iter().filter(|(_, holds)| !holds) {
        if let Some(node) = fields.node(key) {
            let wrong = format!("`{}` does not hold for {} check", key.name, an(kind.name()));
            problems.add(node.pos, wrong, "leave the key out");
        }
    }
    let via = fields.value(&VIA, problems, |text| word(text, "way", &VIAS));
    if let Some(node) = fields.node(&VIA).filter(|_| via.is_some_and(|via| via != Via::Rip)) {
        if !kind.can_take_the_vip() {
            let wrong = format!("{} check cannot be made through the VIP", an(kind.name()));
            problems.add(node.pos, wrong, "leave the key out");
        } else if own_address.is_some() {
            let wrong = "a check with an `address` of its own does not go to the VIP";
            problems.add(node.pos, wrong, "leave one of the two keys out");
        }
    }
    let check = Check { kind, address: own_address, port, source, interface, via, timing };
    if fields.node(&PORT).is_none() && check_fault(|protocol| of.protocols.contains(&protocol), &check) {
        let wrong = format!("{} check speaks TCP, and the service's port SCTP alone", an(check.kind.name()));
        let right =
            "add the `port: ...` of something that speaks TCP on the backend, or make an `exec` check";
        problems.add(fields.pos, wrong, right);
    }
    Some(check)
}

/// With its article.
fn an(word: &str) -> String {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { format!("an {word}") } else { format!("a {word}") }
}

/// The one key that says what kind of check it is.
fn kind(fields: &Fields<'_>, problems: &mut Problems) -> Option<CheckKind> {
    use schema::check::*;
    let given: Vec<_> = KINDS.iter().filter_map(|key| Some((*key, fields.node(key)?))).collect();
    let [(key, node)] = given[..] else {
        let names = || KINDS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
        match given.get(1) {
            // It may have been the one that is not known.
            None if !fields.is_whole => {}
            None => problems.add(
                fields.pos,
                "the check does not say what it does",
                format!("add one of {}", names()),
            ),
            Some((key, node)) => problems.add(
                node.pos,
                format!("`{}` is a second kind of check in one", key.name),
                "make two checks of it: all of them must pass",
            ),
        }
        return None;
    };
    kinds::read(key, node, problems)
}

fn timing(fields: &Fields<'_>, problems: &mut Problems) -> Timing {
    use schema::check::*;
    let default = Timing::default();
    let mut time = |key| fields.value(key, problems, millis);
    let (interval, fast_interval) = (time(&INTERVAL), time(&FAST_INTERVAL));
    let (timeout, connect_timeout) = (time(&TIMEOUT), time(&CONNECT_TIMEOUT));
    let (retry_delay, warmup) = (time(&RETRY_DELAY), time(&WARMUP));
    let mut count = |key, least| fields.value(key, problems, |text| number(text, least..=1000u16));
    let (rise, fall, retries) = (count(&RISE, 1), count(&FALL, 1), count(&RETRIES, 0));
    let initial = fields.value(&INITIAL, problems, |text| word(text, "initial state", &INITIALS));
    Timing {
        interval: interval.unwrap_or(default.interval),
        fast_interval,
        timeout,
        connect_timeout,
        rise: rise.unwrap_or(default.rise),
        fall: fall.unwrap_or(default.fall),
        retries: retries.unwrap_or(default.retries),
        retry_delay: retry_delay.unwrap_or(default.retry_delay),
        warmup,
        initial: initial.unwrap_or(default.initial),
    }
}
