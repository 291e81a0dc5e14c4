//! Going on with a rotation when its service changes.
//!
//! IPVS's rr remembers the destination served last and goes on behind it; if that one is removed, its
//! predecessor takes its place (`ip_vs_rr_del_dest`). wrr goes back to the head of the list and keeps
//! its bar `cw`, cut down to a new maximum and rounded to the new step (`ip_vs_wrr_dest_changed`).

use lb_common::{
    generation::{Arena, HEADER_WORDS, Header, Level, Member, Start, at},
    scheduler,
};

use super::compile::step;

/// A region as an [`Arena`] of its own.
pub struct Words<'a>(pub &'a [u64]);

impl Arena for Words<'_> {
    fn word(&self, index: u32) -> Option<u64> {
        self.0.get(index as usize).copied()
    }
}

/// Goes on in `new` where `old` stands with `next`, the position of its next new connection (both
/// regions as words; `old` empty if there was none): what to add to the position. Notes the start in
/// `new`.
pub fn resume(old: &[u64], next: u64, new: &mut [u64]) -> u64 {
    let (position, last) = match (Generation::read(old), Generation::read(new)) {
        (Some(before), Some(after)) if before.header.scheduler == after.header.scheduler => {
            before.hand_over(next, &after)
        }
        _ => (0, 0),
    };
    let Some(after) = Generation::read(new) else { return 0 };
    let period = u64::from(after.header.period.max(1));
    let by = (u64::from(position) + period - next % period) % period;
    new[2] = Start::new(next + by, last).0;
    by
}

/// wrr's bar after an edit, given the one of the destination served last.
fn bar_after_change(bar: u32, after: &Generation<'_>) -> u32 {
    let step = after.step();
    let max = after.max_weight() - (step - 1);
    if bar > max || bar == 0 {
        max
    } else if step > 1 {
        bar / step * step + 1
    } else {
        bar
    }
}

struct Generation<'a> {
    words: &'a [u64],
    header: Header,
    start: Start,
    levels: Vec<Level>,
    members: Vec<Member>,
}

impl<'a> Generation<'a> {
    fn read(words: &'a [u64]) -> Option<Self> {
        let header = Header::from_words([*words.first()?, *words.get(1)?]);
        let part = |from: u32, count: u16| {
            words.get(from as usize..from as usize + usize::from(count)).map(<[u64]>::to_vec)
        };
        let levels = part(header.levels_at(), header.levels)?.into_iter().map(Level).collect();
        let members = part(HEADER_WORDS, header.members)?.into_iter().map(Member).collect();
        Some(Self { words, header, start: Start(*words.get(2)?), levels, members })
    }

    /// The position in `after`'s rotation that follows `next`, and the destination served last.
    fn hand_over(&self, next: u64, after: &Generation<'_>) -> (u32, u32) {
        let untouched = self.start.is_at(next);
        let period = u64::from(self.header.period);
        let at_last = |position: u64| if period == 0 { None } else { Some((position % period) as u32) };
        if self.header.scheduler == scheduler::WRR {
            // Lowering the bar is the first thing the next connection does, not the last that the
            // previous one did.
            let position = at_last(if untouched { next } else { next.wrapping_sub(1) });
            let bar = position.map_or(0, |position| self.bar(position));
            return (after.first_at_bar(bar_after_change(bar, after)), 0);
        }
        let served = if untouched {
            self.start.last()
        } else {
            let position = at_last(next.wrapping_sub(1));
            position.and_then(|p| at(&Words(self.words), 0, &self.header, p)).unwrap_or(0)
        };
        let last = self.last_survivor(served, after);
        (after.behind(last), last.unwrap_or(0))
    }

    fn step(&self) -> u32 {
        step(&self.members)
    }

    fn max_weight(&self) -> u32 {
        self.members.iter().map(|m| u32::from(m.weight())).max().unwrap_or(0)
    }

    /// The bar at a position: the lowest one of IPVS's that gives the same members, counted in the
    /// same steps down from the maximum.
    fn bar(&self, position: u32) -> u32 {
        let step = self.step();
        let Some(level) = self.levels.iter().rev().find(|l| l.first() <= position) else { return 0 };
        let rounds = (position - level.first()) / u32::from(level.members()).max(1);
        (u32::from(level.threshold()) - (step - 1)).saturating_sub(rounds * step)
    }

    /// The first position at which the bar is `bar` or lower.
    fn first_at_bar(&self, bar: u32) -> u32 {
        let step = self.step();
        let mut position = 0;
        for (i, level) in self.levels.iter().enumerate() {
            let top = u32::from(level.threshold()) - (step - 1);
            if top <= bar {
                return level.first();
            }
            let rounds = (top - bar).div_ceil(step);
            position = level.first() + rounds * u32::from(level.members());
            let end = self.levels.get(i + 1).map_or(self.header.period, |next| next.first());
            if position < end {
                return position;
            }
        }
        position % self.header.period.max(1)
    }

