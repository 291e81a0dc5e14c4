//! Ten thousand backends by the API, each a request of its own.

use std::{cell::RefCell, net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use lb::{
    api::{client::Client, types::BackendAdd},
    model::{BackendKey, ServiceName},
};
use lb_tests::clock::now;

use super::{
    shown::Shown,
    world::{World, name, port},
};
use crate::pace::Pace;

/// Services that get backends. Each has one before, and as many as there are addresses when all are added.
const GROWING: u16 = 100;
/// Clients that ask at the same time, and how long they go on.
const CLIENTS: [(usize, Duration); 2] = [(1, Duration::from_secs(30)), (64, Duration::from_secs(300))];

pub fn adding(world: &World, shown: &mut Shown) -> Result<()> {
    for (clients, limit) in CLIENTS {
        world.write(&world.small(GROWING, 1))?;
        world.agent.start()?;
        let mut pace = Pace::default();
        pace.round(|| add(world, shown, clients, limit))?;
        shown.paced(pace);
        world.detach()?;
    }
    Ok(())
}

fn add(world: &World, shown: &mut Shown, clients: usize, limit: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The first is the file's.
    let new = &world.addresses[1..];
    let wanted = new.iter().flat_map(|address| (0..GROWING).map(move |number| (number, *address)));
    let (since, wanted) = (now(), RefCell::new(wanted));
    let one = async || {
        let (client, mut added) = (Client::new(world.agent.socket()), 0usize);
        while since.elapsed() < limit {
            let Some((number, address)) = wanted.borrow_mut().next() else { break };
            client.backend_add(&ServiceName::new(name(number))?, &backend(number, address)).await?;
            added += 1;
        }
        anyhow::Ok(added)
    };
    let added = runtime.block_on(futures::future::try_join_all((0..clients).map(|_| one())))?;
    let (took, added) = (since.elapsed(), added.iter().sum::<usize>());
    let there = world.status()?.backends;
    ensure!(there == added + usize::from(GROWING), "{added} were added, and {there} are there");
    let all = new.len() * usize::from(GROWING);
    shown.alone(
        &format!("adding {added} of {all} backends to {GROWING} services by the API, {clients} at once"),
        took,
    );
    shown.each(took, added);
    Ok(())
}

fn backend(number: u16, address: IpAddr) -> BackendAdd {
    let key = BackendKey { address, port: port(number) };
    BackendAdd { key, weight: 1, upper_threshold: 0, lower_threshold: 0 }
}
