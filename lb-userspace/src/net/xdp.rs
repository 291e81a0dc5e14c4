//! What a driver can do with XDP, and what is attached.
//!
//! The driver's features come from the generic netlink family `netdev` (Linux 6.3,
//! `Documentation/netlink/specs/netdev.yaml`); older kernels do not tell.

use std::io;

use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use rtnetlink::{
    packet_core::{
        DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
        NetlinkPayload, NetlinkSerializable, Nla, NlaBuffer, NlasIterator, Parseable, ParseableParametrized,
        parse_u64,
    },
    packet_route::link::{LinkAttribute, LinkXdp, XdpAttached},
    sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC},
};

use super::{Error, Link, Netlink, bounded, drivers::Device};

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the stack (SKB mode).
    Generic,
    /// In the NIC.
    Hardware,
    /// In the driver.
    Native,
}

impl XdpMode {
    /// What iproute2 calls it (ip-link(8)).
    pub fn iproute2(self) -> &'static str {
        match self {
            Self::Generic => "xdpgeneric",
            Self::Hardware => "xdpoffload",
            Self::Native => "xdpdrv",
        }
    }

    /// XDP_FLAGS_SKB_MODE, _HW_MODE, _DRV_MODE (`include/uapi/linux/if_link.h`).
    fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Native => 1 << 2,
            Self::Hardware => 1 << 3,
        }
    }
}

/// A program that is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpProgram {
    pub mode: XdpMode,
    /// The kernel's id of the program (`bpftool prog show id`).
    pub id: u32,
}

/// What a driver can do (`enum netdev_xdp_act`, `include/uapi/linux/netdev.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpFeatures {
    bits: u64,
}

impl XdpFeatures {
    pub const fn from_bits(bits: u64) -> Self {
        Self { bits }
    }

    /// Native XDP with PASS, DROP, TX and ABORTED.
    pub fn basic(self) -> bool {
        self.bits & 1 << 0 != 0
    }

    /// XDP_REDIRECT of frames that this device received.
    pub fn redirect(self) -> bool {
        self.bits & 1 << 1 != 0
    }

    /// The device transmits frames that others redirect to it; with some drivers only while it has an
    /// XDP program of its own.
    pub fn ndo_xmit(self) -> bool {
        self.bits & 1 << 2 != 0
    }

    /// Receives frames of several buffers (jumbo) for a program loaded as `frags`.
    pub fn rx_sg(self) -> bool {
        self.bits & 1 << 5 != 0
    }

    /// Transmits redirected frames of several buffers.
    pub fn ndo_xmit_sg(self) -> bool {
        self.bits & 1 << 6 != 0
    }
}

/// The device of `link`, with what its driver says of itself; blocks as [`features`] does.
pub fn device(link: &Link) -> Device {
    Device { name: link.name.clone(), mtu: link.mtu, features: features(link.index).ok().flatten() }
}

/// The XDP features of an interface's driver; `None` if the kernel cannot tell (before 6.3).
/// Blocks only for the system calls: generic netlink answers within the sending one.
pub fn features(ifindex: u32) -> Result<Option<XdpFeatures>, Error> {
    let mut socket = open().map_err(Error::Socket)?;
    let Some(family) = netdev_family(&mut socket)? else { return Ok(None) };
    let get =
        Netdev { attributes: vec![DefaultNla::new(NETDEV_A_DEV_IFINDEX, ifindex.to_ne_bytes().into())] };
    let mut get = GenlMessage::from_payload(get);
    get.set_resolved_family_id(family);
    let answer = exchange(&mut socket, get, || format!("read the XDP features of interface {ifindex}"))?;
    Ok(answer.payload.xdp_features().map(|bits| XdpFeatures { bits }))
}

impl Netlink {
    /// Takes the XDP program of this mode off an interface. One that is held by a bpf_link stays: EBUSY.
    pub async fn detach_xdp(&self, ifindex: u32, mode: XdpMode) -> Result<(), Error> {
        // Without a mode the kernel takes the driver's wherever the driver has XDP (`dev_xdp_mode`,
        // `net/core/dev.c`), whatever is attached.
        let none = LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(mode.flag())]);
        let message = rtnetlink::LinkUnspec::new_with_index(ifindex).append_extra_attribute(none).build();
        let action = || format!("detach the XDP program of interface {ifindex}");
        bounded(action, self.handle.link().set(message).execute()).await
    }
}

