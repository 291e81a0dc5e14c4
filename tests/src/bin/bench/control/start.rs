//! From the start of the process to the first connection that a backend accepts.

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lb_tests::{clock::now, hello::Session};

use super::{
    shown::Shown,
    world::{World, endpoint},
};
use crate::{figures, pace::Pace};

/// The best one decides.
const STARTS: usize = 5;
/// Of an attempt to connect, and so the error of the time of the first connection.
const ATTEMPT: Duration = Duration::from_millis(10);
/// On a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// From nothing to the first connection, and to READY=1, several times; the agent of the last one runs on. The
/// shortest time to a connection.
pub fn starts(world: &World, shown: &mut Shown, services: u16, what: &str) -> Result<Duration> {
    let (mut times, mut pace) = (Vec::new(), Pace::default());
    for round in 0..STARTS {
        if round != 0 {
            world.agent.detach()?;
        }
        times.push(pace.round(|| start(world, services))?);
    }
    shown.heading(what);
    let (first, ready): (Vec<_>, Vec<_>) = times.into_iter().unzip();
    let best = figures(&first).0;
    for (what, times) in [("to the first connection", first), ("until it says that it is ready", ready)] {
        shown.minimum_and_median(what, STARTS, pace.figures(&times));
    }
    shown.paced(pace);
    Ok(best)
}

/// Once more, whatever is there.
pub fn again(world: &World, shown: &mut Shown, what: &str) -> Result<()> {
    let since = now();
    world.agent.start()?;
    shown.alone(what, since.elapsed());
    Ok(())
}

/// The connection is one to the last service: all are there by then.
fn start(world: &World, services: u16) -> Result<(Duration, Duration)> {
    let since = now();
    world.agent.begin(&[])?;
    let (first, stream) = world.as_client(|| first_connection(since, endpoint(services - 1)))??;
    world.agent.said("READY=1")?;
    let ready = since.elapsed();
    let session = Session::greet(stream)?;
    let client = session.client()?;
    ensure!(
        world.has_accepted(client),
        "{client} was answered by {:?}, which did not accept it",
        session.server
    );
    let status = world.status()?;
    ensure!(status.services == usize::from(services), "{} services are there", status.services);
    Ok((first, ready))
}

fn first_connection(since: Instant, to: SocketAddr) -> Result<(Duration, TcpStream)> {
    loop {
        if let Ok(stream) = TcpStream::connect_timeout(&to, ATTEMPT) {
            return Ok((since.elapsed(), stream));
        }
        ensure!(since.elapsed() < PATIENCE, "no connection to {to} in {PATIENCE:?}");
    }
}
