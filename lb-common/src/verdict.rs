//! What became of a packet: each way out of the program has one entry, counted per CPU.

macro_rules! verdicts {
    ($($variant:ident $name:literal $meaning:literal,)*) => {
        /// Index into `VERDICTS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Verdict { $($variant,)* }

        impl Verdict {
            /// All of them, in the order of their indices.
            pub const ALL: &'static [Verdict] = &[$(Verdict::$variant,)*];

            /// The name in `lb stats`: `forwarded-…`, `passed-…`, `answered-…` or `dropped-…`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }
        }
    };
}

verdicts! {
    ForwardedTx "forwarded-tx"
        "sent to a backend, out of the interface it came in by",
    ForwardedRedirect "forwarded-redirect"
        "sent to a backend behind another interface",
    ForwardedProbe "forwarded-probe"
        "the answer to a health check through the VIP: sent to the check",
    PassedLocalBackend "passed-local-backend"
        "given to the director's own stack, which is the backend",
    PassedNotForUs "passed-not-for-us"
        "the frame is addressed to another host's MAC, or has a VLAN tag that no interface of ours has",
    PassedNotIp "passed-not-ip"
        "neither IPv4 nor IPv6 with TCP, UDP, SCTP or an ICMP error",
    PassedMalformed "passed-malformed"
        "a header is cut off or its lengths contradict each other",
    PassedNoService "passed-no-service"
        "no service has this address, port and protocol",
    PassedNoFlow "passed-no-flow"
        "an ICMP error about no known connection, or `reject: pass`: given to the director's own stack",
    PassedNoBackend "passed-no-backend"
        "a new connection, but no backend is up, and `reject: pass`: given to the director's own stack",
    AnsweredTtl "answered-ttl"
        "the TTL or hop limit ran out here: time exceeded was sent to the client",
    DroppedTtl "dropped-ttl"
        "the TTL ran out here and no answer was sent: over the rate limit, or no source address",
    AnsweredTooBig "answered-too-big"
        "longer than the MTU of the way to the backend: the client was told that MTU",
    DroppedTooBig "dropped-too-big"
        "longer than the MTU of the way to the backend, and without DF, or no answer was sent",
    AnsweredNoFlow "answered-no-flow"
        "belongs to no known connection and does not open one: a reset was sent to the client, of SCTP protocol unreachable",
    DroppedNoFlow "dropped-no-flow"
        "belongs to no known connection and does not open one",
    AnsweredNoBackend "answered-no-backend"
        "a new connection, but no backend is up: the client was told",
    DroppedNoBackend "dropped-no-backend"
        "a new connection, but no backend is up",
    DroppedDenied "dropped-denied"
        "a new connection from a source that the service's `sources` deny",
    DroppedLimited "dropped-limited"
        "a new connection from a source that has opened more than the service's `sources` allow",
    AnsweredBackendRemoved "answered-backend-removed"
        "a connection whose backend was removed: a reset was sent to the client",
    DroppedBackendRemoved "dropped-backend-removed"
        "a connection whose backend was removed",
    DroppedFragment "dropped-fragment"
        "a later fragment to a service whose first one has not come, or came too long ago",
    DroppedUnresolved "dropped-unresolved"
        "the backend's MAC address is not known",
    DroppedNoRoom "dropped-no-room"
        "no room in the frame for the VLAN tag or the ICMP header it needs",
    DroppedRedirect "dropped-redirect"
        "the other interface is not in the device map",
}

/// How many verdicts there are.
pub const COUNT: u32 = Verdict::ALL.len() as u32;

/// Events that are counted beside the verdicts, in the same array after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// A new flow took the slot of a closing or half-open one.
    Evicted,
    /// Both buckets were full of live flows: the connection was placed by hash, without an entry.
    PlacedByHash,
    /// An expired flow was cleared by the data path.
    Expired,
    /// A new connection went where a persistence template says.
    TemplateHit,
    /// No room for a persistence template: the client's next connection is scheduled anew.
    NoTemplate,
    /// New flows came faster than the service's guard allows: this one was placed by hash, without an entry.
    Guarded,
    /// No place for another limited source: one was forgotten whose connections still counted.
    SourceForgotten,
}

impl Event {
    pub const ALL: &'static [Event] = &[
        Event::Evicted,
        Event::PlacedByHash,
        Event::Expired,
        Event::TemplateHit,
        Event::NoTemplate,
        Event::Guarded,
        Event::SourceForgotten,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Evicted => "event-evicted",
            Self::PlacedByHash => "event-placed-by-hash",
            Self::Expired => "event-expired",
            Self::TemplateHit => "event-template-hit",
            Self::NoTemplate => "event-no-template",
            Self::Guarded => "event-guarded",
            Self::SourceForgotten => "event-source-forgotten",
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Evicted => "closing or half-open connections that gave their entry to a new one",
            Self::PlacedByHash => "new connections placed by hash because both buckets were full",
            Self::Expired => "expired connections cleared by the data path itself",
            Self::TemplateHit => "new connections that went where a persistence template says",
            Self::NoTemplate => "new connections whose persistence template found no room",
            Self::Guarded => "new connections placed by hash because they came faster than `guard` allows",
            Self::SourceForgotten => {
                "limited sources forgotten for others, before their connections had stopped counting"
            }
        }
    }

    /// Index into `VERDICTS`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        COUNT + self as u32
    }
}

/// Entries of `VERDICTS`.
pub const SLOTS: u32 = COUNT + Event::ALL.len() as u32;
