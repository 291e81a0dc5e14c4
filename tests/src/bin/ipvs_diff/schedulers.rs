//! What is compared: each scheduler as `ipvsadm` and as our model name it.

use lb::model::Scheduler;

/// A scheduler with its flags.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// In the table, and for `--scheduler`.
    pub name: &'static str,
    /// Options of `ipvsadm -A`.
    pub ipvsadm: &'static str,
    pub model: Scheduler,
}

/// Everything that our model can say; twos is missing because Debian builds no module of it.
pub const KINDS: &[Kind] = &[kind("rr", "-s rr", Scheduler::Rr), kind("wrr", "-s wrr", Scheduler::Wrr)];

const fn kind(name: &'static str, ipvsadm: &'static str, model: Scheduler) -> Kind {
    Kind { name, ipvsadm, model }
}
