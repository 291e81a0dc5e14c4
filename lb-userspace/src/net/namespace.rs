//! A network namespace of a thread's own, with one way out of it.
//!
//! It has no name, so nothing of it is left when the thread ends, however it ends: the kernel takes the pair of
//! devices down with it. Read first: network_namespaces(7), veth(4).

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::sched::{CloneFlags, unshare};
use rtnetlink::{
    LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth, LinkAttribute},
        route::RouteScope,
    },
};

use super::{Error, Netlink, NewAddress, bounded, host_prefix};

/// Moves the calling thread into a new, empty network namespace; a handle of the one that it was in.
///
/// # Errors
/// It takes CAP_SYS_ADMIN.
pub fn enter_new() -> io::Result<File> {
    let outside = File::open("/proc/thread-self/ns/net")?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(outside)
}

impl Netlink {
    /// Makes a pair of virtual Ethernet devices: `name` here, `peer` in the namespace `outside`.
    pub async fn add_veth(&self, name: &str, peer: &str, outside: BorrowedFd<'_>) -> Result<(), Error> {
        let mut other = LinkMessageBuilder::<LinkUnspec>::new().name(peer).build();
        other.attributes.push(LinkAttribute::NetNsFd(outside.as_raw_fd()));
        let pair = LinkVeth::new(name, peer).set_info_data(InfoData::Veth(InfoVeth::Peer(other))).build();
        bounded(|| format!("make the device {peer}"), self.handle.link().add(pair).execute()).await
    }

    /// Sets an interface up that asks nobody for MACs and answers nobody: every frame goes to its own MAC.
    pub async fn set_up_without_arp(&self, index: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(index).arp(false).up().build();
        bounded(|| format!("set interface {index} up"), self.handle.link().set(message).execute()).await
    }

    /// Everything of this family that has no other way leaves by this interface, without a router.
    pub async fn add_default_route(&self, index: u32, family: IpAddr) -> Result<(), Error> {
        let message = match family {
            IpAddr::V4(_) => {
                RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).scope(RouteScope::Link).build()
            }
            IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).build(),
        };
        let action = || format!("make the default route by interface {index}");
        bounded(action, self.handle.route().add(message).execute()).await
    }
}

impl NewAddress {
    /// One to connect from, usable at once.
    pub fn source(ifindex: u32, address: IpAddr) -> Self {
        Self {
            ifindex,
            address,
            prefix: host_prefix(address),
            no_prefix_route: true,
            no_dad: true,
            deprecated: false,
        }
    }
}
