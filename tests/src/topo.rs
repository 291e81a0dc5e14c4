//! The network of a lab: nodes joined by switches, each node a namespace.
//!
//! ```text
//!              front 172.18.14.0/24 (br0)             back 172.18.15.0/24 (br1, only with two segments)
//!   client .200 ─┤                                     ├─ eth1 director (.68)
//! director  .68 ─┤ eth0                                ├─ eth0 slave1 (.71), slave2 (.72), ...
//! slaveN    .7N ─┤ eth0 (eth1 with two segments)
//! ```
//! IPv6 is fd00:18:14::/64 and fd00:18:15::/64 with the same host numbers, written as they read in decimal.
//! With two segments the director reaches the backends through eth1, and they answer the client, as Direct Routing
//! wants it, straight through their own link in front.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use anyhow::{Context, Result, anyhow};

use crate::{netns::Netns, packet::Mac, scope::Scope, xdp_pass};

/// The notes' VIP.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 18, 14, 100));
/// Its IPv6 sister, fd00:18:14::100.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x18, 0x14, 0, 0, 0, 0, 0x100));

/// Host numbers of the notes.
const DIRECTOR: u8 = 68;
const FIRST_BACKEND: u8 = 71;
const FIRST_CLIENT: u8 = 200;

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Topology {
    pub clients: u8,
    /// At most nine.
    pub backends: u8,
    /// The director's eth1 and the backends' eth0 are in a segment of their own behind the director.
    pub back_segment: bool,
    /// The clients have an eth1 in the back segment too.
    pub clients_in_back: bool,
}

/// A switched Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Front,
    Back,
}

/// One host.
pub struct Node {
    pub role: String,
    pub netns: Netns,
    /// eth0, eth1, ...
    pub links: Vec<Link>,
}

/// One interface of a host.
#[derive(Clone, Debug)]
pub struct Link {
    pub device: String,
    pub segment: Segment,
    pub mac: String,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

/// All hosts, and the namespace with the bridges between them.
pub struct Network {
    pub clients: Vec<Node>,
    pub director: Node,
    pub backends: Vec<Node>,
    pub switch: Netns,
}

impl Topology {
    /// One client, everybody in one segment, as in the notes.
    pub fn one_segment(backends: u8) -> Self {
        Self { clients: 1, backends, back_segment: false, clients_in_back: false }
    }

    /// The backends behind the director's second interface.
    pub fn two_segments(backends: u8) -> Self {
        Self { back_segment: true, ..Self::one_segment(backends) }
    }

    /// Makes namespaces, links and addresses. Every pair of nodes of a segment can talk when this returns.
    pub fn build(self, scope: &Scope) -> Result<Network> {
        use Segment::{Back, Front};
        let switch = Netns::create(&scope.netns_name("switch"), scope.lifetime())?;
        switch.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        switch.ip(&format!("{}{}", bridge(Front), bridge(Back)))?;
        let both = [Front, Back];
        let director_links = if self.back_segment { &both[..] } else { &[Front] };
        let backend_links = if self.back_segment { &[Back, Front][..] } else { &[Front] };
        let client_links = if self.clients_in_back { &both[..] } else { &[Front] };
        let node = |role: &str, host, links| Node::build(scope, &switch, role, host, links);
        let director = node("director", DIRECTOR, director_links)?;
        for link in &director.links {
            xdp_pass::attach(&switch, &port("director", link), &scope.bpffs(), "xdp_pass", &xdp_pass::PASS)
                .context("without it the director's XDP_TX would not arrive")?;
        }
        let clients = (0..self.clients).map(|n| node(&client_role(n), FIRST_CLIENT + n, client_links));
        let backends =
            (0..self.backends).map(|n| node(&format!("slave{}", n + 1), FIRST_BACKEND + n, backend_links));
        Ok(Network {
            clients: clients.collect::<Result<_>>()?,
            backends: backends.collect::<Result<_>>()?,
            director,
            switch,
        })
    }
}

impl Network {
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.clients.iter().chain([&self.director]).chain(&self.backends)
    }

    pub fn client(&self) -> &Node {
        &self.clients[0]
    }

    /// For a failure report: what the ports of the switch counted.
    pub fn describe_switch(&self, into: &mut String) {
        for node in self.nodes() {
            for port in node.links.iter().map(|link| port(&node.role, link)) {
                show(&self.switch, "switch", "ip", &["-s", "link", "show", &port], into);
                show(&self.switch, "switch", "ethtool", &["-S", &port], into);
            }
        }
    }

    /// Both ends of every link, and the switches.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        let mut switch = String::new();
        for node in self.nodes() {
            for link in &node.links {
                node.netns.ip(&format!("link set dev {} mtu {mtu}", link.device))?;
                switch += &format!("link set dev {} mtu {mtu}\n", port(&node.role, link));
            }
        }
        switch += &format!("link set dev {} mtu {mtu}\n", Segment::Front.bridge());
        switch += &format!("link set dev {} mtu {mtu}\n", Segment::Back.bridge());
        self.switch.ip(&switch)
    }
}

impl Node {
    fn build(scope: &Scope, switch: &Netns, role: &str, host: u8, segments: &[Segment]) -> Result<Self> {
        let netns = Netns::create(&scope.netns_name(role), scope.lifetime())?;
        // No waiting for duplicate address detection, nor for router advertisements.
        for (key, value) in [("accept_dad", "0"), ("dad_transmits", "0"), ("accept_ra", "0")] {
            netns.sysctl(&format!("ipv6/conf/default/{key}"), value)?;
        }
        // Replies of a two-segment backend leave by another interface than the request came in.
        netns.sysctl("ipv4/conf/all/rp_filter", "0")?;
        let links: Vec<_> =
            segments.iter().enumerate().map(|(n, segment)| Link::new(n, *segment, host)).collect();
        for link in &links {
            link.plug(role, &netns, switch)
                .with_context(|| format!("cannot plug {role} into {:?}", link.segment))?;
        }
        Ok(Self { role: role.to_owned(), netns, links })
    }

