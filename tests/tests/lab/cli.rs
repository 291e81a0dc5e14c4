//! What the command line says when it cannot do what it was asked, and its exit codes.

use anyhow::{Context, ensure};
use lb_tests::{lab::Lab, topo::Topology};

use crate::setup::{HELLO, HelloLab, SERVICE, said};

// As `lb --help` documents them.
const USAGE: i32 = 2;
const NOT_RUNNING: i32 = 3;
const NOT_FOUND: i32 = 5;
const REFUSED: i32 = 6;

#[test]
fn each_failure_has_its_code_and_says_what_to_do() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 1)?;
        let agent = &hello.agent;
        let (one, two, six) = (hello.address(1), hello.address(2), "fd00:18:14::71");
        let endpoint = HELLO.to_string();
        let before = agent.services()?;
        for (code, args, words) in [
            (NOT_FOUND, &["service", "show", "helo"][..], &["helo", "hello"][..]),
            (NOT_FOUND, &["service", "del", "10.0.0.1:80"], &["10.0.0.1:80"]),
            (NOT_FOUND, &["backend", "drain", "hallo", &one], &["hallo", "hello"]),
            (NOT_FOUND, &["backend", "edit", SERVICE, &two, "-w", "1"], &[&two, SERVICE]),
            (NOT_FOUND, &["conn", "list", "--service", "hell"], &["hell", "hello"]),
            (REFUSED, &["service", "add", SERVICE, "-t", "10.0.0.1:80"], &[SERVICE]),
            (REFUSED, &["service", "add", "other", "-t", &endpoint], &[&endpoint, SERVICE]),
            (REFUSED, &["backend", "add", SERVICE, &one], &[&one, "already"]),
            (REFUSED, &["backend", "add", SERVICE, six], &[six, "IPv"]),
            (REFUSED, &["backend", "add", SERVICE, "172.18.14.72:9"], &["7000", "9"]),
            (REFUSED, &["backend", "edit", SERVICE, &one, "-x", "2", "-y", "3"], &["2", "3", "threshold"]),
            (USAGE, &["backend", "edit", SERVICE, &one, "-w", "65536"], &["65536", "65535"]),
            (USAGE, &["backend", "add", SERVICE, "172.18.14.720"], &["172.18.14.720"]),
            (USAGE, &["service", "add", "x", "-t", "10.0.0.1:80", "-s", "round"], &["round", "wrr"]),
            (USAGE, &["conn", "list", "--backend", &one], &["--service"]),
        ] {
            let error = agent.lb_fails(code, args).with_context(|| format!("{args:?}"))?;
            said(&error, words).with_context(|| format!("{args:?}"))?;
            ensure!(agent.services()? == before, "{args:?} changed something");
        }
        agent.terminate()?;
        for args in [&["service", "list"][..], &["status"], &["reload"], &["stats"], &["save"]] {
            let error = agent.lb_fails(NOT_RUNNING, args)?;
            said(&error, &["not running", &agent.socket().to_string_lossy(), "lb run"])?;
        }
        Ok(())
    });
}

/// A backend that Direct Routing cannot reach is refused at run time as at the start.
#[test]
fn backend_behind_a_gateway() {
    Lab::test(Topology::one_segment(2), |lab| {
        lab.net.director.netns.ip("route add 10.9.9.0/24 via 172.18.14.1")?;
        let hello = HelloLab::start(lab, 2)?;
        let before = hello.agent.services()?;
        let error = hello.agent.lb_fails(REFUSED, &["backend", "add", SERVICE, "10.9.9.9"])?;
        said(&error, &["10.9.9.9", "gateway", "172.18.14.1", "segment"])?;
        ensure!(hello.agent.services()? == before);
        Ok(())
    });
}
