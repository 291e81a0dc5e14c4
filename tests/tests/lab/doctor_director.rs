//! `lb doctor` about the director itself: its agent, its pins, its interfaces.

use std::{
    fs,
    net::{IpAddr, UdpSocket},
};

use anyhow::{Result, ensure};
use aya::maps::{Array, Map, MapData};
use lb::{api::types::BackendState, doctor::Id};
use lb_common::{SCHEMA_VERSION, meta::Meta, tick::Reading};
use lb_tests::{
    config::Config,
    doctor::{doctor_command, report, report_by, says},
    finds,
    hello::{Hello, Session},
    lab::Lab,
    names,
    proc::{Lifetime, Proc},
    topo::{Segment, Topology, VIP4, host_prefix},
    wait::{PATIENCE, Seen, eventually},
    xdp_pass,
};
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
};

use crate::{
    doctor::{counters, end, two_segments},
    doctor_backend::rule,
    flood::flood,
    setup::{HELLO, HelloLab, PORT, SERVICE, backend_is, config, service, until_no_program, until_verdict},
};

#[test]
fn nothing_has_begun() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 1))?;
        let found = finds!(&hello.agent, NothingPinned)?;
        says(&found[0], &[&hello.agent.socket().to_string_lossy(), "systemctl start lb"])
    });
}

#[test]
fn an_agent_that_hangs() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        hello.agent.signal(Signal::SIGSTOP)?;
        let found = finds!(&hello.agent, AgentSilent)?;
        hello.agent.signal(Signal::SIGCONT)?;
        says(&found[0], &["holds the instance's lock", "kill ", "forwarding stays up"])?;
        // It is there, and nobody reaches it.
        fs::remove_file(hello.agent.socket())?;
        let found = finds!(&hello.agent, AgentSilent)?;
        says(&found[0], &["nobody listens", "holds the instance's lock"])?;
        hello.agent.terminate()
    });
}

#[test]
fn the_socket_of_another_instance() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let found = finds!((&hello.agent, "other"), SocketOfAnother)?;
        says(&found[0], &["instance lab, not other"])
    });
}

#[test]
fn pins_of_another_version() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 1))?;
        fs::create_dir_all(hello.agent.pins().join("v77"))?;
        let mut meta = Array::<MapData, Meta>::create(1, 0)?;
        meta.set(0, Meta { schema: 77, ..Meta::default() }, 0)?;
        meta.pin(hello.agent.pins().join("meta"))?;
        let found = finds!(&hello.agent, PinsOtherVersion, AgentDown)?;
        says(&found[0], &["77", &SCHEMA_VERSION.to_string(), "detach"])
    });
}

#[test]
fn pins_that_are_incomplete() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        hello.agent.terminate()?;
        fs::remove_file(hello.agent.pins().join(format!("v{SCHEMA_VERSION}")).join("DESTS"))?;
        let found = finds!(&hello.agent, PinsUnusable, AgentDown)?;
        says(&found[0], &["DESTS", "detach"])
    });
}

#[test]
fn a_program_that_is_gone_and_one_of_somebody_else() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        hello.agent.kill9()?;
        fs::remove_file(hello.agent.pins().join("link_eth0"))?;
        until_no_program(&lab.net.director.netns, "eth0")?;
        let found = finds!(&hello.agent, AgentDown, NotAttached)?;
        says(&found[1], &["eth0", "no XDP program"])?;
        let director = &lab.net.director.netns;
        xdp_pass::attach(director, "eth0", &lab.scope.bpffs(), "somebody", &xdp_pass::PASS)?;
        let found = finds!(&hello.agent, AgentDown, ForeignProgram)?;
        says(&found[1], &["eth0", "xdpdrv off", "--replace"])?;
        xdp_pass::detach(director, "eth0")
    });
}

#[test]
fn a_clock_that_has_gone_wrong() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        hello.agent.terminate()?;
        let pin = hello.agent.pins().join(format!("v{SCHEMA_VERSION}")).join("CLOCK");
        let mut clock = Array::<_, Reading>::try_from(Map::from_map_data(MapData::from_pin(pin)?)?)?;
        let Reading { jiffies, monotonic_ns } = clock.get(&0, 0)?;
        finds!(&hello.agent, AgentDown)?;
        // An hour of jiffies that CLOCK_MONOTONIC has not seen.
        clock.set(
            0,
            Reading { jiffies: jiffies - 3600 * u64::from(lb::clock::kernel_hz()), monotonic_ns },
            0,
        )?;
        let found = finds!(&hello.agent, AgentDown, ClockApart)?;
        says(&found[1], &["3600 s apart"])
    });
}

