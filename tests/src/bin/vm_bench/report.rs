//! The table, the targets, and both as JSON.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    measure::{Feed, Figure, Load, PACKETS, ROUNDS},
    subject::Kind,
};

/// What xtask takes for its `--json`.
const JSON: &str = "VM-BENCH-JSON: ";
/// Rounds that differ by more are marked.
const SPREAD: f64 = 1.02;
/// lb above a bare XDP drop may cost at most this part of IPVS above it.
const TARGETS: [(Load, f64); 3] = [(Load::One, 1.0 / 3.5), (Load::Many, 1.0 / 3.5), (Load::New, 1.0 / 3.0)];

#[derive(Serialize)]
pub struct Report {
    kernel: String,
    packets: u32,
    rounds: usize,
    figures: Vec<Figure>,
    targets: Vec<Judged>,
}

/// Instructions above a bare XDP drop, fed with frames: lb's by IPVS's, of its cheaper form.
#[derive(Serialize)]
struct Judged {
    load: Load,
    lb: f64,
    ipvs: f64,
    measured: f64,
    at_most: f64,
    passed: bool,
}

impl Report {
    /// Errors: a figure is missing.
    pub fn new(kernel: String, figures: Vec<Figure>) -> Result<Self> {
        let mut report = Self { kernel, packets: PACKETS, rounds: ROUNDS, figures, targets: Vec::new() };
        for (load, at_most) in TARGETS {
            let lb = report.above_drop(Feed::Frames, load, Kind::Lb)?;
            let ipvs = report.above_drop(Feed::Frames, load, report.best_ipvs(Feed::Frames, load)?)?;
            let measured = lb / ipvs;
            report.targets.push(Judged { load, lb, ipvs, measured, at_most, passed: measured <= at_most });
        }
        Ok(report)
    }

    pub fn print(&self) -> Result<()> {
        println!(
            "Guest instructions per packet, above the generator's own. Linux {}, one CPU, {PACKETS} packets,\n\
             the smaller of {ROUNDS} rounds (~: they differ by more than 2 %).\n",
            self.kernel
        );
        self.print_feed(Feed::Frames, "fed with XDP frames, as by a driver")?;
        self.print_feed(Feed::Skbs, "fed with pktgen's own skbs, which XDP copies")?;
        heading("above a bare XDP drop, fed with XDP frames");
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Drop) {
            row(kind.name(), |load| Ok(format!("{:.0}", self.above_drop(Feed::Frames, load, kind)?)))?;
        }
        println!();
        self.print_ratios()?;
        println!("\n{:<46}{:>10}{:>12}", "target: lb by IPVS above a bare XDP drop", "measured", "at most");
        for Judged { load, lb, ipvs, measured, at_most, passed } in &self.targets {
            let verdict = if *passed { "passed" } else { "MISSED" };
            let fraction = 1.0 / measured;
            println!(
                "  {:<44}{measured:>10.3}{at_most:>12.3}  {verdict}: {lb:.0} by {ipvs:.0}, 1/{fraction:.2}",
                name(*load)
            );
        }
        println!("{JSON}{}", serde_json::to_string(self)?);
        Ok(())
    }

    fn print_feed(&self, feed: Feed, what: &str) -> Result<()> {
        heading(what);
        let figure = |load, subject| {
            let figure = self.figure(feed, load, subject)?;
            let largest = figure.rounds.iter().copied().fold(0.0, f64::max);
            Ok::<_, anyhow::Error>((figure.minimum(), largest > SPREAD * figure.minimum()))
        };
        row("(the generator, taken off below)", |load| Ok(format!("{:.0}", figure(load, None)?.0)))?;
        for kind in Kind::ALL {
            row(kind.name(), |load| {
                let (cost, differs) = figure(load, Some(kind))?;
                let mark = if differs { "~" } else { "" };
                Ok(format!("{mark}{:.0}", cost - figure(load, None)?.0))
            })?;
        }
        println!();
        Ok(())
    }

    /// What the other way of feeding would say, which nothing is decided by.
    fn print_ratios(&self) -> Result<()> {
        heading("lb by IPVS, its cheaper form");
        let whole = |feed, load, kind| -> Result<f64> {
            Ok(self.figure(feed, load, Some(kind))?.minimum() - self.figure(feed, load, None)?.minimum())
        };
        for (feed, what) in [(Feed::Frames, "XDP frames"), (Feed::Skbs, "pktgen's skbs")] {
            row(&format!("{what}, above the generator"), |load| {
                let ipvs = whole(feed, load, self.best_ipvs(feed, load)?)?;
                Ok(format!("{:.3}", whole(feed, load, Kind::Lb)? / ipvs))
            })?;
        }
        Ok(())
    }

    /// With or without GRO, whatever is cheaper for it.
    fn best_ipvs(&self, feed: Feed, load: Load) -> Result<Kind> {
        let cost = |kind| Ok::<_, anyhow::Error>(self.figure(feed, load, Some(kind))?.minimum());
        let is_better = cost(Kind::IpvsWithoutGro)? < cost(Kind::Ipvs)?;
        Ok(if is_better { Kind::IpvsWithoutGro } else { Kind::Ipvs })
    }

    fn above_drop(&self, feed: Feed, load: Load, kind: Kind) -> Result<f64> {
        let of = |kind| Ok::<_, anyhow::Error>(self.figure(feed, load, Some(kind))?.minimum());
        Ok(of(kind)? - of(Kind::Drop)?)
    }

    fn figure(&self, feed: Feed, load: Load, subject: Option<Kind>) -> Result<&Figure> {
        let wanted = |it: &&Figure| it.feed == feed && it.load == load && it.subject == subject;
        self.figures
            .iter()
            .find(wanted)
            .with_context(|| format!("no figure of {feed:?}, {load:?}, {subject:?}"))
    }
}

fn heading(what: &str) {
    println!("{what:<56}{:>10}{:>12}{:>12}", name(Load::One), name(Load::Many), name(Load::New));
}

fn row(name: &str, cell: impl Fn(Load) -> Result<String>) -> Result<()> {
    let [one, many, new] = Load::ALL.map(cell);
    println!("  {name:<54}{:>10}{:>12}{:>12}", one?, many?, new?);
    Ok(())
}

fn name(load: Load) -> &'static str {
    match load {
        Load::One => "1 flow",
        Load::Many => "10k flows",
        Load::New => "new flows",
    }
}
