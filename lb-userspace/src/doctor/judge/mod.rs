//! From facts to findings, one file for each subject. PURE.
//!
//! A subject's facts are what its judge needs and no more; `gather` fills them in. A fact that could not be read is
//! `None` or missing, and nothing is concluded from it.

pub mod agent;
pub mod backend;
pub mod capability;
pub mod driver;
pub mod interface;
pub mod keepalived;
pub mod local;
pub mod machine;
pub mod mtu;
pub mod netfilter;
pub mod reach;
pub mod reply;
pub mod rivals;
pub mod service;
pub mod stack;
pub mod tables;
pub mod vip;

use super::held::Mac;

/// `02:00:00:00:00:01`
fn mac_text(mac: &Mac) -> String {
    let octets: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(":")
}
