//! From the health of a service's backends to what each of them gets.

use std::collections::{BTreeMap, BTreeSet};

use super::Weight;
use crate::{
    model::{Backend, BackendKey, Service, check::ServiceHealth},
    plan::ByHealth,
};

/// What is known of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub healthy: bool,
    /// Each of its checks has had a result.
    pub proven: bool,
    /// What each of them says of the weight.
    pub weights: Vec<Weight>,
    /// Percent of its weight in its slow start; none: it is over.
    pub starting: Option<u8>,
    /// It flaps, or is suspect: it stays out, unless nobody else is left.
    pub held: bool,
    /// It is suspect, and keeps a part of its weight.
    pub lowered: bool,
}

/// Percent of its weight that a suspect backend keeps.
const LOWERED: u8 = 10;

/// What a service's backends get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Of those that do not have their configured weight.
    pub given: BTreeMap<BackendKey, ByHealth>,
    /// The backends that nobody stands in for are enough: those that are neither backups nor stand by.
    pub has_quorum: bool,
    /// Who serves in their place, if anybody does.
    pub instead: Option<Instead>,
    /// The backends that serve only in the place of others.
    pub reserve: BTreeSet<BackendKey>,
    /// Too many fail at once to be believed: all are kept.
    pub panics: bool,
}

/// Who serves without a quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Those that stand by, as their checks say: the primary of replicas.
    StandBys,
    /// Those that are configured as backups.
    Backups,
}

/// In which order backends serve: as long as those before have no quorum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    First,
    StandBy,
    Backup,
}

struct Member<'a> {
    backend: &'a Backend,
    condition: Condition,
    /// Kept or healthy.
    serves: bool,
    /// What its checks say is not believed.
    kept: bool,
}

/// `had_quorum`: before, for the hysteresis.
pub fn pool(service: &Service, condition: impl Fn(BackendKey) -> Condition, had_quorum: bool) -> Pool {
    let condition = |backend: &Backend| condition(backend.key);
    let mut members: Vec<Member<'_>> = (service.backends.iter())
        .map(|backend| (backend, condition(backend)))
        .map(|(backend, condition)| Member {
            backend,
            serves: condition.healthy && !condition.held,
            kept: false,
            condition,
        })
        .collect();
    for rank in [Rank::First, Rank::StandBy, Rank::Backup] {
        let serves = |it: &Member<'_>| it.serves && it.backend.effective_weight() > 0;
        if !members.iter().any(|it| it.rank() == rank && serves(it)) {
            // Damping alone never empties a pool.
            let held = members.iter_mut().filter(|it| it.rank() == rank);
            held.for_each(|it| it.serves = it.condition.healthy);
        }
    }
    let panics = panics(&service.health, &members);
    if panics {
        let kept = members.iter_mut().filter(|it| it.rank() == Rank::First && it.condition.proven);
        kept.for_each(|it| (it.serves, it.kept) = (true, true));
    }
    let mut given: BTreeMap<BackendKey, ByHealth> =
        members.iter().filter_map(|it| Some((it.backend.key, it.given(&service.health)?))).collect();
    let of = |rank: Rank| members.iter().filter(move |it| it.rank() == rank);
    let sum = |given: &_, rank: Rank| of(rank).map(|it| it.weight(given)).sum::<u32>();
    // Who is too late is still better than a backup, but not better than the primary.
    if sum(&given, Rank::StandBy) == 0 {
        keep_the_least_behind(of(Rank::First), &mut given);
    }
    keep_the_least_behind(of(Rank::Backup), &mut given);
    let has_quorum = service.health.has_quorum(sum(&given, Rank::First), had_quorum);
    let there = |rank: Rank| sum(&given, rank) > 0;
    let instead = match has_quorum {
        true => None,
        false if there(Rank::StandBy) => Some(Instead::StandBys),
        false => there(Rank::Backup).then_some(Instead::Backups),
    };
    // One side alone: backups are no help to those that they stand for.
    let serving = match instead {
        None => Rank::First,
        Some(Instead::StandBys) => Rank::StandBy,
        Some(Instead::Backups) => Rank::Backup,
    };
    let has_others = [Rank::StandBy, Rank::Backup].into_iter().any(there);
    let resting = members.iter().filter(|it| has_others && it.rank() != serving);
    let resting: Vec<_> = resting.map(|it| (it.backend.key, ByHealth::Out)).collect();
    given.extend(resting);
    let reserve = members.iter().filter(|it| it.rank() != Rank::First).map(|it| it.backend.key).collect();
    Pool { given, has_quorum, instead, reserve, panics }
}

