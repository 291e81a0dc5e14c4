//! One mail server or URL: events in, batches out.

use std::{fmt, future::pending, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender},
    time::sleep,
};

use super::{Settings, mail, webhook};
use crate::{
    clock::monotonic,
    events::{Batch, Batcher, Draft, Event, Kind},
    model::notify::{Mail, Webhook},
};

/// Who is told.
#[derive(Clone, Debug)]
pub enum Told {
    Webhook(Webhook),
    Mail(Box<Mail>),
}

/// Why a delivery failed. Never with a secret in it.
#[derive(Debug)]
pub struct Refusal {
    pub why: String,
    /// Another attempt may succeed.
    pub is_temporary: bool,
}

/// How often a mail is tried again.
const MAIL_RETRIES: u16 = 5;
/// Before the first retry; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A delivery that failed for good.
type Failed = (Batch, String);

/// Until there are no more events.
pub async fn tell(
    told: Told,
    settings: Arc<Settings>,
    mut events: UnboundedReceiver<Arc<Event>>,
    failed: UnboundedSender<Draft>,
) {
    let notify = &settings.notify;
    let mut batcher = Batcher::new(notify.delay.duration(), notify.interval.duration());
    let mut delivering: Option<BoxFuture<'static, Result<(), Failed>>> = None;
    let told = Arc::new(told);
    let mut is_open = true;
    loop {
        // One delivery at a time; what comes meanwhile is in the next.
        if delivering.is_none() {
            let batch = if is_open { batcher.take(monotonic()) } else { batcher.flush() };
            match batch {
                Some(batch) => delivering = Some(Box::pin(deliver(told.clone(), settings.clone(), batch))),
                None if !is_open => return,
                None => {}
            }
        }
        let deadline = batcher.deadline().filter(|_| delivering.is_none());
        tokio::select! {
            event = events.recv(), if is_open => match event {
                Some(event) => batcher.push(monotonic(), event),
                None => is_open = false,
            },
            delivered = async { match &mut delivering {
                Some(delivering) => delivering.await,
                None => pending().await,
            } } => {
                delivering = None;
                if let Err((batch, why)) = delivered {
                    batcher.lost(&batch);
                    let reason = format!("{told}: {} events are lost: {why}", batch.count());
                    // The agent may be ending.
                    let _ = failed.send(Draft::new(Kind::NotifyFailed).because(reason));
                }
            }
            () = wait(deadline) => {}
        }
    }
}

async fn wait(deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => sleep(deadline.saturating_sub(monotonic())).await,
        None => pending().await,
    }
}

async fn deliver(told: Arc<Told>, settings: Arc<Settings>, batch: Batch) -> Result<(), Failed> {
    let retries = match &*told {
        Told::Webhook(webhook) => webhook.retries,
        Told::Mail(_) => MAIL_RETRIES,
    };
    let mut pause = FIRST_PAUSE;
    for attempt in 0.. {
        let delivered = match &*told {
            Told::Webhook(hook) => webhook::post(hook, &settings, &batch).await,
            Told::Mail(to) => mail::send(to, &settings, &batch).await,
        };
        let Err(Refusal { why, is_temporary }) = delivered else { break };
        if !is_temporary || attempt == retries {
            return Err((batch, why));
        }
        tracing::info!("{told}: {why}; trying again in {} s", pause.as_secs());
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

impl Refusal {
    pub fn temporary(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), is_temporary: true }
    }

    pub fn permanent(why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), is_temporary: false }
    }
}

/// For people; of a URL only what is no secret.
impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Webhook(webhook) => {
                let url = url::Url::parse(&webhook.url);
                let host = url.as_ref().ok().and_then(url::Url::host_str).unwrap_or("?");
                write!(f, "webhook at {host}")
            }
            Self::Mail(mail) => write!(f, "mail to {} through {}", mail.to.join(", "), mail.server),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use tokio::{sync::mpsc::unbounded_channel, time::Instant};

    use super::*;
    use crate::model::{
        Model,
        check::Millis,
        notify::{MailTls, Notify},
    };

    /// The kernel takes its connections, and nobody says anything.
    #[tokio::test(start_paused = true)]
    async fn a_mail_server_that_hangs_is_tried_six_times_and_its_mail_lost() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("it has one").port();
        let mail = Mail {
            to: vec!["ops@example.net".to_owned()],
            from: "lb@example.net".to_owned(),
            server: Ipv4Addr::LOCALHOST.to_string(),
            port: Some(port),
            connect_timeout: Millis(10_000),
            tls: MailTls::Off,
            ..Mail::default()
        };
        let notify = Notify { delay: Millis(0), interval: Millis(0), ..Notify::default() };
        let settings = Arc::new(Settings::new("lab", &notify, &Model::default()));
        let (sender, events) = unbounded_channel();
        let (failed, mut failures) = unbounded_channel();
        let began = Instant::now();
        tokio::spawn(tell(Told::Mail(Box::new(mail)), settings, events, failed));
        let what = Draft::new(Kind::AgentStart);
        sender.send(Arc::new(Event { seq: 1, time: crate::clock::realtime(), what })).expect("it listens");
        let lost = failures.recv().await.expect("it fails");
        let why = "mail to ops@example.net through 127.0.0.1: 1 events are lost: the server takes too long";
        assert_eq!((lost.kind, lost.reason.as_str()), (Kind::NotifyFailed, why));
        // Six attempts of twice the limit, and pauses of 1, 2, 4, 8 and 16 s.
        let took = began.elapsed().as_secs();
        assert_eq!(took, 6 * 20 + 31);
    }
}
