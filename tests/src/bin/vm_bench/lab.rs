//! Three network namespaces: generator, director, sink.
//!
//! ```text
//!             generator                    director                sink
//! pktgen ─▶ gen0 ─ gen1 ─ relay ─▶ out0 ═══ eth0 ─ subject ─▶ eth1 ═══ eth0 ─ XDP_DROP
//! pktgen ─────────────────────────▶ out0
//! pktgen ─▶ idle0
//! ```
//! By the first way the director gets XDP frames, as a NIC's driver would hand them over. By the second one it gets
//! pktgen's own skbs, which it may not change: XDP copies each of them.

use std::{fs, net::Ipv4Addr};

use anyhow::{Context, Result};
use lb_tests::{netns::Netns, packet::Mac, scope::Scope};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
pub const PORT: u16 = 3306;
/// Behind the director's eth1.
pub const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 1, 11), Ipv4Addr::new(10, 9, 1, 12)];
/// The director's.
pub const ETH0_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const ETH1_MAC: Mac = [2, 0, 0, 0, 0, 2];
pub const SINK_MAC: Mac = [2, 0, 0, 0, 0xb, 1];

pub struct Lab {
    pub generator: Netns,
    pub director: Netns,
    pub sink: Netns,
    // Last: it takes down what bears its name.
    pub scope: Scope,
}

impl Lab {
    pub fn build() -> Result<Self> {
        let scope = Scope::unique()?;
        let netns = |role| Netns::create(&scope.netns_name(role), scope.lifetime());
        let (generator, director, sink) = (netns("generator")?, netns("director")?, netns("sink")?);
        for netns in [&generator, &director, &sink] {
            // Nothing but what pktgen sends is to be on the wires.
            netns.sysctl("ipv6/conf/all/disable_ipv6", "1")?;
            netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        }
        let (director_name, sink_name) = (director.name(), sink.name());
        let (eth0, eth1, sink_mac) = (text(ETH0_MAC), text(ETH1_MAC), text(SINK_MAC));
        generator.ip(&format!(
            "link add gen0 type veth peer name gen1\nlink add idle0 type dummy\nlink set idle0 up\n\
             link add out0 type veth peer name eth0 address {eth0} netns {director_name}\n\
             link set gen0 up\nlink set gen1 up\nlink set out0 up\n"
        ))?;
        director.ip(&format!(
            "link add eth1 address {eth1} type veth peer name eth0 address {sink_mac} netns {sink_name}\n\
             link set eth0 up\nlink set eth1 up\n\
             addr add 10.9.0.1/24 dev eth0\naddr add 10.9.1.1/24 dev eth1\naddr add {VIP}/32 dev lo\n"
        ))?;
        sink.ip("link set eth0 up")?;
        for backend in BACKENDS {
            director.ip(&format!("neigh replace {backend} lladdr {sink_mac} nud permanent dev eth1"))?;
        }
        director.sysctl("ipv4/ip_forward", "1")?;
        for name in ["all", "default", "eth0", "eth1"] {
            director.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
        }
        // A veth takes redirected frames only if its other end has NAPI, by GRO or a program.
        director.run("ethtool", &["-K", "eth0", "gro", "on"])?.ok()?;
        Ok(Self { generator, director, sink, scope })
    }
}

/// Packets that a device has received.
pub fn received(netns: &Netns, device: &str) -> Result<u64> {
    // `eth0: BYTES PACKETS ...`, eight columns in all, then the same for what was sent.
    column(netns, device, 1)
}

pub fn sent(netns: &Netns, device: &str) -> Result<u64> {
    column(netns, device, 9)
}

fn column(netns: &Netns, device: &str, number: usize) -> Result<u64> {
    let text = netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(number)?.parse().ok());
    packets.with_context(|| format!("no packets of {device} in\n{text}"))
}

/// As iproute2 and pktgen write it.
pub fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
