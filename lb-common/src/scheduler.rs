//! The schedulers: their numbers in a generation, and how those that look at load compare members.

use crate::{counters::ConnCounts, generation::Member};

/// Values of [`crate::generation::Header::scheduler`].
pub const RR: u8 = 1;
pub const WRR: u8 = 2;
pub const LC: u8 = 3;
pub const WLC: u8 = 4;
pub const SED: u8 = 5;
pub const NQ: u8 = 6;
pub const FO: u8 = 7;
pub const OVF: u8 = 8;
pub const SH: u8 = 9;
pub const DH: u8 = 10;
pub const MH: u8 = 11;
pub const TWOS: u8 = 12;
pub const LBLC: u8 = 13;
pub const LBLCR: u8 = 14;

/// Bits of [`crate::generation::Header::flags`].
pub mod flag {
    /// sh-fallback, mh-fallback: where the member that a client hashes to takes no connections, the
    /// table is looked at further on.
    pub const FALLBACK: u8 = 1;
    /// sh-port, mh-port: the source port is hashed too.
    pub const PORT: u8 = 2;
}

/// How a scheduler finds the next member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It goes round: the next position of a rotation.
    Rotation,
    /// A hash of the packet's address points into a table.
    Hashed,
    /// It looks at every member's load.
    Load,
    /// It draws two members.
    Draw,
    /// It keeps to what served the VIP before, as long as that is not overloaded.
    Locality,
}

#[inline(always)]
pub const fn kind(scheduler: u8) -> Kind {
    match scheduler {
        RR | WRR => Kind::Rotation,
        SH | DH | MH => Kind::Hashed,
        TWOS => Kind::Draw,
        LBLC | LBLCR => Kind::Locality,
        _ => Kind::Load,
    }
}

/// Looks at a service's members, one after the other in walk order.
pub trait Look {
    /// How many it looks at in one turn of the program, which is a call. More than one if looking further than is
    /// needed does no harm, and if it does so almost without branches: the verifier goes each way.
    const AT_ONCE: u32 = 1;

    fn look(&mut self, member: Member, counts: &ConnCounts);

    /// Whether there is no need to look further.
    #[inline(always)]
    fn is_over(&self) -> bool {
        false
    }
}

/// The member with the least cost for its weight, so far; of equal ones the first in walk order.
///
/// | scheduler | cost | weight counts as | passes by | source |
/// |---|---|---|---|---|
/// | lc | its [`Load`] | 1 | | `ip_vs_lc.c` |
/// | wlc | its [`Load`] | itself | | `ip_vs_wlc.c` |
/// | sed | active + 1 | itself | | `ip_vs_sed.c` |
/// | nq | active + 1; an idle one wins at once | itself | | `ip_vs_nq.c` |
/// | fo | 1: the heaviest wins | itself | | `ip_vs_fo.c` |
/// | ovf | 1: the heaviest wins | itself | active > weight | `ip_vs_ovf.c` |
///
/// All pass by members of weight 0 and overloaded ones.
///
/// One type for each: what is the same for all members costs nothing then.
#[derive(Clone, Copy, Debug)]
pub struct Least<const SCHEDULER: u8> {
    cost: u64,
    best: Member,
    load: Load,
}

impl<const SCHEDULER: u8> Least<SCHEDULER> {
    /// Above every cost: a load has 40 bits.
    const NONE: u64 = 1 << 46;

    #[inline(always)]
    pub const fn of(load: Load) -> Self {
        Self { cost: Self::NONE, best: Member(0), load }
    }

    /// Destination; 0: there is none.
    #[inline(always)]
    pub const fn found(&self) -> u32 {
        self.best.dest()
    }

    /// Where a count is below 0 for a moment (see [`count`]), this may be, too: that member has next to no load.
    #[inline(always)]
    fn cost(&self, counts: &ConnCounts) -> u64 {
        match SCHEDULER {
            SED => counts.active.wrapping_add(1),
            // Nothing is below that of an idle one.
            NQ => counts.active.wrapping_add(is_any(counts.active)),
            FO | OVF => 1,
            _ => self.load.weigh(counts.active, counts.inactive),
        }
    }

