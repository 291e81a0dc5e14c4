//! `lb trace`: real packets with their verdict and cause, and the ordinary program back whatever becomes of it.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use lb::trace::Packet;
use lb_tests::{
    agent::Agent,
    config::{Config, Service},
    hello::{ANSWER_LIMIT, Session},
    lab::Lab,
    proc::{Proc, raise_file_limit, run},
    topo::{Node, Topology, VIP4, VIP6},
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::signal::Signal;

use crate::{
    doctor::two_segments,
    growth::{resize, settled},
    permission::public_binary,
    setup::{HELLO, HelloLab, PORT, SERVICE, config, said, service, verdict},
    talk::{MISSES, Talk},
};

// As `lb --help` documents them.
const USAGE: i32 = 2;
const NO_PERMISSION: i32 = 4;
const NOT_FOUND: i32 = 5;
const REFUSED: i32 = 6;

/// An `lb trace` that runs.
pub struct Trace(Proc);

impl Trace {
    /// Waits until every packet is asked about.
    pub fn start(lab: &Lab, agent: &Agent, name: &str, args: &[&str]) -> Result<Self> {
        let mut all = vec!["--output", "json", "trace"];
        all.extend(args);
        let log = lab.scope.dir().join(format!("trace-{name}"));
        let trace = Self(Proc::spawn("lb trace", agent.lb_command(&all)?, &log, lab.scope.lifetime())?);
        // The kernel has to verify a program, which takes a busy machine its time.
        eventually(PATIENCE * 3, "the trace to begin", || {
            let log = trace.0.log();
            Ok(if log.contains("lb: tracing") { Seen::Yes(()) } else { Seen::NotYet(log) })
        })?;
        Ok(trace)
    }

    /// What it has shown so far.
    fn packets(&self) -> Result<Vec<Packet>> {
        let log = self.0.log();
        // The last line may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    }

    fn sees(&self, what: &str, wanted: impl Fn(&Packet) -> bool) -> Result<Packet> {
        eventually(PATIENCE, what, || {
            let packets = self.packets()?;
            let found = packets.iter().find(|packet| wanted(packet));
            Ok(found.map_or_else(|| Seen::NotYet(format!("{packets:#?}")), |found| Seen::Yes(found.clone())))
        })
    }

    /// Ctrl-C; what it said at its end.
    pub fn interrupt(mut self) -> Result<String> {
        self.0.signal(Signal::SIGINT)?;
        let status = self.0.wait(PATIENCE)?;
        ensure!(status.success(), "lb trace ended with {status}: {}", self.0.log());
        Ok(self.0.log())
    }
}

/// Waits until the program of this tag is on the interface.
pub fn until_tag(agent: &Agent, tag: u64, what: &str) -> Result<()> {
    eventually(PATIENCE, what, || {
        let now = agent.program_tag("eth0")?;
        Ok(if now == tag { Seen::Yes(()) } else { Seen::NotYet(format!("{now:x}, not {tag:x}")) })
    })
}

fn connect(hello: &HelloLab<'_>, to: SocketAddr) -> Result<()> {
    // Whatever comes of it: the trace tells.
    let _ = hello.client().enter(|| TcpStream::connect_timeout(&to, ANSWER_LIMIT))?;
    Ok(())
}

#[test]
fn each_end_is_seen_with_its_cause() {
    Lab::test(Topology::one_segment(2), |lab| {
        let other = |name: &str, port, backends: Vec<IpAddr>| Service {
            name: name.to_owned(),
            port,
            ..service(VIP4, backends)
        };
        let mut services = vec![service(VIP4, lab.net.backends.iter().map(Node::ipv4))];
        services.push(Service { more: "reject: reset".to_owned(), ..other("empty", PORT + 1, Vec::new()) });
        let all = lab.net.backends.iter().map(Node::ipv4).collect();
        services
            .push(Service { more: "sources: [0.0.0.0/0 deny]".to_owned(), ..other("closed", PORT + 2, all) });
        let hello = HelloLab::start_with(lab, &Config::on_eth0("lab", services))?;
        let agent = &hello.agent;
        let ordinary = agent.program_tag("eth0")?;
        let (link, _) = agent.link("eth0")?;
        let to = |port| SocketAddr::new(VIP4, port);

        let trace = Trace::start(lab, agent, "all", &["tcp", &VIP4.to_string()])?;
        let dropped = Trace::start(lab, agent, "dropped", &["--only", "dropped", "--service", "closed"])?;
        let elsewhere = Trace::start(lab, agent, "elsewhere", &["--from", "192.0.2.0/24"])?;
        ensure!(agent.program_tag("eth0")? != ordinary, "the ordinary program traces");
        ensure!(agent.link("eth0")?.0 == link, "there was a gap");
        said(&agent.lb(&["status"])?.ok()?, &["lb trace", "3 of"])?;
        let mut session = Session::open(hello.client(), HELLO)?;
        session.echo(b"hello")?;
        let number: usize = session.server.trim_start_matches("slave").parse()?;
        let client = session.client()?.to_string();
        let opened = trace.sees("the SYN", |packet| packet.source.as_deref() == Some(client.as_str()))?;
        ensure!(opened.flags.as_deref() == Some("SYN") && opened.interface == "eth0", "{opened:#?}");
        ensure!(
            opened.service.as_deref() == Some(SERVICE) && opened.verdict == "forwarded-tx",
            "{opened:#?}"
        );
        ensure!(opened.backend.map(|at| at.to_string()) == Some(hello.key(number)), "{opened:#?}");
        said(&opened.cause, &["rr picks", &hello.key(number)])?;
        ensure!(opened.frame.is_none(), "a frame that nobody asked for: {opened:#?}");
        let known = trace.sees("a later segment", |packet| {
            packet.source.as_deref() == Some(client.as_str()) && packet.cause.contains("known")
        })?;
        ensure!(known.verdict == "forwarded-tx" && known.cause.contains(&hello.key(number)), "{known:#?}");

        connect(&hello, to(PORT + 1))?;
        let empty =
            trace.sees("one without a backend", |packet| packet.service.as_deref() == Some("empty"))?;
        ensure!(empty.verdict == "answered-no-backend", "{empty:#?}");
        said(&empty.cause, &["no backend takes new connections"])?;
        connect(&hello, to(PORT + 2))?;
        let denied = dropped.sees("a denied one", |_| true)?;
        ensure!(denied.verdict == "dropped-denied" && denied.cause.contains("deny"), "{denied:#?}");
        connect(&hello, to(PORT + 3))?;
        let passed = trace.sees("one without a service", |packet| packet.verdict == "passed-no-service")?;
        ensure!(passed.service.is_none() && passed.cause.contains("no service"), "{passed:#?}");
        agent.lb(&["conn", "flush", "--service", SERVICE])?.ok()?;
        session.send(b"who am I")?;
        let unknown = trace.sees("one of no connection", |packet| packet.verdict.ends_with("-no-flow"))?;
        ensure!(unknown.verdict == "answered-no-flow", "{unknown:#?}");

        let ends: Vec<_> = dropped.packets()?.into_iter().map(|packet| packet.verdict).collect();
        ensure!(ends.iter().all(|end| end == "dropped-denied"), "{ends:?}");
        ensure!(elsewhere.packets()?.is_empty(), "{:#?}", elsewhere.packets()?);
        for trace in [trace, dropped, elsewhere] {
            let told = trace.interrupt()?;
            ensure!(!told.contains("not reported"), "{told}");
        }
        until_tag(agent, ordinary, "the ordinary program")?;
        ensure!(agent.link("eth0")?.0 == link, "there was a gap");
        Ok(())
    });
}

/// Packets of one interface, though the program reports on both; the same bounds as without.
#[test]
fn one_interface_of_two() {
    let topology = Topology { clients_in_back: true, ..Topology::two_segments(2) };
    Lab::test(topology, |lab| {
        let mut config = two_segments(lab, VIP4);
        config.interfaces.push(("eth1".to_owned(), "native".to_owned()));
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let both = Trace::start(lab, agent, "both", &["udp"])?;
        let front = Trace::start(lab, agent, "front", &["udp", "-i", "eth0"])?;
        let back = Trace::start(lab, agent, "back", &["udp", "--interface", "eth1"])?;
        for link in &lab.net.director.links {
            hello.client().enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", (link.ipv4, 9)))??;
        }
        for device in ["eth0", "eth1"] {
            both.sees(device, |packet| packet.interface == device)?;
        }
        front.sees("a packet in front", |packet| packet.interface == "eth0")?;
        back.sees("a packet in back", |packet| packet.interface == "eth1")?;
        let packets = [front.packets()?, back.packets()?];
        let only = |n: usize, device: &str| packets[n].iter().all(|packet| packet.interface == device);
        ensure!(only(0, "eth0") && only(1, "eth1"), "{packets:#?}");
        for (name, words) in [("lo", "lo has no program of ours"), ("eth9", "one of eth0, eth1")] {
            let refused = agent.lb(&["trace", "-i", name])?;
            let stderr = refused.stderr;
            ensure!(refused.status.code() == Some(NOT_FOUND), "{}: {stderr}", refused.status);
            said(&stderr, &[words])?;
        }
        Ok(())
    });
}

#[test]
fn frames_are_written_for_tcpdump_and_bounds_are_kept() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mut config = config(lab, 1);
        config.interfaces[0].1 = "generic".to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let ordinary = agent.program_tag("eth0")?;
        let file: PathBuf = lab.scope.dir().join("trace.pcapng");
        let path = file.to_string_lossy().into_owned();
        let vip = format!("{HELLO}");
        let args = ["tcp", &vip, "--write", &path, "--snap", "60", "--count", "3"];
        let mut trace = Trace::start(lab, agent, "file", &args)?;
        Session::open(hello.client(), HELLO)?.echo(b"hello")?;
        ensure!(trace.0.wait(PATIENCE)?.success(), "{}", trace.0.log());
        said(&trace.0.log(), &["3 packets"])?;
        let mut tcpdump = lab.net.director.netns.command("tcpdump")?;
        tcpdump.args(["-n", "-e", "-r", &path]);
        let read = run(tcpdump)?.ok()?;
        let lines: Vec<_> = read.lines().collect();
        ensure!(lines.len() == 3 && lines[0].contains("Flags [S]"), "{read}");
        let to = format!("> {}.{PORT}:", HELLO.ip());
        // As they came: for the director's MAC.
        let mac = lab.net.director.links[0].mac.to_string();
        ensure!(lines.iter().all(|line| line.contains(&to) && line.contains(&format!("> {mac}"))), "{read}");
        let bytes = std::fs::read(&file)?;
        let comment = format!("lb: forwarded-tx to {}: rr picks", hello.key(1));
        ensure!(bytes.windows(comment.len()).any(|part| part == comment.as_bytes()), "no comment {comment}");
        until_tag(agent, ordinary, "the ordinary program after --count")?;

        let ended = agent.lb(&["trace", "--duration", "1s", "udp"])?;
        ensure!(ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
        said(&ended.stderr, &["0 packets"])?;
        until_tag(agent, ordinary, "the ordinary program after --duration")?;
        said(&agent.lb_fails(USAGE, &["trace", "tcp", "nonsense"])?, &["nonsense", "ADDRESS"])?;
        said(&agent.lb_fails(USAGE, &["trace", "--only", "lost"])?, &["no verdict lost", "dropped"])?;
        said(&agent.lb_fails(NOT_FOUND, &["trace", "--service", "nobody"])?, &["nobody"])?;
        Ok(())
    });
}

