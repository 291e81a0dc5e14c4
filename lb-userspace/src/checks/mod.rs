//! Making the attempts that `health` asks for: IO.
//!
//! All run on one thread of their own, each as a task with a limit, so that neither another one nor the
//! agent's work is in a check's way, or its time part of what is measured.

mod dns;
mod exec;
mod file;
mod http;
mod limit;
mod local;
mod mysql;
mod ping;
mod ports;
mod postgres;
mod queue;
mod redis;
mod saved;
mod smtp;
mod socket;
mod step;
mod tally;
mod tcp;
#[cfg(test)]
mod tests;
mod through;
pub(crate) mod tls;
mod udp;

use std::{io, panic::AssertUnwindSafe, thread};

use futures::FutureExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use limit::whole;
use mysql::Unanswered;
use queue::{Maker, Queue};
pub use saved::SavedFile;
use step::Step;
pub use tally::{Counts, LATE_UP_TO, Sort, Tally};
pub use through::{Reached, Through, Ways};
use tls::Tls;

use crate::{
    clock::monotonic,
    health::{Failure, Outcome, Pass, Probe, ProbeId, Wanted},
    model::check::CheckKind,
    program::Starts,
};

/// Where attempts are handed in. When it is dropped the thread ends, and attempts under way with it.
#[derive(Debug)]
pub struct Checks {
    wanted: UnboundedSender<Vec<Wanted>>,
    maker: Maker,
    /// Where those through the VIP are made.
    through: Option<Through>,
}

/// Where their results come out.
#[derive(Debug)]
pub struct Results {
    done: UnboundedReceiver<(ProbeId, Outcome)>,
}

/// Starts the thread.
///
/// # Errors
/// The system has no thread or no epoll descriptor for us.
pub fn start() -> io::Result<(Checks, Results)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (wanted, attempts) = unbounded_channel();
    let (results, done) = unbounded_channel();
    let maker = Maker::new(results);
    let checks = Checks { wanted, maker: maker.clone(), through: None };
    thread::Builder::new().name("checks".to_owned()).spawn(move || runtime.block_on(run(attempts, maker)))?;
    Ok((checks, Results { done }))
}

impl Checks {
    /// Makes attempts, each when it is due; its result comes in any case, after the probe's timeout at the latest.
    pub fn attempt(&self, wanted: Vec<Wanted>) {
        let (through_vip, own): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|it| it.probe.via_vip);
        if !own.is_empty() {
            // The thread ends only after us.
            let _ = self.wanted.send(own);
        }
        match &self.through {
            Some(through) if !through_vip.is_empty() => through.attempt(through_vip),
            Some(_) => {}
            // The director says so: the backend's own address alone decides.
            None => {
                through_vip
                    .iter()
                    .for_each(|it| self.maker.not_made(it.id, "there is no way through the VIP"));
            }
        }
    }

    /// What [`Through`] makes them with.
    pub fn maker(&self) -> Maker {
        self.maker.clone()
    }

    /// What has been made so far.
    pub fn tally(&self) -> &Tally {
        self.maker.tally()
    }

    /// Makes the checks through the VIP there from now on.
    pub fn set_through(&mut self, through: Option<Through>) {
        self.through = through;
    }

    pub fn through(&self) -> Option<&Through> {
        self.through.as_ref()
    }
}

impl Results {
    /// Waits for results: at least one, and all that are there, into `into`. False: there will be none.
    pub async fn next(&mut self, into: &mut Vec<(ProbeId, Outcome)>) -> bool {
        self.done.recv_many(into, AT_ONCE).await > 0
    }
}

/// A rack that dies is one change.
const AT_ONCE: usize = 4096;

async fn run(mut attempts: UnboundedReceiver<Vec<Wanted>>, maker: Maker) {
    let mut queue = Queue::default();
    loop {
        tokio::select! {
            wanted = attempts.recv() => match wanted {
                Some(wanted) => queue.extend(wanted),
                None => return queue.end(&maker),
            },
            () = queue.next_due() => {
                for Wanted { due, id, probe } in queue.take_due(monotonic()) {
                    let owed = maker.clone().owe(id);
                    tokio::spawn(async move { owed.make(due, &probe).await });
                }
            }
        }
    }
}

/// One attempt by itself, now. Whoever makes many hands them to [`Checks`].
pub async fn once(probe: &Probe) -> Outcome {
    attempt(probe, &Common::default()).await
}

/// What attempts have in common.
#[derive(Debug, Default)]
struct Common {
    tls: Tls,
    unanswered: Unanswered,
    starts: Starts,
}

async fn attempt(probe: &Probe, common: &Common) -> Outcome {
    let began = monotonic();
    let step = Step::begin(probe);
    // A library may panic of what a server says: else its check would have no result, and so never a second one.
    let made = AssertUnwindSafe(by_kind(probe, common, &step)).catch_unwind();
    let result = whole(&step, made).await;
    let took = monotonic().saturating_sub(began);
    let result = match result {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(Failure { why: "what the server said cannot be understood".to_owned() }),
        None => Err(Failure { why: step.told(&socket::silence(probe)) }),
    };
    Outcome { took, result }
}

async fn by_kind(probe: &Probe, common: &Common, step: &Step) -> Result<Pass, Failure> {
    let tls = &common.tls;
    // In boxes, so that a tcp check is not as large as a login.
    match &probe.kind {
        CheckKind::Tcp | CheckKind::HalfOpen => tcp::check(probe, step).await,
        CheckKind::Http(http) => Box::pin(http::check(probe, http, tls, step)).await,
        CheckKind::Mysql(mysql) => Box::pin(mysql::check(probe, mysql, common, step)).await,
        CheckKind::Redis(redis) => Box::pin(redis::check(probe, redis, step)).await,
        CheckKind::Postgres(postgres) => Box::pin(postgres::check(probe, postgres, tls, step)).await,
        CheckKind::Udp(udp) => Box::pin(udp::check(probe, udp)).await,
        CheckKind::Dns(dns) => Box::pin(dns::check(probe, dns)).await,
        CheckKind::Smtp(smtp) => Box::pin(smtp::check(probe, smtp, tls, step)).await,
        CheckKind::Ping => Box::pin(ping::check(probe)).await,
        CheckKind::File(file) => file::check(probe, file).await,
        CheckKind::Exec(exec) => Box::pin(exec::check(probe, exec, &common.starts)).await,
    }
}

/// What the system calls it, without Rust's "(os error 111)".
fn failure(error: &io::Error) -> Failure {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let mut words = text[..end].to_owned();
    // In the middle of a sentence.
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    Failure { why: words }
}
