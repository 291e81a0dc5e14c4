//! Network interfaces (RTM_GETLINK).

use rtnetlink::packet_route::{
    AddressFamily,
    link::{InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{
    Error, Netlink, all, bounded,
    xdp::{self, XdpProgram},
};

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// All zero if the device has no Ethernet address (loopback, tunnels).
    pub mac: [u8; 6],
    /// Octets of an IP packet.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Up and with a carrier (IFF_RUNNING).
    pub running: bool,
    pub loopback: bool,
    /// `vlan`, `veth`, `bond`, ...; `None` for a physical NIC.
    pub kind: Option<String>,
    /// The device below a VLAN or macvlan device (IFLA_LINK), if it is in this network namespace.
    pub parent: Option<u32>,
    pub vlan: Option<Vlan>,
    /// The bond, bridge or VRF that this device belongs to (IFLA_MASTER).
    pub master: Option<u32>,
    /// The XDP programs attached now; more than one only with an offloaded one.
    pub xdp: Vec<XdpProgram>,
}

/// The tag that a VLAN device stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vlan {
    /// 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// VLAN id, 0..=4095.
    pub tag: u16,
}

impl Netlink {
    /// All interfaces of the network namespace.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages =
            all(|| "list the network interfaces".into(), self.handle.link().get().execute()).await?;
        Ok(messages.iter().filter_map(Link::from_message).collect())
    }

    /// Sets an interface administratively up.
    pub async fn set_up(&self, index: u32) -> Result<(), Error> {
        let message = rtnetlink::LinkUnspec::new_with_index(index).up().build();
        bounded(|| format!("set interface {index} up"), self.handle.link().set(message).execute()).await
    }
}

impl Link {
    /// `None` if the message is about something else: with AF_BRIDGE it tells of a bridge's port, and a
    /// RTM_DELLINK of that kind does not mean that the interface is gone.
    pub(super) fn from_message(message: &LinkMessage) -> Option<Self> {
        let header = &message.header;
        if header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut link = Self {
            index: header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            running: header.flags.contains(LinkFlags::Running),
            loopback: header.flags.contains(LinkFlags::Loopback),
            kind: None,
            parent: None,
            vlan: None,
            master: None,
            xdp: Vec::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(octets) => link.mac = octets.as_slice().try_into().unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Link(parent) => link.parent = Some(*parent).filter(|index| *index != 0),
                LinkAttribute::Controller(master) => link.master = Some(*master).filter(|index| *index != 0),
                LinkAttribute::LinkInfo(info) => link.read_info(info),
                LinkAttribute::Xdp(attributes) => link.xdp = xdp::attached(attributes),
                _ => {}
            }
        }
        // With IFLA_LINK_NETNSID the parent's index counts in another network namespace.
        if message.attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_))) {
            link.parent = None;
        }
        Some(link)
    }

    fn read_info(&mut self, info: &[LinkInfo]) {
        for item in info {
            match item {
                LinkInfo::Kind(kind) => self.kind = Some(kind.to_string()),
                LinkInfo::Data(InfoData::Vlan(attributes)) => self.vlan = vlan(attributes),
                _ => {}
            }
        }
    }
}

fn vlan(attributes: &[InfoVlan]) -> Option<Vlan> {
    let tag = attributes.iter().find_map(|a| match a {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let tpid = attributes.iter().find_map(|a| match a {
        InfoVlan::Protocol(protocol) => Some(u16::from(*protocol)),
        _ => None,
    });
    Some(Vlan { tpid: tpid.unwrap_or(0x8100), tag })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::{InfoKind, VlanProtocol};

    use super::*;

    fn message(attributes: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up;
        message.attributes = attributes;
        message
    }

    #[test]
    fn reads_a_vlan_device() {
        let link = Link::from_message(&message(vec![
            LinkAttribute::IfName("eth0.100".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Mtu(1496),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![
                    InfoVlan::Id(100),
                    InfoVlan::Protocol(VlanProtocol::Ieee8021Ad),
                ])),
            ]),
        ]))
        .expect("a link");
        assert_eq!((link.index, link.name.as_str(), link.up, link.running), (7, "eth0.100", true, false));
        assert_eq!((link.mac, link.mtu, link.parent), ([2, 0, 0, 0, 0, 1], 1496, Some(3)));
        assert_eq!(link.kind.as_deref(), Some("vlan"));
        assert_eq!(link.vlan, Some(Vlan { tpid: 0x88a8, tag: 100 }));
    }

    #[test]
    fn a_parent_in_another_namespace_is_none() {
        let link = Link::from_message(&message(vec![LinkAttribute::LinkNetNsId(0), LinkAttribute::Link(3)]));
        assert_eq!(link.expect("a link").parent, None);
    }

    #[test]
    fn bridge_port_messages_are_not_links() {
        let mut message = message(vec![LinkAttribute::IfName("eth0".into())]);
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(Link::from_message(&message), None);
    }
}
