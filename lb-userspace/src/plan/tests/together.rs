//! Many backends that fail at once are one change.

use std::time::Duration;

use super::{
    build::{desired, service},
    kernel::{Kernel, SIZES},
};
use crate::{
    health::{Action, Clocks, Health, Input, Outcome, ProbeId, Saved},
    model::{
        Model,
        check::{Check, CheckKind, Timing, Via},
    },
    plan::{Desired, Op, plan},
};

const MANY: usize = 50;

/// A service of so many backends with a check each, and the attempts that are under way.
fn watched() -> (Model, Health, Vec<ProbeId>) {
    let addresses: Vec<String> = (1..=MANY + 1).map(|n| format!("10.0.0.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut service = service("web", 80, &addresses);
    let timing = Timing { fall: 1, ..Timing::default() };
    service.health.checks = vec![Check { timing, via: Some(Via::Rip), ..Check::new(CheckKind::Tcp) }];
    let model = Model { services: vec![service], ..Model::default() };
    let mut health = Health::new(7, Saved::default(), Clocks::default());
    health.watch(Duration::ZERO, &model);
    let ids = attempts(&mut health);
    ids.iter().for_each(|id| end(&mut health, *id, true));
    let ids = attempts(&mut health);
    assert_eq!(ids.len(), MANY + 1);
    (model, health, ids)
}

/// Long after all were due.
fn attempts(health: &mut Health) -> Vec<ProbeId> {
    let mut actions = Vec::new();
    health.handle(Duration::from_secs(600), Input::Time, &mut actions);
    let wanted = actions.into_iter().filter_map(|action| match action {
        Action::Attempt(wanted) => Some(wanted.id),
        _ => None,
    });
    wanted.collect()
}

fn end(health: &mut Health, id: ProbeId, passes: bool) {
    let outcome = match passes {
        true => Outcome::passed(Duration::ZERO, "connected"),
        false => Outcome::failed(Duration::ZERO, "connection refused"),
    };
    health.handle(Duration::from_secs(300), Input::Done(id, outcome), &mut Vec::new());
}

/// Carries out what the machines say; how many generations were published.
fn follow(kernel: &mut Kernel, model: &Model, health: &mut Health) -> usize {
    health.settle(model);
    let want = Desired { weights: health.weights(model), ..desired(&model.services) };
    let ops = plan(&want, &kernel.snapshot()).expect("a plan");
    kernel.apply(&ops);
    ops.iter().filter(|op| matches!(op, Op::Publish { .. })).count()
}

fn members(kernel: &Kernel) -> usize {
    let snapshot = kernel.snapshot();
    snapshot.dests.values().filter(|dest| dest.flags & lb_common::dest::flag::OUT == 0).count()
}

#[test]
fn results_of_one_turn_are_one_generation() {
    let (model, mut health, ids) = watched();
    let mut kernel = Kernel::new(SIZES);
    assert_eq!((follow(&mut kernel, &model, &mut health), members(&kernel)), (1, MANY + 1));
    ids[..MANY].iter().for_each(|id| end(&mut health, *id, false));
    assert_eq!((follow(&mut kernel, &model, &mut health), members(&kernel)), (1, 1));
    assert_eq!(follow(&mut kernel, &model, &mut health), 0, "that was all");

    // One turn each would be one generation each.
    let (model, mut health, ids) = watched();
    let mut kernel = Kernel::new(SIZES);
    follow(&mut kernel, &model, &mut health);
    let each = ids[..MANY].iter().map(|id| {
        end(&mut health, *id, false);
        follow(&mut kernel, &model, &mut health)
    });
    assert_eq!(each.sum::<usize>(), MANY);
}
