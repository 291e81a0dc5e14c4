//! Bodies of requests and answers. Numbers are exact; times are in seconds unless a name says otherwise.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | GET `/v1/status` | | [`Status`] |
//! | GET `/v1/services` | | `Vec<`[`ServiceView`]`>` |
//! | POST `/v1/services` | [`ServiceAdd`] | [`Done`] |
//! | GET, PATCH, DELETE `/v1/services/{name}` | PATCH: [`ServiceEdit`] | [`ServiceView`] or [`Done`] |
//! | POST `/v1/services/{name}/backends` | [`BackendAdd`] | [`Done`] |
//! | PATCH, DELETE `/v1/services/{name}/backends/{address:port}` | PATCH: [`BackendEdit`] | [`Done`] |
//! | POST `…/backends/{address:port}/drain`, `…/undrain` | | [`Done`] |
//! | POST, DELETE `…/backends/{address:port}/maintenance` | POST: [`MaintenanceBegin`] | [`Done`] |
//! | GET, PATCH `/v1/timeouts` | PATCH: [`PartialTimeouts`] | [`Timeouts`](crate::model::Timeouts) or [`Done`] |
//! | GET, DELETE `/v1/conns` | query: [`ConnFilter`] | [`ConnList`] or [`Done`] |
//! | GET `/v1/stats` | | [`Stats`] |
//! | GET `/v1/events` | query: [`Filter`](crate::events::Filter) | [`Listed`](crate::events::Listed) |
//! | GET `/v1/trace` | query: [`Question`](crate::trace::Question) | [`Report`](crate::trace::Report)s, a line each, until the client hangs up |
//! | GET `/v1/config` | | the running state as a configuration file, text/yaml |
//! | POST `/v1/reload` | query: [`ReloadOptions`] | [`Reloaded`] |
//! | POST `/v1/detach` | | [`Done`]; the agent ends |
//!
//! Names and keys in a path are percent-encoded. Every failure is an [`ApiError`] with an HTTP status:
//! 400 bad input, 404 no such thing, 409 already there or in the way, 500 the kernel refused.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use super::checks::{CheckStats, LateCount};
use crate::model::{
    BackendKey, Endpoint, ExpireNodest, Guard, Maintenance, PartialTimeouts, Persistence, Reject, Scheduler,
    ServiceName, ServiceOptions, Sources,
};

/// A change was made. `warnings` are for the operator, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub warnings: Vec<String>,
}

/// Why a request failed, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", hint.as_deref().map(|h| format!("\n{h}")).unwrap_or_default())]
pub struct ApiError {
    pub message: String,
    /// What would be right, for example the nearest existing name.
    pub hint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAdd {
    /// Default: the endpoint's text.
    pub name: Option<ServiceName>,
    pub endpoint: Endpoint,
    /// Further endpoints of the service.
    #[serde(default)]
    pub group: BTreeSet<Endpoint>,
    pub scheduler: Scheduler,
    #[serde(default)]
    pub options: ServiceOptions,
    #[serde(default, skip_serializing_if = "Sources::is_empty")]
    pub sources: Sources,
}

/// Fields left out stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceEdit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    #[serde(default)]
    pub options: OptionsEdit,
    #[serde(default, skip_serializing_if = "EndpointsEdit::is_empty")]
    pub endpoints: EndpointsEdit,
    #[serde(default, skip_serializing_if = "SourcesEdit::is_empty")]
    pub sources: SourcesEdit,
}

/// What becomes of a service's rules about where clients come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourcesEdit {
    /// In the place of what the same prefixes had.
    #[serde(skip_serializing_if = "Sources::is_empty")]
    pub set: Sources,
    /// To take away what is not there changes nothing. None of them is in `set`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub del: BTreeSet<IpNet>,
}

impl SourcesEdit {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.del.is_empty()
    }
}

/// What becomes of a service's further endpoints. To add one that it has already changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EndpointsEdit {
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub add: BTreeSet<Endpoint>,
    /// Goes before `add`, so that a range may be given other ends.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub del: BTreeSet<Endpoint>,
}

