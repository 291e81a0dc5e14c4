//! The harness itself, without the product: what it builds works, and nothing of it is left.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use lb_tests::{
    dns,
    hello::{Hello, Session, spread},
    lab::Lab,
    load::Load,
    mariadb,
    netns::{self, Netns},
    packet::Mac,
    proc::{self, Lifetime, Proc},
    scope::{self, Scope},
    topo::{Network, Node, Segment, Topology, VIP4, VIP6, host_prefix},
    wait::{PATIENCE, Seen, eventually},
    xdp_pass::{self, insn},
};
use nix::sys::signal::Signal;

#[test]
fn every_pair_of_one_segment_can_talk() {
    Lab::test(Topology { clients: 2, ..Topology::one_segment(2) }, |lab| all_pairs(&lab.net));
}

#[test]
fn every_pair_of_two_segments_can_talk() {
    Lab::test(Topology::two_segments(2), |lab| {
        let (director, backend) = (&lab.net.director, &lab.net.backends[0]);
        ensure!(
            director.link(Segment::Back).device == "eth1" && backend.link(Segment::Back).device == "eth0"
        );
        all_pairs(&lab.net)?;
        let behind = IpAddr::V4(backend.link(Segment::Back).ipv4);
        let _server = Hello::start(backend, 7000)?;
        Session::open(&director.netns, SocketAddr::new(behind, 7000)).context("through the back segment")?;
        Ok(())
    });
}

fn all_pairs(net: &Network) -> Result<()> {
    for server in net.nodes() {
        let _server = Hello::start(server, 7)?;
        for (client, address) in net.nodes().flat_map(|c| [(c, server.ipv4()), (c, server.ipv6())]) {
            let mut session = Session::open(&client.netns, SocketAddr::new(address, 7))
                .with_context(|| format!("{} to {} at {address}", client.role, server.role))?;
            ensure!(session.server == server.role);
            session.echo(&[7; 32 << 10])?;
        }
    }
    Ok(())
}

/// What the product does, with one backend and no tables: the lab must carry it without losing a packet.
#[test]
fn xdp_tx_of_the_director_arrives() {
    Lab::test(Topology::one_segment(2), |lab| {
        static_director(lab, VIP4, &lab.net.backends[1])?;
        carries(lab, VIP4)
    });
}

#[test]
fn xdp_tx_of_ipv6_arrives() {
    Lab::test(Topology::one_segment(2), |lab| {
        static_director(lab, VIP6, &lab.net.backends[1])?;
        carries(lab, VIP6)
    });
}

#[test]
fn xdp_redirect_into_the_back_segment_arrives() {
    Lab::test(Topology::two_segments(2), |lab| {
        static_director(lab, VIP4, &lab.net.backends[1])?;
        carries(lab, VIP4)
    });
}

