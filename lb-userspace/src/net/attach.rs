//! Where to attach for an interface that the operator names. PURE.

use super::{Link, Vlan};

/// The device that gets the XDP program, and the tags that the frames carry there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub ifindex: u32,
    pub name: String,
    /// Tags of the frames on that device, outer first, at most two; none for an interface that is not
    /// a VLAN device.
    pub vlans: Vec<Vlan>,
    /// MTU of the interface that was named: what may be sent with these tags.
    pub mtu: u32,
    /// MTU of the device that gets the program: how long the frames can be that it receives.
    pub device_mtu: u32,
    /// MAC of the interface that was named, which may differ from its parent's.
    pub mac: [u8; 6],
    /// Administratively up, the named interface and all below it.
    pub up: bool,
}

/// Why an interface cannot be attached to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error(
        "no interface {name:?} in this network namespace; there are: {}{}",
        existing.join(", "),
        nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default()
    )]
    NoSuchInterface { name: String, existing: Vec<String>, nearest: Option<String> },
    #[error(
        "interface {name:?} stacks more than two VLAN tags; attach to an interface with at most two (QinQ)"
    )]
    TooManyTags { name: String },
    #[error(
        "interface {name:?} is a VLAN device whose parent is not in this network namespace; VLAN devices \
         have no native XDP, so run the agent in the namespace of the parent"
    )]
    ParentElsewhere { name: String },
}

impl Attachment {
    /// VLAN ids, outer first.
    pub fn tags(&self) -> Vec<u16> {
        self.vlans.iter().map(|vlan| vlan.tag).collect()
    }
}

/// Resolves `eth0`, `eth0.100`, `bond0.100` or `eth0.100.200` to the device below the VLAN devices and
/// the tags. A VLAN device has no native XDP; its parent's driver has. Names do not matter: `vlan100` on
/// `eth0` resolves as well.
pub fn resolve_attach(links: &[Link], name: &str) -> Result<Attachment, ResolveError> {
    let named = links.iter().find(|link| link.name == name).ok_or_else(|| no_such_interface(links, name))?;
    let mut device = named;
    let mut vlans = Vec::new();
    let mut up = named.up;
    while let Some(vlan) = device.vlan {
        if vlans.len() == 2 {
            return Err(ResolveError::TooManyTags { name: name.into() });
        }
        vlans.push(vlan);
        device = links
            .iter()
            .find(|link| Some(link.index) == device.parent)
            .ok_or_else(|| ResolveError::ParentElsewhere { name: device.name.clone() })?;
        up &= device.up;
    }
    vlans.reverse();
    Ok(Attachment {
        ifindex: device.index,
        name: device.name.clone(),
        vlans,
        mtu: named.mtu,
        device_mtu: device.mtu,
        mac: named.mac,
        up,
    })
}

fn no_such_interface(links: &[Link], name: &str) -> ResolveError {
    let existing: Vec<String> = links.iter().map(|link| link.name.clone()).collect();
    let nearest = existing
        .iter()
        .map(|candidate| (strsim::jaro_winkler(candidate, name), candidate))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.clone());
    ResolveError::NoSuchInterface { name: name.into(), existing, nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: [2, 0, 0, 0, 0, u8::try_from(index).expect("small")],
            mtu: 1500,
            up: true,
            running: true,
            loopback: name == "lo",
            kind: None,
            parent: None,
            vlan: None,
            master: None,
            xdp: Vec::new(),
        }
    }

    fn on(parent: u32, tpid: u16, tag: u16, link: Link) -> Link {
        Link { parent: Some(parent), vlan: Some(Vlan { tpid, tag }), kind: Some("vlan".into()), ..link }
    }

    fn host() -> Vec<Link> {
        vec![
            link(1, "lo"),
            Link { mtu: 9000, ..link(2, "eth0") },
            on(2, 0x8100, 100, link(3, "eth0.100")),
            on(3, 0x8100, 200, Link { mtu: 1496, ..link(4, "eth0.100.200") }),
            on(4, 0x8100, 300, link(5, "eth0.100.200.300")),
            Link { kind: Some("bond".into()), ..link(6, "bond0") },
            on(6, 0x88a8, 7, Link { up: false, ..link(7, "storage") }),
            // A veth has IFLA_LINK too: its peer, which is no parent.
            Link { kind: Some("veth".into()), parent: Some(2), ..link(8, "veth0") },
            Link { parent: None, ..on(2, 0x8100, 9, link(9, "orphan")) },
        ]
    }

    #[track_caller]
    fn check(name: &str, device: &str, tags: &[u16]) -> Attachment {
        let attachment = resolve_attach(&host(), name).expect("resolves");
        assert_eq!((attachment.name.as_str(), attachment.tags().as_slice()), (device, tags));
        attachment
    }

    #[test]
    fn plain_interfaces_are_themselves() {
        check("eth0", "eth0", &[]);
        check("bond0", "bond0", &[]);
        check("veth0", "veth0", &[]);
    }

    #[test]
    fn vlan_devices_are_parent_plus_tags_outer_first() {
        let one = check("eth0.100", "eth0", &[100]);
        assert_eq!((one.ifindex, one.mtu, one.device_mtu), (2, 1500, 9000));
        assert_eq!(one.mac, [2, 0, 0, 0, 0, 3], "frames for the VLAN device carry its own MAC");
        assert!(one.up);
        let two = check("eth0.100.200", "eth0", &[100, 200]);
        assert_eq!((two.mtu, two.device_mtu), (1496, 9000));
    }

    #[test]
    fn the_name_does_not_matter_and_the_tpid_is_kept() {
        let attachment = check("storage", "bond0", &[7]);
        assert_eq!(attachment.vlans, [Vlan { tpid: 0x88a8, tag: 7 }]);
        assert!(!attachment.up, "the VLAN device is down");
    }

    #[test]
    fn three_tags_are_too_many() {
        let error = resolve_attach(&host(), "eth0.100.200.300").expect_err("too many");
        assert_eq!(error, ResolveError::TooManyTags { name: "eth0.100.200.300".into() });
    }

    #[test]
    fn a_parent_elsewhere_is_said() {
        let error = resolve_attach(&host(), "orphan").expect_err("no parent");
        assert_eq!(error, ResolveError::ParentElsewhere { name: "orphan".into() });
    }

    #[test]
    fn an_unknown_name_lists_what_there_is() {
        let message = resolve_attach(&host(), "eht0").expect_err("unknown").to_string();
        assert!(message.contains("lo, eth0, eth0.100"), "{message}");
        assert!(message.ends_with("did you mean \"eth0\"?"), "{message}");
        let message = resolve_attach(&host(), "wlp3s0").expect_err("unknown").to_string();
        assert!(!message.contains("did you mean"), "{message}");
    }
}
