//! TCP connections of checks.

use std::io;

use nix::sys::socket::{setsockopt, sockopt::Linger};
use socket2::SockRef;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{failure, socket::bind};
use crate::health::{Failure, Pass, Probe};

/// A connection can be opened.
pub async fn check(probe: &Probe) -> Result<Pass, Failure> {
    connect(probe).await?;
    Ok(Pass::new("connected"))
}

/// Opens the check's connection, which ends with a reset when it is dropped: a director that checks
/// often would run out of ports in TIME_WAIT.
pub async fn connect(probe: &Probe) -> Result<TcpStream, Failure> {
    let connecting = async { socket(probe)?.connect(probe.target).await };
    match timeout(probe.connect_timeout, connecting).await {
        Ok(connected) => connected.map_err(|error| failure(&error)),
        Err(_) => Err(Failure { why: "no connection".to_owned() }),
    }
}

fn socket(probe: &Probe) -> io::Result<TcpSocket> {
    let socket = if probe.target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    setsockopt(&socket, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    bind(SockRef::from(&socket), probe)?;
    Ok(socket)
}
