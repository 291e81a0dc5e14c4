//! Telling people: programs, webhooks, mails. IO.
//!
//! All of it happens on one thread of its own, so that nobody whom the agent tells can hold it up. What is told when
//! is decided in `events`: [`Batcher`](crate::events::Batcher), [`Lanes`](crate::events::Lanes).

mod mail;
mod programs;
mod target;
mod webhook;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
};

use crate::{
    events::{Draft, Event},
    model::{
        Model, ServiceName,
        notify::{Hooks, Notify},
    },
};
use programs::Programs;
use target::{Told, tell};

/// How long the end of an agent may take for its last words.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Who is told, and as whom we speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub instance: String,
    /// The configured one, else the host's name.
    pub router_id: String,
    pub notify: Notify,
    /// Programs of services that have any.
    pub hooks: BTreeMap<ServiceName, Hooks>,
}

/// Where events are handed in.
#[derive(Debug)]
pub struct Notifier {
    orders: UnboundedSender<Order>,
    settings: Arc<Settings>,
    /// Ends with the thread.
    ended: Receiver<()>,
}

/// What could not be told: drafts of events.
pub type Failures = UnboundedReceiver<Draft>;

enum Order {
    Follow(Arc<Settings>),
    Tell(Arc<Event>),
}

impl Settings {
    pub fn new(instance: &str, notify: &Notify, model: &Model) -> Self {
        let has_hooks = model.services.iter().filter(|service| !service.health.hooks.is_default());
        Self {
            instance: instance.to_owned(),
            router_id: notify.router_id.clone().unwrap_or_else(host_name),
            notify: notify.clone(),
            hooks: has_hooks.map(|service| (service.name.clone(), service.health.hooks.clone())).collect(),
        }
    }
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// Starts the thread.
///
/// # Errors
/// The system has no thread or no epoll descriptor for us.
pub fn start(settings: Settings) -> io::Result<(Notifier, Failures)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (orders, ordered) = unbounded_channel();
    let (failed, failures) = unbounded_channel();
    let (ending, ended) = channel();
    let settings = Arc::new(settings);
    let first = settings.clone();
    thread::Builder::new().name("notify".to_owned()).spawn(move || {
        runtime.block_on(run(first, ordered, failed));
        // What still hangs is dropped here, programs killed.
        runtime.shutdown_timeout(Duration::from_millis(100));
        drop(ending);
    })?;
    Ok((Notifier { orders, settings, ended }, failures))
}

impl Notifier {
    /// Takes other settings over. What is under way goes on by the old ones.
    pub fn follow(&mut self, settings: Settings) {
        if *self.settings != settings {
            self.settings = Arc::new(settings);
            // The thread ends only after us.
            let _ = self.orders.send(Order::Follow(self.settings.clone()));
        }
    }

    /// Never waits.
    pub fn tell(&self, event: &Arc<Event>) {
        let _ = self.orders.send(Order::Tell(event.clone()));
    }

    /// Gives what is still to be told a moment.
    pub fn finish(self) {
        let Self { orders, ended, .. } = self;
        drop(orders);
        if ended.recv_timeout(LAST_WORDS + Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("somebody was not told that the agent ends");
        }
    }
}

/// Those who are told by one set of settings.
struct Audience {
    settings: Arc<Settings>,
    targets: Vec<UnboundedSender<Arc<Event>>>,
    programs: UnboundedSender<Arc<Event>>,
}

impl Audience {
    fn gather(settings: Arc<Settings>, failed: &UnboundedSender<Draft>, tasks: &mut JoinSet<()>) -> Self {
        let webhooks = settings.notify.webhooks.iter().cloned().map(Told::Webhook);
        let mail = settings.notify.mail.iter().cloned().map(|mail| Told::Mail(Box::new(mail)));
        let targets = webhooks.chain(mail).map(|told| {
            let (sender, events) = unbounded_channel();
            tasks.spawn(tell(told, settings.clone(), events, failed.clone()));
            sender
        });
        let targets = targets.collect();
        let (programs, events) = unbounded_channel();
        tasks.spawn(Programs::new(settings.clone(), failed.clone()).run(events));
        Self { settings, targets, programs }
    }

    /// Each of them takes events in at once, and has a bound of its own.
    fn tell(&self, event: &Arc<Event>) {
        if self.settings.notify.wants(event.what.kind) {
            self.targets.iter().for_each(|target| drop(target.send(event.clone())));
        }
        let _ = self.programs.send(event.clone());
    }
}

async fn run(settings: Arc<Settings>, mut orders: UnboundedReceiver<Order>, failed: UnboundedSender<Draft>) {
    let mut tasks = JoinSet::new();
    let mut audience = Audience::gather(settings, &failed, &mut tasks);
    while let Some(order) = orders.recv().await {
        match order {
            // The old ones say what they have to say, and end.
            Order::Follow(settings) => audience = Audience::gather(settings, &failed, &mut tasks),
            Order::Tell(event) => audience.tell(&event),
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(audience);
    // Who has not ended by then is cut off.
    let _ = tokio::time::timeout(LAST_WORDS, async { while tasks.join_next().await.is_some() {} }).await;
}
