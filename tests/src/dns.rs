//! A real DNS server, and one question to it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::{
    hello::ANSWER_LIMIT,
    netns::Netns,
    proc::Proc,
    scope::Scope,
    topo::Node,
    wait::{PATIENCE, until_ok},
};

/// The name that every server of a lab answers, each with its own address.
pub const NAME: &str = "who.lab";

/// dnsmasq on `addresses` of the node, answering [`NAME`] with the node's own address.
pub fn start(scope: &Scope, node: &Node, addresses: &[IpAddr]) -> Result<Proc> {
    let mut command = node.netns.command("dnsmasq")?;
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
    ]);
    command.args(["--user=root", "--log-facility=-", "--pid-file="]);
    command.arg(format!("--address=/{NAME}/{}", node.ipv4()));
    command.args(addresses.iter().map(|a| format!("--listen-address={a}"))).stdin(Stdio::null());
    let log = scope.dir().join(format!("dnsmasq-{}.log", node.role));
    let mut server = Proc::spawn("dnsmasq", command, &log, scope.lifetime())?;
    for address in addresses {
        until_ok(PATIENCE, &format!("dnsmasq on {} to answer", node.role), || {
            server.check_alive()?;
            ask(&node.netns, SocketAddr::new(*address, 53))
        })?;
    }
    Ok(server)
}

/// Asks for the A record of [`NAME`] from any source port.
pub fn ask(netns: &Netns, server: SocketAddr) -> Result<Ipv4Addr> {
    ask_from(netns, 0, server)
}

/// Asks for the A record of [`NAME`] from the given source port (RFC 1035 section 4.1).
pub fn ask_from(netns: &Netns, port: u16, server: SocketAddr) -> Result<Ipv4Addr> {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let mut answer = [0; 512];
    let length = netns.enter(|| {
        let socket = Socket::new(Domain::for_address(server), Type::DGRAM, None)?;
        // The port may be asked from again while a process that another test starts still has a copy of this one: it
        // holds the port until it is another program, but gets no answers.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.connect(&server.into())?;
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(ANSWER_LIMIT / TIMES))?;
        let received = ask_by(&socket, &mut answer);
        rustix::net::connect_unspec(&socket)?;
        received.with_context(|| format!("no answer from {server}"))
    })??;
    first_address(&answer[..length])
}

/// Asks again if nothing comes, as resolvers do: when others fill the queue of a CPU, which is the whole machine's
/// (`net.core.netdev_max_backlog`), the kernel drops what is ours. The same port again is the same flow.
fn ask_by(socket: &UdpSocket, answer: &mut [u8]) -> io::Result<usize> {
    let mut ask = || socket.send(&question()).and_then(|_| socket.recv(answer));
    for _ in 1..TIMES {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    ask()
}

/// So often it is asked.
const TIMES: u32 = 3;

const ID: [u8; 2] = [0x4c, 0x42];

fn question() -> Vec<u8> {
    // Header: id, RD, one question.
    let mut message = [&ID[..], &[0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in NAME.split('.') {
        message.extend([label.len().to_le_bytes()[0]]);
        message.extend(label.bytes());
    }
    // Root label, QTYPE A, QCLASS IN.
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// The address in an answer with one A record, whose RDATA ends the answer section.
fn first_address(answer: &[u8]) -> Result<Ipv4Addr> {
    let asked = question().len();
    // After the echoed question: a compressed name (2), TYPE, CLASS, TTL, RDLENGTH (10), RDATA (4).
    let record =
        answer.get(asked..asked + 16).with_context(|| format!("too short an answer: {answer:02x?}"))?;
    ensure!(answer[..2] == ID, "the answer is to another question: {answer:02x?}");
    ensure!(record[2..6] == [0, 1, 0, 1] && record[10..12] == [0, 4], "not an A record: {answer:02x?}");
    Ok(Ipv4Addr::new(record[12], record[13], record[14], record[15]))
}