/// One finding, not one of each backend that cannot be reached.
#[test]
fn a_cable_is_out() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        lab.net.switch.ip("link set dev p-director0 down")?;
        let found = finds!(&hello.agent, LinkDown)?;
        says(&found[0], &["eth0", "no carrier"])?;
        lab.net.director.netns.ip("link set dev eth0 down")?;
        let found = finds!(&hello.agent, LinkDown)?;
        says(&found[0], &["ip link set eth0 up"])
    });
}

#[test]
fn generic_mode() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mut config = config(lab, 1);
        config.interfaces[0].1 = "generic".to_owned();
        let hello = HelloLab::start_with(lab, &config)?;
        let found = finds!(&hello.agent, GenericMode)?;
        ensure!(found[0].severity == "warning", "{found:#?}");
        says(&found[0], &["eth0", "xdpgeneric"])
    });
}

#[test]
fn a_vip_that_nobody_has() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start_with(lab, &Config { add_to: None, ..config(lab, 1) })?;
        let found = finds!(&hello.agent, VipNotHere)?;
        says(&found[0], &[&VIP4.to_string(), "add_to"])
    });
}

/// What is passed up is not the director's own, and so it is sent on. A director that has its VIP may route what it likes.
#[test]
fn a_director_that_routes() {
    Lab::test(Topology::one_segment(1), |lab| {
        let director = &lab.net.director.netns;
        director.sysctl("ipv4/conf/all/forwarding", "1")?;
        let hello = HelloLab::start_with(lab, &Config { add_to: None, ..config(lab, 1) })?;
        director.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
        finds!(&hello.agent)?;
        director.ip(&format!("addr del {} dev lo", host_prefix(VIP4)))?;
        let found = finds!(&hello.agent, VipNotHere, IpForward)?;
        says(&found[1], &[&VIP4.to_string(), "sysctl -w net.ipv4.conf.eth0.forwarding=0"])?;
        // As the finding says: what comes for a port that no service has, comes back to who sent it.
        let (client, gateway) = (lab.net.client(), lab.net.director.ipv4());
        client.netns.ip(&format!("route add {} via {gateway}", host_prefix(VIP4)))?;
        director.ip(&format!("route add {} via {}", host_prefix(VIP4), client.ipv4()))?;
        rule(&client.netns, "prerouting", &format!("ip daddr {VIP4} udp dport 9 counter"))?;
        client.netns.enter(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", (VIP4, 9)))??;
        eventually(PATIENCE, "the packet to come back", || {
            let back = counters(&client.netns)?;
            Ok(if back == [0] { Seen::NotYet(format!("{back:?}")) } else { Seen::Yes(()) })
        })?;
        // What it says to do ends it.
        director.sysctl("ipv4/conf/eth0/forwarding", "0")?;
        finds!(&hello.agent, VipNotHere).map(drop)
    });
}

/// The state directory as a file system of its own: full, and then read-only.
#[test]
fn a_state_directory_that_cannot_be_written() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 1))?;
        let state = hello.agent.state();
        fs::create_dir_all(&state)?;
        let size = Some("size=8M");
        mount(Some("tmpfs"), &state, Some("tmpfs"), MsFlags::empty(), size)?;
        hello.agent.start()?;
        finds!(&hello.agent)?;
        let ballast = vec![0; 6 << 20];
        fs::write(state.join("ballast"), &ballast)?;
        let found = finds!(&hello.agent, DiskFull)?;
        says(&found[0], &[&state.to_string_lossy(), "bytes are left"])?;
        // It has its lock open for writing.
        hello.agent.terminate()?;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, &state, None::<&str>, read_only, None::<&str>)?;
        let found = finds!(&hello.agent, AgentDown, StateReadOnly)?;
        says(&found[1], &[&state.to_string_lossy(), "remount"])?;
        Ok(mount(None::<&str>, &state, None::<&str>, MsFlags::MS_REMOUNT, None::<&str>)?)
    });
}

/// As the kernel of a small system: in a mount namespace of its own the doctor sees no type information.
#[test]
fn a_kernel_without_type_information() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let empty = lab.scope.dir().join("empty");
        fs::create_dir(&empty)?;
        let doctor = doctor_command(&hello.agent, "lab")?;
        let mut command = lab.net.director.netns.command("unshare")?;
        command
            .args(["--mount", "sh", "-c", r#"mount --bind "$0" /sys/kernel/btf && exec "$@""#])
            .arg(&empty);
        command.arg(doctor.get_program()).args(doctor.get_args());
        let found = finds!(command, NoBtf)?;
        ensure!(found[0].severity == "warning", "{found:#?}");
        says(&found[0], &["/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y"])?;
        finds!(&hello.agent).map(drop)
    });
}