    #[inline(always)]
    fn weight(member: Member) -> u64 {
        if SCHEDULER == LC { 1 } else { member.weight_alone() }
    }

    /// The same, or 0 for a member that takes no connections.
    #[inline(always)]
    fn weight_now(member: Member, counts: &ConnCounts) -> u64 {
        // Gone if it is overloaded: of 1 nothing is left, and 0 becomes all bits.
        let weight = member.weight_alone() & counts.overloaded.wrapping_sub(1);
        match SCHEDULER {
            LC => is_any(weight),
            OVF => weight & !is_negative(weight.wrapping_sub(counts.active)),
            _ => weight,
        }
    }
}

impl<const SCHEDULER: u8> Look for Least<SCHEDULER> {
    const AT_ONCE: u32 = 32;

    /// In arithmetic, as this is what a new connection's cost grows with: a branch on what the members differ in is
    /// mispredicted, and the verifier would go both ways for each of a turn.
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        let (cost, weight) = (self.cost(counts), Self::weight_now(member, counts));
        // cost / weight < self.cost / self.weight: a weight has 16 bits, so that no product has more than 62.
        let (mine, best) = (cost.wrapping_mul(Self::weight(self.best)), self.cost.wrapping_mul(weight));
        let better = is_negative(mine.wrapping_sub(best));
        self.cost ^= (self.cost ^ cost) & better;
        self.best.0 ^= (self.best.0 ^ member.0) & better;
    }

    #[inline(always)]
    fn is_over(&self) -> bool {
        self.cost as i64 <= 0
    }
}

/// 1 if a number of at most 32 bits is not 0.
#[inline(always)]
fn is_any(number: u64) -> u64 {
    (number + u32::MAX as u64) >> 32
}

/// All bits if it is, none otherwise.
#[inline(always)]
fn is_negative(number: u64) -> u64 {
    ((number as i64) >> 63) as u64
}

/// twos: two members drawn at random, each with the chance that its weight gives it (`ip_vs_twos.c`).
/// The less loaded one is then found with [`Least`].
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Weight still to be passed by.
    left: [i32; 2],
    pub drawn: [Member; 2],
}

impl Draw {
    /// `total` is the weight of all eligible members together.
    #[inline(always)]
    pub const fn new(total: u32, random: [u32; 2]) -> Self {
        // Never 0: 1,024 members of 65,535 are far below 2^31.
        let range = (total & 0x7fff_ffff) + 1;
        Self { left: [(random[0] % range) as i32, (random[1] % range) as i32], drawn: [Member(0); 2] }
    }
}

impl Look for Draw {
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        let weight = weight(member, counts) as i32;
        if weight != 0 {
            for (left, drawn) in self.left.iter_mut().zip(self.drawn.iter_mut()) {
                *left -= weight;
                if *left <= 0 && drawn.0 == 0 {
                    *drawn = member;
                }
            }
        }
    }

    #[inline(always)]
    fn is_over(&self) -> bool {
        self.drawn[0].0 != 0 && self.drawn[1].0 != 0
    }
}

/// What a member weighs for new connections.
#[inline(always)]
fn weight(member: Member, counts: &ConnCounts) -> u16 {
    if counts.overloaded != 0 { 0 } else { member.weight() }
}

/// What all members weigh together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total(pub u32);

impl Look for Total {
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        self.0 += weight(member, counts) as u32;
    }
}

/// The first that takes connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct First(pub u32);

impl Look for First {
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        if weight(member, counts) != 0 {
            self.0 = member.dest();
        }
    }

    #[inline(always)]
    fn is_over(&self) -> bool {
        self.0 != 0
    }
}

