//! Where commands call the parts of `lb` that are not the control API: the only seams of [`cli`](super).
//!
//! Each function is one call into the module that does the work; the types here are what the command line
//! needs back for printing.

use std::net::IpAddr;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{Paths, RunArgs};

/// What `lb check-config` says about a good file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigSummary {
    pub services: usize,
    pub backends: usize,
    /// Memory of the maps at this machine's CPU count, bytes.
    pub memory_bytes: u64,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// One thing that a Direct-Routing backend needs, and how it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RealserverCheck {
    /// For example `172.18.14.100/32 on lo` or `net.ipv4.conf.all.arp_ignore`.
    pub what: String,
    pub wanted: String,
    pub found: String,
    pub right: bool,
}

/// Runs the agent until it is told to end. Called outside any runtime; logging is set up.
pub fn run_agent(_paths: Paths, _run: RunArgs) -> Result<()> {
    not_in_this_build("the agent")
}

/// `lb detach` where no agent runs: takes down what one left behind. Answers warnings.
pub async fn detach_without_agent(_paths: &Paths) -> Result<Vec<String>> {
    not_in_this_build("detaching without an agent")
}

/// Validates a configuration; the error is ready to print, one paragraph per mistake.
pub fn check_config(_file_name: &str, _text: &str) -> Result<ConfigSummary> {
    not_in_this_build("the configuration reader")
}

/// Makes this host a backend for `vips`. Answers what was changed, one sentence each.
pub async fn realserver_start(_vips: &[IpAddr]) -> Result<Vec<String>> {
    not_in_this_build("realserver")
}

/// Undoes [`realserver_start`]. Answers what was changed, one sentence each.
pub async fn realserver_stop(_vips: &[IpAddr]) -> Result<Vec<String>> {
    not_in_this_build("realserver")
}

/// How this host is as a backend for `vips`, or for every VIP on lo if there are none.
pub async fn realserver_status(_vips: &[IpAddr]) -> Result<Vec<RealserverCheck>> {
    not_in_this_build("realserver")
}

fn not_in_this_build<T>(part: &str) -> Result<T> {
    bail!("this build of lb does not have {part}")
}
