//! The agent's loop.

use std::{future::pending, time::Duration};

use anyhow::Result;
use futures::FutureExt;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::yield_now,
    time::{Instant, sleep_until},
};

use super::{
    Agent,
    change::internal,
    maintenance::maintain,
    signals::{Asked, Signals},
    takedown::detach_everything,
    views,
};
use crate::{
    api::{
        server::{self, AgentHandle, Failure, Reply, Request},
        types::{BackendAdd, Done, ReloadOptions, ServiceAdd},
    },
    clock::monotonic,
    config::{Config, render},
    events::{Draft, Kind},
    model::{
        Backend, Service,
        check::{BackendHealth, ServiceHealth},
    },
    net::{Event, Events},
    overlay::Change,
};

/// Between rounds of the sweeper.
const SWEEP: Duration = Duration::from_secs(1);

/// Between looks at the network without an event: routes change without one that we listen to (the
/// table of a BGP router would drown us).
const LOOK: Duration = Duration::from_secs(30);
/// Events that are taken in before the agent acts on them: a rack that dies is one change, not 500.
const EVENTS_AT_ONCE: usize = 4096;

/// What ends the loop.
enum End {
    /// Forwarding stays up.
    Stop,
    Detach(Reply<Done>),
}

pub async fn run(
    mut agent: Agent,
    listener: UnixListener,
    handle: AgentHandle,
    mut requests: mpsc::Receiver<Request>,
    mut events: Events,
    mut signals: Signals,
) -> Result<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(server::serve(listener, handle, async move {
        // An error means that the sender is gone: stop as well.
        let _ = stopped.await;
    }));
    agent.begin_to_look();
    notify(&[sd_notify::NotifyState::Ready]);
    let (instance, services) = (&agent.config.instance, agent.model.services.len());
    tracing::info!(instance, services, "forwarding");
    let mut next_sweep = monotonic() + SWEEP;
    let mut next_look = monotonic() + LOOK;
    let end = loop {
        let deadlines = [agent.network.deadline(), agent.monitor.health.deadline(), Some(next_sweep)];
        let deadline = deadlines.into_iter().flatten().min().unwrap_or(next_sweep);
        tokio::select! {
            request = requests.recv() => match request {
                Some(request) => if let Some(end) = handle_requests(&mut agent, request, &mut requests).await {
                    break end;
                },
                None => break End::Stop,
            },
            event = events.next() => match event {
                Ok(event) => handle_events(&mut agent, event, &mut events).await,
                Err(error) => {
                    tracing::error!("the stream of network events broke: {error}; reading everything anew");
                    events = Events::subscribe()?;
                    agent.follow_network().await;
                }
            },
            asked = signals.next() => match asked {
                Asked::Reload => reload_by_signal(&mut agent).await,
                Asked::Stop => break End::Stop,
            },
            Some(untold) = agent.untold.recv() => agent.say(untold),
            () = agent.tracing.ending() => agent.trace_ended(),
            results = agent.monitor.next() => agent.heard_health(results),
            // After whatever else is ready.
            () = yield_now(), if agent.growth.is_amid() => agent.resize().await,
            () = wait_until(deadline) => {
                if monotonic() >= next_sweep {
                    agent.sweep();
                    agent.end_maintenances().await;
                    agent.resize().await;
                    agent.settle_tracing();
                    next_sweep = monotonic() + SWEEP;
                    if agent.unfinished || monotonic() >= next_look {
                        agent.follow_network().await;
                        next_look = monotonic() + LOOK;
                    }
                }
                agent.ask_neighbours();
                agent.check_health();
            }
        }
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    // Whoever traces is told by the end of its answer.
    agent.end_tracing();
    if matches!(end, End::Stop) {
        let how = "forwarding goes on without the agent (`lb detach` takes it down)";
        agent.say(Draft::new(Kind::AgentStop).because(how));
    }
    let finished = finish(&mut agent, end).await;
    let _ = stop.send(());
    // The answer to the last request is on its way.
    let _ = server.await;
    agent.events.finish();
    finished
}

