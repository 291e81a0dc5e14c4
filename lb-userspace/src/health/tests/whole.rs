//! A whole pool, whatever happens to its backends: what an operator may rely on.

use super::{ongoing::wait, *};
use crate::model::{Maintenance, check::PassiveMode};

/// The first hold of one that flaps or is suspect, in seconds; it doubles up to 16 times.
const HOLD: u32 = 30;
const SLOW: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
enum Event {
    /// Milliseconds.
    Wait(u64),
    /// The checks of these end so, in one turn; none: they fail.
    End(Vec<(usize, Option<Weight>)>),
    /// Connections are looked at; whether the guard is active. First each gets a hundred, of which those of these (by
    /// bit) hang, if any does.
    Look(Option<u8>, bool),
    Drain(usize, bool),
    /// For so many seconds; none: until it is ended.
    Maintain(usize, Option<u32>),
    EndMaintenance(usize),
    Weigh(usize, u16),
}

/// One service and its machines, as the agent drives them.
struct Whole {
    world: World,
    model: Model,
    counts: Vec<Figures>,
}

/// What is decided at one time.
struct Decided {
    pool: Pool,
    conditions: Vec<Condition>,
    /// What the scheduler sees.
    weights: Vec<u16>,
    suspects: Vec<bool>,
}

impl Whole {
    fn new(service: Service) -> Self {
        let counts = vec![Figures::default(); service.backends.len()];
        let model = Model { services: vec![service], ..Model::default() };
        let mut whole = Self { world: World::new(&model, Saved::default()), model, counts };
        whole.look(false);
        whole
    }

    fn service(&self) -> &Service {
        &self.model.services[0]
    }

    fn backend(&mut self, n: usize) -> &mut Backend {
        let backends = &mut self.model.services[0].backends;
        let n = n % backends.len();
        &mut backends[n]
    }

    fn follow(&mut self, event: Event) {
        match event {
            Event::Wait(ms) => return self.wait(Duration::from_millis(ms)),
            Event::End(ends) => {
                let all = self.counts.len();
                // One result of each.
                let ends: BTreeMap<_, _> = ends.into_iter().map(|(n, says)| (n % all, says)).collect();
                for (n, says) in ends {
                    let (name, key) = (self.service().name.clone(), self.backend(n).key);
                    let result = says.map(|weight| Pass { weight, ..Pass::new("") });
                    let result = result.ok_or_else(|| Failure { why: String::new() });
                    self.world.end(&name, key, Outcome { took: SECOND, result });
                }
                return self.world.health.settle(&self.model);
            }
            Event::Look(hang, guarded) => {
                hang.into_iter().for_each(|hang| self.connect(hang));
                return self.look(guarded);
            }
            Event::Drain(n, drained) => self.backend(n).drained = drained,
            Event::Maintain(n, seconds) => {
                let wall = self.world.clocks().wall;
                self.backend(n).maintenance = Maintenance::begin("a reboot", "root", wall, seconds).ok();
            }
            Event::EndMaintenance(n) => self.backend(n).maintenance = None,
            Event::Weigh(n, weight) => self.backend(n).weight = weight,
        }
        self.world.health.watch(self.world.now, &self.model);
    }

    /// Time passes, and maintenances end with it.
    fn wait(&mut self, time: Duration) {
        wait(&mut self.world, &self.model, time);
        let wall = self.world.clocks().wall;
        let is_over = |it: &mut Maintenance| it.is_over(wall);
        let backends = self.model.services[0].backends.iter_mut();
        if backends.filter_map(|backend| backend.maintenance.take_if(is_over)).count() > 0 {
            self.world.health.watch(self.world.now, &self.model);
        }
    }

    /// What hung before has run out.
    fn connect(&mut self, hang: u8) {
        for (n, figures) in self.counts.iter_mut().enumerate() {
            figures.incomplete += figures.half_open;
            figures.connections += 100;
            figures.half_open = if hang & 1 << n == 0 { 0 } else { 100 };
        }
    }