/// slave2 serves many connections, big ones, and parallel ones.
fn carries(lab: &Lab, vip: IpAddr) -> Result<()> {
    let _server = Hello::start(&lab.net.backends[1], 3306)?;
    let to = SocketAddr::new(vip, 3306);
    let answered = spread(&lab.net.client().netns, to, 100)?;
    ensure!(answered == [("slave2".to_owned(), 100)].into(), "{answered:?}");
    let mut session = Session::open(&lab.net.client().netns, to)?;
    for n in 0..100 {
        session.echo(&vec![n; 48 << 10])?;
    }
    let load = Load::start(lab.net.client(), to, 2, Duration::from_millis(1))?;
    eventually(PATIENCE, "200 connections of the load", || {
        let made = load.attempts().len();
        Ok(if made >= 200 { Seen::Yes(()) } else { Seen::NotYet(format!("{made} made")) })
    })?;
    let failed: Vec<_> = load.finish()?.into_iter().filter(|a| a.failed()).collect();
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

#[test]
fn mariadb_answers_with_its_hostname_through_the_director() {
    Lab::test(Topology::one_segment(2), |lab| {
        let client = &lab.net.client().netns;
        let _servers =
            lab.net.backends.iter().map(|b| mariadb::start(&lab.scope, b)).collect::<Result<Vec<_>>>()?;
        for backend in &lab.net.backends {
            ensure!(mariadb::hostname(client, backend.ipv4())? == backend.role);
            ensure!(mariadb::hostname(client, backend.ipv6())? == backend.role);
        }
        static_director(lab, VIP4, &lab.net.backends[0])?;
        ensure!(mariadb::hostname(client, VIP4)? == "slave1");
        let mut session = mariadb::MysqlSession::open(&lab.scope, client, VIP4, "session")?;
        ensure!(session.hostname()? == "slave1");
        ensure!(session.hostname()? == "slave1");
        Ok(())
    });
}

#[test]
fn dnsmasq_answers_with_its_own_address() {
    Lab::test(Topology::one_segment(2), |lab| {
        for backend in &lab.net.backends {
            let _server = dns::start(&lab.scope, backend, &[backend.ipv4(), backend.ipv6()])?;
            for address in [backend.ipv4(), backend.ipv6()] {
                let answer = dns::ask(&lab.net.client().netns, SocketAddr::new(address, 53))?;
                ensure!(IpAddr::V4(answer) == backend.ipv4(), "{answer}");
            }
        }
        Ok(())
    });
}

/// Puts the VIP on the director and on the backends, and a program on the director that knows one backend.
fn static_director(lab: &Lab, vip: IpAddr, backend: &Node) -> Result<()> {
    lab.net.backends.iter().try_for_each(|b| b.realserver_by_hand(&[vip]))?;
    let director = &lab.net.director;
    director.netns.ip(&format!("addr add {} dev eth0", host_prefix(vip)))?;
    let (to, from) = (&backend.links[0], director.link(backend.links[0].segment));
    let redirect = (from.device != "eth0").then(|| ifindex(director, &from.device)).transpose()?;
    let program = static_dr(vip, to.mac_bytes()?, from.mac_bytes()?, redirect);
    xdp_pass::attach(&director.netns, "eth0", &lab.scope.bpffs(), "static_dr", &program)
}

/// XDP: a packet to the VIP gets these MAC addresses and goes back out, or to the device `redirect`; everything
/// else passes.
fn static_dr(vip: IpAddr, to: Mac, from: Mac, redirect: Option<i32>) -> Vec<u64> {
    // EtherType as a little-endian CPU loads it; where the last four octets of the destination are; they.
    let (ethertype, at, [a, b, c, d]) = match vip {
        IpAddr::V4(vip) => (0x0008, 30, vip.octets()),
        IpAddr::V6(vip) => (0xdd86, 50, (vip.to_bits() as u32).to_be_bytes()),
    };
    let octets = [to, from].concat();
    let mut program = vec![
        insn(0x61, 2, 1, 0, 0),                                 // r2 = ctx->data
        insn(0x61, 3, 1, 4, 0),                                 // r3 = ctx->data_end
        insn(0xbf, 4, 2, 0, 0),                                 // r4 = r2
        insn(0x07, 4, 0, 0, i32::from(at) + 4),                 // r4 += headers
        insn(0x3d, 3, 4, 2, 0),                                 // if r3 >= r4 goto +2
        insn(0xb7, 0, 0, 0, 2),                                 // r0 = XDP_PASS
        insn(0x95, 0, 0, 0, 0),                                 // exit
        insn(0x69, 5, 2, 12, 0),                                // r5 = EtherType
        insn(0x55, 5, 0, -4, ethertype),                        // if it is another, pass
        insn(0x61, 5, 2, at, 0),                                // r5 = the destination's end
        insn(0x56, 5, 0, -6, i32::from_le_bytes([a, b, c, d])), // if it is another (32 bits), pass
    ];
    for (offset, pair) in (0..).step_by(2).zip(octets.chunks(2)) {
        program.push(insn(0x6a, 2, 0, offset, i32::from(pair[0]) | i32::from(pair[1]) << 8));
    }
    program.extend(match redirect {
        None => vec![insn(0xb7, 0, 0, 0, 3)], // r0 = XDP_TX
        // r1 = device, r2 = flags, r0 = bpf_redirect()
        Some(device) => vec![insn(0xb7, 1, 0, 0, device), insn(0xb7, 2, 0, 0, 0), insn(0x85, 0, 0, 0, 23)],
    });
    program.push(insn(0x95, 0, 0, 0, 0));
    program
}

fn ifindex(node: &Node, device: &str) -> Result<i32> {
    let link = node.netns.run("ip", &["-o", "link", "show", "dev", device])?.ok()?;
    let index = link.split(':').next().and_then(|index| index.parse().ok());
    index.with_context(|| format!("ip said {link:?}"))
}

#[test]
fn nothing_of_a_lab_is_left() -> Result<()> {
    let scope = Scope::unique()?;
    let (name, dir) = (scope.name().to_owned(), scope.dir().to_owned());
    let lab = Lab::build(Topology::one_segment(1), scope)?;
    let sleeper = sleep_in(&lab.net.director.netns, &dir, Lifetime::Kept)?;
    ensure!(netns::names(&format!("{name}-")).len() == 4 && dir.join("bpffs").is_dir());
    let mut lab = lab;
    lab.finish();
    drop(lab);
    nothing_left(&name, &dir, sleeper)
}

#[test]
fn the_lab_of_a_killed_process_is_swept() -> Result<()> {
    let mut owner = Command::new("sleep").arg("1000").spawn()?;
    let name = format!("lb{}-1", owner.id());
    let scope = Scope::named(&name, Lifetime::Kept)?;
    let dir = scope.dir().to_owned();
    let net = Topology::one_segment(1).build(&scope)?;
    let sleeper = sleep_in(&net.director.netns, &dir, Lifetime::Kept)?;
    drop((net, scope));
    scope::sweep_dead();
    ensure!(netns::names(&format!("{name}-")).len() == 4, "swept although its owner lives");
    owner.kill()?;
    owner.wait()?;
    scope::sweep_dead();
    nothing_left(&name, &dir, sleeper)
}

/// Starts a process that holds on to the namespace, and returns its id.
fn sleep_in(netns: &Netns, dir: &Path, lifetime: Lifetime) -> Result<u32> {
    let mut command = netns.command("sleep")?;
    command.arg("1000").stdin(Stdio::null());
    Ok(Proc::spawn("sleep", command, &dir.join("sleep.log"), lifetime)?.pid())
}

fn nothing_left(name: &str, dir: &Path, sleeper: u32) -> Result<()> {
    gone(name, dir)?;
    eventually(PATIENCE, "the end of a process in the lab", || {
        // Nobody has waited for it, so a zombie is what is left of it.
        let stat = std::fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
        Ok(if stat.is_empty() || stat.contains(") Z ") { Seen::Yes(()) } else { Seen::NotYet(stat) })
    })
}

/// Neither namespaces, files nor mounts.
fn gone(name: &str, dir: &Path) -> Result<()> {
    let left = netns::names(&format!("{name}-"));
    ensure!(left.is_empty(), "{left:?} are left");
    ensure!(!dir.exists(), "{} is left", dir.display());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let ours = |line: &&str| line.contains(&format!("/{name}/")) || line.contains(&format!("/{name}-"));
    let left: Vec<_> = mounts.lines().filter(ours).collect();
    ensure!(left.is_empty(), "mounts of {name} are left: {left:?}");
    Ok(())
}

#[test]
fn a_process_ends_with_its_guard_and_says_why_it_ended_before() -> Result<()> {
    let scope = Scope::unique()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo so it was; exit 3"]).stdin(Stdio::null());
    let mut ended = Proc::spawn("the shell", shell, &scope.dir().join("log"), Lifetime::Guarded)?;
    let error = eventually(PATIENCE, "its end", || {
        Ok(ended.check_alive().map_or_else(Seen::Yes, |()| Seen::NotYet(String::new())))
    })?;
    let error = format!("{error:#}");
    ensure!(
        error.contains("the shell") && error.contains("exit status: 3") && error.contains("so it was"),
        "{error}"
    );
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let guarded = Proc::spawn("sleep", sleep, &scope.dir().join("log"), Lifetime::Guarded)?;
    let path = format!("/proc/{}", guarded.pid());
    ensure!(Path::new(&path).exists());
    drop(guarded);
    ensure!(!Path::new(&path).exists(), "{path} is still there");
    Ok(())
}

#[test]
fn a_command_that_hangs_is_ended_and_what_it_printed_is_shown() -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo before; sleep 1000"]);
    let Err(error) = proc::run_with(shell, "", Duration::from_millis(200)) else { bail!("it did not hang") };
    let error = format!("{error:#}");
    ensure!(
        error.contains("before") && error.contains("sleep 1000") && error.contains("still running"),
        "{error}"
    );
    Ok(())
}