/// lblc and lblcr leave a member whose active connections exceed its weight, if another one has less
/// than half its own (`is_overloaded` in `ip_vs_lblc.c`). What is known of both after a look at all:
#[derive(Clone, Copy, Debug, Default)]
pub struct Pressure {
    pub of: u32,
    /// It takes connections.
    pub takes: bool,
    above: bool,
    relief: bool,
}

impl Pressure {
    #[inline(always)]
    pub const fn on(dest: u32) -> Self {
        Self { of: dest, takes: false, above: false, relief: false }
    }

    #[inline(always)]
    pub const fn is_overloaded(&self) -> bool {
        self.above && self.relief
    }
}

impl Look for Pressure {
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        let (weight, active) = (member.weight() as u64, count(counts.active));
        self.relief |= active * 2 < weight;
        if member.dest() == self.of {
            self.takes = weight != 0;
            self.above = active > weight;
        }
    }
}

/// The members that lblcr has for a VIP (`ip_vs_lblcr.c`): the least and the most loaded, and how many.
/// Of equally loaded ones that which came into the set last is the least.
#[derive(Clone, Copy, Debug, Default)]
pub struct Set {
    cost: u64,
    joined: u32,
    /// The least loaded; 0: the set has none that takes connections.
    pub found: u32,
    weight: u16,
    pub size: u16,
    load: Load,
}

impl Set {
    #[inline(always)]
    pub fn of(load: Load) -> Self {
        Self { load, ..Self::default() }
    }
}

impl Look for Set {
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        let joined = counts.joined as u32;
        if joined == 0 {
            return;
        }
        self.size += 1;
        let weight = weight(member, counts);
        if weight == 0 {
            return;
        }
        let (mine, best) = (self.load.of(counts) * self.weight as u64, self.cost * weight as u64);
        if self.found == 0 || mine < best || (mine == best && joined > self.joined) {
            let found = member.dest();
            *self = Self { cost: self.load.of(counts), joined, found, weight, ..*self };
        }
    }
}

/// The most loaded of lblcr's set: the one that leaves it when it has not changed for long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    cost: u64,
    joined: u32,
    pub found: u32,
    weight: u16,
    load: Load,
}

impl Most {
    #[inline(always)]
    pub fn of(load: Load) -> Self {
        Self { load, ..Self::default() }
    }
}

impl Look for Most {
    #[inline(always)]
    fn look(&mut self, member: Member, counts: &ConnCounts) {
        let (joined, weight) = (counts.joined as u32, member.weight());
        if joined == 0 || weight == 0 {
            return;
        }
        let (mine, best) = (self.load.of(counts) * self.weight as u64, self.cost * weight as u64);
        if self.found == 0 || mine > best || (mine == best && joined > self.joined) {
            *self = Self { cost: self.load.of(counts), joined, found: member.dest(), weight, ..*self };
        }
    }
}

/// How the load of a destination is counted: what each active connection weighs beside each that there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Load(pub u32);

impl Load {
    /// 256 × active + total, as kernels since 2026 and Debian's 6.1 do (`ip_vs_dest_conn_overhead` in
    /// `include/net/ip_vs.h`).
    pub const TOTAL: Self = Self(257);
    /// 256 × active + inactive, as the same function had it before.
    pub const CLASSIC: Self = Self(256);

    /// What a service's flags say.
    #[inline(always)]
    pub const fn of_service(flags: u32) -> Self {
        if flags & crate::service::flag::CLASSIC_LOAD != 0 { Self::CLASSIC } else { Self::TOTAL }
    }

    #[inline(always)]
    fn of(self, counts: &ConnCounts) -> u64 {
        self.weigh(count(counts.active), count(counts.inactive))
    }

    #[inline(always)]
    const fn weigh(self, active: u64, inactive: u64) -> u64 {
        active.wrapping_mul(self.0 as u64).wrapping_add(inactive)
    }
}