/// By personality(2) uname(2) tells the doctor of a kernel 2.6.
#[test]
fn a_kernel_that_is_too_old() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let doctor = doctor_command(&hello.agent, "lab")?;
        let mut command = lab.net.director.netns.command("setarch")?;
        command.args(["x86_64", "--uname-2.6"]).arg(doctor.get_program()).args(doctor.get_args());
        let found = finds!(command, KernelTooOld)?;
        says(&found[0], &["its release is 2.6.", "6.1 or newer"])
    });
}

/// A veth transmits what XDP redirects to it while its peer has a program or GRO. The agent warns of it too, which is no
/// second finding; without an agent it is found as well.
#[test]
fn a_driver_that_does_not_transmit() {
    Lab::test(Topology::two_segments(1), |lab| {
        let switch = &lab.net.switch;
        xdp_pass::detach(switch, "p-director1")?;
        let hello = HelloLab::start_with(lab, &two_segments(lab, VIP4))?;
        let found = finds!(&hello.agent, DriverLacks)?;
        says(&found[0], &["eth1", "transmits no frames", "mode: generic"])?;
        hello.agent.kill9()?;
        finds!(&hello.agent, AgentDown, DriverLacks)?;
        xdp_pass::attach(switch, "p-director1", &lab.scope.bpffs(), "xdp_pass", &xdp_pass::PASS)?;
        finds!(&hello.agent, AgentDown).map(drop)
    });
}

/// A root without CAP_NET_RAW, in a container say, can read but not ask.
#[test]
fn a_doctor_who_may_not_look() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let doctor = doctor_command(&hello.agent, "lab")?;
        let mut command = lab.net.director.netns.command("setpriv")?;
        command.args(["--bounding-set", "-net_raw"]).arg(doctor.get_program()).args(doctor.get_args());
        let report = report_by(command)?;
        ensure!(names!(&report.findings, NoPrivilege) && report.findings.len() == 1, "{report:#?}");
        ensure!(report.unknown.iter().any(|words| words.contains("raw sockets")), "{report:#?}");
        says(&report.findings[0], &["CAP_NET_RAW (asking backends)"])
    });
}

#[test]
fn flow_tables_that_are_too_small() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = with_small_table(lab)?;
        // 16 is what it is rated for.
        let mut sessions = sessions(&hello, 13)?;
        // Its sweeper counts them, once a second.
        eventually(PATIENCE, "the agent to count its connections", || {
            let stats = hello.agent.stats()?;
            let used = stats.flows.iter().find(|table| table.table == "ipv4").map_or(0, |table| table.used);
            Ok(if used == 13 { Seen::Yes(()) } else { Seen::NotYet(format!("{used}")) })
        })?;
        let found = finds!(&hello.agent, TableFull)?;
        says(&found[0], &["ipv4", "13 connections, rated for 16", "lb reload"])?;
        // Four slots for each: some of these find none.
        sessions.extend(self::sessions(&hello, 80)?);
        until_verdict(&hello.agent, "event-placed-by-hash", 1)?;
        eventually(PATIENCE, "the doctor to see that connections find no room", || {
            let found = report(&hello.agent, "lab")?.findings;
            sessions.push(Session::open(hello.client(), HELLO)?);
            let overflows = names!(&found, TableOverflows);
            Ok(if overflows { Seen::Yes(()) } else { Seen::NotYet(format!("{found:#?}")) })
        })
    });
}

/// Half-open connections give way to each other, and none lacks room for it.
#[test]
fn a_flow_table_whose_half_open_connections_give_way() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = with_small_table(lab)?;
        let mut parts = (0..).step_by(200);
        let found = eventually(PATIENCE, "the doctor to see that connections give way", || {
            flood(hello.client(), parts.next().unwrap_or_default(), 200)?;
            let mut found = report(&hello.agent, "lab")?.findings;
            if names!(&found, TableOverflows) {
                found.retain(|finding| finding.id == Id::TableOverflows);
                return Ok(Seen::Yes(found));
            }
            Ok(Seen::NotYet(format!("{found:#?}")))
        })?;
        says(
            &found[0],
            &["0.0 connections a second find no room, ", "half-open ones give way", "lb reload"],
        )?;
        ensure!(!found[0].found.contains(", 0.0 closing"), "{found:#?}");
        Ok(())
    });
}

