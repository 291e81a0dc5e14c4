//! Flow tables of another size, on reload: made beside the old ones, filled from them, and the old ones taken away,
//! while packets go on. Every step may be the last of an agent: `meta` says to the next one where to go on.

use std::{mem::take, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_common::meta::{Meta, buckets};

use super::{AGAIN, Agent};
use crate::{
    clock::monotonic,
    dataplane::grace_period,
    events::{Draft, Kind},
    model::FlowSizes,
};

/// Of moving at a time: as long as the agent may keep others waiting.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Where a move stands; the rest is in `meta`.
#[derive(Debug, Default)]
pub struct Growth {
    /// Every program looks into both tables, so nothing is put into the old ones.
    pub everywhere: bool,
    /// The part of the old tables that is next. Not 0: amid a round.
    part: u32,
    moved: u64,
    /// What was left in the parts of this round, and of the last whole one.
    left: u64,
    left_behind: Option<u64>,
    /// For `lb status`.
    pub warning: Option<String>,
    /// When the next step may be tried.
    pub not_before: Duration,
}

impl Growth {
    /// Whether there is something to move now, and not only by the next tick of the timer.
    pub fn is_amid(&self) -> bool {
        self.part != 0
    }

    /// What there is to say as long as it is not done.
    fn progress(&self) -> String {
        let left = match self.left_behind {
            Some(left) => format!("{left} still in the old ones"),
            None => "others still in the old ones".to_owned(),
        };
        format!(
            "the flow tables are changing their sizes: {} connections and templates are in the new ones, {left}, where \
             they are found, too",
            self.moved
        )
    }
}

impl Agent {
    /// One step towards flow tables of the configured sizes. What fails is said, and tried again by the timer.
    pub(super) async fn resize(&mut self) {
        if monotonic() < self.growth.not_before {
            return;
        }
        let warning = match self.next_step() {
            Ok(progress) => progress,
            Err(error) => {
                self.growth.not_before = monotonic() + AGAIN;
                let warning = format!("the flow tables do not get the sizes of `flows` yet: {error:#}");
                if self.growth.warning.as_ref() != Some(&warning) {
                    tracing::error!("{warning}; trying again");
                }
                Some(warning)
            }
        };
        self.growth.warning = warning;
    }

    /// What there is to say as long as it is not done.
    fn next_step(&mut self) -> Result<Option<String>> {
        let meta = self.pins.meta;
        if !meta.is_migrating() {
            let FlowSizes { ipv4, wide } = self.config.model.flows;
            if (meta.narrow_buckets, meta.wide_buckets) == (buckets(ipv4), buckets(wide)) {
                return Ok(None);
            }
            if let Some(reason) = self.too_small(self.config.model.flows) {
                return Err(anyhow::anyhow!(reason));
            }
            self.begin()?;
        } else if !self.growth.everywhere {
            self.look_into_both(meta)?;
        }
        match self.move_for_a_while() {
            Some(0) => self.end().map(|()| None),
            _ => Ok(Some(self.growth.progress())),
        }
    }

    /// What is left, if that was the end of a round.
    fn move_for_a_while(&mut self) -> Option<u64> {
        let begun = monotonic();
        while let Some(done) = self.pins.maps.move_part(self.growth.part, &self.pins.meta, self.clock.now()) {
            self.growth.part += 1;
            self.growth.moved += done.moved;
            self.growth.left += done.left;
            if monotonic() >= begun + AT_ONCE {
                return None;
            }
        }
        self.growth.part = 0;
        let left = take(&mut self.growth.left);
        self.growth.left_behind = Some(left);
        Some(left)
    }

    /// Which capacity of `flows` is less than what is in use.
    pub(super) fn too_small(&self, flows: FlowSizes) -> Option<String> {
        let tables =
            [("ipv4", flows.ipv4, self.sweep.narrow_live), ("wide", flows.wide, self.sweep.wide_live)];
        tables.into_iter().find(|(_, wanted, live)| *live > u64::from(buckets(*wanted))).map(
            |(name, wanted, live)| {
                format!("`flows.{name}: {wanted}` is too small for the {live} flows that are there now")
            },
        )
    }

    fn begin(&mut self) -> Result<()> {
        let gone = self.interfaces.missing();
        ensure!(gone.is_empty(), "there is no interface {}, which may come back", gone.join(", "));
        let meta = self.pins.resize(self.config.model.flows)?;
        // What the kernel refuses, it refuses before anything has changed.
        let programs = self.load(&meta, true).inspect_err(|_| self.pins.abandon_resize())?;
        self.growth = Growth::default();
        self.pins.follow(meta)?;
        self.sweep.forget_places();
        let sizes = format!("ipv4 {}, wide {}", meta.narrow_buckets, meta.wide_buckets);
        self.say(Draft::new(Kind::ResizeBegin).because(sizes));
        self.swap(programs)?;
        self.is_everywhere()
    }

    /// The rest of a beginning that was cut off.
    fn look_into_both(&mut self, meta: Meta) -> Result<()> {
        let programs = self.load(&meta, true)?;
        self.swap(programs)?;
        self.is_everywhere()
    }

    /// Every interface has a program that looks into both tables: from here on the old ones only lose entries.
    pub(super) fn is_everywhere(&mut self) -> Result<()> {
        grace_period()?;
        self.growth.everywhere = true;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let meta = self.pins.meta.settled();
        let programs = self.load(&meta, true)?;
        self.swap(programs)?;
        grace_period()?;
        self.pins.follow(meta)?;
        self.say(Draft::new(Kind::ResizeEnd).because(format!("{} entries were moved", self.growth.moved)));
        self.growth = Growth::default();
        // Guards against floods go by the sizes.
        self.reconcile().context("following the new sizes")
    }
}
