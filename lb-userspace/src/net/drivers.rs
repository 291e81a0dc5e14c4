//! What a driver cannot do with XDP, before packets are lost by it. PURE.

use std::fmt;

use super::xdp::XdpFeatures;

/// MTU up to which a frame fits in a page with XDP's headroom and the kernel's trailer
/// (`XDP_PACKET_HEADROOM` 256, `skb_shared_info` 320, an Ethernet header with two tags).
const LINEAR_MTU: u32 = 4096 - 256 - 320 - 22;

/// A device, as far as its driver matters.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: String,
    pub mtu: u32,
    /// None: the kernel does not tell (before 6.3), and nothing is concluded.
    pub features: Option<XdpFeatures>,
}

/// Something that a device's driver cannot do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    pub device: String,
    pub cannot: String,
    pub effect: String,
    pub fix: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, cannot, effect, fix } = self;
        write!(f, "{device}: {cannot}, so {effect}: {fix}")
    }
}

/// A jumbo frame reaches native XDP in pieces, which not every driver can do.
pub fn receives(device: &Device) -> Option<Lack> {
    let Device { name, mtu, features } = device;
    let refuses = *mtu > LINEAR_MTU && !(*features)?.rx_sg();
    refuses.then(|| Lack {
        device: name.clone(),
        cannot: format!("MTU {mtu}, but its driver has no multi-buffer XDP"),
        effect: "it will refuse a native program".to_owned(),
        fix: format!("set the MTU to {LINEAR_MTU} or less, or `mode: generic`"),
    })
}

/// On the ways from the devices that have a `native` program to those of the `egress`, which backends are behind. (In
/// generic mode the stack sends the packets, which every driver can.)
pub fn forwards(native: &[Device], egress: &[Device]) -> Vec<Lack> {
    let others = |of: &Device, among: &[Device]| {
        let others = among.iter().map(|device| device.name.clone()).filter(|name| *name != of.name);
        others.collect::<Vec<_>>()
    };
    let redirecting = native.iter().filter_map(|from| redirects(from, &others(from, egress)));
    let targets = egress.iter().filter(|to| !others(to, native).is_empty());
    redirecting.chain(targets.filter_map(transmits)).collect()
}

/// Frames that came in by `from`, natively, have to leave by `targets`.
fn redirects(from: &Device, targets: &[String]) -> Option<Lack> {
    let Device { name, features, .. } = from;
    let lost = !targets.is_empty() && !(*features)?.redirect();
    lost.then(|| Lack {
        device: name.clone(),
        cannot: "its driver has no XDP_REDIRECT".to_owned(),
        effect: format!("packets for the backends behind {} are lost", targets.join(", ")),
        fix: format!("set `mode: generic`, or give the director those backends on {name}"),
    })
}

/// Frames that came in natively by another interface leave by `to`.
fn transmits(to: &Device) -> Option<Lack> {
    let Device { name, mtu, features } = to;
    let features = (*features)?;
    if !features.ndo_xmit() {
        return Some(Lack {
            device: name.clone(),
            cannot: "its driver transmits no frames that XDP redirects to it (with some drivers: only while an XDP \
                     program is attached)"
                .to_owned(),
            effect: "packets for the backends behind it are lost".to_owned(),
            fix: "set `mode: generic` for the interfaces that they come in by".to_owned(),
        });
    }
    (*mtu > LINEAR_MTU && !features.ndo_xmit_sg()).then(|| Lack {
        device: name.clone(),
        cannot: format!("MTU {mtu}, but its driver transmits no redirected frames of several buffers"),
        effect: format!("frames longer than {LINEAR_MTU} bytes are lost"),
        fix: format!("set the MTU of the interfaces that they come in by to {LINEAR_MTU} or less"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `enum netdev_xdp_act`
    const REDIRECT: u64 = 1 << 1;
    const NDO_XMIT: u64 = 1 << 2;
    const RX_SG: u64 = 1 << 5;
    const NDO_XMIT_SG: u64 = 1 << 6;

    fn device(name: &str, mtu: u32, features: u64) -> Device {
        Device { name: name.to_owned(), mtu, features: Some(XdpFeatures::from_bits(features)) }
    }

    #[track_caller]
    fn says(lack: Option<&Lack>, words: &[&str]) {
        let text = lack.expect("a lack").to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn a_large_mtu_needs_multi_buffer_xdp() {
        // 4096 - 256 - 320 - 14 - 8
        assert_eq!(receives(&device("eth0", 3498, 0)), None);
        assert_eq!(receives(&device("eth0", 3499, RX_SG)), None);
        assert_eq!(receives(&Device { features: None, ..device("eth0", 3499, 0) }), None);
        let lack = receives(&device("eth0", 3499, !RX_SG));
        says(
            lack.as_ref(),
            &["eth0: MTU 3499", "it will refuse a native program", "3498 or less", "`mode: generic`"],
        );
    }

    #[test]
    fn a_driver_without_redirect() {
        let to = ["eth1", "eth2"].map(|name| device(name, 1500, !0));
        assert_eq!(forwards(&[device("eth0", 1500, REDIRECT)], &to), []);
        assert_eq!(forwards(&[device("eth0", 1500, 0)], &[device("eth0", 1500, 0)]), [], "XDP_TX needs none");
        assert_eq!(forwards(&[Device { features: None, ..device("eth0", 1500, 0) }], &to), []);
        let lacks = forwards(&[device("eth0", 1500, !REDIRECT)], &to);
        says(lacks.first(), &["eth0: its driver has no XDP_REDIRECT, so", "eth1, eth2 are lost"]);
        assert_eq!(lacks.len(), 1);
    }

    #[test]
    fn a_target_that_does_not_transmit() {
        let from = [device("eth0", 1500, REDIRECT)];
        assert_eq!(forwards(&from, &[device("eth1", 1500, NDO_XMIT)]), []);
        assert_eq!(forwards(&from, &[device("eth1", 9000, NDO_XMIT | NDO_XMIT_SG)]), []);
        assert_eq!(forwards(&[], &[device("eth1", 1500, 0)]), [], "the stack transmits");
        let lacks = forwards(&from, &[device("eth1", 1500, !NDO_XMIT)]);
        says(lacks.first(), &["eth1: its driver transmits no frames"]);
        let lacks = forwards(&from, &[device("eth1", 9000, NDO_XMIT)]);
        says(lacks.first(), &["eth1: MTU 9000", "several buffers", "to 3498 or less"]);
    }
}
