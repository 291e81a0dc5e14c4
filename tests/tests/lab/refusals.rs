//! What `lb run` refuses: with one clear error, and with nothing changed.

use anyhow::{Context, Result, ensure};
use lb_tests::{
    agent::Agent,
    config::Config,
    hello::spread,
    lab::Lab,
    topo::{Topology, VIP4},
    xdp_pass,
};

use crate::setup::{HELLO, HelloLab, config, said, xdp_program};

#[test]
fn unknown_key() {
    Lab::test(Topology::one_segment(1), |lab| {
        let agent = lab.prepare_agent(&config(lab, 1))?;
        let text = std::fs::read_to_string(agent.config_path())?;
        agent.write_config(&format!("{text}flow: {{ipv4: 64k}}\n"))?;
        let line = text.lines().count() + 1;
        let place = format!("{}:{line}:", agent.config_path().display());
        refused(lab, &agent, &[&place, "flow"])
    });
}

/// Each with file, line, column, and the wrong thing named.
#[test]
fn bad_values() {
    Lab::test(Topology::one_segment(2), |lab| {
        let agent = lab.prepare_agent(&config(lab, 2))?;
        let text = std::fs::read_to_string(agent.config_path())?;
        let second = text.lines().skip_while(|line| !line.contains("- {name: hello")).collect::<Vec<_>>();
        let twice = |old: &str, new: &str| format!("{text}{}\n", second.join("\n").replacen(old, new, 1));
        let once = |old: &str, new: &str| text.replacen(old, new, 1);
        // The last line that has this; where it begins there.
        let at = |text: &str, what: &str| -> Result<String> {
            let lines: Vec<_> = text.lines().collect();
            let line = lines.iter().rposition(|line| line.contains(what)).context(what.to_owned())?;
            let column = lines[line].find(what).context(what.to_owned())?;
            Ok(format!("{}:{}:{}:", agent.config_path().display(), line + 1, column + 1))
        };
        for (bad, place, words) in [
            (twice("7000", "7001"), "hello,", &["hello", "taken"][..]),
            (twice("hello", "other"), "\"172.18.14.100", &["172.18.14.100:7000", "hello"]),
            (once("172.18.14.71", "172.18.14.710"), "\"172.18.14.710", &["172.18.14.710"]),
            (once("weight: 1", "weight: 65536"), "65536", &["65536", "65535"]),
            (once("weight: 1", "weight: -1"), "-1", &["-1", "65535"]),
            (once("172.18.14.71", "fd00:18:14::71"), "\"fd00:18:14::71", &["fd00:18:14::71", "IPv"]),
            (once("172.18.14.72", "172.18.14.71"), "\"172.18.14.71", &["172.18.14.71", "twice"]),
        ] {
            ensure!(bad != text, "nothing is wrong with it");
            agent.write_config(&bad)?;
            let place = at(&bad, place)?;
            refused(lab, &agent, &[&[place.as_str()], words].concat()).context(bad)?;
        }
        Ok(())
    });
}

#[test]
fn missing_interface_for_vips() {
    Lab::test(Topology::one_segment(1), |lab| {
        let config = Config { add_to: Some("eth7".to_owned()), ..config(lab, 1) };
        refused(lab, &*lab.prepare_agent(&config)?, &["vips.add_to", "eth7"])
    });
}

#[test]
fn missing_interface() {
    Lab::test(Topology::one_segment(1), |lab| {
        let mut config = config(lab, 1);
        config.interfaces[0].0 = "eth7".to_owned();
        refused(lab, &*lab.prepare_agent(&config)?, &["eth7"])
    });
}

#[test]
fn backend_behind_a_gateway() {
    Lab::test(Topology::one_segment(1), |lab| {
        lab.net.director.netns.ip("route add 10.9.9.0/24 via 172.18.14.1")?;
        let mut config = config(lab, 1);
        config.services[0].backends.push(("10.9.9.9".parse()?, 1));
        refused(lab, &*lab.prepare_agent(&config)?, &["10.9.9.9", "gateway", "172.18.14.1"])
    });
}