    fn look(&mut self, guarded: bool) {
        let all = self.service().backends.iter().zip(&self.counts);
        let all = all.map(|(backend, figures)| (backend.key, *figures)).collect();
        let name = self.service().name.clone();
        self.world.act(Input::Counted(name, guarded, all));
        self.world.health.settle(&self.model);
    }

    fn decided(&self) -> Decided {
        let (service, health) = (self.service(), &self.world.health);
        let weights = health.weights(&self.model);
        let all = || service.backends.iter();
        Decided {
            pool: health.pool(service),
            conditions: all().map(|it| health.condition(&service.name, it.key)).collect(),
            weights: all().map(|it| weights.effective(&service.name, it)).collect(),
            suspects: all().map(|it| health.suspicion(&service.name, it.key).is_some()).collect(),
        }
    }

    /// All timers run out.
    fn rest(&mut self) {
        self.wait(SECOND * HOLD * 16);
        self.look(false);
        self.wait(SLOW);
    }

    /// The weights of those that are no reserve, as they are while nobody serves in their place.
    fn firsts(&self) -> u32 {
        let mut alone = self.service().clone();
        (alone.health.quorum, alone.health.hysteresis) = (0, 0);
        let pool = self.world.health.pool(&alone);
        let weights = Weights([(alone.name.clone(), pool.given)].into());
        let firsts = alone.backends.iter().filter(|it| pool.has_quorum && !pool.reserve.contains(&it.key));
        firsts.map(|it| u32::from(weights.effective(&alone.name, it))).sum()
    }

    /// The rules that hold after each event.
    fn holds(
        &mut self,
        before: &Decided,
        had_maintenance: &[bool],
        waited: bool,
    ) -> Result<(), TestCaseError> {
        let now = self.decided();
        self.nothing_moves(&now)?;
        self.too_few_keep_all(&now)?;
        self.quorum_has_two_edges(before, &now)?;
        self.suspects_are_few(&now)?;
        let service = self.service();
        for (n, backend) in service.backends.iter().enumerate() {
            let (was, is) = (&before.conditions[n], &now.conditions[n]);
            prop_assert!(!backend.is_kept_back() || now.weights[n] == 0, "{} is kept back", backend.key);
            let says =
                is.weights.iter().find_map(|it| if let Weight::Exactly(it) = it { Some(*it) } else { None });
            prop_assert!(now.weights[n] <= says.unwrap_or(backend.weight), "{} has too much", backend.key);
            let out = !is.healthy && !now.pool.panics;
            prop_assert!(!out || now.weights[n] == 0, "{} fails and serves", backend.key);
            let stays = |it: &Condition| it.healthy && !it.held;
            if stays(was) && stays(is) && !had_maintenance[n] && backend.maintenance.is_none() {
                let part = |it: &Condition| it.starting.unwrap_or(100);
                prop_assert!(part(was) <= part(is), "{} starts again: {was:?}, {is:?}", backend.key);
            }
        }
        let held = |it: &Decided| it.conditions.iter().map(|it| it.held).collect::<Vec<_>>();
        let worked_on = service.backends.iter().map(|it| it.maintenance.is_some());
        let is_the_same = before.pool.instead == now.pool.instead
            && held(before) == held(&now)
            && worked_on.eq(had_maintenance.iter().copied());
        if waited && is_the_same {
            let fell = before.weights.iter().zip(&now.weights).any(|(was, is)| was > is);
            prop_assert!(!fell, "time alone took weight: {:?}, {:?}", before.weights, now.weights);
        }
        Ok(())
    }

    /// The outcome is a function of the state.
    fn nothing_moves(&mut self, now: &Decided) -> Result<(), TestCaseError> {
        for _ in 0..2 {
            self.world.act(Input::Time);
            self.world.health.settle(&self.model);
            let again = self.decided();
            prop_assert_eq!((&again.pool, &again.weights), (&now.pool, &now.weights));
        }
        Ok(())
    }

