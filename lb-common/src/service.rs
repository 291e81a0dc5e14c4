//! The pinned record of a service.

use crate::tcp::State;

/// Longest service name, in bytes.
pub const NAME_LEN: usize = 63;

/// Map value of `SERVICES`, by service id. Id 0 does not exist.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// See [`crate::generation::Published`]: one aligned word, replaced atomically.
    pub generation: u64,
    /// See [`flag`]; 0 means the id is not in use.
    pub flags: u32,
    /// Persistence timeout, in ticks; 0: every connection is scheduled by itself.
    pub persistence: u32,
    /// Idle timeouts by state, in ticks.
    pub timeouts: [u32; State::COUNT],
    /// Clients whose addresses are equal under this mask share a template; words as loaded from a packet.
    pub mask: [u64; 2],
    /// [`crate::template::REARM`], in ticks.
    pub rearm: u32,
    /// See [`crate::guard::rate`]; 0: no guard.
    pub guard: u32,
    /// The service's name, zero-padded.
    pub name: [u8; NAME_LEN + 1],
}

const _: () = assert!(size_of::<Service>() == 168);

pub mod flag {
    pub const USED: u32 = 1;
    /// A SYN on a flow whose destination was removed is scheduled anew (IPVS's `expire_nodest_conn`).
    pub const RESCHEDULE: u32 = 1 << 1;
    /// Any TCP segment but a reset opens a flow (IPVS's `sloppy_tcp`).
    pub const SLOPPY_TCP: u32 = 1 << 2;
    /// Each datagram is scheduled by itself, and no flow is stored (`IP_VS_SVC_F_ONEPACKET`).
    pub const ONE_PACKET: u32 = 1 << 3;
    /// A persistence template whose destination has weight 0 counts for nothing
    /// (IPVS's `expire_quiescent_template`).
    pub const EXPIRE_QUIESCENT: u32 = 1 << 4;
    /// TCP whose destination was removed is answered with a reset.
    pub const RESET_NODEST: u32 = 1 << 5;
    /// As [`RESCHEDULE`], of a datagram: a service may have endpoints of both protocols.
    pub const RESCHEDULE_UDP: u32 = 1 << 6;
    /// Persistence does not span the service's endpoints: each has templates of its own.
    pub const APART: u32 = 1 << 7;
    // Bits 8 and 9: see [`super::Reject`].
    /// Any SCTP packet but an ABORT opens a flow (IPVS's `sloppy_sctp`).
    pub const SLOPPY_SCTP: u32 = 1 << 10;
    /// See [`crate::scheduler::Load`].
    pub const CLASSIC_LOAD: u32 = 1 << 11;
    /// A template of the service that is [`crate::template::NONE`] has seen no connection established: there are no
    /// datagrams, which establish nothing.
    pub const ASSURES: u32 = 1 << 12;
}

/// What a client is told that cannot be served: two bits of a service's flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject(pub u32);

impl Reject {
    const SHIFT: u32 = 8;
    /// No backend: ICMP port unreachable. No connection known: RST, as the director's stack would say. What
    /// IPVS does.
    pub const ICMP: Self = Self(0);
    /// RST; to datagrams port unreachable.
    pub const RESET: Self = Self(1);
    /// Nothing.
    pub const DROP: Self = Self(2);
    /// The packet goes to the director's own stack.
    pub const PASS: Self = Self(3);

    pub const fn flags(self) -> u32 {
        self.0 << Self::SHIFT
    }

    #[inline(always)]
    pub const fn of(flags: u32) -> Self {
        Self(flags >> Self::SHIFT & 3)
    }
}

/// Map value of `ROTATIONS`, by service id: what the kernel keeps of a service between packets.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Position of the next new connection; counts on across generations, taken modulo the period.
    pub position: u64,
    /// Tick until which packets of unknown flows are placed by hash, because a connection had to be
    /// placed so when its buckets were full, or under the guard; bit 32 is set when there was any.
    pub hashed_until: u64,
    /// See [`Locality`].
    pub locality: u64,
    /// See [`crate::guard::Guard`]: of flows that begin.
    pub beginning: u64,
    /// The same of connections that were placed by hash, when their handshake is complete.
    pub completing: u64,
}

const _: () = assert!(size_of::<Rotation>() == 40);

/// What lblc and lblcr remember of their VIP: `number 32 | tick 32`. Of lblc the destination and when it
/// was last used; of lblcr how many came into the set and when it last changed. 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Locality(pub u64);

impl Locality {
    #[inline(always)]
    pub const fn new(number: u32, tick: crate::tick::Tick) -> Self {
        Self((number as u64) << 32 | tick.0 as u64)
    }

    #[inline(always)]
    pub const fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    pub const fn tick(self) -> crate::tick::Tick {
        crate::tick::Tick(self.0 as u32)
    }
}

impl Rotation {
    /// `hashed_until` for hash placement until `tick`.
    #[inline(always)]
    pub const fn until(tick: crate::tick::Tick) -> u64 {
        1 << 32 | tick.0 as u64
    }

    /// Whether packets of unknown flows are placed by hash now.
    #[inline(always)]
    pub const fn places_by_hash(hashed_until: u64, now: crate::tick::Tick) -> bool {
        hashed_until >> 32 != 0 && !crate::tick::Tick(hashed_until as u32).is_past(now)
    }
}
