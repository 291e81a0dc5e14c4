//! A steady stream of short connections from a client, each one recorded.
//!
//! Each comes from a port of its own: a refused connection leaves no TIME_WAIT, so the kernel may give its port to
//! another one at once, and as with IPVS a SYN on a half-open entry (SYN_RECV, a minute) goes where that leads, also if
//! the backend is down by then.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use socket2::{Domain, Socket, Type};

use crate::{
    clock::now,
    hello::{ANSWER_LIMIT, Session},
    topo::Node,
};

/// Below the kernel's own (`ip_local_port_range`), which it gives to others: so many last for more than a minute.
const PORTS: std::ops::Range<u16> = 2048..32_768;

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
        let ports = Arc::new(AtomicU16::new(PORTS.start));
        for _ in 0..workers {
            let (stop, attempts) = (Arc::clone(&load.stop), Arc::clone(&load.attempts));
            let ports = Arc::clone(&ports);
            load.workers.push(client.netns.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let attempt = Attempt::make(to, &ports);
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

    fn make(to: SocketAddr, ports: &AtomicU16) -> Self {
        let mut attempt = Self { started: now(), client: None, server: None, error: None };
        if let Err(error) = attempt.run(to, ports) {
            attempt.error = Some(format!("{error:#}"));
        }
        attempt
    }

    fn run(&mut self, to: SocketAddr, ports: &AtomicU16) -> Result<()> {
        let socket = bound(to, ports)?;
        socket.connect_timeout(&to.into(), ANSWER_LIMIT)?;
        let stream = TcpStream::from(socket);
        self.client = Some(stream.local_addr()?);
        let mut session = Session::greet(stream)?;
        self.server = Some(session.server.clone());
        session.echo(b"ping")?;
        session.end();
        Ok(())
    }
}

/// A socket at the next port that is free.
fn bound(to: SocketAddr, ports: &AtomicU16) -> Result<Socket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    for _ in PORTS {
        let following = |port| Some(if port + 1 < PORTS.end { port + 1 } else { PORTS.start });
        let port = ports
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, following)
            .unwrap_or_else(|unchanged| unchanged);
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        match socket.bind(&SocketAddr::new(any, port).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return Ok(other.map(|()| socket)?),
        }
    }
    Err(anyhow!("the client has no port left"))
}