    /// IPv4 address in the front segment.
    pub fn ipv4(&self) -> IpAddr {
        IpAddr::V4(self.link(Segment::Front).ipv4)
    }

    /// IPv6 address in the front segment.
    pub fn ipv6(&self) -> IpAddr {
        IpAddr::V6(self.link(Segment::Front).ipv6)
    }

    /// The node's link in `segment`, or its first one if it has none there.
    pub fn link(&self, segment: Segment) -> &Link {
        self.links.iter().find(|l| l.segment == segment).unwrap_or(&self.links[0])
    }

    /// Puts VIPs on lo and keeps ARP silent about them, with iproute2 and sysctl only: what `lb realserver start`
    /// does, for tests that do not want to depend on it.
    pub fn realserver_by_hand(&self, vips: &[IpAddr]) -> Result<()> {
        for scope in ["all", "lo"] {
            self.netns.sysctl(&format!("ipv4/conf/{scope}/arp_ignore"), "1")?;
            self.netns.sysctl(&format!("ipv4/conf/{scope}/arp_announce"), "2")?;
        }
        vips.iter().try_for_each(|vip| self.netns.ip(&format!("addr add {} dev lo", host_prefix(*vip))))
    }

    /// For a failure report: addresses, neighbours, XDP programs, what the drivers count.
    pub fn describe(&self, into: &mut String) {
        for link in &self.links {
            show(&self.netns, &self.role, "ethtool", &["-S", &link.device], into);
        }
        for args in [&["-d", "-br", "addr"][..], &["neigh"], &["-s", "link"]] {
            show(&self.netns, &self.role, "ip", args, into);
        }
    }
}

impl Link {
    /// `ethNUMBER` of the segment's host `host`.
    pub fn new(number: usize, segment: Segment, host: u8) -> Self {
        let net = segment.net();
        // 172.18.14.71 and fd00:18:14::71 should look alike: the digits, read as hexadecimal.
        let alike = |n: u8| u16::from(n / 100) << 8 | u16::from(n / 10 % 10) << 4 | u16::from(n % 10);
        Self {
            device: format!("eth{number}"),
            segment,
            mac: format!("02:12:{net:02x}:00:00:{host:02x}"),
            ipv4: Ipv4Addr::new(172, 18, net, host),
            ipv6: Ipv6Addr::new(0xfd00, 0x18, alike(net), 0, 0, 0, 0, alike(host)),
        }
    }

    /// # Errors
    /// If somebody gave it a MAC address that is none.
    pub fn mac_bytes(&self) -> Result<Mac> {
        let bytes: Vec<u8> =
            self.mac.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        bytes.try_into().map_err(|_| anyhow!("{} is no MAC", self.mac))
    }

    /// Puts it into `netns`, with its other end at the segment's bridge.
    pub fn plug(&self, role: &str, netns: &Netns, switch: &Netns) -> Result<()> {
        let Self { device, segment, mac, ipv4, ipv6 } = self;
        let (port, bridge, inside) = (port(role, self), segment.bridge(), netns.name());
        switch.ip(&format!(
            "link add {port} type veth peer name {device} address {mac} netns {inside}\n\
             link set {port} master {bridge} up\n"
        ))?;
        // XDP loses the "checksum to be filled in" mark of a frame, and a tag that is not in the frame.
        netns.run("ethtool", &["-K", device, "tx", "off", "txvlan", "off"])?.ok()?;
        // The switch takes the tag out, and must put it back into the frame.
        switch.run("ethtool", &["-K", &port, "txvlan", "off"])?.ok()?;
        netns.ip(&format!(
            "link set {device} up\n\
             addr add {ipv4}/24 dev {device}\n\
             addr add {ipv6}/64 dev {device} nodad\n"
        ))
    }
}

impl Segment {
    /// Third octet of the IPv4 network.
    fn net(self) -> u8 {
        match self {
            Self::Front => 14,
            Self::Back => 15,
        }
    }

    /// Its device in the switch's namespace (not `br`: iproute2 takes that for an abbreviation).
    pub fn bridge(self) -> &'static str {
        match self {
            Self::Front => "br0",
            Self::Back => "br1",
        }
    }
}

/// For a failure report: what a program prints there.
fn show(netns: &Netns, role: &str, program: &str, args: &[&str], into: &mut String) {
    let text = netns.run(program, args).map(|ran| ran.stdout + &ran.stderr);
    let text = text.unwrap_or_else(|error| format!("{error:#}"));
    into.push_str(&format!("--- {role}: {program} {}\n{text}", args.join(" ")));
}

/// `address/32` or `address/128`.
pub fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// The path by which `nsenter --net=` finds a node.
pub fn netns_path(scope: &Scope, role: &str) -> String {
    Path::new("/run/netns").join(scope.netns_name(role)).to_string_lossy().into_owned()
}

fn client_role(n: u8) -> String {
    if n == 0 { "client".to_owned() } else { format!("client{}", n + 1) }
}

/// The name of the switch's end of a node's link.
pub fn port(role: &str, link: &Link) -> String {
    format!("p-{role}{}", &link.device[3..])
}

fn bridge(segment: Segment) -> String {
    let name = segment.bridge();
    format!("link add {name} type bridge stp_state 0 mcast_snooping 0\nlink set {name} up\n")
}
