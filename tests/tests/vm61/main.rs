//! VLAN devices and bonds, and SCTP, end to end, and IPVS beside us. The development machine's kernel has none of them;
//! Debian's 6.1 in the VM has all. And what is the whole machine's, which a lab elsewhere must leave alone (`doctor`).
//!
//! Every host of a lab gets VLAN devices on its trunk: 10.100.0.0/24 with tag 100, 10.200.0.0/24 with tag 200, host
//! numbers as in the front segment.

mod doctor;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, ensure};
use lb::{
    api::types::{BackendState, BackendView, ConnList, Status},
    model::Protocol,
};
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    doctor::says,
    finds,
    hello::{Hello, Session, spread},
    lab::Lab,
    netns::Netns,
    topo::{Node, Segment, Topology, VIP4, VIP6},
    wait::{PATIENCE, Seen, eventually, until_ok},
    xdp_pass,
};

const PORT: u16 = 7000;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 100, 0, 100));
const TO: SocketAddr = SocketAddr::new(VIP, PORT);

#[test]
fn vlan_device_with_backends_of_its_tag_and_of_another() {
    Lab::test(Topology::one_segment(2), |lab| {
        let config = on_trunk(lab, "eth0")?;
        let _servers = servers(lab)?;
        let director = &lab.net.director.netns;
        let agent = lab.prepare_agent(&config)?;

        // The NIC takes tags out: said, but not changed.
        agent.start()?;
        let status: Status = agent.json(&["status"])?;
        let named = |warning: &&String| warning.contains("eth0") && warning.contains("rx-vlan-hw-parse");
        ensure!(status.warnings.iter().find(named).is_some_and(|w| w.contains("ethtool -K")), "{status:#?}");
        ensure!(strips_tags(director)?, "`offloads: check` changed something");
        let found = finds!(&agent, OffloadInTheWay, OffloadInTheWay)?;
        says(&found[0], &["eth0", "ethtool -K eth0 rx-vlan-hw-parse off"])?;
        says(&found[1], &["eth0", "ethtool -K eth0 rx-vlan-stag-hw-parse off"])?;
        agent.detach()?;

        agent.write_config(&Config { offloads: "set", ..config }.to_yaml(&agent.socket()))?;
        agent.start()?;
        ensure!(!strips_tags(director)?, "the offload is still on");
        balances(lab, &agent, "eth0")?;
        // Asked by frames with tags, from both of the director's addresses.
        finds!(&agent)?;
        slave2(lab).netns.ip(&format!("addr del {VIP}/32 dev lo"))?;
        let found = finds!(&agent, VipMissing)?;
        says(&found[0], &[&slave2(lab).in_vlan(200).to_string()])?;
        agent.detach()?;
        ensure!(strips_tags(director)?, "`lb detach` must switch the offload on again");
        Ok(())
    });
}

/// Two links of the director, one of them in use, and a VLAN device on the bond.
#[test]
fn vlan_device_on_a_bond() {
    Lab::test(Topology::one_segment(2), |lab| {
        let (director, switch) = (&lab.net.director, &lab.net.switch);
        switch.ip(&format!(
            "link add p-second type veth peer name eth1 netns {}\nlink set p-second master {} up\n",
            director.netns.name(),
            Segment::Front.bridge()
        ))?;
        director.netns.run("ethtool", &["-K", "eth1", "tx", "off", "txvlan", "off"])?.ok()?;
        switch.run("ethtool", &["-K", "p-second", "txvlan", "off"])?.ok()?;
        xdp_pass::attach(switch, "p-second", &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)?;
        director.netns.ip("link set eth0 down\nlink add bond0 type bond mode active-backup miimon 100\n\
             link set eth0 master bond0\nlink set eth1 master bond0\nlink set bond0 up\n")?;
        let config = on_trunk(lab, "bond0")?;
        let _servers = servers(lab)?;
        let agent = lab.start_agent(&config)?;
        balances(lab, &agent, "bond0")?;
        // Of the bond's slaves, which take the frames off the wire.
        let found = finds!(&agent, OffloadInTheWay, OffloadInTheWay, OffloadInTheWay, OffloadInTheWay)?;
        for (found, slave) in found.iter().zip(["eth0", "eth0", "eth1", "eth1"]) {
            says(found, &[&format!("ethtool -K {slave} rx-vlan-")])?;
        }
        for slave in ["eth0", "eth1"] {
            let off = ["-K", slave, "rx-vlan-hw-parse", "off", "rx-vlan-stag-hw-parse", "off"];
            director.netns.run("ethtool", &off)?.ok()?;
        }
        finds!(&agent)?;

        let mut session = Session::open(&lab.net.client().netns, TO)?;
        ensure!(director.active_slave()?.contains("eth0"), "{}", director.active_slave()?);
        switch.ip("link set p-director0 down")?;
        eventually(PATIENCE, "the bond to fail over", || {
            let active = director.active_slave()?;
            Ok(if active.contains("eth1") { Seen::Yes(()) } else { Seen::NotYet(active) })
        })?;
        session.set_limit(3 * PATIENCE)?;
        session.echo(b"by the other link")?;
        until_ok(PATIENCE, "new connections by the other link", || {
            let answered = spread(&lab.net.client().netns, TO, 10)?;
            ensure!(answered.values().eq(&[5, 5]), "{answered:?}");
            Ok(())
        })
    });
}

