//! The keys of a service's own timeouts.

use super::*;
pub static SECTION: Section = Section {
    path: "services[].timeouts",
    doc: "Idle timeouts of one service's connections, 1 s to 31 d. What is left out is as in the global \
          `timeouts`.",
    keys: &[&TCP, &TCP_FIN, &TCP_SYN, &TCP_TIME_WAIT, &TCP_CLOSE, &UDP],
};
pub static KEYS: PerState<&Key> = PerState {
    tcp: &TCP,
    tcp_fin: &TCP_FIN,
    tcp_syn: &TCP_SYN,
    tcp_time_wait: &TCP_TIME_WAIT,
    tcp_close: &TCP_CLOSE,
    udp: &UDP,
};
/// The same key for one service.
const fn own(global: &Key, absent: &'static str) -> Key {
    Key { name: global.name, also: global.also, takes: global.takes, absent: Words(absent), doc: global.doc }
}
pub static TCP: Key = own(&timeouts::TCP, "`timeouts.tcp`");
pub static TCP_FIN: Key = own(&timeouts::TCP_FIN, "`timeouts.tcp_fin`");
pub static TCP_SYN: Key = own(&timeouts::TCP_SYN, "`timeouts.tcp_syn`");
pub static TCP_TIME_WAIT: Key = own(&timeouts::TCP_TIME_WAIT, "`timeouts.tcp_time_wait`");
pub static TCP_CLOSE: Key = own(&timeouts::TCP_CLOSE, "`timeouts.tcp_close`");
pub static UDP: Key = own(&timeouts::UDP, "`timeouts.udp`");
