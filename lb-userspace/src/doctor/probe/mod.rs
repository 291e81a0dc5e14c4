//! Asks backends as a client would be served: frames to the VIP, delivered to one backend's MAC.
//!
//! What this does to others, at most:
//! * for each way from a VIP to a backend two SYNs (to the VIP and to the backend's own address), each answered one
//!   ended by a RST before any server accepts it, and two echo requests; twice more only where nothing comes back;
//!   where the director has an address in another segment too, one SYN more from there;
//! * for each way of a UDP service's port two datagrams without a payload (to the VIP and to the backend's own address),
//!   twice, as a server that is there mostly says nothing to them;
//! * for each backend an echo request of the MTU;
//! * for each VIP and segment two ARP probes or neighbour solicitations, which nobody learns from; as many for each
//!   backend that answers nothing.
//!
//! No flow, cursor or counter of the data plane is touched: what is sent here never passes the XDP program, and the
//! answers go to an address and port that no service has. IO.

mod frame;
mod socket;

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use self::frame::{Attempt, Heard, Trouble};
pub use self::{frame::Lane, socket::Wire};
use crate::{
    clock::monotonic,
    doctor::{held::Mac, judge::reply::Reply},
    net::sysctl::Sysctl,
};

/// Ports that the doctor may ask from, less those that the kernel chooses (`net.ipv4.ip_local_port_range`), that are
/// reserved (`ip_local_reserved_ports`: the agent's own probes have theirs), or in use.
const PORTS: RangeInclusive<u16> = 20_000..=65_535;

/// Frames sent at once, and the time between: 2,000 a second.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(16);

/// How long each time of asking waits for answers, as TCP's own patience grows.
const WAITS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_millis(1000), Duration::from_millis(1500)];

/// Times that a datagram is sent: once more, in case that the answer that the port is closed was over the limit of its
/// host (`icmp_ratelimit`, a second).
const DATAGRAMS: usize = 2;

/// How long and how often hosts are asked who has an address.
const WHO_HAS: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(700)];

/// Between broadcasts.
const BETWEEN: Duration = Duration::from_millis(2);

/// One question to one host.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub lane: Lane,
    pub from: IpAddr,
    pub ask: Ask,
}

#[derive(Clone, Copy, Debug)]
pub enum Ask {
    /// Will you take a TCP connection to this address and port?
    Syn(SocketAddr),
    /// Is this UDP port closed?
    Datagram(SocketAddr),
    /// Do you answer pings for this address, of this length in bytes (of the IP packet)?
    Echo(IpAddr, usize),
}

/// Who has this address? IPv6 is asked from an address of our own on the link.
#[derive(Clone, Copy, Debug)]
pub struct WhoHas {
    pub lane: Lane,
    pub from: Option<Ipv6Addr>,
    pub target: IpAddr,
}

/// The replies, in the order of the questions.
///
/// # Errors
/// The kernel refuses the sockets. A frame that cannot be sent is [`Reply::Unsent`].
pub fn ask(wire: &mut Wire, questions: &[Question]) -> io::Result<Vec<Reply>> {
    let ports = free_ports();
    if ports.is_empty() {
        return Err(io::Error::other(
            "no port from 20000 on is free: net.ipv4.ip_local_port_range or reserved ports",
        ));
    }
    let mut replies = Vec::with_capacity(questions.len());
    for chunk in questions.chunks(ports.len()) {
        replies.extend(Round::new(chunk, &ports)?.run(wire)?);
    }
    Ok(replies)
}

