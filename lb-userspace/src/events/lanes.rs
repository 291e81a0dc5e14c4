//! Which programs run now: those of one lane one after the other, a few lanes at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Lanes that run at a time.
const AT_ONCE: usize = 8;
/// Jobs that may wait, of all lanes together.
const MOST: usize = 1024;

/// The machine. A lane is a service, or what has none.
#[derive(Debug)]
pub struct Lanes<L, J> {
    waiting: BTreeMap<L, VecDeque<J>>,
    /// Lanes that have something to run and do not run, in the order of their turns.
    ready: VecDeque<L>,
    running: BTreeSet<L>,
    queued: usize,
    /// Jobs for which there was no room, since that was said last.
    left_out: u64,
}

impl<L, J> Default for Lanes<L, J> {
    fn default() -> Self {
        let (waiting, ready, running) = Default::default();
        Self { waiting, ready, running, queued: 0, left_out: 0 }
    }
}

impl<L: Ord + Clone, J> Lanes<L, J> {
    /// A job that is to be run behind the others of its lane. Without room for it, it is counted.
    pub fn push(&mut self, lane: L, job: J) {
        if self.queued == MOST {
            self.left_out += 1;
            return;
        }
        self.queued += 1;
        let waiting = self.waiting.entry(lane.clone()).or_default();
        if waiting.is_empty() && !self.running.contains(&lane) {
            self.ready.push_back(lane);
        }
        waiting.push_back(job);
    }

    /// The next job to be started, if one may be.
    pub fn start(&mut self) -> Option<(L, J)> {
        if self.running.len() == AT_ONCE {
            return None;
        }
        let lane = self.ready.pop_front()?;
        let waiting = self.waiting.get_mut(&lane)?;
        let job = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&lane);
        }
        self.queued -= 1;
        self.running.insert(lane.clone());
        Some((lane, job))
    }

    /// A lane's job has ended.
    pub fn done(&mut self, lane: &L) {
        if self.running.remove(lane) && self.waiting.contains_key(lane) {
            self.ready.push_back(lane.clone());
        }
    }

    /// How many were left out since the last call.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queued == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each job runs once or is counted; those of a lane in their order and never two at a time; no lane waits
        /// while there is room.
        #[test]
        fn all_jobs_run_in_order_or_are_counted(
            steps in proptest::collection::vec((0..12u8, 0..300usize, 0..40usize), 1..30)
        ) {
            let mut lanes = Lanes::default();
            let (mut pushed, mut ran, mut left_out) = (0usize, 0usize, 0);
            let mut last: BTreeMap<u8, usize> = BTreeMap::new();
            let mut running: VecDeque<u8> = VecDeque::new();
            let mut start = |lanes: &mut Lanes<u8, usize>, running: &mut VecDeque<u8>| {
                while let Some((lane, job)) = lanes.start() {
                    prop_assert!(!running.contains(&lane), "two at a time");
                    prop_assert!(last.insert(lane, job).is_none_or(|before| before < job), "out of order");
                    running.push_back(lane);
                    ran += 1;
                }
                prop_assert!(running.len() <= AT_ONCE);
                Ok(())
            };
            for (lane, jobs, ends) in steps {
                for _ in 0..jobs {
                    lanes.push(lane, pushed);
                    pushed += 1;
                }
                start(&mut lanes, &mut running)?;
                for _ in 0..ends {
                    let Some(lane) = running.pop_front() else { break };
                    lanes.done(&lane);
                    start(&mut lanes, &mut running)?;
                }
                left_out += lanes.take_left_out();
            }
            while let Some(lane) = running.pop_front() {
                lanes.done(&lane);
                start(&mut lanes, &mut running)?;
            }
            prop_assert!(lanes.is_idle());
            prop_assert_eq!(ran as u64 + left_out, pushed as u64);
        }
    }

    #[test]
    fn a_hanging_lane_keeps_no_other_one_waiting() {
        let mut lanes = Lanes::default();
        for job in 0..MOST {
            lanes.push("hangs", job);
        }
        assert_eq!(lanes.start(), Some(("hangs", 0)));
        lanes.push("other", 1);
        assert_eq!(lanes.start(), Some(("other", 1)));
        lanes.push("hangs", 9);
        lanes.push("hangs", 9);
        assert_eq!((lanes.start(), lanes.take_left_out(), lanes.take_left_out()), (None, 1, 0));
    }
}