impl EndpointsEdit {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.del.is_empty()
    }
}

/// Of a service's [`ServiceOptions`]; fields left out stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptionsEdit {
    /// In seconds; 0 takes the service's own away, so that the global one holds.
    pub timeouts: PartialTimeouts,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_nodest: Option<ExpireNodest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_quiescent_template: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject: Option<Reject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy_tcp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sloppy_sctp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classic_load: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ops: Option<bool>,
    /// With a timeout of 0: none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persistence: Option<Persistence>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendAdd {
    pub key: BackendKey,
    /// 0..=65535
    pub weight: u16,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
}

/// Fields left out stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendEdit {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_threshold: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_threshold: Option<u32>,
}

/// The agent says since when, and until when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceBegin {
    /// A line of 1 to 200 characters.
    pub comment: String,
    /// Who asks for it, 1 to 32 characters.
    pub by: String,
    /// How long it takes, 1 to 2678400 (31 days); none: until somebody ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
}

/// A service with its backends, as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    pub name: ServiceName,
    pub endpoint: Endpoint,
    /// Further endpoints of the service.
    #[serde(default)]
    pub group: BTreeSet<Endpoint>,
    pub scheduler: Scheduler,
    pub options: ServiceOptions,
    /// Who may open connections, and how fast.
    #[serde(default, skip_serializing_if = "Sources::is_empty")]
    pub sources: Sources,
    /// New connections come faster than `guard` allows: they get no entry in the flow table for now.
    pub guarded: bool,
    /// The health checks of each backend that has none of its own, one phrase each.
    #[serde(default)]
    pub checks: Vec<String>,
    pub counters: Counters,
    pub backends: Vec<BackendView>,
}

impl ServiceView {
    /// All of its endpoints, the first one first.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::once(&self.endpoint).chain(&self.group)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendView {
    pub key: BackendKey,
    /// The configured weight.
    pub weight: u16,
    /// What its health makes of it; the same if there is nothing to say.
    #[serde(default)]
    pub health_weight: u16,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
    pub state: BackendState,
    /// Why, where `state` alone does not say it (for example which gateway is in the way).
    pub detail: Option<String>,
    /// Who works on it, why and until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Maintenance>,
    /// Its health checks, in the order of the configuration.
    #[serde(default)]
    pub checks: Vec<CheckView>,
    /// MAC address of the real server, `aa:bb:cc:dd:ee:ff`.
    pub mac: Option<String>,
    /// The interface its packets leave by.
    pub interface: Option<String>,
    /// Connections as IPVS counts them.
    pub active: u64,
    pub inactive: u64,
    pub counters: Counters,
}

/// Whether a backend gets new connections, and if not why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// Gets new connections.
    Up,
    /// Drained by an operator; in maintenance too, perhaps.
    Drained,
    /// An operator works on it.
    Maintenance,
    /// Weight 0, by configuration or by a health check that passes but says so.
    Quiesced,
    /// At its upper threshold.
    Overloaded,
    /// Its MAC address is not known (yet).
    Unresolved,
    /// A health check fails, or has no result yet.
    Down,
    /// A backup, or a primary that stands by, which is not needed.
    Standby,
}

/// One health check of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    /// What it does: `tcp`, `tcp to port 8080`.
    pub check: String,
    pub state: CheckState,
    /// What the last attempt found, or why it failed; none before the first one.
    pub result: Option<String>,
    /// Whether the last attempt passed.
    pub passed: Option<bool>,
    /// Microseconds that it took.
    pub took_us: Option<u64>,
    /// Results in a row that speak against the state, and how many of them change it.
    pub against: u16,
    pub needed: u16,
}

/// What a check has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// No result yet.
    Unproven,
    Up,
    Down,
}

/// Since the counters were created; they survive the agent. DR sees only the client's direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// New connections.
    pub connections: u64,
    pub packets: u64,
    /// IP total length, as IPVS counts.
    pub bytes: u64,
}

/// A second, as IPVS estimates it: of the last seconds, the latest count most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub connections: f64,
    pub packets: f64,
    pub bytes: f64,
}