/// The MAC addresses that answer for each, in the order of the questions.
pub fn who_has(wire: &mut Wire, questions: &[WhoHas]) -> io::Result<Vec<BTreeSet<Mac>>> {
    let mut found = vec![BTreeSet::new(); questions.len()];
    if questions.is_empty() {
        return Ok(found);
    }
    let mut take = |ifindex: u32, frame: &[u8]| {
        let Some(Heard::Has { mac, address }) = frame::read(frame) else { return };
        for (question, found) in questions.iter().zip(&mut found) {
            // A tagged question's answer shows on the device below too, without its tag.
            if question.target == address && question.lane.ifindex == ifindex {
                found.insert(mac);
            }
        }
    };
    for wait in WHO_HAS {
        for question in questions {
            let WhoHas { lane, from, target } = question;
            let frame = match (*target, *from) {
                (IpAddr::V4(target), _) => Some(lane.who_has(target)),
                (IpAddr::V6(target), Some(from)) => lane.solicit(from, target),
                (IpAddr::V6(_), None) => None,
            };
            if let Some(frame) = frame {
                // A link that is down is a finding of its own.
                let _ = wire.send(lane.ifindex, &frame);
                wire.receive(BETWEEN, &mut take)?;
            }
        }
        let until = monotonic() + wait;
        while let Some(left) = until.checked_sub(monotonic()).filter(|left| !left.is_zero()) {
            wire.receive(left, &mut take)?;
        }
    }
    Ok(found)
}

/// Questions that are asked together: each has a port (or echo id) of its own, by which its reply is known.
struct Round<'a> {
    questions: &'a [Question],
    ports: &'a [u16],
    sequence: u32,
    by_port: HashMap<(IpAddr, u16), usize>,
    replies: Vec<Reply>,
}

impl<'a> Round<'a> {
    fn new(questions: &'a [Question], ports: &'a [u16]) -> io::Result<Self> {
        let mut random = [0; 4];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let by_port = questions.iter().zip(ports).enumerate().map(|(n, (it, port))| ((it.from, *port), n));
        Ok(Self {
            questions,
            ports,
            sequence: u32::from_ne_bytes(random),
            by_port: by_port.collect(),
            replies: vec![Reply::Silent; questions.len()],
        })
    }

    fn run(mut self, wire: &mut Wire) -> io::Result<Vec<Reply>> {
        for (time, wait) in WAITS.into_iter().enumerate() {
            let silent: Vec<usize> = (0..self.questions.len()).filter(|n| self.is_open(*n, time)).collect();
            for burst in silent.chunks(BURST) {
                for n in burst {
                    self.send(wire, *n);
                }
                self.listen(wire, PAUSE)?;
            }
            let until = monotonic() + wait;
            while (0..self.questions.len()).any(|n| self.is_open(n, time)) {
                let Some(left) = until.checked_sub(monotonic()).filter(|left| !left.is_zero()) else { break };
                self.listen(wire, left.min(PAUSE))?;
            }
        }
        Ok(self.replies)
    }

    /// Whether an answer is still waited for, when it is asked for this time, the first one is 0.
    fn is_open(&self, n: usize, time: usize) -> bool {
        let asked = !matches!(self.questions[n].ask, Ask::Datagram(_)) || time < DATAGRAMS;
        asked && self.replies[n] == Reply::Silent
    }

    fn send(&mut self, wire: &mut Wire, n: usize) {
        let Question { lane, from, ask } = self.questions[n];
        let frame = match ask {
            Ask::Syn(_) => self.attempt(n).and_then(|attempt| lane.syn(attempt)),
            Ask::Datagram(_) => self.attempt(n).and_then(|attempt| lane.datagram(attempt)),
            Ask::Echo(to, length) => lane.echo(from, to, self.ports[n], length),
        };
        // The same question again has the same port and sequence, as TCP's own retransmissions.
        let sent = frame.is_some_and(|frame| wire.send(lane.ifindex, &frame).is_ok());
        if !sent {
            self.replies[n] = Reply::Unsent;
        }
    }

    fn attempt(&self, n: usize) -> Option<Attempt> {
        let Question { from, ask: Ask::Syn(to) | Ask::Datagram(to), .. } = self.questions[n] else {
            return None;
        };
        Some(Attempt { from: SocketAddr::new(from, self.ports[n]), to, sequence: self.sequence })
    }

