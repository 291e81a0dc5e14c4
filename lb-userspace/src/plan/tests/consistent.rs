//! What holds of the maps at any time, also in the middle of a plan.

use std::collections::BTreeSet;

use lb_common::{
    dest,
    endpoint::{filter, flag},
    generation::{HEADER_WORDS, Header, Member, PIECE_WORDS, REGION_AT, at},
    host::{LOCAL, Route},
    scheduler::{Kind, kind},
};

use super::kernel::regions;
use crate::plan::{EndpointKey, Snapshot, address_words, rotation::Words};

/// Whatever a packet may follow leads somewhere.
pub fn check(now: &Snapshot) {
    regions_lie_apart(now);
    for (id, words) in now.regions.iter().filter(|(_, words)| !words.is_empty()) {
        generation_leads_to_hosts(now, *id, words);
    }
    let mut ids = BTreeSet::new();
    for (key, endpoint) in now.endpoints.iter().filter(|(key, _)| key.protocol.is_some()) {
        assert!(
            endpoint.id() != 0 && ids.insert(endpoint.id()),
            "{key:?} has the id of another: {endpoint:?}"
        );
        let service = endpoint.service();
        assert!(now.services.contains_key(&service), "{key:?} leads to service {service}");
        if endpoint.has(flag::OPEN) {
            assert!(now.regions.get(&service).is_some_and(|words| !words.is_empty()), "{key:?} is open");
        }
    }
    for (key, range) in &now.ranges {
        let holder = EndpointKey { address: key.address, port: 0, protocol: Some(key.protocol) };
        let holder = now.endpoints.get(&holder).expect("the port-0 endpoint of a range");
        assert_eq!(holder.id(), range.id(), "{key:?} has an id of its own");
        assert!(range.has(flag::OPEN) && range.has(flag::WILDCARD), "{key:?} is {range:?}");
        let words = now.regions.get(&range.service());
        assert!(words.is_some_and(|words| !words.is_empty()), "{key:?} leads to no generation");
    }
    for (id, dest) in &now.dests {
        assert!(now.hosts.contains_key(&dest.host), "destination {id} has host {}", dest.host);
        assert!(now.services.contains_key(&dest.service), "destination {id} is of service {}", dest.service);
        assert_eq!(now.hosts[&dest.host].address, dest.address, "destination {id} leads to another host");
    }
    for (index, host) in &now.hosts {
        let link = Route(host.route).link();
        assert!(
            link == 0 || link == LOCAL || now.links.contains_key(&link),
            "host {index} is behind link {link}"
        );
    }
    for key in now.tags.iter().map(|key| key >> 32).chain(now.macs.iter().map(|key| key >> 48)) {
        assert!(now.links.contains_key(&(key as u16)), "a tag or MAC of link {key}");
    }
}

/// What holds besides when a plan is done.
pub fn check_done(now: &Snapshot) {
    check(now);
    for key in now.ranges.keys() {
        let holder = EndpointKey { address: key.address, port: 0, protocol: Some(key.protocol) };
        assert!(now.endpoints[&holder].has(flag::RANGED), "{key:?} is not looked for");
    }
    for key in now.endpoints.keys().filter(|key| key.protocol.is_some()) {
        let (word, shift) = filter::position(address_words(key.address));
        let wanted = filter::ANY | if key.port == 0 { filter::WILDCARD } else { 0 };
        let bits = now.filter.get(&word).copied().unwrap_or(0) >> shift;
        assert_eq!(bits & wanted, wanted, "the filter turns {key:?} away");
        let entry = EndpointKey { address: key.address, port: 0, protocol: None };
        assert!(now.endpoints.contains_key(&entry), "no entry for fragments to {}", key.address);
    }
}

fn regions_lie_apart(now: &Snapshot) {
    let mut end = 0;
    let mut regions: Vec<(u32, u32)> = regions(now).into_values().collect();
    regions.sort_unstable();
    for (offset, length) in regions {
        assert!(offset >= end, "two regions share words");
        assert_eq!(offset % PIECE_WORDS, REGION_AT, "members do not begin a piece");
        end = offset + length;
        assert!(end <= now.limits.arena, "a region ends outside the arena");
    }
}

fn generation_leads_to_hosts(now: &Snapshot, id: u16, words: &[u64]) {
    let header = Header::from_words([words[0], words[1]]);
    assert_eq!(header.length() as usize, words.len(), "service {id}");
    let members = HEADER_WORDS as usize..HEADER_WORDS as usize + usize::from(header.members);
    let open = now.endpoints.values().any(|e| e.service() == id && e.has(flag::OPEN));
    for member in words[members.clone()].iter().map(|word| Member(*word)) {
        let dest = now.dests.get(&member.dest()).expect("a member's destination");
        assert_eq!(dest.service, id);
        let gone = dest.flags & (dest::flag::RETIRED | dest::flag::ORPHANED) != 0;
        assert!(!(open && gone), "service {id} serves destination {}, which is gone", member.dest());
    }
    // First and last of the rotation, for the whole of it would take long.
    for position in (0..header.period.min(50)).chain(header.period.saturating_sub(50)..header.period) {
        let dest = at(&Words(words), 0, &header, position).expect("within the table");
        let hashed = kind(header.scheduler) == Kind::Hashed;
        let is_member = words[members.clone()].iter().any(|word| Member(*word).dest() == dest);
        assert!(is_member || (hashed && dest == 0), "an entry of a member that takes none is 0");
    }
}
