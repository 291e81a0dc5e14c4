//! Where the answers to health checks through the VIP go.

use std::collections::BTreeMap;

use lb_common::{
    host::Route,
    probe::{Probes, flag},
};

use super::{Op, steps::Planner};

impl Planner<'_> {
    pub(super) fn probes(&mut self, links: &BTreeMap<String, u16>) {
        let mut wanted = BTreeMap::new();
        let spec = self.want.probes.as_ref();
        if let Some((spec, link)) = spec.and_then(|spec| Some((spec, links.get(&spec.link)?))) {
            for source in &spec.sources {
                let probes = Probes {
                    route: Route::new(spec.mac, *link).0,
                    first_port: *spec.ports.start(),
                    last_port: *spec.ports.end(),
                    flags: if source.is_ipv6() { flag::IPV6 } else { 0 },
                };
                wanted.insert(*source, probes);
            }
        }
        for (source, probes) in &wanted {
            if self.now.probes.get(source) != Some(probes) {
                self.ops.push(Op::SetProbes { source: *source, probes: *probes });
            }
        }
        let gone = self.now.probes.keys().filter(|source| !wanted.contains_key(source));
        self.late.extend(gone.map(|source| Op::DeleteProbes { source: *source }));
    }
}
