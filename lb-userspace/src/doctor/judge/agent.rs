//! The agent and what it pinned.

use std::{path::PathBuf, time::Duration};

use crate::doctor::finding::{Finding, Id};

#[derive(Clone, Debug)]
pub struct Facts {
    pub instance: String,
    pub socket: PathBuf,
    pub answer: Answer,
    /// The process that holds the instance's lock.
    pub lock: Option<u32>,
    pub pin_dir: PathBuf,
    pub pins: Pins,
    /// What the agent itself warns of, one sentence each.
    pub warnings: Vec<String>,
}

/// What came back through the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of an agent of this instance.
    Instance(String),
    /// No socket, or nobody listens there.
    Nobody,
    Silent(Duration),
    Denied,
    Broken(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pins {
    Absent,
    Usable,
    /// Made by an lb of another schema version.
    Other {
        found: u32,
        ours: u32,
    },
    Unusable(String),
    /// Not readable for this user.
    Denied,
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    pins(facts).into_iter().chain(agent(facts)).chain(warnings(facts)).collect()
}

fn pins(facts: &Facts) -> Option<Finding> {
    let Facts { instance, pin_dir, pins, .. } = facts;
    let detach = format!("lb --instance {instance} detach, then start the agent: connections are cut");
    match pins {
        Pins::Other { found, ours } => Some(Finding::new(
            Id::PinsOtherVersion,
            pin_dir.display(),
            format!("its maps are of schema version {found}, this lb is of version {ours}"),
            "the old program goes on forwarding, and the agent of this version refuses to start",
            detach,
        )),
        Pins::Unusable(why) => Some(Finding::new(
            Id::PinsUnusable,
            pin_dir.display(),
            why,
            "the agent refuses to start on them, and what the data plane does cannot be told",
            detach,
        )),
        Pins::Absent | Pins::Usable | Pins::Denied => None,
    }
}

fn agent(facts: &Facts) -> Option<Finding> {
    let Facts { instance, socket, answer, lock, pin_dir, pins, warnings: _ } = facts;
    let subject = format!("agent {instance}");
    let stopped = "backends' MAC addresses, health checks and changes are followed by nobody";
    let start = "systemctl start lb; journalctl -u lb -e says why it ended";
    match (answer, lock) {
        (Answer::Instance(other), _) if other != instance => Some(Finding::new(
            Id::SocketOfAnother,
            socket.display(),
            format!("the agent that answers there is of instance {other}, not {instance}"),
            "commands for one instance change the other",
            "give each instance a `control.socket` of its own, or name the right --instance",
        )),
        (Answer::Instance(_), _) | (Answer::Denied, _) => None,
        (Answer::Silent(within), lock) => Some(Finding::new(
            Id::AgentSilent,
            subject,
            format!(
                "{} took the connection and gave no answer within {within:?}{}",
                socket.display(),
                held(*lock)
            ),
            stopped,
            restart(*lock),
        )),
        (Answer::Broken(why), lock) => Some(Finding::new(
            Id::AgentSilent,
            subject,
            format!("{why}{}", held(*lock)),
            stopped,
            restart(*lock),
        )),
        (Answer::Nobody, Some(pid)) => Some(Finding::new(
            Id::AgentSilent,
            subject,
            format!("nobody listens at {}{}", socket.display(), held(Some(*pid))),
            "commands do not reach the agent",
            restart(Some(*pid)),
        )),
        (Answer::Nobody, None) if *pins == Pins::Absent => Some(Finding::new(
            Id::NothingPinned,
            subject,
            format!("nobody listens at {}, and there is no {}", socket.display(), pin_dir.display()),
            "nothing is balanced: clients are not served, unless this director is not in service",
            start,
        )),
        (Answer::Nobody, None) => Some(Finding::new(
            Id::AgentDown,
            subject,
            format!("nobody listens at {}, and {} is there", socket.display(), pin_dir.display()),
            format!("packets are forwarded on the last state; {stopped}"),
            start,
        )),
    }
}

/// Generic mode and offloads are findings of their own.
fn warnings(facts: &Facts) -> impl Iterator<Item = Finding> {
    let warnings =
        facts.warnings.iter().enumerate().filter(|(_, text)| {
            !["attached in generic mode", "ethtool -K"].iter().any(|own| text.contains(own))
        });
    warnings.map(|(n, text)| {
        let (effect, fix) = words_of(text);
        Finding::new(
            Id::AgentWarning,
            format!("agent {}, warning {}", facts.instance, n + 1),
            text,
            effect,
            fix,
        )
    })
}

/// The agent says what follows behind `, so`, and what to do behind the last `:` or `;`, with a command in it.
fn words_of(warning: &str) -> (String, String) {
    let effect = warning.split_once(", so ").and_then(|(_, rest)| rest.split([':', ';']).next());
    let effect = effect.map_or("what the agent says; it goes on without".to_owned(), str::to_owned);
    // With whole quotes: `via: rip` is one word.
    let is_advice = |words: &&str| words.contains('`') && words.matches('`').count().is_multiple_of(2);
    let behind = |sign| warning.rsplit_once(sign).map(|(_, last)| last).filter(is_advice);
    let advice = behind("; ").or_else(|| behind(": "));
    let look = "`lb status` shows the warning as long as it holds, `journalctl -u lb` what came before it";
    let fix = match advice {
        Some(advice) => format!("{advice} (the agent's words); {look}"),
        None => look.to_owned(),
    };
    (effect, fix)
}

fn held(lock: Option<u32>) -> String {
    lock.map(|pid| format!(", while process {pid} holds the instance's lock")).unwrap_or_default()
}

fn restart(lock: Option<u32>) -> String {
    match lock {
        Some(pid) => {
            format!("kill {pid} (-9 if it does not end; forwarding stays up), then systemctl start lb")
        }
        None => "systemctl restart lb (forwarding stays up)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(answer: Answer, lock: Option<u32>, pins: Pins) -> Facts {
        let (socket, pin_dir) = ("/run/lb/a.sock".into(), "/sys/fs/bpf/lb/a".into());
        Facts { instance: "a".into(), socket, answer, lock, pin_dir, pins, warnings: Vec::new() }
    }

    #[track_caller]
    fn finds(facts: Facts, ids: &[Id]) {
        let found: Vec<_> = judge(&facts).iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids, "{facts:?}");
    }

    #[test]
    fn each_state_of_an_agent_has_its_name() {
        let own = || Answer::Instance("a".into());
        finds(facts(own(), Some(7), Pins::Usable), &[]);
        finds(facts(Answer::Instance("b".into()), None, Pins::Usable), &[Id::SocketOfAnother]);
        finds(facts(Answer::Nobody, None, Pins::Usable), &[Id::AgentDown]);
        finds(facts(Answer::Nobody, None, Pins::Absent), &[Id::NothingPinned]);
        finds(facts(Answer::Nobody, Some(7), Pins::Usable), &[Id::AgentSilent]);
        finds(facts(Answer::Silent(Duration::from_secs(3)), Some(7), Pins::Usable), &[Id::AgentSilent]);
        finds(facts(Answer::Broken("cut off".into()), None, Pins::Usable), &[Id::AgentSilent]);
        finds(facts(Answer::Denied, None, Pins::Denied), &[]);
        finds(
            facts(Answer::Nobody, None, Pins::Other { found: 1, ours: 2 }),
            &[Id::PinsOtherVersion, Id::AgentDown],
        );
        let warnings = vec!["eth0: attached in generic mode".to_owned(), "a journal was damaged".to_owned()];
        finds(Facts { warnings, ..facts(own(), Some(7), Pins::Usable) }, &[Id::AgentWarning]);
        finds(facts(own(), Some(7), Pins::Unusable("no FLOWS4".into())), &[Id::PinsUnusable]);
    }

    /// As the agent has them.
    #[test]
    fn the_agents_own_words() {
        let (effect, fix) = words_of(
            "health checks through the VIP are not made, so a backend without the VIP on its lo is not noticed: no room; \
             `via: rip` in the checks does without",
        );
        assert_eq!(effect, "a backend without the VIP on its lo is not noticed");
        assert!(fix.starts_with("`via: rip` in the checks does without (the agent's words)"), "{fix}");
        let (_, fix) =
            words_of("`limits` differ, which stay as they are: `lb detach` and a new start make new ones");
        assert!(fix.starts_with("`lb detach` and a new start"), "{fix}");
        let (effect, fix) =
            words_of("changes made by command were lost; the damaged journal is /var/lib/lb/x");
        assert!(effect.starts_with("what the agent says") && fix.contains("lb status"), "{fix}");
        assert!(fix.contains("journalctl -u lb"), "{fix}");
    }
}
