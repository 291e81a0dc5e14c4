//! Packet sockets: whole frames as they are on a device (packet(7)).

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket},
};

/// For what this device of the thread's network namespace sends and receives.
pub fn packet_socket(device: &str) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        .context("cannot open a packet socket")?;
    bind(socket.as_raw_fd(), &link_address(device)?).with_context(|| format!("cannot bind to {device}"))?;
    Ok(socket)
}

/// With the index of the interface; bind(2) takes over the protocol of the socket.
fn link_address(name: &str) -> Result<LinkAddr> {
    let mut all = getifaddrs().context("cannot list the interfaces")?;
    all.find_map(|it| if it.interface_name == name { it.address?.as_link_addr().copied() } else { None })
        .with_context(|| format!("there is no interface {name}"))
}
