//! What `lb doctor` says. PURE.

use std::fmt;

use serde::Serialize;

use super::finding::{Finding, Severity};

/// As `lb --help` has it.
const DEFAULT_INSTANCE: &str = "default";

/// The outcome of one examination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whose director it is.
    pub instance: String,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// What could not be looked at, or not be told, one sentence each.
    pub unknown: Vec<String>,
    pub examined: Examined,
}

/// What was looked at: no finding about nothing is no health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Examined {
    pub interfaces: usize,
    pub vips: usize,
    /// Backends, by address.
    pub backends: usize,
    /// Ways from a VIP to a backend that were tried as a client would use them.
    pub probed: usize,
}

impl Report {
    pub(super) fn new(
        instance: &str,
        mut findings: Vec<Finding>,
        unknown: Vec<String>,
        examined: Examined,
    ) -> Self {
        // The rest of a finding decides among equals, so that two runs can be compared.
        findings.sort_by(|a, b| {
            (b.severity, a.id, &a.subject, &a.found).cmp(&(a.severity, b.id, &b.subject, &b.found))
        });
        // Several services may show the same.
        findings.dedup_by(|a, b| (a.id, &a.subject) == (b.id, &b.subject));
        Self { instance: instance.to_owned(), findings, unknown, examined }
    }

    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().map(|finding| finding.severity).max()
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// How many there are of each, in words.
    pub fn summary(&self) -> String {
        let many = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            count => format!("{count} {what}s"),
        };
        format!(
            "{}, {}",
            many(self.count(Severity::Error), "error"),
            many(self.count(Severity::Warning), "warning")
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instance, findings, unknown, examined } = self;
        for finding in findings {
            writeln!(f, "{finding}\n")?;
        }
        // Copied as they stand, they would go to another director.
        if instance != DEFAULT_INSTANCE && findings.iter().any(|finding| finding.fix.contains("lb ")) {
            writeln!(
                f,
                "commands above that ask the agent are for this one with: lb --instance {instance} ..."
            )?;
        }
        for sentence in unknown {
            writeln!(f, "not looked at: {sentence}")?;
        }
        let Examined { interfaces, vips, backends, probed } = examined;
        let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let verdict = if findings.is_empty() { "nothing wrong was found".to_owned() } else { self.summary() };
        write!(
            f,
            "{verdict}; looked at {}, {}, {}, and tried {} through a VIP to a backend",
            many(*interfaces, "interface"),
            many(*vips, "VIP"),
            many(*backends, "backend"),
            many(*probed, "way")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Id;

    fn finding(id: Id, subject: &str) -> Finding {
        Finding::new(id, subject, "seen", "effect", "fix")
    }

    #[test]
    fn the_worst_comes_first_and_nothing_twice() {
        let findings = vec![
            finding(Id::GenericMode, "eth0"),
            finding(Id::LinkDown, "eth1"),
            finding(Id::LinkDown, "eth0"),
            finding(Id::LinkDown, "eth1"),
        ];
        let report = Report::new(DEFAULT_INSTANCE, findings, Vec::new(), Examined::default());
        let order: Vec<_> = report.findings.iter().map(|it| (it.id, it.subject.as_str())).collect();
        assert_eq!(order, [(Id::LinkDown, "eth0"), (Id::LinkDown, "eth1"), (Id::GenericMode, "eth0")]);
        assert_eq!(report.worst(), Some(Severity::Error));
        assert_eq!(report.summary(), "2 errors, 1 warning");
    }

    #[test]
    fn what_was_seen_and_what_to_do_are_shown() {
        let report = |instance, fix: &str| {
            let finding = Finding { fix: fix.to_owned(), ..finding(Id::LinkDown, "eth0") };
            Report::new(instance, vec![finding], vec!["no agent".into()], Examined::default()).to_string()
        };
        let text = report("default", "fix");
        for word in
            ["ERROR", "link-down", "eth0", "seen:    seen", "causes:  effect", "mend it: fix", "no agent"]
        {
            assert!(text.contains(word), "{word} is not in:\n{text}");
        }
        let drain = "until then: lb backend drain";
        assert!(!report("default", drain).contains("--instance"), "it is asked by default");
        assert!(report("lab", drain).contains("lb --instance lab"));
        assert!(!report("lab", "ip link set eth0 up").contains("--instance"));
        let healthy = Report::default();
        assert!(healthy.worst().is_none() && healthy.to_string().contains("nothing wrong"));
    }
}