/// A count that another CPU is about to correct may be below 0 for a moment.
#[inline(always)]
fn count(word: u64) -> u64 {
    word & !is_negative(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn counts(active: u64, inactive: u64) -> ConnCounts {
        ConnCounts { active, inactive, overloaded: 0, joined: 0, incomplete: 0 }
    }

    fn pick(scheduler: u8, members: &[(u32, u16, ConnCounts)]) -> u32 {
        pick_by(Load::TOTAL, scheduler, members)
    }

    fn pick_by(load: Load, scheduler: u8, members: &[(u32, u16, ConnCounts)]) -> u32 {
        match scheduler {
            LC => found(Least::<LC>::of(load), members),
            SED => found(Least::<SED>::of(load), members),
            NQ => found(Least::<NQ>::of(load), members),
            FO => found(Least::<FO>::of(load), members),
            OVF => found(Least::<OVF>::of(load), members),
            _ => found(Least::<WLC>::of(load), members),
        }
    }

    fn found<const SCHEDULER: u8>(mut least: Least<SCHEDULER>, members: &[(u32, u16, ConnCounts)]) -> u32 {
        for (dest, weight, counts) in members {
            least.look(Member::new(*dest, *weight), counts);
            if least.is_over() {
                break;
            }
        }
        least.found()
    }

    #[test]
    fn lc_takes_the_least_loaded_and_the_first_of_equals() {
        assert_eq!(pick(LC, &[(1, 1, counts(2, 0)), (2, 1, counts(1, 0)), (3, 9, counts(1, 0))]), 2);
        assert_eq!(pick(LC, &[(1, 1, counts(1, 0)), (2, 1, counts(0, 256))]), 2, "257 against 256");
        assert_eq!(pick(LC, &[(1, 1, counts(1, 0)), (2, 1, counts(0, 257))]), 1, "a tie");
        assert_eq!(pick(LC, &[(1, 0, counts(0, 0)), (2, 1, counts(9, 0))]), 2);
    }

    #[test]
    fn classic_load_leaves_active_ones_out_of_the_second_term() {
        for scheduler in [LC, WLC] {
            let members = [(1, 1, counts(1, 0)), (2, 1, counts(0, 256))];
            assert_eq!(pick_by(Load::TOTAL, scheduler, &members), 2, "257 against 256");
            assert_eq!(pick_by(Load::CLASSIC, scheduler, &members), 1, "a tie");
        }
        // Twice 4 × 256 against 7 × 256 + 257, twice 4 × 257 against 7 × 257 + 257.
        let members = [(1, 1, counts(4, 0)), (2, 2, counts(7, 257))];
        assert_eq!(pick_by(Load::CLASSIC, WLC, &members), 1, "2048 against 2049");
        assert_eq!(pick_by(Load::TOTAL, WLC, &members), 1, "a tie");
        let members = [(1, 1, counts(4, 0)), (2, 2, counts(7, 256))];
        assert_eq!(pick_by(Load::CLASSIC, WLC, &members), 1, "a tie");
        assert_eq!(pick_by(Load::TOTAL, WLC, &members), 2, "2056 against 2055");
        let most = |load| {
            let (mut most, member) =
                (Most::of(load), |joined, active, idle| ConnCounts { joined, ..counts(active, idle) });
            most.look(Member::new(1, 1), &member(2, 0, 256));
            most.look(Member::new(2, 1), &member(1, 1, 0));
            most.found
        };
        assert_eq!((most(Load::TOTAL), most(Load::CLASSIC)), (2, 1), "of equal ones the last to come");
    }

    #[test]
    fn wlc_divides_by_weight() {
        assert_eq!(pick(WLC, &[(1, 1, counts(1, 0)), (2, 3, counts(2, 0))]), 2);
        assert_eq!(pick(WLC, &[(1, 1, counts(1, 0)), (2, 2, counts(2, 0))]), 1, "a tie");
    }

    #[test]
    fn sed_and_nq_look_at_active_ones_only() {
        assert_eq!(pick(SED, &[(1, 1, counts(0, 0)), (2, 3, counts(1, 99))]), 2, "2/3 against 1");
        assert_eq!(pick(NQ, &[(1, 3, counts(1, 0)), (2, 1, counts(0, 9))]), 2, "an idle one wins");
        assert_eq!(pick(NQ, &[(1, 3, counts(1, 0)), (2, 1, counts(1, 0))]), 1);
    }

    #[test]
    fn fo_and_ovf_take_the_heaviest() {
        assert_eq!(pick(FO, &[(1, 1, counts(0, 0)), (2, 3, counts(9, 0)), (3, 3, counts(0, 0))]), 2);
        assert_eq!(pick(OVF, &[(1, 1, counts(0, 0)), (2, 3, counts(3, 0))]), 2, "full, but not over");
        assert_eq!(pick(OVF, &[(1, 1, counts(0, 0)), (2, 3, counts(4, 0))]), 1);
        assert_eq!(pick(OVF, &[(1, 1, counts(2, 0)), (2, 3, counts(4, 0))]), 0);
    }

    #[test]
    fn overloaded_ones_and_counts_below_zero() {
        let overloaded = ConnCounts { overloaded: 1, ..counts(0, 0) };
        assert_eq!(pick(LC, &[(1, 1, overloaded)]), 0);
        assert_eq!(pick(WLC, &[(1, 1, overloaded), (2, 1, counts(7, 0))]), 2);
        assert_eq!(pick(WLC, &[(1, 1, counts(u64::MAX, 0)), (2, 1, counts(1, 0))]), 1);
    }

    /// Each member's chance is its weight's; a draw of 0 falls to the first (`ip_vs_twos.c`).
    #[test]
    fn twos_draws_by_weight() {
        let members = [(1, 3), (2, 0), (3, 1)].map(|(dest, weight)| Member::new(dest, weight));
        let drawn = |random: [u32; 2]| {
            let mut draw = Draw::new(4, random);
            for member in members {
                draw.look(member, &counts(0, 0));
                if draw.is_over() {
                    break;
                }
            }
            draw.drawn.map(Member::dest)
        };
        let first: Vec<u32> = (0..5).map(|random| drawn([random, 0])[0]).collect();
        assert_eq!(first, [1, 1, 1, 1, 3]);
        assert_eq!(drawn([0, 4]), [1, 3]);
        assert_eq!(drawn([5 + 4, 4]), [3, 3], "both may be one");
    }

    #[test]
    fn pressure_needs_somebody_who_could_relieve() {
        let pressure = |others: u64| {
            let mut pressure = Pressure::on(1);
            pressure.look(Member::new(1, 2), &counts(3, 0));
            pressure.look(Member::new(2, 4), &counts(others, 0));
            pressure
        };
        assert!(pressure(1).is_overloaded() && pressure(1).takes);
        assert!(!pressure(2).is_overloaded());
        assert!(!Pressure::on(9).takes, "it is no member any more");
    }

    #[test]
    fn a_set_has_a_least_and_a_most_loaded() {
        let member = |joined, active| ConnCounts { joined, ..counts(active, 0) };
        let looked = |members: &[(u32, u16, ConnCounts)]| {
            let (mut set, mut most) = (Set::of(Load::TOTAL), Most::of(Load::TOTAL));
            for (dest, weight, counts) in members {
                set.look(Member::new(*dest, *weight), counts);
                most.look(Member::new(*dest, *weight), counts);
            }
            (set.found, most.found, set.size)
        };
        assert_eq!(looked(&[(1, 1, member(1, 2)), (2, 1, member(2, 1)), (3, 1, counts(0, 0))]), (2, 1, 2));
        assert_eq!(looked(&[(1, 1, member(2, 1)), (2, 1, member(1, 1))]), (1, 1, 2), "the last to come");
        assert_eq!(looked(&[(1, 0, member(1, 0))]), (0, 0, 1));
        assert_eq!(looked(&[]), (0, 0, 0));
    }
}
