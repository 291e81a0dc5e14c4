//! The director as a backend of its own: what the program passes up has to find a server.

use crate::doctor::{
    finding::{Finding, Id},
    held::Way,
};

/// A way of TCP or UDP with a port of its own.
#[derive(Clone, Debug)]
pub struct Facts {
    pub way: Way,
    /// Something listens on the VIP's port, at the VIP or at every address.
    pub listens: bool,
}

pub fn judge(facts: &Facts) -> Option<Finding> {
    let Way { service, vip, backend, .. } = &facts.way;
    let lister = if facts.way.takes_datagrams() { "ss -lun" } else { "ss -ltn" };
    (!facts.listens).then(|| {
        Finding::new(
            Id::PortClosed,
            format!("service {service}: {vip} at backend {}", backend.ip()),
            format!("the backend is this director, and nothing listens on {vip} here ({lister})"),
            "clients that are sent there are refused",
            format!(
                "start the server, at {} or every address; until then: lb backend drain {service} {backend}",
                vip.ip()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{doctor::held::Next, model::Protocol};

    #[test]
    fn somebody_has_to_listen() {
        let way = Way {
            service: "web".into(),
            vip: "10.0.0.100:80".parse().expect("an address"),
            protocol: Protocol::Tcp,
            backend: "10.0.0.1:80".parse().expect("an address"),
            next: Next::Local,
            out: false,
        };
        let id = |listens| judge(&Facts { way: way.clone(), listens }).map(|finding| finding.id);
        assert_eq!((id(true), id(false)), (None, Some(Id::PortClosed)));
    }
}
