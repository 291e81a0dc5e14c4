//! The types of the desired state.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::guard::MAX_RATE;
use serde::{Deserialize, Serialize};

use super::{
    Maintenance, PartialTimeouts, Persistence, Scheduler, ServiceName, Sources, Timeouts,
    check::{BackendHealth, ProbePorts, ServiceHealth},
};

/// Everything the agent keeps the kernel equal to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub interfaces: Vec<InterfaceSpec>,
    pub vips: VipPlacement,
    pub flows: FlowSizes,
    pub limits: Limits,
    pub timeouts: Timeouts,
    #[serde(default)]
    pub probes: ProbePorts,
    /// In file order, then in the order of their adding. Names and endpoints are unique.
    pub services: Vec<Service>,
}

/// One interface to attach to, as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceSpec {
    /// `eth0`, `bond0`, or a VLAN device such as `eth0.100`, which resolves to its parent plus tag.
    pub name: String,
    pub mode: AttachMode,
    /// What to do about rx VLAN offload, LRO and hardware GRO that are in the way.
    pub offloads: OffloadPolicy,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachMode {
    /// Native, falling back to generic with a warning.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// In the stack (SKB mode): works on every device, several times slower.
    Generic,
}

/// What the agent may do about NIC offloads that hide tags or merge frames before XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadPolicy {
    /// Warn, change nothing.
    #[default]
    Check,
    /// Switch them off, and back on at `lb detach`.
    Set,
}

/// Whether the agent adds the services' addresses to an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipPlacement {
    /// The interface that gets each VIP as /32 or /128; `None`: the operator does it.
    pub add_to: Option<String>,
}

/// Rated capacities of the flow tables, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSizes {
    /// IPv4 flows of exact-port services.
    pub ipv4: u32,
    /// IPv6 flows and flows of port-0 services.
    pub wide: u32,
}

impl Default for FlowSizes {
    fn default() -> Self {
        Self { ipv4: 1 << 20, wide: 1 << 18 }
    }
}

/// How many of each there may be: array sizes, fixed at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// 1..=65534
    pub services: u32,
    /// 1..=262144
    pub destinations: u32,
    /// Of all services together, 1..=65534
    pub endpoints: u32,
}

impl Limits {
    /// How many endpoints there may be if it is not said.
    pub fn default_endpoints(services: u32) -> u32 {
        services.max(16384)
    }
}

impl Default for Limits {
    fn default() -> Self {
        let services = 4096;
        Self { services, destinations: 16384, endpoints: Self::default_endpoints(services) }
    }
}

/// One virtual server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: ServiceName,
    /// The first one: its address family is that of all endpoints and backends, its port the backends'.
    pub endpoint: Endpoint,
    /// Further ones (keepalived's `virtual_server_group`): the same backends behind other addresses, ports,
    /// protocols.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub group: BTreeSet<Endpoint>,
    pub scheduler: Scheduler,
    /// In the scheduler's walk order (file order; a hot-added backend goes to the head, as in IPVS).
    /// Keys are unique, and all are of the endpoint's address family.
    pub backends: Vec<Backend>,
    #[serde(default)]
    pub options: ServiceOptions,
    /// Who may open connections, and how fast; at most [`lb_common::source::MAX_RULES`] of all services together.
    #[serde(default, skip_serializing_if = "Sources::is_empty")]
    pub sources: Sources,
    #[serde(default)]
    pub health: ServiceHealth,
}

/// How a service treats its connections; everything has a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceOptions {
    /// Idle timeouts of its own; `Model::timeouts` has the others.
    pub timeouts: PartialTimeouts,
    /// None: each connection is scheduled by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
    pub expire_nodest: ExpireNodest,
    /// New connections of a client are scheduled anew when its backend has weight 0, instead of following
    /// their persistence template, as with IPVS's sysctl `expire_quiescent_template`.
    pub expire_quiescent_template: bool,
    pub reject: Reject,
    pub guard: Guard,
    /// TCP only. A connection is taken up in its middle: any segment but a reset opens a flow, as with
    /// IPVS's sysctl `sloppy_tcp`.
    pub sloppy_tcp: bool,
    /// IPVS's sysctl `sloppy_sctp`.
    pub sloppy_sctp: bool,
    /// Load is 256 × active + inactive, as IPVS counted it until 2026, instead of 256 × active + total.
    pub classic_load: bool,
    /// UDP only. One-packet scheduling: each datagram is scheduled by itself (`ipvsadm --ops`).
    pub ops: bool,
}

/// What happens to the connections of a removed backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpireNodest {
    /// [`Self::Drop`] for TCP, [`Self::Reschedule`] for UDP.
    #[default]
    Auto,
    /// Their packets are dropped; if the backend comes back they go on (IPVS's `expire_nodest_conn` 0).
    Drop,
    /// They are over: the next SYN or datagram goes to another backend at once; TCP in the middle is dropped
    /// (IPVS's `expire_nodest_conn` 1).
    Reschedule,
    /// The same, but TCP in the middle is answered with a reset (IPVS's `expire_nodest_conn` 1).
    Reset,
}

