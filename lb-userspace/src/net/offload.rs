//! Which offloads of a NIC are in the way of XDP. PURE.

use super::{Link, ethtool::Features};

/// An offload that is on and must be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The kernel's name, as `ethtool -K` takes it.
    pub feature: &'static str,
    /// What goes wrong with it.
    pub why: &'static str,
    /// It can be switched off.
    pub changeable: bool,
}

/// Software GRO (`rx-gro`, `rx-gro-list`) is not here: it merges after native XDP has seen the frames, and not at
/// all on a device with a generic program (`netif_elide_gro`, `net/core/gro.c`).
const OBSTACLES: [(&str, &str); 4] = [
    (
        "rx-vlan-hw-parse",
        "the NIC takes the 802.1Q tag out of the frame before XDP sees it, so that frames of all VLANs look untagged",
    ),
    (
        "rx-vlan-stag-hw-parse",
        "the NIC takes the 802.1ad tag out of the frame before XDP sees it, so that frames of all VLANs look untagged",
    ),
    (
        "rx-lro",
        "the NIC merges TCP segments into frames longer than the MTU, which cannot be sent on to a backend, and drivers refuse XDP with it",
    ),
    (
        "rx-gro-hw",
        "the NIC merges TCP segments into frames longer than the MTU, which cannot be sent on to a backend, and drivers refuse XDP with it",
    ),
];

/// The devices that take frames off the wire for `link`: the slaves of a bond, for XDP sees frames as these received
/// them, and a bond says that it has LRO whatever they have; else `link` itself.
pub fn receivers<'a>(link: &'a Link, links: &'a [Link]) -> Vec<&'a Link> {
    if link.kind.as_deref() == Some("bond") {
        links.iter().filter(|slave| slave.master == Some(link.index)).collect()
    } else {
        vec![link]
    }
}

/// The active features that are in the way, in the order in which to switch them off. `tagged`: there are VLANs of ours;
/// without them, a tag that the NIC takes out is somebody else's.
pub fn in_the_way(features: &Features, tagged: bool) -> Vec<Obstacle> {
    OBSTACLES
        .into_iter()
        .filter(|(feature, _)| tagged || !feature.contains("vlan"))
        .filter_map(|(feature, why)| {
            let state = features.get(feature).filter(|state| state.active)?;
            Some(Obstacle { feature, why, changeable: state.changeable })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ethtool::Feature;

    #[test]
    fn only_what_is_on_and_harmful() {
        let feature = |active, changeable| Feature { active, changeable };
        let features = Features::from([
            ("rx-gro".to_owned(), feature(true, true)),
            ("rx-gro-list".to_owned(), feature(true, true)),
            ("rx-gro-hw".to_owned(), feature(true, false)),
            ("rx-lro".to_owned(), feature(false, true)),
            ("rx-vlan-hw-parse".to_owned(), feature(true, true)),
        ]);
        let found = |tagged| -> Vec<_> {
            in_the_way(&features, tagged).iter().map(|o| (o.feature, o.changeable)).collect()
        };
        assert_eq!(found(true), [("rx-vlan-hw-parse", true), ("rx-gro-hw", false)]);
        assert_eq!(found(false), [("rx-gro-hw", false)]);
    }
}
