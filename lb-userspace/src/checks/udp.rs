//! A datagram, and what comes back.

use std::time::Duration;

use regex::bytes::Regex;
use socket2::{Protocol, Type};
use tokio::{net::UdpSocket, time::timeout};

use super::{
    failure,
    socket::{self, refused, silence},
};
use crate::{
    health::{Failure, Pass, Probe},
    model::check::UdpCheck,
};

/// The longest datagram there is.
pub const LONGEST: usize = 1 << 16;

pub async fn check(probe: &Probe, udp: &UdpCheck) -> Result<Pass, Failure> {
    let socket = connect(probe)?;
    socket.send(&udp.send).await.map_err(|error| failure(&error))?;
    let mut reply = vec![0; LONGEST];
    let length = match timeout(patience(probe), socket.recv(&mut reply)).await {
        // An ICMP error comes as one of the socket, whose target is known.
        Ok(received) => received.map_err(|error| refused(&error, probe))?,
        Err(_) if udp.require_reply => return Err(Failure { why: silence(probe) }),
        Err(_) => return Ok(Pass::silence()),
    };
    if let Some(wanted) = &udp.expect {
        let wanted = Regex::new(wanted).map_err(|error| Failure { why: format!("`expect`: {error}") })?;
        if !wanted.is_match(&reply[..length]) {
            return Err(Failure { why: format!("the reply ({length} bytes) does not match") });
        }
    }
    Ok(Pass::new(format!("a reply of {length} bytes")))
}

pub fn connect(probe: &Probe) -> Result<UdpSocket, Failure> {
    let socket = socket::connected(probe, Type::DGRAM, Protocol::UDP).map_err(|error| failure(&error))?;
    UdpSocket::from_std(socket.into()).map_err(|error| failure(&error))
}

/// Silence may be the answer: it has to end before the attempt's time does.
fn patience(probe: &Probe) -> Duration {
    probe.timeout.mul_f64(0.9)
}