/// What a client is told whose packet opens no connection because no backend takes one, or belongs to none that
/// is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reject {
    /// As IPVS: ICMP port unreachable where no backend takes the connection, a reset where none is known.
    #[default]
    Icmp,
    /// A reset in both cases; port unreachable for datagrams.
    Reset,
    /// Nothing.
    Drop,
    /// The packet goes to the director's own stack.
    Pass,
}

/// New connections a second above which they get no entry in the flow table until their handshake is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Guard {
    /// [`Guard::auto`] of the table that has the service's flows, and its own timeouts.
    #[default]
    Auto,
    Off,
    /// 1..=[`lb_common::guard::MAX_RATE`]
    Rate(u32),
}

impl Guard {
    /// As many a second as take half the rated capacity of a table in the `unproven` seconds that what has only begun
    /// lives (a half-open connection `tcp_syn`, a UDP flow `udp`), but at least one.
    pub fn auto(rated_flows: u32, unproven: u32) -> u32 {
        (rated_flows / unproven.saturating_mul(2).max(1)).clamp(1, MAX_RATE)
    }
}

impl FromStr for Guard {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            rate => match rate.parse() {
                Ok(rate @ 1..=MAX_RATE) => Ok(Self::Rate(rate)),
                _ => Err(format!(
                    "`{text}` is no rate; valid are auto, off, 1 to {MAX_RATE} connections a second"
                )),
            },
        }
    }
}

impl TryFrom<String> for Guard {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Guard> for String {
    fn from(guard: Guard) -> Self {
        guard.to_string()
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Off => f.pad("off"),
            Self::Rate(rate) => write!(f, "{rate}"),
        }
    }
}

impl Reject {
    pub const ALL: [Self; 4] = [Self::Icmp, Self::Reset, Self::Drop, Self::Pass];

    pub fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Reset => "reset",
            Self::Drop => "drop",
            Self::Pass => "pass",
        }
    }
}

impl ExpireNodest {
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Drop => "drop",
            Self::Reschedule => "reschedule",
            Self::Reset => "reset",
        }
    }

    pub const ALL: [Self; 4] = [Self::Auto, Self::Drop, Self::Reschedule, Self::Reset];

    /// Whether the connections of a service of this protocol are scheduled anew.
    pub fn reschedules(self, protocol: Protocol) -> bool {
        match self {
            Self::Auto => protocol == Protocol::Udp,
            Self::Drop => false,
            Self::Reschedule | Self::Reset => true,
        }
    }
}

/// Where clients connect: VIP, port (0: every port of the address), protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    /// The last port of a range that begins with `port`; none: it is no range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_port: Option<u16>,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// A backend's identity within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackendKey {
    pub address: IpAddr,
    /// Equal to the port of the service's first endpoint: Direct Routing cannot translate ports, and what
    /// came to another endpoint keeps that one's.
    pub port: u16,
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    pub key: BackendKey,
    /// 0..=65535; 0 takes no new connections (quiesced), as in IPVS.
    pub weight: u16,
    /// Connections (active + inactive) at which the backend gets no new ones; 0: no limit.
    pub upper_threshold: u32,
    /// Connections below which it gets new ones again; 0: three quarters of the upper one.
    pub lower_threshold: u32,
    /// Drained by an operator: weight counts as 0 until undrained, the configured weight is kept.
    pub drained: bool,
    /// Somebody works on it: the same, but with a reason and an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    #[serde(default, skip_serializing_if = "BackendHealth::is_default")]
    pub health: BackendHealth,
}

impl Backend {
    /// The weight that the scheduler sees.
    pub fn effective_weight(&self) -> u16 {
        if self.is_kept_back() { 0 } else { self.weight }
    }

    /// An operator wants it to get no new connections.
    pub fn is_kept_back(&self) -> bool {
        self.drained || self.maintenance.is_some()
    }
}

impl Model {
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.iter().find(|s| s.name == *name)
    }

    pub fn service_mut(&mut self, name: &ServiceName) -> Option<&mut Service> {
        self.services.iter_mut().find(|s| s.name == *name)
    }
}

impl Service {
    /// All of them, the first one first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::once(&self.endpoint).chain(&self.group)
    }

    /// Whether any of its endpoints has this protocol.
    pub fn has(&self, protocol: Protocol) -> bool {
        self.endpoints().any(|endpoint| endpoint.protocol == protocol)
    }

    pub fn backend(&self, key: BackendKey) -> Option<&Backend> {
        self.backends.iter().find(|b| b.key == key)
    }

    pub fn backend_mut(&mut self, key: BackendKey) -> Option<&mut Backend> {
        self.backends.iter_mut().find(|b| b.key == key)
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&SocketAddr::new(self.address, self.port).to_string())
    }
}

impl FromStr for BackendKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is not ADDRESS:PORT (IPv6 as [ADDRESS]:PORT)"))?;
        Ok(Self { address: address.ip(), port: address.port() })
    }
}

impl TryFrom<String> for BackendKey {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BackendKey> for String {
    fn from(key: BackendKey) -> Self {
        key.to_string()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for ExpireNodest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
