//! The top of the file and everything that is not a service.

use super::{
    Config, Control,
    error::{Pos, Problems},
    fields::{Fields, scalar},
    notify::notify,
    schema,
    service::{ports, services},
    tree::{Node, Value},
    values::{count, fault, group, instance, interface, socket, timeout, word},
};
use crate::model::{
    AttachMode, FlowSizes, InterfaceSpec, Limits, Model, OffloadPolicy, PartialTimeouts, PerState, Timeouts,
    VipPlacement, check::ProbePorts,
};

/// 128 Mi flows of the smallest kind take 8 GiB.
const MAX_FLOWS: u32 = 128 << 20;

/// Reads the whole file. What cannot be read has its default, and there is a problem for it.
pub(super) fn file(root: &Node, problems: &mut Problems) -> Config {
    use schema::file::*;
    let mut config = Config::default();
    if root.value == Value::Null {
        problems.add(root.pos, "the file is empty", "write at least `interfaces: [eth0]`");
        return config;
    }
    let Some(fields) = Fields::of(root, &SECTION, problems) else { return config };
    if let Some(name) = fields.value(&INSTANCE, problems, instance) {
        config.instance = name;
    }
    config.control = section(&fields, &CONTROL, problems, control);
    config.notify = section(&fields, &NOTIFY, problems, notify);
    let limits = section(&fields, &LIMITS, problems, limits);
    config.model = Model {
        interfaces: interfaces(&fields, problems),
        vips: section(&fields, &VIPS, problems, vips),
        flows: section(&fields, &FLOWS, problems, flows),
        limits,
        timeouts: section(&fields, &TIMEOUTS, problems, timeouts),
        probes: section(&fields, &PROBES, problems, probes),
        services: services(fields.list(&SERVICES, problems), &limits, problems),
    };
    config
}

fn section<T: Default>(
    fields: &Fields<'_>,
    key: &'static schema::Key,
    problems: &mut Problems,
    read: impl FnOnce(&Node, &mut Problems) -> Option<T>,
) -> T {
    fields.node(key).and_then(|node| read(node, problems)).unwrap_or_default()
}

fn control(node: &Node, problems: &mut Problems) -> Option<Control> {
    use schema::control::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    Some(Control {
        socket: fields.value(&SOCKET, problems, socket),
        group: fields.value(&GROUP, problems, group),
    })
}

fn vips(node: &Node, problems: &mut Problems) -> Option<VipPlacement> {
    use schema::vips::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    Some(VipPlacement { add_to: fields.value(&ADD_TO, problems, interface) })
}

fn flows(node: &Node, problems: &mut Problems) -> Option<FlowSizes> {
    use schema::flows::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let default = FlowSizes::default();
    let mut read = |key, default| fields.value(key, problems, |t| count(t, 1..=MAX_FLOWS)).unwrap_or(default);
    Some(FlowSizes { ipv4: read(&IPV4, default.ipv4), wide: read(&WIDE, default.wide) })
}

fn limits(node: &Node, problems: &mut Problems) -> Option<Limits> {
    use schema::limits::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let default = Limits::default();
    let services = fields.value(&SERVICES, problems, |t| count(t, 1..=65534));
    let destinations = fields.value(&DESTINATIONS, problems, |t| count(t, 1..=262_144));
    let endpoints = fields.value(&ENDPOINTS, problems, |t| count(t, 1..=65534));
    let services = services.unwrap_or(default.services);
    Some(Limits {
        services,
        destinations: destinations.unwrap_or(default.destinations),
        endpoints: endpoints.unwrap_or(Limits::default_endpoints(services)),
    })
}

fn timeouts(node: &Node, problems: &mut Problems) -> Option<Timeouts> {
    use schema::timeouts::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    Some(Timeouts::default().with(partial_timeouts(&fields, KEYS, problems)))
}

/// The timeouts that are given under `keys`.
pub(super) fn partial_timeouts(
    fields: &Fields<'_>,
    keys: PerState<&'static schema::Key>,
    problems: &mut Problems,
) -> PartialTimeouts {
    keys.map(|key| fields.value(key, problems, timeout))
}

fn probes(node: &Node, problems: &mut Problems) -> Option<ProbePorts> {
    use schema::probes::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    fields.value(&PORTS, problems, |text| {
        let (first, last) = ports(text)?;
        match last {
            Some(last) if first >= 1024 => Ok(ProbePorts { first, last }),
            _ => fault(
                format!("{text} is no range of ports of its own"),
                "write one above 1023 that nobody else has, for example 61000-64999",
            ),
        }
    })
}

fn interfaces(fields: &Fields<'_>, problems: &mut Problems) -> Vec<InterfaceSpec> {
    let key = &schema::file::INTERFACES;
    let Some(node) = fields.required_node(key, problems) else { return Vec::new() };
    let items = fields.list(key, problems);
    if matches!(&node.value, Value::Null | Value::List(_)) && items.is_empty() {
        problems.add(node.pos, "`interfaces` is empty", "name at least one interface, for example `- eth0`");
    }
    let mut specs: Vec<(InterfaceSpec, Pos)> = Vec::new();
    for item in items {
        let Some((spec, pos)) = interface_spec(item, problems) else { continue };
        match specs.iter().find(|(s, _)| s.name == spec.name) {
            Some((_, first)) => {
                let wrong = format!("interface {} is given twice, first on line {}", spec.name, first.line);
                problems.add(pos, wrong, "keep one of them");
            }
            None => specs.push((spec, pos)),
        }
    }
    specs.into_iter().map(|(spec, _)| spec).collect()
}

/// The interface, and where its name stands.
fn interface_spec(node: &Node, problems: &mut Problems) -> Option<(InterfaceSpec, Pos)> {
    use schema::interface::*;
    if matches!(node.value, Value::Scalar(_)) {
        let name = scalar(node, &NAME, problems, interface)?;
        let (mode, offloads) = (AttachMode::default(), OffloadPolicy::default());
        return Some((InterfaceSpec { name, mode, offloads }, node.pos));
    }
    let fields = Fields::of(node, &SECTION, problems)?;
    let mode = fields.value(&MODE, problems, |t| word(t, "mode", &MODES));
    let offloads = fields.value(&OFFLOADS, problems, |t| word(t, "offload policy", &OFFLOAD_POLICIES));
    let name = fields.required(&NAME, problems, interface)?;
    let pos = fields.node(&NAME).map_or(fields.pos, |n| n.pos);
    Some((
        InterfaceSpec { name, mode: mode.unwrap_or_default(), offloads: offloads.unwrap_or_default() },
        pos,
    ))
}

pub(super) const MODES: [(&str, AttachMode); 3] =
    [("auto", AttachMode::Auto), ("native", AttachMode::Native), ("generic", AttachMode::Generic)];
pub(super) const OFFLOAD_POLICIES: [(&str, OffloadPolicy); 2] =
    [("check", OffloadPolicy::Check), ("set", OffloadPolicy::Set)];
