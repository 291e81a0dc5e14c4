//! What a script is made of, and what is configured after each of its steps.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use lb::model::{Endpoint, Persistence, Protocol, Timeouts};
use lb_common::{
    sctp::chunk,
    tcp::flag::{ACK, FIN, RST, SYN},
};

use crate::{
    lab::{self, Client},
    schedulers::Kind,
};

/// What happens to both directors.
#[derive(Clone, Debug)]
pub struct Script {
    /// Generated from it; the same seed and scheduler give the same script.
    pub seed: u64,
    pub kind: &'static Kind,
    pub steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// At the beginning of a script.
    Set(Sysctl),
    AddService(Endpoint, &'static Kind, Options),
    EditService(Endpoint, &'static Kind, Options),
    DeleteService(Endpoint),
    AddBackend(Endpoint, u8, Settings),
    EditBackend(Endpoint, u8, Settings),
    RemoveBackend(Endpoint, u8),
    SetTimeouts {
        tcp: u32,
        tcp_fin: u32,
        udp: u32,
    },
    Packet {
        to: Endpoint,
        client: Client,
        /// TCP flags, or the type of an SCTP packet's first chunk.
        flags: u8,
    },
    Wait {
        seconds: u32,
    },
}

/// What IPVS has a sysctl for, 0 by default; with us an option of every service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sysctl {
    SloppyTcp,
    SloppySctp,
    ExpireNodest,
    ExpireQuiescent,
}

impl Sysctl {
    pub const ALL: [Self; 4] = [Self::SloppyTcp, Self::SloppySctp, Self::ExpireNodest, Self::ExpireQuiescent];

    /// Below net/ipv4/vs.
    pub fn name(self) -> &'static str {
        match self {
            Self::SloppyTcp => "sloppy_tcp",
            Self::SloppySctp => "sloppy_sctp",
            Self::ExpireNodest => "expire_nodest_conn",
            Self::ExpireQuiescent => "expire_quiescent_template",
        }
    }
}

/// What can be set of a service besides its scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub persistence: Option<Persistence>,
    pub ops: bool,
}

/// What can be set of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub weight: u16,
    pub upper: u32,
    pub lower: u32,
}

/// What is configured.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub sysctls: Vec<Sysctl>,
    pub services: Vec<Configured>,
    pub timeouts: Timeouts,
}

#[derive(Clone, Debug)]
pub struct Configured {
    pub endpoint: Endpoint,
    pub kind: &'static Kind,
    pub options: Options,
    /// In the order in which the scheduler walks: a new one goes to the head.
    pub backends: Vec<(u8, Settings)>,
}

impl Config {
    pub fn service(&self, endpoint: Endpoint) -> Option<&Configured> {
        self.services.iter().find(|service| service.endpoint == endpoint)
    }

    pub fn has(&self, sysctl: Sysctl) -> bool {
        self.sysctls.contains(&sysctl)
    }

    /// The service that a packet is for: one of every port comes last.
    pub fn serving(&self, to: Endpoint) -> Option<&Configured> {
        self.service(to).or_else(|| self.service(Endpoint { port: 0, ..to }))
    }

    /// Whether IPVS is about to forget the connections to this backend (`expire_nodest_conn_work_handler`).
    pub fn is_ended(&self, to: Endpoint, backend: IpAddr) -> bool {
        let mut of = self
            .services
            .iter()
            .filter(|service| service.endpoint == to || service.endpoint == Endpoint { port: 0, ..to });
        self.has(Sysctl::ExpireNodest)
            && !of.any(|service| {
                service.backends.iter().any(|(number, _)| lab::backend(to.address, *number) == backend)
            })
    }

    /// Makes a step's change. False if there is nothing that it could change, as when an earlier step was left out.
    pub fn apply(&mut self, step: Step) -> bool {
        match step {
            Step::Set(sysctl) => {
                self.sysctls.push(sysctl);
                true
            }
            Step::AddService(endpoint, kind, options) if self.service(endpoint).is_none() => {
                self.services.push(Configured { endpoint, kind, options, backends: Vec::new() });
                true
            }
            Step::EditService(endpoint, kind, options) => self.edit(endpoint, |service| {
                let before = (service.kind, service.options);
                (service.kind, service.options) = (kind, options);
                before != (kind, options)
            }),
            Step::DeleteService(endpoint) => {
                let before = self.services.len();
                self.services.retain(|service| service.endpoint != endpoint);
                self.services.len() != before
            }
            Step::AddBackend(endpoint, number, settings) => self.edit(endpoint, |service| {
                let known = service.backends.iter().any(|(known, _)| *known == number);
                if !known {
                    service.backends.insert(0, (number, settings));
                }
                !known
            }),
            Step::EditBackend(endpoint, number, settings) => self.edit(endpoint, |service| {
                let backend = service.backends.iter_mut().find(|(known, _)| *known == number);
                backend.is_some_and(|backend| std::mem::replace(&mut backend.1, settings) != settings)
            }),
            Step::RemoveBackend(endpoint, number) => self.edit(endpoint, |service| {
                let before = service.backends.len();
                service.backends.retain(|(known, _)| *known != number);
                service.backends.len() != before
            }),
            Step::SetTimeouts { tcp, tcp_fin, udp } => {
                self.timeouts = Timeouts { tcp, tcp_fin, udp, ..self.timeouts };
                true
            }
            Step::AddService(..) => false,
            Step::Packet { .. } | Step::Wait { .. } => true,
        }
    }