    fn too_few_keep_all(&self, now: &Decided) -> Result<(), TestCaseError> {
        let service = self.service();
        let all = service.backends.iter().zip(&now.conditions).zip(&now.weights);
        let counted = all.filter(|((backend, condition), _)| {
            let is_reserve = now.pool.reserve.contains(&backend.key);
            !is_reserve && backend.effective_weight() > 0 && condition.proven
        });
        let counted: Vec<_> = counted.collect();
        let healthy = counted.iter().filter(|((_, condition), _)| condition.healthy).count();
        let minimum = usize::from(service.health.minimum_healthy);
        prop_assert_eq!(now.pool.panics, healthy < counted.len() && healthy * 100 < counted.len() * minimum);
        // A weight of 0 that a check says is an order, as an operator's is.
        let orders = |it: &Condition| it.weights.contains(&Weight::Exactly(0));
        let mut kept = counted.iter().filter(|((_, condition), _)| !orders(condition));
        if now.pool.panics && now.pool.instead.is_none() {
            prop_assert!(kept.all(|(_, weight)| **weight > 0), "all are kept: {:?}", now.weights);
        }
        if minimum > 0 && !counted.is_empty() && !counted.iter().any(|((_, it), _)| orders(it)) {
            prop_assert!(now.weights.iter().any(|weight| *weight > 0), "checks have emptied the pool");
        }
        Ok(())
    }

    /// keepalived's rule, by the weights of those that are no reserve.
    fn quorum_has_two_edges(&self, before: &Decided, now: &Decided) -> Result<(), TestCaseError> {
        let (firsts, ServiceHealth { quorum, hysteresis, .. }) = (self.firsts(), &self.service().health);
        let to_get = firsts > 0 && firsts >= quorum + hysteresis;
        let to_keep = firsts > 0 && firsts >= quorum.saturating_sub(*hysteresis);
        let expected = if before.pool.has_quorum { to_keep } else { to_get };
        prop_assert_eq!(now.pool.has_quorum, expected, "{} of {} ± {}", firsts, quorum, hysteresis);
        Ok(())
    }

    fn suspects_are_few(&self, now: &Decided) -> Result<(), TestCaseError> {
        let suspects = now.suspects.iter().filter(|it| **it).count();
        prop_assert!(suspects <= (now.suspects.len() / 3).max(1), "{:?}", now.suspects);
        Ok(())
    }

    /// At most a third of the healthy ones that nobody works on, or one of two; nobody new by a guarded look.
    fn looked_well(&self, before: &Decided, guarded: bool) -> Result<(), TestCaseError> {
        let now = self.decided();
        let backends = self.service().backends.iter().zip(&now.conditions);
        let judged = backends.filter(|(it, condition)| condition.healthy && it.maintenance.is_none()).count();
        let most = if judged < 2 { 0 } else { (judged / 3).max(1) };
        let suspects = now.suspects.iter().filter(|it| **it).count();
        prop_assert!(suspects <= most, "{:?} of {}", now.suspects, judged);
        let new = before.suspects.iter().zip(&now.suspects).any(|(was, is)| !was && *is);
        prop_assert!(!(guarded && new), "{:?}, {:?}", before.suspects, now.suspects);
        Ok(())
    }
}

