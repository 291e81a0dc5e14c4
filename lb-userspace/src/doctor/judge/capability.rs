//! The capabilities of the running agent, beside what its configuration needs. Root without one of them starts all the
//! same: what lacks is missed only where it is used.

use std::collections::BTreeSet;

use crate::{
    config::Config,
    doctor::finding::{Finding, Id, Severity},
    model::{Service, check::CheckKind},
};

#[derive(Clone, Debug)]
pub struct Facts {
    pub instance: String,
    pub pid: u32,
    /// Its `CapEff`.
    pub effective: u64,
    /// `net.ipv4.ping_group_range` has its group: it may ping without CAP_NET_RAW. Not in the namespace of the checks
    /// through the VIP, where nobody may.
    pub pings_freely: bool,
    pub uses: Uses,
}

/// What the configuration has that takes a capability: names of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// `exec` checks whose program is not root's.
    pub exec: BTreeSet<String>,
    /// Programs that are told of events, as somebody who is not root; a service's name, or `notify`.
    pub told: BTreeSet<String>,
    pub ping: BTreeSet<String>,
    pub ping_through_vip: BTreeSet<String>,
    pub through_vip: BTreeSet<String>,
}

impl Uses {
    pub fn of(config: &Config) -> Self {
        let mut uses = Self::default();
        let of_others = config.notify.script_user != ROOT;
        if of_others && !config.notify.program.is_empty() {
            uses.told.insert("notify".to_owned());
        }
        for service in &config.model.services {
            let hooks = &service.health.hooks;
            if of_others && !hooks.is_default() {
                uses.told.insert(service.name.to_string());
            }
            uses.add_checks(service);
        }
        uses
    }

    fn add_checks(&mut self, service: &Service) {
        let name = || service.name.to_string();
        for (check, vip) in service.backends.iter().flat_map(|backend| service.attempts(backend)) {
            if vip.is_some() {
                self.through_vip.insert(name());
            }
            match &check.kind {
                CheckKind::Exec(exec) if exec.user != ROOT => self.exec.insert(name()),
                CheckKind::Ping if vip.is_some() => self.ping_through_vip.insert(name()),
                CheckKind::Ping => self.ping.insert(name()),
                _ => false,
            };
        }
    }
}

/// `lb run` runs as root, who need not become root.
const ROOT: &str = "root";

/// `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capability(&'static str, u32);

const KILL: Capability = Capability("CAP_KILL", 5);
const SETGID: Capability = Capability("CAP_SETGID", 6);
const SETUID: Capability = Capability("CAP_SETUID", 7);
const NET_ADMIN: Capability = Capability("CAP_NET_ADMIN", 12);
const NET_RAW: Capability = Capability("CAP_NET_RAW", 13);
const SYS_ADMIN: Capability = Capability("CAP_SYS_ADMIN", 21);
const PERFMON: Capability = Capability("CAP_PERFMON", 38);
const BPF: Capability = Capability("CAP_BPF", 39);

/// One that is needed and not there.
struct Lack {
    capability: Capability,
    needed_for: String,
    effect: &'static str,
    severity: Severity,
}

pub fn judge(facts: &Facts) -> Option<Finding> {
    let lacks = lacks(facts);
    let severity = lacks.iter().map(|lack| lack.severity).max()?;
    let mut effects: Vec<&str> = Vec::new();
    // One capability may be needed for several things.
    let mut needed_for: Vec<(&str, Vec<&str>)> = Vec::new();
    for Lack { capability: Capability(name, _), needed_for: what, effect, .. } in &lacks {
        if !effects.contains(effect) {
            effects.push(effect);
        }
        match needed_for.iter_mut().find(|(it, _)| it == name) {
            Some((_, all)) => all.push(what),
            None => needed_for.push((name, vec![what])),
        }
    }
    let each: Vec<String> =
        needed_for.iter().map(|(name, what)| format!("{name} ({})", what.join(", "))).collect();
    let names: Vec<&str> = needed_for.iter().map(|(name, _)| *name).collect();
    let finding = Finding::new(
        Id::AgentLacksCapability,
        format!("agent {}", facts.instance),
        format!("CapEff in /proc/{}/status lacks {}", facts.pid, each.join(", ")),
        effects.join("; "),
        format!(
            "systemctl edit lb: under [Service] a line CapabilityBoundingSet={}, which adds to those that the unit has; \
             then systemctl restart lb (forwarding stays up). In a container its runtime grants them (--cap-add){}",
            names.join(" "),
            if names.contains(&SYS_ADMIN.0) { WITHOUT_SYS_ADMIN } else { "" }
        ),
    );
    Some(Finding { severity, ..finding })
}

