//! The flow table's clock in user space: jiffies, calibrated against CLOCK_MONOTONIC.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::{TestRun, TestRunOptions};
use lb_common::tick::{self, Reading, Tick};

use super::{Maps, Object};
use crate::clock::monotonic;

impl Maps {
    /// Both clocks at the instant at which an agent asked last; none before the first one.
    pub fn clock_reading(&self) -> Option<Reading> {
        self.clock.get(0).filter(|reading| reading.monotonic_ns != 0)
    }
}

/// Turns CLOCK_MONOTONIC into ticks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    hz: u32,
    reading: Reading,
}

impl Clock {
    /// Asks the kernel for both clocks at one instant.
    pub fn calibrate(object: &mut Object, maps: &Maps, hz: u32) -> Result<Self> {
        // TEST_RUN takes no frame shorter than an Ethernet header.
        let frame = [0u8; 64];
        let options = TestRunOptions { data_in: Some(&frame), ..Default::default() };
        object.clock()?.test_run(options).context("running the clock program")?;
        let reading = maps.clock.get(0).context("the clock map is empty")?;
        Ok(Self { hz, reading })
    }

    pub fn hz(&self) -> u32 {
        self.hz
    }

    /// What the kernel's clock says now.
    pub fn now(&self) -> Tick {
        let since = monotonic().saturating_sub(Duration::from_nanos(self.reading.monotonic_ns));
        let jiffies = since.as_nanos() * u128::from(self.hz) / 1_000_000_000;
        Tick::from_jiffies(self.reading.jiffies.wrapping_add(jiffies as u64), tick::shift(self.hz))
    }

    /// Whole seconds until `expiry`, rounded down as IPVS does; 0 if it has passed.
    pub fn seconds_until(&self, expiry: Tick) -> u32 {
        tick::seconds(expiry.until(self.now()).max(0) as u32, self.hz)
    }
}
