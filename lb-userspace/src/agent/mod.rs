//! The agent: one task that owns the running state, and the only file that knows all modules.
//!
//! ```text
//!  config file ─┐                                   ┌─ HTTP (api::server) ── CLI
//!  overlay ─────┴─▶ model ─▶ plan ─▶ maps.apply     ▼
//!  netlink ──▶ hosts ───────┤           requests ─▶ one loop ◀─ signals, timer (sweep, neighbours, checks)
//!  checks ───▶ health ──────┘
//! ```

mod change;
mod events;
mod growth;
mod health;
mod host;
mod interfaces;
mod maintenance;
mod network;
mod planned;
mod preflight;
mod pressure;
mod probing;
mod rates;
mod serve;
mod signals;
mod start;
mod takedown;
mod targets;
mod traces;
mod views;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};

pub use takedown::detach_without_agent;

use crate::{
    api::types::Status,
    clock::{monotonic, of_thread},
    config::Config,
    dataplane::{Clock, Pins, Sweep},
    estimator::Estimator,
    model::{FlowSizes, Model},
    notify::Failures,
    overlay::{Journal, Overlay},
    plan::{Compiled, Desired, Snapshot, plan_links, reclaim},
};
use events::EventLog;
use growth::Growth;
use health::Monitor;
use host::HostChanges;
use interfaces::Interfaces;
use network::Network;
use planned::Planned;
use probing::Probing;
use rates::Counted;
use traces::Tracing;

/// After an interface could not be attached to (as long as it is the same), or a step of a move failed: each attempt takes a
/// while, in which nobody else is served.
const AGAIN: Duration = Duration::from_secs(30);

/// What the command line says about where things are.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Instance named on the command line; must agree with the file's.
    pub instance: Option<String>,
    /// Overrides the file's.
    pub socket: Option<PathBuf>,
    pub socket_group: Option<String>,
    /// Without the instance.
    pub state_dir: PathBuf,
    pub bpffs: PathBuf,
    /// Take an interface over from another XDP program.
    pub replace: bool,
}

/// Runs the agent until a signal or `lb detach`. Logging is set up already.
///
/// # Errors
/// Bad configuration or surroundings, found before anything is touched; or the kernel refused, and
/// what had been made was taken down again.
pub fn run(options: Options) -> Result<()> {
    preflight::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start::run(options))
}

/// The running state.
struct Agent {
    options: Options,
    /// As the file says.
    config: Config,
    overlay: Overlay,
    journal: Journal,
    /// File and overlay together.
    model: Model,
    network: Network,
    interfaces: Interfaces,
    monitor: Monitor,
    probing: Probing,
    host: HostChanges,
    pins: Pins,
    compiled: Compiled,
    clock: Clock,
    sweep: Sweep,
    /// When the sweeper goes round again.
    next_round: Duration,
    rates: Estimator<Counted>,
    growth: Growth,
    tracing: Tracing,
    events: EventLog,
    /// What could not be told.
    untold: Failures,
    pressure: pressure::Tables,
    started: Duration,
    /// For `lb status`; those of the last attempt at something are replaced by its next.
    warnings: Vec<String>,
    /// The kernel or the host is not yet as it should be: the timer tries again.
    unfinished: bool,
}

impl Agent {
    /// Makes the kernel equal to the model.
    fn reconcile(&mut self) -> Result<()> {
        let now = self.pins.maps.snapshot()?;
        let want = self.desired(&self.model, &now);
        let plan = Planned::new(want, now, &mut self.compiled)?;
        self.carry_out(&plan)
    }

    /// The same by a plan for this model. Since it was made nobody else wrote the maps (a rotation, which packets move,
    /// is moved by a difference), but with the model what is wanted of the checks may have changed: then it is made anew.
    fn reconcile_by(&mut self, plan: Planned) -> Result<()> {
        let want = self.desired(&self.model, plan.now());
        let plan = plan.renewed(want, &mut self.compiled)?;
        self.carry_out(&plan)
    }

    fn carry_out(&mut self, plan: &Planned) -> Result<()> {
        if !plan.ops().is_empty() {
            tracing::debug!(operations = plan.ops().len(), "applying a plan");
        }
        self.pins.maps.apply(plan.ops())?;
        self.follow_probes(plan.now(), plan.ops());
        Ok(())
    }

    /// The links alone: what a program needs that is to be loaded, and what is known of one that is attached.
    fn reconcile_links(&mut self) -> Result<()> {
        let snapshot = self.pins.maps.without_rules()?;
        let links = self.network.link_specs(&self.interfaces, &self.model, &snapshot, self.probe_device());
        self.pins.maps.apply(&plan_links(links, &snapshot)?)
    }