/// A reset of the swap in either direction would show as a miss, or as a connection that hangs.
#[test]
fn swapped_in_and_out_under_a_thousand_flows() {
    Lab::test(Topology::one_segment(2), |lab| {
        raise_file_limit()?;
        let mut config = config(lab, 2);
        let sister = service(VIP6, lab.net.backends.iter().map(Node::ipv6));
        config.services.push(Service { name: "hello6".to_owned(), ..sister });
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let ordinary = agent.program_tag("eth0")?;
        let (link, _) = agent.link("eth0")?;
        let mut talk = Talk::start(lab.net.client(), &[VIP4, VIP6])?;
        talk.wait_for_round("before the first trace")?;
        let before = agent.stats()?;
        for n in 0..6 {
            let name = format!("swap{n}");
            let mut trace =
                Trace::start(lab, agent, &name, &["tcp", "--only", "forwarded", "--sample", "1/50"])?;
            talk.wait_for_round(&format!("while trace {n} runs"))?;
            ensure!(agent.program_tag("eth0")? != ordinary, "the ordinary program traces");
            let seen = trace.sees("a sample", |_| true)?;
            ensure!(seen.cause.contains("known"), "{seen:#?}");
            if n % 2 == 0 {
                trace.0.kill9()?;
            } else {
                trace.interrupt()?;
            }
            until_tag(agent, ordinary, &format!("the ordinary program after trace {n}"))?;
            talk.wait_for_round(&format!("after trace {n}"))?;
        }
        let after = agent.stats()?;
        for name in MISSES {
            let (old, new) = (verdict(&before, name)?, verdict(&after, name)?);
            ensure!(new == old, "{} packets ended as {name} during the traces", new - old);
        }
        let active: u64 = agent.services()?.iter().flat_map(|s| &s.backends).map(|b| b.active).sum();
        ensure!(active == 1000, "{active} connections are counted as active");
        ensure!(agent.link("eth0")?.0 == link, "there was a gap");
        talk.finish()
    });
}

