//! What the agent takes for its work, as a user meets it: `lb run` in a lab, from its start to the first connection
//! through it, changes of a large configuration, and the memory that it needs for that.

use std::{
    cell::RefCell,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb::{
    api::{
        client::Client,
        types::{BackendAdd, Status},
    },
    model::{BackendKey, ServiceName},
};
use lb_tests::{
    agent::Agent,
    clock::now,
    config::{Config, Service},
    hello::Hello,
    lab::Lab,
    scope::Scope,
    topo::{Segment, Topology},
};

use crate::figures;

const SERVICES: u16 = 4096;
const BACKENDS: u8 = 16;
/// Services of one VIP.
const PORTS: u16 = 32;
const PORT: u16 = 7000;
const LIMITS: &str = "limits: {services: 8192, destinations: 131072}\nservices:\n";
const RELOADS: u16 = 5;
/// Services that get backends by the API, and backends of each when all are added: one is there before.
const GROWING: u16 = 100;
const GROWN: u8 = 101;
/// Those that are not added by then are not waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients that ask for changes at the same time.
const CLIENTS: usize = 64;
/// Starts of the large configuration; the best one decides.
const STARTS: usize = 5;
/// From the start of the process to the first connection.
const TARGET: Duration = Duration::from_secs(2);
/// Hosts of their own for the backends, and which of them is not there. The kernel's table of neighbours holds 1,024,
/// of the whole machine, unless it is told otherwise (`gc_thresh3`).
const HOSTS: u16 = 768;
const DEAD: usize = 16;
/// Of an attempt to connect, and so the error of the time of the first connection.
const ATTEMPT: Duration = Duration::from_millis(10);
/// A start with as many services takes seconds.
const START: Duration = Duration::from_secs(60);

/// A table of times, and of memory.
pub fn control() -> Result<()> {
    let mut lab = Lab::build(Topology::one_segment(1), Scope::unique()?)?;
    let backend = &lab.net.backends[0];
    let addresses: Vec<IpAddr> = (1..=GROWN).map(|n| Ipv4Addr::new(10, 9, 0, n).into()).collect();
    lab.net.director.netns.ip("addr add 10.9.255.1/16 dev eth0")?;
    let hosts: Vec<IpAddr> = (0..HOSTS).map(host).collect();
    let there = hosts.iter().enumerate().filter(|(n, _)| n % DEAD != 0).map(|(_, address)| address);
    let all = addresses.iter().chain(there);
    backend.netns.ip(&all.map(|address| format!("addr add {address}/16 dev eth0\n")).collect::<String>())?;
    let server = Hello::start(backend, PORT)?;
    lab.start_realservers(&[vip(0)])?;
    // The client knows where the VIP is before it is there: what is measured is the director alone.
    let director = lab.net.director.link(Segment::Front).mac.clone();
    lab.net.client().netns.ip(&format!(
        "route add {} dev eth0\nneigh add {} lladdr {director} dev eth0 nud permanent\n",
        vip(0),
        vip(0)
    ))?;

    println!("the agent, `lb run` in a lab");
    let small = config((0..1).map(|n| service(n, &addresses[..2], 1)));
    let agent = lab.prepare_agent(&small)?;
    starts(&lab, &agent, "start with 1 service of 2 backends")?;
    report_memory(&agent, "its memory")?;
    agent.detach()?;

    let small = config((0..GROWING).map(|n| service(n, &addresses[..1], 1)));
    for clients in [1, CLIENTS] {
        write(&agent, &small)?;
        agent.start()?;
        add(&agent, &addresses, clients)?;
        agent.detach()?;
        // What was changed by command is not to come again.
        fs::remove_dir_all(agent.state())?;
    }

    let large = |weight, addresses: &[IpAddr]| {
        let some = |n: u16| {
            let first = usize::from(n) % (addresses.len() - usize::from(BACKENDS));
            service(n, &addresses[first..first + usize::from(BACKENDS)], if n == 0 { weight } else { 1 })
        };
        config((0..SERVICES).map(some))
    };
    write(&agent, &large(1, &hosts))?;
    let of = format!("start with {SERVICES} services of {BACKENDS} backends");
    starts(&lab, &agent, &format!("{of} on {HOSTS} hosts, 1 of {DEAD} dead"))?;
    agent.detach()?;
    write(&agent, &large(1, &addresses))?;
    let best = starts(&lab, &agent, &of)?;
    let verdict = if best <= TARGET { "holds" } else { "MISSED" };
    println!("target: at most {TARGET:?} from the start of `lb run` to the first connection: {verdict}");
    report_memory(&agent, "its memory")?;
    let mut reloads = Vec::new();
    for weight in 2..2 + RELOADS {
        write(&agent, &large(weight, &addresses))?;
        let since = now();
        agent.hang_up()?;
        reloads.push(since.elapsed());
    }
    let (minimum, median) = figures(&reloads);
    line(&format!("reload that changes 1 of {SERVICES} services, minimum"), minimum);
    line("                                            median", median);
    agent.kill9()?;
    let since = now();
    agent.start()?;
    line("start after kill -9, which finds the maps as it left them", since.elapsed());
    report_memory(&agent, "its memory")?;
    agent.detach()?;
    drop(server);
    lab.finish();
    Ok(())
}

fn line(what: &str, time: Duration) {
    println!("{what:<66}{:>9.0} ms", time.as_secs_f64() * 1000.0);
}

fn vip(number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(10, 8, high, low + 1).into()
}

fn host(number: u16) -> IpAddr {
    let [high, low] = (256 + number).to_be_bytes();
    Ipv4Addr::new(10, 9, high, low).into()
}

/// Weight is the first backend's.
fn service(number: u16, addresses: &[IpAddr], weight: u16) -> Service {
    let (vip, port) = (vip(number / PORTS), PORT + number % PORTS);
    let mut service = Service::tcp(&format!("s{number}"), vip, port, addresses.iter().copied());
    service.backends[0].1 = weight;
    service
}

fn config(services: impl Iterator<Item = Service>) -> Config {
    Config::on_eth0("lab", services.collect())
}

fn write(agent: &Agent, config: &Config) -> Result<()> {
    agent.write_config(&config.to_yaml(&agent.socket()).replacen("services:\n", LIMITS, 1))
}

/// From nothing to the first connection through the director, and to READY=1, several times; the agent of the last one
/// runs on. The shortest time to a connection.
fn starts(lab: &Lab, agent: &Agent, what: &str) -> Result<Duration> {
    let (mut firsts, mut readies) = (Vec::new(), Vec::new());
    for round in 0..STARTS {
        if round != 0 {
            agent.detach()?;
        }
        let since = now();
        agent.begin(&[])?;
        firsts.push(lab.net.client().netns.enter(|| first_connection(since))??);
        agent.said("READY=1")?;
        readies.push(since.elapsed());
    }
    let ((minimum, median), (ready, _)) = (figures(&firsts), figures(&readies));
    println!("{what}");
    line(&format!("    to the first connection, minimum of {STARTS}"), minimum);
    line("                             median", median);
    line("    and until it says that it is ready, minimum", ready);
    Ok(minimum)
}

fn first_connection(since: Instant) -> Result<Duration> {
    let to = SocketAddr::new(vip(0), PORT);
    while TcpStream::connect_timeout(&to, ATTEMPT).is_err() {
        ensure!(since.elapsed() < START, "no connection to {to} in {START:?}");
    }
    Ok(since.elapsed())
}

/// proc_pid_status(5): VmRSS, and the part of it that is no file's.
fn report_memory(agent: &Agent, what: &str) -> Result<()> {
    let status: Status = agent.json(&["status"])?;
    let text = fs::read_to_string(format!("/proc/{}/status", status.pid))?;
    let of = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kilobytes: f64 = line.split_whitespace().next().context("no figure")?.parse()?;
        Ok(kilobytes / 1024.0)
    };
    println!(
        "    {what}: resident {:.0} MiB, of that its own {:.0} MiB, maps and files {:.0} MiB; most ever {:.0} MiB",
        of("VmRSS:")?,
        of("RssAnon:")?,
        of("RssFile:")? + of("RssShmem:")?,
        of("VmHWM:")?,
    );
    Ok(())
}

