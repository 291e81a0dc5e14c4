//! What else on this host believes to balance the same VIPs: IPVS, and keepalived that manages it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

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
    /// Of its `virtual_server` blocks.
    pub servers: Vec<IpAddr>,
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
    let shared: BTreeSet<String> =
        servers.iter().filter(|vip| vips.contains(vip)).map(ToString::to_string).collect();
    let shared = shared.into_iter().collect::<Vec<_>>().join(", ");
    (!shared.is_empty()).then(|| {
        Finding::new(
            Id::KeepalivedServes,
            format!("keepalived (process {pid})"),
            format!("{} has virtual_server blocks for {shared}", config.display()),
            "it checks the same backends and fills an IPVS table that no packet meets; its notify scripts act on that",
            format!("take the virtual_server blocks out of {} and reload it (kill -HUP {pid}); VRRP may stay", config.display()),
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

/// Addresses of `virtual_server ADDRESS [PORT] {` in keepalived.conf(5); groups and firewall marks have none.
pub fn virtual_servers(config: &str) -> Vec<IpAddr> {
    let servers = config.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "virtual_server").then(|| words.next()?.parse().ok())?
    });
    servers.collect()
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
        let config = "vrrp_instance V1 {\n virtual_ipaddress {\n 10.0.0.100\n }\n}\n\
                      virtual_server 10.0.0.100 80 {\n}\n  virtual_server fd00::1 53 {\n}\nvirtual_server group g {\n}\n\
                      # virtual_server 10.0.0.9 80\n";
        assert_eq!(virtual_servers(config), [ip("10.0.0.100"), ip("fd00::1")]);
        let keepalived = Keepalived { pid: 7, config: "k.conf".into(), servers: virtual_servers(config) };
        let facts =
            |vip| Facts { vips: [ip(vip)].into(), ipvs: Vec::new(), keepalived: vec![keepalived.clone()] };
        assert_eq!(judge(&facts("10.0.0.100"))[0].id, Id::KeepalivedServes);
        assert_eq!(judge(&facts("10.0.0.9")), []);
    }
}