/// The programs that IFLA_XDP tells of (`net/core/rtnetlink.c`, `rtnl_xdp_fill`).
pub(super) fn attached(attributes: &[LinkXdp]) -> Vec<XdpProgram> {
    let only_mode = attributes.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(XdpMode::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(XdpMode::Hardware),
        _ => None,
    });
    let mut programs = Vec::new();
    for attribute in attributes {
        let (mode, id) = match attribute {
            LinkXdp::DrvProgId(id) => (XdpMode::Native, *id),
            LinkXdp::SkbProgId(id) => (XdpMode::Generic, *id),
            LinkXdp::HwProgId(id) => (XdpMode::Hardware, *id),
            // The same program again, without its mode.
            _ => continue,
        };
        programs.push(XdpProgram { mode, id });
    }
    if let (true, Some(mode)) = (programs.is_empty(), only_mode) {
        programs.extend(attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) => Some(XdpProgram { mode, id: *id }),
            _ => None,
        }));
    }
    programs
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// The number that the kernel gave the family, or `None` if it has no such family.
fn netdev_family(socket: &mut Socket) -> Result<Option<u16>, Error> {
    let query = GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(Netdev::family_name().to_owned())],
    };
    match exchange(socket, GenlMessage::from_payload(query), || "look up the netdev family".into()) {
        Ok(answer) => Ok(answer.payload.nlas.iter().find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        })),
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends a request and takes its one answer.
fn exchange<M>(socket: &mut Socket, message: M, action: impl Fn() -> String) -> Result<M, Error>
where
    M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>>,
{
    let failed = |source| Error::Refused { action: action(), source };
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST;
    request.finalize();
    let mut octets = vec![0; request.buffer_len()];
    request.serialize(&mut octets);
    socket.send(&octets, 0).map_err(failed)?;
    // The answer is there already; MSG_DONTWAIT so that a bug in that belief cannot block the agent.
    let mut answer = Vec::with_capacity(64 * 1024);
    socket.recv(&mut answer, libc::MSG_DONTWAIT).map_err(failed)?;
    let garbled = |detail| Error::Garbled { action: action(), detail };
    match NetlinkMessage::<M>::deserialize(&answer).map_err(|e| garbled(e.to_string()))?.payload {
        NetlinkPayload::InnerMessage(message) => Ok(message),
        NetlinkPayload::Error(error) => Err(failed(error.to_io())),
        _ => Err(garbled("neither a message nor an error".into())),
    }
}

/// The payload of NETDEV_CMD_DEV_GET, both ways.
#[derive(Clone, Debug)]
struct Netdev {
    attributes: Vec<DefaultNla>,
}

impl Netdev {
    fn xdp_features(&self) -> Option<u64> {
        let attribute = self.attributes.iter().find(|a| a.kind() == NETDEV_A_DEV_XDP_FEATURES)?;
        let mut value = vec![0; attribute.value_len()];
        attribute.emit_value(&mut value);
        parse_u64(&value).ok()
    }
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        NETDEV_CMD_DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(octets: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(octets)
            .map(|attribute| DefaultNla::parse(&NlaBuffer::new_checked(attribute?.into_inner())?))
            .collect::<Result<_, _>>()?;
        Ok(Self { attributes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attached_programs() {
        assert_eq!(attached(&[LinkXdp::Attached(XdpAttached::None)]), []);
        let native = [LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)];
        assert_eq!(attached(&native), [XdpProgram { mode: XdpMode::Native, id: 7 }]);
        // Kernels before 4.19 have only the common id.
        let old = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(8)];
        assert_eq!(attached(&old), [XdpProgram { mode: XdpMode::Generic, id: 8 }]);
        let both = [LinkXdp::Attached(XdpAttached::Multiple), LinkXdp::DrvProgId(1), LinkXdp::HwProgId(2)];
        assert_eq!(
            attached(&both),
            [XdpProgram { mode: XdpMode::Native, id: 1 }, XdpProgram { mode: XdpMode::Hardware, id: 2 }]
        );
    }
}
