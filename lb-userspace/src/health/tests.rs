//! On a virtual clock: an attempt takes what the test says.

mod detection;
mod maintained;
mod ongoing;
mod silent;
mod whole;

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::model::{
    Backend, Endpoint, Protocol, Scheduler,
    check::{Initial, Millis, ServiceHealth, Via},
};
use crate::plan::ByHealth;

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn service(timing: Timing, backends: &[&str]) -> Service {
    let backend = |address: &&str| Backend {
        key: BackendKey { address: address.parse().expect("an address"), port: 80 },
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drained: false,
        maintenance: None,
        health: Default::default(),
    };
    Service {
        name: "web".parse().expect("a name"),
        endpoint: Endpoint::new([192, 0, 2, 1].into(), 80, Protocol::Tcp),
        group: Default::default(),
        scheduler: Scheduler::Rr,
        backends: backends.iter().map(backend).collect(),
        options: Default::default(),
        sources: Default::default(),
        health: ServiceHealth {
            checks: vec![Check { timing, via: Some(Via::Rip), ..Check::new(CheckKind::Tcp) }],
            ..ServiceHealth::default()
        },
    }
}

fn model(services: &[Service]) -> Model {
    Model { services: services.to_vec(), ..Model::default() }
}

fn fast() -> Timing {
    Timing { interval: Millis(1000), ..Timing::default() }
}

/// The machines, the clock, and the attempts under way with the time of their end.
struct World {
    health: Health,
    now: Duration,
    /// Passes or fails what is attempted, by backend address.
    alive: BTreeMap<IpAddr, bool>,
    takes: Duration,
    /// Not begun yet.
    wanted: Vec<Wanted>,
    under_way: Vec<(Duration, ProbeId, bool)>,
    /// When an attempt of a backend began.
    began: Vec<(Duration, IpAddr)>,
    transitions: Vec<(Duration, Transition)>,
    reweighted: usize,
}

impl World {
    fn new(model: &Model, saved: Saved) -> Self {
        Self::resumed(model, saved, Clocks::default())
    }

    /// With an agent that begins then.
    fn resumed(model: &Model, saved: Saved, began: Clocks) -> Self {
        let mut health = Health::new(7, saved, began);
        health.watch(began.monotonic, model);
        Self {
            health,
            now: began.monotonic,
            alive: BTreeMap::new(),
            takes: Duration::from_millis(1),
            wanted: Vec::new(),
            under_way: Vec::new(),
            began: Vec::new(),
            transitions: Vec::new(),
            reweighted: 0,
        }
    }

    fn act(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.health.handle(self.now, input, &mut actions);
        for action in actions {
            match action {
                Action::Attempt(wanted) => self.wanted.push(wanted),
                Action::Changed(transition) => self.transitions.push((self.now, transition)),
                Action::Reweighted(_)
                | Action::Step
                | Action::Held(..)
                | Action::Released(..)
                | Action::Suspect(..)
                | Action::Trusted(..) => self.reweighted += 1,
            }
        }
    }

    fn saved(&self) -> Saved {
        self.health.saved(self.clocks())
    }

    /// By a wall clock that goes as the machines' does.
    fn clocks(&self) -> Clocks {
        let wall = jiff::Timestamp::UNIX_EPOCH.checked_add(self.now).expect("a time");
        Clocks { monotonic: self.now, wall }
    }

    /// The checks of one backend end so, whenever they were due: that is another time for the next agent.
    fn end(&mut self, service: &ServiceName, key: BackendKey, outcome: Outcome) {
        self.act(Input::Time);
        for id in self.health.backends[service][&key].clone() {
            if let Some(due) = self.health.entries[&id].machine.deadline() {
                self.health.step(due, id, machine::Input::Time, &mut Vec::new());
            }
            self.act(Input::Done(id, outcome.clone()));
        }
    }

    /// Makes the attempts that are due.
    fn begin(&mut self) {
        for Wanted { id, probe, .. } in self.wanted.extract_if(.., |wanted| wanted.due <= self.now) {
            let address = probe.target.ip();
            self.began.push((self.now, address));
            let passes = self.alive.get(&address).copied().unwrap_or(true);
            self.under_way.push((self.now + self.takes, id, passes));
        }
    }

