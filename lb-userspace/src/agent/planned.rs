//! A plan, and from what it was made: what is checked before a change is what is carried out after it.

use crate::plan::{Compiled, Desired, Op, PlanError, Snapshot, plan_on};

/// To be carried out before anything else is.
pub struct Planned {
    want: Desired,
    now: Snapshot,
    ops: Vec<Op>,
}

impl Planned {
    pub fn new(want: Desired, now: Snapshot, compiled: &mut Compiled) -> Result<Self, PlanError> {
        let ops = plan_on(&want, &now, compiled)?;
        Ok(Self { want, now, ops })
    }

    /// A plan for `want`: this one, if it is for that.
    pub fn renewed(self, want: Desired, compiled: &mut Compiled) -> Result<Self, PlanError> {
        if self.want == want { Ok(self) } else { Self::new(want, self.now, compiled) }
    }

    /// What the kernel held when it was made.
    pub fn now(&self) -> &Snapshot {
        &self.now
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        plan::{ByHealth, MapSizes, Weights, plan},
    };

    fn wanted(weights: Weights) -> Desired {
        let text = "interfaces: [eth0]\nservices:\n  - {name: web, address: 192.0.2.1, port: 80, scheduler: rr, \
                    backends: [{address: 192.0.2.2}, {address: 192.0.2.3}]}";
        let services = config::parse("f", text).expect("a configuration").model.services;
        Desired { services, hz: 250, weights, ..Desired::default() }
    }

    #[test]
    fn a_plan_is_made_anew_if_something_else_is_wanted() {
        let limits = MapSizes { services: 10, dests: 10, arena: 1000, endpoints: 10 };
        let empty = || Snapshot { limits, ..Snapshot::default() };
        let (all, key) = (wanted(Weights::default()), "192.0.2.2:80".parse().expect("a key"));
        let out = Weights([("web".parse().expect("a name"), [(key, ByHealth::Out)].into())].into());
        let one = wanted(out);
        let mut compiled = Compiled::default();
        let first = Planned::new(all.clone(), empty(), &mut compiled).expect("a plan");
        let ops = first.ops().to_vec();
        let kept = first.renewed(all, &mut compiled).expect("a plan");
        assert_eq!(kept.ops(), ops);
        // The first was never carried out.
        let anew = kept.renewed(one.clone(), &mut compiled).expect("a plan");
        assert_eq!(anew.ops(), plan(&one, &empty()).expect("a plan"));
        assert_ne!(anew.ops(), ops);
    }
}
