//! Every key of the configuration file, declared once: the reader checks against these tables,
//! `render` takes the names from them, and docs/config.md is generated from them.

use crate::model::PerState;

pub(super) mod backend;
mod checks;
pub(super) mod limits;
pub(super) mod notify;
pub(super) mod probes;
pub(super) mod service_timeouts;
pub(super) mod source;

pub(super) use checks::{
    check, dns_check, exec_check, file_check, http_check, https_check, lag_tier, mysql_check, ping_check,
    postgres_check, redis_check, smtp_check, tcp_check, udp_check,
};

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub name: &'static str,
    /// Other words people use for it (keepalived's, ipvsadm's).
    pub also: &'static [&'static str],
    /// What it takes.
    pub takes: &'static str,
    pub absent: Absent,
    pub doc: &'static str,
}

/// What holds when a key is left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Absent {
    Required,
    /// This value, as it would be written.
    Is(&'static str),
    /// Something that is not a value, in words.
    Words(&'static str),
}
use Absent::{Is, Required, Words};

/// The keys of one kind of mapping.
#[derive(Debug)]
pub(super) struct Section {
    /// For example `services[].backends[]`; empty for the top of the file.
    pub path: &'static str,
    pub doc: &'static str,
    pub keys: &'static [&'static Key],
}

impl Section {
    /// For a sentence: `timeouts`, `services`, "the top level".
    pub(super) fn title(&self) -> &'static str {
        if self.path.is_empty() { "the top level" } else { self.path }
    }

    /// The key that is written `word`.
    pub(super) fn key(&self, word: &str) -> Option<&'static Key> {
        self.keys.iter().find(|k| k.name == word || k.also.contains(&word)).copied()
    }
}

const fn key(name: &'static str, takes: &'static str, absent: Absent, doc: &'static str) -> Key {
    Key { name, also: &[], takes, absent, doc }
}

impl Key {
    const fn also(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }
}

/// All sections, in the order of the reference.
pub(super) static SECTIONS: &[&Section] = &[
    &file::SECTION,
    &interface::SECTION,
    &vips::SECTION,
    &flows::SECTION,
    &limits::SECTION,
    &timeouts::SECTION,
    &probes::SECTION,
    &control::SECTION,
    &notify::SECTION,
    &notify::webhook::SECTION,
    &service::SECTION,
    &endpoint::SECTION,
    &source::SECTION,
    &service_timeouts::SECTION,
    &backend::SECTION,
    &check::SECTION,
    &tcp_check::SECTION,
    &http_check::SECTION,
    &https_check::SECTION,
    &mysql_check::SECTION,
    &lag_tier::SECTION,
    &redis_check::SECTION,
    &postgres_check::SECTION,
    &udp_check::SECTION,
    &dns_check::SECTION,
    &smtp_check::SECTION,
    &ping_check::SECTION,
    &file_check::SECTION,
    &exec_check::SECTION,
];