const WITHOUT_SYS_ADMIN: &str = "; `via: rip` in the checks does without CAP_SYS_ADMIN";

/// What the agent says of itself is this finding.
pub fn repeats(finding: &Finding, warning: &str) -> bool {
    warning.contains(SYS_ADMIN.0) && finding.found.contains(SYS_ADMIN.0)
}

fn lacks(facts: &Facts) -> Vec<Lack> {
    let has = |capability: Capability| facts.effective >> capability.1 & 1 == 1;
    let of = |what: &str, services: &BTreeSet<String>| format!("{what} of {}", named(services));
    let uses = &facts.uses;
    let mut lacks = Vec::new();
    let mut need = |capability: Capability, needed_for: String, effect, severity| {
        if !has(capability) {
            lacks.push(Lack { capability, needed_for, effect, severity });
        }
    };
    // The greater one has both in it (`bpf_capable`, `perfmon_capable` in include/linux/capability.h).
    if !has(SYS_ADMIN) {
        let effect = "the program is not loaded anew, and maps are not opened: the agent's next start fails";
        need(BPF, "loading programs, opening maps".to_owned(), effect, Severity::Error);
        let effect = "the verifier refuses the program, or makes each packet slower by its mitigations";
        need(PERFMON, "the program without the verifier's mitigations".to_owned(), effect, Severity::Warning);
    }
    let effect = "programs are not attached, and VIPs, offloads and devices stay as they are";
    need(NET_ADMIN, "attaching programs, addresses, devices".to_owned(), effect, Severity::Error);
    if !uses.through_vip.is_empty() {
        let effect = "health checks through the VIP are not made, so a backend without the VIP on its lo is not noticed";
        need(SYS_ADMIN, of("health checks through the VIP", &uses.through_vip), effect, Severity::Warning);
    }
    let mut pings = if has(SYS_ADMIN) { uses.ping_through_vip.clone() } else { BTreeSet::new() };
    if !facts.pings_freely {
        pings.extend(uses.ping.iter().cloned());
    }
    if !pings.is_empty() {
        let effect = "these pings fail (`operation not permitted`), and their backends are down for it";
        need(NET_RAW, of("ping checks", &pings), effect, Severity::Error);
    }
    let effect = "they fail (`... cannot be run`), and their backends are down for it";
    programs(&mut need, of("exec checks", &uses.exec), &uses.exec, effect, Severity::Error);
    let effect = "they are not run, which is an event `notify-failed` each time";
    let needed_for = of("programs that are told", &uses.told);
    programs(&mut need, needed_for, &uses.told, effect, Severity::Warning);
    lacks
}

