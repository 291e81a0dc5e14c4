//! MySQL clients that query all the time through the VIP, as applications do: by connections that they keep for a
//! while; a connection that cannot be opened is tried again.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use mysql_async::{Conn, Opts, OptsBuilder, prelude::Queryable};
use tokio::time::{sleep, timeout};

use crate::{clock::realtime, topo::Node};

/// Queries by one connection.
const QUERIES: u32 = 10;
/// Between two queries of a client.
const PAUSE: Duration = Duration::from_millis(5);
/// Attempts at a connection, with [`PAUSE`] between them, before a query counts as failed.
const ATTEMPTS: u32 = 20;
/// For a connection, which is tried again.
const PATIENCE: Duration = Duration::from_secs(3);
/// For an answer on an open one, which is not: longer than a busy machine stands still.
const ANSWER: Duration = Duration::from_secs(8);

/// What the clients have met.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Queries that were answered, by the server's name.
    pub answered: std::collections::BTreeMap<String, u64>,
    /// Queries that failed on a connection that was open.
    pub broken: Vec<Broken>,
    /// Connections that could not be opened, and were tried again.
    pub refused: Vec<Refused>,
    /// Queries for which no connection could be had.
    pub failed: Vec<String>,
}

/// A query that failed on an open connection.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Whose connection it was.
    pub server: String,
    /// When its first answer had come.
    pub opened: Timestamp,
    pub failed: Timestamp,
    pub why: String,
}

/// An attempt at a connection.
#[derive(Clone, Debug)]
pub struct Refused {
    pub began: Timestamp,
    pub failed: Timestamp,
    pub why: String,
}

impl Seen {
    pub fn queries(&self) -> u64 {
        self.answered.values().sum::<u64>() + self.broken.len() as u64 + self.failed.len() as u64
    }
}

/// Running clients; they end when it is dropped.
pub struct SqlLoad {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    clients: Vec<JoinHandle<Result<Result<()>>>>,
}

impl SqlLoad {
    pub fn start(client: &Node, vip: IpAddr, clients: usize) -> Result<Self> {
        let mut load = Self { stop: Arc::default(), seen: Arc::default(), clients: Vec::new() };
        let opts: Opts = OptsBuilder::default()
            .ip_or_hostname(vip.to_string())
            .user(Some("root"))
            .pass(Some("123"))
            .into();
        for _ in 0..clients {
            let (stop, seen, opts) = (Arc::clone(&load.stop), Arc::clone(&load.seen), opts.clone());
            load.clients.push(client.netns.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(query_on(&stop, &seen, &opts));
                Ok(())
            })?);
        }
        Ok(load)
    }

    /// So far.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Stops, and says what they have met in all.
    pub fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| anyhow!("a client panicked"))???;
        }
        Ok(self.seen())
    }
}

impl Drop for SqlLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            // What it has met is of no interest any more.
            let _ = client.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn query_on(stop: &AtomicBool, seen: &Mutex<Seen>, opts: &Opts) {
    while !stop.load(Ordering::Relaxed) {
        let Some((mut conn, server)) = connect(stop, seen, opts).await else { continue };
        let opened = realtime();
        for _ in 0..QUERIES {
            match ask(&mut conn).await {
                Ok(name) => *lock(seen).answered.entry(name).or_default() += 1,
                Err(why) => {
                    lock(seen).broken.push(Broken { server, opened, failed: realtime(), why });
                    break;
                }
            }
            sleep(PAUSE).await;
        }
        // The server may be dead.
        let _ = timeout(PATIENCE, conn.disconnect()).await;
    }
}

/// A connection, and whose it is.
async fn connect(stop: &AtomicBool, seen: &Mutex<Seen>, opts: &Opts) -> Option<(Conn, String)> {
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        let began = realtime();
        let opening = timeout(PATIENCE, async {
            let mut conn = Conn::new(opts.clone()).await.map_err(|error| error.to_string())?;
            let server = ask(&mut conn).await?;
            Ok((conn, server))
        });
        match opening.await.unwrap_or_else(|_| Err("no answer".to_owned())) {
            Ok(opened) => return Some(opened),
            Err(error) => why = error,
        }
        lock(seen).refused.push(Refused { began, failed: realtime(), why: why.clone() });
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        sleep(PAUSE).await;
    }
    lock(seen).failed.push(why);
    None
}

async fn ask(conn: &mut Conn) -> Result<String, String> {
    let answer = timeout(ANSWER, conn.query_first::<String, _>("select @@hostname")).await;
    match answer {
        Ok(Ok(name)) => name.ok_or_else(|| "an empty answer".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer".to_owned()),
    }
}
