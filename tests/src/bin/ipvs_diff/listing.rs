//! IPVS's own lists: /proc/net/ip_vs and /proc/net/ip_vs_conn (`ip_vs_info_seq_show`, `ip_vs_conn_seq_show`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Context, Result, bail};
use lb::model::{Endpoint, Protocol};
use lb_common::counters::Counters;

use crate::{
    rates::Counted,
    view::{Flow, FlowKey, Load, Template},
};

/// The services with their backends.
///
/// ```text
/// TCP  0A000001:0050 wrr
///   -> 0A000002:0050      Route   3      0          0
/// UDP  [fd00:0014:0000:0000:0000:0000:0000:0100]:0050 rr
/// ```
pub fn services(text: &str) -> Result<BTreeMap<Endpoint, BTreeMap<IpAddr, Load>>> {
    let mut services: BTreeMap<Endpoint, BTreeMap<IpAddr, Load>> = BTreeMap::new();
    let mut last = None;
    // Two lines of heading, and the heading of the backends.
    for line in text.lines().skip(3) {
        let context = || format!("not understood in ip_vs: {line:?}");
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["->", backend, "Route", weight, active, inactive] => {
                let load =
                    Load { weight: weight.parse()?, active: active.parse()?, inactive: inactive.parse()? };
                let service = last.and_then(|last| services.get_mut(&last)).with_context(context)?;
                service.insert(socket(backend).with_context(context)?.ip(), load);
            }
            [protocol @ ("TCP" | "UDP" | "SCTP"), address, ..] => {
                let address = socket(address).with_context(context)?;
                let endpoint = endpoint(protocol, address)?;
                services.insert(endpoint, BTreeMap::new());
                last = Some(endpoint);
            }
            _ => bail!(context()),
        }
    }
    Ok(services)
}

/// The connections and the templates.
///
/// ```text
/// Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
/// TCP 0A010203 9C40 AC120E64 0CEA AC120E0B 0CEA SYN_RECV         59
/// ```
pub fn connections(text: &str) -> Result<BTreeMap<FlowKey, Flow>> {
    let mut flows = BTreeMap::new();
    for line in text.lines().skip(1) {
        let words: Vec<_> = line.split_whitespace().collect();
        let [protocol, client, client_port, vip, port, backend, _, state, expires, ..] = words[..] else {
            bail!("not understood in ip_vs_conn: {line:?}");
        };
        let context = || format!("not understood in ip_vs_conn: {line:?}");
        if (client_port, port) == ("0000", "FFFF") {
            // A template that leads nobody any more (`ip_vs_check_template`).
            continue;
        }
        let part = |ip, port| Ok::<_, anyhow::Error>(SocketAddr::new(address(ip)?, number(port)?));
        let key = FlowKey {
            to: endpoint(protocol, part(vip, port).with_context(context)?)?,
            client: part(client, client_port).with_context(context)?,
        };
        // Cut off, so half a second more is nearest to the truth.
        let seconds = expires.parse::<f64>().with_context(context)? + 0.5;
        let backend = address(backend).with_context(context)?;
        let template = key.is_template().then_some(Template { armed_again: false });
        let flow = Flow { backend, state: state.to_owned(), seconds, template };
        // One that a SYN has ended stands beside the new one until its timer goes off.
        if let Some(first) = flows.insert(key, flow) {
            flows.entry(key).and_modify(|last| last.seconds = last.seconds.min(first.seconds));
        }
    }
    Ok(flows)
}

/// Connections, packets in and bytes in, as `ipvsadm -L -n --rate --exact` and `--stats --exact` print them.
///
/// ```text
/// TCP  172.18.14.100:80                    2       20        0     1000        0
///   -> 172.18.14.11:80                     1       10        0      500        0
/// ```
pub fn columns(text: &str) -> Result<BTreeMap<Counted, [u64; 3]>> {
    let mut found = BTreeMap::new();
    let mut service = None;
    // The version, and two lines of heading.
    for line in text.lines().skip(3) {
        let context = || format!("not understood of ipvsadm: {line:?}");
        let words: Vec<_> = line.split_whitespace().collect();
        let [first, socket, connections, packets, _, bytes, _] = words[..] else { bail!(context()) };
        let socket: SocketAddr = socket.parse().with_context(context)?;
        let counted = match (first, service) {
            ("->", Some(service)) => (service, Some(socket.ip())),
            _ => (*service.insert(endpoint(first, socket)?), None),
        };
        let number = |word: &str| word.parse::<u64>().with_context(context);
        found.insert(counted, [number(connections)?, number(packets)?, number(bytes)?]);
    }
    Ok(found)
}

fn endpoint(protocol: &str, address: SocketAddr) -> Result<Endpoint> {
    let protocol = match protocol {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        other => bail!("a protocol called {other:?}"),
    };
    Ok(Endpoint::new(address.ip(), address.port(), protocol))
}

/// `AC120E64:0CEA` or `[fd00:...:0100]:0CEA`.
fn socket(text: &str) -> Result<SocketAddr> {
    let (ip, port) = text.rsplit_once(':').context("no port")?;
    Ok(SocketAddr::new(address(ip.trim_matches(['[', ']']))?, number(port)?))
}

/// IPv4 as eight hex digits, IPv6 as RFC 4291 has it.
fn address(text: &str) -> Result<IpAddr> {
    if text.contains(':') {
        return Ok(IpAddr::V6(text.parse()?));
    }
    Ok(IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(text, 16)?)))
}

fn number(hex: &str) -> Result<u16> {
    Ok(u16::from_str_radix(hex, 16)?)
}

/// What each CPU counted, together, of `/proc/net/ip_vs_stats_percpu` (`ip_vs_stats_percpu_show`): the CPU,
/// connections, packets in and out, bytes in and out, hexadecimal. Other totals are those of the last two seconds' end.
pub fn counters(text: &str) -> Counters {
    let mut sum = Counters::default();
    let rows = text.lines().map(|line| line.split_whitespace().map(|word| u64::from_str_radix(word, 16)));
    // Captions, and a total that begins with `~`, are no numbers.
    for row in rows.filter_map(|row| row.collect::<Result<Vec<_>, _>>().ok()) {
        if let [_cpu, connections, packets, _, bytes, _] = row[..] {
            sum.connections += connections;
            sum.packets += packets;
            sum.bytes += bytes;
        }
    }
    sum
}