/// To become another user, and to end what that one has started.
fn programs(
    need: &mut impl FnMut(Capability, String, &'static str, Severity),
    needed_for: String,
    of: &BTreeSet<String>,
    effect: &'static str,
    severity: Severity,
) {
    if of.is_empty() {
        return;
    }
    need(SETUID, needed_for.clone(), effect, severity);
    need(SETGID, needed_for.clone(), effect, severity);
    let effect = "programs that hang are not killed at their timeout";
    need(KILL, needed_for, effect, Severity::Warning);
}

fn named(services: &BTreeSet<String>) -> String {
    let shown: Vec<&str> = services.iter().take(SHOWN).map(String::as_str).collect();
    let more = services.len().saturating_sub(SHOWN);
    if more == 0 { shown.join(" and ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// Names of services; there may be thousands.
const SHOWN: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const UNIT: &str = include_str!("../../../../packaging/systemd/lb.service");

    const ALL: u64 = 0x1ff_ffff_ffff;

    fn uses(more: &str, checks: &str) -> Uses {
        let text = format!(
            "interfaces: [eth0]\n{more}\nservices:\n- name: web\n  address: 192.0.2.80\n  port: 80\n  protocol: tcp\n  \
             scheduler: rr\n  checks: [{checks}]\n  backends: [{{address: 192.0.2.11}}]\n"
        );
        Uses::of(&parse("test", &text).expect("a configuration"))
    }

    fn without(lacking: &[Capability], uses: Uses) -> Facts {
        let effective = lacking.iter().fold(ALL, |bits, capability| bits & !(1 << capability.1));
        Facts { instance: "a".into(), pid: 7, effective, pings_freely: false, uses }
    }

    #[track_caller]
    fn finds(facts: &Facts, severity: Severity, words: &[&str]) {
        let found = judge(facts).expect("a finding");
        assert_eq!((found.id, found.severity), (Id::AgentLacksCapability, severity), "{found}");
        assert!(words.iter().all(|word| found.to_string().contains(word)), "{words:?}: {found}");
    }

    const EXEC: &str = "{exec: {command: [/bin/true]}}";
    const PROGRAMS: [Capability; 3] = [SETUID, SETGID, KILL];

    #[test]
    fn programs_of_another_user() {
        let exec = without(&PROGRAMS, uses("", EXEC));
        finds(
            &exec,
            Severity::Error,
            &[
                "/proc/7/status lacks CAP_SETUID (exec checks of web), CAP_SETGID",
                "cannot be run",
                "not killed",
                "systemctl edit lb",
                "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL",
            ],
        );
        finds(&without(&[KILL], uses("", EXEC)), Severity::Warning, &["CAP_KILL", "not killed"]);
        let told = "notify: {program: [/bin/true]}";
        finds(
            &without(&PROGRAMS, uses(told, "")),
            Severity::Warning,
            &["programs that are told of notify", "notify-failed"],
        );
        let both = without(&PROGRAMS, uses(told, EXEC));
        finds(&both, Severity::Error, &["CAP_SETUID (exec checks of web, programs that are told of notify)"]);
        // Root's, and none at all.
        let roots = "{exec: {command: [/bin/true], user: root}}";
        let told = "notify: {program: [/bin/true], script_user: root}";
        assert_eq!(judge(&without(&PROGRAMS, uses(told, roots))), None);
        assert_eq!(judge(&without(&PROGRAMS, uses("", "{tcp: }"))), None);
    }

    #[test]
    fn checks_through_the_vip() {
        let uses = |via| uses("", &format!("{{tcp: , via: {via}}}"));
        let found = &["CAP_SYS_ADMIN (health checks through the VIP of web)", "via: rip"];
        finds(&without(&[SYS_ADMIN], uses("both")), Severity::Warning, found);
        assert_eq!(judge(&without(&[SYS_ADMIN], uses("rip"))), None);
        let finding = judge(&without(&[SYS_ADMIN], uses("vip"))).expect("a finding");
        assert!(
            repeats(&finding, "a network namespace takes CAP_SYS_ADMIN") && !repeats(&finding, "generic")
        );
    }

    #[test]
    fn pings() {
        let ping = |via, pings_freely| Facts {
            pings_freely,
            ..without(&[NET_RAW], uses("", &format!("{{ping: , via: {via}}}")))
        };
        finds(&ping("rip", false), Severity::Error, &["CAP_NET_RAW (ping checks of web)"]);
        assert_eq!(judge(&ping("rip", true)), None);
        finds(&ping("both", true), Severity::Error, &["CAP_NET_RAW (ping checks of web)"]);
    }

    /// Whatever is configured.
    #[test]
    fn the_unit_that_we_ship_has_them_all() {
        let granted = UNIT.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
        let granted: Vec<&str> = granted.flat_map(str::split_whitespace).collect();
        let all = [KILL, SETGID, SETUID, NET_ADMIN, NET_RAW, SYS_ADMIN, PERFMON, BPF];
        let lacking: Vec<Capability> = all.into_iter().filter(|it| !granted.contains(&it.0)).collect();
        let uses = uses("notify: {program: [/bin/true]}", &format!("{EXEC}, {{ping: }}, {{tcp: }}"));
        assert_eq!(judge(&without(&lacking, uses)), None, "{granted:?}");
    }

    #[test]
    fn what_every_agent_needs() {
        let none = Uses::default();
        assert_eq!(judge(&without(&[], none.clone())), None);
        finds(&without(&[NET_ADMIN], none.clone()), Severity::Error, &["CAP_NET_ADMIN"]);
        // CAP_SYS_ADMIN has both in it.
        assert_eq!(judge(&without(&[BPF, PERFMON], none.clone())), None);
        finds(&without(&[BPF, SYS_ADMIN], none.clone()), Severity::Error, &["lacks CAP_BPF"]);
        finds(&without(&[PERFMON, SYS_ADMIN], none), Severity::Warning, &["lacks CAP_PERFMON"]);
    }
}
