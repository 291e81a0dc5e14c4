//! [`Config`] -> the file that says it: `lb save`.

mod checks;
mod notify;

use std::fmt::{Display, Write};

use super::{
    Config,
    director::{MODES, OFFLOAD_POLICIES},
    schema::{self, Key},
    service::DEFAULT_WEIGHT,
};
use crate::model::{
    AttachMode, Backend, Endpoint, ExpireNodest, FlowSizes, Guard, InterfaceSpec, Limits, OffloadPolicy,
    Persistence, Reject, Scope, Service, ServiceOptions, SourceLimit, SourceRule, Sources, Timeouts,
    check::{ProbePorts, ServiceHealth},
};

/// Writes a file that [`super::parse`] reads back to exactly `config`.
///
/// Values that are the default are left out, except those that say what a service is. `config` must be
/// valid: nothing is checked here.
pub fn render(config: &Config) -> String {
    use schema::file::*;
    let model = &config.model;
    let mut out = Out::default();
    out.line_unless(&INSTANCE, &config.instance, &Config::default().instance);
    out.interfaces(&model.interfaces);
    if let Some(interface) = &model.vips.add_to {
        out.section(&VIPS, |out| out.line(&schema::vips::ADD_TO, interface));
    }
    out.section(&FLOWS, |out| out.flows(&model.flows));
    out.section(&LIMITS, |out| out.limits(&model.limits));
    out.section(&TIMEOUTS, |out| out.timeouts(&model.timeouts));
    out.section(&PROBES, |out| {
        out.line_unless(&schema::probes::PORTS, &model.probes, &ProbePorts::default());
    });
    out.section(&CONTROL, |out| {
        if let Some(socket) = &config.control.socket {
            out.line(&schema::control::SOCKET, socket.display());
        }
        if let Some(group) = &config.control.group {
            out.line(&schema::control::GROUP, group);
        }
    });
    out.section(&NOTIFY, |out| out.notify(&config.notify));
    out.services(&model.services);
    out.text
}

#[derive(Default)]
struct Out {
    text: String,
    indent: usize,
    /// The next line begins an element of a list.
    dash: bool,
}

