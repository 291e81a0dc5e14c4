//! Making the attempts that `health` asks for: IO.
//!
//! All run on one thread of their own, each as a task with a limit, so that neither another one nor the
//! agent's work is in a check's way, or its time part of what is measured.

mod dns;
mod exec;
mod file;
mod http;
mod mysql;
mod ping;
mod postgres;
mod redis;
mod saved;
mod smtp;
mod socket;
mod tcp;
#[cfg(test)]
mod tests;
mod through;
pub(crate) mod tls;
mod udp;

use std::{io, panic::AssertUnwindSafe, sync::Arc, thread, time::Duration};

use futures::FutureExt;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

pub use saved::SavedFile;
pub use through::{Reached, Through, Ways};
use tls::Tls;

use crate::{
    clock::monotonic,
    health::{Failure, Outcome, Pass, Probe, ProbeId},
    model::check::CheckKind,
};

/// Where attempts are handed in. When it is dropped the thread ends, and attempts under way with it.
#[derive(Debug)]
pub struct Checks {
    wanted: UnboundedSender<(ProbeId, Arc<Probe>)>,
    results: UnboundedSender<(ProbeId, Outcome)>,
    /// Where those through the VIP are made.
    through: Option<Through>,
}

/// Where their results come out.
#[derive(Debug)]
pub struct Results {
    done: UnboundedReceiver<(ProbeId, Outcome)>,
}

/// Each attempt may hold a descriptor or two until its timeout, and systemd's soft limit is 1024 (systemd.exec(5)):
/// all that the hard one allows.
fn take_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("the limit of open files cannot be raised: {error}; many checks at once may fail");
    }
}

/// Starts the thread.
///
/// # Errors
/// The system has no thread or no epoll descriptor for us.
pub fn start() -> io::Result<(Checks, Results)> {
    take_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (wanted, attempts) = unbounded_channel();
    let (results, done) = unbounded_channel();
    let checks = Checks { wanted, results: results.clone(), through: None };
    thread::Builder::new()
        .name("checks".to_owned())
        .spawn(move || runtime.block_on(run(attempts, results)))?;
    Ok((checks, Results { done }))
}

impl Checks {
    /// Makes one attempt; its result comes in any case, after the probe's timeout at the latest.
    pub fn attempt(&self, id: ProbeId, probe: Arc<Probe>) {
        match &self.through {
            Some(through) if probe.via_vip => through.attempt(id, probe),
            // Nobody's fault but the director's, which says so: the backend's own address alone decides.
            None if probe.via_vip => {
                let result = Ok(Pass::new("not made: there is no way through the VIP"));
                let _ = self.results.send((id, Outcome { took: Duration::ZERO, result }));
            }
            // The thread ends only after us.
            _ => drop(self.wanted.send((id, probe))),
        }
    }

    /// Where the results of [`Through`] shall go.
    pub fn results(&self) -> UnboundedSender<(ProbeId, Outcome)> {
        self.results.clone()
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

async fn run(
    mut attempts: UnboundedReceiver<(ProbeId, Arc<Probe>)>,
    results: UnboundedSender<(ProbeId, Outcome)>,
) {
    let tls = Arc::new(Tls::default());
    while let Some((id, probe)) = attempts.recv().await {
        let (results, tls) = (results.clone(), tls.clone());
        tokio::spawn(async move {
            let outcome = attempt(&probe, &tls).await;
            // The agent is ending.
            let _ = results.send((id, outcome));
        });
    }
}

async fn attempt(probe: &Probe, tls: &Tls) -> Outcome {
    let began = monotonic();
    // A library may panic of what a server says: else its check would have no result, and so never a second one.
    let made = AssertUnwindSafe(by_kind(probe, tls)).catch_unwind();
    let result = timeout(probe.timeout, made).await;
    let took = monotonic().saturating_sub(began);
    let result = match result {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Failure { why: "what the server said cannot be understood".to_owned() }),
        Err(_) => Err(Failure { why: socket::silence(probe) }),
    };
    Outcome { took, result }
}

async fn by_kind(probe: &Probe, tls: &Tls) -> Result<Pass, Failure> {
    match &probe.kind {
        CheckKind::Tcp => tcp::check(probe).await,
        CheckKind::Http(http) => http::check(probe, http, tls).await,
        CheckKind::Mysql(mysql) => mysql::check(probe, mysql, tls).await,
        CheckKind::Redis(redis) => redis::check(probe, redis).await,
        CheckKind::Postgres(postgres) => postgres::check(probe, postgres, tls).await,
        CheckKind::Udp(udp) => udp::check(probe, udp).await,
        CheckKind::Dns(dns) => dns::check(probe, dns).await,
        CheckKind::Smtp(smtp) => smtp::check(probe, smtp, tls).await,
        CheckKind::Ping => ping::check(probe).await,
        CheckKind::File(file) => file::check(probe, file),
        CheckKind::Exec(exec) => exec::check(probe, exec).await,
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
