//! A thousand connections, and the program under them replaced twenty times.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use lb_tests::{
    hello::Session,
    lab::Lab,
    load::Load,
    proc::raise_file_limit,
    topo::{Node, Topology, VIP4, VIP6},
    wait::{PATIENCE, Seen, eventually},
};

use crate::setup::{HELLO, HelloLab, PORT, SERVICE, config, service, verdict};

/// Threads of one address family, and the connections of each.
const WORKERS: usize = 2;
const SESSIONS: usize = 250;
const SWAPS: usize = 20;

/// What must not happen to a packet of theirs.
const MISSES: [&str; 5] = [
    "dropped-no-flow",
    "dropped-backend-removed",
    "dropped-no-backend",
    "dropped-unresolved",
    "passed-no-service",
];

#[test]
fn twenty_swaps_under_a_thousand_flows() {
    Lab::test(Topology::one_segment(2), |lab| {
        raise_file_limit()?;
        let mut config = config(lab, 2);
        let sister = service(VIP6, lab.net.backends.iter().map(Node::ipv6));
        config.services.push(lb_tests::config::Service { name: "hello6".to_owned(), ..sister });
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let mut talk = Talk::start(lab.net.client(), &[VIP4, VIP6])?;
        talk.wait_for_round("before the first swap")?;
        let short = Load::start(lab.net.client(), HELLO, 1, Duration::from_millis(20))?;

        let before = agent.stats()?;
        let (link, mut program) = agent.link("eth0")?;
        for n in 1..=SWAPS {
            if n % 2 == 0 {
                agent.terminate()?
            } else {
                agent.kill9()?
            }
            talk.wait_for_round(&format!("without an agent, swap {n}"))?;
            agent.start()?;
            let (same, other) = agent.link("eth0")?;
            ensure!(same == link, "swap {n} made a new link, {same} instead of {link}: there was a gap");
            ensure!(other != program, "start {n} did not swap the program");
            program = other;
            talk.wait_for_round(&format!("after swap {n}"))?;
        }

        let after = agent.stats()?;
        for name in MISSES {
            let (old, new) = (verdict(&before, name)?, verdict(&after, name)?);
            ensure!(new == old, "{} packets ended as {name} during the swaps", new - old);
        }
        let failed: Vec<_> = short.finish()?.into_iter().filter(|a| a.failed()).collect();
        ensure!(failed.is_empty(), "of the short connections: {failed:#?}");
        let active: u64 = agent.services()?.iter().flat_map(|s| &s.backends).map(|b| b.active).sum();
        ensure!(active == 1000, "{active} connections are counted as active");
        ensure!(agent.backend(SERVICE, &hello.key(1))?.active == 250, "half of the IPv4 ones are slave1's");
        talk.finish()
    });
}

/// A thousand open connections, each sending and receiving again and again.
struct Talk {
    stop: Arc<AtomicBool>,
    /// Of each worker: how often all of its connections have had an answer.
    rounds: Vec<Arc<AtomicU64>>,
    workers: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Talk {
    fn start(client: &Node, vips: &[IpAddr]) -> Result<Self> {
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
    fn wait_for_round(&mut self, when: &str) -> Result<()> {
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

    fn finish(mut self) -> Result<()> {
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
