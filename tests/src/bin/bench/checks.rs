//! What 10,000 health checks a second cost: 5,000 tcp checks of 100 backends of 50 services, each to the backend's own
//! address and through the VIP.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lb::api::types::CheckState;
use lb_tests::{
    agent::Agent,
    clock::now,
    config::{Config, Service},
    lab::Lab,
    scope::Scope,
    topo::Topology,
    wait::{PATIENCE, Seen as Look, eventually},
};

const SERVICES: u8 = 50;
const BACKENDS: u8 = 100;
const PORT: u16 = 7000;
const MEASURED: Duration = Duration::from_secs(20);

pub fn checks() -> Result<()> {
    let mut lab = Lab::build(Topology::one_segment(1), Scope::unique()?)?;
    let vips: Vec<IpAddr> = (1..=SERVICES).map(|n| Ipv4Addr::new(10, 8, 0, n).into()).collect();
    let addresses: Vec<IpAddr> = (1..=BACKENDS).map(|n| Ipv4Addr::new(10, 9, 0, n).into()).collect();
    let (director, backend) = (&lab.net.director.netns, &lab.net.backends[0].netns);
    director.ip("addr add 10.9.255.1/16 dev eth0")?;
    let all: String = addresses.iter().map(|address| format!("addr add {address}/16 dev eth0\n")).collect();
    backend.ip(&all)?;
    lab.start_realservers(&vips)?;

    let listener = backend.enter(|| TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))))??;
    listener.set_nonblocking(true)?;
    let (accepted, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, ends) = (accepted.clone(), stop.clone());
    let server = thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    });

    let services = (1..).zip(&vips).map(|(n, vip)| Service {
        more: "checks: [{tcp: , interval: 1s}]".to_owned(),
        ..Service::tcp(&format!("s{n}"), *vip, PORT, addresses.iter().copied())
    });
    let agent = lab.start_agent(&Config { add_to: None, ..Config::on_eth0("lab", services.collect()) })?;
    // 10,000 first attempts at once are no measure: spread over an interval, they pass one after the other.
    eventually(PATIENCE, "every check to have passed", || {
        let services = agent.services()?;
        let backends = || services.iter().flat_map(|service| &service.backends);
        let pending = backends().filter(|it| it.checks.iter().any(|check| check.state != CheckState::Up));
        let (pending, all) = (pending.count(), backends().count());
        Ok(if pending == 0 { Look::Yes(()) } else { Look::NotYet(format!("{pending} of {all} not yet")) })
    })?;
    let (from, began) = (Seen::now(&agent, &accepted)?, now());
    thread::sleep(MEASURED);
    let (to, took) = (Seen::now(&agent, &accepted)?, (now() - began).as_secs_f64());
    let a_second = |from: u64, to: u64| (to - from) as f64 / took;
    println!(
        "checks a second: {:.0}, of them {:.0} through the VIP; backends down: {}",
        a_second(from.accepted, to.accepted),
        a_second(from.probes, to.probes),
        to.down
    );
    let (spent, made) = (to.ticks() - from.ticks(), to.accepted - from.accepted);
    // A tick is 10 ms.
    println!(
        "of a CPU: {:.1} %; a check: {:.1} us of CPU",
        spent as f64 / took,
        spent as f64 * 1e4 / made as f64
    );
    for (name, before) in &from.threads {
        // Clock ticks: USER_HZ is 100 on x86 (proc(5)).
        let ticks = to.threads.iter().find(|(other, _)| other == name).map_or(0, |(_, ticks)| ticks - before);
        println!("thread {name:>12}: {:5.1} % of a CPU", ticks as f64 / took);
    }
    stop.store(true, Ordering::Relaxed);
    // It has no way to fail.
    let _ = server.join();
    agent.detach()?;
    lab.finish();
    Ok(())
}

struct Seen {
    accepted: u64,
    probes: u64,
    down: usize,
    /// Each thread's name, and its time in ticks.
    threads: Vec<(String, u64)>,
}

impl Seen {
    fn ticks(&self) -> u64 {
        self.threads.iter().map(|(_, ticks)| ticks).sum()
    }

    fn now(agent: &Agent, accepted: &AtomicU64) -> Result<Self> {
        let status: lb::api::types::Status = agent.json(&["status"])?;
        let stats = agent.stats()?;
        let probes = stats.verdicts.iter().find(|it| it.name == "forwarded-probe").map_or(0, |it| it.packets);
        let mut threads = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", status.pid))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            let (head, tail) = stat.rsplit_once(") ").context("no stat")?;
            let name = head.split_once('(').map_or("", |(_, name)| name).to_owned();
            let fields: Vec<&str> = tail.split(' ').collect();
            // utime and stime, fields 14 and 15.
            threads.push((name, fields[11].parse::<u64>()? + fields[12].parse::<u64>()?));
        }
        Ok(Self {
            accepted: accepted.load(Ordering::Relaxed),
            probes,
            down: status.unhealthy_backends,
            threads,
        })
    }
}
