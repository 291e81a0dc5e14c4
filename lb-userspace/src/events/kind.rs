//! What can happen.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How much it matters: the level of its log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warning,
    Error,
}

macro_rules! kinds {
    ($($variant:ident $name:literal $level:ident $told:literal $words:literal,)*) => {
        /// One kind of event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub enum Kind { $($variant,)* }

        impl Kind {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant,)*];

            /// Its name in `lb events`, in the configuration and in `LB_EVENT`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What has happened, in a few words.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$variant => $words,)* }
            }

            pub const fn level(self) -> Level {
                match self { $(Self::$variant => Level::$level,)* }
            }

            /// Whether mails, webhooks and the global program get it unless the configuration says otherwise.
            pub const fn is_told(self) -> bool {
                match self { $(Self::$variant => $told,)* }
            }
        }
    };
}

kinds! {
    BackendDown "backend-down" Warning true "backend is down",
    BackendUp "backend-up" Info true "backend is up",
    CheckFails "check-fails" Info false "a check fails, the backend stays as it is",
    CheckPasses "check-passes" Info false "a check passes, the backend stays as it is",
    Weight "weight" Info false "backend has another weight",
    Flaps "flaps" Warning true "backend flaps",
    Settled "settled" Info true "backend is back in: it was kept out since it flapped",
    Suspect "suspect" Warning true "the connections of a backend fare worse than those of the others",
    Trusted "trusted" Info true "backend gets its connections back: it was suspect",
    QuorumDown "quorum-down" Warning true "service has lost its quorum",
    QuorumUp "quorum-up" Info true "service has its quorum",
    BackupsServe "backups-serve" Warning true "the backups serve",
    BackupsRest "backups-rest" Info true "the backups are not needed any more",
    PrimaryServes "primary-serves" Warning true "the primary serves in the place of its replicas (fallback)",
    PrimaryRests "primary-rests" Info true "the primary need not serve any more (fallback)",
    AllKept "all-kept" Warning true "so many backends fail that all are kept (minimum_healthy)",
    AllKeptEnd "all-kept-end" Info true "the checks are believed again",
    Drained "drained" Info false "backend is drained",
    Undrained "undrained" Info false "backend is not drained any more",
    Maintenance "maintenance" Info true "backend is in maintenance",
    MaintenanceEnd "maintenance-end" Info true "the maintenance of the backend is over",
    NeighbourLost "neighbour-lost" Warning true "backend does not answer ARP/ND any more",
    NeighbourFound "neighbour-found" Info true "backend answers ARP/ND",
    NeighbourChanged "neighbour-changed" Info true "backend has another MAC",
    FloodBegin "flood-begin" Warning true "new connections come faster than the guard allows",
    FloodEnd "flood-end" Info true "the flood is over",
    TableFull "table-full" Warning true "the flow table is nearly full",
    TableRoom "table-room" Info true "the flow table has room again",
    ResizeBegin "resize-begin" Info false "the flow tables are changing their sizes",
    ResizeEnd "resize-end" Info false "the flow tables have their new sizes",
    Program "program" Info false "XDP program swapped in place",
    Change "change" Info false "changed by command",
    Reload "reload" Info false "configuration reloaded",
    Discarded "discarded" Warning false "the file overrules a change by command, which is discarded",
    ReloadRefused "reload-refused" Error true "configuration refused",
    Problem "problem" Warning true "problem",
    ProblemEnd "problem-end" Info true "problem is over",
    AgentStart "agent-start" Info true "agent started",
    AgentStop "agent-stop" Info true "agent stopped",
    Detach "detach" Warning true "detached: nothing is forwarded any more",
    NotifyFailed "notify-failed" Warning false "telling somebody failed",
}

impl Kind {
    /// Whether it is about telling itself. Such events are told to nobody: they would make themselves.
    pub const fn is_of_telling(self) -> bool {
        matches!(self, Self::NotifyFailed)
    }
}

impl FromStr for Kind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|kind| kind.name() == text).copied();
        found.ok_or_else(|| format!("there is no kind of event {text:?}"))
    }
}

impl TryFrom<String> for Kind {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> Self {
        kind.name().to_owned()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
