//! What the agent takes for its work, as a user meets it: `lb run` in a lab, from its start to the first connection
//! through it, changes of a large configuration, and the memory that it needs for that.

mod adding;
mod changes;
mod start;
mod world;

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::pace::load;
use world::{BACKENDS, HOSTS, SERVICES, World};

/// From the start of the process to the first connection.
const TARGET: Duration = Duration::from_secs(2);
/// Of the hosts, which one of so many is not there.
const DEAD: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// 1 service of 2 backends: starts, memory
    Small,
    /// 100 services: 10,000 backends added by the API, by one client (for half a minute) and by 64 (all of them)
    Adding,
    /// 4,096 services of 16 backends: starts, with backends that are not there
    Dead,
    /// 4,096 services of 16 backends: starts, which have a target, memory, and the start after kill -9
    Large,
    /// 4,096 services of 16 backends: single changes by the API, and a reload that changes one service
    Changes,
}

/// A table of times, and of memory. No parts: all of them.
pub fn control(parts: &[Part]) -> Result<()> {
    let world = World::build()?;
    println!("the agent, `lb run` in a lab; load {}", load()?);
    for part in if parts.is_empty() { Part::value_variants() } else { parts } {
        match part {
            Part::Small => small(&world)?,
            Part::Adding => adding::adding(&world)?,
            Part::Dead => dead(&world)?,
            Part::Large => large(&world)?,
            Part::Changes => changes::changes(&world)?,
        }
    }
    println!("load {}", load()?);
    world.finish();
    Ok(())
}

fn small(world: &World) -> Result<()> {
    world.write(&world.small(1, 2))?;
    start::starts(world, 1, "start with 1 service of 2 backends")?;
    report_memory(world)?;
    world.agent.detach()
}

fn dead(world: &World) -> Result<()> {
    let hosts = world.hosts(DEAD)?;
    world.write(&world.large(1, &hosts))?;
    let what = format!(
        "start with {SERVICES} services of {BACKENDS} backends on {HOSTS} hosts, 1 of {DEAD} of them not there"
    );
    start::starts(world, SERVICES, &what)?;
    world.agent.detach()
}

fn large(world: &World) -> Result<()> {
    world.write(&world.large(1, &world.addresses))?;
    let best =
        start::starts(world, SERVICES, &format!("start with {SERVICES} services of {BACKENDS} backends"))?;
    let verdict = if best <= TARGET { "holds" } else { "MISSED" };
    println!("    target: at most {TARGET:?} to the first connection: {verdict}");
    report_memory(world)?;
    world.agent.kill9()?;
    start::again(world, "start after kill -9, which finds the maps as it left them")?;
    report_memory(world)?;
    world.agent.detach()
}

fn line(what: &str, time: Duration) {
    println!("{what:<70}{:>9.0} ms", time.as_secs_f64() * 1000.0);
}

/// proc_pid_status(5): VmRSS, and the part of it that is no file's.
fn report_memory(world: &World) -> Result<()> {
    let text = fs::read_to_string(format!("/proc/{}/status", world.status()?.pid))?;
    let of = |name: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
        let kilobytes: f64 = line.split_whitespace().next().context("no figure")?.parse()?;
        Ok(kilobytes / 1024.0)
    };
    println!(
        "    its memory: resident {:.0} MiB, of that its own {:.0} MiB, maps and files {:.0} MiB; most ever {:.0} MiB",
        of("VmRSS:")?,
        of("RssAnon:")?,
        of("RssFile:")? + of("RssShmem:")?,
        of("VmHWM:")?,
    );
    Ok(())
}