    fn desired(&self, model: &Model, now: &Snapshot) -> Desired {
        Desired {
            services: model.services.clone(),
            timeouts: model.timeouts,
            hz: self.pins.meta.hz,
            // A bucket for each rated flow.
            flows: FlowSizes { ipv4: self.pins.meta.narrow_buckets, wide: self.pins.meta.wide_buckets },
            links: self.network.link_specs(&self.interfaces, model, now, self.probe_device()),
            hosts: self.network.hosts(model),
            weights: self.monitor.health.weights(model),
            probes: self.probe_spec(model),
        }
    }

    /// Looks at the network again and follows it. Errors are for the log: the old state goes on, and
    /// the timer tries again.
    async fn follow_network(&mut self) {
        if let Err(error) = self.network.read(&self.model).await {
            tracing::warn!("reading the network failed, keeping the last picture: {error:#}");
            self.unfinished = true;
            return;
        }
        self.see_neighbours();
        let to_attach = self.interfaces.follow(&self.network.links);
        self.unfinished = true;
        let filled = self.fill_maps(None).await;
        let attached = if to_attach { self.attach_anew().await } else { Ok(()) };
        let followed = match filled {
            Ok(()) => self.complete().await,
            failed => failed,
        };
        self.unfinished |= attached.is_err();
        for error in [attached, followed].into_iter().filter_map(Result::err) {
            tracing::error!("following a change of the network failed: {error:#}; trying again");
        }
    }

    /// Makes kernel and host what the model says, by this plan. An interface without a program gets it by
    /// [`Agent::follow_network`], not by the way of somebody who waits for an answer.
    async fn follow_model(&mut self, plan: Planned) -> Result<()> {
        self.unfinished = true;
        // For the plan the network was read anew: nothing else has looked at its interfaces.
        self.interfaces.follow(&self.network.links);
        self.fill_maps(Some(plan)).await?;
        self.complete().await
    }

    async fn fill_maps(&mut self, plan: Option<Planned>) -> Result<()> {
        self.prepare_probes().await;
        match plan {
            Some(plan) => self.reconcile_by(plan),
            None => self.reconcile(),
        }
    }

    /// What comes when the maps are filled and the programs attached.
    async fn complete(&mut self) -> Result<()> {
        self.place_vips().await?;
        self.attach_redirect_targets();
        self.unfinished = self.interfaces.lacks_program();
        Ok(())
    }

    /// After an interface was deleted and made again.
    async fn attach_anew(&mut self) -> Result<()> {
        if monotonic() < self.interfaces.not_before {
            return Ok(());
        }
        match interfaces::check_devices(&self.interfaces, &self.network.links, &mut self.host) {
            Ok(warnings) => self.interfaces.of_devices = warnings,
            Err(error) => tracing::error!("switching offloads off failed: {error:#}"),
        }
        let attached = self.attach().await;
        if attached.is_err() {
            self.interfaces.not_before = monotonic() + AGAIN;
        }
        attached.with_context(|| {
            format!("attaching anew (in {} s again, or when the interface changes)", AGAIN.as_secs())
        })
    }

    /// A look at the counters; before it a round of the sweeper if one is due, and freeing what that showed to be unused.
    fn sweep(&mut self) {
        let begun = monotonic();
        let mut looked = None;
        let settled = (begun >= self.next_round).then(|| {
            looked = self.look_before_round();
            let cpu = of_thread();
            let sweep = self.pins.maps.sweep(self.clock.now(), &self.sweep);
            self.next_round = begun + Sweep::period(of_thread() - cpu);
            let settled = self.sweep.census.union(&sweep.census);
            self.sweep = sweep;
            self.look_at_fill();
            settled
        });
        let reclaimed = self.pins.maps.without_rules().and_then(|now| {
            rates::read(&mut self.rates, &self.pins.maps, &now, monotonic())?;
            self.look_around(&now);
            settled.map_or(Ok(()), |settled| self.pins.maps.apply(&reclaim(&now, &settled)))
        });
        if let Err(error) = reclaimed {
            tracing::error!("reading counters and freeing unused ids failed: {error:#}");
        }
        if let Some(looked) = looked {
            self.look_at_connections(looked);
        }
    }

    /// Asks the neighbours that are due.
    fn ask_neighbours(&mut self) {
        self.network.ask(monotonic());
    }

    fn status(&self) -> Status {
        views::status(self)
    }
}
