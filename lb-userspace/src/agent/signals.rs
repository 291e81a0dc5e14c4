//! The signals that the agent listens to, from before it has made anything: one that arrives during a
//! start is taken notice of, and not the death of a half-made director.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Streams of signals. One that arrives while nobody looks is remembered.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGHUP
    Reload,
    /// SIGTERM or SIGINT
    Stop,
}

impl Signals {
    /// From now on these signals do not end the process.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Waits for SIGTERM or SIGINT; a SIGHUP meanwhile is left for [`Signals::next`].
    pub async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
