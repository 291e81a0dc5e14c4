//! A UDP server that says its name, and the client that asks it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{hello::ANSWER_LIMIT, netns::Netns, topo::Node};

/// How often the server looks whether it should end.
const POLL: Duration = Duration::from_millis(20);

/// What a client sends.
pub const QUESTION: &[u8] = b"who?";

/// Answers every datagram with the node's name; ends when dropped.
pub struct UdpHello {
    stop: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl UdpHello {
    /// Serves one address of the node. On the wildcard address the answers to a VIP would come from another one.
    pub fn start(node: &Node, at: SocketAddr) -> Result<Self> {
        let socket = node.netns.enter(|| UdpSocket::bind(at))?.with_context(|| format!("bind {at}"))?;
        socket.set_read_timeout(Some(POLL))?;
        let (stop, name) = (Arc::new(AtomicBool::new(false)), node.role.clone());
        let stopping = Arc::clone(&stop);
        let server = thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                // Timed out, or an ICMP error for an earlier answer: the next round looks again.
                if let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
                    // A client that gets no answer says so.
                    let _ = socket.send_to(name.as_bytes(), client);
                }
            }
        });
        Ok(Self { stop, server: Some(server) })
    }

    /// One on each node.
    pub fn on_each(nodes: &[Node], at: SocketAddr) -> Result<Vec<Self>> {
        nodes.iter().map(|node| Self::start(node, at)).collect()
    }
}

impl Drop for UdpHello {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            // A panic of the thread has been printed; the client has seen the failure.
            let _ = server.join();
        }
    }
}

/// Who answers a datagram from a port that no open socket has. An earlier call may have had it.
pub fn ask(netns: &Netns, to: SocketAddr) -> Result<String> {
    let socket = netns.enter(|| client(to))??;
    ask_by(&socket).with_context(|| format!("no answer from {to}"))
}

/// Who answers this socket's datagram.
pub fn ask_by(socket: &UdpSocket) -> Result<String> {
    let mut answer = [0; 64];
    socket.send(QUESTION)?;
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// A socket connected to `to`, for a thread that is inside the client's namespace already.
pub fn client(to: SocketAddr) -> Result<UdpSocket> {
    let any = match to.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(to)?;
    Ok(socket)
}
