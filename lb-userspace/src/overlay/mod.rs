//! What the command line has changed since the configuration file: running state = file + overlay.
//!
//! PURE, except [`journal`], which keeps the overlay in a state file. The agent's way with a change:
//! make it with [`crate::model::edit`] on a copy of the model; [`Overlay::push`] it; store the journal;
//! only then let the kernel see the new model.

mod change;
mod compact;
mod diff;
pub mod journal;
mod reload;

use serde::{Deserialize, Serialize};

use crate::model::Model;

pub use change::Change;
pub use diff::diff;
pub use journal::{Journal, JournalError};

/// CLI changes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    changes: Vec<Change>,
}

impl Overlay {
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// `file` with all changes made, and one sentence for each change that does not apply to it (because
    /// the file was edited while no agent ran). [`Overlay::reload`] with `keep_runtime` drops those.
    pub fn apply(&self, file: &Model) -> (Model, Vec<String>) {
        let mut model = file.clone();
        let mut skipped = Vec::new();
        for change in &self.changes {
            if let Err(error) = change.apply(&mut model) {
                skipped.push(format!("not applied: {change}, because {error}"));
            }
        }
        (model, skipped)
    }

    /// One sentence for each change.
    pub fn describe(&self) -> Vec<String> {
        self.changes.iter().map(Change::to_string).collect()
    }
}

#[cfg(test)]
mod tests;