fn services() -> impl Strategy<Value = Service> {
    let weight = || prop_oneof![4 => Just(100), 1 => 0..200u16];
    let role = || prop_oneof![4 => Just((false, true)), 1 => Just((true, true)), 1 => Just((true, false))];
    let backends = vec((weight(), role()), 1..=8);
    let quorum = (prop_oneof![Just(1), 0..500u32], prop_oneof![Just(0), 0..200u32]);
    let options = (select(vec![0, 1, 34, 50, 100]), any::<bool>(), any::<bool>(), any::<bool>());
    let passive = select(vec![PassiveMode::Off, PassiveMode::Lower, PassiveMode::Out]);
    let initial = select(vec![Initial::Down, Initial::Up]);
    (backends, quorum, options, passive, initial, (1..3u16, 1..3u16)).prop_map(
        |(backends, (quorum, hysteresis), options, passive, initial, (rise, fall))| {
            let addresses: Vec<String> = (1..=backends.len()).map(|n| format!("10.0.0.{n}")).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let mut service = service(Timing { rise, fall, initial, ..fast() }, &addresses);
            for (backend, (weight, (is_backup, is_checked))) in service.backends.iter_mut().zip(backends) {
                (backend.weight, backend.health.backup) = (weight, is_backup);
                // A sorry server is not checked.
                backend.health.checks = (!is_checked).then(Vec::new);
            }
            let (minimum_healthy, inhibit_on_failure, starts_slowly, is_damped) = options;
            let millis = |time: Duration| Millis(time.as_millis() as u32);
            service.health = ServiceHealth {
                quorum,
                hysteresis,
                minimum_healthy,
                inhibit_on_failure,
                slow_start: starts_slowly.then_some(millis(SLOW)),
                flap_hold: is_damped.then_some(millis(SECOND * HOLD)),
                passive,
                passive_hold: millis(SECOND * HOLD),
                ..service.health
            };
            service
        },
    )
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let says = prop_oneof![
        3 => Just(None),
        3 => Just(Some(Weight::Configured)),
        1 => (0..100u8, proptest::option::of(0..99u64)).prop_map(|(percent, lag)| Some(Weight::Lagging { percent, lag })),
        1 => Just(Some(Weight::Lagging { percent: 0, lag: None })),
        1 => (0..200u16).prop_map(|weight| Some(Weight::Exactly(weight))),
        1 => Just(Some(Weight::StandBy)),
    ];
    let n = || 0..8usize;
    let one = prop_oneof![
        3 => prop_oneof![1..5000u64, 1..600_000u64].prop_map(Event::Wait),
        6 => vec((n(), says), 1..9).prop_map(Event::End),
        1 => (n(), any::<bool>()).prop_map(|(n, drained)| Event::Drain(n, drained)),
        1 => (n(), proptest::option::of(1..300u32)).prop_map(|(n, seconds)| Event::Maintain(n, seconds)),
        1 => n().prop_map(Event::EndMaintenance),
        1 => (n(), 0..200u16).prop_map(|(n, weight)| Event::Weigh(n, weight)),
    ];
    // They hang if they do so at a second look.
    let connections = (any::<u8>(), prop::bool::weighted(0.1))
        .prop_map(|(hang, guarded)| [None, Some(hang), None].map(|hang| Event::Look(hang, guarded)).to_vec());
    let events = prop_oneof![13 => one.prop_map(|event| vec![event]), 2 => connections];
    vec(events, 0..60).prop_map(|events| events.concat())
}

proptest! {
    #[test]
    fn whatever_happens_the_pool_keeps_its_word(service in services(), events in events()) {
        let mut whole = Whole::new(service);
        for event in events {
            let before = whole.decided();
            let maintained: Vec<_> = whole.service().backends.iter().map(|it| it.maintenance.is_some()).collect();
            whole.follow(event.clone());
            whole.holds(&before, &maintained, matches!(event, Event::Wait(_)))?;
            if let Event::Look(_, guarded) = event {
                whole.looked_well(&before, guarded)?;
            }
        }
        // Nothing happens any more: nothing changes any more.
        whole.rest();
        let rests = whole.decided();
        for time in [SECOND, SLOW, 3600 * SECOND] {
            whole.wait(time);
            whole.look(false);
            let later = whole.decided();
            prop_assert_eq!((&later.pool, &later.weights), (&rests.pool, &rests.weights));
        }
        // Everybody is well.
        for n in 0..whole.service().backends.len() {
            whole.follow(Event::Drain(n, false));
            whole.follow(Event::EndMaintenance(n));
            (0..2).for_each(|_| whole.follow(Event::End(vec![(n, Some(Weight::Configured))])));
        }
        whole.rest();
        let well = whole.decided();
        let of = |backup: bool| whole.service().backends.iter().filter(move |it| it.health.backup == backup);
        let backups_serve = !well.pool.has_quorum && of(true).any(|it| it.weight > 0);
        for (backend, weight) in whole.service().backends.iter().zip(&well.weights) {
            let expected = if backend.health.backup == backups_serve { backend.weight } else { 0 };
            prop_assert_eq!(*weight, expected, "{}: {:?}", backend.key, &well.pool);
        }
    }
}
