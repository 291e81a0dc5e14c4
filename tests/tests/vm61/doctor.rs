//! `lb doctor` about NICs and about settings that are the whole machine's. The director of these labs is the VM itself,
//! in its first network namespace, where alone these settings are shown.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use lb::doctor::Id;
use lb_tests::{
    agent::Agent,
    clock::set_synchronised,
    config::{Config, Service},
    doctor::{Found, IN_THE_VM, doctor_command, find, provoked, says, whole_report},
    finds,
    lab::Lab,
    names,
    netns::Netns,
    proc,
    topo::{Link, Node, Segment, Topology, VIP4, port},
    wait::{PATIENCE, Seen, eventually},
    xdp_pass,
};

use crate::{PORT, servers};

/// The director's name for its namespace, its device in the lab's front segment, and its host number there.
const NAME: &str = "machine";
const DEVICE: &str = "lab0";
const HOST: u8 = 69;

/// The healthy machine's findings with one more, which is given back. Known as provoked, as in `finds!`.
macro_rules! finds_too {
    ($agent:expr, $id:ident) => {{
        lb_tests::provokes!($id);
        finds_too($agent, Id::$id)
    }};
}

/// One director, since its start takes most of the time here, and healthy as far as the VM's NICs let it be.
#[test]
fn what_a_lab_elsewhere_must_leave_alone() {
    with_machine(|machine| {
        let (single, several) = (nic("virtio_net")?, nic("vmxnet3")?);
        for nic in [&single, &several] {
            machine.up(nic)?;
        }
        let agent = machine.director(&single, &several)?;
        let found = finds!(&agent, OneQueue, GenericMode)?;
        says(&found[0], &[&single, "one receive queue, the machine 2 CPUs", "ethtool -L"])?;
        says(&found[1], &[&several])?;
        offload(machine, &agent, &several).context("LRO")?;
        hash(machine, &agent, &several).context("RSS")?;
        setting(&agent, "core/bpf_jit_enable", "0", "1", |agent| finds_too!(agent, JitOff))?;
        setting(&agent, "core/bpf_jit_harden", "2", "0", |agent| finds_too!(agent, JitHardened))?;
        conntrack(machine, &agent).context("tracked connections")?;
        wall_clock(&agent).context("the wall clock")
    });
}

/// virtio-net has one queue, and vmxnet3 of kernel 6.1 no native XDP: these are provoked all the time.
const HEALTHY: &[Id] = &[Id::OneQueue, Id::GenericMode];

/// See the macro.
fn finds_too(agent: &Agent, id: Id) -> Result<Found> {
    let expected: Vec<Id> = Id::ALL.iter().copied().filter(|it| *it == id || HEALTHY.contains(it)).collect();
    find(agent, &expected)?.into_iter().find(|finding| finding.id == id).context("it is named")
}

/// A generic program has switched it off (`generic_xdp_install`, net/core/dev.c).
fn offload(machine: &Machine, agent: &Agent, nic: &str) -> Result<()> {
    machine.ethtool(&["-K", nic, "lro", "on"])?;
    says(&finds_too!(agent, OffloadInTheWay)?, &[&format!("ethtool -K {nic} rx-lro off")])?;
    machine.ethtool(&["-K", nic, "rx-lro", "off"])?;
    find(agent, HEALTHY).map(drop)
}

fn hash(machine: &Machine, agent: &Agent, nic: &str) -> Result<()> {
    machine.ethtool(&["-X", nic, "weight", "0", "1"])?;
    let seen = "of 2 receive queues its hash (RSS) leads to 1";
    says(&finds_too!(agent, RssUneven)?, &[seen, &format!("ethtool -X {nic} equal 2")])?;
    machine.ethtool(&["-X", nic, "equal", "2"])?;
    find(agent, HEALTHY).map(drop)
}

/// What comes in is tracked since a rule looks at it; the limit is the machine's.
fn conntrack(machine: &Machine, agent: &Agent) -> Result<()> {
    const MOST: u16 = 40;
    let netns = &machine.node.netns;
    let rules = "table inet lab { chain input { type filter hook input priority 0; ct state new accept; }; }";
    netns.run("nft", &[rules])?.ok()?;
    let before = fs::read_to_string(sysctl("netfilter/nf_conntrack_max"))?;
    netns.sysctl("netfilter/nf_conntrack_udp_timeout", "600")?;
    netns.sysctl("netfilter/nf_conntrack_max", &MOST.to_string())?;
    find(agent, HEALTHY)?;
    let to = machine.node.ipv4();
    machine.lab.net.client().netns.enter(|| {
        let from = UdpSocket::bind("0.0.0.0:0")?;
        // One for each port, which nobody listens on: not connected, so it hears nothing of that.
        (20_000..20_000 + MOST).try_for_each(|port| from.send_to(b"?", SocketAddr::new(to, port)).map(drop))
    })??;
    let found = finds_too!(agent, ConntrackFull)?;
    says(&found, &[&format!("there can be {MOST}"), "net.netfilter.nf_conntrack_max"])?;
    netns.sysctl("netfilter/nf_conntrack_max", before.trim())?;
    netns.run("nft", &["delete", "table", "inet", "lab"])?.ok()?;
    find(agent, HEALTHY).map(drop)
}

