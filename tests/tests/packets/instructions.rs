//! How many instructions a packet takes, in the VM, one nanosecond of whose clock is one instruction: there machines do not
//! differ, so the guard is close. The packets are those of [`cost`].

mod cost;
#[expect(dead_code, reason = "the world of the packet tables, which need more of it")]
mod world;

use cost::{Fewest, WAYS, Way, measure, none_has_grown, ways};

/// Above those of a bare MAC swap, for each of [`ways`]: a tenth more than on the day they were counted.
const AT_MOST: [u32; WAYS] = [265, 787, 787, 838, 781, 1971, 2068, 2785, 2100, 1363];
/// The tick's interrupt falls into some of them.
const ROUNDS: usize = 5;

#[test]
fn no_way_has_become_longer_by_a_tenth() {
    let Fewest { floor, ways: fewest } = measure(ROUNDS);
    none_has_grown(ways().iter().zip(fewest).zip(AT_MOST).map(|((Way { name, .. }, counted), at_most)| {
        let above = counted.saturating_sub(floor);
        let line = format!("{name:<44}{above:>6} instructions above the floor of {floor}, at most {at_most}");
        (line, above > at_most)
    }));
}