    /// `served`, or the nearest member before it, that `after` still has.
    fn last_survivor(&self, served: u32, after: &Generation<'_>) -> Option<u32> {
        let index = self.members.iter().position(|m| m.dest() == served)?;
        self.members[..=index]
            .iter()
            .rev()
            .map(|m| m.dest())
            .find(|dest| after.members.iter().any(|m| m.dest() == *dest))
    }

    /// rr's position behind `dest`; the start without one.
    fn behind(&self, dest: Option<u32>) -> u32 {
        let Some(index) = dest.and_then(|dest| self.members.iter().position(|m| m.dest() == dest)) else {
            return 0;
        };
        let served = self.members[..=index].iter().filter(|m| m.weight() != 0).count() as u32;
        served % self.header.period.max(1)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::generation::MAX_TABLE;
    use proptest::prelude::*;

    use super::*;
    use crate::plan::tables::candidates;
    use crate::{model::Scheduler, plan::compile};

    fn members(weights: &[u16]) -> Vec<Member> {
        weights.iter().enumerate().map(|(i, w)| Member::new(i as u32 + 1, *w)).collect()
    }

    fn serve(words: &[u64], from: u32, count: u32) -> Vec<u32> {
        let header = Header::from_words([words[0], words[1]]);
        (from..from + count)
            .map(|p| at(&Words(words), 0, &header, p % header.period).expect("a destination"))
            .collect()
    }

    /// IPVS's algorithm as `ip_vs_wrr_schedule` has it: list index of the last served (-1: the head).
    struct Ipvs {
        weights: Vec<u16>,
        cl: isize,
        cw: i64,
        mw: i64,
        di: i64,
    }

    impl Ipvs {
        fn new(weights: &[u16]) -> Self {
            let mut ipvs = Self { weights: weights.to_vec(), cl: -1, cw: 0, mw: 0, di: 1 };
            (ipvs.mw, ipvs.di) = ipvs.limits();
            ipvs.cw = ipvs.mw;
            ipvs
        }

        fn limits(&self) -> (i64, i64) {
            let di = i64::from(step(&members(&self.weights)));
            let max = i64::from(self.weights.iter().copied().max().unwrap_or(0));
            (max - (di - 1), di)
        }

        fn change(&mut self, weights: &[u16]) {
            self.weights = weights.to_vec();
            self.cl = -1;
            (self.mw, self.di) = self.limits();
            if self.cw > self.mw || self.cw == 0 {
                self.cw = self.mw;
            } else if self.di > 1 {
                self.cw = self.cw / self.di * self.di + 1;
            }
        }

        fn next(&mut self) -> u32 {
            for _ in 0..1_000_000 {
                self.cl += 1;
                if self.cl as usize == self.weights.len() {
                    self.cl = -1;
                    self.cw -= self.di;
                    if self.cw <= 0 {
                        self.cw = self.mw;
                    }
                    continue;
                }
                let weight = i64::from(self.weights[self.cl as usize]);
                if weight > 0 && weight >= self.cw {
                    return self.cl as u32 + 1;
                }
            }
            panic!("nobody is eligible");
        }
    }

    #[test]
    fn wrr_is_interleaved_by_level() {
        let words = compile(Scheduler::Wrr, &candidates(&members(&[3, 2, 1]))).expect("compiles");
        assert_eq!(serve(&words, 0, 6), [1, 1, 2, 1, 2, 3]);
    }

    #[test]
    fn rr_ignores_weights_but_zero() {
        let words = compile(Scheduler::Rr, &candidates(&members(&[5, 0, 1]))).expect("compiles");
        assert_eq!(serve(&words, 0, 4), [1, 3, 1, 3]);
    }

    #[test]
    fn a_rotation_too_long_for_a_table_is_computed_in_the_same_order() {
        let weights = [65535, 65534, 3];
        let words = compile(Scheduler::Wrr, &candidates(&members(&weights))).expect("compiles");
        let header = Header::from_words([words[0], words[1]]);
        assert!(header.period > MAX_TABLE && header.table == 0);
        let mut ipvs = Ipvs::new(&weights);
        let expected: Vec<u32> = (0..200_000).map(|_| ipvs.next()).collect();
        assert_eq!(serve(&words, 0, 200_000), expected);
    }

    /// A service's rotation as the kernel and the agent keep it between them.
    struct Rotation {
        words: Vec<u64>,
        next: u64,
    }

    impl Rotation {
        fn new(scheduler: Scheduler, members: &[Member]) -> Self {
            let mut rotation = Self { words: Vec::new(), next: 0 };
            rotation.change(scheduler, members);
            rotation
        }

        fn change(&mut self, scheduler: Scheduler, members: &[Member]) {
            let mut new = compile(scheduler, &candidates(members)).expect("compiles");
            self.next += resume(&self.words, self.next, &mut new);
            self.words = new;
        }

        fn serve(&mut self) -> u32 {
            let header = Header::from_words([self.words[0], self.words[1]]);
            let position = (self.next % u64::from(header.period)) as u32;
            self.next += 1;
            at(&Words(&self.words), 0, &header, position).expect("a destination")
        }
    }

    #[test]
    fn rr_goes_on_behind_the_last_served_or_its_predecessor() {
        let all = members(&[1, 1, 1]);
        let mut rotation = Rotation::new(Scheduler::Rr, &all);
        assert_eq!([rotation.serve(), rotation.serve()], [1, 2]);
        // The last served is removed, so its predecessor takes its place.
        rotation.change(Scheduler::Rr, &[all[0], all[2]]);
        assert_eq!([rotation.serve(), rotation.serve()], [3, 1]);
        // One added at the head does not change who is next.
        rotation.change(Scheduler::Rr, &[Member::new(4, 1), all[0], all[1], all[2]]);
        assert_eq!([(); 4].map(|()| rotation.serve()), [2, 3, 4, 1]);
        // Nobody is eligible for a while: the place is kept.
        rotation.change(Scheduler::Rr, &[0, 1, 2].map(|i| Member::new(all[i].dest(), 0)));
        rotation.change(Scheduler::Rr, &all);
        assert_eq!(rotation.serve(), 2);
    }

    /// `ip_vs_rr.c`: who was served last, or the list's head.
    #[derive(Debug)]
    struct IpvsRr {
        list: Vec<Member>,
        last: Option<u32>,
    }

    /// One edit, as `ipvsadm` makes it.
    #[derive(Clone, Debug)]
    enum Edit {
        AddedAtTheHead,
        Removed(prop::sample::Index),
        Weight(prop::sample::Index, u16),
    }

    impl IpvsRr {
        /// `ip_vs_rr_schedule`; somebody is eligible.
        fn next(&mut self) -> u32 {
            let behind = self.place().map_or(0, |last| last + 1);
            let round = (0..self.list.len()).map(|n| self.list[(behind + n) % self.list.len()]);
            let next = round.into_iter().find(|member| member.weight() > 0).expect("somebody").dest();
            self.last = Some(next);
            next
        }

        /// `ip_vs_rr_del_dest`: the one before takes the place of who was served last.
        fn edit(&mut self, edit: &Edit, new: u32) {
            match edit {
                Edit::AddedAtTheHead => self.list.insert(0, Member::new(new, 1)),
                Edit::Removed(index) if self.list.len() > 1 => {
                    let at = index.index(self.list.len());
                    if self.place() == Some(at) {
                        self.last = at.checked_sub(1).map(|before| self.list[before].dest());
                    }
                    self.list.remove(at);
                }
                Edit::Removed(_) => {}
                Edit::Weight(index, weight) => {
                    let member = index.get_mut(&mut self.list);
                    *member = Member::new(member.dest(), *weight);
                }
            }
        }

        fn place(&self) -> Option<usize> {
            self.list.iter().position(|member| Some(member.dest()) == self.last)
        }
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            Just(Edit::AddedAtTheHead),
            any::<prop::sample::Index>().prop_map(Edit::Removed),
            (any::<prop::sample::Index>(), 0u16..2).prop_map(|(index, weight)| Edit::Weight(index, weight)),
        ]
    }

