//! Programs that are run for events.

use std::sync::Arc;

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    task::JoinSet,
    time::timeout,
};

use super::Settings;
use crate::{
    events::{Draft, Event, Kind, Lanes},
    model::ServiceName,
    program::Starts,
};

/// Those of one service run one after the other.
type Lane = Option<ServiceName>;

/// One program to be run.
struct Job {
    command: Vec<String>,
    event: Arc<Event>,
}

pub struct Programs {
    settings: Arc<Settings>,
    starts: Arc<Starts>,
    lanes: Lanes<Lane, Job>,
    running: JoinSet<Lane>,
    failed: UnboundedSender<Draft>,
}

impl Programs {
    pub fn new(settings: Arc<Settings>, failed: UnboundedSender<Draft>) -> Self {
        Self { settings, starts: Arc::default(), lanes: Lanes::default(), running: JoinSet::new(), failed }
    }

    /// Until there are no more events, and all that waits has run.
    pub async fn run(mut self, mut events: UnboundedReceiver<Arc<Event>>) {
        let mut is_open = true;
        while is_open || !self.lanes.is_idle() {
            tokio::select! {
                event = events.recv(), if is_open => match event {
                    Some(event) => self.take(&event),
                    None => is_open = false,
                },
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => {
                    // A task of ours does not panic; if it did, its lane would rest.
                    if let Ok(lane) = ended {
                        self.lanes.done(&lane);
                    }
                }
            }
            self.start();
        }
    }

    fn take(&mut self, event: &Arc<Event>) {
        let kind = event.what.kind;
        let of_service = event.what.service.as_ref().and_then(|name| self.settings.hooks.get(name));
        let of_service = of_service.map(|hooks| hooks.program(kind)).unwrap_or_default();
        let of_all = match self.settings.notify.wants(kind) {
            true => self.settings.notify.program.as_slice(),
            false => &[],
        };
        for command in [of_service, of_all].into_iter().filter(|command| !command.is_empty()) {
            let job = Job { command: command.to_vec(), event: event.clone() };
            self.lanes.push(event.what.service.clone(), job);
        }
    }

    fn start(&mut self) {
        while let Some((lane, job)) = self.lanes.start() {
            let (settings, starts, failed) =
                (self.settings.clone(), self.starts.clone(), self.failed.clone());
            self.running.spawn(async move {
                if let Err(why) = run(&job, &settings, &starts).await {
                    let Job { command, event } = &job;
                    let program = command.first().map_or("", String::as_str);
                    let reason = format!("program {program} for event {}: {why}", event.seq);
                    // The agent may be ending.
                    let _ = failed.send(Draft::new(Kind::NotifyFailed).because(reason));
                }
                lane
            });
        }
        let left_out = self.lanes.take_left_out();
        if left_out > 0 {
            let reason = format!("{left_out} programs were left out: too many wait");
            let _ = self.failed.send(Draft::new(Kind::NotifyFailed).because(reason));
        }
    }
}

async fn run(job: &Job, settings: &Settings, starts: &Starts) -> Result<(), String> {
    let notify = &settings.notify;
    let ending = async {
        let environment = environment(&job.event, settings);
        let started = starts.start(&job.command, &notify.script_user, environment).await;
        let mut running = started.map_err(|error| error.to_string())?;
        running.0.wait().await.map_err(|error| error.to_string())
    };
    match timeout(notify.script_timeout.duration(), ending).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("it ended with {status}")),
        Ok(Err(why)) => Err(why),
        // Dropped here, it is killed, as soon as it has begun.
        Err(_) => Err(format!("it did not end within {}, and was killed", notify.script_timeout)),
    }
}

/// As docs/config.md has it.
fn environment(event: &Event, settings: &Settings) -> Vec<(&'static str, String)> {
    let Event { seq, time, what } = event;
    let Draft { kind, service, backend, reason, weight, .. } = what;
    let shown = |value: Option<String>| value.unwrap_or_default();
    let mut environment = vec![
        ("LB_EVENT", kind.to_string()),
        ("LB_SEQ", seq.to_string()),
        ("LB_TIME", time.to_string()),
        ("LB_REASON", reason.clone()),
        ("LB_TEXT", what.to_string()),
        ("LB_SERVICE", shown(service.as_ref().map(ToString::to_string))),
        ("LB_BACKEND", shown(backend.map(|key| key.to_string()))),
        ("LB_ADDRESS", shown(backend.map(|key| key.address.to_string()))),
        ("LB_PORT", shown(backend.map(|key| key.port.to_string()))),
        ("LB_INSTANCE", settings.instance.clone()),
        ("LB_ROUTER_ID", settings.router_id.clone()),
        ("LB_TIMEOUT_MS", settings.notify.script_timeout.duration().as_millis().to_string()),
    ];
    if let Some((before, after)) = weight {
        environment.push(("LB_WEIGHT_BEFORE", before.to_string()));
        environment.push(("LB_WEIGHT", after.to_string()));
    }
    environment
}
