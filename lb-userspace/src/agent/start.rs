//! From the command line to the running agent: everything is checked before anything is touched, and
//! what a failed start has made is taken down again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FlockOperation;
use tokio::net::UnixListener;

use super::{
    Agent, Options,
    events::EventLog,
    growth::Growth,
    health::Monitor,
    host::HostChanges,
    interfaces,
    interfaces::Interfaces,
    network::{FirstAnswers, Network},
    probing::Probing,
    serve,
    signals::Signals,
    takedown::Before,
};
use crate::{
    api::server::{AgentHandle, bind},
    clock::{kernel_hz, monotonic},
    config::{self, Config},
    dataplane::{Adopted, Clock, Layout, Object, Pins, Sweep},
    estimator::Estimator,
    events::{Draft, Kind},
    model::Model,
    net::Events,
    notify::{self, Settings},
    overlay::{Journal, JournalError, Overlay},
    plan::arena_words,
};

/// How long a start waits for its backends' MACs, at most: two questions, the kernel's interval of a second between
/// them (`retrans_time_ms`). Hosts of a segment answer within milliseconds; those that are down never do.
const FIRST_ANSWERS: FirstAnswers =
    FirstAnswers { enough: Duration::from_millis(250), limit: Duration::from_millis(1500) };
/// And then for the first health checks.
const FIRST_RESULTS: Duration = Duration::from_millis(1500);

pub async fn run(options: Options) -> Result<()> {
    let signals = Signals::listen()?;
    let config = read_config(&options)?;
    let state = options.state_dir.join(&config.instance);
    let _lock = lock(&state, &config.instance)?;
    let socket = options.socket.clone().unwrap_or_else(|| config.socket());
    let group = options.socket_group.clone().or_else(|| config.control.group.clone());
    let listener = bind(&socket, group.as_deref()).await?;
    let layout = Layout::new(&options.bpffs, &config.instance);
    let outcome = run_on(options, config, &state, &layout, listener, signals).await;
    // Nobody answers here any more.
    let _ = fs::remove_file(&socket);
    outcome
}

async fn run_on(
    options: Options,
    config: Config,
    state: &Path,
    layout: &Layout,
    listener: UnixListener,
    mut signals: Signals,
) -> Result<()> {
    let mut events = Events::subscribe()?;
    let before = Before::look(layout, state)?;
    let started = tokio::select! {
        biased;
        () = signals.stop() => None,
        started = start(options, config, state, layout, &mut events) => Some(started),
    };
    let failed = match started {
        Some(Ok(agent)) => {
            let (handle, requests) = AgentHandle::channel();
            return serve::run(agent, listener, handle, requests, events, signals).await;
        }
        Some(Err(error)) => Err(error),
        None => {
            tracing::warn!("asked to stop before the start was complete");
            Ok(())
        }
    };
    before.restore(layout, state).await;
    failed
}