async fn finish(agent: &mut Agent, end: End) -> Result<()> {
    let reply = match end {
        End::Stop => return Ok(()),
        End::Detach(reply) => reply,
    };
    let state = agent.options.state_dir.join(&agent.config.instance);
    let detached = detach_everything(&agent.pins.layout, &state).await;
    let (answer, outcome) = match detached {
        Ok(warnings) => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            agent.say(Draft::new(Kind::Detach));
            (Ok(Done { warnings }), Ok(()))
        }
        Err(error) => {
            let told = format!("{error:#}");
            let hint = "the agent has ended; `lb detach` again takes down what is left";
            (Err(internal(error).hint(hint)), Err(anyhow::anyhow!("detaching failed: {told}")))
        }
    };
    // The client may have gone.
    let _ = reply.send(answer);
    outcome
}

async fn wait_until(deadline: Duration) {
    let left = deadline.saturating_sub(monotonic());
    if left > Duration::from_secs(3600) {
        return pending().await;
    }
    sleep_until(Instant::now() + left).await;
}

/// systemd, if it started us (sd_notify(3)).
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling systemd failed: {error}");
    }
}

async fn reload_by_signal(agent: &mut Agent) {
    match sd_notify::NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[sd_notify::NotifyState::Reloading, now]),
        Err(_) => notify(&[sd_notify::NotifyState::Reloading]),
    }
    // What came of it is an event.
    let _ = agent.reload(&ReloadOptions::default()).await;
    notify(&[sd_notify::NotifyState::Ready]);
}

/// What a burst of events asks for.
#[derive(Default)]
struct Concerns {
    /// A backend's MAC, or whether it answers.
    neighbours: bool,
    /// Anything else.
    network: bool,
}

/// Takes in this event and all that are ready behind it, then acts once.
async fn handle_events(agent: &mut Agent, first: Event, events: &mut Events) {
    let mut concerns = Concerns::default();
    hear(agent, first, &mut concerns);
    for _ in 1..EVENTS_AT_ONCE {
        match events.next().now_or_never() {
            Some(Ok(event)) => hear(agent, event, &mut concerns),
            // An error comes again at the next await.
            Some(Err(_)) | None => break,
        }
    }
    if concerns.network {
        agent.follow_network().await;
    } else if concerns.neighbours {
        if let Err(error) = agent.reconcile() {
            tracing::error!("following a neighbour's change failed: {error:#}; trying again");
            agent.unfinished = true;
        }
        agent.see_neighbours();
    }
    agent.ask_neighbours();
}

fn hear(agent: &mut Agent, event: Event, concerns: &mut Concerns) {
    match event {
        Event::Neighbour(neighbour) => concerns.neighbours |= agent.network.heard(&neighbour),
        Event::NeighbourGone { ifindex, address } => {
            concerns.neighbours |= agent.network.forgotten(ifindex, address);
        }
        Event::Address(address) => concerns.network |= !agent.network.has_address(&address),
        Event::AddressGone(_) | Event::Link(_) | Event::LinkGone { .. } | Event::Resync => {
            concerns.network = true;
        }
    }
}

/// Answers this request, and if it is a change all that wait behind it, up to the first that is none: changes that
/// wait together are made together. Some end the loop.
async fn handle_requests(
    agent: &mut Agent,
    first: Request,
    requests: &mut mpsc::Receiver<Request>,
) -> Option<End> {
    let (mut changes, mut next) = (Vec::new(), Some(first));
    while let Some(request) = next.take() {
        match taken(request) {
            Taken::Change(change, reply) => changes.push((change, reply)),
            Taken::Other(other) => {
                agent.change_all(changes).await;
                return handle_request(agent, other).await;
            }
            Taken::Refused => {}
        }
        // It ends by itself: those who have been answered ask again only afterwards.
        next = requests.try_recv().ok();
    }
    agent.change_all(changes).await;
    None
}

