//! What is compared: each scheduler as `ipvsadm` and as our model name it.

use lb::model::{HashFlags, Scheduler};

/// A scheduler with its flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// In the table, and for `--scheduler`.
    pub name: &'static str,
    /// Options of `ipvsadm -A`.
    pub ipvsadm: &'static str,
    pub model: Scheduler,
}

const NO_FLAGS: HashFlags = HashFlags { fallback: false, port: false };
const PORT: HashFlags = HashFlags { fallback: false, port: true };
const FALLBACK: HashFlags = HashFlags { fallback: true, port: false };
const BOTH: HashFlags = HashFlags { fallback: true, port: true };

/// All that our model can say, but for twos: Debian builds no module of it, and it draws at random.
pub const KINDS: &[Kind] = &[
    kind("rr", "-s rr", Scheduler::Rr),
    kind("wrr", "-s wrr", Scheduler::Wrr),
    kind("lc", "-s lc", Scheduler::Lc),
    kind("wlc", "-s wlc", Scheduler::Wlc),
    kind("sed", "-s sed", Scheduler::Sed),
    kind("nq", "-s nq", Scheduler::Nq),
    kind("fo", "-s fo", Scheduler::Fo),
    kind("ovf", "-s ovf", Scheduler::Ovf),
    kind("dh", "-s dh", Scheduler::Dh),
    kind("sh", "-s sh", Scheduler::Sh(NO_FLAGS)),
    kind("sh-port", "-s sh -b sh-port", Scheduler::Sh(PORT)),
    kind("sh-fallback", "-s sh -b sh-fallback", Scheduler::Sh(FALLBACK)),
    kind("sh-both", "-s sh -b sh-port,sh-fallback", Scheduler::Sh(BOTH)),
    kind("mh", "-s mh", Scheduler::Mh(NO_FLAGS)),
    kind("mh-port", "-s mh -b mh-port", Scheduler::Mh(PORT)),
    kind("mh-fallback", "-s mh -b mh-fallback", Scheduler::Mh(FALLBACK)),
    kind("mh-both", "-s mh -b mh-port,mh-fallback", Scheduler::Mh(BOTH)),
    kind("lblc", "-s lblc", Scheduler::Lblc),
    kind("lblcr", "-s lblcr", Scheduler::Lblcr),
];

const fn kind(name: &'static str, ipvsadm: &'static str, model: Scheduler) -> Kind {
    Kind { name, ipvsadm, model }
}
