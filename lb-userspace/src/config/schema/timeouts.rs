//! The keys of the global timeouts.

use super::*;
pub static SECTION: Section = Section {
    path: "timeouts",
    doc: "How long an idle connection is remembered in each state, 1 s to 31 d. The defaults are IPVS's; \
          `tcp`, `tcp_fin` and `udp` are the three figures of `ipvsadm --set`. `lb timeout set` changes \
          them while the agent runs. Connections get a new timeout with their next packet.",
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
pub static TCP: Key = key("tcp", "duration", Is("900"), "ESTABLISHED.");
pub static TCP_FIN: Key = key("tcp_fin", "duration", Is("120"), "FIN_WAIT.").also(&["tcpfin"]);
pub static TCP_SYN: Key = key("tcp_syn", "duration", Is("60"), "SYN_RECV.").also(&["tcpsyn"]);
pub static TCP_TIME_WAIT: Key =
    key("tcp_time_wait", "duration", Is("120"), "TIME_WAIT: a FIN came before the handshake was complete.")
        .also(&["tcptimewait"]);
pub static TCP_CLOSE: Key = key("tcp_close", "duration", Is("10"), "CLOSE.").also(&["tcpclose"]);
pub static UDP: Key = key("udp", "duration", Is("300"), "UDP.");
pub static SCTP: Key = key("sctp", "duration", Is("900"), "ESTABLISHED, of SCTP.");
pub static SCTP_INIT1: Key = key("sctp_init1", "duration", Is("4"), "INIT1: one INIT came.");
pub static SCTP_INIT: Key = key(
    "sctp_init",
    "duration",
    Is("61"),
    "INIT: an INIT came again. Also of associations that were placed by hash, until a later packet (NONE).",
);
pub static SCTP_ECHOED: Key =
    key("sctp_echoed", "duration", Is("61"), "C-ECHOED: an INIT ACK came, the backend had begun.");
pub static SCTP_SHUTDOWN: Key =
    key("sctp_shutdown", "duration", Is("61"), "S-RECEIVED: after the client's SHUTDOWN.");
pub static SCTP_CLOSED: Key = key("sctp_closed", "duration", Is("61"), "CLOSED.");
