//! Backends that somebody works on, and those that their connections speak against.

use super::*;
use crate::{
    model::{Maintenance, check::PassiveMode},
    pressure::Pressure,
};

fn pair() -> Service {
    let mut service = service(Timing { rise: 1, fall: 1, ..fast() }, &["10.0.0.1", "10.0.0.2"]);
    service.health.slow_start = Some(Millis(10_000));
    service.health.flap_hold = Some(Millis(30_000));
    service.backends.iter_mut().for_each(|backend| backend.weight = 100);
    service
}

fn given(world: &World, service: &Service, n: usize) -> Option<ByHealth> {
    world.health.pool(service).given.get(&service.backends[n].key).copied()
}

#[test]
fn what_fails_in_maintenance_is_no_failure_and_comes_back_slowly() {
    let calm = pair();
    let mut worked_on = calm.clone();
    let since = jiff::Timestamp::UNIX_EPOCH;
    worked_on.backends[0].maintenance = Maintenance::begin("a reboot", "root", since, None).ok();
    let key = calm.backends[0].key;
    let mut world = World::new(&model(std::slice::from_ref(&calm)), Saved::default());
    world.run(20 * SECOND);
    world.health.watch(world.now, &model(std::slice::from_ref(&worked_on)));
    world.transitions.clear();
    for _ in 0..5 {
        world.set("10.0.0.1", false);
        world.run(3 * SECOND);
        world.set("10.0.0.1", true);
        world.run(3 * SECOND);
    }
    assert_eq!(world.transitions.len(), 10, "its check goes on");
    assert!(world.transitions.iter().all(|(_, it)| it.healthy.is_none()), "{:?}", world.transitions);
    assert_eq!(world.health.held(&calm.name, key), None, "nor does it flap");
    world.health.watch(world.now, &model(std::slice::from_ref(&calm)));
    assert_eq!(given(&world, &calm, 0), Some(ByHealth::Weight(10)));
    world.run(10 * SECOND);
    assert_eq!(given(&world, &calm, 0), None);
    // One that does not come back is down.
    world.health.watch(world.now, &model(std::slice::from_ref(&worked_on)));
    world.set("10.0.0.1", false);
    world.run(3 * SECOND);
    world.health.watch(world.now, &model(std::slice::from_ref(&calm)));
    assert_eq!(given(&world, &calm, 0), Some(ByHealth::Out));
}

/// So many connections more of each, of which those of the first hang.
fn counted(world: &mut World, service: &Service, connections: &mut u64) {
    counted_beside(world, service, connections, false);
}

/// The same; whether a flood or a full table may be why.
fn counted_beside(world: &mut World, service: &Service, connections: &mut u64, guarded: bool) {
    *connections += 50;
    let figures = |n: usize| Figures {
        connections: *connections,
        half_open: if n == 0 { *connections } else { 0 },
        retransmissions: if n == 0 { *connections } else { 0 },
        ..Figures::default()
    };
    let all = service.backends.iter().enumerate().map(|(n, backend)| (backend.key, figures(n))).collect();
    world.run(SECOND);
    world.act(Input::Counted(service.name.clone(), guarded, all));
}

#[test]
fn connections_may_lower_a_weight_or_take_out() {
    for (mode, expected) in [
        (PassiveMode::Off, None),
        (PassiveMode::Lower, Some(ByHealth::Weight(10))),
        (PassiveMode::Out, Some(ByHealth::Out)),
    ] {
        let mut service = pair();
        service.health.passive = mode;
        let mut world = World::new(&model(std::slice::from_ref(&service)), Saved::default());
        world.run(20 * SECOND);
        let mut connections = 0;
        counted(&mut world, &service, &mut connections);
        assert_eq!(given(&world, &service, 0), None, "nothing is known to be recent");
        counted(&mut world, &service, &mut connections);
        assert_eq!(given(&world, &service, 0), None, "what is recent may be on its way");
        counted(&mut world, &service, &mut connections);
        assert_eq!(given(&world, &service, 0), expected, "{mode}");
        // Nobody else is left: better a bad one than none.
        world.set("10.0.0.2", false);
        world.run(3 * SECOND);
        assert_ne!(given(&world, &service, 0), Some(ByHealth::Out), "{mode}");
        world.set("10.0.0.2", true);
        world.run(30 * SECOND);
        // Alone there is nothing to compare with, and by now it has another chance.
        let key = service.backends[0].key;
        world.act(Input::Counted(service.name.clone(), false, vec![(key, Figures::default())]));
        assert_eq!(world.health.suspicion(&service.name, key), None, "{mode}");
    }
}

/// A weight that is lowered is no loss, also for one that somebody aims at meanwhile.
#[test]
fn completions_are_not_lost_by_a_smaller_weight() {
    let mut service = pair();
    (service.health.passive, service.scheduler) = (PassiveMode::Out, "sh".parse().expect("a scheduler"));
    let mut world = World::new(&model(std::slice::from_ref(&service)), Saved::default());
    world.run(20 * SECOND);
    let mut figures = [Figures::default(); 2];
    let mut count = |world: &mut World, service: &Service, completed: [u64; 2], hang: u64| {
        for (figures, completed) in figures.iter_mut().zip(completed) {
            figures.connections += completed;
        }
        (figures[0].connections, figures[0].half_open) =
            (figures[0].connections + hang, figures[0].half_open + hang);
        let all = service.backends.iter().zip(figures).map(|(backend, it)| (backend.key, it)).collect();
        world.run(SECOND);
        world.act(Input::Counted(service.name.clone(), false, all));
        given(world, service, 0)
    };
    for _ in 0..60 {
        assert_eq!(count(&mut world, &service, [20, 20], 0), None);
    }
    service.backends[0].weight = 10;
    world.health.watch(world.now, &model(std::slice::from_ref(&service)));
    for _ in 0..60 {
        assert_eq!(count(&mut world, &service, [2, 38], 40), None);
    }
}

/// Half-open connections that give way to others are no backend's fault, nor are those that others push out soon after.
#[test]
fn nobody_is_suspect_while_the_flow_table_is_nearly_full() {
    let mut service = pair();
    service.health.passive = PassiveMode::Out;
    let mut world = World::new(&model(std::slice::from_ref(&service)), Saved::default());
    world.run(20 * SECOND);
    let (mut pressure, mut connections) = (Pressure::default(), 0);
    let mut count = |world: &mut World, used: u64| {
        pressure.look(world.now, used, 100);
        counted_beside(world, &service, &mut connections, pressure.is_on());
        pressure.is_on()
    };
    let is_suspect = |world: &World| world.health.suspicion(&service.name, service.backends[0].key).is_some();
    for second in 0..60 {
        assert!(count(&mut world, 190) && !is_suspect(&world), "second {second}");
    }
    // The table has room again: for a minute more it counts as full, then for 90 s nothing is believed.
    let mut last = world.now;
    while count(&mut world, 100) {
        assert!(!is_suspect(&world));
        last = world.now;
    }
    while !is_suspect(&world) {
        assert!(world.now < last + 120 * SECOND, "it is never suspect");
        count(&mut world, 100);
    }
    assert_eq!(world.now - last, 90 * SECOND);
}
