//! A detour for what a host sends: there it is held back, or changed. (The host's kernel has no netem.)
//!
//! Rules of the host's routing lead the packets into one end of a veth pair; a thread reads them at the other end, and
//! sends them on by the host's interface. They are the real server's answers, and those of the kernel, which no server
//! makes on request.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv, send},
};

use crate::{
    clock,
    packet::Mac,
    raw::packet_socket,
    topo::{Link, Node},
};

/// How exactly packets are held back.
const POLL: Duration = Duration::from_millis(5);

/// Destination, source, EtherType of a frame.
const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];

/// What becomes of the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They go on at once.
    None,
    /// So much later.
    Late(Duration),
    /// With the last two 16-bit words in each other's place, which leaves all checksums right (RFC 1071).
    Lies,
}

/// Ends when dropped; what is held back then is lost.
#[derive(Debug)]
pub struct Detour {
    fault: Arc<Mutex<Fault>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Detour {
    /// For IPv4 packets of `node` that one of the selectors takes (ip-rule(8)), all of them to a neighbour by `link`.
    pub fn start(node: &Node, selectors: &[&str], link: &Link, neighbour: Mac) -> Result<Self> {
        node.netns.ip("link add detour0 type veth peer name detour1\n\
             link set detour0 arp off up\n\
             link set detour1 up\n\
             route add default dev detour0 table 100\n")?;
        // What is to be filled in by a device would never be.
        node.netns.run("ethtool", &["-K", "detour0", "tx", "off"])?.ok()?;
        let [taken, sent] = node
            .netns
            .enter(|| -> Result<_> { Ok([packet_socket("detour1")?, packet_socket(&link.device)?]) })??;
        for selector in selectors {
            node.netns.ip(&format!("rule add {selector} lookup 100\n"))?;
        }
        let fault = Arc::new(Mutex::new(Fault::None));
        let stop = Arc::new(AtomicBool::new(false));
        let way = Way { taken, sent, header: header(neighbour, link.mac_bytes()?), held: Vec::new() };
        let (faults, stopping) = (Arc::clone(&fault), Arc::clone(&stop));
        let thread = node.netns.spawn(move || way.carry(&faults, &stopping))?;
        Ok(Self { fault, stop, thread: Some(thread) })
    }

    /// What becomes of packets from now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Ok(Err(error)))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("the detour: {error:#}");
        }
    }
}

fn header(to: Mac, from: Mac) -> Vec<u8> {
    [&to[..], &from[..], &IPV4[..]].concat()
}

/// What its thread has.
struct Way {
    taken: OwnedFd,
    sent: OwnedFd,
    header: Vec<u8>,
    /// When they go on.
    held: Vec<(Instant, Vec<u8>)>,
}

impl Way {
    fn carry(mut self, fault: &Mutex<Fault>, stop: &AtomicBool) -> Result<()> {
        let limit = PollTimeout::try_from(POLL).context("a time limit")?;
        while !stop.load(Ordering::Relaxed) {
            // Readable, timed out or interrupted: it is looked at again in each case.
            let _ = poll(&mut [PollFd::new(self.taken.as_fd(), PollFlags::POLLIN)], limit);
            let fault = *fault.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some(frame) = self.take(fault)? {
                let late = if let Fault::Late(late) = fault { late } else { Duration::ZERO };
                self.held.push((clock::now() + late, frame));
            }
            let now = clock::now();
            for (_, frame) in self.held.extract_if(.., |(due, _)| *due <= now) {
                send(self.sent.as_raw_fd(), &frame, MsgFlags::empty()).context("send it on")?;
            }
        }
        Ok(())
    }

    /// The next IPv4 packet that is there, in the frame in which it goes on.
    fn take(&self, fault: Fault) -> Result<Option<Vec<u8>>> {
        let mut frame = vec![0; 2048];
        loop {
            match recv(self.taken.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) if length > ETHERNET + 4 && frame[12..ETHERNET] == IPV4 => {
                    frame.truncate(length);
                    frame[..ETHERNET].copy_from_slice(&self.header);
                    if fault == Fault::Lies {
                        frame[length - 4..].rotate_left(2);
                    }
                    return Ok(Some(frame));
                }
                // The kernel's own, such as a report of multicast groups.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error).context("read what is to be held"),
            }
        }
    }
}
