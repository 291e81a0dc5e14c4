//! The kernel's records of what the model names.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::{
    dest::{self, Dest},
    guard,
    host::{self, Host, Path, Route},
    link::{self, Link},
    service::{self, Service as Record},
    tcp::State,
    template::REARM,
    tick,
    vlan::Tags,
};

use super::{
    HostRoute, LinkSpec,
    snapshot::{address_bytes, address_from, address_words, name_bytes},
};
use crate::model::{
    Backend, ExpireNodest, FlowSizes, Guard, Protocol, Reject, Scope, Service, ServiceOptions, Timeouts,
};

pub fn link_record(spec: &LinkSpec) -> Link {
    let untagged = if spec.untagged { link::flag::UNTAGGED } else { 0 };
    let merges = if spec.merges { link::flag::MERGES } else { 0 };
    Link {
        mac: link::mac_word(spec.mac) | untagged | merges,
        ifindex: spec.ifindex,
        ipv4: spec.ipv4.map_or([0; 4], |address| address.octets()),
        ipv6: spec.ipv6.map_or([0; 16], |address| address.octets()),
        name: name_bytes(&spec.name),
    }
}

pub fn host_record(address: IpAddr, route: &HostRoute, links: &BTreeMap<String, u16>) -> Host {
    let (route, path) = match route {
        HostRoute::Local => (Route::new([0; 6], host::LOCAL), Path::new(Tags::NONE, 0)),
        HostRoute::Neighbour { mac, link, tags, mtu, .. } => match links.get(link) {
            Some(index) => (Route::new(*mac, *index), Path::new(*tags, *mtu)),
            None => (Route::UNRESOLVED, Path::new(Tags::NONE, 0)),
        },
        HostRoute::Unresolved => (Route::UNRESOLVED, Path::new(Tags::NONE, 0)),
    };
    let is_ipv6 = if address.is_ipv6() { host::flag::IPV6 } else { 0 };
    let address = address_bytes(address);
    Host { route: route.0, path: path.0, address, flags: host::flag::USED | is_ipv6, pad: 0 }
}

pub fn service_record(
    service: &Service,
    timeouts: &Timeouts,
    hz: u32,
    flows: FlowSizes,
    generation: u64,
) -> Record {
    let timeouts = timeouts.with(service.options.timeouts);
    let mut ticks = [0; State::COUNT];
    for (state, slot) in (0u8..).map(State).zip(ticks.iter_mut()) {
        *slot = tick::ticks(timeouts.of(state), hz.max(4));
    }
    Record {
        generation,
        flags: service::flag::USED | option_flags(service),
        persistence: service.options.persistence.map_or(0, |it| tick::ticks(it.timeout, hz)),
        timeouts: ticks,
        mask: service
            .options
            .persistence
            .map_or([0; 2], |it| mask_words(service.endpoint.address, it.prefix(service.endpoint.address))),
        rearm: tick::ticks(REARM, hz),
        guard: guard::rate(guarded(service, flows, &timeouts), tick::ticks(1, hz)),
        name: name_bytes(service.name.as_str()),
    }
}

/// New connections a second above which the service's guard is up; 0: it has none.
fn guarded(service: &Service, flows: FlowSizes, timeouts: &Timeouts) -> u32 {
    match service.options.guard {
        Guard::Off => 0,
        Guard::Rate(rate) => rate,
        Guard::Auto => {
            let mut endpoints = service.endpoints();
            let is_wide = endpoints.any(|endpoint| endpoint.address.is_ipv6() || endpoint.is_wide());
            Guard::auto(if is_wide { flows.wide } else { flows.ipv4 }, unproven(service, timeouts))
        }
    }
}

/// How long an entry lives that packets of a beginning have made, from whatever address they said, in seconds.
fn unproven(service: &Service, timeouts: &Timeouts) -> u32 {
    let lives = service.endpoints().map(|endpoint| match endpoint.protocol {
        Protocol::Tcp => timeouts.tcp_syn,
        // As long as any other: no datagram shows that somebody has heard the answer.
        Protocol::Udp => timeouts.udp,
        // One that comes again moves it from INIT1 to INIT.
        Protocol::Sctp => timeouts.sctp_init1.max(timeouts.sctp_init),
    });
    lives.max().unwrap_or(timeouts.tcp_syn)
}

fn option_flags(service: &Service) -> u32 {
    use service::flag::{
        APART, ASSURES, CLASSIC_LOAD, EXPIRE_QUIESCENT, ONE_PACKET, RESCHEDULE, RESCHEDULE_UDP, RESET_NODEST,
        SLOPPY_SCTP, SLOPPY_TCP,
    };
    let ServiceOptions {
        timeouts: _,
        persistence,
        guard: _,
        expire_nodest,
        expire_quiescent_template,
        reject,
        sloppy_tcp,
        sloppy_sctp,
        classic_load,
        ops,
    } = service.options;
    let given = [
        (RESCHEDULE, expire_nodest.reschedules(Protocol::Tcp)),
        (RESCHEDULE_UDP, expire_nodest.reschedules(Protocol::Udp)),
        (APART, persistence.is_some_and(|it| it.scope == Scope::Endpoint)),
        (RESET_NODEST, expire_nodest == ExpireNodest::Reset),
        (EXPIRE_QUIESCENT, expire_quiescent_template),
        (SLOPPY_TCP, sloppy_tcp),
        (SLOPPY_SCTP, sloppy_sctp),
        (CLASSIC_LOAD, classic_load),
        (ONE_PACKET, ops),
        (ASSURES, service.endpoints().all(|endpoint| endpoint.protocol != Protocol::Udp)),
    ];
    let reject = match reject {
        Reject::Icmp => service::Reject::ICMP,
        Reject::Reset => service::Reject::RESET,
        Reject::Drop => service::Reject::DROP,
        Reject::Pass => service::Reject::PASS,
    };
    reject.flags() | given.into_iter().filter(|(_, is)| *is).map(|(flag, _)| flag).sum::<u32>()
}

/// The mask of a prefix's length as the program loads it.
fn mask_words(family: IpAddr, prefix: u8) -> [u64; 2] {
    address_words(match family {
        IpAddr::V4(_) => {
            IpAddr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0).to_be_bytes())
        }
        IpAddr::V6(_) => {
            IpAddr::from(u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0).to_be_bytes())
        }
    })
}

/// `before`: the destination's record, if it has one already.
pub fn dest_record(backend: &Backend, service: u16, host: u32, before: Option<&Dest>) -> Dest {
    let weight = backend.effective_weight();
    let is_ipv6 = if backend.key.address.is_ipv6() { dest::flag::IPV6 } else { 0 };
    Dest {
        host,
        service,
        flags: dest::flag::USED | is_ipv6,
        upper: backend.upper_threshold,
        lower: backend.lower_threshold,
        address: address_bytes(backend.key.address),
        port: backend.key.port.to_be_bytes(),
        weight,
        last_weight: if weight == 0 { before.map_or(0, |dest| dest.last_weight) } else { weight },
        pad: 0,
    }
}

/// The address of a host record.
pub fn host_address(host: &Host) -> IpAddr {
    address_from(host.address, host.flags & host::flag::IPV6 != 0)
}

/// The address of a destination record.
pub fn dest_address(dest: &Dest) -> IpAddr {
    address_from(dest.address, dest.flags & dest::flag::IPV6 != 0)
}