/// `report` itself compares what the kernel says with what the doctor finds.
fn wall_clock(agent: &Agent) -> Result<()> {
    for synchronised in [true, false] {
        set_synchronised(synchronised)?;
        ensure!(lb::clock::is_synchronised() == Some(synchronised), "adjtimex did not take it");
        find(agent, HEALTHY)?;
    }
    let (_, report) = whole_report(doctor_command(agent, "lab")?)?;
    let clock = names!(&report.findings, ClockUnsynchronised);
    ensure!(clock && report.findings.len() == HEALTHY.len() + 1, "{report:#?}");
    Ok(())
}

/// The lab tests, which are another program, rely on these.
#[test]
fn what_is_left_to_the_vm_is_provoked_here() {
    let missing: Vec<_> = IN_THE_VM.into_iter().filter(|id| !provoked().contains(id)).collect();
    assert!(missing.is_empty(), "nothing here provokes {missing:?}");
}

/// Found with this value, and not with the one that it has else.
fn setting(
    agent: &Agent,
    key: &str,
    bad: &str,
    good: &str,
    finds: impl Fn(&Agent) -> Result<Found>,
) -> Result<()> {
    let name = key.replace('/', ".");
    fs::write(sysctl(key), bad)?;
    let found = finds(agent);
    fs::write(sysctl(key), good)?;
    says(&found?, &[&format!("net.{name}"), &format!("it is {bad}"), "sysctl -w"])?;
    find(agent, HEALTHY).map(drop)
}

fn sysctl(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}

/// The interface of qemu's NIC with this driver.
fn nic(driver: &str) -> Result<String> {
    for device in fs::read_dir("/sys/class/net")? {
        let device = device?;
        let found = fs::read_link(device.path().join("device/driver"));
        if found.is_ok_and(|found| found.ends_with(driver)) {
            return Ok(device.file_name().to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("the VM has no NIC with the driver {driver}: `xtask/src/vm/mod.rs` names them")
}

/// The VM as a host of a lab.
struct Machine<'lab> {
    lab: &'lab Lab,
    node: Node,
}

/// In a lab of one backend, whose own director does nothing.
fn with_machine(body: impl FnOnce(&Machine) -> Result<()>) {
    Lab::test(Topology::one_segment(1), |lab| {
        let _servers = servers(lab)?;
        lab.start_realservers(&[VIP4])?;
        let machine = Machine::plug(lab)?;
        let outcome = body(&machine).and_then(|()| {
            machine.lab.net.switch.ip(&format!("link del {}", port(NAME, &machine.node.links[0])))
        });
        // Only the name: nobody in it ends.
        ip(&["netns", "del", NAME])?;
        outcome
    });
}

impl<'lab> Machine<'lab> {
    fn plug(lab: &'lab Lab) -> Result<Self> {
        ip(&["netns", "attach", NAME, "1"])?;
        let (netns, switch) = (Netns::open(NAME)?, &lab.net.switch);
        let link = Link { device: DEVICE.to_owned(), ..Link::new(0, Segment::Front, HOST) };
        link.plug(NAME, &netns, switch)?;
        xdp_pass::attach(switch, &port(NAME, &link), &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)?;
        Ok(Self { lab, node: Node { role: NAME.to_owned(), netns, links: vec![link] } })
    }

    /// Running here, for clients who come by two NICs; the backend is in the lab's segment.
    fn director(&self, native: &str, generic: &str) -> Result<Arc<Agent>> {
        let service = Service::tcp("hello", VIP4, PORT, [self.lab.net.backends[0].ipv4()]);
        let owned = |(name, mode): (&str, &str)| (name.to_owned(), mode.to_owned());
        let config = Config {
            interfaces: [(native, "native"), (generic, "generic")].map(owned).to_vec(),
            add_to: Some(native.to_owned()),
            ..Config::on_eth0("lab", vec![service])
        };
        self.lab.start_agent_on(&self.node, &config)
    }

    fn ethtool(&self, args: &[&str]) -> Result<()> {
        self.node.netns.run("ethtool", args)?.ok().map(drop)
    }

    /// With a carrier, which a driver announces later.
    fn up(&self, device: &str) -> Result<()> {
        self.node.netns.ip(&format!("link set {device} up"))?;
        eventually(PATIENCE, &format!("{device} to have a carrier"), || {
            let state = fs::read_to_string(format!("/sys/class/net/{device}/operstate"))?;
            Ok(if state.trim() == "up" { Seen::Yes(()) } else { Seen::NotYet(state) })
        })
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    proc::run(command)?.ok().context("of the VM").map(drop)
}
