//! Changes of the running state: by command, by reload. Each is planned first, journaled next, applied
//! last, so that a refusal changes nothing and a crash forgets nothing.

use std::time::Duration;

use anyhow::Result;

use super::{Agent, planned::Planned, serve::answer};
use crate::{
    api::{
        server::{Failure, Reply},
        types::{Done, ReloadOptions, Reloaded},
    },
    config,
    events::{Draft, Kind},
    model::{Model, edit::EditError},
    notify::Settings,
    overlay::{Change, Overlay, diff},
};

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        Failure { status: error.status(), error: error.into() }
    }
}

/// The kernel or the system refused.
pub fn internal(error: anyhow::Error) -> Failure {
    Failure::internal(format!("{error:#}")).hint("the agent's log has more: `journalctl -u lb`")
}

/// The same before anything was changed.
fn refused(error: anyhow::Error) -> Failure {
    Failure::internal(format!("{error:#}"))
        .hint("nothing was changed; the agent's log has more: `journalctl -u lb`")
}

impl Agent {
    /// Makes changes by command that were asked for together, in their order, as one: planned, journaled and applied
    /// once. Each has its own answer, as if they had been made one by one.
    pub(super) async fn change_all(&mut self, changes: Vec<(Change, Reply<Done>)>) {
        let (changes, replies): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        let outcomes = match self.change_at_once(&changes).await {
            Ok(outcomes) => outcomes,
            Err(failure) if changes.len() == 1 => vec![Err(failure)],
            // One of them cannot be had, and nothing was changed. The others do not suffer from it; and those that
            // were refused for what is there now may be possible without it.
            Err(_) => {
                let mut outcomes = Vec::new();
                for change in changes {
                    let alone = self.change_at_once(std::slice::from_ref(&change)).await;
                    outcomes.extend(alone.unwrap_or_else(|failure| vec![Err(failure)]));
                }
                outcomes
            }
        };
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            answer(reply, outcome);
        }
    }

    /// What became of each. An error is of all of them: nothing was changed.
    async fn change_at_once(&mut self, changes: &[Change]) -> Result<Vec<Result<Done, Failure>>, Failure> {
        let (mut model, mut overlay) = (self.model.clone(), self.overlay.clone());
        let mut make = |change: &Change| -> Result<Draft, Failure> {
            change.apply(&mut model)?;
            overlay.push(&self.config.model, change.clone());
            Ok(Draft::new(Kind::Change).because(change.to_string()))
        };
        let made: Vec<_> = changes.iter().map(&mut make).collect();
        let mut warnings = Vec::new();
        if made.iter().any(Result::is_ok) {
            warnings = self.adopt(model, overlay, None).await?;
            self.events.say(made.iter().filter_map(|draft| draft.clone().ok()));
            self.see_pools();
            self.see_neighbours();
        }
        Ok(made.into_iter().map(|draft| draft.map(|_| Done { warnings: warnings.clone() })).collect())
    }

    /// Checks that `model` can be had, journals `overlay`, makes the kernel follow. Until the journal
    /// is written nothing has changed; from then on the change stands, and what fails is tried again.
    pub(super) async fn adopt(
        &mut self,
        model: Model,
        overlay: Overlay,
        config: Option<config::Config>,
    ) -> Result<Vec<String>, Failure> {
        let plan = match self.prepare(&model, &overlay).await {
            Ok(plan) => plan,
            Err(failure) => {
                if let Err(error) = self.network.read(&self.model).await {
                    tracing::warn!("reading the network failed: {error:#}; trying again");
                    self.unfinished = true;
                }
                return Err(failure);
            }
        };
        (self.model, self.overlay) = (model, overlay);
        if let Some(config) = config {
            self.config = config;
        }
        self.monitor.watch(&self.model);
        self.events.follow(Settings::new(&self.config.instance, &self.config.notify, &self.model));
        let mut warnings = self.news();
        if let Err(error) = self.follow_model(plan).await {
            tracing::error!("a change is not complete: {error:#}; trying again");
            warnings
                .push(format!("the change is noted but not complete yet ({error:#}); the agent tries again"));
        }
        self.ask_neighbours();
        Ok(warnings)
    }

    /// Everything that can be refused, with the journal last.
    async fn prepare(&mut self, model: &Model, overlay: &Overlay) -> Result<Planned, Failure> {
        self.network.read(model).await.map_err(refused)?;
        if let Some((backend, gateway)) = self.network.behind_gateway(model, &self.model) {
            return Err(Failure::conflict(format!("backend {backend} is behind gateway {gateway}"))
                .hint("Direct Routing needs a backend in a segment that the director has an interface in"));
        }
        self.network.check_placement(model).map_err(|error| Failure::conflict(format!("{error:#}")))?;
        let now = self.pins.maps.snapshot().map_err(refused)?;
        let plan = Planned::new(self.desired(model, &now), now, &mut self.compiled)
            .map_err(|error| Failure::conflict(error.to_string()))?;
        self.journal.store(overlay).map_err(|error| refused(error.into()))?;
        Ok(plan)
    }

    /// What an operator should hear about the new state at once.
    fn news(&self) -> Vec<String> {
        let empty = self.model.services.iter().filter(|service| {
            !service.backends.is_empty()
                && service.backends.iter().all(|backend| backend.effective_weight() == 0)
        });
        empty
            .map(|service| format!("service {} has no backend that takes new connections", service.name))
            .collect()
    }

    /// Reads the configuration file again: all of it, or on any error nothing.
    pub(super) async fn reload(&mut self, options: &ReloadOptions) -> Result<Reloaded, Failure> {
        let reloaded = self.reread(options).await;
        match &reloaded {
            Ok(done) => {
                let changes = done.changes.iter().map(|change| Draft::new(Kind::Reload).because(change));
                let nothing =
                    done.changes.is_empty().then(|| Draft::new(Kind::Reload).because("nothing changed"));
                let discarded =
                    (done.discarded.iter()).map(|entry| Draft::new(Kind::Discarded).because(entry));
                self.events.say(changes.chain(nothing).chain(discarded));
            }
            Err(failure) => self.say(Draft::new(Kind::ReloadRefused).because(failure.error.to_string())),
        }
        self.see_pools();
        self.see_neighbours();
        reloaded
    }

    async fn reread(&mut self, options: &ReloadOptions) -> Result<Reloaded, Failure> {
        let name = self.options.config.display().to_string();
        let text = std::fs::read_to_string(&self.options.config)
            .map_err(|error| Failure::bad_input(format!("reading {name}: {error}")))?;
        let new = config::parse(&name, &text).map_err(|errors| {
            Failure::bad_input(errors.to_string())
                .hint("nothing was changed: the agent runs on with the old configuration")
        })?;
        self.check_fixed(&new)?;
        let (overlay, discarded) = self.overlay.reload(&new.model, options.keep_runtime);
        let (model, _) = overlay.apply(&new.model);
        let mut changes = diff(&self.model, &model);
        if new.notify != self.config.notify {
            changes.push("notify: who is told, or how, changed".to_owned());
        }
        let mut warnings = self.adopt(model, overlay, Some(new)).await?;
        // A new file is a reason to try again at once.
        self.growth.not_before = Duration::ZERO;
        self.resize().await;
        warnings.extend(self.growth.warning.clone());
        Ok(Reloaded { changes, discarded, warnings })
    }

    /// What a running agent cannot change.
    fn check_fixed(&self, new: &config::Config) -> Result<(), Failure> {
        let old = &self.config;
        let refused = |what: &str, how: &str| {
            Err(Failure::conflict(format!(
                "the new configuration changes {what}, which a running agent cannot"
            ))
            .hint(format!("nothing was changed; {how}")))
        };
        if new.instance != old.instance || new.control != old.control {
            return refused(
                "the instance or its control socket",
                "stop the agent and start it anew: forwarding goes on",
            );
        }
        if new.model.interfaces != old.model.interfaces {
            return refused("`interfaces`", "stop the agent and start it anew: forwarding goes on");
        }
        if new.model.limits != old.model.limits {
            return refused("`limits`", "`lb detach` and a new start make maps of other sizes");
        }
        if let Some(reason) = self.too_small(new.model.flows).filter(|_| new.model.flows != old.model.flows) {
            return Err(Failure::conflict(reason).hint(
                "nothing was changed; when fewer are left (`lb stats` shows how many), reload again, or give more room",
            ));
        }
        Ok(())
    }

    /// Puts the VIPs on the interface that the configuration names, once it has its program.
    pub(super) async fn place_vips(&mut self) -> Result<()> {
        let placement = self.model.vips.add_to.clone();
        let endpoints = self.model.services.iter().flat_map(|service| service.endpoints());
        let mut wanted: Vec<_> = endpoints.map(|endpoint| endpoint.address).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let (interface, wanted) = match &placement {
            Some(interface) => (interface.as_str(), wanted),
            None => ("", Vec::new()),
        };
        let index =
            self.network.links.iter().find(|link| link.name == interface).map_or(0, |link| link.index);
        if placement.is_some() && index == 0 {
            anyhow::bail!("vips.add_to: there is no interface {interface:?}");
        }
        // Without the program the host itself would refuse the VIP's connections.
        let may_add = !self.interfaces.lacks_program_on(interface);
        let added = self.host.place_vips(&self.network.netlink, interface, index, &wanted, may_add).await?;
        self.network.added(&added);
        Ok(())
    }
}
