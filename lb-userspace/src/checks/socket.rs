//! Sockets of checks: where they go to, and what they leave by.

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt::Mark};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::failure;
use crate::{
    health::{Failure, Probe, Way},
    model::check::CheckKind,
};

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
    match probe.way {
        None => bind(SockRef::from(&socket), probe)?,
        Some(way) => bind_way(&socket, probe, way)?,
    }
    socket.connect(&probe.target.into())?;
    Ok(socket)
}

/// In the namespace of the checks through the VIP, which has one interface. A raw socket has no port: what it asks
/// bears it instead.
fn bind_way(socket: &Socket, probe: &Probe, way: Way) -> io::Result<()> {
    setsockopt(socket, Mark, &way.mark)?;
    // One that waits for another VIP may have it too; of two that wait for the same one, the newer is heard first.
    socket.set_reuse_address(true)?;
    match probe.source {
        Some(source) => socket.bind(&SocketAddr::new(source, way.ports.by_turn(way.turn)).into()),
        None => Ok(()),
    }
}

/// Why an attempt failed that nobody answered, for people. Of the kinds that have no connection.
pub fn silence(probe: &Probe) -> String {
    let vip = probe.target.ip();
    match (probe.way, &probe.kind) {
        (Some(_), CheckKind::Ping) => {
            format!("no answer (is {vip} on its lo? does rp_filter drop it? does it answer pings at all?)")
        }
        (Some(_), CheckKind::Udp(_) | CheckKind::Dns(_)) => format!(
            "no answer (is {vip} on its lo? does rp_filter drop it? does its server answer from another address?)"
        ),
        (None, CheckKind::Udp(_)) => "no reply".to_owned(),
        _ => "no answer".to_owned(),
    }
}

/// What became of an attempt that did not go well, with what there is to ask of a server that the VIP does not reach.
pub fn refused(error: &io::Error, probe: &Probe) -> Failure {
    let Failure { why } = failure(error);
    if probe.way.is_some() && error.kind() == io::ErrorKind::ConnectionRefused {
        return Failure { why: format!("{why} (does its server listen on {}?)", probe.target.ip()) };
    }
    Failure { why }
}