    fn edit(&mut self, endpoint: Endpoint, change: impl FnOnce(&mut Configured) -> bool) -> bool {
        self.services.iter_mut().find(|service| service.endpoint == endpoint).is_some_and(change)
    }
}

impl Step {
    /// The arguments of `ipvsadm` that make this change.
    pub fn ipvsadm(self) -> Option<String> {
        Some(match self {
            Self::AddService(to, kind, set) => {
                format!("-A {} {}{}", service(to), kind.ipvsadm, set.ipvsadm(to))
            }
            Self::EditService(to, kind, set) => {
                format!("-E {} {}{}", service(to), kind.ipvsadm, set.ipvsadm(to))
            }
            Self::DeleteService(to) => format!("-D {}", service(to)),
            Self::AddBackend(to, number, set) => format!("-a {} -g {set}", destination(to, number)),
            Self::EditBackend(to, number, set) => format!("-e {} -g {set}", destination(to, number)),
            Self::RemoveBackend(to, number) => format!("-d {}", destination(to, number)),
            Self::SetTimeouts { tcp, tcp_fin, udp } => format!("--set {tcp} {tcp_fin} {udp}"),
            Self::Set(_) | Self::Packet { .. } | Self::Wait { .. } => return None,
        })
    }
}

impl Options {
    fn ipvsadm(self, to: Endpoint) -> String {
        let persistence = self.persistence.map(|Persistence { timeout, granularity, scope: _ }| {
            let mask = match (granularity, to.address) {
                (None, _) => String::new(),
                (Some(length), IpAddr::V4(_)) => {
                    format!(" -M {}", Ipv4Addr::from(u32::MAX << (32 - u32::from(length))))
                }
                (Some(length), IpAddr::V6(_)) => format!(" -M {length}"),
            };
            format!(" -p {timeout}{mask}")
        });
        let ops = if self.ops { " -o" } else { "" };
        persistence.unwrap_or_default() + ops
    }
}

fn service(to: Endpoint) -> String {
    let option = match to.protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    };
    format!("{option} {}", SocketAddr::new(to.address, to.port))
}

fn destination(to: Endpoint, number: u8) -> String {
    format!("{} -r {}", service(to), SocketAddr::new(lab::backend(to.address, number), to.port))
}

fn chunk_name(first: u8) -> String {
    let name = match first {
        chunk::DATA => "DATA",
        chunk::INIT => "INIT",
        chunk::INIT_ACK => "INIT ACK",
        chunk::ABORT => "ABORT",
        chunk::SHUTDOWN => "SHUTDOWN",
        chunk::SHUTDOWN_ACK => "SHUTDOWN ACK",
        chunk::ERROR => "ERROR",
        chunk::COOKIE_ECHO => "COOKIE ECHO",
        chunk::COOKIE_ACK => "COOKIE ACK",
        chunk::SHUTDOWN_COMPLETE => "SHUTDOWN COMPLETE",
        lab::COOKIE_AND_ABORT => "COOKIE ECHO+ABORT",
        other => return format!("chunk {other}"),
    };
    name.to_owned()
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-w {} -x {} -y {}", self.weight, self.upper, self.lower)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packet { to, client, flags } => {
                let names = [(SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (ACK, "ACK")];
                let set: Vec<_> =
                    names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
                let what = match to.protocol {
                    Protocol::Udp => "datagram".to_owned(),
                    Protocol::Sctp => chunk_name(*flags),
                    Protocol::Tcp if set.is_empty() => "no flags".to_owned(),
                    Protocol::Tcp => set.join("+"),
                };
                write!(f, "{what} from {} to {to}", SocketAddr::new(client.address(to.address), client.port))
            }
            Self::Set(sysctl) => write!(f, "sysctl net.ipv4.vs.{}=1", sysctl.name()),
            Self::Wait { seconds } => write!(f, "wait {seconds} s"),
            _ => write!(f, "ipvsadm {}", self.ipvsadm().unwrap_or_default()),
        }
    }
}
