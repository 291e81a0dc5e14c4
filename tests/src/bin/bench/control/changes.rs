//! One change of a configuration of 4,096 services of 16 backends: by the API, and by a file.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use lb::{
    api::{client::Client, types::BackendEdit},
    model::{BackendKey, ServiceName},
};
use lb_tests::clock::now;

use super::{
    shown::Shown,
    world::{BACKENDS, PORT, SERVICES, World, name},
};
use crate::pace::Pace;

/// Of each kind.
const CHANGES: u16 = 30;

/// Each gives the first service's first backend another weight, and is there when it is answered.
pub fn changes(world: &World, shown: &mut Shown) -> Result<()> {
    world.write(&world.large(1, &world.addresses))?;
    world.agent.start()?;
    let heading =
        format!("with {SERVICES} services of {BACKENDS} backends, each {CHANGES} times, one after the other");
    shown.heading(&heading);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (client, service) = (Client::new(world.agent.socket()), ServiceName::new(name(0))?);
    let key = BackendKey { address: world.addresses[0], port: PORT };
    let weight = || -> Result<u16> {
        let view = runtime.block_on(client.service(&service))?;
        Ok(view.backends.iter().find(|backend| backend.key == key).context("no backend")?.weight)
    };
    measure(world, shown, "a backend's weight by the API", weight, |weight| {
        let edit = BackendEdit { weight: Some(weight), upper_threshold: None, lower_threshold: None };
        let since = now();
        runtime.block_on(client.backend_edit(&service, key, &edit))?;
        Ok(since.elapsed())
    })?;
    measure(world, shown, "a reload that changes 1 service", weight, |weight| {
        world.write(&world.large(weight, &world.addresses))?;
        let since = now();
        world.agent.hang_up()?;
        Ok(since.elapsed())
    })?;
    world.detach()
}

fn measure(
    world: &World,
    shown: &mut Shown,
    what: &str,
    is: impl Fn() -> Result<u16>,
    change: impl Fn(u16) -> Result<Duration>,
) -> Result<()> {
    let (mut times, mut used, pid) = (Vec::new(), Duration::ZERO, world.status()?.pid);
    let mut pace = Pace::default();
    // Never the one that is there.
    let first = if is()? == 2 { 100 } else { 2 };
    for weight in first..first + CHANGES {
        times.push(pace.round(|| {
            let before = on_cpu(pid)?;
            let time = change(weight)?;
            used += on_cpu(pid)? - before;
            Ok(time)
        })?);
        ensure!(is()? == weight, "the change to weight {weight} is not there");
    }
    shown.minimum_and_median(what, times.len(), pace.figures(&times));
    shown.line(&format!("{what}, CPU time of its loop for each"), used / u32::from(CHANGES));
    shown.paced(pace);
    Ok(())
}

/// What a process's first thread, the agent's loop, has had of the CPUs, which others cannot take away
/// (`Documentation/scheduler/sched-stats.rst`: the first figure of /proc/PID/schedstat, in nanoseconds).
fn on_cpu(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    Ok(Duration::from_nanos(text.split(' ').next().context("no figure")?.parse()?))
}