/// Whether fewer than the minimum of those that shall serve are healthy. One without a result is no failure.
fn panics(health: &ServiceHealth, members: &[Member<'_>]) -> bool {
    let wanted = |it: &&Member<'_>| {
        it.rank() == Rank::First && it.backend.effective_weight() > 0 && it.condition.proven
    };
    let all = members.iter().filter(wanted).count();
    let healthy = members.iter().filter(wanted).filter(|it| it.condition.healthy).count();
    healthy < all && healthy * 100 < all * usize::from(health.minimum_healthy)
}

/// Lag alone never empties a pool: if nobody else serves, those that are the least behind stay.
fn keep_the_least_behind<'a>(
    members: impl Iterator<Item = &'a Member<'a>> + Clone,
    given: &mut BTreeMap<BackendKey, ByHealth>,
) {
    let serving = |it: &&Member<'_>| it.serves && it.backend.effective_weight() > 0;
    let is_out = |it: &&Member<'_>| given.get(&it.backend.key) == Some(&ByHealth::Out);
    if members.clone().filter(serving).any(|it| !is_out(&it)) {
        return;
    }
    let late = members.filter(serving).filter(|it| without_lag(it.backend.weight, &it.condition.weights) > 0);
    let Some(least) = late.clone().map(|it| behind(&it.condition.weights)).min() else { return };
    let kept = late.filter(|it| behind(&it.condition.weights) == least);
    let kept: Vec<_> = kept
        .map(|it| (it.backend.key, ByHealth::Weight(without_lag(it.backend.weight, &it.condition.weights))))
        .collect();
    given.extend(kept);
}

impl Member<'_> {
    fn rank(&self) -> Rank {
        match self.backend.health.backup {
            true => Rank::Backup,
            false if stands_by(&self.condition.weights) => Rank::StandBy,
            false => Rank::First,
        }
    }

    /// What it has of `given`, or is configured to have; none if an operator keeps it back.
    fn weight(&self, given: &BTreeMap<BackendKey, ByHealth>) -> u32 {
        match given.get(&self.backend.key) {
            _ if self.backend.is_kept_back() => 0,
            None => u32::from(self.backend.weight),
            Some(ByHealth::Weight(weight)) => u32::from(*weight),
            Some(ByHealth::Out) => 0,
        }
    }

    /// None: the configured weight.
    fn given(&self, health: &ServiceHealth) -> Option<ByHealth> {
        if !self.serves {
            return Some(if health.inhibit_on_failure { ByHealth::Weight(0) } else { ByHealth::Out });
        }
        let Condition { weights, starting, lowered, .. } = &self.condition;
        let base = without_lag(self.backend.weight, weights);
        let percents = weights.iter().filter_map(|weight| match weight {
            Weight::Lagging { percent, .. } if !self.kept => Some(*percent),
            _ => None,
        });
        match percents.chain(*starting).chain(lowered.then_some(LOWERED)).min() {
            Some(0) => Some(ByHealth::Out),
            percent => {
                let weight = share(base, percent.unwrap_or(100));
                (weight != self.backend.weight).then_some(ByHealth::Weight(weight))
            }
        }
    }
}

impl ServiceHealth {
    /// keepalived's rule (`ipwrapper.c` update_quorum_state): it takes more to get it than to keep it.
    fn has_quorum(&self, weight: u32, had: bool) -> bool {
        let needed = if had {
            self.quorum.saturating_sub(self.hysteresis)
        } else {
            self.quorum.saturating_add(self.hysteresis)
        };
        weight > 0 && weight >= needed
    }
}

/// Whether any check says so.
fn stands_by(weights: &[Weight]) -> bool {
    weights.contains(&Weight::StandBy)
}