/// A request as the agent takes it.
enum Taken {
    Change(Change, Reply<Done>),
    Other(Request),
    /// Answered already.
    Refused,
}

fn taken(request: Request) -> Taken {
    let (change, reply) = match request {
        Request::TimeoutsEdit { edit, reply } => (Change::EditTimeouts { timeouts: edit }, reply),
        Request::ServiceAdd { add, reply } => (add_service(add), reply),
        Request::ServiceEdit { name, edit, reply } => (Change::EditService { name, edit }, reply),
        Request::ServiceDelete { name, reply } => (Change::DeleteService { name }, reply),
        Request::BackendAdd { service, add, reply } => {
            (Change::AddBackend { service, backend: backend(add) }, reply)
        }
        Request::BackendEdit { service, key, edit, reply } => {
            (Change::EditBackend { service, key, edit }, reply)
        }
        Request::BackendDelete { service, key, reply } => (Change::DeleteBackend { service, key }, reply),
        Request::BackendDrain { service, key, reply } => (Change::Drain { service, key }, reply),
        Request::BackendUndrain { service, key, reply } => (Change::Undrain { service, key }, reply),
        Request::BackendMaintain { service, key, begin, reply } => match maintain(service, key, &begin) {
            Ok(change) => (change, reply),
            Err(failure) => {
                answer(reply, Err(failure));
                return Taken::Refused;
            }
        },
        Request::BackendMaintenanceEnd { service, key, reply } => {
            (Change::EndMaintenance { service, key }, reply)
        }
        other => return Taken::Other(other),
    };
    Taken::Change(change, reply)
}

/// Answers one request; some end the loop.
async fn handle_request(agent: &mut Agent, request: Request) -> Option<End> {
    match request {
        Request::Status { reply } => answer(reply, Ok(agent.status())),
        Request::Services { reply } => answer(reply, views::services(agent).map_err(internal)),
        Request::Service { name, reply } => answer(reply, views::service(agent, &name)),
        Request::Stats { reply } => answer(reply, views::stats(agent).map_err(internal)),
        Request::Conns { filter, reply } => answer(reply, views::conns(agent, &filter)),
        Request::ConnsFlush { filter, reply } => answer(reply, views::flush(agent, &filter)),
        Request::Events { reply } => answer(reply, Ok(agent.events.feed())),
        Request::Config { reply } => answer(reply, Ok(running_config(agent))),
        Request::Reload { options, reply } => {
            let reloaded = agent.reload(&options).await;
            answer(reply, reloaded);
        }
        Request::Trace { question, reply } => {
            let begun = agent.trace(&question);
            answer(reply, begun);
        }
        Request::Timeouts { reply } => answer(reply, Ok(agent.model.timeouts)),
        Request::Detach { reply } => return Some(End::Detach(reply)),
        change => {
            if let Taken::Change(change, reply) = taken(change) {
                agent.change_all(vec![(change, reply)]).await;
            }
        }
    }
    None
}

pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, Failure>) {
    // The client may have gone; what was done is done.
    let _ = reply.send(result);
}

fn running_config(agent: &Agent) -> String {
    render(&Config { model: agent.model.clone(), ..agent.config.clone() })
}

fn add_service(add: ServiceAdd) -> Change {
    let ServiceAdd { name, endpoint, group, scheduler, options, sources } = add;
    let name = name.unwrap_or_else(|| endpoint.default_name());
    let (backends, health) = (Vec::new(), ServiceHealth::default());
    let service = Service { name, endpoint, group, scheduler, backends, options, sources, health };
    Change::AddService { service }
}

fn backend(add: BackendAdd) -> Backend {
    let BackendAdd { key, weight, upper_threshold, lower_threshold } = add;
    Backend {
        key,
        weight,
        upper_threshold,
        lower_threshold,
        drained: false,
        maintenance: None,
        health: BackendHealth::default(),
    }
}
