//! Sockets of checks: where they go to, and what they leave by.

use std::{io, net::SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::health::Probe;

/// Binds to the probe's interface and source, if it has them.
pub fn bind(socket: SockRef<'_>, probe: &Probe) -> io::Result<()> {
    if let Some(interface) = &probe.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    match probe.source {
        Some(source) => socket.bind(&SocketAddr::new(source, 0).into()),
        None => Ok(()),
    }
}

/// A socket without connections, to the probe's target alone.
pub fn connected(probe: &Probe, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(probe.target), kind.nonblocking(), Some(protocol))?;
    bind(SockRef::from(&socket), probe)?;
    socket.connect(&probe.target.into())?;
    Ok(socket)
}