/// Of 16 flows, with four slots for each.
fn with_small_table(lab: &Lab) -> Result<HelloLab<'_>> {
    let mut small = config(lab, 1);
    // Nearly nothing is too fast for the guard of so small a table.
    small.services[0].more = "guard: off".to_owned();
    let hello = HelloLab::prepare(lab, &small)?;
    let text = small.to_yaml(&hello.agent.socket()).replace("ipv4: 64k", "ipv4: 16");
    hello.agent.write_config(&text)?;
    hello.agent.start()?;
    Ok(hello)
}

fn sessions(hello: &HelloLab, count: usize) -> Result<Vec<Session>> {
    (0..count).map(|_| Session::open(hello.client(), HELLO)).collect()
}

/// Only what the program passes up meets netfilter.
#[test]
fn a_firewall_of_the_director() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let director = &lab.net.director.netns;
        rule(director, "input", &format!("ip daddr {VIP4} tcp dport {PORT} drop"))?;
        finds!(&hello.agent)?;
        rule(director, "input", &format!("ip saddr {} tcp sport {PORT} drop", hello.address(1)))?;
        let found = finds!(&hello.agent, FirewallDrops)?;
        says(&found[0], &["inet lab input", &hello.address(1), "handle"])
    });
}

/// A network that has the backends in it, and a policy, and what makes both right: the checks' state shows it, too.
#[test]
fn a_firewall_that_drops_answers_to_checks() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mut config = config(lab, 1);
        // A machine that stands still for some seconds fails one attempt, and no second one.
        let timing = "via: rip, interval: 300ms, timeout: 2s, rise: 1, fall: 2";
        config.services[0].more = format!("checks: [{{tcp: , {timing}}}]");
        let hello = HelloLab::start_with(lab, &config)?;
        let is = |state| backend_is(&hello.agent, SERVICE, &hello.key(1), state);
        is(BackendState::Up)?;
        let director = &lab.net.director.netns;
        rule(director, "input", "ip saddr 172.18.0.0/16 tcp dport 22 drop")?;
        finds!(&hello.agent)?;
        rule(director, "input", "ip saddr 172.18.0.0/16 drop")?;
        is(BackendState::Down)?;
        let found = finds!(&hello.agent, NoBackend, CheckWrong, FirewallDrops)?;
        says(&found[2], &["inet lab input", &hello.address(1), "172.18.0.0", "handle"])?;
        director
            .run(
                "nft",
                &["insert", "rule", "inet", "lab", "input", "ct", "state", "established,related", "accept"],
            )?
            .ok()?;
        is(BackendState::Up)?;
        finds!(&hello.agent)?;
        director.run("nft", &["flush", "ruleset"])?.ok()?;
        director.run("nft", &["add", "table", "ip", "own"])?.ok()?;
        let chain = "{ type filter hook input priority 0; policy drop; }";
        director.run("nft", &["add", "chain", "ip", "own", "in", chain])?.ok()?;
        is(BackendState::Down)?;
        let found = finds!(&hello.agent, NoBackend, CheckWrong, FirewallDrops)?;
        says(&found[2], &["policy drop", "nft insert rule ip own in ct state established,related accept"])?;
        director
            .run(
                "nft",
                &["insert", "rule", "ip", "own", "in", "ct", "state", "established,related", "accept"],
            )?
            .ok()?;
        is(BackendState::Up)?;
        finds!(&hello.agent).map(drop)
    });
}

/// nft(8) does not list these.
#[test]
fn a_firewall_of_the_older_kind() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let director = &lab.net.director.netns;
        let source = format!("{}/32", hello.address(2));
        // The lock that it may have to wait for is the whole machine's.
        let rule = ["INPUT", "-s", &source, "-p", "tcp", "--sport", "7000", "-j", "DROP"];
        director.run("iptables-legacy", &[&["-w", "-A"][..], &rule].concat())?.ok()?;
        let found = finds!(&hello.agent, FirewallDrops)?;
        says(&found[0], &["iptables filter INPUT", &hello.address(2), "iptables-legacy-save"])?;
        director.run("iptables-legacy", &[&["-w", "-D"][..], &rule].concat())?.ok()?;
        finds!(&hello.agent).map(drop)
    });
}