#[test]
fn an_agent_that_goes_leaves_nobody_tracing() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let agent = &hello.agent;
        let ordinary = agent.program_tag("eth0")?;
        let mut session = Session::open(hello.client(), HELLO)?;
        // In order: it puts the ordinary program back itself.
        let mut trace = Trace::start(lab, agent, "stopped", &["tcp"])?;
        agent.terminate()?;
        ensure!(agent.program_tag("eth0")? == ordinary, "SIGTERM left the program of the trace");
        ensure!(trace.0.wait(PATIENCE)?.code() == Some(1), "{}", trace.0.log());
        said(&trace.0.log(), &["the agent has ended the trace"])?;
        session.echo(b"without an agent")?;
        agent.start()?;
        // Killed, it cannot: its program goes on, and the next agent does it.
        let mut trace = Trace::start(lab, agent, "killed", &["tcp"])?;
        agent.kill9()?;
        trace.0.wait(PATIENCE)?;
        ensure!(agent.program_tag("eth0")? != ordinary, "who has swapped it?");
        session.echo(b"through the program of a trace that nobody hears")?;
        agent.start()?;
        ensure!(agent.program_tag("eth0")? == ordinary, "the next agent has left the program of the trace");
        session.echo(b"as before")
    });
}

/// Other swaps meanwhile load the program that belongs there.
#[test]
fn a_trace_goes_on_while_the_tables_change_their_size() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let agent = &hello.agent;
        let ordinary = agent.program_tag("eth0")?;
        let mut session = Session::open(hello.client(), HELLO)?;
        let trace = Trace::start(lab, agent, "resized", &["--only", "forwarded"])?;
        session.echo(b"before")?;
        trace.sees("one before", |_| true)?;
        resize(agent, "ipv4: 4k, wide: 4k")?;
        settled(agent, &[("ipv4", 4096), ("wide", 4096)])?;
        ensure!(agent.program_tag("eth0")? != ordinary, "the change of the tables has ended the trace");
        let before = trace.packets()?.len();
        session.echo(b"after")?;
        eventually(PATIENCE, "one after", || {
            let packets = trace.packets()?.len();
            Ok(if packets > before { Seen::Yes(()) } else { Seen::NotYet(format!("{packets} packets")) })
        })?;
        let told = trace.interrupt()?;
        ensure!(!told.contains("not reported"), "{told}");
        until_tag(agent, ordinary, "the ordinary program")?;
        session.echo(b"and then")
    });
}

