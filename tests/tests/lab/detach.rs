//! `lb detach` leaves nothing of ours and everything of others.

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use lb_tests::{
    agent::Agent,
    config::Service,
    hello::spread,
    lab::Lab,
    topo::{Node, Topology, VIP4, VIP6, host_prefix},
    wait::{PATIENCE, Seen, eventually},
};
use nix::mount::{MsFlags, mount, umount};

use crate::setup::{HELLO, HelloLab, PORT, config, said, service, xdp_program};

#[test]
fn with_a_live_agent() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = both_families(lab)?;
        detached(lab, &hello)?;
        hello.agent.start()?;
        ensure!(spread(hello.client(), HELLO, 10)?.values().eq(&[5, 5]), "a new start must work");
        Ok(())
    });
}

#[test]
fn after_a_crash() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = both_families(lab)?;
        hello.agent.kill9()?;
        detached(lab, &hello)?;
        let again = hello.agent.detach_again()?;
        ensure!(again.status.success(), "{again:?}");
        said(&again.stderr, &["nothing was attached"])
    });
}

/// Whoever attaches a program after the old one is gone is not refused: a start after `lb detach`, and one with another
/// mode. Others keep the kernel's worker waiting that would end a link whose pin is unlinked.
#[test]
fn the_interface_is_free_at_once() {
    const TURNS: usize = 4;
    Lab::test(Topology::one_segment(1), |lab| {
        let mut config = config(lab, 1);
        let hello = HelloLab::start_with(lab, &config)?;
        let agent = &hello.agent;
        let over = AtomicBool::new(false);
        // The kernel's lock for devices is one for all namespaces.
        let others = &|n: usize| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                hello.client().ip(&format!("link add br{n} type bridge\nlink del br{n}"))?;
            }
            Ok(())
        };
        let mut turn = |n: usize| -> Result<()> {
            agent.terminate()?;
            let mode = if n.is_multiple_of(2) { "generic" } else { "native" };
            mode.clone_into(&mut config.interfaces[0].1);
            agent.write_config(&config.to_yaml(&agent.socket()))?;
            agent.start().context("with another mode")?;
            agent.detach()?;
            nothing_is_attached(lab)?;
            agent.start().context("after detaching")?;
            ensure!(spread(hello.client(), HELLO, 2)?.values().eq(&[2]));
            Ok(())
        };
        thread::scope(|scope| {
            let others: Vec<_> = (0..4).map(|n| scope.spawn(move || others(n))).collect();
            let done = (0..TURNS).try_for_each(&mut turn);
            over.store(true, Ordering::Relaxed);
            others.into_iter().try_for_each(|it| it.join().map_err(|_| anyhow!("it panicked"))?)?;
            done
        })
    });
}

/// What cannot be taken down is an error of the command and of the agent, which says so in its log.
#[test]
fn that_fails() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = both_families(lab)?;
        let agent = &hello.agent;
        let busy = agent.pins().join("busy");
        fs::create_dir(&busy)?;
        mount(Some("tmpfs"), &busy, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        let told = agent.detach_again()?;
        ensure!(told.status.code() == Some(1) && !told.stdout.contains("detached"), "{told:?}");
        said(&told.stderr, &[&agent.pins().to_string_lossy(), "busy", "lb detach"])?;
        let status = agent.ended()?;
        ensure!(status.code() == Some(1), "lb run ended with {status}");
        said(&agent.log(), &["detaching failed", &agent.pins().to_string_lossy()])?;
        umount(&busy)?;
        agent.detach()?;
        nothing_is_left(lab, agent)
    });
}

/// Only what the agent has added goes with the last service that needs it.
#[test]
fn vips_of_deleted_services() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = both_families(lab)?;
        let second = format!("[{VIP6}]:9");
        hello.agent.lb(&["service", "add", "second", "-t", &second])?.ok()?;
        hello.agent.lb(&["service", "del", "six"])?.ok()?;
        ensure!(addresses(lab)?.contains(&VIP6.to_string()), "the second service still needs it");
        hello.agent.lb(&["service", "del", "second"])?.ok()?;
        hello.agent.lb(&["service", "del", "hello"])?.ok()?;
        let left = addresses(lab)?;
        ensure!(!left.contains(&host_prefix(VIP6)) && left.contains(&host_prefix(VIP4)), "{left}");
        Ok(())
    });
}

