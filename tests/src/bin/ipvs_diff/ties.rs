//! Connections that end at about the time of their template. Whether it still controls them when its own time is over
//! depends on how late the kernel's timer wheel runs, so the harness sees to it that no script comes to that.

use std::{net::SocketAddr, ops::Range};

use lb::model::{Endpoint, Protocol};
use lb_common::{
    sctp::chunk,
    tcp::flag::{ACK, SYN},
};
use lb_tests::packet::{Packet, masked};

use crate::{
    lab,
    run::NEAR,
    script::{Config, Configured},
    view::{Flow, FlowKey, View},
};

/// A connection with so much left is about to end: more than looks three seconds apart. Below that it may have ended
/// with us.
const ENDING: Range<f64> = NEAR..6.5;
/// So long after it its template must not run out: the wheel lets timeouts of up to 17 minutes be 16.4 s late
/// (`kernel/time/timer.c`).
const LATE: f64 = 22.0;

/// Packets that part the ends of templates and of the last connections that they control.
pub fn breakers(view: &View, config: &Config) -> Vec<Packet> {
    let templates = view.flows.iter().filter(|(_, flow)| flow.template.is_some() && flow.seconds < LATE);
    templates.filter_map(|(key, template)| breaker(view, config, key, template)).collect()
}

fn breaker(view: &View, config: &Config, key: &FlowKey, template: &Flow) -> Option<Packet> {
    let service = config.service(key.to)?;
    let controlled = view.flows.iter().filter(|(other, flow)| {
        flow.template.is_none() && flow.backend == template.backend && is_of(other, key, service)
    });
    let (last, flow) = controlled.max_by(|(_, a), (_, b)| a.seconds.total_cmp(&b.seconds))?;
    if !ENDING.contains(&flow.seconds) {
        return None;
    }
    let is_there =
        service.backends.iter().any(|(number, _)| lab::backend(key.to.address, *number) == flow.backend);
    let (client, begins) = match is_there {
        // Its time begins anew; of an SCTP association in INIT1, which has little, another one.
        true => (last.client, false),
        // A removed backend's packets are dropped. A new connection ends the template, or begins its time anew.
        false => (SocketAddr::new(last.client.ip(), last.client.port() ^ 1), true),
    };
    let flags = match (last.to.protocol, begins) {
        (Protocol::Udp, _) => 0,
        (Protocol::Tcp, false) => ACK,
        (Protocol::Tcp, true) => SYN,
        (Protocol::Sctp, false) => chunk::COOKIE_ECHO,
        (Protocol::Sctp, true) => chunk::INIT,
    };
    Some(lab::packet_from(client, last.to, flags))
}

/// Whether a connection is of a template's client and service.
fn is_of(connection: &FlowKey, template: &FlowKey, service: &Configured) -> bool {
    let Some(persistence) = service.options.persistence else { return false };
    let to = Endpoint { port: service.endpoint.port, ..connection.to };
    let prefix = persistence.prefix(service.endpoint.address);
    to == template.to && masked(connection.client.ip(), prefix) == template.client.ip()
}