/// Ctrl-C at any time: with the first namespace, and with everything up.
#[test]
fn an_interrupted_demo_leaves_nothing() -> Result<()> {
    let scope = Scope::unique()?;
    for (n, stage) in ["namespaces", "an attached program"].into_iter().enumerate() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.stdin(Stdio::null());
        let mut demo =
            Proc::spawn("the demo", command, &scope.dir().join(format!("demo{n}.log")), Lifetime::Guarded)?;
        let name = format!("lb{}-1", demo.pid());
        let dir = scope::dir_of(&name)?;
        eventually(3 * PATIENCE, stage, || {
            demo.check_alive()?;
            let there = if n == 0 {
                !netns::names(&format!("{name}-")).is_empty()
            } else {
                std::fs::read_dir(dir.join("bpffs/lb")).is_ok_and(|mut instances| {
                    instances.any(|at| at.is_ok_and(|at| at.path().join("link_eth0").exists()))
                })
            };
            Ok(if there { Seen::Yes(()) } else { Seen::NotYet(proc::tail(&demo.log(), 5)) })
        })?;
        demo.signal(Signal::SIGINT)?;
        let status = demo.wait(PATIENCE)?;
        ensure!(status.code() == Some(130), "{stage}: {status}\n{}", demo.log());
        ensure!(demo.log().contains("interrupted"), "{}", demo.log());
        // Whoever has the lab's name in its command line is of it: the agent, the servers, tcpdump.
        eventually(PATIENCE, "the processes of the demo to be gone", || {
            let left = processes_naming(&name);
            Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(left.join("\n")) })
        })?;
        gone(&name, &dir)?;
    }
    Ok(())
}

/// Command lines that have this word in them; zombies have none.
fn processes_naming(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(&format!("{word}-")) || line.contains(&format!("{word}/"))).collect()
}