    /// Takes in what comes within this time, and ends the connections that it begins.
    fn listen(&mut self, wire: &mut Wire, within: Duration) -> io::Result<()> {
        let until = monotonic() + within;
        let mut opened = Vec::new();
        loop {
            let left = until.saturating_sub(monotonic());
            wire.receive(left, |_, frame| {
                if let Some((n, reply)) = frame::read(frame).and_then(|heard| self.meant(heard)) {
                    if matches!(reply, Reply::Open { .. }) {
                        opened.push(n);
                    }
                    if self.replies[n] == Reply::Silent {
                        self.replies[n] = reply;
                    }
                }
            })?;
            for n in opened.drain(..) {
                let reset = self.attempt(n).and_then(|attempt| self.questions[n].lane.reset(attempt));
                if let Some(reset) = reset {
                    // Without it, the backend ends the attempt by itself.
                    let _ = wire.send(self.questions[n].lane.ifindex, &reset);
                }
            }
            if left.is_zero() || !self.replies.contains(&Reply::Silent) {
                return Ok(());
            }
        }
    }

    /// Which question it answers, and how.
    fn meant(&self, heard: Heard) -> Option<(usize, Reply)> {
        let find = |to: IpAddr, port: u16| self.by_port.get(&(to, port)).copied();
        let is_syn = |n: usize| matches!(self.questions[n].ask, Ask::Syn(_));
        let is_echo = |n: usize| matches!(self.questions[n].ask, Ask::Echo(..));
        let asks =
            |n: usize, port: u16| matches!(self.questions[n].ask, Ask::Datagram(to) if to.port() == port);
        match heard {
            Heard::Open { from, to, acknowledged, mss } => {
                let n = find(to.ip(), to.port()).filter(|n| is_syn(*n))?;
                let ours = acknowledged == self.sequence.wrapping_add(1);
                ours.then_some((n, Reply::Open { from: from.ip(), mss }))
            }
            Heard::Refused { from, to } => {
                let n = find(to.ip(), to.port()).filter(|n| is_syn(*n))?;
                Some((n, Reply::Refused { from: from.ip() }))
            }
            Heard::Echoed { from, to, id } => {
                let n = find(to, id).filter(|n| is_echo(*n))?;
                Some((n, Reply::Echoed { from }))
            }
            Heard::Datagram { from, to } => {
                let n = find(to.ip(), to.port()).filter(|n| asks(*n, from.port()))?;
                Some((n, Reply::Told { from: from.ip() }))
            }
            Heard::Error { by, about, port, what } => {
                let n = find(about, port)?;
                let reply = match what {
                    Trouble::Expired => Reply::Expired { by },
                    Trouble::TooBig(mtu) => Reply::TooBig { by, mtu },
                    Trouble::NoPort => Reply::NoPort { by },
                    Trouble::Unreachable => Reply::Unreachable { by },
                };
                Some((n, reply))
            }
            Heard::Has { .. } => None,
        }
    }
}

fn free_ports() -> Vec<u16> {
    let setting = |key| Sysctl::net(&["ipv4", key]).and_then(|it| it.read()).unwrap_or_default();
    let own: Vec<u16> =
        setting("ip_local_port_range").split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let mut taken = ranges(&setting("ip_local_reserved_ports"));
    if let [first, last] = own.as_slice() {
        taken.push(*first..=*last);
    }
    let in_use = ports_in_use();
    PORTS.filter(|port| !in_use.contains(port) && !taken.iter().any(|range| range.contains(port))).collect()
}

/// `8080,9148-9150` (`Documentation/networking/ip-sysctl.rst`)
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let parts = text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    });
    parts.collect()
}

/// Local ports of this namespace's TCP and UDP sockets.
fn ports_in_use() -> BTreeSet<u16> {
    let tables = ["tcp", "tcp6", "udp", "udp6"]
        .map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(local_port).collect()
}

/// `   0: 0100007F:0CEA 00000000:0000 0A ...` (proc_pid_net(5))
fn local_port(line: &str) -> Option<u16> {
    let (_, port) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
    u16::from_str_radix(port, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ports_are_ranges() {
        assert_eq!(ranges("8080,9148-9150\n"), [8080..=8080, 9148..=9150]);
        assert_eq!(ranges(""), []);
    }

    #[test]
    fn local_ports_are_read_of_both_families() {
        assert_eq!(local_port("   0: 0100007F:0CEA 00000000:0000 0A 0 0 0"), Some(3306));
        assert_eq!(local_port("   1: 00000000000000000000000001000000:EE48 0:0 01"), Some(61000));
        assert_eq!(local_port("garbage"), None);
    }
}
