//! What the agent takes for its work, as a user meets it: `lb run` in a lab, from its start to the first connection
//! through it, changes of a large configuration, and the memory that it needs for that.

mod adding;
mod changes;
mod shown;
mod start;
mod world;

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use self::{
    shown::Shown,
    world::{BACKENDS, HOSTS, SERVICES, World},
};
use crate::pace::load;

pub use self::shown::Control;

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

/// Measures and prints times, and memory. No parts: all of them.
pub fn control(parts: &[Part]) -> Result<Control> {
    let (world, mut shown) = (World::build()?, Shown::default());
    println!("the agent, `lb run` in a lab; load {}", load()?);
    for part in if parts.is_empty() { Part::value_variants() } else { parts } {
        match part {
            Part::Small => small(&world, &mut shown)?,
            Part::Adding => adding::adding(&world, &mut shown)?,
            Part::Dead => dead(&world, &mut shown)?,
            Part::Large => large(&world, &mut shown)?,
            Part::Changes => changes::changes(&world, &mut shown)?,
        }
    }
    println!("load {}", load()?);
    world.finish();
    Ok(shown.finish())
}

fn small(world: &World, shown: &mut Shown) -> Result<()> {
    world.write(&world.small(1, 2))?;
    start::starts(world, shown, 1, "start with 1 service of 2 backends")?;
    shown.memory(world)?;
    world.agent.detach()
}

fn dead(world: &World, shown: &mut Shown) -> Result<()> {
    let hosts = world.hosts(DEAD)?;
    world.write(&world.large(1, &hosts))?;
    let what = format!(
        "start with {SERVICES} services of {BACKENDS} backends on {HOSTS} hosts, 1 of {DEAD} of them not there"
    );
    start::starts(world, shown, SERVICES, &what)?;
    world.agent.detach()
}

fn large(world: &World, shown: &mut Shown) -> Result<()> {
    world.write(&world.large(1, &world.addresses))?;
    let what = format!("start with {SERVICES} services of {BACKENDS} backends");
    let best = start::starts(world, shown, SERVICES, &what)?;
    shown.target(&format!("at most {TARGET:?} to the first connection"), best <= TARGET);
    shown.memory(world)?;
    world.agent.kill9()?;
    start::again(world, shown, "start after kill -9, which finds the maps as it left them")?;
    shown.memory(world)?;
    world.agent.detach()
}
