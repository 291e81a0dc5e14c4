//! What was in progress goes on with the next agent.

use jiff::Timestamp;

use super::*;
use crate::model::check::PassiveMode;

/// Three backends that are damped, judged by their connections, start slowly, and have a quorum of two.
fn three() -> Service {
    let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];
    let mut service = service(Timing { rise: 1, fall: 1, retries: 0, ..fast() }, &all);
    service.backends.iter_mut().for_each(|backend| backend.weight = 100);
    service.health.slow_start = Some(Millis(20_000));
    service.health.flap_hold = Some(Millis(30_000));
    service.health.passive = PassiveMode::Out;
    service.health.passive_hold = Millis(40_000);
    (service.health.quorum, service.health.hysteresis) = (200, 60);
    service
}

/// What is decided of each backend, and for how long still.
fn decided(world: &World, service: &Service) -> impl PartialEq + std::fmt::Debug {
    let of = |backend: &Backend| {
        let key = backend.key;
        let health = &world.health;
        let left = |until: Duration| until.saturating_sub(world.now);
        let held = health.held(&service.name, key).map(|(failures, until)| (failures, left(until)));
        let suspicion = health.suspicion(&service.name, key);
        let suspicion = suspicion.map(|(_, until, why)| (left(until), why.to_owned()));
        (health.healthy(&service.name, key), held, suspicion)
    };
    let of: Vec<_> = service.backends.iter().map(of).collect();
    (world.health.pool(service), of)
}

/// The check of one ends so.
fn set(world: &mut World, model: &Model, n: usize, passes: bool) {
    let outcome = if passes { Outcome::passed(SECOND, "") } else { Outcome::failed(SECOND, "") };
    let service = &model.services[0];
    world.end(&service.name, service.backends[n].key, outcome);
    world.health.settle(model);
}

/// What the data plane has counted of the three.
type Counts = [Figures; 3];

/// What has hung until now runs out.
fn run_out(mut counts: Counts) -> Counts {
    for figures in &mut counts {
        figures.incomplete += std::mem::take(&mut figures.half_open);
    }
    counts
}

/// A hundred connections more of each, of which those of one hang.
fn trouble(mut counts: Counts, bad: usize) -> Counts {
    counts.iter_mut().for_each(|figures| figures.connections += 100);
    counts[bad].half_open += 100;
    counts
}

fn look(world: &mut World, service: &Service, model: &Model, counts: &Counts) {
    let all = service.backends.iter().zip(counts).map(|(backend, it)| (backend.key, *it)).collect();
    world.act(Input::Counted(service.name.clone(), false, all));
    world.health.settle(model);
}

pub(super) fn wait(world: &mut World, model: &Model, time: Duration) {
    world.now += time;
    world.act(Input::Time);
    world.health.settle(model);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Wait(u64),
    Set(usize, bool),
    Trouble(usize),
}

fn events(most: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        (1..20_000u64).prop_map(Event::Wait),
        (0..3usize, any::<bool>()).prop_map(|(n, passes)| Event::Set(n, passes)),
        (0..3usize).prop_map(Event::Trouble),
    ];
    vec(event, 0..most)
}

/// What has been counted by then.
fn follow(world: &mut World, service: &Service, model: &Model, event: Event, counts: Counts) -> Counts {
    match event {
        Event::Wait(ms) => wait(world, model, Duration::from_millis(ms)),
        Event::Set(n, passes) => set(world, model, n, passes),
        Event::Trouble(bad) => {
            // What was counted before is long past, so that it does not matter that the next agent does not know it.
            wait(world, model, 200 * SECOND);
            let (calm, bad) = (run_out(counts), trouble(run_out(counts), bad));
            // They hang if they do so at a second look.
            [calm, bad, bad].iter().for_each(|counts| look(world, service, model, counts));
            return bad;
        }
    }
    counts
}

proptest! {
    /// The next agent decides the same at any later time, whatever happens, as one that slept meanwhile.
    #[test]
    fn the_next_agent_decides_as_this_one_would(
        before in events(60),
        pause in prop_oneof![0..30_000u64, 0..700_000u64],
        boots in prop_oneof![Just(0), 0..1_000_000u64],
        after in events(30),
    ) {
        let service = three();
        let model = model(std::slice::from_ref(&service));
        let mut world = World::new(&model, Saved::default());
        for n in 0..3 {
            set(&mut world, &model, n, true);
        }
        let mut counts = Counts::default();
        for event in before {
            counts = follow(&mut world, &service, &model, event, counts);
        }
        let mut saved = world.saved();
        let text = serde_json::to_string(&saved.ongoing).expect("JSON");
        saved.ongoing = serde_json::from_str(&text).expect("it is read as it was written");
        world.now += Duration::from_millis(pause);
        // After a boot the machines' clock shows something else.
        let began = Clocks { monotonic: world.now + Duration::from_secs(boots), ..world.clocks() };
        let mut next = World::resumed(&model, saved, began);
        wait(&mut world, &model, Duration::ZERO);
        wait(&mut next, &model, Duration::ZERO);
        prop_assert_eq!(decided(&world, &service), decided(&next, &service));
        for event in after {
            follow(&mut world, &service, &model, event, counts);
            counts = follow(&mut next, &service, &model, event, counts);
            prop_assert_eq!(decided(&world, &service), decided(&next, &service), "after {:?}", event);
        }
    }

    /// Whatever the clocks say, and whatever has become of the options: nobody is kept out for longer than by the
    /// options of today, and all of it ends.
    #[test]
    fn a_clock_that_jumps_does_no_harm(
        before in events(60),
        monotonic in 0..1_000_000u64,
        wall in prop_oneof![
            Just(Timestamp::MIN),
            Just(Timestamp::MAX),
            (0..2_000_000_000i64).prop_map(|it| Timestamp::from_second(it).expect("a time")),
        ],
        options in (any::<bool>(), any::<bool>(), any::<bool>(), 2..4usize),
    ) {
        let mut service = three();
        let first = model(std::slice::from_ref(&service));
        let mut world = World::new(&first, Saved::default());
        let mut counts = Counts::default();
        for event in before {
            counts = follow(&mut world, &service, &first, event, counts);
        }
        let (slow, damped, judged, backends) = options;
        service.health.slow_start.take_if(|_| !slow);
        service.health.flap_hold.take_if(|_| !damped);
        service.health.passive = if judged { PassiveMode::Lower } else { PassiveMode::Off };
        service.backends.truncate(backends);
        let second = model(std::slice::from_ref(&service));
        let began = Clocks { monotonic: Duration::from_secs(monotonic), wall };
        let mut next = World::resumed(&second, world.saved(), began);
        for n in 0..backends {
            let key = service.backends[n].key;
            let held = next.health.held(&service.name, key);
            prop_assert!(held.is_none_or(|(_, until)| damped && until <= next.now + 16 * 30 * SECOND));
            let suspicion = next.health.suspicion(&service.name, key);
            prop_assert!(suspicion.is_none_or(|(_, until, _)| judged && until <= next.now + 16 * 40 * SECOND));
            prop_assert!(slow || !next.health.is_starting(&service.name, key));
        }
        for n in 0..backends {
            set(&mut next, &second, n, true);
        }
        wait(&mut next, &second, 16 * 40 * SECOND);
        look(&mut next, &service, &second, &counts);
        wait(&mut next, &second, 20 * SECOND);
        prop_assert_eq!(next.health.pool(&service).given, BTreeMap::new());
    }
}
