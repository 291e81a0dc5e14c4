//! Many connections that go on while something is done to the director.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use anyhow::{Context, Result, anyhow};
use lb_tests::{
    hello::Session,
    topo::Node,
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::PORT;

/// Threads of one address family, and the connections of each.
const WORKERS: usize = 2;
const SESSIONS: usize = 250;

/// What must not happen to a packet of theirs.
pub const MISSES: [&str; 8] = [
    "answered-no-flow",
    "answered-backend-removed",
    "answered-no-backend",
    "dropped-no-flow",
    "dropped-backend-removed",
    "dropped-no-backend",
    "dropped-unresolved",
    "passed-no-service",
];

/// A thousand open connections (to two VIPs), each sending and receiving again and again.
pub struct Talk {
    stop: Arc<AtomicBool>,
    /// Of each worker: how often all of its connections have had an answer.
    rounds: Vec<Arc<AtomicU64>>,
    workers: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Talk {
    pub fn start(client: &Node, vips: &[IpAddr]) -> Result<Self> {
        let mut talk = Self { stop: Arc::default(), rounds: Vec::new(), workers: Vec::new() };
        for vip in vips.iter().flat_map(|vip| [vip; WORKERS]) {
            let (stop, rounds, to) = (Arc::clone(&talk.stop), Arc::default(), SocketAddr::new(*vip, PORT));
            talk.rounds.push(Arc::clone(&rounds));
            talk.workers.push(client.netns.spawn(move || {
                let open = |_| Session::open_here(to);
                let mut sessions = (0..SESSIONS).map(open).collect::<Result<Vec<_>>>()?;
                while !stop.load(Ordering::Relaxed) {
                    sessions.iter_mut().try_for_each(|session| session.echo(b"tick"))?;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })?);
        }
        Ok(talk)
    }

    /// Every connection has had an answer to something that it sent after this was called.
    pub fn wait_for_round(&mut self, when: &str) -> Result<()> {
        let Self { rounds, workers, .. } = self;
        let read = || rounds.iter().map(|round| round.load(Ordering::Relaxed)).collect::<Vec<_>>();
        // The round that is under way began before.
        let goal: Vec<_> = read().iter().map(|round| round + 2).collect();
        eventually(PATIENCE, &format!("an answer on all connections {when}"), || {
            let now = read();
            if now.iter().zip(&goal).all(|(now, goal)| now >= goal) {
                return Ok(Seen::Yes(()));
            }
            if let Some(ended) = workers.iter().position(JoinHandle::is_finished) {
                joined(workers.swap_remove(ended)).with_context(|| when.to_owned())?;
            }
            Ok(Seen::NotYet(format!("rounds {now:?}, wanted {goal:?}")))
        })
    }

    pub fn finish(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.workers.drain(..).try_for_each(joined)
    }
}

fn joined(worker: JoinHandle<Result<Result<()>>>) -> Result<()> {
    worker.join().map_err(|_| anyhow!("a worker panicked"))??.context("a connection failed")
}

impl Drop for Talk {
    fn drop(&mut self) {
        // After a failure; the workers end with their connections.
        self.stop.store(true, Ordering::Relaxed);
    }
}