/// Root without the capabilities, as in a container.
#[test]
fn no_capabilities() {
    Lab::test(Topology::one_segment(1), |lab| {
        let agent = lab.prepare_agent(&config(lab, 1))?;
        let ended = agent.start_refused_with("-all")?;
        ensure!(ended.status.code() == Some(1), "{ended:?}");
        said(&ended.stderr, &["the kernel makes no map", "CAP_BPF", "locked down"])?;
        untouched(lab, &agent)
    });
}

/// The other program is named; `--replace` takes over.
#[test]
fn another_program_attached() {
    Lab::test(Topology::one_segment(1), |lab| displaced(lab, "xdpdrv"));
}

/// One in generic mode on a NIC that has native XDP: to be taken off in its own mode.
#[test]
fn another_generic_program_attached() {
    Lab::test(Topology::one_segment(1), |lab| displaced(lab, "xdpgeneric"));
}

fn displaced(lab: &Lab, mode: &str) -> Result<()> {
    let director = &lab.net.director.netns;
    xdp_pass::attach_in(mode, director, "eth0", &lab.scope.bpffs(), "their_program", &xdp_pass::PASS)?;
    let agent = lab.prepare_agent(&config(lab, 1))?;
    let hint = format!("`ip link set dev eth0 {mode} off`");
    said(&agent.start_refused(&[])?, &["eth0", "their_program", &hint, "bpftool prog show id", "--replace"])?;
    ensure!(xdp_program(director)?.contains("their_program"), "their program is gone");
    ensure!(!agent.pins().exists(), "pins are left");
    agent.start_with(&["--replace"])?;
    let program = xdp_program(director)?;
    ensure!(!program.contains("their_program") && program.contains("name lb"), "{program}");
    agent.detach()?;

    // What the refusal says to do does it.
    xdp_pass::attach_in(mode, director, "eth0", &lab.scope.bpffs(), "their_program", &xdp_pass::PASS)?;
    director.ip(&format!("link set dev eth0 {mode} off"))?;
    agent.start()
}

/// A second agent with the first one's socket; the first one goes on.
#[test]
fn socket_of_a_live_agent() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let second = lab.prepare_agent(&Config { instance: "second".to_owned(), ..config(lab, 1) })?;
        let socket = hello.agent.socket();
        let taken = config(lab, 1).to_yaml(&socket).replacen("instance: lab", "instance: second", 1);
        second.write_config(&taken)?;
        said(&second.start_refused(&[])?, &[&socket.to_string_lossy()])?;
        ensure!(!second.pins().exists(), "pins of the second instance are left");
        hello.agent.services().context("the live agent must still own its socket")?;
        ensure!(spread(hello.client(), HELLO, 10)?.values().eq(&[10]));
        Ok(())
    });
}

/// The same instance twice, even with another socket.
#[test]
fn instance_of_a_live_agent() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let text = std::fs::read_to_string(hello.agent.config_path())?;
        let other = hello.agent.socket().with_file_name("other.sock");
        hello.agent.write_config(&config(lab, 1).to_yaml(&other))?;
        said(&hello.agent.start_refused(&[])?, &["lab"])?;
        hello.agent.write_config(&text)?;
        ensure!(spread(hello.client(), HELLO, 10)?.values().eq(&[10]));
        Ok(())
    });
}

/// `lb run` ends by itself with an error that has `words`, and has not touched the director.
fn refused(lab: &Lab, agent: &Agent, words: &[&str]) -> Result<()> {
    said(&agent.start_refused(&[])?, words)?;
    untouched(lab, agent)
}

fn untouched(lab: &Lab, agent: &Agent) -> Result<()> {
    ensure!(!agent.pins().exists(), "pins are left in {}", agent.pins().display());
    ensure!(!agent.socket().exists(), "the control socket is left");
    let program = xdp_program(&lab.net.director.netns)?;
    ensure!(program.is_empty(), "a program is left: {program}");
    let addresses = lab.net.director.netns.run("ip", &["addr"])?.ok()?;
    ensure!(!addresses.contains(&VIP4.to_string()), "the VIP is left:\n{addresses}");
    Ok(())
}
