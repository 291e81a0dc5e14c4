//! The director's sockets that take what comes for a service: TCP's that listen, UDP's.

use crate::{
    doctor::{
        held::{Held, Next, Way},
        judge::local::Facts,
    },
    net::listeners,
};

pub fn gather(held: &Held) -> Vec<Facts> {
    let wanted = |way: &&Way| way.next == Next::Local && (way.has_listener() || way.takes_datagrams());
    let mut local = held.ways.iter().filter(wanted).peekable();
    if local.peek().is_none() {
        return Vec::new();
    }
    let (tcp, udp) = (listeners::tcp(), listeners::udp());
    local
        .map(|way| {
            let sockets = if way.takes_datagrams() { &udp } else { &tcp };
            Facts { way: way.clone(), listens: sockets.iter().any(|at| listeners::takes(*at, way.vip)) }
        })
        .collect()
}
