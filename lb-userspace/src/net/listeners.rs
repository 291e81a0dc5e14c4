//! Sockets of this network namespace that wait for somebody: TCP's that listen, UDP's that are not connected.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// TCP_LISTEN, and TCP_CLOSE, which a UDP socket is in that is not connected (`include/net/tcp_states.h`).
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// What cannot be read is not there.
pub fn tcp() -> Vec<SocketAddr> {
    sockets(["/proc/net/tcp", "/proc/net/tcp6"], LISTEN)
}

/// The same of UDP.
pub fn udp() -> Vec<SocketAddr> {
    sockets(["/proc/net/udp", "/proc/net/udp6"], UNCONNECTED)
}

/// One that listens on `::` takes IPv4 too, unless it has said otherwise, which is not shown.
pub fn takes(listener: SocketAddr, vip: SocketAddr) -> bool {
    let any = listener.ip().is_unspecified() && (listener.is_ipv6() || vip.is_ipv4());
    listener.port() == vip.port() && (any || listener.ip() == vip.ip())
}

fn sockets(tables: [&str; 2], state: &str) -> Vec<SocketAddr> {
    let tables = tables.map(|path| fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines.filter_map(|line| socket(line, state)).collect()
}

/// `   0: 0100007F:0CEA 00000000:0000 0A ...`: the address in words of the host's order (proc_pid_net(5)).
fn socket(line: &str, wanted: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, at, _, state, ..] = words.as_slice() else { return None };
    if *state != wanted {
        return None;
    }
    let (address, port) = at.rsplit_once(':')?;
    let mut octets = Vec::new();
    for n in (0..address.len()).step_by(8) {
        octets.extend(u32::from_str_radix(address.get(n..n + 8)?, 16).ok()?.to_ne_bytes());
    }
    let ip = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let listener = |line: &str| socket(line, LISTEN);
        let line = |address, state| format!("   0: {address} 00000000:0000 {state} 00000000:00000000");
        assert_eq!(listener(&line("0100007F:0CEA", "0A")), Some(at("127.0.0.1:3306")));
        assert_eq!(listener(&line("0100007F:0CEA", "01")), None);
        assert_eq!(socket(&line("0100007F:0035", "07"), UNCONNECTED), Some(at("127.0.0.1:53")));
        let any = listener(&line("00000000000000000000000000000000:1B58", "0A"));
        assert_eq!(any, Some(at("[::]:7000")));
        let six = listener(&line("180000FD000014000000000000010000:1B58", "0A"));
        assert_eq!(six, Some(at("[fd00:18:14::100]:7000")));
        assert!(takes(at("[::]:80"), at("10.0.0.100:80")) && takes(at("0.0.0.0:80"), at("10.0.0.100:80")));
        assert!(
            !takes(at("0.0.0.0:80"), at("[fd00::1]:80")) && !takes(at("10.0.0.1:80"), at("10.0.0.100:80"))
        );
    }
}
