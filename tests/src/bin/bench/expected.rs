//! What a row says of its packets, held against the director's counters.

use anyhow::{Result, ensure};
use lb_common::verdict::{Event, Verdict};
use lb_tests::xdp::Director;

use crate::world::counted;

#[derive(Clone, Copy)]
pub struct Expected {
    /// Of each packet; none where no director runs.
    pub verdict: Option<Verdict>,
    /// So many may have another one.
    pub others: u32,
    /// Of nearly all of them, besides.
    pub event: Option<Event>,
}

impl Expected {
    pub const NOTHING: Self = Self { verdict: None, others: 0, event: None };

    pub const fn each(verdict: Verdict) -> Self {
        Self { verdict: Some(verdict), ..Self::NOTHING }
    }

    /// Sends so many packets by `send`. Fails if they were others than the row `name` is about.
    pub fn hold<T>(
        self,
        name: &str,
        director: &Director,
        packets: u32,
        send: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let before = self.counted(director)?;
        let sent = send()?;
        let after = self.counted(director)?;
        let [verdicts, events] = [0, 1].map(|which| after[which] - before[which]);
        let all = u64::from(packets);
        let is_so = |counted, least| counted >= least && counted <= all;
        if let Some(verdict) = self.verdict {
            ensure!(
                is_so(verdicts, all - u64::from(self.others)),
                "{name}: {} {verdicts} times for {all}",
                verdict.name()
            );
        }
        if let Some(event) = self.event {
            ensure!(is_so(events, all - all / 50), "{name}: {} {events} times for {all}", event.name());
        }
        Ok(sent)
    }

    fn counted(self, director: &Director) -> Result<[u64; 2]> {
        let of = |name: Option<&str>| name.map_or(Ok(0), |name| counted(director, name));
        Ok([of(self.verdict.map(Verdict::name))?, of(self.event.map(Event::name))?])
    }
}
