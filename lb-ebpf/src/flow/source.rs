//! Whether a client may open a connection: what its service's rules say of where it comes from. See
//! [`lb_common::source`].

use aya_ebpf::btf_maps::lpm_trie::Key;
use lb_common::{
    record::Step,
    source::{BITS4, BITS6, Data4, Data6, Rule, Tag, take},
    verdict::{Event, Verdict},
};

use super::Segment;
use crate::{
    clock, count,
    maps::{RULES4, RULES6, SERVICES, SOURCES},
    packet::Packet,
    record,
    table::secret,
    template::Source,
};

/// Only of services that have rules.
#[inline(always)]
pub fn admit(packet: &Packet, segment: Segment, service: u32) -> Result<(), Verdict> {
    match source_judge(&Source(packet.source), packet.is_ipv6 as u32, segment.0, service) {
        ADMITTED => Ok(()),
        DENIED => Err(Verdict::DroppedDenied),
        _ => Err(Verdict::DroppedLimited),
    }
}

const ADMITTED: u32 = 0;
const DENIED: u32 = 1;
const LIMITED: u32 = 2;

/// By itself: its keys are long and the stack short, and the kernel verifies it once (see `flow`).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn source_judge(source: *const Source, is_ipv6: u32, segment: u32, service: u32) -> u32 {
    // SAFETY: the caller passes a reference; the verifier wants the check for null.
    let Some(Source(address)) = (unsafe { source.as_ref() }) else { return ADMITTED };
    let (address, is_ipv6) = (*address, is_ipv6 != 0);
    let found = if is_ipv6 {
        let data = Data6 { service: service as u64, address };
        RULES6.get(&Key::new(BITS6 + 128, data))
    } else {
        let data = Data4 { service, address: address[0] as u32 };
        RULES4.get(&Key::new(BITS4 + 32, data))
    };
    let rule = found.map_or(Rule::ALLOW, |word| Rule(*word));
    let judged = match rule {
        Rule::ALLOW => ADMITTED,
        Rule::DENY => DENIED,
        rule => {
            // A connection that was placed by hash has counted with its SYN.
            let segment = Segment(segment);
            let is_new = segment.begins() || SERVICES.get(service).is_some_and(|it| segment.is_taken_up(it));
            if is_new { limit(Tag::new(secret(), service, address, is_ipv6, rule), rule) } else { ADMITTED }
        }
    };
    record::step(Step::Source, rule.0, judged as u64);
    judged
}

#[inline(always)]
fn limit(tag: Tag, rule: Rule) -> u32 {
    let Some(set) = SOURCES.get(tag.set()) else { return ADMITTED };
    let taken = take(set, tag, rule, clock::moment());
    if taken.forgot {
        count::event(Event::SourceForgotten);
    }
    if taken.admitted { ADMITTED } else { LIMITED }
}