/// Backends by the API, each a request of its own.
fn add(agent: &Agent, addresses: &[IpAddr], clients: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The first is the file's.
    let wanted = (0..GROWING).flat_map(|number| addresses[1..].iter().map(move |address| (number, *address)));
    let (since, wanted) = (now(), RefCell::new(wanted));
    let one = async || {
        let (client, mut added) = (Client::new(agent.socket()), 0u32);
        while since.elapsed() < PATIENCE {
            let Some((number, address)) = wanted.borrow_mut().next() else { break };
            let key = BackendKey { address, port: PORT + number % PORTS };
            let add = BackendAdd { key, weight: 1, upper_threshold: 0, lower_threshold: 0 };
            client.backend_add(&ServiceName::new(format!("s{number}"))?, &add).await?;
            added += 1;
        }
        anyhow::Ok(added)
    };
    let added = runtime.block_on(futures::future::try_join_all((0..clients).map(|_| one())))?;
    let (took, added) = (since.elapsed(), added.iter().sum::<u32>());
    let all = usize::from(GROWING) * (addresses.len() - 1);
    line(
        &format!("adding {added} of {all} backends to {GROWING} services by the API, {clients} clients"),
        took,
    );
    println!("    {:.1} ms for each", took.as_secs_f64() * 1000.0 / f64::from(added.max(1)));
    Ok(())
}