fn without_lag(configured: u16, weights: &[Weight]) -> u16 {
    let exactly = weights.iter().rev().find_map(|weight| match weight {
        Weight::Exactly(weight) => Some(*weight),
        _ => None,
    });
    exactly.unwrap_or(configured)
}

/// Seconds; the worst that any check says.
fn behind(weights: &[Weight]) -> u64 {
    let all = weights.iter().filter_map(|weight| match weight {
        Weight::Lagging { lag, .. } => Some(lag.unwrap_or(u64::MAX)),
        _ => None,
    });
    all.max().unwrap_or(0)
}

/// A part of a weight: some, where there shall be some.
fn share(weight: u16, percent: u8) -> u16 {
    let part = (u32::from(weight) * u32::from(percent)).div_ceil(100);
    u16::try_from(part).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::health::tests::service;

    const UP: Condition = Condition {
        healthy: true,
        proven: true,
        weights: Vec::new(),
        starting: None,
        held: false,
        lowered: false,
    };
    const DOWN: Condition = Condition {
        healthy: false,
        proven: true,
        weights: Vec::new(),
        starting: None,
        held: false,
        lowered: false,
    };

    fn says(weight: Weight) -> Condition {
        Condition { weights: vec![weight], ..UP }
    }

    fn lagging(percent: u8, lag: Option<u64>) -> Condition {
        says(Weight::Lagging { percent, lag })
    }

    fn three(health: ServiceHealth) -> Service {
        let mut service = service(Default::default(), &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        service.backends.iter_mut().for_each(|backend| backend.weight = 10);
        service.health = health;
        service
    }

    /// Of three backends of weight 10: what each gets; out is -1.
    fn weighed_in(service: &Service, conditions: [Condition; 3], had_quorum: bool) -> [i32; 3] {
        let keys: Vec<BackendKey> = service.backends.iter().map(|backend| backend.key).collect();
        let of = |key| conditions[keys.iter().position(|other| *other == key).expect("one of them")].clone();
        let pool = pool(service, of, had_quorum);
        [0, 1, 2].map(|n| match pool.given.get(&keys[n]) {
            None => 10,
            Some(ByHealth::Out) => -1,
            Some(ByHealth::Weight(weight)) => i32::from(*weight),
        })
    }

    fn weighed(conditions: [Condition; 3]) -> [i32; 3] {
        weighed_in(&three(ServiceHealth::default()), conditions, true)
    }

    #[test]
    fn lag_lowers_the_weight_and_takes_out() {
        assert_eq!(weighed([UP, lagging(50, Some(5)), lagging(0, Some(60))]), [10, 5, -1]);
        assert_eq!(weighed([UP, lagging(1, Some(5)), DOWN]), [10, 1, -1]);
    }

    #[test]
    fn lag_alone_never_empties_the_pool() {
        assert_eq!(weighed([lagging(0, Some(90)), lagging(0, Some(60)), lagging(0, None)]), [-1, 10, -1]);
        assert_eq!(weighed([DOWN, lagging(0, None), lagging(0, None)]), [-1, 10, 10]);
        assert_eq!(weighed([DOWN, DOWN, DOWN]), [-1, -1, -1]);
    }

    #[test]
    fn a_weight_that_a_check_says_is_the_base_of_the_others() {
        let mut both = lagging(50, Some(5));
        both.weights.push(Weight::Exactly(40));
        let none = says(Weight::Exactly(0));
        assert_eq!(weighed([both, none.clone(), UP]), [20, 0, 10]);
        assert_eq!(weighed([none.clone(), none.clone(), none]), [0, 0, 0], "that is no lag");
    }

    #[test]
    fn inhibited_ones_stay_in_the_tables_with_no_weight() {
        let service = three(ServiceHealth { inhibit_on_failure: true, ..ServiceHealth::default() });
        assert_eq!(weighed_in(&service, [UP, DOWN, UP], true), [10, 0, 10]);
    }

    #[test]
    fn a_starting_backend_has_its_part() {
        let starting = |percent| Condition { starting: Some(percent), ..UP };
        assert_eq!(weighed([UP, starting(10), starting(90)]), [10, 1, 9]);
    }

    #[test]
    fn one_that_flaps_stays_out_as_long_as_there_is_another() {
        let held = Condition { held: true, ..UP };
        assert_eq!(weighed([held.clone(), UP, DOWN]), [-1, 10, -1]);
        assert_eq!(weighed([held.clone(), held, DOWN]), [10, 10, -1]);
        assert_eq!(weighed([Condition { held: true, ..DOWN }, DOWN, DOWN]), [-1, -1, -1]);
    }

    #[test]
    fn a_suspect_keeps_a_tenth() {
        let lowered = Condition { lowered: true, ..UP };
        assert_eq!(weighed([lowered.clone(), UP, UP]), [1, 10, 10]);
        let service = three(ServiceHealth { quorum: 22, ..ServiceHealth::default() });
        assert_eq!(weighed_in(&service, [lowered.clone(), lowered, UP], true), [1, 1, 10]);
    }

    #[test]
    fn below_the_minimum_all_are_kept() {
        let mut service = three(ServiceHealth { minimum_healthy: 50, ..ServiceHealth::default() });
        assert_eq!(weighed_in(&service, [UP, UP, DOWN], true), [10, 10, -1]);
        assert_eq!(weighed_in(&service, [UP, DOWN, DOWN], true), [10, 10, 10]);
        assert_eq!(weighed_in(&service, [DOWN, DOWN, DOWN], true), [10, 10, 10]);
        let unproven = Condition { proven: false, ..DOWN };
        assert_eq!(
            weighed_in(&service, [UP, unproven.clone(), unproven.clone()], true),
            [10, -1, -1],
            "they are new"
        );
        assert_eq!(weighed_in(&service, [DOWN, DOWN, unproven], true), [10, 10, -1]);
        // Who is drained does not count.
        service.backends[0].drained = true;
        assert_eq!(weighed_in(&service, [UP, UP, DOWN], true), [10, 10, -1]);
        assert_eq!(weighed_in(&service, [UP, DOWN, DOWN], true)[1..], [10, 10]);
    }

    #[test]
    fn below_the_minimum_lag_is_not_believed_either() {
        let service = three(ServiceHealth { minimum_healthy: 50, ..ServiceHealth::default() });
        assert_eq!(weighed_in(&service, [lagging(0, None), DOWN, DOWN], true), [10, 10, 10]);
        let gone = Condition { healthy: false, ..lagging(0, Some(60)) };
        assert_eq!(weighed_in(&service, [lagging(50, Some(5)), gone, DOWN], true), [10, 10, 10]);
        assert_eq!(weighed_in(&service, [lagging(0, None), UP, DOWN], true), [-1, 10, -1], "two of three");
    }

    #[test]
    fn backups_serve_while_the_others_have_no_quorum() {
        let mut service = three(ServiceHealth { quorum: 15, hysteresis: 5, ..ServiceHealth::default() });
        service.backends[2].health.backup = true;
        assert_eq!(weighed_in(&service, [UP, UP, UP], true), [10, 10, -1]);
        assert_eq!(weighed_in(&service, [UP, DOWN, UP], true), [10, -1, -1], "10 is not below 15 - 5");
        assert_eq!(weighed_in(&service, [UP, DOWN, UP], false), [-1, -1, 10]);
        assert_eq!(weighed_in(&service, [UP, UP, UP], false), [10, 10, -1], "20 is 15 + 5");
        assert_eq!(weighed_in(&service, [DOWN, DOWN, UP], true), [-1, -1, 10]);
        assert_eq!(weighed_in(&service, [UP, DOWN, DOWN], false), [10, -1, -1], "nobody stands for them");
        service.backends[0].drained = true;
        service.backends[1].drained = true;
        assert_eq!(weighed_in(&service, [UP, UP, UP], true)[2], 10);
    }

    #[test]
    fn a_primary_stands_by_until_too_few_replicas_serve() {
        let primary = || says(Weight::StandBy);
        assert_eq!(weighed([UP, lagging(50, Some(9)), primary()]), [10, 5, -1]);
        assert_eq!(weighed([DOWN, lagging(1, Some(9)), primary()]), [-1, 1, -1], "a late one is one");
        assert_eq!(weighed([lagging(0, Some(90)), lagging(0, None), primary()]), [-1, -1, 10]);
        assert_eq!(weighed([DOWN, DOWN, primary()]), [-1, -1, 10]);
        // Nobody is left but those that are late.
        let gone = Condition { healthy: false, ..primary() };
        assert_eq!(weighed([lagging(0, Some(90)), lagging(0, None), gone.clone()]), [10, -1, -1]);
        assert_eq!(weighed([DOWN, DOWN, gone]), [-1, -1, -1]);
        let mut service = three(ServiceHealth::default());
        service.backends[2].drained = true;
        assert_eq!(weighed_in(&service, [lagging(0, Some(9)), DOWN, primary()], true)[..2], [10, -1]);
    }

    #[test]
    fn a_primary_comes_and_goes_with_the_hysteresis_of_the_quorum() {
        let service = three(ServiceHealth { quorum: 10, hysteresis: 5, ..ServiceHealth::default() });
        let with = |percent, had| {
            let conditions = [lagging(percent, Some(9)), DOWN, says(Weight::StandBy)];
            weighed_in(&service, conditions, had)
        };
        assert_eq!(with(50, true), [5, -1, -1], "5 is not below 10 - 5");
        assert_eq!(with(40, true), [-1, -1, 10]);
        assert_eq!(with(90, false), [-1, -1, 10], "9 is not 10 + 5");
        let conditions = [UP, lagging(50, Some(9)), says(Weight::StandBy)];
        assert_eq!(weighed_in(&service, conditions, false), [10, 5, -1]);
    }

    #[test]
    fn a_primary_serves_before_backups_do() {
        let mut service = three(ServiceHealth::default());
        service.backends[2].health.backup = true;
        let instead = |conditions: [Condition; 3]| {
            let keys: Vec<BackendKey> = service.backends.iter().map(|it| it.key).collect();
            let of = |key| conditions[keys.iter().position(|it| *it == key).expect("one of them")].clone();
            let pool = pool(&service, of, true);
            (weighed_in(&service, conditions.clone(), true), pool.instead, pool.reserve.len())
        };
        let primary = says(Weight::StandBy);
        assert_eq!(instead([UP, primary.clone(), UP]), ([10, -1, -1], None, 2));
        let late = lagging(0, None);
        let serves = ([-1, 10, -1], Some(Instead::StandBys), 2);
        assert_eq!(instead([late.clone(), primary.clone(), UP]), serves);
        let gone = Condition { healthy: false, ..primary.clone() };
        assert_eq!(instead([DOWN, gone.clone(), UP]), ([-1, -1, 10], Some(Instead::Backups), 2));
        assert_eq!(instead([late, gone, UP]), ([10, -1, -1], None, 2), "late is better than a backup");
        assert_eq!(instead([DOWN, primary.clone(), primary]), serves, "a backup is a backup");
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        let weight = prop_oneof![
            Just(Weight::Configured),
            (0..100u8, proptest::option::of(0..99u64))
                .prop_map(|(percent, lag)| Weight::Lagging { percent, lag }),
            Just(Weight::StandBy),
        ];
        (any::<bool>(), any::<bool>(), weight).prop_map(|(healthy, held, weight)| Condition {
            healthy,
            held,
            ..says(weight)
        })
    }

    proptest! {
        /// As long as somebody is healthy, somebody takes connections, whatever else is said.
        #[test]
        fn a_pool_with_a_healthy_backend_is_never_empty(
            conditions in [conditions(), conditions(), conditions()],
            backups in [any::<bool>(), any::<bool>(), any::<bool>()],
            minimum_healthy in select(vec![0, 50, 100]),
            quorum in 0..40u32,
            had in any::<bool>(),
        ) {
            let mut service = three(ServiceHealth { minimum_healthy, quorum, ..ServiceHealth::default() });
            for (backend, backup) in service.backends.iter_mut().zip(backups) {
                backend.health.backup = backup;
            }
            let any_healthy = conditions.iter().any(|condition| condition.healthy);
            let given = weighed_in(&service, conditions, had);
            prop_assert!(!any_healthy || given.iter().any(|weight| *weight > 0), "{:?}", given);
        }
    }
}
