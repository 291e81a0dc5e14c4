//! Rates as the agent estimates them, or between two readings of the counters. PURE.

use serde::Serialize;

use crate::{
    api::types::{Counters, Rate, Stats},
    model::{BackendKey, Endpoint, ServiceName},
};

/// What `lb stats --rate --output json` prints. All rates are per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Rates {
    /// Between the two readings; none of what the agent estimates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<f64>,
    pub(super) total: Rate,
    pub(super) services: Vec<ServiceRate>,
    pub(super) verdicts: Vec<VerdictRate>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct ServiceRate {
    pub(super) name: ServiceName,
    pub(super) endpoint: Endpoint,
    pub(super) rate: Rate,
    pub(super) backends: Vec<BackendRate>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct BackendRate {
    pub(super) key: BackendKey,
    pub(super) rate: Rate,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct VerdictRate {
    pub(super) name: String,
    pub(super) meaning: String,
    pub(super) packets: f64,
}

impl Rates {
    /// As the agent estimates them.
    pub(super) fn estimated(stats: &Stats) -> Self {
        let services = stats.services.iter().map(|service| ServiceRate {
            name: service.name.clone(),
            endpoint: service.endpoint,
            rate: service.rate,
            backends: service.backends.iter().map(|b| BackendRate { key: b.key, rate: b.rate }).collect(),
        });
        let verdicts = stats.verdicts.iter().map(|verdict| VerdictRate {
            name: verdict.name.clone(),
            meaning: verdict.meaning.clone(),
            packets: verdict.rate,
        });
        Self {
            seconds: None,
            total: stats.total_rate,
            services: services.collect(),
            verdicts: verdicts.collect(),
        }
    }

    /// `None` where `newer` is not the later one, as after a reboot.
    ///
    /// What only `newer` has began between the two, so it counts from zero. A counter that went back was
    /// created anew (`lb detach`, then a new agent) and counts as zero.
    pub(super) fn between(older: &Stats, newer: &Stats) -> Option<Self> {
        let nanos = newer.monotonic_ns.checked_sub(older.monotonic_ns).filter(|n| *n > 0)?;
        let seconds = nanos as f64 / 1e9;
        let per_second = |older: u64, newer: u64| newer.saturating_sub(older) as f64 / seconds;
        let rate = |older: Counters, newer: Counters| Rate {
            connections: per_second(older.connections, newer.connections),
            packets: per_second(older.packets, newer.packets),
            bytes: per_second(older.bytes, newer.bytes),
        };
        let services = newer.services.iter().map(|service| {
            let before = older.services.iter().find(|s| s.name == service.name);
            let backends = service.backends.iter().map(|backend| {
                let was = before.and_then(|s| s.backends.iter().find(|b| b.key == backend.key));
                let was = was.map(|b| b.counters).unwrap_or_default();
                BackendRate { key: backend.key, rate: rate(was, backend.counters) }
            });
            ServiceRate {
                name: service.name.clone(),
                endpoint: service.endpoint,
                rate: rate(before.map(|s| s.counters).unwrap_or_default(), service.counters),
                backends: backends.collect(),
            }
        });
        let verdicts = newer.verdicts.iter().map(|verdict| {
            let was = older.verdicts.iter().find(|v| v.name == verdict.name).map_or(0, |v| v.packets);
            VerdictRate {
                name: verdict.name.clone(),
                meaning: verdict.meaning.clone(),
                packets: per_second(was, verdict.packets),
            }
        });
        Some(Self {
            seconds: Some(seconds),
            total: rate(older.total, newer.total),
            services: services.collect(),
            verdicts: verdicts.collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;

    #[test]
    fn a_rate_is_the_difference_over_the_agents_clock() {
        let rates = Rates::between(&fake::stats(1), &fake::stats(2)).unwrap();
        assert_eq!(rates.seconds, Some(2.0));
        assert_eq!(rates.total, Rate { connections: 50.0, packets: 2000.0, bytes: 3_000_000.0 });
        assert_eq!(rates.services[0].rate, rates.total);
        assert_eq!(rates.services[0].backends[0].rate.packets, 1000.0);
        assert_eq!(rates.verdicts[0].packets, 2000.0);
        assert_eq!(rates.verdicts[1].packets, 0.0);
    }

    #[test]
    fn estimates_are_the_agents() {
        let rates = Rates::estimated(&fake::stats(1));
        assert_eq!((rates.seconds, rates.total, rates.services[0].rate), (None, fake::RATE, fake::RATE));
        assert_eq!(rates.services[0].backends[0].rate.connections, 0.5);
        assert_eq!((rates.verdicts[0].packets, rates.verdicts[1].packets), (1900.0, 0.0));
    }

    #[test]
    fn new_things_count_from_zero_and_reset_ones_as_zero() {
        let (mut older, newer) = (fake::stats(1), fake::stats(2));
        older.services.clear();
        older.verdicts[0].packets = 1 << 40;
        let rates = Rates::between(&older, &newer).unwrap();
        assert_eq!(rates.services[0].rate.connections, 100.0);
        assert_eq!(rates.verdicts[0].packets, 0.0);
    }

    #[test]
    fn readings_in_the_wrong_order_give_none() {
        assert_eq!(Rates::between(&fake::stats(2), &fake::stats(1)), None);
        assert_eq!(Rates::between(&fake::stats(1), &fake::stats(1)), None);
    }
}
