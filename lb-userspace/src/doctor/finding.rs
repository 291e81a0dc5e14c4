//! What `lb doctor` can find. PURE.

use std::fmt;

use serde::{Serialize, Serializer};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It works, but worse than it could, or not for long.
    Warning,
    /// Clients are not served, or soon will not be.
    Error,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub id: Id,
    pub severity: Severity,
    /// What it is about: a backend, a VIP, an interface, a file.
    pub subject: String,
    /// What was seen, so that it can be believed.
    pub found: String,
    /// What it causes.
    pub effect: String,
    /// The command that mends it, or what else to do.
    pub fix: String,
}

impl Finding {
    pub(super) fn new(
        id: Id,
        subject: impl fmt::Display,
        found: impl Into<String>,
        effect: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            id,
            severity: id.severity(),
            subject: subject.to_string(),
            found: found.into(),
            effect: effect.into(),
            fix: fix.into(),
        }
    }
}

macro_rules! ids {
    ($($variant:ident $severity:ident $name:literal $meaning:literal;)*) => {
        /// The name of a kind of finding, for people and for monitoring. Rows of docs/operations.md.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Id {
            $(#[doc = $meaning] $variant,)*
        }

        impl Id {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }
        }
    };
}

// In the order in which they are shown: what is at the root of others comes first.
ids! {
    NoPrivilege Warning "no-privilege" "the doctor may not look at everything";
    KernelTooOld Error "kernel-too-old" "the kernel is older than lb needs";
    PinsOtherVersion Error "pins-other-version" "the pins are of another version of lb";
    PinsUnusable Error "pins-unusable" "the pinned maps cannot be read";
    NothingPinned Error "nothing-pinned" "no agent runs and nothing is pinned";
    AgentDown Error "agent-down" "no agent runs; packets are forwarded on the last state";
    AgentSilent Error "agent-silent" "the agent's process is there and does not answer";
    SocketOfAnother Error "socket-of-another" "the control socket is another instance's";
    AgentLacksCapability Error "agent-lacks-capability" "the agent lacks a capability that its configuration needs";
    NotAttached Error "not-attached" "an interface has no program of ours";
    ForeignProgram Error "foreign-program" "an interface has an XDP program of somebody else";
    DriverLacks Error "driver-lacks" "a driver cannot do with XDP what packets need of it";
    StateReadOnly Error "state-read-only" "the state directory cannot be written";
    DiskFull Error "disk-full" "there is no room left for the state directory";
    LinkDown Error "link-down" "an interface is down or has no carrier";
    VipTaken Error "vip-taken" "another host answers for a VIP";
    AnswersArp Error "backend-answers-arp" "a backend answers ARP or ND for a VIP";
    VipNotHere Warning "vip-not-here" "a VIP is not an address of the director";
    IpForward Warning "ip-forward" "the director's kernel routes what comes for a VIP that it does not have";
    BehindGateway Error "backend-behind-gateway" "a router is between the director and a backend";
    NoRoute Error "backend-no-route" "the director has no route to a backend";
    Unresolved Error "backend-unresolved" "the MAC address of a backend is not known";
    VipMissing Error "vip-missing" "a backend does not have the VIP on lo";
    WrongSource Error "wrong-source" "a backend answers from another address than the VIP";
    NotOnVip Error "not-on-vip" "a server listens on the backend's own address, not on the VIP";
    NoBackend Error "no-backend" "no backend of a service takes new connections";
    PortClosed Error "port-closed" "nothing listens on the service's port";
    Rejected Error "rejected" "a backend's firewall rejects the service";
    Filtered Error "filtered" "a backend's firewall drops the service";
    MacChanged Error "mac-changed" "a backend has another MAC address than packets are sent to";
    BackendSilent Error "backend-silent" "a backend answers nothing at all";
    ReversePath Error "reverse-path" "a backend does not answer clients of another segment";
    PathMtu Error "path-mtu" "packets that the director receives are too long for the way to a backend";
    EgressMtu Warning "egress-mtu" "the director's way to a backend has a smaller MTU than it receives by";
    MssTooLarge Warning "mss-too-large" "a backend asks clients for longer segments than the director receives";
    CheckBlind Error "check-blind" "health checks pass although the way through the VIP is dead";
    CheckWrong Warning "check-wrong" "health checks fail although the way through the VIP works";
    TableOverflows Warning "table-overflows" "new connections find no room in the flow tables";
    TableFull Warning "table-full" "a flow table is nearly full";
    FirewallDrops Warning "firewall-drops" "a rule of the director drops what its own stack needs";
    ConntrackFull Warning "conntrack-full" "the director's table of tracked connections is nearly full";
    RpFilter Warning "rp-filter" "rp_filter is strict on a director that serves by itself";
    IpvsActive Warning "ipvs-active" "IPVS has a virtual server of the same VIP";
    KeepalivedServes Warning "keepalived-serves" "keepalived manages virtual servers of the same VIP";
    ClockApart Warning "clock-apart" "the flow table's clock and CLOCK_MONOTONIC disagree";
    ClockUnsynchronised Warning "clock-unsynchronised" "nothing keeps the director's wall clock right";
    OffloadInTheWay Warning "offload-in-the-way" "a NIC changes frames before XDP sees them";
    OneQueue Warning "one-queue" "a NIC has one receive queue for all CPUs";
    RssUneven Warning "rss-uneven" "a NIC's hash leaves receive queues unused";
    AgentWarning Warning "agent-warning" "the agent itself warns of something";
    GenericMode Warning "generic-mode" "the program runs in generic mode";
    JitOff Warning "jit-off" "the kernel interprets BPF programs";
    JitHardened Warning "jit-hardened" "the kernel blinds constants of BPF programs";
    NoBtf Warning "no-btf" "the kernel has no type information";
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Warning => "warning",
            Self::Error => "ERROR",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, severity, subject, found, effect, fix } = self;
        writeln!(f, "{severity:<7}  {id}  {subject}")?;
        write!(f, "         seen:    {found}\n         causes:  {effect}\n         mend it: {fix}")
    }
}
