//! Raw frames out of one interface and in from all: packet(7).
//!
//! The kernel's own sockets cannot ask what the doctor asks: the VIP is an address of the director, so a connect to it
//! never leaves, and an answer that comes from it is dropped as a martian. A packet socket sees frames before that.

use std::{
    collections::BTreeMap,
    io,
    mem::size_of,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvfrom, send, setsockopt,
        socket, sockopt,
    },
};
use std::os::fd::AsFd;

/// Room for what else comes in meanwhile, bytes: a full one would lose answers.
const ROOM: usize = 8 << 20;

/// Longest frame that is taken in, bytes: what GRO merged is longer, and no answer to us.
const LONGEST: usize = 16 << 10;

/// PACKET_OUTGOING (`include/uapi/linux/if_packet.h`): what this host sends.
const OUTGOING: u8 = 4;

/// The ways out and the way in.
pub struct Wire {
    incoming: OwnedFd,
    outgoing: BTreeMap<u32, OwnedFd>,
}

impl Wire {
    /// Listens on all interfaces from now on. Needs CAP_NET_RAW.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let incoming = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        // Beyond the limit with CAP_NET_ADMIN; without it, what is allowed.
        let _ = setsockopt(&incoming, sockopt::RcvBufForce, &ROOM)
            .or_else(|_| setsockopt(&incoming, sockopt::RcvBuf, &ROOM));
        Ok(Self { incoming, outgoing: BTreeMap::new() })
    }

    /// Sends a frame out of an interface.
    pub fn send(&mut self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let socket = match self.outgoing.entry(ifindex) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(sender(ifindex)?),
        };
        match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Waits for frames at most so long, and gives each to `take` with the interface that it came in by.
    pub fn receive(&self, within: Duration, mut take: impl FnMut(u32, &[u8])) -> io::Result<()> {
        let mut fds = [PollFd::new(self.incoming.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(within).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut frame = [0; LONGEST];
        // Bounded: on a busy interface there is always one more.
        for _ in 0..1024 {
            match recvfrom::<LinkAddr>(self.incoming.as_raw_fd(), &mut frame) {
                Ok((length, Some(from))) if from.pkttype() != OUTGOING => {
                    take(u32::try_from(from.ifindex()).unwrap_or(0), &frame[..length.min(LONGEST)]);
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                // An interface that is down says so once to each socket.
                Err(Errno::EINTR | Errno::ENETDOWN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Protocol 0: it sends only, and nothing is queued on it.
fn sender(ifindex: u32) -> io::Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the socket is open, and `address` is a whole sockaddr_ll that outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}
