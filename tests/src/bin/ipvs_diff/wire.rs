//! The wire to the real director: frames in, frames out, on a packet socket at the other end of its veth.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use lb_tests::raw::packet_socket;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};

use crate::{
    lab::{CLIENT_MAC, DIRECTOR_MAC, DIRECTOR4, ROUTER4, backend_of},
    view::Answer,
};

/// How long the director may take to answer ARP before we call it dead.
const PATIENCE_MS: u16 = 5000;
const MAX_FRAME: usize = 2048;

pub struct Wire {
    socket: OwnedFd,
}

impl Wire {
    /// Opens the interface `name` of this namespace.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self { socket: packet_socket(name)? })
    }

    /// Sends a frame: what the director did with it.
    ///
    /// An ARP request goes behind it. Both take the same way, so the answer to that one says that there is no more
    /// to come for the first.
    pub fn send(&self, frame: &[u8]) -> Result<Answer> {
        while self.receive(MsgFlags::MSG_DONTWAIT)?.is_some() {}
        self.transmit(frame)?;
        self.transmit(&arp_request())?;
        let mut answer = Answer::Nothing;
        loop {
            let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(PATIENCE_MS))? == 0 {
                bail!("the director does not answer ARP");
            }
            let Some(frame) = self.receive(MsgFlags::MSG_DONTWAIT)? else { continue };
            match read(&frame) {
                Seen::End => return Ok(answer),
                Seen::Noise => {}
                Seen::Answer(seen) if answer == Answer::Nothing => answer = seen,
                Seen::Answer(seen) => answer = Answer::Other(format!("{answer:?}, then {seen:?}")),
            }
        }
    }

    fn transmit(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("cannot send a frame")?;
        (sent == frame.len()).then_some(()).context("a frame was sent in part")
    }

    fn receive(&self, flags: MsgFlags) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; MAX_FRAME];
        match recv(self.socket.as_raw_fd(), &mut frame, flags) {
            Ok(length) => {
                frame.truncate(length);
                Ok(Some(frame))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(error) => Err(error).context("cannot receive a frame"),
        }
    }
}

enum Seen {
    Answer(Answer),
    /// The answer to the ARP request.
    End,
    /// Not caused by us: multicast listener reports and the like.
    Noise,
}

fn read(frame: &[u8]) -> Seen {
    if frame.len() < 14 || frame[6..12] != DIRECTOR_MAC || frame[0] & 1 != 0 {
        return Seen::Noise;
    }
    if backend_of(frame).is_some() {
        return Seen::Answer(Answer::Forwarded(frame.to_vec()));
    }
    let byte = |at: usize| frame.get(at).copied().unwrap_or(0);
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    // Headers of 20 and 40 bytes: the director's stack adds no options and no extension headers.
    let (protocol, body) = match ethertype {
        0x0806 => return Seen::End,
        0x0800 => (byte(23), 34),
        0x86dd => (byte(20), 54),
        other => return Seen::Answer(Answer::Other(format!("a frame of type {other:#06x}"))),
    };
    Seen::Answer(match (protocol, byte(body), byte(body + 1)) {
        (6, ..) if byte(body + 13) & 4 != 0 => Answer::Reset,
        // ICMP destination unreachable: port (RFC 792, RFC 4443 section 3.1).
        (1, 3, 3) | (58, 1, 4) => Answer::Unreachable,
        // Protocol; unrecognized next header (RFC 4443 section 3.4).
        (1, 3, 2) | (58, 4, 1) => Answer::NoProtocol,
        // Neighbour discovery (RFC 4861).
        (58, 133..=137, _) => return Seen::Noise,
        (protocol, kind, code) => {
            Answer::Other(format!("a packet of protocol {protocol}, type {kind}, code {code}"))
        }
    })
}

/// Who has the director's address? (RFC 826)
fn arp_request() -> Vec<u8> {
    let header = [&DIRECTOR_MAC[..], &CLIENT_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    [&header[..], &CLIENT_MAC, &ROUTER4.octets(), &[0; 6], &DIRECTOR4.octets()].concat()
}