impl Out {
    fn raw(&mut self, text: &str) {
        let width = if self.dash { self.indent - 2 } else { self.indent };
        let dash = if std::mem::take(&mut self.dash) { "- " } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:width$}{dash}{text}", "");
    }

    fn line(&mut self, key: &Key, value: impl Display) {
        self.raw(&format!("{}: {}", key.name, quoted(&value.to_string())));
    }

    fn line_unless<T: Display + PartialEq>(&mut self, key: &Key, value: &T, default: &T) {
        if value != default {
            self.line(key, value);
        }
    }

    fn line_if<T: Display>(&mut self, key: &Key, value: &Option<T>) {
        if let Some(value) = value {
            self.line(key, value);
        }
    }

    /// `key:` with what `body` writes below it; nothing if that is nothing.
    fn section(&mut self, key: &Key, body: impl FnOnce(&mut Self)) {
        let before = self.text.len();
        self.raw(&format!("{}:", key.name));
        let empty = self.text.len();
        self.indent += 2;
        body(self);
        self.indent -= 2;
        if self.text.len() == empty {
            self.text.truncate(before);
        }
    }

    /// `key:` with what `body` writes below it, `key: {}` if that is nothing.
    fn whole_section(&mut self, key: &Key, body: impl FnOnce(&mut Self)) {
        let dash = self.dash;
        let before = self.text.len();
        self.section(key, body);
        if self.text.len() == before {
            self.dash = dash;
            self.raw(&format!("{}: {{}}", key.name));
        }
    }

    /// `key:` with one list element for each of `items`.
    fn list<T>(&mut self, key: &Key, items: &[T], mut element: impl FnMut(&mut Self, &T)) {
        if items.is_empty() {
            return self.raw(&format!("{}: []", key.name));
        }
        self.section(key, |out| {
            out.indent += 2;
            for item in items {
                out.dash = true;
                element(out, item);
            }
            out.indent -= 2;
        });
    }

    fn interfaces(&mut self, interfaces: &[InterfaceSpec]) {
        use schema::interface::*;
        self.list(&schema::file::INTERFACES, interfaces, |out, spec| {
            let (mode, offloads) = (AttachMode::default(), OffloadPolicy::default());
            if (spec.mode, spec.offloads) == (mode, offloads) {
                return out.raw(&quoted(&spec.name));
            }
            out.line(&NAME, &spec.name);
            out.line_unless(&MODE, &name_of(spec.mode, &MODES), &name_of(mode, &MODES));
            let policy = |p| name_of(p, &OFFLOAD_POLICIES);
            out.line_unless(&OFFLOADS, &policy(spec.offloads), &policy(offloads));
        });
    }

    fn flows(&mut self, flows: &FlowSizes) {
        use schema::flows::*;
        let default = FlowSizes::default();
        self.line_unless(&IPV4, &binary(flows.ipv4), &binary(default.ipv4));
        self.line_unless(&WIDE, &binary(flows.wide), &binary(default.wide));
    }

    fn limits(&mut self, limits: &Limits) {
        use schema::limits::*;
        let default = Limits::default();
        self.line_unless(&SERVICES, &limits.services, &default.services);
        self.line_unless(&DESTINATIONS, &limits.destinations, &default.destinations);
        self.line_unless(&ENDPOINTS, &limits.endpoints, &Limits::default_endpoints(limits.services));
    }

    fn timeouts(&mut self, timeouts: &Timeouts) {
        for (key, (seconds, default)) in schema::timeouts::KEYS.zip(timeouts.zip(Timeouts::default())).all() {
            self.line_unless(key, &seconds, &default);
        }
    }

    fn options(&mut self, options: &ServiceOptions) {
        use schema::service::*;
        let ServiceOptions {
            timeouts,
            persistence,
            expire_nodest,
            expire_quiescent_template,
            reject,
            guard,
            sloppy_tcp,
            sloppy_sctp,
            classic_load,
            ops,
        } = options;
        if let Some(Persistence { timeout, granularity, scope }) = persistence {
            self.line(&PERSISTENCE, timeout);
            if let Some(granularity) = granularity {
                self.line(&GRANULARITY, granularity);
            }
            self.line_unless(&SCOPE, scope, &Scope::default());
        }
        self.line_unless(&EXPIRE_NODEST, expire_nodest, &ExpireNodest::default());
        self.line_unless(&EXPIRE_QUIESCENT, expire_quiescent_template, &false);
        self.line_unless(&REJECT, reject, &Reject::default());
        self.line_unless(&GUARD, guard, &Guard::default());
        self.line_unless(&SLOPPY_TCP, sloppy_tcp, &false);
        self.line_unless(&SLOPPY_SCTP, sloppy_sctp, &false);
        self.line_unless(&CLASSIC_LOAD, classic_load, &false);
        self.line_unless(&OPS, ops, &false);
        self.section(&TIMEOUTS, |out| {
            for (key, own) in schema::service_timeouts::KEYS.zip(*timeouts).all() {
                if let Some(own) = own {
                    out.line(key, own);
                }
            }
        });
    }

    fn services(&mut self, services: &[Service]) {
        use schema::service::*;
        self.list(&schema::file::SERVICES, services, |out, service| {
            out.line_unless(&NAME, &service.name, &service.endpoint.default_name());
            out.endpoint(&service.endpoint);
            if !service.group.is_empty() {
                let group: Vec<&Endpoint> = service.group.iter().collect();
                out.list(&ENDPOINTS, &group, |out, endpoint| out.endpoint(endpoint));
            }
            out.line(&SCHEDULER, service.scheduler.name());
            let flags = service.scheduler.flag_names();
            if !flags.is_empty() {
                out.raw(&format!("{}: [{}]", FLAGS.name, flags.join(", ")));
            }
            out.options(&service.options);
            out.sources(&service.sources);
            out.health(&service.health);
            out.list(&BACKENDS, &service.backends, Self::backend);
        });
    }

    fn sources(&mut self, sources: &Sources) {
        use schema::source::*;
        let rules: Vec<_> = sources.iter().collect();
        if rules.is_empty() {
            return;
        }
        self.list(&schema::service::SOURCES, &rules, |out, (network, rule)| {
            out.line(&PREFIX, network);
            match rule {
                SourceRule::Allow | SourceRule::Deny => out.line(&ACTION, rule),
                SourceRule::Limit(SourceLimit { rate, burst, per }) => {
                    out.line(&LIMIT, rate);
                    out.line_if(&BURST, burst);
                    out.line_if(&PER, per);
                }
            }
        });
    }

    /// The keys have the same names in a service and in its list.
    fn endpoint(&mut self, endpoint: &Endpoint) {
        use schema::endpoint::*;
        self.line(&ADDRESS, endpoint.address);
        match endpoint.last_port {
            Some(last) => self.line(&PORT, format!("{}-{last}", endpoint.port)),
            None => self.line(&PORT, endpoint.port),
        }
        self.line(&PROTOCOL, endpoint.protocol);
    }

    fn backend(&mut self, backend: &Backend) {
        use schema::backend::*;
        self.line(&ADDRESS, backend.key.address);
        self.line_unless(&WEIGHT, &backend.weight, &DEFAULT_WEIGHT);
        self.line_unless(&UPPER_THRESHOLD, &backend.upper_threshold, &0);
        self.line_unless(&LOWER_THRESHOLD, &backend.lower_threshold, &0);
        self.line_unless(&DRAINED, &backend.drained, &false);
        self.line_unless(&BACKUP, &backend.health.backup, &false);
        if let Some(checks) = &backend.health.checks {
            self.checks(&CHECKS, checks);
        }
    }

    fn health(&mut self, health: &ServiceHealth) {
        use schema::service::*;
        let ServiceHealth {
            checks,
            minimum_healthy,
            quorum,
            hysteresis,
            inhibit_on_failure,
            slow_start,
            hooks,
            flap_hold,
            passive,
            passive_hold,
        } = health;
        let default = ServiceHealth::default();
        if !checks.is_empty() {
            self.checks(&CHECKS, checks);
        }
        self.line_unless(&MINIMUM_HEALTHY, minimum_healthy, &default.minimum_healthy);
        self.line_unless(&QUORUM, quorum, &default.quorum);
        self.line_unless(&HYSTERESIS, hysteresis, &default.hysteresis);
        self.line_unless(&INHIBIT_ON_FAILURE, inhibit_on_failure, &default.inhibit_on_failure);
        self.line_if(&SLOW_START, slow_start);
        self.hooks(hooks);
        self.line_if(&FLAP_HOLD, flap_hold);
        self.line_unless(&PASSIVE, passive, &default.passive);
        self.line_unless(&PASSIVE_HOLD, passive_hold, &default.passive_hold);
    }
}

fn name_of<T: PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, v)| *v == value).map_or("", |(name, _)| name)
}

/// `1M`, `256k`, or the plain number.
fn binary(n: u32) -> String {
    match n {
        n if n > 0 && n % (1 << 20) == 0 => format!("{}M", n >> 20),
        n if n > 0 && n % (1 << 10) == 0 => format!("{}k", n >> 10),
        n => n.to_string(),
    }
}

/// `text` as a YAML scalar: plain where no reader could take it for anything else, else double-quoted
/// (<https://yaml.org/spec/1.2.2/> section 7.3.1).
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./-:".contains(c);
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/');
    let is_null = text.eq_ignore_ascii_case("null");
    if begins_well && !text.ends_with(':') && !is_null && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || !c.is_ascii() => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
