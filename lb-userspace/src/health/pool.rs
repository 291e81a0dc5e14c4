//! From the health of a service's backends to their weights.

use std::collections::BTreeMap;

use super::Weight;
use crate::model::{BackendKey, Service};

/// What the checks of one backend say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub healthy: bool,
    /// What each of them says of the weight.
    pub weights: Vec<Weight>,
}

/// The weights that are not the configured ones. 0 is out.
pub fn weights(service: &Service, condition: impl Fn(BackendKey) -> Condition) -> BTreeMap<BackendKey, u16> {
    let mut given: BTreeMap<BackendKey, u16> = BTreeMap::new();
    let mut lagging: Vec<(u64, BackendKey, u16)> = Vec::new();
    let mut some_follow = false;
    for backend in &service.backends {
        let Condition { healthy, weights } = condition(backend.key);
        let weight = if healthy { weigh(backend.weight, &weights) } else { Some(0) };
        if let Some(weight) = weight {
            given.insert(backend.key, weight);
        }
        let takes = healthy && !backend.drained && backend.weight > 0;
        some_follow |= takes && weight != Some(0);
        if takes && weight == Some(0) && without_lag(backend.weight, &weights) > 0 {
            lagging.push((behind(&weights), backend.key, without_lag(backend.weight, &weights)));
        }
    }
    // Lag alone never empties a pool: those that are the least behind stay.
    if !some_follow && let Some(least) = lagging.iter().map(|(behind, ..)| *behind).min() {
        let kept = lagging.into_iter().filter(|(behind, ..)| *behind == least);
        given.extend(kept.map(|(_, key, weight)| (key, weight)));
    }
    given
}

/// None: the configured one.
fn weigh(configured: u16, weights: &[Weight]) -> Option<u16> {
    let percent = weights.iter().filter_map(|weight| match weight {
        Weight::Lagging { percent, .. } => Some(*percent),
        _ => None,
    });
    let base = without_lag(configured, weights);
    let weight = match percent.min() {
        None => base,
        Some(percent) => share(base, percent),
    };
    (weight != configured).then_some(weight)
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
    use super::*;
    use crate::health::tests::service;

    const UP: Condition = Condition { healthy: true, weights: Vec::new() };

    fn lagging(percent: u8, lag: Option<u64>) -> Condition {
        Condition { weights: vec![Weight::Lagging { percent, lag }], ..UP }
    }

    /// Of three backends of weight 10; the configured weight where none is given.
    fn weighed(conditions: [Condition; 3]) -> [u16; 3] {
        let mut service = service(Default::default(), &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        service.backends.iter_mut().for_each(|backend| backend.weight = 10);
        let keys: Vec<BackendKey> = service.backends.iter().map(|backend| backend.key).collect();
        let given = weights(&service, |key| {
            let at = keys.iter().position(|other| *other == key).expect("one of them");
            conditions[at].clone()
        });
        [0, 1, 2].map(|n| given.get(&keys[n]).copied().unwrap_or(10))
    }

    #[test]
    fn lag_lowers_the_weight_and_takes_out() {
        let down = Condition { healthy: false, ..UP };
        assert_eq!(weighed([UP, lagging(50, Some(5)), lagging(0, Some(60))]), [10, 5, 0]);
        assert_eq!(weighed([UP, lagging(1, Some(5)), down]), [10, 1, 0]);
    }

    #[test]
    fn lag_alone_never_empties_the_pool() {
        let down = || Condition { healthy: false, ..UP };
        assert_eq!(weighed([lagging(0, Some(90)), lagging(0, Some(60)), lagging(0, None)]), [0, 10, 0]);
        assert_eq!(weighed([down(), lagging(0, None), lagging(0, None)]), [0, 10, 10]);
        assert_eq!(weighed([down(), down(), down()]), [0, 0, 0]);
    }

    #[test]
    fn a_weight_that_a_check_says_is_the_base_of_the_others() {
        let mut both = lagging(50, Some(5));
        both.weights.push(Weight::Exactly(40));
        let out = Condition { weights: vec![Weight::Exactly(0)], ..UP };
        assert_eq!(weighed([both, out.clone(), UP]), [20, 0, 10]);
        assert_eq!(weighed([out.clone(), out.clone(), out]), [0, 0, 0], "that is no lag");
    }
}
