//! What the parts have found: printed as it comes, and kept.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use super::world::World;
use crate::{
    pace::Pace,
    report::{Report, ms},
};

/// A figure of what the last heading says.
#[derive(Serialize)]
pub struct Row {
    of: String,
    what: String,
    value: f64,
    unit: &'static str,
}

#[derive(Serialize)]
struct Judged {
    what: String,
    holds: bool,
}

#[derive(Serialize)]
pub struct Control {
    #[serde(flatten)]
    report: Report<Row>,
    targets: Vec<Judged>,
}

#[derive(Default)]
pub struct Shown {
    heading: String,
    rows: Vec<Row>,
    targets: Vec<Judged>,
    pace: Pace,
}

impl Shown {
    pub fn heading(&mut self, heading: &str) {
        println!("{heading}");
        heading.clone_into(&mut self.heading);
    }

    /// Under no heading.
    pub fn alone(&mut self, what: &str, time: Duration) {
        println!("{what:<70}{:>9.0} ms", ms(time));
        what.clone_into(&mut self.heading);
        self.keep("time", ms(time), "ms");
    }

    /// As [`Pace::figures`] has them.
    pub fn minimum_and_median(&mut self, what: &str, rounds: usize, (minimum, median): (Duration, Duration)) {
        self.line(&format!("{what}, minimum of {rounds}"), minimum);
        println!("{:<70}{:>9.0} ms", "        median", ms(median));
        self.keep(&format!("{what}, median of {rounds}"), ms(median), "ms");
    }

    pub fn line(&mut self, what: &str, time: Duration) {
        println!("{:<70}{:>9.0} ms", format!("    {what}"), ms(time));
        self.keep(what, ms(time), "ms");
    }

    /// Of something done so often.
    pub fn each(&mut self, time: Duration, times: usize) {
        let each = ms(time) / times.max(1) as f64;
        println!("    {each:.1} ms for each");
        self.keep("each", each, "ms");
    }

    pub fn target(&mut self, what: &str, holds: bool) {
        println!("    target: {what}: {}", if holds { "holds" } else { "MISSED" });
        self.targets.push(Judged { what: format!("{}: {what}", self.heading), holds });
    }

    /// proc_pid_status(5): VmRSS, and the part of it that is no file's.
    pub fn memory(&mut self, world: &World) -> Result<()> {
        let text = fs::read_to_string(format!("/proc/{}/status", world.status()?.pid))?;
        let of = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
            let kilobytes: f64 = line.split_whitespace().next().context("no figure")?.parse()?;
            Ok(kilobytes / 1024.0)
        };
        let (resident, own, most) = (of("VmRSS:")?, of("RssAnon:")?, of("VmHWM:")?);
        let files = of("RssFile:")? + of("RssShmem:")?;
        println!(
            "    its memory: resident {resident:.0} MiB, of that its own {own:.0} MiB, maps and files {files:.0} MiB; most ever {most:.0} MiB"
        );
        for (what, value) in [
            ("resident", resident),
            ("its own", own),
            ("maps and files", files),
            ("most ever resident", most),
        ] {
            self.keep(what, value, "MiB");
        }
        Ok(())
    }

    /// The rounds of a measurement that is over.
    pub fn paced(&mut self, rounds: Pace) {
        self.pace.append(rounds);
    }

    pub fn finish(self) -> Control {
        println!("{}", self.pace);
        Control { report: Report::new(&self.pace, self.rows), targets: self.targets }
    }

    fn keep(&mut self, what: &str, value: f64, unit: &'static str) {
        self.rows.push(Row { of: self.heading.clone(), what: what.to_owned(), value, unit });
    }
}
