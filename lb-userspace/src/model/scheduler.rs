//! The schedulers by their LVS names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::nearest::nearest;

/// Which backend a new connection gets (`net/netfilter/ipvs/ip_vs_*.c`). As text, in the API and in
/// tables: `NAME` or `NAME,FLAG,...`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin, interleaved by weight level.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections: IPVS's default.
    #[default]
    Wlc,
    /// Shortest expected delay.
    Sed,
    /// Never queue: an idle backend, else as sed.
    Nq,
    /// Weighted failover: the heaviest.
    Fo,
    /// Weighted overflow: the heaviest whose active connections do not exceed its weight.
    Ovf,
    /// Source hashing.
    Sh(HashFlags),
    /// Maglev hashing.
    Mh(HashFlags),
    /// Destination hashing.
    Dh,
    /// The less loaded of two random ones.
    Twos,
    /// Locality-based least connections.
    Lblc,
    /// The same with a set of backends.
    Lblcr,
}

/// `sh-fallback`, `sh-port`, `mh-fallback`, `mh-port` (`ipvsadm -b`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashFlags {
    /// A backend that takes no connections is replaced by another one; else its clients are refused.
    pub fallback: bool,
    /// The source port is hashed too.
    pub port: bool,
}

impl Scheduler {
    /// Each without flags.
    pub const ALL: [Self; 14] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Sed,
        Self::Nq,
        Self::Fo,
        Self::Ovf,
        Self::Sh(HashFlags { fallback: false, port: false }),
        Self::Mh(HashFlags { fallback: false, port: false }),
        Self::Dh,
        Self::Twos,
        Self::Lblc,
        Self::Lblcr,
    ];

    /// IPVS's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Sh(_) => "sh",
            Self::Mh(_) => "mh",
            Self::Dh => "dh",
            Self::Twos => "twos",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
        }
    }

    pub fn flags(self) -> HashFlags {
        match self {
            Self::Sh(flags) | Self::Mh(flags) => flags,
            _ => HashFlags::default(),
        }
    }

    /// ipvsadm's names of the flags that are set.
    pub fn flag_names(self) -> Vec<&'static str> {
        let flags = self.flags();
        let [fallback, port] = self.possible_flags().unwrap_or_default();
        [(flags.fallback, fallback), (flags.port, port)]
            .into_iter()
            .filter_map(|(set, name)| set.then_some(name))
            .collect()
    }

    /// The scheduler with one more flag. The error says what would be right.
    pub fn with_flag(self, flag: &str) -> Result<Self, String> {
        let Some([fallback, port]) = self.possible_flags() else {
            return Err(format!("the scheduler {self} has no flags, only sh and mh have"));
        };
        let mut flags = self.flags();
        match flag {
            // As ipvsadm and keepalived number them.
            "flag-1" => flags.fallback = true,
            "flag-2" => flags.port = true,
            _ if flag == fallback => flags.fallback = true,
            _ if flag == port => flags.port = true,
            _ => {
                return Err(format!("{} has no flag `{flag}`, only {fallback} and {port}", self.name()));
            }
        }
        Ok(match self {
            Self::Sh(_) => Self::Sh(flags),
            _ => Self::Mh(flags),
        })
    }

    fn possible_flags(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Sh(_) => Some(["sh-fallback", "sh-port"]),
            Self::Mh(_) => Some(["mh-fallback", "mh-port"]),
            _ => None,
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name().to_owned();
        for flag in self.flag_names() {
            text.push(',');
            text += flag;
        }
        f.pad(&text)
    }
}

impl FromStr for Scheduler {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let found = Self::ALL.into_iter().find(|scheduler| scheduler.name().eq_ignore_ascii_case(name));
        let Some(scheduler) = found else {
            let hint = nearest(name, Self::ALL.iter().map(|scheduler| scheduler.name()))
                .map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
            return Err(format!("unknown scheduler `{name}`{hint}"));
        };
        words.try_fold(scheduler, Self::with_flag)
    }
}

impl TryFrom<String> for Scheduler {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Scheduler> for String {
    fn from(scheduler: Scheduler) -> Self {
        scheduler.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheduler_survives_the_way_through_text() {
        for scheduler in Scheduler::ALL {
            assert_eq!(scheduler.to_string().parse(), Ok(scheduler));
        }
        let both = Scheduler::Mh(HashFlags { fallback: true, port: true });
        assert_eq!(both.to_string(), "mh,mh-fallback,mh-port");
        assert_eq!(both.to_string().parse(), Ok(both));
        assert_eq!("mh,flag-2,flag-1".parse(), Ok(both));
    }

    #[test]
    fn wrong_ones_say_what_is_right() {
        let error = |text: &str| text.parse::<Scheduler>().expect_err("wrong");
        assert_eq!(error("wcl"), "unknown scheduler `wcl`, did you mean `wlc`?");
        assert_eq!(error("rr,sh-port"), "the scheduler rr has no flags, only sh and mh have");
        assert_eq!(error("sh,mh-port"), "sh has no flag `mh-port`, only sh-fallback and sh-port");
    }
}
