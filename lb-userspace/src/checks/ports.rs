//! The ports that checks through the VIP come from. What comes from the VIP does not say which backend sent it, so at no
//! time two attempts at one VIP and port have the same, and one that is free again rests as long as there are others.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::check::ProbePorts;

/// Of all targets.
#[derive(Debug, Default)]
pub struct Ports {
    ports: ProbePorts,
    targets: BTreeMap<SocketAddr, Arc<Target>>,
}

/// Of one target, numbered from 0.
#[derive(Debug)]
pub struct Target {
    free: Arc<Semaphore>,
    turns: Mutex<Turns>,
}

#[derive(Debug)]
struct Turns {
    /// Whether it is taken, of each.
    taken: Vec<bool>,
    /// Where to look first.
    next: usize,
}

/// One that is taken, until this is dropped.
#[derive(Debug)]
pub struct Taken {
    target: Arc<Target>,
    pub turn: u32,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Ports {
    /// From now on these; targets that nobody is asking at the moment are forgotten.
    pub fn follow(&mut self, ports: ProbePorts) {
        if self.ports != ports {
            *self = Self { ports, targets: BTreeMap::new() };
        }
        self.targets.retain(|_, target| Arc::strong_count(target) > 1);
    }

    pub fn of(&mut self, target: SocketAddr) -> Arc<Target> {
        let count = usize::from(self.ports.last.saturating_sub(self.ports.first)) + 1;
        self.targets.entry(target).or_insert_with(|| Arc::new(Target::new(count))).clone()
    }
}

impl Target {
    fn new(count: usize) -> Self {
        let turns = Turns { taken: vec![false; count], next: 0 };
        Self { free: Arc::new(Semaphore::new(count)), turns: Mutex::new(turns) }
    }

    /// Waits for a free one.
    pub async fn take(self: Arc<Self>) -> Taken {
        // It is never closed.
        let permit = self.free.clone().acquire_owned().await.ok();
        let turn = self.turns.lock().unwrap_or_else(PoisonError::into_inner).take();
        Taken { target: self, turn: u32::try_from(turn).unwrap_or_default(), _permit: permit }
    }
}

impl Turns {
    fn take(&mut self) -> usize {
        let count = self.taken.len();
        let free = (self.next..self.next + count).map(|turn| turn % count).find(|turn| !self.taken[*turn]);
        // Who has a permit finds one.
        let turn = free.unwrap_or(self.next);
        self.taken[turn] = true;
        self.next = (turn + 1) % count;
        turn
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut turns = self.target.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = turns.taken.get_mut(self.turn as usize) {
            *taken = false;
        }
        // And then, when this is over, the permit.
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_port_is_given_twice_and_each_rests_longest() {
        let mut ports = Ports::default();
        ports.follow(ProbePorts { first: 61000, last: 61002 });
        let [vip, other] = ["192.0.2.1:80", "192.0.2.2:80"].map(|it| it.parse().expect("an address"));
        let first = ports.of(vip).take().await;
        let second = ports.of(vip).take().await;
        assert_eq!((first.turn, second.turn), (0, 1));
        drop(first);
        let third = ports.of(vip).take().await;
        assert_eq!(third.turn, 2, "not the one that has just become free");
        let fourth = ports.of(vip).take().await;
        assert_eq!(fourth.turn, 0);
        // Nobody else's business.
        assert_eq!(ports.of(other).take().await.turn, 0);
        // Who finds none waits, and is not refused.
        let mut fifth = Box::pin(ports.of(vip).take());
        assert!((&mut fifth).now_or_never().is_none());
        drop(second);
        assert_eq!(fifth.await.turn, 1);
        ports.follow(ProbePorts { first: 61000, last: 61002 });
        assert_eq!(ports.targets.len(), 1, "nobody asks the other one: {ports:?}");
    }
}
