//! An ICMP echo request and its reply (RFC 792, RFC 4443).

use std::io::ErrorKind;

use socket2::{Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{failure, socket};
use crate::health::{Failure, Pass, Probe};

/// Bytes that nobody else sends.
type Token = [u8; 16];

/// Of an echo, which bears the port that the answer to a check through the VIP is known by.
type Identifier = [u8; 2];

pub async fn check(probe: &Probe) -> Result<Pass, Failure> {
    // Tokio has no raw sockets; what it does to one for datagrams, send and recv, is the same for these.
    let socket = UdpSocket::from_std(open(probe)?.into()).map_err(|error| failure(&error))?;
    let mut token = Token::default();
    rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failure(&error.into()))?;
    let identifier = match probe.way {
        Some(way) => way.ports.by_turn(way.turn).to_be_bytes(),
        None => [token[0], token[1]],
    };
    let request = request(probe.target.is_ipv4(), identifier, &token);
    socket.send(&request).await.map_err(|error| failure(&error))?;
    let mut reply = [0; 256];
    loop {
        let length = socket.recv(&mut reply).await.map_err(|error| failure(&error))?;
        // Else another echo's, or our request if the target is this host.
        if is_reply(probe.target.is_ipv4(), &reply[..length], &token) {
            return Ok(Pass::new("echo reply"));
        }
    }
}

/// A ping socket where the kernel lets us have one (`net.ipv4.ping_group_range`), else a raw one. Both hear the
/// target alone, but a raw one all echo replies from there.
fn open(probe: &Probe) -> Result<Socket, Failure> {
    let protocol = if probe.target.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let open = |kind| socket::connected(&portless(probe), kind, protocol);
    match open(Type::DGRAM) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied) => open(Type::RAW),
        other => other,
    }
    .map_err(|error| failure(&error))
}

/// To a raw IPv6 socket a port is a protocol (`net/ipv6/raw.c`).
fn portless(probe: &Probe) -> Probe {
    let mut probe = probe.clone();
    probe.target.set_port(0);
    probe
}

/// The kernel sets the identifier of a ping socket (to its port), and its checksum, and that of ICMPv6.
fn request(is_ipv4: bool, [high, low]: Identifier, token: &Token) -> Vec<u8> {
    let kind = if is_ipv4 { 8 } else { 128 };
    let mut message = vec![kind, 0, 0, 0, high, low, 0, 1];
    message.extend(token);
    if is_ipv4 {
        let words = message.chunks_exact(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]])));
        let checksum = !lb_common::checksum::fold(words.sum());
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// A raw IPv4 socket delivers the IP header too (raw(7)).
fn is_reply(is_ipv4: bool, packet: &[u8], token: &Token) -> bool {
    let header = match packet.first() {
        Some(first) if is_ipv4 && first >> 4 == 4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let kind = if is_ipv4 { 0 } else { 129 };
    packet.get(header) == Some(&kind) && packet.ends_with(token)
}
