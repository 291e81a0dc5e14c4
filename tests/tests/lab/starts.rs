//! Starts that fail or are interrupted: what they had made is taken down again.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Result, ensure};
use lb::api::types::Status;
use lb_tests::{
    agent::Agent,
    config::Config,
    lab::Lab,
    topo::{Topology, VIP4},
    wait::{PATIENCE, Seen, eventually},
};
use nix::sys::signal::Signal;

use crate::setup::{SERVICE, config, said, xdp_program};

/// The second interface refuses native XDP when the first one has its program already.
#[test]
fn failure_at_the_second_interface() {
    Lab::test(Topology::one_segment(1), |lab| fails_at_the_second(lab, None));
}

/// What `host.json` tells of another boot is gone: it makes nobody's pins an earlier agent's.
#[test]
fn failure_after_a_reboot() {
    Lab::test(Topology::one_segment(1), |lab| {
        let of_another_boot = format!(
            r#"{{"boot": "another", "addresses": [["eth0", "{VIP4}"]], "offloads": [["eth0", "rx-lro"]]}}"#
        );
        fails_at_the_second(lab, Some(&of_another_boot))
    });
}

fn fails_at_the_second(lab: &Lab, host_changes: Option<&str>) -> Result<()> {
    // A bridge's driver has no XDP.
    lab.net.director.netns.ip("link add br9 type bridge\nlink set br9 up")?;
    let mut config = config(lab, 1);
    config.interfaces.push(("br9".to_owned(), "native".to_owned()));
    let agent = lab.prepare_agent(&config)?;
    fs::create_dir_all(agent.state())?;
    if let Some(text) = host_changes {
        fs::write(agent.state().join("host.json"), text)?;
    }
    let error = agent.start_refused(&[])?;
    said(&error, &["br9", "refuses a native XDP program", "`mode: generic`"])?;
    ensure!(error.matches("not supported").count() == 1, "the cause is said once: {error}");
    nothing_is_left(lab, &agent)
}

/// While it waits for a backend's MAC, with its maps made.
#[test]
fn terminated_during_the_start() {
    Lab::test(Topology::one_segment(1), |lab| {
        let agent = lab.prepare_agent(&slow_start(lab)?)?;
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            agent.begin(&[])?;
            until_exists(&agent.pins().join("meta"))?;
            agent.signal(signal)?;
            let status = agent.ended()?;
            ensure!(status.success(), "{signal}: {status}");
            said(&agent.log(), &["asked to stop before the start was complete"])?;
            nothing_is_left(lab, &agent)?;
        }
        Ok(())
    });
}

/// The same while an earlier agent's program forwards: it goes on.
#[test]
fn terminated_during_a_restart() {
    Lab::test(Topology::one_segment(1), |lab| {
        let agent = lab.prepare_agent(&slow_start(lab)?)?;
        agent.start()?;
        agent.kill9()?;
        let link = agent.link("eth0")?;
        // Left by the killed one.
        fs::remove_file(agent.socket())?;
        agent.begin(&[])?;
        until_exists(&agent.socket())?;
        agent.signal(Signal::SIGTERM)?;
        ensure!(agent.ended()?.success());
        ensure!(agent.pins().join("meta").exists() && agent.link("eth0")?.0 == link.0);
        Ok(())
    });
}

/// A reload that is asked for before the agent is ready is done when it is.
#[test]
fn reload_during_the_start() {
    Lab::test(Topology::one_segment(1), |lab| {
        let config = slow_start(lab)?;
        let agent = lab.prepare_agent(&config)?;
        agent.begin(&[])?;
        until_exists(&agent.pins().join("meta"))?;
        let mut changed = config;
        changed.services[0].backends[0].1 = 7;
        agent.write_config(&changed.to_yaml(&agent.socket()))?;
        agent.signal(Signal::SIGHUP)?;
        agent.said("READY=1")?;
        agent.said("RELOADING=1")?;
        agent.said("READY=1")?;
        let weight = agent.services()?[0].backends[0].weight;
        ensure!(weight == 7, "{SERVICE} has weight {weight}");
        let status: Status = agent.json(&["status"])?;
        ensure!(status.services == 1, "{status:#?}");
        Ok(())
    });
}

/// A start that was refused unmounts what it had mounted.
#[test]
fn bpffs_of_a_failed_start() {
    Lab::test(Topology::one_segment(1), |lab| {
        lab.net.director.netns.ip("link add br9 type bridge\nlink set br9 up")?;
        let mut config = config(lab, 1);
        config.interfaces[0] = ("br9".to_owned(), "native".to_owned());
        let agent = lab.prepare_agent_on(&config, "run/bpf")?;
        said(&agent.start_refused(&[])?, &["br9"])?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        ensure!(!mounts.contains(&format!(" {} ", agent.bpffs().display())), "{mounts}");
        ensure!(!agent.bpffs().exists(), "the mount point is left");
        Ok(())
    });
}

/// A backend that nobody is: the start asks for its MAC for a while.
fn slow_start(lab: &Lab) -> Result<Config> {
    let mut config = config(lab, 1);
    config.services[0].backends = vec![("172.18.14.99".parse::<IpAddr>()?, 1)];
    Ok(config)
}

fn until_exists(path: &Path) -> Result<()> {
    eventually(PATIENCE, &path.to_string_lossy(), || {
        Ok(if path.exists() { Seen::Yes(()) } else { Seen::NotYet("not there".to_owned()) })
    })
}

fn nothing_is_left(lab: &Lab, agent: &Agent) -> Result<()> {
    let director = &lab.net.director.netns;
    let program = xdp_program(director)?;
    ensure!(program.is_empty(), "a program is left: {program}");
    ensure!(!agent.bpffs().join("lb").exists(), "pins are left in {}", agent.pins().display());
    ensure!(!agent.socket().exists(), "the control socket is left");
    ensure!(!agent.state().join("host.json").exists(), "there is something to undo");
    let addresses = director.run("ip", &["addr"])?.ok()?;
    ensure!(!addresses.contains(&VIP4.to_string()), "the VIP is left:\n{addresses}");
    Ok(())
}