/// Left over from before, or managed by somebody still.
#[test]
fn ipvs_has_the_service_too() {
    Lab::test(Topology::one_segment(1), |lab| {
        let service = Service::tcp("hello", VIP4, PORT, [lab.net.backends[0].ipv4()]);
        let _servers = servers(lab)?;
        lab.start_realservers(&[VIP4])?;
        let agent = lab.start_agent(&Config::on_eth0("lab", vec![service]))?;
        finds!(&agent)?;
        let at = SocketAddr::new(VIP4, PORT).to_string();
        lab.net.director.netns.run("ipvsadm", &["-A", "-t", &at, "-s", "rr"])?.ok()?;
        let found = finds!(&agent, IpvsActive)?;
        says(&found[0], &[&at, "ipvsadm -D"])
    });
}

/// Real associations of both families: the kernel's sockets at either end, and their ways to begin and to end.
#[test]
fn sctp_associations_are_spread_and_stay_and_end() {
    Lab::test(Topology::one_segment(2), |lab| {
        let services = [("four", VIP4), ("six", VIP6)];
        lab.start_realservers(&services.map(|(_, vip)| vip))?;
        let service = |(name, vip): (&str, IpAddr)| {
            let address = |node: &Node| if vip.is_ipv4() { node.ipv4() } else { node.ipv6() };
            let backends = lab.net.backends.iter().map(address);
            Service { protocol: "sctp", ..Service::tcp(name, vip, PORT, backends) }
        };
        let agent = lab.start_agent(&Config::on_eth0("lab", services.map(service).to_vec()))?;
        for (name, vip) in services {
            let at = SocketAddr::new(vip, PORT);
            let servers = lab.net.backends.iter().map(|node| Hello::start_sctp(node, at));
            associations(lab, &agent, name, at, servers.collect::<Result<_>>()?)
                .with_context(|| format!("of the service {name}"))?;
        }
        Ok(())
    });
}

fn associations(
    lab: &Lab,
    agent: &Agent,
    service: &str,
    to: SocketAddr,
    mut servers: Vec<Hello>,
) -> Result<()> {
    const LIVE: &str = "ESTABLISHED";
    const OVER: &str = "CLOSED";
    let from = |port: u16| Session::open_sctp(&lab.net.client().netns, port, to);
    let mut sessions = Vec::new();
    for (port, expected) in (6000..6006).zip(["slave1", "slave2"].into_iter().cycle()) {
        let session = from(port)?;
        ensure!(session.server == expected, "{} instead of {expected}", session.server);
        sessions.push(session);
    }
    let echo = |sessions: &mut [Session], data: &[u8]| sessions.iter_mut().try_for_each(|s| s.echo(data));
    // Many packets each.
    echo(&mut sessions, &[7; 48 << 10])?;
    states_are(agent, service, &[LIVE; 6])?;
    agent.kill9()?;
    echo(&mut sessions, b"without an agent")?;
    agent.start()?;
    echo(&mut sessions, b"with its successor")?;

    // The client ends one with a SHUTDOWN, another one with an ABORT.
    drop(sessions.remove(0));
    states_are(agent, service, &[OVER, LIVE, LIVE, LIVE, LIVE, LIVE])?;
    sessions.remove(0).abort()?;
    states_are(agent, service, &[OVER, OVER, LIVE, LIVE, LIVE, LIVE])?;
    echo(&mut sessions, b"beside some that are over")?;
    // From their ports new ones begin, by turns: the entries that are left bind nobody.
    for (port, expected) in [(6001, "slave1"), (6000, "slave2")] {
        let session = from(port)?;
        ensure!(session.server == expected, "{} instead of {expected}", session.server);
        sessions.push(session);
    }
    states_are(agent, service, &[LIVE; 6])?;
    echo(&mut sessions, b"with new ones")?;

    // A server ends all of its own.
    drop(servers.remove(1));
    states_are(agent, service, &[OVER, OVER, OVER, LIVE, LIVE, LIVE])?;
    sessions.retain(|session| session.server == "slave1");
    ensure!(sessions.len() == 3, "{} associations of slave1", sessions.len());
    echo(&mut sessions, b"still there")
}

