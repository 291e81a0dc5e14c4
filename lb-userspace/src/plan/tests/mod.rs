//! Plans carried out by a simulated kernel.

mod build;
mod compiled;
mod consistent;
mod flows;
mod groups;
mod kernel;
mod limits;
mod named;
mod scale;
mod sources;
mod tables;
mod together;
mod wanted;

use proptest::{collection::vec, prelude::*};

use self::{
    flows::{Flow, Memory},
    kernel::{Kernel, SIZES},
    wanted::desired,
};
use super::{Compiled, Desired, plan, plan_on, reclaim};

/// One thing that happens to a running director.
#[derive(Clone, Debug)]
enum Event {
    /// The desired state changes.
    Change(Desired),
    /// It changes, and the agent dies after part of the plan (in 256ths); the next one makes it anew.
    Death(Desired, u8),
    /// Connections come: how many there were of each service, and which one is kept as a flow.
    Connections(u32),
    /// Every `n`th flow ends, and the sweeper takes a census.
    Sweep(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    vec(
        prop_oneof![
            3 => desired().prop_map(Event::Change),
            1 => (desired(), any::<u8>()).prop_map(|(desired, part)| Event::Death(desired, part)),
            2 => any::<u32>().prop_map(Event::Connections),
            2 => (1..4usize).prop_map(Event::Sweep),
        ],
        1..12,
    )
}

struct Director {
    kernel: Kernel,
    flows: Vec<Flow>,
    memory: Memory,
    compiled: Compiled,
}

impl Director {
    fn new() -> Self {
        let (kernel, compiled) = (Kernel::new(SIZES), Compiled::default());
        Self { kernel, flows: Vec::new(), memory: Memory::default(), compiled }
    }

    /// What was compiled before is of no consequence, also if a plan was not carried out, or half of it.
    fn plan(&mut self, want: &Desired) -> Vec<super::Op> {
        let now = self.kernel.snapshot();
        let anew = plan(want, &now).expect("a plan");
        assert_eq!(plan_on(want, &now, &mut self.compiled).as_ref(), Ok(&anew));
        anew
    }

    fn apply(&mut self, ops: &[super::Op]) {
        let Self { kernel, flows, memory, .. } = self;
        kernel.apply_each(ops, |kernel, op| {
            let now = kernel.snapshot();
            // The steps are named if one of them is not consistent.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                consistent::check(&now);
                flows::check(flows, &now);
                memory.check(&now);
            }));
            if let Err(panic) = result {
                eprintln!("after {op:?}");
                std::panic::resume_unwind(panic);
            }
        });
    }

    fn change(&mut self, want: &Desired) {
        let ops = self.plan(want);
        self.apply(&ops);
        let now = self.kernel.snapshot();
        consistent::check_done(&now);
        assert_eq!(plan(want, &now), Ok(Vec::new()), "planning again after {ops:#?}");
    }

    fn happens(&mut self, event: &Event) {
        match event {
            Event::Change(want) => self.change(want),
            Event::Death(want, part) => {
                let ops = self.plan(want);
                self.apply(&ops[..ops.len() * usize::from(*part) / 256]);
                self.change(want);
            }
            Event::Connections(count) => {
                let now = self.kernel.snapshot();
                self.flows.extend(flows::place(&now, *count));
                now.services.keys().for_each(|id| self.kernel.serve(*id, u64::from(*count)));
            }
            Event::Sweep(every) => {
                let mut n = 0;
                self.flows.retain(|_| {
                    n += 1;
                    n % every != 0
                });
                let (before, census) = (self.kernel.snapshot(), flows::census(&self.flows));
                self.apply(&reclaim(&before, &census));
                flows::check_reclaimed(&before, &self.kernel.snapshot(), &census);
                assert_eq!(reclaim(&self.kernel.snapshot(), &census), []);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_step_of_any_history_is_consistent(events in events()) {
        let mut director = Director::new();
        for event in &events {
            director.happens(event);
        }
        // In the end everything is taken away, and nothing is left.
        let nothing = Desired { hz: 250, ..Desired::default() };
        director.change(&nothing);
        director.flows.clear();
        director.happens(&Event::Sweep(1));
        director.change(&nothing);
        let left = director.kernel.snapshot();
        prop_assert!(left.endpoints.is_empty() && left.services.is_empty() && left.dests.is_empty());
        prop_assert!(left.hosts.is_empty() && left.links.is_empty() && left.filter.is_empty());
        prop_assert!(left.ranges.is_empty() && left.rules.is_empty());
        prop_assert!(left.tags.is_empty() && left.macs.is_empty());
    }
}
