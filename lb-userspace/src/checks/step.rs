//! How far an attempt has come, so that whoever reads of its end knows where it was.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{failure, limit::UNHEARD};
use crate::health::{Failure, Probe};

/// The step that one attempt has come to, by a name for people: `greeting`, `STARTTLS`. At first it has none, nor while
/// the check's own label says it.
#[derive(Debug)]
pub struct Step {
    name: Mutex<&'static str>,
    timeout: Duration,
    end: Mutex<End>,
}

/// When an attempt is over.
#[derive(Clone, Copy, Debug)]
struct End {
    until: Instant,
    /// It has been put off already.
    is_late: bool,
}

impl Step {
    /// Of an attempt that begins now.
    pub fn begin(probe: &Probe) -> Self {
        let end = End { until: Instant::now() + probe.timeout, is_late: false };
        Self { name: Mutex::default(), timeout: probe.timeout, end: Mutex::new(end) }
    }

    /// When the attempt is over. The time in which nobody looked is given back, once, by whoever is the first to see that
    /// the end has passed: who goes on then, with an answer that came meanwhile, has time for what is left to be asked.
    pub fn until(&self) -> Instant {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let late = now.saturating_duration_since(end.until);
        if late >= UNHEARD && !end.is_late {
            *end = End { until: now + late.min(self.timeout), is_late: true };
        }
        end.until
    }

    /// When a connection that is begun now has to be there: at the end of the attempt at the latest, to the instant, so
    /// that who waits for it says why there is none.
    pub fn connected_by(&self, probe: &Probe) -> Instant {
        self.until().min(Instant::now() + probe.connect_timeout)
    }

    /// How long the attempt may still take.
    pub fn left(&self) -> Duration {
        self.until().saturating_duration_since(Instant::now())
    }

    /// It is this one from now on.
    pub fn is(&self, name: &'static str) {
        *self.name.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// What went wrong at it.
    pub fn told(&self, what: &str) -> String {
        match *self.name.lock().unwrap_or_else(PoisonError::into_inner) {
            "" => what.to_owned(),
            name => format!("{name}: {what}"),
        }
    }

    /// The connection ended at it, in order.
    pub fn closed(&self) -> Failure {
        Failure { why: self.told("closed") }
    }

    /// The connection failed at it. TLS that ends without its own end is closed, too.
    pub fn broken(&self, error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.closed(),
            _ => Failure { why: self.told(&failure(error).why) },
        }
    }
}
