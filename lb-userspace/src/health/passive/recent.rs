//! What was counted lately.

use std::fmt;

use super::ENOUGH;

/// What the data plane has counted of one backend since it began. Half-open connections are counted by going through the
/// flow tables, which takes its time; so the order matters in which the others are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// When the round through the tables began.
    pub connections: u64,
    /// More connections until it had ended.
    pub meanwhile: u64,
    /// Handshakes that had begun and were not complete, by that round.
    pub half_open: u64,
    /// When it had ended: handshakes that ran out, SYNs that came again, resets by clients.
    pub incomplete: u64,
    pub retransmissions: u64,
    pub resets: u64,
}

/// What is not forgotten.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recent {
    connections: f64,
    pub completed: f64,
    /// Begun more than a reading ago and not complete, or run out.
    stuck: f64,
    retransmissions: f64,
    resets: f64,
}

/// One reading of the figures.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    figures: Figures,
    /// Half-open ones that were so at the reading before: those that came since may be on their way.
    lingering: u64,
    /// Handshakes that had completed by then at least. A flood may be a hundred times as much, and what of it began while
    /// the round went on may be half-open in the round already: so what is subtracted is rather too much, and as none is
    /// ever taken back, the next reading without such a burst makes up for it.
    completed: i64,
    /// So many more may have completed.
    unsure: u64,
}

impl Reading {
    /// With what was done since the one before, if there was one.
    pub fn after(before: Option<&Self>, figures: &Figures) -> (Self, Option<Recent>) {
        let figures = *figures;
        let least = (figures.connections as i64)
            .saturating_sub_unsigned(figures.incomplete)
            .saturating_sub_unsigned(figures.half_open);
        let Some(Self { figures: before, lingering: lingered, completed: known, .. }) = before else {
            let first =
                Self { figures, lingering: figures.half_open, completed: least, unsure: figures.meanwhile };
            return (first, None);
        };
        let more = |before: u64, now: u64| now.saturating_sub(before) as f64;
        let connections = figures.connections.saturating_sub(before.connections);
        let lingering = figures.half_open.saturating_sub(connections + figures.meanwhile);
        let completed = least.max(*known);
        let unsure =
            u64::try_from(least.saturating_add_unsigned(figures.meanwhile) - completed).unwrap_or_default();
        let step = Recent {
            connections: connections as f64,
            completed: completed.saturating_sub(*known) as f64,
            stuck: more(before.incomplete, figures.incomplete) + lingering as f64 - *lingered as f64,
            retransmissions: more(before.retransmissions, figures.retransmissions),
            resets: more(before.resets, figures.resets),
        };
        (Self { figures, lingering, completed, unsure }, Some(step))
    }

    /// Handshakes that may have completed beside those that are known to.
    pub fn unsure(&self) -> f64 {
        self.unsure as f64
    }
}

impl Recent {
    pub fn fold(&mut self, kept: f64, step: &Self) {
        *self = step.and(self, kept);
    }

    /// With so much of another.
    pub fn and(&self, other: &Self, part: f64) -> Self {
        Self {
            connections: self.connections + other.connections * part,
            completed: self.completed + other.completed * part,
            stuck: self.stuck + other.stuck * part,
            retransmissions: self.retransmissions + other.retransmissions * part,
            resets: self.resets + other.resets * part,
        }
    }

    /// How much of the connections does not complete: has hung for a while, or had to ask again. None: there are too few.
    pub fn part_stuck(&self) -> Option<f64> {
        self.part(self.stuck.max(self.retransmissions))
    }

    /// The same of those that have hung alone.
    pub fn part_hung(&self) -> Option<f64> {
        self.part(self.stuck)
    }

    fn part(&self, troubled: f64) -> Option<f64> {
        (self.connections >= ENOUGH).then(|| troubled.clamp(0.0, self.connections) / self.connections)
    }

    /// How much of what was completed clients have reset.
    pub fn part_reset(&self) -> Option<f64> {
        (self.completed >= ENOUGH).then(|| self.resets.min(self.completed) / self.completed)
    }
}

impl fmt::Display for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, completed, retransmissions, resets, .. } = self;
        let stuck = self.stuck.max(0.0);
        write!(
            f,
            "about {connections:.0} connections, {completed:.0} handshakes completed, {stuck:.0} hang or ran out, \
             {retransmissions:.0} SYNs came again, {resets:.0} were reset by clients"
        )
    }
}
