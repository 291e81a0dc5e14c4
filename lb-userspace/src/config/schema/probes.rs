//! The keys of `probes`.

use super::*;

pub static SECTION: Section = Section {
    path: "probes",
    doc: "Health checks through the VIP (`via` of `services[].checks[]`), all services together.",
    keys: &[&PORTS],
};
pub static PORTS: Key = key(
    "ports",
    "range of ports",
    Is("61000-64999"),
    "The director's ports that such checks come from. Nobody else on the director may have them: the agent adds \
     them to `net.ipv4.ip_local_reserved_ports`, and `lb detach` takes them out again. At least as many as a \
     service has backends.",
);
