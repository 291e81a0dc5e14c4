//! ICMP errors as a UDP socket's error queue tells them (ip(7), IP_RECVERR), as traceroute(8) reads them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    libc::sock_extended_err,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv4Ttl, Ipv6RecvErr, Ipv6Ttl},
    },
};

use crate::wait::{PATIENCE, Seen, eventually};

/// An error message that somebody on the way sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    pub offender: IpAddr,
    pub icmp_type: u8,
    pub code: u8,
}

/// Makes the kernel keep them for [`wait`].
pub fn ask_for_errors(socket: &UdpSocket) -> Result<()> {
    match socket.local_addr()?.ip() {
        IpAddr::V4(_) => setsockopt(socket, Ipv4RecvErr, &true)?,
        IpAddr::V6(_) => setsockopt(socket, Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// TTL or hop limit of what is sent from now on.
pub fn set_hops(socket: &UdpSocket, hops: i32) -> Result<()> {
    match socket.local_addr()?.ip() {
        IpAddr::V4(_) => setsockopt(socket, Ipv4Ttl, &hops)?,
        IpAddr::V6(_) => setsockopt(socket, Ipv6Ttl, &hops)?,
    }
    Ok(())
}

/// The next error.
pub fn wait(socket: &UdpSocket) -> Result<IcmpError> {
    eventually(PATIENCE, "an ICMP error", || {
        let mut control = nix::cmsg_space!(sock_extended_err, libc::sockaddr_in6);
        let mut data = [0; 512];
        let mut data = [std::io::IoSliceMut::new(&mut data)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut control), flags) {
            Ok(message) => {
                let mut errors = message.cmsgs()?.filter_map(|message| icmp_error(&message));
                Ok(Seen::Yes(errors.next().context("an error that is not of ICMP")?))
            }
            Err(Errno::EAGAIN) => Ok(Seen::NotYet("none".to_owned())),
            Err(error) => bail!("reading the error queue: {error}"),
        }
    })
}

fn icmp_error(message: &ControlMessageOwned) -> Option<IcmpError> {
    let (error, offender) = match message {
        ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
            (error, Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into())
        }
        ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
            (error, Ipv6Addr::from(from.sin6_addr.s6_addr).into())
        }
        _ => return None,
    };
    Some(IcmpError { offender, icmp_type: error.ee_type, code: error.ee_code })
}