/// One that cannot be added keeps none that has to go: another host may have that one now.
#[test]
fn the_vip_of_a_deleted_service_beside_one_that_cannot_be_added() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        lab.net.director.netns.sysctl("ipv6/conf/eth0/disable_ipv6", "1")?;
        let six = format!("[{VIP6}]:9");
        let told = hello.agent.lb(&["service", "add", "six", "-t", &six])?;
        said(&told.stderr, &["not complete yet"])?;
        hello.agent.lb(&["service", "del", "hello"])?.ok()?;
        eventually(PATIENCE, "the VIP of the deleted service to go", || {
            let left = addresses(lab)?;
            Ok(if left.contains(&host_prefix(VIP4)) { Seen::NotYet(left) } else { Seen::Yes(()) })
        })?;
        lab.net.director.netns.sysctl("ipv6/conf/eth0/disable_ipv6", "0")?;
        eventually(PATIENCE, "the other one to come", || {
            let there = addresses(lab)?;
            Ok(if there.contains(&host_prefix(VIP6)) { Seen::Yes(()) } else { Seen::NotYet(there) })
        })
    });
}

/// A service on a VIP that the director had before, and one on a VIP that the agent adds.
fn both_families(lab: &Lab) -> Result<HelloLab<'_>> {
    lab.net.director.netns.ip(&format!("addr add {} dev eth0", host_prefix(VIP4)))?;
    let mut config = config(lab, 2);
    let sister = service(VIP6, lab.net.backends.iter().map(Node::ipv6));
    config.services.push(Service { name: "six".to_owned(), ..sister });
    let hello = HelloLab::start_with(lab, &config)?;
    for vip in [VIP4, VIP6] {
        let answered = spread(hello.client(), SocketAddr::new(vip, PORT), 10)?;
        ensure!(answered.values().eq(&[5, 5]), "{answered:?}");
    }
    ensure!(addresses(lab)?.contains(&host_prefix(VIP6)), "the VIP was not added");
    Ok(hello)
}

/// Detaches and looks for leftovers.
fn detached(lab: &Lab, hello: &HelloLab) -> Result<()> {
    let agent = &hello.agent;
    let (_, program) = agent.link("eth0")?;
    agent.detach()?;
    // The kernel frees a program after a grace period.
    eventually(PATIENCE, "the program to be freed", || {
        let mut ids = aya::programs::loaded_programs().filter_map(Result::ok).map(|program| program.id());
        Ok(if ids.any(|id| id == program) { Seen::NotYet(format!("{program}")) } else { Seen::Yes(()) })
    })?;
    nothing_is_left(lab, agent)
}

fn nothing_is_attached(lab: &Lab) -> Result<()> {
    let attached = xdp_program(&lab.net.director.netns)?;
    ensure!(attached.is_empty(), "{attached}");
    Ok(())
}

fn nothing_is_left(lab: &Lab, agent: &Agent) -> Result<()> {
    nothing_is_attached(lab)?;
    ensure!(!agent.bpffs().join("lb").exists(), "directories are left in the BPF file system");
    ensure!(!agent.socket().exists(), "the control socket is left");
    ensure!(!agent.state().join("host.json").exists(), "there is still something to undo");
    let left = addresses(lab)?;
    ensure!(!left.contains(&host_prefix(VIP6)), "the VIP that the agent had added is left:\n{left}");
    ensure!(left.contains(&host_prefix(VIP4)), "the VIP that was there before is gone:\n{left}");
    Ok(())
}

fn addresses(lab: &Lab) -> Result<String> {
    lab.net.director.netns.run("ip", &["addr", "show", "dev", "eth0"])?.ok()
}

/// Where no BPF file system is mounted the agent mounts one.
#[test]
fn bpffs_is_mounted_if_missing() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 2))?;
        let agent = lab.prepare_agent_on(&config(lab, 2), "run/bpf")?;
        agent.start()?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let point = format!(" {} bpf ", agent.bpffs().display());
        ensure!(mounts.contains(&point), "{mounts}");
        ensure!(agent.pins().join("meta").exists());
        ensure!(spread(hello.client(), HELLO, 10)?.values().eq(&[5, 5]));
        agent.detach()
    });
}
