//! Joins what the plugin counted with what the program in the VM said.

use std::collections::BTreeMap;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use super::counts::Window;
use super::said::{Origin, Place, Said, Way};

/// Instructions, by who ran them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    pub own: u64,
    pub library: u64,
    pub kernel: u64,
}

impl Steps {
    pub fn all(self) -> u64 {
        self.own + self.library + self.kernel
    }
}

impl Add for Steps {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let Self { own, library, kernel } = self;
        Self { own: own + other.own, library: library + other.library, kernel: kernel + other.kernel }
    }
}

impl AddAssign for Steps {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Steps {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// A way's smallest round.
pub struct Round<'a> {
    pub way: &'a Way,
    pub lines: BTreeMap<Place, Steps>,
    pub sum: Steps,
    /// Of what makes packets.
    pub maker: u64,
}

/// Of each way the round with the fewest steps, in the order in which they ran first.
pub fn smallest<'a>(said: &'a Said, windows: &[Window]) -> Vec<Round<'a>> {
    let mut rounds: Vec<Round<'_>> = Vec::new();
    for (way, window) in said.windows.iter().zip(windows) {
        let lines = by_line(said, window);
        let makers = window.counts.iter().filter(|(address, _)| said.is_makers(**address));
        let maker = makers.map(|(_, count)| count.ran + count.called).sum();
        let round = Round { way, sum: lines.values().copied().sum(), lines, maker };
        match rounds.iter_mut().find(|before| before.way.name == way.name) {
            Some(before) if round.size() < before.size() => *before = round,
            Some(_) => {}
            None => rounds.push(round),
        }
    }
    rounds
}

impl Round<'_> {
    /// By the clock if equal: the tick's interrupt is in that.
    fn size(&self) -> (u64, u64) {
        (self.sum.all(), self.way.clock)
    }
}

/// Joins counts with where the instructions come from; what is no program's that was named is left out.
fn by_line(said: &Said, window: &Window) -> BTreeMap<Place, Steps> {
    let mut lines: BTreeMap<Place, Steps> = BTreeMap::new();
    for (&address, count) in &window.counts {
        let Some(origin) = said.origin(address) else { continue };
        let kernel = count.called;
        let (place, steps) = match origin {
            Origin::Ours(place) => (place.clone(), Steps { own: count.ran, library: 0, kernel }),
            Origin::Library(place) => (place.clone(), Steps { own: 0, library: count.ran, kernel }),
            Origin::Nowhere => (
                Place { file: "(no line)".to_owned(), line: 0 },
                Steps { own: count.ran, library: 0, kernel },
            ),
        };
        *lines.entry(place).or_default() += steps;
    }
    lines
}
