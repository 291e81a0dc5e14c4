//! A steady stream of short connections from a client, each one recorded.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use crate::{
    clock::now,
    hello::{ANSWER_LIMIT, Session},
    topo::Node,
};

/// One connection: connect, read the name, echo, close.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub started: Instant,
    /// The client's side, if it got as far as a connection.
    pub client: Option<SocketAddr>,
    /// Who answered, if anybody.
    pub server: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
}

/// A running load; ends when dropped.
pub struct Load {
    stop: Arc<AtomicBool>,
    attempts: Arc<Mutex<Vec<Attempt>>>,
    workers: Vec<JoinHandle<Result<()>>>,
}

impl Load {
    /// `workers` clients, each pausing `gap` between its connections (ports in TIME_WAIT must not run out).
    pub fn start(client: &Node, to: SocketAddr, workers: usize, gap: Duration) -> Result<Self> {
        let mut load = Self { stop: Arc::default(), attempts: Arc::default(), workers: Vec::new() };
        for _ in 0..workers {
            let (stop, attempts) = (Arc::clone(&load.stop), Arc::clone(&load.attempts));
            load.workers.push(client.netns.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let attempt = Attempt::make(to);
                    attempts.lock().unwrap_or_else(PoisonError::into_inner).push(attempt);
                    thread::sleep(gap);
                }
            })?);
        }
        Ok(load)
    }

    /// Attempts finished so far, in the order of their end.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops, and returns every attempt.
    pub fn finish(mut self) -> Result<Vec<Attempt>> {
        self.join()?;
        Ok(self.attempts())
    }

    fn join(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| anyhow!("a load worker panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // `finish` reports; here a failure is being reported already.
        let _ = self.join();
    }
}

impl Attempt {
    /// Whether it did not work.
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    fn make(to: SocketAddr) -> Self {
        let mut attempt = Self { started: now(), client: None, server: None, error: None };
        if let Err(error) = attempt.run(to) {
            attempt.error = Some(format!("{error:#}"));
        }
        attempt
    }

    fn run(&mut self, to: SocketAddr) -> Result<()> {
        let stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT)?;
        self.client = Some(stream.local_addr()?);
        let mut session = Session::greet(stream)?;
        self.server = Some(session.server.clone());
        session.echo(b"ping")
    }
}
