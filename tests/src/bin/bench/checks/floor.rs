//! The least that a tcp check can cost here: the kernel's work for a connection, both ends of it, on one CPU.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lb_tests::clock::cpu;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::{os::fd::AsFd, time::Duration};

use super::world::{PORT, World, on_the_agents_cpu};

/// As many at once as are due in a millisecond.
const AT_ONCE: usize = 10;

/// Microseconds of CPU for each of so many connections that are opened and reset.
pub fn connects(world: &World, count: u32) -> Result<f64> {
    let addresses = world.addresses.clone();
    on_the_agents_cpu(world, move || {
        let before = cpu()?;
        let mut targets = addresses.iter().cycle().map(|address| SocketAddr::new(*address, PORT));
        for _ in 0..count as usize / AT_ONCE {
            let sockets: Vec<_> = (&mut targets).take(AT_ONCE).map(begin).collect::<Result<_>>()?;
            for socket in &sockets {
                let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                poll(&mut wanted, PollTimeout::from(10_000u16))?;
                ensure!(socket.take_error()?.is_none() && socket.peer_addr().is_ok(), "no connection");
            }
        }
        let took: Duration = cpu()? - before;
        Ok(took.as_secs_f64() * 1e6 / f64::from(count))
    })
}

fn begin(target: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&target.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error.into()),
        _ => Ok(socket),
    }
}
