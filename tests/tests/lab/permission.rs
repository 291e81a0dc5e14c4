//! Who may do what.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::Command,
};

use anyhow::{Result, ensure};
use lb_tests::{agent::lb_binary, lab::Lab, proc::run, topo::Topology};

use crate::setup::{HelloLab, config, said, xdp_program};

/// A user and groups that need not exist.
const USER: u32 = 65534;
const OPERATORS: u32 = 4242;
const STRANGERS: u32 = 4343;

/// Documented in `lb --help`.
const NO_PERMISSION: i32 = 4;

#[test]
fn the_agent_needs_root() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 1))?;
        let (_dir, lb) = public_binary()?;
        let file = hello.agent.config_path();
        let args = ["run", "--config", &file.to_string_lossy()];
        let ran = hello.agent.lb_as((USER, USER), &lb, &args)?;
        ensure!(ran.status.code() == Some(NO_PERMISSION), "{ran:?}");
        said(&ran.stderr, &["root", "sudo"])?;
        ensure!(xdp_program(&lab.net.director.netns)?.is_empty() && !hello.agent.pins().exists());
        Ok(())
    });
}

#[test]
fn the_socket_is_roots_or_the_groups() {
    Lab::test(Topology::one_segment(1), |lab| {
        let hello = HelloLab::prepare(lab, &config(lab, 1))?;
        let agent = &hello.agent;
        let (_dir, lb) = public_binary()?;
        let list = |group| agent.lb_as((USER, group), &lb, &["service", "list"]);
        let refused = |group| {
            let ran = list(group)?;
            ensure!(ran.status.code() == Some(NO_PERMISSION) && ran.stdout.is_empty(), "{ran:?}");
            said(&ran.stderr, &[&agent.socket().to_string_lossy(), "root", "group"])
        };
        agent.start()?;
        let socket = fs::metadata(agent.socket())?;
        ensure!((socket.mode() & 0o777, socket.uid(), socket.gid()) == (0o660, 0, 0), "{socket:?}");
        refused(OPERATORS)?;
        agent.terminate()?;

        agent.start_with(&["--socket-group", &OPERATORS.to_string()])?;
        let socket = fs::metadata(agent.socket())?;
        ensure!((socket.mode() & 0o777, socket.gid()) == (0o660, OPERATORS), "{socket:?}");
        ensure!(list(OPERATORS)?.ok()?.contains("hello"));
        refused(STRANGERS)?;
        agent.terminate()?;
        said(
            &agent.start_refused(&["--socket-group", "nobody-has-this-group"])?,
            &["nobody-has-this-group", "groupadd"],
        )
    });
}

/// A copy of `lb` where every user may run it: a checkout may lie in a home directory.
pub fn public_binary() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let lb = dir.path().join("lb");
    // Not by ourselves: a child that another test has just forked would have it open for writing too, until it becomes
    // the program that it is to be, and what is open for writing cannot be run (ETXTBSY).
    let mut copy = Command::new("cp");
    copy.arg(lb_binary()?).arg(&lb);
    run(copy)?.ok()?;
    fs::set_permissions(&lb, Permissions::from_mode(0o755))?;
    Ok((dir, lb))
}
