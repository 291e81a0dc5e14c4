//! Rates as IPVS's estimator has them (`ip_vs_est.c`): every two seconds a quarter of the way to what the last two
//! seconds had. PURE.

use std::{collections::BTreeMap, time::Duration};

use lb_common::counters::Counters;

use crate::api::types::Rate;

/// Between readings of one thing's counters.
const INTERVAL: Duration = Duration::from_secs(2);
/// Things that are read at once: the agent does nothing else meanwhile. With more of them each is read less often.
const AT_ONCE: usize = 16_384;
/// Fixed point of the rates, as IPVS has it for connections and packets. Rounding down ends them at 0.
const SCALE_BITS: u32 = 10;
/// A reading that comes so late counts for no more intervals: after them nothing is left of what was before.
const MOST_INTERVALS: u128 = 64;

/// The rates of many things, each with a key.
#[derive(Debug)]
pub struct Estimator<K> {
    of: BTreeMap<K, Estimate>,
}

#[derive(Clone, Copy, Debug)]
struct Estimate {
    /// When it was read last, and what was read.
    at: Duration,
    last: Counters,
    /// In 1/1024 a second: connections, packets, bytes.
    rates: [i64; 3],
}

impl<K> Default for Estimator<K> {
    fn default() -> Self {
        Self { of: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Estimator<K> {
    /// Which of these things are to be read now: the ones that have waited longest. Others than these are forgotten.
    pub fn due(&mut self, now: Duration, there: impl Iterator<Item = K>) -> Vec<K> {
        let before = std::mem::take(&mut self.of);
        let mut due = Vec::new();
        for key in there {
            let estimate = before.get(&key).copied();
            self.of.extend(estimate.map(|estimate| (key, estimate)));
            match estimate {
                None => due.push((Duration::ZERO, key)),
                Some(Estimate { at, .. }) if now.saturating_sub(at) >= INTERVAL => due.push((at, key)),
                Some(_) => {}
            }
        }
        if due.len() > AT_ONCE {
            due.select_nth_unstable(AT_ONCE);
            due.truncate(AT_ONCE);
        }
        due.into_iter().map(|(_, key)| key).collect()
    }

    /// Takes in what was read of a thing. The first reading gives no rate.
    pub fn read(&mut self, key: K, now: Duration, counters: Counters) {
        let fresh = Estimate { at: now, last: counters, rates: [0; 3] };
        self.of.entry(key).and_modify(|estimate| estimate.fold(now, counters)).or_insert(fresh);
    }

    /// Nothing of what is not known.
    pub fn rate(&self, key: K) -> Rate {
        let rates = self.of.get(&key).map(|estimate| estimate.rates).unwrap_or_default();
        let [connections, packets, bytes] = rates.map(|rate| rate as f64 / f64::from(1 << SCALE_BITS));
        Rate { connections, packets, bytes }
    }
}

impl Estimate {
    fn fold(&mut self, now: Duration, counters: Counters) {
        let elapsed = now.saturating_sub(self.at).as_nanos();
        if elapsed == 0 {
            return;
        }
        let intervals = (elapsed / INTERVAL.as_nanos()).clamp(1, MOST_INTERVALS);
        // A counter that went back was made anew, and counts from zero.
        let moved = |last: u64, now: u64| u128::from(if now < last { now } else { now - last });
        let moved = [
            moved(self.last.connections, counters.connections),
            moved(self.last.packets, counters.packets),
            moved(self.last.bytes, counters.bytes),
        ];
        for (rate, moved) in self.rates.iter_mut().zip(moved) {
            let scaled = (moved << SCALE_BITS).saturating_mul(Duration::from_secs(1).as_nanos()) / elapsed;
            let current = i64::try_from(scaled).unwrap_or(i64::MAX);
            // One that comes late counts as that many with the same in each.
            for _ in 0..intervals {
                *rate += (current - *rate) >> 2;
            }
        }
        (self.at, self.last) = (now, counters);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counters(packets: u64) -> Counters {
        Counters { connections: packets / 10, packets, bytes: packets * 1000 }
    }

    /// Reads a thing every `interval`; its rate of packets after each.
    fn rates(interval: Duration, readings: &[u64]) -> Vec<f64> {
        let mut estimator = Estimator::default();
        let at = |round| Duration::from_secs(1000) + interval * round;
        let read = (0..).zip(readings).map(|(round, packets)| {
            estimator.read((), at(round), counters(*packets));
            estimator.rate(()).packets
        });
        read.collect()
    }

    #[test]
    fn a_quarter_of_the_way_every_two_seconds() {
        // 100 packets a second from the start on, then nothing.
        let readings = [0, 200, 400, 600, 600, 600];
        let expected = [0.0, 25.0, 43.75, 57.8125, 43.359375, 32.51953125];
        assert_eq!(rates(INTERVAL, &readings), expected);
    }

    /// `estimation_timer` and `ip_vs_read_estimator`, restated: what `ipvsadm --rate` shows is ours, rounded.
    #[test]
    fn it_is_the_kernels_formula() {
        let (mut last, mut pps) = (0u64, 0i64);
        let readings: Vec<u64> = (0..40).map(|i| i * i * 37).collect();
        for (ours, packets) in rates(INTERVAL, &readings).into_iter().zip(&readings) {
            pps += ((((packets - last) << 9) as i64) - pps) >> 2;
            last = *packets;
            assert_eq!((pps + 0x1ff) >> 10, ((ours * 1024.0) as i64 + 0x1ff) >> 10);
        }
    }

    #[test]
    fn what_ended_comes_to_nothing_at_all() {
        let mut readings = vec![0];
        readings.extend([1_000_000; 200]);
        assert_eq!(rates(INTERVAL, &readings).last(), Some(&0.0));
    }

    #[test]
    fn a_late_reading_counts_as_so_many() {
        let steady = rates(INTERVAL, &[0, 200, 400, 600, 800]);
        let late = rates(INTERVAL * 2, &[0, 400, 800]);
        assert_eq!((steady[2], steady[4]), (late[1], late[2]));
    }

    #[test]
    fn a_counter_that_was_made_anew_counts_from_zero() {
        assert_eq!(rates(INTERVAL, &[1 << 40, 80]), [0.0, 10.0]);
    }

    #[test]
    fn what_is_gone_is_forgotten_and_nothing_is_read_too_soon() {
        let mut estimator = Estimator::default();
        let second = Duration::from_secs;
        assert_eq!(estimator.due(second(1), [1, 2].into_iter()), [1, 2]);
        estimator.read(1, second(1), counters(0));
        estimator.read(2, second(1), counters(0));
        assert!(estimator.due(second(2), [1, 2].into_iter()).is_empty());
        assert_eq!(estimator.due(second(3), [1, 2].into_iter()), [1, 2]);
        estimator.read(1, second(3), counters(200));
        assert_eq!(estimator.rate(1), Rate { connections: 2.5, packets: 25.0, bytes: 25_000.0 });
        assert_eq!(estimator.due(second(3), [2].into_iter()), [2]);
        assert_eq!(estimator.rate(1), Rate::default());
    }

    #[test]
    fn with_too_many_all_have_their_turn() {
        let mut estimator = Estimator::default();
        let all = 0..AT_ONCE * 2 + 5;
        let mut read = vec![0; all.len()];
        for round in 1..=6 {
            let now = Duration::from_secs(round * 2);
            let due = estimator.due(now, all.clone());
            assert_eq!(due.len(), AT_ONCE);
            for key in due {
                read[key] += 1;
                estimator.read(key, now, counters(0));
            }
        }
        let (least, most) = (read.iter().min(), read.iter().max());
        assert!(least >= Some(&2) && most <= Some(&3), "{least:?} {most:?}");
    }

    proptest! {
        /// Whatever is read and when, a rate lies between nothing and the greatest that there was.
        #[test]
        fn a_rate_is_one_that_there_may_have_been(steps in prop::collection::vec((1u64..60_000, 0u64..1 << 40), 1..50)) {
            let mut estimator = Estimator::default();
            let (mut now, mut packets, mut most) = (Duration::from_secs(5), 0u64, 0.0f64);
            estimator.read((), now, counters(0));
            for (millis, more) in steps {
                now += Duration::from_millis(millis);
                packets += more;
                most = most.max(more as f64 * 1000.0 / millis as f64);
                estimator.read((), now, counters(packets));
                let rate = estimator.rate(()).packets;
                prop_assert!((0.0..=most).contains(&rate), "{rate} of {most}");
            }
        }
    }
}
