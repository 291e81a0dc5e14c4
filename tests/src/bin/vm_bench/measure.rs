//! How many instructions a packet costs.

use anyhow::{Context, Result, ensure};
use lb_tests::netns::Netns;
use serde::Serialize;

use crate::{
    bare::Bare,
    lab::{self, ETH0_MAC, Lab},
    pktgen::{Clients, Pktgen, Target},
    subject::{Kind, Subject},
};

/// Packets of a measurement.
pub const PACKETS: u32 = 10_000;
/// The smallest is the figure: what else the kernel has to do now and then is in the others.
pub const ROUNDS: usize = 2;
/// Packets before it. Of known flows each must have come once.
const WARM_UP: u32 = 1_000;
const MANY: u32 = 10_000;
/// 10.64.0.1 and what follows; new flows come from 10.128.0.0 on, never twice.
const KNOWN: u32 = 0x0a40_0001;
const NEW: u32 = 0x0a80_0000;

/// How the director gets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// As XDP frames, as from a driver.
    Frames,
    /// As pktgen's own skbs, which are shared.
    Skbs,
}

/// How many flows the packets belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    One,
    Many,
    /// A new one for every packet.
    New,
}

impl Feed {
    pub const ALL: [Self; 2] = [Self::Frames, Self::Skbs];
}

impl Load {
    pub const ALL: [Self; 3] = [Self::One, Self::Many, Self::New];
}

/// Guest instructions per packet, the generator's included.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    pub feed: Feed,
    pub load: Load,
    /// None: the generator alone.
    pub subject: Option<Kind>,
    /// Of every round.
    pub rounds: Vec<f64>,
}

impl Figure {
    pub fn minimum(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }
}

pub struct Bench<'a> {
    lab: &'a Lab,
    /// The first client that has not sent yet.
    fresh: u32,
    figures: Vec<Figure>,
}

impl<'a> Bench<'a> {
    pub fn new(lab: &'a Lab) -> Self {
        Self { lab, fresh: NEW, figures: Vec::new() }
    }

    pub fn into_figures(self) -> Vec<Figure> {
        self.figures
    }

    /// The generator alone: frames end where they would be relayed, skbs in a device that frees what it is given.
    pub fn generator(&mut self) -> Result<()> {
        let lab = self.lab;
        let _drop = Bare::drop_on(&lab.generator, "gen1")?;
        let frames = || lab::received(&lab.generator, "gen1");
        self.alone(Feed::Frames, &Pktgen::new(&lab.generator, "gen0")?, frames)?;
        let skbs = || lab::sent(&lab.generator, "idle0");
        self.alone(Feed::Skbs, &Pktgen::new(&lab.generator, "idle0")?, skbs)
    }

    fn alone(&mut self, feed: Feed, pktgen: &Pktgen<'_>, arrived: impl Fn() -> Result<u64>) -> Result<()> {
        let to = Target { mac: ETH0_MAC, address: Kind::Lb.address() };
        for load in Load::ALL {
            let mut rounds = Vec::new();
            for _ in 0..ROUNDS {
                let clients = self.clients(load, PACKETS);
                let before = arrived()?;
                rounds.push(per_packet(pktgen.send(to, clients, PACKETS)?));
                let came = arrived()? - before;
                ensure!(came == u64::from(PACKETS), "the generator alone: {came} packets came");
            }
            self.figures.push(Figure { feed, load, subject: None, rounds });
        }
        Ok(())
    }

    /// Everything with one thing in the director's place.
    pub fn subject(&mut self, kind: Kind) -> Result<()> {
        let subject = Subject::start(kind, self.lab)?;
        for feed in Feed::ALL {
            let generator = &self.lab.generator;
            let (device, _relay) = match feed {
                Feed::Frames => ("gen0", Some(Bare::relay(generator, "gen1", "out0")?)),
                Feed::Skbs => ("out0", None),
            };
            subject.expect(feed)?;
            for load in Load::ALL {
                let rounds = self.rounds(&subject, generator, device, load);
                let rounds = rounds.with_context(|| format!("{}, {feed:?}, {load:?}", kind.name()))?;
                self.figures.push(Figure { feed, load, subject: Some(kind), rounds });
            }
        }
        subject.end()
    }

    fn rounds(
        &mut self,
        subject: &Subject<'_>,
        generator: &Netns,
        device: &'static str,
        load: Load,
    ) -> Result<Vec<f64>> {
        let pktgen = Pktgen::new(generator, device)?;
        let to = Target { mac: ETH0_MAC, address: subject.kind().address() };
        let warm_up = self.clients(load, WARM_UP);
        subject.quietly(|| pktgen.send(to, warm_up, WARM_UP.max(warm_up.number)))?;
        (0..ROUNDS)
            .map(|_| {
                let clients = self.clients(load, PACKETS);
                let before = subject.done()?;
                let took = subject.quietly(|| pktgen.send(to, clients, PACKETS))?;
                let done = subject.done()? - before;
                ensure!(done.packets == u64::from(PACKETS), "{} packets of {PACKETS} came out", done.packets);
                let opened = if load == Load::New && subject.kind().is_balancer() { PACKETS } else { 0 };
                ensure!(
                    done.connections == u64::from(opened),
                    "{} connections were opened, not {opened}",
                    done.connections
                );
                Ok(per_packet(took))
            })
            .collect()
    }

    fn clients(&mut self, load: Load, packets: u32) -> Clients {
        match load {
            Load::One => Clients { first: KNOWN, number: 1 },
            Load::Many => Clients { first: KNOWN, number: MANY },
            Load::New => {
                let first = self.fresh;
                self.fresh += packets;
                Clients { first, number: packets }
            }
        }
    }
}

fn per_packet(instructions: u64) -> f64 {
    instructions as f64 / f64::from(PACKETS)
}