pub(super) mod file {
    use super::*;
    pub static SECTION: Section = Section {
        path: "",
        doc: "The top level of the file.",
        keys: &[
            &INSTANCE,
            &INTERFACES,
            &VIPS,
            &FLOWS,
            &LIMITS,
            &TIMEOUTS,
            &PROBES,
            &CONTROL,
            &NOTIFY,
            &SERVICES,
        ],
    };
    pub static INSTANCE: Key = key(
        "instance",
        "1 to 32 letters, digits, `-` and `_`",
        Is("default"),
        "Names the pinned BPF objects, the control socket and the state directory. Two directors on one host \
         need two names.",
    );
    pub static INTERFACES: Key = key(
        "interfaces",
        "list of `interfaces[]` or of interface names",
        Required,
        "Where the director receives and sends, at least one. A plain name is short for `{name: ...}`.",
    );
    pub static VIPS: Key =
        key("vips", "`vips`", Words("none"), "What is done about the services' addresses.");
    pub static FLOWS: Key =
        key("flows", "`flows`", Words("the defaults below"), "Rated capacities of the flow tables.");
    pub static LIMITS: Key = key(
        "limits",
        "`limits`",
        Words("the defaults below"),
        "How many services and backends there may be.",
    );
    pub static TIMEOUTS: Key =
        key("timeouts", "`timeouts`", Words("the defaults below"), "Idle timeouts of connections.");
    pub static PROBES: Key =
        key("probes", "`probes`", Words("the defaults below"), "Health checks through the VIP.");
    pub static CONTROL: Key = key(
        "control",
        "`control`",
        Words("the defaults below"),
        "The socket that the command line talks to.",
    );
    pub static NOTIFY: Key =
        key("notify", "`notify`", Words("nobody is told"), "Who is told of what happens.")
            .also(&["global_defs"]);
    pub static SERVICES: Key = key(
        "services",
        "list of `services[]`",
        Words("none"),
        "The virtual servers. May be empty: services can be added with `lb service add`.",
    )
    .also(&["virtual_servers"]);
}

pub(super) mod interface;

pub(super) mod vips;

pub(super) mod flows {
    use super::*;
    pub static SECTION: Section = Section {
        path: "flows",
        doc: "Rated capacities of the flow tables, in flows (1 to 128M). The memory is allocated at start; \
              `lb check-config` prints it. A reload with other sizes moves the connections to new tables, \
              and takes the memory of both meanwhile.",
        keys: &[&IPV4, &WIDE],
    };
    pub static IPV4: Key = key("ipv4", "count", Is("1M"), "IPv4 flows of services with a port.");
    pub static WIDE: Key =
        key("wide", "count", Is("256k"), "IPv6 flows, and flows of services with port 0.").also(&["ipv6"]);
}

pub(super) mod timeouts;

pub(super) mod control {
    use super::*;
    pub static SECTION: Section = Section {
        path: "control",
        doc: "The unix socket that the command line talks to.",
        keys: &[&SOCKET, &GROUP],
    };
    pub static SOCKET: Key = key(
        "socket",
        "absolute path, at most 107 bytes",
        Words("`/run/lb/INSTANCE.sock`"),
        "Where the socket is made. Give the command line the same path with `--socket`.",
    );
    pub static GROUP: Key = key(
        "group",
        "group name or number",
        Words("root only"),
        "This group may use the socket, which then has mode 0660.",
    );
}

pub(super) mod endpoint;

