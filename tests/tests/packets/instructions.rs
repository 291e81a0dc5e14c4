//! How many instructions a packet takes, in the VM, one nanosecond of whose clock is one instruction: there machines do not
//! differ, so the guard is close. The packets are those of [`cost`].

mod cost;
#[expect(dead_code, reason = "the world of the packet tables, which need more of it")]
mod world;

use std::{ops::Range, os::fd::AsFd};

use cost::{Bench, Fewest, PACKETS, WAYS, Way, measure, none_has_grown, ways};
use lb_tests::{feeder::Target, jited::Jited, mark};

/// Above those of a bare MAC swap, for each of [`ways`]: a tenth more than on the day they were counted.
const AT_MOST: [u32; WAYS] = [265, 787, 787, 838, 781, 1962, 2059, 2459, 2100, 1363];
/// The tick's interrupt falls into some of them.
const ROUNDS: usize = 5;
/// Of these too.
const WINDOWS: usize = 3;

#[test]
fn no_way_has_become_longer_by_a_tenth() {
    let Fewest { floor, ways: fewest } = measure(ROUNDS);
    none_has_grown(ways().iter().zip(fewest).zip(AT_MOST).map(|((Way { name, .. }, counted), at_most)| {
        let above = counted.saturating_sub(floor);
        let line = format!("{name:<44}{above:>6} instructions above the floor of {floor}, at most {at_most}");
        (line, above > at_most)
    }));
}

/// For `cargo xtask vm steps`, which reads these lines: where code lies, then a line for each window of its plugin.
#[test]
fn each_way_once_more_between_marks() {
    let mut bench = Bench::new();
    // libtest leaves a line unfinished.
    println!();
    let maker = Jited::of(bench.feeder.maker().expect("a program").as_fd()).expect("its code");
    print("maker", &maker.functions);
    for target in [Target::Swap, Target::Director] {
        let program = bench.feeder.program(target, &mut bench.director).expect("a program");
        let jited = Jited::of(program.as_fd()).expect("its code");
        print("code", &jited.functions);
        for line in &jited.lines {
            println!("STEPS line {:x} {} {}", line.address, line.line, line.file);
        }
    }
    let mut ways = ways();
    for _ in 0..WINDOWS {
        let floor = mark::counted(|| bench.floor());
        println!("STEPS window {PACKETS} {floor} bare MAC swap");
        for way in &mut ways {
            let taken = mark::counted(|| bench.run(way));
            println!("STEPS window {PACKETS} {taken} {}", way.name);
        }
        bench.sweep();
    }
}

fn print(what: &str, functions: &[Range<u64>]) {
    for function in functions {
        println!("STEPS {what} {:x} {:x}", function.start, function.end);
    }
}
