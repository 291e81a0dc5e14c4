//! What is counted per service and per destination, per CPU.

/// One CPU's counters of a service or destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// New connections.
    pub connections: u64,
    pub packets: u64,
    /// IP total length, as IPVS counts.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counters>() == 24);

/// One CPU's counters of a destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DestCounters {
    pub served: Counters,
    /// Clients' RSTs: see [`crate::tcp::resets`].
    pub resets: u64,
    /// SYNs that came again: see [`crate::tcp::retransmits_syn`].
    pub retransmissions: u64,
}

const _: () = assert!(size_of::<DestCounters>() == 40);

/// Connections of a destination now, shared by all CPUs, changed by atomic additions only.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnCounts {
    /// ActiveConn.
    pub active: u64,
    /// InActConn.
    pub inactive: u64,
    /// 1 while the upper threshold was reached and the lower one not yet passed; the kernel's.
    pub overloaded: u64,
    /// Of lblcr: the number with which it came into the set of its service; 0: it is not in it.
    pub joined: u64,
    /// Handshakes that ran out: see [`crate::value::Value::is_incomplete`]. Here, since the agent counts them too.
    pub incomplete: u64,
}

const _: () = assert!(size_of::<ConnCounts>() == 40);

/// Whether a destination with `total` connections is overloaded, given whether it was.
/// `upper` 0 means no limit; `lower` 0 means three quarters of `upper` (`ip_vs_dest_update_overload`).
#[inline(always)]
pub const fn is_overloaded(total: u64, upper: u32, lower: u32, was: bool) -> bool {
    if upper == 0 {
        return false;
    }
    if total >= upper as u64 {
        return true;
    }
    let lower = if lower != 0 { lower } else { upper - upper / 4 };
    was && total >= lower as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_have_hysteresis() {
        assert!(!is_overloaded(1_000_000, 0, 0, true));
        assert!(is_overloaded(100, 100, 0, false));
        assert!(!is_overloaded(99, 100, 0, false));
        assert!(is_overloaded(75, 100, 0, true));
        assert!(!is_overloaded(74, 100, 0, true));
        assert!(is_overloaded(50, 100, 50, true));
        assert!(!is_overloaded(49, 100, 50, true));
    }
}
