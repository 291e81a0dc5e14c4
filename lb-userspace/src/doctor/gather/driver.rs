//! What the drivers can do with XDP, of the devices that packets come in and leave by.

use std::collections::BTreeSet;

use crate::{
    doctor::{
        held::{Held, Next},
        judge::{driver::Facts, interface},
    },
    net::{
        Link,
        xdp::{self, XdpMode},
    },
};

pub fn gather(held: &Held, links: &[Link], interfaces: &[interface::Facts]) -> Facts {
    let egress: BTreeSet<u32> = (held.ways.iter())
        .filter_map(|way| match way.next {
            Next::Host { ifindex, .. } => Some(ifindex),
            _ => None,
        })
        .collect();
    let mut facts = Facts::default();
    for link in links {
        let ingress = interfaces.iter().find(|known| known.ingress && known.name == link.name);
        match ingress.map(|known| link.xdp.iter().find(|program| Some(program.id) == known.ours)) {
            Some(None) => facts.bare.push(xdp::device(link)),
            Some(Some(own)) if own.mode != XdpMode::Generic => facts.native.push(xdp::device(link)),
            _ => {}
        }
        if egress.contains(&link.index) {
            facts.egress.push(xdp::device(link));
        }
    }
    facts
}
