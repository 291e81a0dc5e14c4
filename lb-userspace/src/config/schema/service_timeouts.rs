//! The keys of a service's own timeouts.

use super::*;
pub static SECTION: Section = Section {
    path: "services[].timeouts",
    doc: "Idle timeouts of one service's connections, 1 s to 31 d. What is left out is as in the global \
          `timeouts`.",
    keys: &[
        &TCP,
        &TCP_FIN,
        &TCP_SYN,
        &TCP_TIME_WAIT,
        &TCP_CLOSE,
        &UDP,
        &SCTP,
        &SCTP_INIT1,
        &SCTP_INIT,
        &SCTP_ECHOED,
        &SCTP_SHUTDOWN,
        &SCTP_CLOSED,
    ],
};
pub static KEYS: PerState<&Key> = PerState {
    tcp: &TCP,
    tcp_fin: &TCP_FIN,
    tcp_syn: &TCP_SYN,
    tcp_time_wait: &TCP_TIME_WAIT,
    tcp_close: &TCP_CLOSE,
    udp: &UDP,
    sctp: &SCTP,
    sctp_init1: &SCTP_INIT1,
    sctp_init: &SCTP_INIT,
    sctp_echoed: &SCTP_ECHOED,
    sctp_shutdown: &SCTP_SHUTDOWN,
    sctp_closed: &SCTP_CLOSED,
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
pub static SCTP: Key = own(&timeouts::SCTP, "`timeouts.sctp`");
pub static SCTP_INIT1: Key = own(&timeouts::SCTP_INIT1, "`timeouts.sctp_init1`");
pub static SCTP_INIT: Key = own(&timeouts::SCTP_INIT, "`timeouts.sctp_init`");
pub static SCTP_ECHOED: Key = own(&timeouts::SCTP_ECHOED, "`timeouts.sctp_echoed`");
pub static SCTP_SHUTDOWN: Key = own(&timeouts::SCTP_SHUTDOWN, "`timeouts.sctp_shutdown`");
pub static SCTP_CLOSED: Key = own(&timeouts::SCTP_CLOSED, "`timeouts.sctp_closed`");
