//! The director's interfaces and their programs.

use crate::{
    doctor::finding::{Finding, Id},
    net::{
        offload::Obstacle,
        xdp::{XdpMode, XdpProgram},
    },
};

/// An interface that the data plane knows.
#[derive(Clone, Debug)]
pub struct Facts {
    pub name: String,
    /// Clients' packets come in here; else packets only leave.
    pub ingress: bool,
    /// None: there is no such interface any more.
    pub device: Option<Device>,
    /// The program that our pinned link holds on it.
    pub ours: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct Device {
    /// Administratively.
    pub up: bool,
    /// With a carrier.
    pub running: bool,
    pub programs: Vec<XdpProgram>,
    /// What takes frames off the wire for it: the slaves of a bond, or itself.
    pub receivers: Vec<Receiver>,
}

#[derive(Clone, Debug)]
pub struct Receiver {
    pub name: String,
    /// Offloads that are in the way of XDP.
    pub obstacles: Vec<Obstacle>,
    pub queues: Option<Queues>,
}

/// How a NIC spreads what it receives.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    pub driver_is_virtual: bool,
    /// Receive queues, and how many of them its hash leads to.
    pub receive: u32,
    pub used: Option<u32>,
    /// Of the machine.
    pub cpus: u32,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let Facts { name, ingress, device, ours } = facts;
    let Some(device) = device else {
        return vec![Finding::new(
            Id::NotAttached,
            name,
            "there is no such interface",
            "what came in or left by it is lost",
            format!("bring {name} back (the agent attaches to it by itself), or take it out of `interfaces`"),
        )];
    };
    let mut findings: Vec<Finding> = down(name, device).into_iter().collect();
    if *ingress {
        findings.extend(program(name, device, *ours));
        for Receiver { name, obstacles, queues } in &device.receivers {
            findings.extend(obstacles.iter().map(|obstacle| offload(name, obstacle)));
            findings.extend(queues.and_then(|queues| spread(name, queues)));
        }
    }
    findings
}

fn down(name: &str, device: &Device) -> Option<Finding> {
    let (found, fix) = match (device.up, device.running) {
        (true, true) => return None,
        (false, _) => ("it is administratively down", format!("ip link set {name} up")),
        (true, false) => ("it has no carrier", format!("look at the cable and the switch's port of {name}")),
    };
    Some(Finding::new(Id::LinkDown, name, found, "no packet comes in or leaves by it", fix))
}

fn program(name: &str, device: &Device, ours: Option<u32>) -> Option<Finding> {
    let effect = "packets for the VIPs that come in by it reach the local stack, which refuses them";
    let own = device.programs.iter().find(|program| Some(program.id) == ours);
    match (own, device.programs.first()) {
        (Some(XdpProgram { mode: XdpMode::Generic, .. }), _) => Some(Finding::new(
            Id::GenericMode,
            name,
            "the program runs in the stack (xdpgeneric), not in the driver",
            "each packet costs several times as much",
            format!(
                "a driver with native XDP (ethtool -i {name} names this one), and `mode: native` or `auto` for the interface"
            ),
        )),
        (Some(_), _) => None,
        (None, Some(other)) => Some(Finding::new(
            Id::ForeignProgram,
            name,
            format!(
                "its XDP program is number {}, which is not ours (`bpftool prog show id {0}` names it)",
                other.id
            ),
            effect,
            format!(
                "ip link set dev {name} {} off, then restart the agent; or lb run --replace",
                other.mode.iproute2()
            ),
        )),
        (None, None) => Some(Finding::new(
            Id::NotAttached,
            name,
            "it has no XDP program",
            effect,
            "systemctl restart lb: the agent attaches its program at its start",
        )),
    }
}

fn offload(name: &str, obstacle: &Obstacle) -> Finding {
    let Obstacle { feature, why, changeable } = obstacle;
    let fix = if *changeable {
        format!("ethtool -K {name} {feature} off, or `offloads: set` for the interface")
    } else {
        format!("the driver keeps it on: another NIC, or `mode: generic` for {name}")
    };
    Finding::new(Id::OffloadInTheWay, format!("{name}: {feature}"), "it is on", *why, fix)
}