/// Filters are ANDed; an empty filter means every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnFilter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendKey>,
    /// Client address or prefix, `10.0.0.0/8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `ESTABLISHED`, `SYN_RECV`, ... as `ipvsadm -Lc` prints them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// At most so many entries are listed, [`CONNS_AT_ONCE`] if it is not said; `ConnList::total` still counts all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// What a listing has without a limit: the agent does nothing else meanwhile, and a full table has a million.
pub const CONNS_AT_ONCE: usize = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnList {
    /// Connections that match, listed or not.
    pub total: u64,
    pub conns: Vec<ConnView>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnView {
    pub protocol: crate::model::Protocol,
    /// ADDRESS:PORT
    pub client: std::net::SocketAddr,
    pub virtual_address: std::net::SocketAddr,
    pub service: ServiceName,
    pub backend: BackendKey,
    /// No connection but a persistence template: where the client's next ones go.
    #[serde(default)]
    pub template: bool,
    /// `ESTABLISHED`, `SYN_RECV`, ...; of a template `NONE`, or `ASSURED` once a connection was established.
    pub state: String,
    /// Seconds until the entry expires.
    pub expires: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// CLOCK_MONOTONIC when read, in nanoseconds: two readings give a rate.
    pub monotonic_ns: u64,
    /// Of all services.
    pub total: Counters,
    pub total_rate: Rate,
    pub services: Vec<ServiceStats>,
    /// Every verdict and drop reason with its packet count, in a fixed order, zeros included.
    pub verdicts: Vec<VerdictCount>,
    pub flows: Vec<TableStats>,
    /// Health checks, by kind.
    #[serde(default)]
    pub checks: Vec<CheckStats>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStats {
    pub name: ServiceName,
    pub endpoint: Endpoint,
    pub counters: Counters,
    pub rate: Rate,
    pub backends: Vec<BackendStats>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendStats {
    pub key: BackendKey,
    pub counters: Counters,
    pub rate: Rate,
    pub health: Health,
}

/// What the clients' packets tell of a backend, since its counters were created. The backend's own are not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Connections that timed out without ever having been established.
    pub incomplete_handshakes: u64,
    /// SYNs of connections that had begun: the client heard no answer.
    pub syn_retransmissions: u64,
    /// RSTs from clients, on connections that none had ended yet.
    pub client_resets: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VerdictCount {
    /// For example `forwarded`, `passed-not-a-vip`, `dropped-no-backend`.
    pub name: String,
    /// One line for people.
    pub meaning: String,
    pub packets: u64,
    /// Packets a second, as [`Rate`].
    pub rate: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStats {
    /// `ipv4` or `wide`.
    pub table: String,
    /// Entries that are live now.
    pub used: u64,
    /// Rated capacity, entries.
    pub rated: u64,
    /// It is nearly full: half-open and closing connections that are idle give way early.
    #[serde(default)]
    pub pressed: bool,
    /// How many have given way since the agent began.
    #[serde(default)]
    pub pruned: u64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub instance: String,
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime: u64,
    pub config_file: String,
    pub bpf_pin_dir: String,
    pub schema_version: u32,
    pub interfaces: Vec<InterfaceView>,
    pub services: usize,
    pub backends: usize,
    pub unresolved_backends: usize,
    /// Those that a health check keeps from new connections.
    pub unhealthy_backends: usize,
    /// CLI changes that the configuration file does not have, one sentence each.
    pub overlay: Vec<String>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// As configured, for example `eth0.100`.
    pub name: String,
    /// Where the program really is, for example `eth0`.
    pub attached_to: String,
    pub ifindex: u32,
    /// 802.1Q tag, 0 for none.
    pub vlan: u16,
    /// `native` or `generic`.
    pub mode: String,
    pub program_id: u32,
    pub mac: String,
    pub mtu: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReloadOptions {
    /// Keep every CLI change that the file contradicts or does not name.
    #[serde(default)]
    pub keep_runtime: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// What changed, one sentence each.
    pub changes: Vec<String>,
    /// CLI changes that the file overruled, one sentence each.
    pub discarded: Vec<String>,
    pub warnings: Vec<String>,
}
