//! The devices of the interfaces that the data plane knows.

use aya::programs::links::{FdLink, PinnedLink};

use crate::{
    dataplane::Layout,
    doctor::{
        held::Held,
        judge::interface::{Device, Facts},
    },
    net::Link,
};

pub fn gather(held: &Held, links: &[Link], layout: &Layout) -> Vec<Facts> {
    let facts = held.links.iter().map(|known| {
        let device = links.iter().find(|link| link.index == known.ifindex);
        Facts {
            name: known.name.clone(),
            ingress: known.ingress,
            device: device.map(|link| Device {
                up: link.up,
                running: link.running,
                programs: link.xdp.clone(),
            }),
            ours: pinned_program(layout, &known.name),
        }
    });
    facts.collect()
}

fn pinned_program(layout: &Layout, interface: &str) -> Option<u32> {
    let link = PinnedLink::from_pin(layout.link(interface)).ok()?;
    Some(FdLink::from(link).info().ok()?.program_id())
}
