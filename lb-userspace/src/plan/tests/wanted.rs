//! Random desired states: models of few names and addresses, so that what goes comes back.

use std::{collections::BTreeMap, net::IpAddr};

use lb_common::vlan::Tags;
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    model::{Service, Timeouts, arbitrary::models},
    plan::{ByHealth, Desired, HostRoute, LinkSpec, Weights},
};

pub fn desired() -> impl Strategy<Value = Desired> {
    (models(), links(), vec(routes(), 16), vec(health(), 16)).prop_map(|(model, links, routes, health)| {
        let services: Vec<Service> = model.services.into_iter().map(light).collect();
        let addresses = services.iter().flat_map(|s| &s.backends).map(|b| b.key.address);
        // A backend's route depends on its address, so that it changes on its own.
        let hosts: BTreeMap<IpAddr, HostRoute> = addresses
            .filter_map(|address| {
                let last = match address {
                    IpAddr::V4(v4) => v4.octets()[3],
                    IpAddr::V6(v6) => v6.octets()[15],
                };
                Some((address, routes[usize::from(last) % routes.len()].clone()?))
            })
            .collect();
        let mut weights = Weights::default();
        let all = services.iter().flat_map(|service| service.backends.iter().map(move |b| (service, b)));
        for ((service, backend), weight) in all.zip(health) {
            let of = weights.0.entry(service.name.clone()).or_default();
            of.extend(weight.map(|weight| (backend.key, weight)));
        }
        let timeouts = Timeouts { ..model.timeouts };
        Desired { services, timeouts, hz: 250, flows: model.flows, links, hosts, weights, probes: None }
    })
}

/// Seldom another weight, or none at all.
fn health() -> impl Strategy<Value = Option<ByHealth>> {
    prop_oneof![4 => Just(None), 1 => Just(Some(ByHealth::Out)), 1 => (0..7u16).prop_map(|it| Some(ByHealth::Weight(it)))]
}

/// Seldom a long rotation: they take long.
fn light(mut service: Service) -> Service {
    for backend in &mut service.backends {
        backend.weight = if backend.weight % 64 == 63 { backend.weight } else { backend.weight % 7 };
    }
    service
}

fn links() -> impl Strategy<Value = Vec<LinkSpec>> {
    let link = |name: &'static str| {
        (any::<bool>(), any::<bool>(), vec(1..4u16, 0..3), 1..4u8, 1..3u32).prop_map(
            move |(there, untagged, tags, mac, ifindex)| {
                there.then(|| LinkSpec {
                    name: name.to_owned(),
                    ifindex,
                    mac: [2, 0, 0, 0, 0, mac],
                    ipv4: untagged.then_some([192, 0, 2, mac].into()),
                    ipv6: None,
                    merges: !untagged,
                    untagged,
                    tags: tags.iter().map(|tag| Tags::new(*tag, 0)).collect(),
                    macs: tags.iter().map(|tag| [2, 1, 0, 0, 0, *tag as u8]).collect(),
                })
            },
        )
    };
    (link("eth0"), link("eth1"), link("bond0"))
        .prop_map(|(a, b, c)| [a, b, c].into_iter().flatten().collect())
}

fn routes() -> impl Strategy<Value = Option<HostRoute>> {
    let neighbour = (1..5u8, select(vec!["eth0", "eth1", "bond0", "gone0"])).prop_map(|(mac, link)| {
        HostRoute::Neighbour {
            mac: [2, 2, 0, 0, 0, mac],
            answers: true,
            link: link.to_owned(),
            tags: Tags::NONE,
            mtu: 1500,
        }
    });
    prop_oneof![
        4 => neighbour.prop_map(Some),
        1 => Just(Some(HostRoute::Local)),
        1 => Just(Some(HostRoute::Unresolved)),
        1 => Just(None),
    ]
}