/// Reads, checks, adopts or makes, applies, attaches.
async fn start(
    options: Options,
    config: Config,
    state: &Path,
    layout: &Layout,
    events: &mut Events,
) -> Result<Agent> {
    let (journal, overlay, mut warnings) = open_journal(state)?;
    let settings = Settings::new(&config.instance, &config.notify, &config.model);
    let (notifier, untold) = notify::start(settings).context("starting the thread that tells people")?;
    let (event_log, warning) = EventLog::open(state, notifier);
    warnings.extend(warning);
    let (overlay, dropped) = overlay.reload(&config.model, true);
    warnings.extend(
        dropped.into_iter().map(|entry| format!("a change made by command no longer applies: {entry}")),
    );
    let (model, _) = overlay.apply(&config.model);
    tracing::debug!("the configuration is read");

    let mut network = Network::connect().await?;
    let mut interfaces = Interfaces::resolve(&config.model, &network.links)?;
    network.check_placement(&config.model)?;
    let is_ours = |name: &str| layout.link(name).exists();
    if !options.replace {
        interfaces.check_occupied(&network.links, is_ours)?;
    }
    network.read(&model).await?;
    tracing::debug!("the network is read");
    let adopting = layout.meta().exists();
    if let Some((backend, gateway)) = network.behind_gateway(&model, &Model::default()) {
        // A director that is forwarding goes on with those that it can reach.
        ensure!(
            adopting,
            "backend {backend} is behind gateway {gateway}: Direct Routing rewrites MAC addresses, so a backend must be \
             in a segment that the director has an interface in. Give the director an address there, or use the \
             backend's address in the director's own segment"
        );
        warnings.push(format!("backend {backend} is behind gateway {gateway} now: it gets no connections"));
    }

    let arena = arena_words(config.model.limits, &model.services);
    let pins = Pins::open(layout.clone(), kernel_hz(), config.model.flows, config.model.limits, arena)?;
    let kernel = pins.maps.snapshot()?;
    network.remember(&kernel);
    tracing::debug!("the maps are there");
    let (monitor, warning) = Monitor::start(state, &model, &kernel)?;
    warnings.extend(warning);
    let clock = {
        let mut object = Object::open(layout, &pins.meta, 0)?;
        Clock::calibrate(&mut object, &pins.maps, pins.meta.hz)?
    };
    warnings.extend(differing_limits(&config, &pins));
    let mut host = HostChanges::open(state)?;
    interfaces.of_devices = interfaces::check_devices(&interfaces, &network.links, &mut host)?;
    tracing::debug!("health, clock and devices are looked at");
    let mut agent = Agent {
        options,
        config,
        overlay,
        journal,
        model,
        network,
        interfaces,
        monitor,
        probing: Probing::default(),
        host,
        pins,
        compiled: Default::default(),
        clock,
        sweep: Sweep::default(),
        next_round: Duration::ZERO,
        pressure: Default::default(),
        rates: Estimator::default(),
        growth: Growth::default(),
        tracing: Default::default(),
        events: event_log,
        untold,
        started: monotonic(),
        warnings,
        unfinished: false,
    };
    agent.ask_neighbours();
    agent.prepare_probes().await;
    let loading = agent.begin_to_load()?;
    agent.network.await_answers(&agent.model, events, FIRST_ANSWERS).await?;
    tracing::debug!("the backends' MACs are known, as far as they are");
    agent.events.begin(&agent.model, &agent.monitor.health);
    agent.reconcile()?;
    tracing::debug!("the maps are filled");
    let programs = loading.await.context("loading the program")??;
    tracing::debug!("the program is verified");
    agent.put(programs).await?;
    // Checks through the VIP need the maps and the program.
    if agent.monitor.await_results(&agent.model, FIRST_RESULTS).await {
        agent.reconcile()?;
    }
    if agent.pins.meta.is_migrating() {
        tracing::info!("an earlier agent was moving flows to tables of another size: going on with that");
        agent.is_everywhere()?;
    }
    // Last: with a VIP but without the program, the host itself would refuse its connections.
    agent.place_vips().await?;
    tracing::debug!("the VIPs are there");
    let how = match agent.pins.adopted {
        Adopted::Tables => "with the tables of an earlier agent, their connections and counters",
        _ => "with tables of its own",
    };
    agent.say(Draft::new(Kind::AgentStart).because(how));
    agent.see_pools();
    agent.see_neighbours();
    Ok(agent)
}

fn read_config(options: &Options) -> Result<Config> {
    let name = options.config.display().to_string();
    let text = fs::read_to_string(&options.config).with_context(|| format!("reading {name}"))?;
    let config = config::parse(&name, &text)?;
    if let Some(asked) = options.instance.as_ref().filter(|asked| **asked != config.instance) {
        bail!("--instance {asked}, but {name} is of instance {}: leave --instance out", config.instance);
    }
    Ok(config)
}

/// One agent an instance; the lock goes with the process.
pub fn lock(state: &Path, instance: &str) -> Result<File> {
    fs::create_dir_all(state).with_context(|| format!("making {}", state.display()))?;
    let path = state.join("lock");
    let file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => bail!(
            "an agent of instance {instance} is running already (it holds {}): stop it first, or give this one another \
             `instance:`",
            path.display()
        ),
        Err(error) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// A damaged journal is set aside and said, and the agent goes on with the file's state.
fn open_journal(state: &Path) -> Result<(Journal, Overlay, Vec<String>)> {
    let (journal, overlay) = match Journal::open(state) {
        Err(error @ JournalError::Damaged { .. }) => {
            tracing::error!("{error}");
            Journal::open(state)?
        }
        other => other?,
    };
    let aside = |path: &PathBuf| {
        format!("changes made by command were lost; the damaged journal is {}", path.display())
    };
    let warnings = journal.damaged().iter().map(aside).collect();
    Ok((journal, overlay, warnings))
}

/// `limits` are fixed when the maps are made.
fn differing_limits(config: &Config, pins: &Pins) -> Option<String> {
    let (limits, meta) = (config.model.limits, &pins.meta);
    let same = meta.services == limits.services + 1
        && meta.dests == limits.destinations + 1
        && meta.endpoints == limits.endpoints + 1;
    (!same).then(|| {
        let warning =
            "`limits` in the configuration differ from the maps in the kernel, which stay as they are: \
                       `lb detach` and a new start make new ones, without today's connections"
                .to_owned();
        tracing::warn!("{warning}");
        warning
    })
}
