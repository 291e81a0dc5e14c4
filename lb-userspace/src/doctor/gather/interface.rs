//! The devices of the interfaces that the data plane knows.

use std::collections::BTreeSet;

use aya::programs::links::{FdLink, PinnedLink};

use crate::{
    dataplane::Layout,
    doctor::{
        held::Held,
        judge::interface::{Device, Facts, Queues, Receiver},
    },
    net::{Link, ethtool, offload},
};

pub fn gather(held: &Held, links: &[Link], layout: &Layout) -> Vec<Facts> {
    let cpus = aya::util::nr_cpus().ok().and_then(|cpus| u32::try_from(cpus).ok());
    let tagged = |ifindex| held.segments.iter().any(|(on, tags)| *on == ifindex && *tags != (0, 0));
    let facts = held.links.iter().map(|known| {
        let device = links.iter().find(|link| link.index == known.ifindex);
        Facts {
            name: known.name.clone(),
            ingress: known.ingress,
            device: device.map(|link| Device {
                up: link.up,
                running: link.running,
                programs: link.xdp.clone(),
                receivers: offload::receivers(link, links)
                    .into_iter()
                    .map(|nic| Receiver {
                        name: nic.name.clone(),
                        obstacles: offload::in_the_way(
                            &ethtool::features(&nic.name).unwrap_or_default(),
                            tagged(known.ifindex),
                        ),
                        queues: cpus.and_then(|cpus| queues(nic, cpus)),
                    })
                    .collect(),
            }),
            ours: pinned_program(layout, &known.name),
        }
    });
    facts.collect()
}

/// None: the driver does not tell.
fn queues(nic: &Link, cpus: u32) -> Option<Queues> {
    let receive = ethtool::receive_queues(&nic.name).ok()?;
    let used =
        ethtool::indirection(&nic.name).ok().map(|rings| rings.into_iter().collect::<BTreeSet<u32>>().len());
    Some(Queues {
        // veth, bridge: what they have is not what a NIC has.
        driver_is_virtual: nic.kind.is_some(),
        receive,
        used: used.filter(|used| *used > 0).and_then(|used| u32::try_from(used).ok()),
        cpus,
    })
}

fn pinned_program(layout: &Layout, interface: &str) -> Option<u32> {
    let link = PinnedLink::from_pin(layout.link(interface)).ok()?;
    Some(FdLink::from(link).info().ok()?.program_id())
}
