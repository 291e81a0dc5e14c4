//! What the drivers of the director's interfaces cannot do.

use crate::{
    doctor::finding::{Finding, Id},
    net::drivers::{Device, Lack, forwards, receives},
};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Clients' packets are to come in here, and there is no program of ours.
    pub bare: Vec<Device>,
    /// They do, and our program runs in the driver.
    pub native: Vec<Device>,
    /// Backends are behind these.
    pub egress: Vec<Device>,
}

/// As the agent finds it, which warns of it in these words.
pub fn lacks(facts: &Facts) -> Vec<Lack> {
    let Facts { bare, native, egress } = facts;
    bare.iter().filter_map(receives).chain(forwards(native, egress)).collect()
}

pub fn finding(lack: Lack) -> Finding {
    let Lack { device, cannot, effect, fix } = lack;
    Finding::new(Id::DriverLacks, device, cannot, effect, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::xdp::XdpFeatures;

    #[test]
    fn each_way_is_judged_by_who_is_on_it() {
        let device = |name: &str, mtu, features| {
            vec![Device { name: name.to_owned(), mtu, features: Some(XdpFeatures::from_bits(features)) }]
        };
        let finds = |facts: &Facts, words: &[&str]| {
            let found: Vec<_> = lacks(facts).into_iter().map(finding).collect();
            assert_eq!(found.len(), words.len(), "{found:?}");
            for (finding, words) in found.iter().zip(words) {
                assert_eq!(finding.id, Id::DriverLacks);
                assert!(finding.found.contains(words), "{finding:?}");
            }
        };
        let facts =
            Facts { native: device("eth0", 9000, !0), egress: device("eth1", 9000, !0), ..Facts::default() };
        finds(&facts, &[]);
        finds(&Facts { bare: device("eth2", 1500, 0), ..facts.clone() }, &[]);
        finds(&Facts { bare: device("eth2", 9000, 0), ..facts.clone() }, &["no multi-buffer XDP"]);
        finds(&Facts { native: device("eth0", 9000, 0), ..facts.clone() }, &["no XDP_REDIRECT"]);
        finds(&Facts { egress: device("eth1", 9000, 0), ..facts.clone() }, &["transmits no frames"]);
        // One way in and out: XDP_TX.
        finds(&Facts { native: device("eth0", 9000, 0), egress: device("eth0", 9000, 0), ..facts }, &[]);
    }
}
