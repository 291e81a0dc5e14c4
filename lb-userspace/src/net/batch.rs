//! Many requests at once: what is asked about thousands of hosts takes few system calls, and no task between them.

use std::{
    fmt, io,
    sync::{Mutex, PoisonError},
};

use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use super::Error;

/// Requests in one datagram. Their answers wait in the receive buffer, and for each the kernel counts a page and
/// some at most, so that they fit into one of the default size (`net.core.rmem_default`, 212,992).
const AT_ONCE: usize = 32;
/// No answer to a single request is longer (`NLMSG_GOODSIZE`).
const ANSWER: usize = 8192;

/// What the kernel said to one request; none: that it is done.
pub(super) type Answer = Result<Option<RouteNetlinkMessage>, Error>;

/// A request with its flags (`NLM_F_*`), each of which must get exactly one answer: a record or an error, or with
/// `NLM_F_ACK`, of what has no record for an answer, the acknowledgement.
pub(super) type Request = (RouteNetlinkMessage, u16);

/// A socket for them.
pub(super) struct Batch(Mutex<Line>);

struct Line {
    socket: Socket,
    /// Of the next request.
    sequence: u32,
    received: Vec<u8>,
}

impl Batch {
    /// Opens the socket in the caller's network namespace.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE)?;
        Ok(Self(Mutex::new(Line { socket, sequence: 1, received: Vec::with_capacity(ANSWER) })))
    }

    /// The answers, in the order of the requests. `action` words one for an error.
    pub fn ask(&self, requests: &[Request], action: impl Fn(usize) -> String) -> Result<Vec<Answer>, Error> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = Vec::with_capacity(requests.len());
        for some in requests.chunks(AT_ONCE) {
            let first = answers.len();
            answers.extend(line.ask(some, |at| action(first + at))?);
        }
        Ok(answers)
    }
}

impl Line {
    fn ask(&mut self, requests: &[Request], action: impl Fn(usize) -> String) -> Result<Vec<Answer>, Error> {
        let refused = |source| Error::Refused { action: action(0), source };
        let first = self.sequence;
        self.sequence = first.wrapping_add(requests.len() as u32);
        self.socket.send_to(&datagram(requests, first), &SocketAddr::new(0, 0), 0).map_err(refused)?;
        let mut answers: Vec<Option<Answer>> = requests.iter().map(|_| None).collect();
        let mut missing = requests.len();
        while missing > 0 {
            self.received.clear();
            // The kernel has answered inside of sendmsg(2): what is not there now never comes.
            let (_, sender) = match self.socket.recv_from(&mut self.received, libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other.map_err(refused)?,
            };
            if sender.port_number() != 0 {
                continue;
            }
            // Numbers of requests that were given up are none of these.
            for (sequence, payload) in messages(&self.received) {
                let at = sequence.wrapping_sub(first) as usize;
                if let Some(slot @ None) = answers.get_mut(at) {
                    *slot = Some(answer(payload, || action(at)));
                    missing -= 1;
                }
            }
        }
        let no_answer = |at| Err(Error::NoAnswer { action: action(at) });
        Ok(answers.into_iter().enumerate().map(|(at, it)| it.unwrap_or_else(|| no_answer(at))).collect())
    }
}

/// The requests one after the other, numbered from `sequence` on.
fn datagram(requests: &[Request], sequence: u32) -> Vec<u8> {
    let mut octets = Vec::new();
    for (at, (request, flags)) in requests.iter().enumerate() {
        let mut message = NetlinkMessage::from(request.clone());
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = sequence.wrapping_add(at as u32);
        message.finalize();
        let (start, length) = (octets.len(), message.buffer_len());
        octets.resize(start + length.next_multiple_of(4), 0);
        message.serialize(&mut octets[start..start + length]);
    }
    octets
}

/// What cannot be decoded is an error of the request with its number.
fn messages(mut octets: &[u8]) -> Vec<(u32, Result<NetlinkPayload<RouteNetlinkMessage>, String>)> {
    /// `struct nlmsghdr`: length 32, type 16, flags 16, sequence 32, port 32.
    const HEADER: usize = 16;
    let word = |octets: &[u8], at: usize| {
        octets.get(at..at + 4).and_then(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)))
    };
    let mut messages = Vec::new();
    while let (Some(length), Some(sequence)) = (word(octets, 0), word(octets, 8)) {
        let decoded = NetlinkMessage::<RouteNetlinkMessage>::deserialize(octets);
        messages.push((sequence, decoded.map(|message| message.payload).map_err(|e| e.to_string())));
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(HEADER);
        octets = octets.get(length.saturating_add(3) / 4 * 4..).unwrap_or_default();
    }
    messages
}

fn answer(
    payload: Result<NetlinkPayload<RouteNetlinkMessage>, String>,
    action: impl Fn() -> String,
) -> Answer {
    match payload {
        Ok(NetlinkPayload::InnerMessage(message)) => Ok(Some(message)),
        // Without a code it is the acknowledgement.
        Ok(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(None),
        Ok(NetlinkPayload::Error(error)) => Err(Error::Refused { action: action(), source: error.to_io() }),
        Ok(_) => Err(Error::Garbled { action: action(), detail: "an answer of another kind".into() }),
        Err(detail) => Err(Error::Garbled { action: action(), detail }),
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Batch")
    }
}
