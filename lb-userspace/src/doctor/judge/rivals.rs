//! What else on this host believes to balance the same VIPs: IPVS, and keepalived that manages it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use super::keepalived::Servers;
use crate::doctor::finding::{Finding, Id};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub vips: BTreeSet<IpAddr>,
    /// Virtual servers of the kernel's IPVS.
    pub ipvs: Vec<SocketAddr>,
    pub keepalived: Vec<Keepalived>,
}

/// A running keepalived in this network namespace.
#[derive(Clone, Debug)]
pub struct Keepalived {
    pub pid: u32,
    pub config: PathBuf,
    /// Of its `virtual_server` blocks, in the files that it includes too.
    pub servers: Servers,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let ipvs = facts.ipvs.iter().filter(|server| facts.vips.contains(&server.ip())).map(|server| {
        Finding::new(
            Id::IpvsActive,
            server,
            "IPVS has a virtual server of this address too (/proc/net/ip_vs)",
            "XDP takes its packets before IPVS sees them, so ipvsadm shows a service that is dead; were the program \
             detached, IPVS would serve with other connections",
            "stop what manages it (keepalived, ldirectord), then ipvsadm -D -t (or -u) ADDRESS:PORT",
        )
    });
    let keepalived = facts.keepalived.iter().filter_map(|one| keepalived(one, &facts.vips));
    ipvs.chain(keepalived).collect()
}

fn keepalived(one: &Keepalived, vips: &BTreeSet<IpAddr>) -> Option<Finding> {
    let Keepalived { pid, config, servers } = one;
    let serves = |vip: &&IpAddr| servers.addresses.iter().any(|range| range.holds(**vip));
    let shared = vips.iter().filter(serves).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    (!shared.is_empty()).then(|| {
        Finding::new(
            Id::KeepalivedServes,
            format!("keepalived (process {pid})"),
            format!("{}, or a file that it includes, has virtual_server blocks for {shared}", config.display()),
            "it checks the same backends and fills an IPVS table that no packet meets; its notify scripts act on that",
            format!("take the virtual_server blocks out (grep -r virtual_server {}) and reload it (kill -HUP {pid}); VRRP may stay", config.display()),
        )
    })
}

/// `/proc/net/ip_vs`: `TCP  AC120E64:0CEA wrr`, `UDP  [fd00:0018:...:0100]:0035 rr` (`ip_vs_ctl.c`, ip_vs_info_seq_show).
pub fn ipvs_servers(table: &str) -> Vec<SocketAddr> {
    let servers = table.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (protocol, at) = (words.next()?, words.next()?);
        if !matches!(protocol, "TCP" | "UDP" | "SCTP") {
            return None;
        }
        let (address, port) = at.rsplit_once(':')?;
        let address = match address.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(v6) => IpAddr::V6(v6.parse().ok()?),
            None => IpAddr::from(u32::from_str_radix(address, 16).ok()?.to_be_bytes()),
        };
        Some(SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?))
    });
    servers.collect()
}

/// Firewall marks of virtual servers there: `FWM  00000001 wlc`.
pub fn ipvs_marks(table: &str) -> BTreeSet<u32> {
    let marks = table.lines().filter_map(|line| {
        let mark = line.strip_prefix("FWM")?.split_whitespace().next()?;
        u32::from_str_radix(mark, 16).ok()
    });
    marks.collect()
}

/// Which packets have a mark is in the rules that set it, and those may ask for anything. None of ours that XDP takes has
/// one yet, so this is nothing that is wrong, but something that is not looked at.
pub fn marks(ipvs: &BTreeSet<u32>, keepalived: &[Keepalived]) -> Option<String> {
    let all: BTreeSet<u32> =
        keepalived.iter().flat_map(|one| &one.servers.marks).chain(ipvs).copied().collect();
    let all = all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    (!all.is_empty()).then(|| {
        format!(
            "whether virtual servers of IPVS by firewall mark ({all}) are for a VIP: `ipvsadm -Ln` shows them, \
             `nft list ruleset | grep mark` the rules that set the marks"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IP_VS: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  AC120E64:0CEA wrr persistent 50 FFFFFFFF
  -> AC120E47:0CEA      Route   3      0          0
UDP  [fd00:0018:0014:0000:0000:0000:0000:0100]:0035 rr
FWM  00000001 wlc
";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// No lab has IPVS: this kernel has none.
    #[test]
    fn virtual_servers_of_ipvs() {
        let servers = ipvs_servers(IP_VS);
        let text: Vec<_> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["172.18.14.100:3306", "[fd00:18:14::100]:53"]);
        let facts = |vip| Facts { vips: [ip(vip)].into(), ipvs: servers.clone(), keepalived: Vec::new() };
        let ids = |vip| judge(&facts(vip)).iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert_eq!(ids("172.18.14.100"), [Id::IpvsActive]);
        assert_eq!(ids("fd00:18:14::100"), [Id::IpvsActive]);
        assert_eq!(ids("172.18.14.101"), []);
    }

    #[test]
    fn virtual_servers_of_keepalived() {
        let config = "virtual_server_group g {\n 10.0.0.99-101 80\n}\nvirtual_server group g {\n}\n";
        let keepalived = Keepalived { pid: 7, config: "k.conf".into(), servers: Servers::of(config) };
        let facts =
            |vip| Facts { vips: [ip(vip)].into(), ipvs: Vec::new(), keepalived: vec![keepalived.clone()] };
        let found = judge(&facts("10.0.0.100"));
        assert_eq!(found[0].id, Id::KeepalivedServes);
        assert!(found[0].found.ends_with("for 10.0.0.100"), "{found:?}");
        assert_eq!(judge(&facts("10.0.0.9")), []);
    }

    #[test]
    fn firewall_marks_are_not_looked_at() {
        assert_eq!(marks(&BTreeSet::new(), &[]), None);
        let servers = Servers::of("virtual_server fwmark 7 {\n}\n");
        let keepalived = Keepalived { pid: 7, config: "k.conf".into(), servers };
        let sentence = marks(&ipvs_marks(IP_VS), &[keepalived]).expect("a sentence");
        assert!(sentence.contains("(1, 7)") && sentence.contains("ipvsadm -Ln"), "{sentence}");
    }
}