#[test]
fn a_client_that_takes_nothing_traces_no_more() {
    Lab::test(Topology::one_segment(1), |lab| {
        raise_file_limit()?;
        let hello = HelloLab::start(lab, 1)?;
        let agent = &hello.agent;
        let ordinary = agent.program_tag("eth0")?;
        let mut talk = Talk::start(lab.net.client(), &[VIP4])?;
        talk.wait_for_round("before the trace")?;
        let mut trace = Trace::start(lab, agent, "stalled", &["--steps"])?;
        trace.sees("the first", |_| true)?;
        trace.0.signal(Signal::SIGSTOP)?;
        // It has to fill what there is between it and the agent, and then 10 s.
        eventually(PATIENCE * 3, "the ordinary program", || {
            let tag = agent.program_tag("eth0")?;
            Ok(if tag == ordinary { Seen::Yes(()) } else { Seen::NotYet(format!("{tag:x}")) })
        })?;
        talk.wait_for_round("after the trace")?;
        trace.0.signal(Signal::SIGCONT)?;
        ensure!(trace.0.wait(PATIENCE)?.code() == Some(1), "{}", trace.0.log());
        said(&trace.0.log(), &["took nothing for 10 s"])?;
        talk.finish()
    });
}

#[test]
fn who_may_use_the_socket_may_trace_and_no_more_than_there_is_room_for() {
    /// A user and groups that need not exist.
    const USER: u32 = 65534;
    const OPERATORS: u32 = 4242;
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 1))?;
        let agent = &hello.agent;
        let (_dir, lb) = public_binary()?;
        agent.start_with(&["--socket-group", &OPERATORS.to_string()])?;
        let ordinary = agent.program_tag("eth0")?;
        let short = ["trace", "--duration", "1s"];
        let refused = agent.lb_as((USER, USER), &lb, &short)?;
        ensure!(refused.status.code() == Some(NO_PERMISSION) && refused.stdout.is_empty(), "{refused:?}");
        ensure!(agent.program_tag("eth0")? == ordinary, "a stranger swapped the program");
        let allowed = agent.lb_as((USER, OPERATORS), &lb, &short)?;
        ensure!(allowed.status.success(), "{allowed:?}");
        let names: Vec<_> = (0..lb_common::trace::SLOTS).map(|n| format!("slot{n}")).collect();
        let traces: Vec<_> =
            names.iter().map(|name| Trace::start(lab, agent, name, &["udp"])).collect::<Result<_>>()?;
        said(&agent.lb_fails(REFUSED, &short)?, &["traces run already"])?;
        drop(traces);
        until_tag(agent, ordinary, "the ordinary program after all")
    });
}