/// The director as its own backend, with clients in two segments.
#[test]
fn a_strict_reverse_path_filter_of_a_director_that_serves() {
    Lab::test(Topology::two_segments(1), |lab| {
        let (hello, server) = serving(lab)?;
        finds!(&hello.agent)?;
        let director = &lab.net.director.netns;
        director.sysctl("ipv4/conf/eth1/rp_filter", "1")?;
        let found = finds!(&hello.agent, RpFilter)?;
        says(&found[0], &["eth1", "rp_filter=2"])?;
        director.sysctl("ipv4/conf/eth1/rp_filter", "0")?;
        rule(director, "input", &format!("ip daddr {VIP4} tcp dport {PORT} drop"))?;
        let found = finds!(&hello.agent, FirewallDrops)?;
        says(&found[0], &[&VIP4.to_string()])?;
        end(server, lab, &lab.net.director)?;
        let found = finds!(&hello.agent, PortClosed, FirewallDrops)?;
        says(&found[0], &["the backend is this director", "start the server"])
    });
}

#[test]
fn a_service_without_a_backend() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        for n in [1, 2] {
            hello.agent.lb(&["backend", "drain", SERVICE, &hello.address(n)])?.ok()?;
        }
        let found = finds!(&hello.agent, NoBackend)?;
        says(&found[0], &[SERVICE, &format!("{} is drained", hello.key(1)), &hello.key(2)])
    });
}

#[test]
fn what_the_agent_itself_warns_of() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        hello.agent.lb(&["backend", "edit", SERVICE, &hello.address(2), "-w", "3"])?.ok()?;
        hello.agent.kill9()?;
        fs::write(hello.agent.state().join("overlay.json"), "no journal")?;
        hello.agent.start()?;
        let found = finds!(&hello.agent, AgentWarning)?;
        says(&found[0], &["agent lab", "damaged journal"])
    });
}

/// A director whose only backend is itself.
fn serving(lab: &Lab) -> Result<(HelloLab<'_>, Hello)> {
    lab.net.director.netns.ip(&format!("addr add {} dev lo", host_prefix(VIP4)))?;
    let server = Hello::start(&lab.net.director, PORT)?;
    let own = IpAddr::V4(lab.net.director.link(Segment::Front).ipv4);
    let config = Config { add_to: None, services: vec![service(VIP4, [own])], ..config(lab, 0) };
    Ok((HelloLab::start_with(lab, &config)?, server))
}

/// VRRP alone may stay.
#[test]
fn keepalived_with_virtual_servers() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let _vrrp = keepalived(lab, "vrrp", "")?;
        finds!(&hello.agent)?;
        let serving =
            keepalived(lab, "serving", &format!("virtual_server {VIP4} {PORT} {{\n lb_algo rr\n}}\n"))?;
        let found = finds!(&hello.agent, KeepalivedServes)?;
        says(&found[0], &[&VIP4.to_string(), "serving.conf", "VRRP may stay"])?;
        drop(serving);
        // In a group, and in another file.
        let group = format!("virtual_server_group g {{\n 172.18.15.1-9 80\n {VIP4} {PORT}\n}}\n");
        fs::write(lab.scope.dir().join("group.inc"), group)?;
        let _grouped =
            keepalived(lab, "grouped", "include gr*.inc\nvirtual_server group g {\n lb_algo rr\n}\n")?;
        let found = finds!(&hello.agent, KeepalivedServes)?;
        says(&found[0], &[&VIP4.to_string(), "grouped.conf"])
    });
}

/// On the director, with the VRRP instance of a VIP that no service has. This kernel has no IPVS: `--vrrp` alone runs.
fn keepalived(lab: &Lab, name: &str, more: &str) -> Result<Proc> {
    let file = |ending: &str| lab.scope.dir().join(format!("{name}.{ending}"));
    let (router, own) = if name == "vrrp" { (70, "172.18.14.240") } else { (71, "172.18.14.241") };
    fs::write(
        file("conf"),
        format!(
            "vrrp_instance {name} {{\n state BACKUP\n interface eth0\n virtual_router_id {router}\n priority 100\n \
             virtual_ipaddress {{\n {own}\n }}\n}}\n{more}"
        ),
    )?;
    let mut command = lab.net.director.netns.command("keepalived")?;
    command.args(["--vrrp", "-n", "-l", "-f"]).arg(file("conf"));
    command.arg("-p").arg(file("pid")).arg("-r").arg(file("vrrp.pid")).arg("-b").arg(file("bfd.pid"));
    let proc = Proc::spawn("keepalived", command, &file("log"), Lifetime::Guarded)?;
    eventually(PATIENCE, "keepalived to run", || {
        let pid = fs::read_to_string(file("vrrp.pid")).unwrap_or_default();
        Ok(if pid.trim().is_empty() { Seen::NotYet("no pid file".to_owned()) } else { Seen::Yes(()) })
    })?;
    Ok(proc)
}
