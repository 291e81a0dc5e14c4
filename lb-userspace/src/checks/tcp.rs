//! TCP connections of checks.

use std::{io, net::SocketAddr};

use nix::sys::socket::{
    setsockopt,
    sockopt::{IpBindAddressNoPort, Linger, Mark},
};
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::{
    limit::within,
    socket::{bind, refused},
    step::Step,
};
use crate::{
    health::{Failure, Pass, Probe, Way},
    model::check::CheckKind,
};

/// A connection can be opened, or half of one.
pub async fn check(probe: &Probe, step: &Step) -> Result<Pass, Failure> {
    connect(probe, step).await?;
    Ok(Pass::new("connected"))
}

/// Opens the check's connection, which ends with a reset when it is dropped: a director that checks
/// often would run out of ports in TIME_WAIT.
pub async fn connect(probe: &Probe, step: &Step) -> Result<TcpStream, Failure> {
    let connecting = async {
        match probe.way {
            None => socket(probe)?.connect(probe.target).await,
            Some(way) => connect_by(probe, way).await,
        }
    };
    match within(step.connected_by(probe), connecting).await {
        Some(connected) => connected.map_err(|error| refused(&error, probe)),
        None if probe.way.is_some() => {
            let vip = probe.target.ip();
            Err(Failure { why: format!("no answer (is {vip} on its lo? does rp_filter drop it?)") })
        }
        None => Err(Failure { why: "no connection".to_owned() }),
    }
}

/// How many ports an attempt tries: one may still be connected to the same VIP and port. Those of a whole pool of replicas
/// may, one beside the other ([`Unanswered`](super::mysql::Unanswered)).
const TRIES: u32 = 256;

async fn connect_by(probe: &Probe, way: Way) -> io::Result<TcpStream> {
    let mut taken = io::Error::from(io::ErrorKind::AddrInUse);
    for turn in way.turn..=way.turn.saturating_add(TRIES) {
        let socket = plain(probe)?;
        setsockopt(&socket, Mark, &way.mark)?;
        // With another VIP or port at the other end, a port may be used twice.
        socket.set_reuseaddr(true)?;
        let bound = bind_port(&socket, probe, way.ports.by_turn(turn));
        let connected = match bound {
            Ok(()) => socket.connect(probe.target).await,
            Err(error) => Err(error),
        };
        match connected {
            Err(error) if is_taken(&error) => taken = error,
            other => return other,
        }
    }
    Err(taken)
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn socket(probe: &Probe) -> io::Result<TcpSocket> {
    let socket = plain(probe)?;
    if probe.source.is_some() {
        // The port is chosen with the target: so there are as many for each target, not for all of them together.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
    }
    bind(SockRef::from(&socket), probe)?;
    Ok(socket)
}

fn plain(probe: &Probe) -> io::Result<TcpSocket> {
    let socket = if probe.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    if probe.kind == CheckKind::HalfOpen {
        // The last ACK of the handshake then waits for data (`tcp_rcv_synsent_state_process` in net/ipv4/tcp_input.c, up
        // to 200 ms), and the reset overtakes it.
        SockRef::from(&socket).set_tcp_quickack(false)?;
    }
    Ok(socket)
}

/// In the namespace of the checks through the VIP, which has one interface.
fn bind_port(socket: &TcpSocket, probe: &Probe, port: u16) -> io::Result<()> {
    probe.source.map_or(Ok(()), |source| socket.bind(SocketAddr::new(source, port)))
}
