//! A run of several steps: each with its time, all of them even if one fails, one line at the end.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::clock::Stopwatch;
use crate::sys;
use crate::tally::Tally;

/// What the steps of a verb found so far.
#[derive(Default)]
pub struct Report {
    steps: Vec<Step>,
    notes: Vec<String>,
}

struct Step {
    name: String,
    tally: Tally,
    time: Duration,
}

impl Report {
    /// Runs one step. An error is printed and counts as one failed check.
    /// After Ctrl-C it only counts as failed.
    pub fn step(&mut self, name: &str, work: impl FnOnce() -> Result<Tally>) {
        self.finally(name, || if sys::interrupted() { bail!("not run: interrupted") } else { work() });
    }

    /// Like [`Report::step`], for work that is one check.
    pub fn check(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        self.step(name, || work().map(|()| Tally::PASSED));
    }

    /// Like [`Report::step`], but even after Ctrl-C.
    pub fn finally(&mut self, name: &str, work: impl FnOnce() -> Result<Tally>) {
        println!("\n=== {name}");
        let watch = Stopwatch::start();
        let tally = work().unwrap_or_else(|error| {
            println!("{name}: FAILED: {error:#}");
            Tally::FAILED
        });
        let time = watch.elapsed();
        println!("=== {name}: {tally} ({:.1} s)", time.as_secs_f64());
        self.steps.push(Step { name: name.to_owned(), tally, time });
    }

    /// What is to be read at the end, if there is something.
    pub fn note(&mut self, line: Option<String>) {
        self.notes.extend(line);
    }

    /// Prints every step, the notes and, as the last line, the sum; fails if anything failed or nothing ran.
    pub fn finish(self) -> Result<()> {
        println!();
        let mut sum = Tally::NONE;
        for Step { name, tally, time } in &self.steps {
            println!("{:>8.1} s  {name}: {tally}", time.as_secs_f64());
            sum += *tally;
        }
        for note in &self.notes {
            println!("{note}");
        }
        println!("{sum}");
        if sum.failed > 0 {
            std::process::exit(1);
        }
        if sum.passed == 0 {
            bail!("nothing was tested: no test has the given name");
        }
        Ok(())
    }
}
