//! How much kernel memory a configuration takes, before anything is loaded.

use std::fmt;

use crate::{model::Model, plan::arena_words};

/// Bytes in the BPF maps for one of each; they come from `lb-common`'s layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntrySizes {
    /// Table bytes for one rated IPv4 flow (a 64-byte bucket of four slots at 25 % load is 64).
    pub flow_ipv4: u64,
    /// Table bytes for one rated wide flow.
    pub flow_wide: u64,
    /// Everything a service has once: record, generation.
    pub service: u64,
    /// An endpoint's part of their table; port ranges come on top, once they are there.
    pub endpoint: u64,
    /// A service's counters, on each CPU.
    pub service_counters: u64,
    /// Everything a destination has once: record, counts, its part of a generation.
    pub destination: u64,
    /// A destination's counters, on each CPU.
    pub destination_counters: u64,
}

/// One line of the estimate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryItem {
    /// For example `IPv4 flow table, 1048576 flows`.
    pub what: String,
    pub bytes: u64,
}

/// `  64.0 MiB  IPv4 flow table, 1048576 flows`
impl fmt::Display for MemoryItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (divisor, unit) = match self.bytes {
            b if b >= 1 << 30 => ((1u64 << 30) as f64, "GiB"),
            b if b >= 1 << 20 => ((1u64 << 20) as f64, "MiB"),
            _ => (1024.0, "KiB"),
        };
        write!(f, "{:>7.1} {unit}  {}", self.bytes as f64 / divisor, self.what)
    }
}

/// What the maps of `model` take on a machine with `possible_cpus` CPUs
/// (`/sys/devices/system/cpu/possible`: per-CPU maps have a copy for each). The last item is the sum.
///
/// Tables have a power of two of buckets, so their sizes are rounded up to that.
pub fn memory(model: &Model, possible_cpus: usize, sizes: &EntrySizes) -> Vec<MemoryItem> {
    let cpus = possible_cpus as u64;
    let rounded = |n: u32| u64::from(n).next_power_of_two();
    let (services, destinations) = (u64::from(model.limits.services), u64::from(model.limits.destinations));
    let item = |what: String, n: u64, bytes: u64| MemoryItem { what, bytes: n.saturating_mul(bytes) };
    // Values of per-CPU maps are padded to 8 bytes (kernel/bpf/arraymap.c array_map_alloc).
    let per_cpu = |bytes: u64| bytes.next_multiple_of(8).saturating_mul(cpus);
    let mut items = vec![
        item(
            format!("IPv4 flow table, {} flows", model.flows.ipv4),
            rounded(model.flows.ipv4),
            sizes.flow_ipv4,
        ),
        item(
            format!("wide flow table, {} flows", model.flows.wide),
            rounded(model.flows.wide),
            sizes.flow_wide,
        ),
        item(format!("services, at most {services}"), services, sizes.service),
        item(
            format!("endpoints, at most {}", model.limits.endpoints),
            rounded(model.limits.endpoints),
            sizes.endpoint,
        ),
        item(format!("counters of services, {cpus} CPUs"), services, per_cpu(sizes.service_counters)),
        item(format!("destinations, at most {destinations}"), destinations, sizes.destination),
        item(
            format!("counters of destinations, {cpus} CPUs"),
            destinations,
            per_cpu(sizes.destination_counters),
        ),
    ];
    let words = u64::from(arena_words(model.limits, &model.services));
    items.push(item("generations of the schedulers".to_owned(), words, 8));
    let sum = items.iter().fold(0u64, |sum, item| sum.saturating_add(item.bytes));
    items.push(MemoryItem { what: "in all".to_owned(), bytes: sum });
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FlowSizes, Limits};

    #[test]
    fn counts_every_map_and_every_cpu() {
        let model = Model {
            flows: FlowSizes { ipv4: 1 << 20, wide: 1000 },
            limits: Limits { services: 10, destinations: 100, endpoints: 30 },
            ..Model::default()
        };
        let sizes = EntrySizes {
            flow_ipv4: 64,
            flow_wide: 256,
            service: 100,
            endpoint: 70,
            service_counters: 24,
            destination: 32,
            destination_counters: 20,
        };
        let items = memory(&model, 4, &sizes);
        let bytes: Vec<u64> = items.iter().map(|i| i.bytes).collect();
        let arena = 8 << 21;
        let parts = [64 << 20, 256 << 10, 1000, 32 * 70, 10 * 24 * 4, 3200, 100 * 24 * 4, arena];
        assert_eq!(bytes[..8], parts);
        assert_eq!(bytes[8], parts.iter().sum::<u64>());
        assert_eq!(items[0].to_string(), "   64.0 MiB  IPv4 flow table, 1048576 flows");
    }
}
