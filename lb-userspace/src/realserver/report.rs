//! What was changed and what was found. PURE.

use std::{fmt, net::IpAddr};

use serde::Serialize;

use crate::net::sysctl::Sysctl;

/// The outcome of `start`, `stop` or `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// What was changed, in order; empty if all was as wanted.
    pub changes: Vec<Change>,
    /// What is right and what is wrong now; the worst first.
    pub items: Vec<Item>,
}

impl Report {
    pub(super) fn new(changes: Vec<Change>, mut items: Vec<Item>) -> Self {
        items.sort_by_key(|item| std::cmp::Reverse(item.verdict));
        Self { changes, items }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.items.iter().filter(|item| item.verdict == verdict).count()
    }

    /// How it all is, in a line; none if nothing was looked at.
    fn summary(&self) -> Option<String> {
        let [wrong, notes, right] = [Verdict::Wrong, Verdict::Note, Verdict::Right].map(|it| self.count(it));
        let notes = match notes {
            0 => String::new(),
            1 => ", 1 to know of".to_owned(),
            notes => format!(", {notes} to know of"),
        };
        match (wrong, right) {
            (0, 0) => None,
            (0, right) => Some(format!("nothing is wrong{notes}; {right} things are right")),
            (wrong, right) => Some(format!("{wrong} wrong{notes}, {right} right")),
        }
    }

    /// Nothing is wrong.
    pub fn is_right(&self) -> bool {
        self.items.iter().all(|item| item.verdict != Verdict::Wrong)
    }
}

/// One change of the host. What a report lists has been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// A VIP was put on the loopback.
    Added { address: IpAddr, prefix: u8 },
    /// The loopback interface was down.
    LoopbackUp,
    /// An address was taken off the loopback.
    Removed { address: IpAddr, prefix: u8 },
    /// A sysctl got back its value from before the first `start`.
    Restored { key: Sysctl, from: i64, to: i64 },
    /// A sysctl was set.
    Set { key: Sysctl, from: i64, to: i64 },
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// What it is about: an address and interface, or a sysctl.
    pub subject: String,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What it causes; for what is not right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// The command that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How an item is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Right,
    /// Not wrong in itself; the operator should know.
    Note,
    Wrong,
}

impl Item {
    pub(super) fn right(subject: impl fmt::Display, found: impl fmt::Display) -> Self {
        Self {
            subject: subject.to_string(),
            verdict: Verdict::Right,
            found: found.to_string(),
            effect: None,
            fix: None,
        }
    }

    pub(super) fn wrong(
        subject: impl fmt::Display,
        found: impl fmt::Display,
        effect: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Wrong,
            effect: Some(effect.into()),
            fix: Some(fix.into()),
            ..Self::right(subject, found)
        }
    }

    pub(super) fn note(
        subject: impl fmt::Display,
        found: impl fmt::Display,
        effect: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { verdict: Verdict::Note, ..Self::wrong(subject, found, effect, fix) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))?;
        self.items.iter().try_for_each(|item| writeln!(f, "{item}"))?;
        self.summary().map_or(Ok(()), |summary| writeln!(f, "{summary}"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { address, prefix } => write!(f, "added {address}/{prefix} to lo"),
            Self::LoopbackUp => f.write_str("set lo up"),
            Self::Removed { address, prefix } => write!(f, "removed {address}/{prefix} from lo"),
            Self::Restored { key, from, to } => write!(f, "restored {key} from {from} to {to}"),
            Self::Set { key, from, to } => write!(f, "set {key} from {from} to {to}"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, verdict, found, effect, fix } = self;
        write!(f, "{verdict:<5}  {subject}: {found}")?;
        if let Some(effect) = effect {
            write!(f, "\n       causes:  {effect}")?;
        }
        if let Some(fix) = fix {
            write!(f, "\n       mend it: {fix}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Right => "right",
            Self::Note => "note",
            Self::Wrong => "WRONG",
        })
    }
}