    proptest! {
        #[test]
        fn rr_follows_ipvs_through_any_edits(edits in prop::collection::vec((edit(), 0u32..8), 1..24)) {
            let list = members(&[1, 1, 1]);
            let mut rotation = Rotation::new(Scheduler::Rr, &list);
            let mut ipvs = IpvsRr { list, last: None };
            for (new, (edit, connections)) in (100..).zip(edits) {
                ipvs.edit(&edit, new);
                rotation.change(Scheduler::Rr, &ipvs.list);
                if ipvs.list.iter().any(|member| member.weight() > 0) {
                    for _ in 0..connections {
                        prop_assert_eq!(rotation.serve(), ipvs.next(), "{:?} of {:?}", edit, ipvs);
                    }
                }
            }
        }

        #[test]
        fn wrr_follows_ipvs_through_any_edits(
            edits in prop::collection::vec(
                (prop::collection::vec(0u16..12, 1..6), 0u32..40), 1..6,
            ),
        ) {
            let mut both: Option<(Ipvs, Rotation)> = None;
            for (mut weights, connections) in edits {
                weights[0] = weights[0].max(1);
                let (ipvs, rotation) = match &mut both {
                    None => both.insert((
                        Ipvs::new(&weights),
                        Rotation::new(Scheduler::Wrr, &members(&weights)),
                    )),
                    Some(both) => {
                        both.0.change(&weights);
                        both.1.change(Scheduler::Wrr, &members(&weights));
                        both
                    }
                };
                for _ in 0..connections {
                    prop_assert_eq!(rotation.serve(), ipvs.next(), "weights {:?}", &weights);
                }
            }
        }
    }
}