fn spread(name: &str, queues: Queues) -> Option<Finding> {
    let Queues { driver_is_virtual, receive, used, cpus } = queues;
    if driver_is_virtual || cpus < 2 {
        return None;
    }
    if receive == 1 {
        return Some(Finding::new(
            Id::OneQueue,
            name,
            format!("it has one receive queue, the machine {cpus} CPUs"),
            "one CPU does the work of all packets",
            format!("ethtool -L {name} combined {cpus} (or rx; ethtool -l {name} shows the most)"),
        ));
    }
    let used = used.filter(|used| *used < receive)?;
    Some(Finding::new(
        Id::RssUneven,
        name,
        format!("of {receive} receive queues its hash (RSS) leads to {used}"),
        "fewer CPUs than there could be do the work of all packets",
        format!("ethtool -X {name} equal {receive}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(ours: Option<u32>, programs: Vec<XdpProgram>) -> Facts {
        let receivers = vec![Receiver { name: "eth0".into(), obstacles: Vec::new(), queues: None }];
        let device = Some(Device { up: true, running: true, programs, receivers });
        Facts { name: "eth0".into(), ingress: true, device, ours }
    }

    fn program(id: u32, mode: XdpMode) -> XdpProgram {
        XdpProgram { mode, id }
    }

    #[track_caller]
    fn finds(facts: Facts, ids: &[Id]) {
        let found: Vec<_> = judge(&facts).iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids, "{facts:?}");
    }

    #[test]
    fn programs() {
        finds(facts(Some(5), vec![program(5, XdpMode::Native)]), &[]);
        finds(facts(Some(5), vec![program(5, XdpMode::Generic)]), &[Id::GenericMode]);
        finds(facts(Some(5), vec![program(6, XdpMode::Native)]), &[Id::ForeignProgram]);
        finds(facts(None, vec![program(6, XdpMode::Native)]), &[Id::ForeignProgram]);
        finds(facts(None, vec![]), &[Id::NotAttached]);
        finds(Facts { ingress: false, ..facts(None, vec![program(6, XdpMode::Native)]) }, &[]);
    }

    #[test]
    fn offloads_and_queues() {
        let with = |change: &dyn Fn(&mut Receiver)| {
            let mut facts = facts(Some(5), vec![program(5, XdpMode::Native)]);
            facts.device.as_mut().map(|device| change(&mut device.receivers[0])).expect("a device");
            facts
        };
        let lro = Obstacle { feature: "rx-lro", why: "it merges", changeable: true };
        finds(with(&|nic| nic.obstacles = vec![lro]), &[Id::OffloadInTheWay]);
        let queues = |receive, used| Queues { driver_is_virtual: false, receive, used, cpus: 8 };
        for (queues, ids) in [
            (queues(1, None), &[Id::OneQueue][..]),
            (queues(8, Some(8)), &[]),
            (queues(8, None), &[]),
            (queues(8, Some(2)), &[Id::RssUneven]),
            (Queues { cpus: 1, ..queues(1, None) }, &[]),
            (Queues { driver_is_virtual: true, ..queues(1, None) }, &[]),
        ] {
            finds(with(&|nic| nic.queues = Some(queues)), ids);
        }
    }

    #[test]
    fn links() {
        let with = |up, running| {
            let good = facts(Some(5), vec![program(5, XdpMode::Native)]);
            let device = good.device.clone().map(|device| Device { up, running, ..device });
            Facts { device, ..good }
        };
        finds(with(true, true), &[]);
        finds(with(true, false), &[Id::LinkDown]);
        finds(with(false, false), &[Id::LinkDown]);
        finds(Facts { device: None, ..with(true, true) }, &[Id::NotAttached]);
        finds(Facts { ingress: false, ..with(false, false) }, &[Id::LinkDown]);
    }
}