/// Waits until `lb conn list` shows these states of a service's associations, in the order of the alphabet.
fn states_are(agent: &Agent, service: &str, expected: &[&str]) -> Result<()> {
    eventually(PATIENCE, &format!("associations to be {expected:?}"), || {
        let list: ConnList = agent.json(&["conn", "list", "--service", service])?;
        ensure!(list.conns.iter().all(|conn| conn.protocol == Protocol::Sctp), "{list:#?}");
        let mut states: Vec<_> = list.conns.iter().map(|conn| conn.state.as_str()).collect();
        states.sort_unstable();
        Ok(if states == expected { Seen::Yes(()) } else { Seen::NotYet(format!("{list:#?}")) })
    })
}

fn slave2(lab: &Lab) -> &Node {
    &lab.net.backends[1]
}

/// Rr over slave1, which is in the VIP's VLAN, and slave2, which the director reaches in the other one.
fn balances(lab: &Lab, agent: &Agent, parent: &str) -> Result<()> {
    let client = &lab.net.client().netns;
    let status: Status = agent.json(&["status"])?;
    let [at] = status.interfaces.as_slice() else { anyhow::bail!("{status:#?}") };
    ensure!(at.name == format!("{parent}.100") && at.attached_to == parent, "{at:#?}");
    ensure!(at.vlan == 100 && at.mode == "native", "{at:#?}");
    eventually(PATIENCE, "both backends to be up", || {
        let backends = &agent.services()?[0].backends;
        // Through the VIP too, with the tag of each.
        let both = |backend: &BackendView| {
            let made = backend.checks.iter().filter(|check| check.result.as_deref() == Some("connected"));
            backend.state == BackendState::Up && made.count() == 2
        };
        let up = backends.iter().all(both);
        Ok(if up { Seen::Yes(()) } else { Seen::NotYet(format!("{backends:#?}")) })
    })?;
    let mut sessions = Vec::new();
    for expected in ["slave1", "slave2"].into_iter().cycle().take(10) {
        let session = Session::open(client, TO)?;
        ensure!(session.server == expected, "{} instead of {expected}", session.server);
        sessions.push(session);
    }
    // Full frames, with a tag.
    sessions.iter_mut().try_for_each(|session| session.echo(&[7; 48 << 10]))?;
    agent.kill9()?;
    sessions.iter_mut().try_for_each(|session| session.echo(b"without an agent"))?;
    agent.start()?;
    sessions.iter_mut().try_for_each(|session| session.echo(b"with its successor"))
}

/// Makes everybody's VLAN devices, the director's on `parent`; the service's configuration.
fn on_trunk(lab: &Lab, parent: &str) -> Result<Config> {
    let [slave1, slave2] = lab.net.backends.as_slice() else { anyhow::bail!("two backends, please") };
    lab.net.client().vlans("eth0", &[100])?;
    lab.net.director.vlans(parent, &[100, 200])?;
    slave1.vlans("eth0", &[100])?;
    // Its answers go straight to the client.
    slave2.vlans("eth0", &[100, 200])?;
    lab.start_realservers(&[VIP])?;
    let service = Service {
        // An emulated machine is slow.
        more: "checks: [{tcp: , interval: 500ms, timeout: 10s}]".to_owned(),
        ..Service::tcp("hello", VIP, PORT, [slave1.in_vlan(100), slave2.in_vlan(200)])
    };
    let interface = format!("{parent}.100");
    Ok(Config {
        interfaces: vec![(interface.clone(), "native".to_owned())],
        add_to: Some(interface),
        ..Config::on_eth0("lab", vec![service])
    })
}

fn servers(lab: &Lab) -> Result<Vec<Hello>> {
    lab.net.backends.iter().map(|backend| Hello::start(backend, PORT)).collect()
}

/// Whether eth0 hides the tags of what it receives.
fn strips_tags(netns: &Netns) -> Result<bool> {
    Ok(netns.run("ethtool", &["-k", "eth0"])?.ok()?.contains("rx-vlan-offload: on"))
}

trait Vlans {
    fn vlans(&self, parent: &str, tags: &[u16]) -> Result<()>;
    fn in_vlan(&self, tag: u8) -> IpAddr;
    fn active_slave(&self) -> Result<String>;
}

impl Vlans for Node {
    fn vlans(&self, parent: &str, tags: &[u16]) -> Result<()> {
        let host = self.link(Segment::Front).ipv4.octets()[3];
        tags.iter().try_for_each(|tag| {
            self.netns.ip(&format!(
                "link add link {parent} name {parent}.{tag} type vlan id {tag}\n\
                 addr add 10.{tag}.0.{host}/24 dev {parent}.{tag}\n\
                 link set {parent}.{tag} up\n"
            ))
        })
    }

    fn in_vlan(&self, tag: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, tag, 0, self.link(Segment::Front).ipv4.octets()[3]))
    }

    fn active_slave(&self) -> Result<String> {
        let link = self.netns.run("ip", &["-d", "link", "show", "dev", "bond0"])?.ok()?;
        let words: Vec<_> = link.split_whitespace().collect();
        let active = words.windows(2).find(|pair| pair[0] == "active_slave");
        Ok(active.map_or_else(|| "none".to_owned(), |pair| pair[1].to_owned()))
    }
}