    fn run_until(&mut self, end: Duration) {
        loop {
            let begins = self.wanted.iter().map(|wanted| wanted.due).min();
            let ends = self.under_way.iter().map(|(at, ..)| *at).min();
            let Some(next) =
                [begins, ends, self.health.deadline()].into_iter().flatten().min().filter(|at| *at <= end)
            else {
                self.now = end;
                return;
            };
            // An attempt that comes too late is made at once.
            self.now = self.now.max(next);
            self.begin();
            let ended: Vec<_> = self.under_way.extract_if(.., |(at, ..)| *at <= next).collect();
            for (_, id, passes) in ended {
                let outcome = match passes {
                    true => Outcome::passed(self.takes, "connected"),
                    false => Outcome::failed(self.takes, "connection refused"),
                };
                self.act(Input::Done(id, outcome));
            }
            self.act(Input::Time);
        }
    }

    fn run(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn is_up(&self, address: &str) -> bool {
        let key = BackendKey { address: address.parse().expect("an address"), port: 80 };
        self.health.healthy(&"web".parse().expect("a name"), key)
    }

    fn set(&mut self, address: &str, alive: bool) {
        self.alive.insert(address.parse().expect("an address"), alive);
    }
}

#[test]
fn a_new_backend_is_down_until_its_first_pass() {
    let mut world = World::new(&model(&[service(fast(), &["10.0.0.1", "10.0.0.2"])]), Saved::default());
    world.set("10.0.0.2", false);
    assert!(!world.is_up("10.0.0.1") && !world.is_up("10.0.0.2") && world.health.is_pending());
    world.run(SECOND);
    assert!(world.is_up("10.0.0.1") && !world.is_up("10.0.0.2") && !world.health.is_pending());
    let weights = world.health.weights(&model(&[service(fast(), &["10.0.0.1", "10.0.0.2"])]));
    assert!(weights.is_out(&"web".parse().expect("a name"), "10.0.0.2:80".parse().expect("a key")));
}

#[test]
fn up_until_proven_falls_by_its_first_failure() {
    let timing = Timing { initial: Initial::Up, ..fast() };
    let mut world = World::new(&model(&[service(timing, &["10.0.0.1"])]), Saved::default());
    world.set("10.0.0.1", false);
    assert!(world.is_up("10.0.0.1"));
    world.run(SECOND / 2);
    assert!(!world.is_up("10.0.0.1"));
}

#[test]
fn it_takes_fall_failures_to_go_and_rise_passes_to_come_back() {
    let timing = Timing { fast_interval: Some(Millis(200)), ..fast() };
    let mut world = World::new(&model(&[service(timing, &["10.0.0.1"])]), Saved::default());
    world.run(10 * SECOND);
    world.set("10.0.0.1", false);
    world.began.clear();
    let dead = world.now;
    world.run(10 * SECOND);
    let (at, transition) = world.transitions.last().expect("it has changed");
    assert_eq!((transition.state, transition.healthy), (State::Down, Some(false)));
    assert_eq!(transition.why, "connection refused after 1.0 ms");
    assert_eq!(world.began.iter().filter(|(began, _)| began < at).count(), 3);
    // At the latest: nearly one interval until the first, then the fast ones.
    assert!(*at - dead <= SECOND + 2 * SECOND / 5 + world.takes, "{:?}", *at - dead);
    let back = world.now;
    world.set("10.0.0.1", true);
    world.run(10 * SECOND);
    let (at, transition) = world.transitions.last().expect("it has changed");
    assert_eq!(transition.healthy, Some(true));
    assert!(*at - back <= SECOND + SECOND / 5 + world.takes, "{:?}", *at - back);
}

#[test]
fn retries_come_before_a_failure_counts() {
    let timing = Timing { retries: 2, retry_delay: Millis(50), fall: 1, ..fast() };
    let mut world = World::new(&model(&[service(timing, &["10.0.0.1"])]), Saved::default());
    world.run(5 * SECOND);
    world.set("10.0.0.1", false);
    world.began.clear();
    world.run(5 * SECOND);
    let (at, _) = world.transitions.last().expect("it has changed");
    let tries: Vec<Duration> =
        world.began.iter().map(|(began, _)| *began).filter(|began| began < at).collect();
    let delay = Duration::from_millis(50) + world.takes;
    assert_eq!(
        tries.iter().map(|began| *began - tries[0]).collect::<Vec<_>>(),
        [Duration::ZERO, delay, 2 * delay]
    );
    // One that is down is not tried again.
    assert!(world.began.windows(2).skip(3).all(|pair| pair[1].0 - pair[0].0 == SECOND), "{:?}", world.began);
}

#[test]
fn all_checks_of_a_backend_must_pass() {
    let mut service = service(fast(), &["10.0.0.1"]);
    let other = Check { address: Some([10, 9, 9, 9].into()), timing: fast(), ..Check::new(CheckKind::Tcp) };
    service.health.checks.push(other);
    let mut world = World::new(&model(&[service]), Saved::default());
    world.run(5 * SECOND);
    assert!(world.is_up("10.0.0.1"));
    world.set("10.9.9.9", false);
    world.run(5 * SECOND);
    assert!(!world.is_up("10.0.0.1"));
    world.set("10.0.0.1", false);
    world.run(5 * SECOND);
    assert_eq!(world.transitions.last().map(|(_, it)| it.healthy), Some(None), "it was down already");
}

#[test]
fn both_ways_must_pass_and_it_is_said_which_does_not() {
    let mut service = service(fast(), &["10.0.0.1"]);
    service.health.checks[0].via = None;
    let mut world = World::new(&model(std::slice::from_ref(&service)), Saved::default());
    assert!(world.health.takes_the_vip());
    world.run(5 * SECOND);
    assert!(world.is_up("10.0.0.1"));
    let last = |world: &World| world.transitions.last().map(|(_, it)| it.clone()).expect("a transition");
    // The VIP alone.
    world.set("192.0.2.1", false);
    world.run(5 * SECOND);
    assert!(!world.is_up("10.0.0.1"));
    let told = last(&world);
    assert_eq!(told.check, "tcp through the VIP 192.0.2.1");
    assert!(
        told.why.starts_with("it answers on its own address, but not here: connection refused"),
        "{told:?}"
    );
    let key = service.backends[0].key;
    let seen: Vec<_> = world.health.checks(&service.name, key).into_iter().map(|it| it.trouble()).collect();
    assert!(matches!(&seen[..], [None, Some(told)] if told.contains("own address")), "{seen:?}");
    // The server.
    world.set("10.0.0.1", false);
    world.run(5 * SECOND);
    let seen: Vec<_> = world.health.checks(&service.name, key).into_iter().map(|it| it.trouble()).collect();
    assert!(matches!(&seen[..], [Some(_), Some(told)] if !told.contains("own address")), "{seen:?}");
    world.set("192.0.2.1", true);
    world.set("10.0.0.1", true);
    world.run(5 * SECOND);
    assert!(world.is_up("10.0.0.1"));
    // An agent that comes after knows both.
    let next = World::new(&model(std::slice::from_ref(&service)), world.saved());
    assert!(next.is_up("10.0.0.1") && !next.health.is_pending());
    service.health.checks[0].via = Some(Via::Rip);
    world.health.watch(world.now, &model(&[service]));
    assert!(!world.health.takes_the_vip());
}

#[test]
fn a_backend_with_a_list_of_its_own_does_not_follow_the_services() {
    let mut service = service(fast(), &["10.0.0.1", "10.0.0.2"]);
    service.backends[1].health.checks = Some(Vec::new());
    let mut world = World::new(&model(&[service]), Saved::default());
    assert!(world.is_up("10.0.0.2"), "nothing is checked");
    world.run(5 * SECOND);
    assert!(world.began.iter().all(|(_, address)| *address == IpAddr::from([10, 0, 0, 1])));
}

#[test]
fn a_restarted_agent_goes_on_with_what_was_known() {
    let model = model(&[service(fast(), &["10.0.0.1", "10.0.0.2"])]);
    let mut world = World::new(&model, Saved::default());
    world.set("10.0.0.2", false);
    world.run(5 * SECOND);
    let next = World::new(&model, world.saved());
    assert!(next.is_up("10.0.0.1") && !next.is_up("10.0.0.2") && !next.health.is_pending());
    let views = next.health.checks(&"web".parse().expect("a name"), "10.0.0.2:80".parse().expect("a key"));
    assert_eq!(views[0].trouble().as_deref(), Some("tcp: connection refused after 1.0 ms"));
}

#[test]
fn a_check_that_is_added_to_a_serving_backend_does_not_take_it_out_unseen() {
    let mut unchecked = service(fast(), &["10.0.0.1"]);
    let checked = unchecked.clone();
    unchecked.health.checks.clear();
    let mut world = World::new(&model(std::slice::from_ref(&unchecked)), Saved::default());
    world.health.watch(world.now, &model(std::slice::from_ref(&checked)));
    assert!(world.is_up("10.0.0.1"));
    // The same for an agent that starts with another file than the one before had, or over a kernel that serves.
    let mut saved = Saved::default();
    saved.add("web".parse().expect("a name"), "10.0.0.1:80".parse().expect("a key"), false);
    assert!(World::new(&model(&[checked]), saved).is_up("10.0.0.1"));
}

/// A check is known again by what it does: with another port it is another one.
#[test]
fn a_dead_backend_whose_check_is_changed_stays_out_until_it_passes() {
    let timing = Timing { rise: 2, ..fast() };
    let before = service(timing, &["10.0.0.1"]);
    let mut after = before.clone();
    after.health.checks[0].port = Some(8080);
    let after = model(&[after]);
    let mut world = World::new(&model(&[before]), Saved::default());
    world.set("10.0.0.1", false);
    world.run(5 * SECOND);
    let saved = world.saved();
    world.health.watch(world.now, &after);
    // The same for an agent that starts with that file, also if it has only the kernel to ask.
    let mut out = Saved::default();
    out.add("web".parse().expect("a name"), "10.0.0.1:80".parse().expect("a key"), true);
    for mut world in [world, World::new(&after, saved), World::new(&after, out)] {
        assert!(!world.is_up("10.0.0.1") && !world.health.is_pending());
        world.set("10.0.0.1", false);
        world.run(10 * SECOND);
        assert!(!world.is_up("10.0.0.1"));
        world.transitions.clear();
        world.began.clear();
        world.set("10.0.0.1", true);
        world.run(10 * SECOND);
        let (at, told) = world.transitions.last().expect("it has come back");
        assert_eq!((world.transitions.len(), told.healthy), (1, Some(true)));
        assert_eq!(world.began.iter().filter(|(began, _)| began < at).count(), 2, "rise");
    }
}

#[test]
fn a_new_backend_whose_check_is_changed_before_its_first_result_stays_new() {
    let before = service(fast(), &["10.0.0.1"]);
    let mut after = before.clone();
    after.health.checks[0].port = Some(8080);
    let mut world = World::new(&model(&[before]), Saved::default());
    world.health.watch(world.now, &model(&[after]));
    assert!(!world.is_up("10.0.0.1") && world.health.is_pending());
    world.run(SECOND);
    assert!(world.is_up("10.0.0.1"));
}

#[test]
fn a_reload_keeps_states_and_forgets_what_is_gone() {
    let both = model(&[service(fast(), &["10.0.0.1", "10.0.0.2"])]);
    let mut world = World::new(&both, Saved::default());
    world.set("10.0.0.2", false);
    world.run(5 * SECOND);
    let slower = model(&[service(Timing { interval: Millis(3000), ..fast() }, &["10.0.0.1", "10.0.0.2"])]);
    world.health.watch(world.now, &slower);
    assert!(world.is_up("10.0.0.1") && !world.is_up("10.0.0.2"));
    world.health.watch(world.now, &model(&[service(fast(), &["10.0.0.1"])]));
    world.health.watch(world.now, &both);
    assert!(!world.is_up("10.0.0.2") && world.health.is_pending(), "it is new again");
    world.health.watch(world.now, &Model::default());
    assert_eq!(world.health.deadline(), None);
    world.run(5 * SECOND);
    world.health.watch(world.now, &both);
    world.began.clear();
    world.run(20 * SECOND);
    assert!(
        (38..=42).contains(&world.began.len()),
        "nothing of before is still asked: {}",
        world.began.len()
    );
}

#[test]
fn a_backend_that_flaps_stays_out_for_a_while_and_then_starts_slowly() {
    let timing = Timing { rise: 1, fall: 1, ..fast() };
    let mut service = service(timing, &["10.0.0.1", "10.0.0.2"]);
    service.health.flap_hold = Some(Millis(30_000));
    service.health.slow_start = Some(Millis(10_000));
    service.backends.iter_mut().for_each(|backend| backend.weight = 100);
    let model = model(std::slice::from_ref(&service));
    let mut world = World::new(&model, Saved::default());
    let key = service.backends[0].key;
    let given = |world: &World| world.health.pool(&service).given.get(&key).copied();
    world.run(20 * SECOND);
    for round in 0..3 {
        assert_eq!(given(&world), None, "round {round}");
        world.set("10.0.0.1", false);
        world.run(2 * SECOND);
        assert_eq!(given(&world), Some(ByHealth::Out), "round {round}");
        world.set("10.0.0.1", true);
        world.run(if round < 2 { 20 * SECOND } else { 2 * SECOND });
    }
    // Its checks pass again, and it is out.
    assert!(world.is_up("10.0.0.1") && world.health.held(&service.name, key).is_some_and(|held| held.0 == 3));
    assert_eq!(given(&world), Some(ByHealth::Out));
    // The other one fails: nobody else is left.
    world.set("10.0.0.2", false);
    world.run(2 * SECOND);
    assert_eq!(given(&world), None);
    world.set("10.0.0.2", true);
    world.run(2 * SECOND);
    assert_eq!(given(&world), Some(ByHealth::Out));
    world.run(20 * SECOND);
    assert_eq!(given(&world), Some(ByHealth::Out));
    world.run(4 * SECOND);
    assert!(matches!(given(&world), Some(ByHealth::Weight(10..=30))), "{:?}", given(&world));
    world.run(10 * SECOND);
    assert_eq!(given(&world), None);
}

#[test]
fn a_backend_that_comes_back_starts_slowly() {
    let mut service = service(fast(), &["10.0.0.1"]);
    service.backends[0].weight = 100;
    service.health.slow_start = Some(Millis(10_000));
    let mut world = World::new(&model(std::slice::from_ref(&service)), Saved::default());
    let key = service.backends[0].key;
    let weight = |world: &World| match world.health.pool(&service).given.get(&key) {
        None => 100,
        Some(ByHealth::Weight(weight)) => *weight,
        Some(ByHealth::Out) => 0,
    };
    world.run(20 * SECOND);
    assert_eq!(weight(&world), 100);
    world.set("10.0.0.1", false);
    world.run(5 * SECOND);
    assert_eq!(weight(&world), 0);
    world.set("10.0.0.1", true);
    while weight(&world) == 0 {
        world.run(SECOND / 100);
    }
    let seen: Vec<u16> = (0..10)
        .map(|_| {
            let seen = weight(&world);
            world.run(SECOND);
            seen
        })
        .collect();
    assert_eq!(seen, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    // An agent that comes after does not begin anew.
    let next = World::new(&model(std::slice::from_ref(&service)), world.saved());
    assert_eq!(weight(&next), 100);
}

#[test]
fn many_checks_are_spread_and_do_not_drift() {
    let addresses: Vec<String> = (0..500).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut world = World::new(&model(&[service(fast(), &addresses)]), Saved::default());
    world.run(10 * SECOND);
    world.began.clear();
    world.run(100 * SECOND);
    assert_eq!(world.began.len(), 500 * 100, "exactly one a second each");
    let (from, mut in_tenths) = (world.began[0].0, [0; 10]);
    for (at, _) in world.began.iter().take_while(|(at, _)| *at < from + SECOND) {
        in_tenths[((*at - from).as_millis() / 100) as usize] += 1;
    }
    assert!(in_tenths.iter().all(|count| (20..=90).contains(count)), "{in_tenths:?}");
}

/// A reload, or many backends that die at once, keep the agent from looking.
#[test]
fn an_agent_that_is_busy_delays_no_attempt() {
    let mut world = World::new(&model(&[service(fast(), &["10.0.0.1", "10.0.0.2"])]), Saved::default());
    world.run(10 * SECOND);
    world.began.clear();
    let end = world.now + 100 * SECOND;
    while world.now < end {
        world.run(Duration::from_millis(333));
        let (wanted, now) = (std::mem::take(&mut world.wanted), world.now);
        // What was asked for goes on by itself meanwhile.
        let busy_until = now + AHEAD / 2;
        for Wanted { due, id, probe } in wanted {
            match due < busy_until {
                true => {
                    world.began.push((due, probe.target.ip()));
                    world.under_way.push((due + world.takes, id, true));
                }
                false => world.wanted.push(Wanted { due, id, probe }),
            }
        }
        world.now = busy_until;
    }
    for address in [[10, 0, 0, 1], [10, 0, 0, 2]] {
        let began: Vec<_> = world.began.iter().filter(|(_, it)| *it == IpAddr::from(address)).collect();
        assert!(
            began.len() >= 100 && began.windows(2).all(|pair| pair[1].0 - pair[0].0 == SECOND),
            "{began:?}"
        );
    }
}

#[test]
fn an_attempt_that_begins_late_counts_by_its_result_and_nothing_is_made_up() {
    let mut machine = Machine::new(Duration::ZERO, fast(), 0.0).resume(State::Up, None, Weight::Configured);
    let mut actions = Vec::new();
    machine.handle(Duration::ZERO, machine::Input::Time, &mut actions);
    assert_eq!(actions, [machine::Action::Attempt(Duration::ZERO)]);
    // It was made five seconds after it was due, by a machine with other work.
    let late = 5 * SECOND;
    machine.handle(late, machine::Input::Done(Outcome::passed(SECOND / 1000, "connected")), &mut actions);
    assert_eq!((machine.state(), machine.against(), actions.len()), (State::Up, None, 1));
    // The next one in its place, and one, not five.
    let next = machine.deadline().expect("it goes on");
    assert!((late..=late + SECOND).contains(&next), "{next:?}");
    machine.handle(next, machine::Input::Time, &mut actions);
    assert_eq!((actions.len(), machine.deadline()), (2, None));
}

/// They would come as one burst in each interval from then on.
#[test]
fn checks_that_one_delay_has_hit_do_not_stay_together() {
    let addresses: Vec<String> = (1..=200).map(|n| format!("10.0.0.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut world = World::new(&model(&[service(fast(), &addresses)]), Saved::default());
    world.run(10 * SECOND);
    // Every attempt of this second ends at one time: the director had no CPU.
    world.takes = 3 * SECOND;
    world.run(SECOND);
    let end = world.now + 3 * SECOND;
    assert!(world.under_way.len() >= 190, "{}", world.under_way.len());
    world.under_way.iter_mut().for_each(|(at, ..)| *at = end);
    world.takes = Duration::from_millis(1);
    world.run(10 * SECOND);
    world.began.clear();
    world.run(SECOND);
    let from = world.now - SECOND;
    let mut in_tenths = [0; 10];
    for (at, _) in &world.began {
        in_tenths[((*at - from).as_millis() / 100).min(9) as usize] += 1;
    }
    assert!(in_tenths.iter().all(|count| (8..=40).contains(count)), "{in_tenths:?}");
}

/// One attempt ends so, whenever it was due.
fn ends(machine: &mut Machine, result: Result<Pass, Failure>) -> Vec<machine::Action> {
    let due = machine.deadline().expect("it goes on");
    let mut actions = Vec::new();
    machine.handle(due, machine::Input::Time, &mut actions);
    actions.clear();
    machine.handle(due, machine::Input::Done(Outcome { took: SECOND / 1000, result }), &mut actions);
    actions
}

#[test]
fn what_a_director_cannot_ask_changes_nothing_that_is_known() {
    let not_made = || Ok(Pass::not_made("no address to come from"));
    let failed = || Err(Failure { why: String::new() });
    let lagging = Weight::Lagging { percent: 0, lag: Some(90) };
    let timing = Timing { rise: 2, fall: 2, retries: 0, ..fast() };
    let mut machine = Machine::new(Duration::ZERO, timing, 0.5);
    assert_eq!(ends(&mut machine, Ok(Pass { weight: lagging, ..Pass::new("") })).len(), 1);
    ends(&mut machine, failed());
    let known = |machine: &Machine| (machine.state(), machine.against(), machine.weight());
    assert_eq!(known(&machine), (State::Up, Some((1, 2)), lagging));
    for _ in 0..3 {
        assert_eq!(ends(&mut machine, not_made()), []);
        assert_eq!(known(&machine), (State::Up, Some((1, 2)), lagging));
        assert_eq!(machine.last().map(Outcome::words), Some("not made: no address to come from"));
    }
    assert_eq!(ends(&mut machine, failed()), [machine::Action::Changed(State::Down)]);
    for against in [None, Some((1, 2))] {
        for _ in 0..3 {
            assert_eq!(ends(&mut machine, not_made()), []);
            assert_eq!(known(&machine), (State::Down, against, lagging));
        }
        ends(&mut machine, Ok(Pass::new("connected")));
        // The pass itself has given the weight back.
        machine = machine.clone().resume(machine.state(), machine.last().cloned(), lagging);
    }
    assert_eq!(machine.state(), State::Up);
}

#[test]
fn what_a_director_cannot_ask_the_first_time_is_in_nobodys_way() {
    // Down: its backend was out when this check came.
    for state in [State::Unproven, State::Down] {
        let mut machine = Machine::new(Duration::ZERO, fast(), 0.5).resume(state, None, Weight::Configured);
        let changed = ends(&mut machine, Ok(Pass::not_made("the backend is the director itself")));
        assert_eq!(changed, [machine::Action::Changed(State::Up)]);
        assert!(machine.serves() && machine.against().is_none());
    }
}

fn timings() -> impl Strategy<Value = Timing> {
    let counts = (1..5u16, 1..5u16, 0..3u16);
    let own = || proptest::option::of((1..4000u32).prop_map(Millis));
    let initial = select(vec![Initial::Down, Initial::Up]);
    (1..4000u32, own(), counts, 1..2000u32, own(), initial).prop_map(
        |(interval, fast_interval, (rise, fall, retries), retry_delay, warmup, initial)| Timing {
            interval: Millis(interval),
            fast_interval,
            rise,
            fall,
            retries,
            retry_delay: Millis(retry_delay),
            warmup,
            initial,
            ..Timing::default()
        },
    )
}

proptest! {
    /// Against the definition: the state is what the last results in a row make it.
    #[test]
    fn any_results_give_the_state_that_rise_and_fall_define(
        timing in timings(),
        phase in 0.0..1.0f64,
        results in vec((any::<bool>(), 0..6000u64), 0..60),
    ) {
        let mut machine = Machine::new(SECOND, timing, phase);
        let mut now = SECOND;
        let mut counted: Vec<bool> = Vec::new();
        let (mut up, mut tried) = (None, 0);
        for (passes, takes) in results {
            let mut actions = Vec::new();
            let due = machine.deadline().expect("it waits for its time");
            // Nothing before it is due.
            machine.handle(due.saturating_sub(Duration::from_nanos(1)), machine::Input::Time, &mut actions);
            prop_assert!(actions.is_empty() && due >= now);
            now = due;
            machine.handle(now, machine::Input::Time, &mut actions);
            prop_assert_eq!(&actions, &[machine::Action::Attempt(now)]);
            machine.handle(now + SECOND, machine::Input::Time, &mut actions);
            prop_assert_eq!(actions.len(), 1, "one attempt at a time");
            prop_assert_eq!(machine.deadline(), None);
            now += Duration::from_millis(takes);
            let outcome = if passes { Outcome::passed(SECOND, "") } else { Outcome::failed(SECOND, "") };
            actions.clear();
            machine.handle(now, machine::Input::Done(outcome), &mut actions);
            let next = machine.deadline().expect("it goes on");
            if !passes && up == Some(true) && tried < timing.retries {
                tried += 1;
                prop_assert!(actions.is_empty());
                prop_assert_eq!(next, now + timing.retry_delay.duration());
                continue;
            }
            tried = 0;
            counted.push(passes);
            let before = up;
            let in_a_row = counted.iter().rev().take_while(|it| **it == passes).count();
            up = match up {
                None => Some(passes),
                Some(true) if !passes && in_a_row >= usize::from(timing.fall) => Some(false),
                Some(false) if passes && in_a_row >= usize::from(timing.rise) => Some(true),
                same => same,
            };
            prop_assert_eq!(machine.state(), if up == Some(true) { State::Up } else { State::Down });
            prop_assert_eq!(!actions.is_empty(), up != before, "a change is said, and nothing else");
            let longest = timing.interval.duration().max(timing.fast_interval().duration());
            prop_assert!(now <= next && next <= now + longest, "{:?} to {:?}", now, next);
            // A row that has done its work does not count for the next change.
            if up != before {
                counted.clear();
            }
        }
    }
}
