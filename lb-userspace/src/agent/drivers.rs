//! What a driver cannot do with XDP, in words, before packets are lost by it. Decisions only.

use crate::{
    model::AttachMode,
    net::{Attachment, xdp::XdpFeatures},
};

/// MTU up to which a frame fits in a page with XDP's headroom and the kernel's trailer
/// (`XDP_PACKET_HEADROOM` 256, `skb_shared_info` 320, an Ethernet header with two tags).
const LINEAR_MTU: u32 = 4096 - 256 - 320 - 22;

/// A jumbo frame reaches native XDP in pieces, which not every driver can do.
pub fn receives(at: &Attachment, mode: AttachMode, features: XdpFeatures) -> Option<String> {
    let Attachment { name, device_mtu, .. } = at;
    let refused = *device_mtu > LINEAR_MTU && mode != AttachMode::Generic && !features.rx_sg();
    refused.then(|| {
        format!(
            "{name}: MTU {device_mtu}, but its driver has no multi-buffer XDP and will refuse a native program: set the \
             MTU to {LINEAR_MTU} or less, or `mode: generic`"
        )
    })
}

/// Frames that came in by `name`, natively, have to leave by `targets`.
pub fn redirects(name: &str, targets: &[&str], features: XdpFeatures) -> Option<String> {
    let lost = !targets.is_empty() && !features.redirect();
    lost.then(|| {
        format!(
            "{name}: its driver has no XDP_REDIRECT, so packets for the backends behind {} are lost: set `mode: \
             generic`, or give the director those backends on {name}",
            targets.join(", ")
        )
    })
}

/// Frames that came in natively by another interface leave by `name`.
pub fn transmits(name: &str, mtu: u32, features: XdpFeatures) -> Option<String> {
    if !features.ndo_xmit() {
        return Some(format!(
            "{name}: its driver transmits no frames that XDP redirects to it (with some drivers: only while an XDP \
             program is attached), so packets for the backends behind it are lost: set `mode: generic` for the \
             interfaces that they come in by"
        ));
    }
    (mtu > LINEAR_MTU && !features.ndo_xmit_sg()).then(|| {
        format!(
            "{name}: MTU {mtu}, but its driver transmits no redirected frames of several buffers: frames longer than \
             {LINEAR_MTU} bytes are lost; set the MTU of the interfaces that they come in by to that or less"
        )
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

    fn at(device_mtu: u32) -> Attachment {
        let (name, vlans, mac) = ("eth0".to_owned(), Vec::new(), [2, 0, 0, 0, 0, 1]);
        Attachment { ifindex: 2, name, vlans, mtu: 1500, device_mtu, mac, up: true }
    }

    fn with(bits: u64) -> XdpFeatures {
        XdpFeatures::from_bits(bits)
    }

    #[track_caller]
    fn says(warning: Option<String>, words: &[&str]) {
        let text = warning.expect("a warning");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }

    #[test]
    fn a_large_mtu_needs_multi_buffer_xdp() {
        // 4096 - 256 - 320 - 14 - 8
        let (fits, large) = (at(3498), at(3499));
        for mode in [AttachMode::Auto, AttachMode::Native] {
            assert_eq!(receives(&fits, mode, with(0)), None);
            assert_eq!(receives(&large, mode, with(RX_SG)), None);
            says(
                receives(&large, mode, with(!RX_SG)),
                &["eth0", "MTU 3499", "3498 or less", "`mode: generic`"],
            );
        }
        assert_eq!(receives(&large, AttachMode::Generic, with(0)), None, "the stack has whole frames");
    }

    #[test]
    fn a_driver_without_redirect() {
        assert_eq!(redirects("eth0", &["eth1"], with(REDIRECT)), None);
        assert_eq!(redirects("eth0", &[], with(0)), None, "XDP_TX needs none");
        says(redirects("eth0", &["eth1", "eth2"], with(!REDIRECT)), &["eth0", "XDP_REDIRECT", "eth1, eth2"]);
    }

    #[test]
    fn a_target_that_does_not_transmit() {
        assert_eq!(transmits("eth1", 1500, with(NDO_XMIT)), None);
        assert_eq!(transmits("eth1", 9000, with(NDO_XMIT | NDO_XMIT_SG)), None);
        says(transmits("eth1", 1500, with(!NDO_XMIT)), &["eth1", "transmits no frames"]);
        says(transmits("eth1", 9000, with(NDO_XMIT)), &["eth1", "MTU 9000", "several buffers", "3498"]);
    }
}
