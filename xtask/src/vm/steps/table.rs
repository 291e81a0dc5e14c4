//! The tables, as they are printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, ensure};

use super::counts::Window;
use super::rounds::{Round, Steps, smallest};
use super::said::{Place, Said, Way};

/// What the clock of the guard is held against.
pub const FLOOR: &str = "bare MAC swap";

/// What is printed first.
pub const LEGEND: &str = "\
Steps of a packet: instructions that the guest's CPU ran in the program, or in the kernel because the program called it.
  own      of lines of this file
  library  of core and aya, which the compiler put among them
  kernel   what any of these call there: helpers
What is the library's stands, with what it calls, at the line of ours before it: mostly the one that uses it, but not
where the compiler left no instruction of that one. Each way is the smallest of its rounds, without what makes packets
and runs the program. Cells are rounded so that they add up.
";

/// A table for each way whose name contains `filter`; behind it so many of the lines that take most.
pub fn all(said: &Said, windows: &[Window], filter: &str, lines: usize) -> Result<String> {
    ensure!(
        said.windows.len() == windows.len() && !windows.is_empty(),
        "the program in the VM set marks {} times, and qemu's plugin saw {}: do tests/src/mark.rs and \
         xtask/steps-plugin/src/code.rs agree?",
        said.windows.len(),
        windows.len()
    );
    let rounds = smallest(said, windows);
    let floor = rounds.iter().find(|round| round.way.name == FLOOR);
    let wanted: Vec<_> = rounds.iter().filter(|round| round.way.name.contains(filter)).collect();
    ensure!(
        !wanted.is_empty(),
        "no way is called `{filter}`; there are: {}",
        rounds.iter().map(|round| round.way.name.as_str()).collect::<Vec<_>>().join("; ")
    );
    let mut text = String::from(LEGEND);
    for round in wanted {
        text += &of_files(round);
        let other = floor.filter(|floor| floor.way.name != round.way.name);
        text += &other.map(|floor| beside_the_clock(round, floor)).unwrap_or_default();
        if lines > 0 {
            text += &of_lines(round, lines);
        }
    }
    Ok(text)
}

fn of_files(round: &Round<'_>) -> String {
    let mut files: BTreeMap<&str, Steps> = BTreeMap::new();
    for (place, steps) in &round.lines {
        *files.entry(&place.file).or_default() += *steps;
    }
    let rows = files.into_iter().map(|(file, steps)| (file.to_owned(), steps)).collect();
    let Way { name, packets, .. } = round.way;
    let title = format!("\n{:<46}{:>8}{:>9}{:>8}{:>8}\n", name, "own", "library", "kernel", "sum");
    title + &table(rows, *packets, usize::MAX) + &row("sum", &rounded(&[round.sum], *packets)[0])
}

fn of_lines(round: &Round<'_>, most: usize) -> String {
    let rows = round.lines.iter().map(|(Place { file, line }, steps)| (format!("{file}:{line}"), *steps));
    format!("  the {most} lines that take most\n") + &table(rows.collect(), round.way.packets, most)
}

/// What these steps have to do with what the guard prints. Some packets are made by fewer instructions than others.
fn beside_the_clock(round: &Round<'_>, floor: &Round<'_>) -> String {
    let a_packet = |count: u64| count / round.way.packets.max(1);
    let [both, least] = [round, floor].map(|it| a_packet(it.sum.all() + it.maker));
    format!(
        "  with {} for its making, less {} and {} of a {FLOOR}: {}; `vm test`, by the VM's clock: {}\n",
        a_packet(round.maker),
        a_packet(floor.sum.all()),
        a_packet(floor.maker),
        both.saturating_sub(least),
        round.way.clock.saturating_sub(floor.way.clock)
    )
}

/// Rows from the largest to the smallest. What a packet in two, or fewer, takes one step of goes into one row.
fn table(mut rows: Vec<(String, Steps)>, packets: u64, most: usize) -> String {
    rows.sort_by(|(one, a), (other, b)| b.all().cmp(&a.all()).then_with(|| one.cmp(other)));
    rows.truncate(most);
    let seldom = rows.partition_point(|(_, steps)| steps.all() * 2 >= packets);
    let rest: Steps = rows.drain(seldom..).map(|(_, steps)| steps).sum();
    if rest != Steps::default() {
        rows.push(("(others, in few packets)".to_owned(), rest));
    }
    let cells = rounded(&rows.iter().map(|(_, steps)| *steps).collect::<Vec<_>>(), packets);
    rows.iter().zip(&cells).map(|((name, _), steps)| row(name, steps)).collect()
}

fn row(name: &str, steps: &Steps) -> String {
    let Steps { own, library, kernel } = *steps;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "  {name:<44}{own:>8}{library:>9}{kernel:>8}{:>8}", steps.all());
    text
}

/// Steps of a packet: what is rounded off goes to the next row, so that each column's sum is that of its cells.
fn rounded(rows: &[Steps], packets: u64) -> Vec<Steps> {
    let mut before = Steps::default();
    let mut cells = Vec::with_capacity(rows.len());
    let nearest = |count: u64| (count + packets / 2) / packets.max(1);
    for steps in rows {
        let now = before + *steps;
        let cell = |now: u64, before: u64| nearest(now) - nearest(before);
        cells.push(Steps {
            own: cell(now.own, before.own),
            library: cell(now.library, before.library),
            kernel: cell(now.kernel, before.kernel),
        });
        before = now;
    }
    cells
}

#[cfg(test)]
mod tests;