pub(super) mod service {
    use super::*;
    pub static SECTION: Section = Section {
        path: "services[]",
        doc: "One virtual server. Names are unique, and so are address, port and protocol together. A packet goes \
              to the service that has its port; else to the one that has a range with it; else to the one with \
              port 0.",
        keys: &[
            &NAME,
            &ADDRESS,
            &PORT,
            &PROTOCOL,
            &ENDPOINTS,
            &SCHEDULER,
            &FLAGS,
            &PERSISTENCE,
            &GRANULARITY,
            &SCOPE,
            &TIMEOUTS,
            &EXPIRE_NODEST,
            &EXPIRE_QUIESCENT,
            &REJECT,
            &GUARD,
            &SOURCES,
            &SLOPPY_TCP,
            &SLOPPY_SCTP,
            &CLASSIC_LOAD,
            &OPS,
            &CHECKS,
            &MINIMUM_HEALTHY,
            &QUORUM,
            &HYSTERESIS,
            &INHIBIT_ON_FAILURE,
            &SLOW_START,
            &notify::hooks::NOTIFY_UP,
            &notify::hooks::NOTIFY_DOWN,
            &notify::hooks::QUORUM_UP,
            &notify::hooks::QUORUM_DOWN,
            &FLAP_HOLD,
            &PASSIVE,
            &PASSIVE_HOLD,
            &BACKENDS,
        ],
    };
    pub static NAME: Key = key(
        "name",
        "1 to 63 letters, digits and `-_.:/[]`",
        Words("the endpoint, for example `tcp/172.18.14.100:3306`"),
        "What the command line calls it.",
    );
    pub static ADDRESS: Key = key(
        "address",
        "IPv4 or IPv6 address",
        Words("required, or `endpoints`"),
        "The VIP: where clients connect. Write an IPv6 address that begins or ends with a colon in quotes.",
    )
    .also(&["vip", "ip", "virtual_address"]);
    pub static PORT: Key = key(
        "port",
        "0 to 65535, or a range such as 5000-5100",
        Words("required, or `endpoints`"),
        "The port that clients connect to; 0 is every port of the address.",
    )
    .also(&["ports"]);
    pub static PROTOCOL: Key =
        key("protocol", "`tcp`, `udp` or `sctp`", Is("tcp"), "The transport protocol.");
    pub static ENDPOINTS: Key = key(
        "endpoints",
        "list of `services[].endpoints[]`",
        Words("none"),
        "Further addresses, ports, ranges and protocols of the same service: one pool of backends, one set of counts \
         and thresholds, persistence across all. What IPVS needs fwmarks for. All are of one address family. \
         Without `address` and `port` the first of the list gives the backends their port.",
    )
    .also(&["virtual_server_group"]);
    pub static SCHEDULER: Key = key(
        "scheduler",
        "`rr`, `wrr`, `lc`, `wlc`, `sed`, `nq`, `fo`, `ovf`, `sh`, `mh`, `dh`, `twos`, `lblc` or `lblcr`",
        Is("wlc"),
        "Which backend a new connection gets, as IPVS's scheduler of that name chooses it. `rr`: round robin; \
         `wrr`: the same by weight; `lc`, `wlc`: the least connections, for its weight; `sed`: the shortest \
         expected delay; `nq`: an idle one, else as `sed`; `fo`: the heaviest; `ovf`: the heaviest whose active \
         connections do not exceed its weight; `sh`, `mh`: a hash of the client's address (`mh` moves few \
         clients when a backend comes or goes); `dh`: a hash of the VIP; `twos`: the less loaded of two drawn at random; \
         `lblc`, `lblcr`: where the VIP's last connections went, until that is overloaded. What a new connection costs \
         is the same for any number of backends with `rr`, `wrr`, `sh`, `mh` and `dh`; the others look at each of them, \
         some 5 ns a backend (`lblc`, `lblcr` and `twos` 12 to 25; `cargo xtask bench schedulers`). Two exceptions: `wrr` \
         whose weights, divided by their greatest common divisor, make more than 65,536 turns has no table and looks at \
         each backend, too; and `-fallback` looks at backends first, whether any has room, and then at one entry after the other until one's has, \
         40 ns each: the longer, the fewer have room.",
    )
    .also(&["lb_algo", "lvs_sched"]);
    pub static FLAGS: Key = key(
        "flags",
        "list of `sh-fallback`, `sh-port` or `mh-fallback`, `mh-port`",
        Words("none"),
        "Of the schedulers `sh` and `mh`. `-fallback`: where the client's backend takes no connections, the client \
         gets another one; without it, it is refused. `-port`: the client's port is hashed too.",
    )
    .also(&["sched_flags"]);
    pub static PERSISTENCE: Key = key(
        "persistence",
        "duration, at most 31 days; 0 is none",
        Is("0"),
        "A client's new connections go where its last one went, until it has opened none for so long. As in IPVS, \
         that holds on as long as any of them is open, and a drained backend still gets those of its clients.",
    )
    .also(&["persistence_timeout"]);
    pub static GRANULARITY: Key = key(
        "persistence_granularity",
        "prefix length, or an IPv4 netmask",
        Words("the whole address"),
        "Clients whose addresses share this prefix count as one for `persistence`.",
    )
    .also(&["persistence_netmask", "granularity"]);
    pub static SCOPE: Key = key(
        "persistence_scope",
        "`service` or `endpoint`",
        Is("service"),
        "`service`: a client's connections to all `endpoints` go to one backend, as with an IPVS fwmark service. \
         `endpoint`: each endpoint (all port ranges of an address count as one with its port 0) by itself, as \
         keepalived's `virtual_server_group` without fwmark.",
    );
    pub static TIMEOUTS: Key = key(
        "timeouts",
        "`services[].timeouts`",
        Words("the global `timeouts`"),
        "Idle timeouts of this service's connections, where they shall differ from the global ones.",
    );
    pub static EXPIRE_NODEST: Key = key(
        "expire_nodest",
        "`auto`, `drop`, `reschedule` or `reset`",
        Is("auto"),
        "What happens to connections whose backend was removed. `drop`: their packets are dropped, and go on if \
         the backend is added again, as with IPVS's `expire_nodest_conn` 0. `reschedule`: the next SYN or \
         datagram goes to another backend at once; TCP in the middle of a connection is dropped, until within a \
         second the entries end; a SYN on a connection of a backend of weight 0 goes to another one, too. `reset`: the \
         same, but that TCP is answered with a reset, as with `expire_nodest_conn` 1, and entries stay until their \
         timeout. `auto` is `drop` for TCP and SCTP, and `reschedule` for UDP. There is no reset for SCTP: its packets are dropped.",
    );
    pub static EXPIRE_QUIESCENT: Key = key(
        "expire_quiescent_template",
        "`true` or `false`",
        Is("false"),
        "With `persistence`: the new connections of a client whose backend is drained or has weight 0 go to \
         another one, as with IPVS's sysctl of this name, instead of keeping the backend busy as long as its \
         clients come back.",
    );
    pub static REJECT: Key = key(
        "reject",
        "`icmp`, `reset`, `drop` or `pass`",
        Is("icmp"),
        "What a client is told whose new connection no backend takes, or whose TCP segment or SCTP packet belongs to no \
         connection that is known. `icmp`: as with IPVS, ICMP port unreachable in the first case and a reset in \
         the second, for SCTP protocol unreachable; `reset`: a reset in both, and for UDP and SCTP as `icmp`; `drop`: nothing; `pass`: the packet \
         goes to the director's own stack, where a server of last resort may listen. Answers are limited to 128 \
         a CPU in an eighth of a second; what goes over that is dropped.",
    );
    pub static GUARD: Key = key(
        "guard",
        "`auto`, `off` or 1 to 3000000 (connections a second)",
        Is("auto"),
        "Protects the flow table from floods. New connections that come faster, beyond a burst of four seconds' \
         worth, are placed by a consistent hash of the client and get an entry with the ACK that completes their \
         handshake; datagrams, as the rate allows. `auto` is the rate at which half-open connections, or UDP \
         flows, would take half of the table: its rated capacity (`flows`) by twice the service's `tcp_syn` in seconds, \
         8738 for 1M and 60s; with UDP among its endpoints by twice its `udp`, 1747 for 1M and 300s: a busy UDP service \
         has a `udp` that fits its answers, a few seconds for DNS.",
    );
    pub static SOURCES: Key = key(
        "sources",
        "list of `services[].sources[]`",
        Words("everybody may"),
        "Who may open connections, and how many a second, by prefixes of clients' addresses: the longest that has the \
         client's decides, and clients of none are allowed; with `0.0.0.0/0 deny` (`::/0`) it is a list of who is. \
         Connections that there are go on. At most 65536 of all services together.",
    )
    .also(&["acl"]);
    pub static SLOPPY_TCP: Key = key(
        "sloppy_tcp",
        "`true` or `false`",
        Is("false"),
        "TCP only. A connection that is not known is taken up in its middle: any segment but a reset opens one, \
         as with IPVS's sysctl of this name.",
    );
    pub static SLOPPY_SCTP: Key = key(
        "sloppy_sctp",
        "`true` or `false`",
        Is("false"),
        "SCTP only. An association that is not known is taken up in its middle: any packet but an ABORT opens one, as \
         with IPVS's sysctl of this name.",
    );
    pub static CLASSIC_LOAD: Key = key(
        "classic_load",
        "`true` or `false`",
        Is("false"),
        "How `lc`, `wlc`, `lblc`, `lblcr` and `twos` count a backend's load. `false`: 256 × active + all connections, as \
         IPVS does since 2026; `true`: 256 × active + inactive ones, as it did before.",
    );
    pub static OPS: Key = key(
        "ops",
        "`true` or `false`",
        Is("false"),
        "UDP only. One-packet scheduling: each datagram goes to the next backend and is counted as a connection; \
         none is remembered.",
    )
    .also(&["one_packet"]);
    pub static CHECKS: Key = key(
        "checks",
        "list of `services[].checks[]`",
        Words("none: every backend counts as healthy"),
        "Health checks of each backend, all of which must pass for it to get new connections.",
    );
    pub static MINIMUM_HEALTHY: Key = key(
        "minimum_healthy",
        "0 to 100",
        Is("0"),
        "Percent. Where fewer of the backends are healthy, the checks are not believed and all are kept. Backups, \
         drained ones and those without a first result do not count.",
    )
    .also(&["panic_threshold"]);
    pub static QUORUM: Key = key(
        "quorum",
        "number",
        Is("1"),
        "Sum of the weights of the backends that serve, below which those with `backup: true` serve in their place. \
         Without a backup that could, the others go on.",
    );
    pub static HYSTERESIS: Key = key(
        "hysteresis",
        "number, below quorum",
        Is("0"),
        "So much more than `quorum` it takes to get it back, and so much less to lose it.",
    );
    pub static INHIBIT_ON_FAILURE: Key = key(
        "inhibit_on_failure",
        "`true` or `false`",
        Is("false"),
        "A failing backend is treated as if its weight were 0: it keeps its persistent clients, and its place in \
         the tables of `sh`, `mh` and `dh`.",
    );
    pub static SLOW_START: Key = key(
        "slow_start",
        "short duration",
        Words("none"),
        "A backend that has become healthy gets its weight in ten steps over this time. Parts are rounded up: give \
         weights of 10 or 100 to make it felt.",
    )
    .also(&["slowstart"]);
    pub static FLAP_HOLD: Key = key(
        "flap_hold",
        "short duration",
        Words("none"),
        "A backend that fails for the third time is kept out at least so long, also if its checks pass again; each \
         further failure doubles that, to 16 times. After ten times this without a failure all is forgotten; a \
         restart of the agent changes nothing of that. Where no other backend serves, those that are kept out \
         serve if they pass.",
    );
    pub static PASSIVE: Key = key(
        "passive",
        "`off`, `lower` or `out`",
        Is("off"),
        "A second opinion beside the checks: what becomes of a backend whose handshakes do not complete, while \
         those of the others do, and which has lost what it used to complete. `lower`: it gets a tenth of its weight, \
         rounded up; `out`: no new connections, as if a check failed. A backend whose clients alone hang up by a reset \
         gets a tenth with either. At most a third of the healthy backends at once, but \
         one of two; nobody while the guard against floods is active or a flow table is nearly full, and for 90 s \
         afterwards.",
    );
    pub static PASSIVE_HOLD: Key = key(
        "passive_hold",
        "short duration",
        Is("30s"),
        "For how long; then it gets its connections back, and if they fare as badly, twice as long, to 16 times.",
    );
    pub static BACKENDS: Key = key(
        "backends",
        "list of `services[].backends[]`",
        Words("none"),
        "The real servers, in the order in which the scheduler walks them. A backend that is added while the \
         agent runs goes to the head, as in IPVS.",
    )
    .also(&["real_servers", "destinations"]);
}
