//! Why a change of the model is refused, and what would be right.

use std::net::IpAddr;

use lb_common::source::MAX_RULES;

use super::{BackendKey, Endpoint, Protocol, ServiceName, rules::family, timeouts::MAX_TIMEOUT};
use crate::api::types::ApiError;

/// Why a change is refused. [`EditError::status`] is its HTTP status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("service {name} already exists")]
    ServiceExists { name: ServiceName },
    #[error("endpoint {endpoint} {} service {name}", taken(*endpoint, *other))]
    EndpointTaken { endpoint: Endpoint, other: Endpoint, name: ServiceName },
    #[error("endpoint {endpoint} cannot be: {why}")]
    BadEndpoint { endpoint: Endpoint, why: &'static str },
    #[error("endpoint {endpoint} is {}, but {first}, the first of service {service}, is {}",
            family(endpoint.address), family(first.address))]
    EndpointFamily { service: ServiceName, endpoint: Endpoint, first: Endpoint },
    #[error("endpoint {endpoint} is the first of service {service}, by which its backends are named")]
    FirstEndpoint { service: ServiceName, endpoint: Endpoint },
    #[error("service {service} has no endpoint {endpoint}")]
    NoSuchEndpoint { service: ServiceName, endpoint: Endpoint },
    #[error("service {service}: {wrong}")]
    BadSource { service: ServiceName, wrong: String, right: String },
    #[error("{all} rules in the `sources` of all services are more than {MAX_RULES}")]
    TooManySources { all: usize },
    #[error("service {service} already has a backend {key}")]
    BackendExists { service: ServiceName, key: BackendKey },
    #[error("there is no service {name}")]
    NoSuchService { name: ServiceName, nearest: Option<ServiceName> },
    #[error("service {service} has no backend {key}")]
    NoSuchBackend { service: ServiceName, key: BackendKey, nearest: Option<BackendKey> },
    #[error("backend {backend} is {}, but the VIP {vip} of service {service} is {}",
            family(*backend), family(*vip))]
    WrongFamily { service: ServiceName, vip: IpAddr, backend: IpAddr },
    #[error("backend {key} has port {}, but service {service} has port {port}", key.port)]
    PortMismatch { service: ServiceName, key: BackendKey, port: u16 },
    #[error("lower threshold {lower} is above upper threshold {upper}")]
    BadThresholds { upper: u32, lower: u32 },
    #[error("{option} is for {its} services, and service {service} is none")]
    WrongProtocol { service: ServiceName, option: &'static str, its: Protocol },
    #[error("a {check} check speaks TCP, and service {service} has only SCTP endpoints")]
    CheckProtocol { service: ServiceName, check: &'static str },
    #[error("timeout {name} cannot be {seconds} s: it is 1 to {MAX_TIMEOUT} s (31 days)")]
    BadTimeout { name: &'static str, seconds: u32 },
    #[error("a granularity of {length} bits is longer than the VIP's addresses, {longest} bits")]
    BadGranularity { length: u8, longest: u8 },
    #[error("{address} cannot be a VIP: it is {why}")]
    BadVip { address: IpAddr, why: &'static str },
    #[error("{address} cannot be a backend's address: it is {why}")]
    BadBackend { address: IpAddr, why: &'static str },
    #[error("there are already {limit} {what}, as many as `limits.{what}` allows")]
    LimitReached { what: &'static str, limit: u32 },
}

impl EditError {
    /// HTTP status: 404 no such thing, 409 already there or in the way, 400 bad input.
    pub fn status(&self) -> u16 {
        match self {
            Self::NoSuchService { .. } | Self::NoSuchBackend { .. } | Self::NoSuchEndpoint { .. } => 404,
            Self::ServiceExists { .. }
            | Self::EndpointTaken { .. }
            | Self::BackendExists { .. }
            | Self::TooManySources { .. }
            | Self::LimitReached { .. } => 409,
            Self::BadEndpoint { .. }
            | Self::EndpointFamily { .. }
            | Self::FirstEndpoint { .. }
            | Self::WrongFamily { .. }
            | Self::PortMismatch { .. }
            | Self::BadThresholds { .. }
            | Self::BadTimeout { .. }
            | Self::WrongProtocol { .. }
            | Self::CheckProtocol { .. }
            | Self::BadGranularity { .. }
            | Self::BadSource { .. }
            | Self::BadVip { .. }
            | Self::BadBackend { .. } => 400,
        }
    }

    /// What would be right.
    pub fn hint(&self) -> String {
        match self {
            Self::ServiceExists { name } => {
                format!("Change it with `lb service edit {name}`, or choose another name.")
            }
            Self::EndpointTaken { endpoint, other, name } if endpoint == other => {
                format!("Add backends to {name}, or delete it first with `lb service del {name}`.")
            }
            Self::EndpointTaken { .. } => "Give ranges that have no port in common.".to_owned(),
            Self::BadEndpoint { .. } => {
                "Write PROTOCOL/VIP:PORT, or PROTOCOL/VIP:FIRST-LAST for a range of ports.".to_owned()
            }
            Self::EndpointFamily { endpoint, .. } => format!(
                "Make a service of its own for {0}, with the backends' {0} addresses: Direct Routing leaves packets \
                 as they are.",
                family(endpoint.address)
            ),
            Self::FirstEndpoint { service, .. } => {
                format!("Put another one first in the configuration file, or delete {service} whole.")
            }
            Self::NoSuchEndpoint { service, .. } => {
                format!("`lb service show {service}` lists those it has.")
            }
            Self::BackendExists { service, key } => {
                format!("Change it with `lb backend edit {service} {key}`.")
            }
            Self::NoSuchService { nearest: Some(nearest), .. } => format!("Did you mean {nearest}?"),
            Self::NoSuchService { nearest: None, .. } => "`lb service list` shows what there is.".to_owned(),
            Self::NoSuchBackend { nearest: Some(nearest), .. } => format!("Did you mean {nearest}?"),
            Self::NoSuchBackend { service, nearest: None, .. } => {
                format!("`lb backend list {service}` shows what there is.")
            }
            Self::WrongFamily { vip, .. } => {
                format!("Give the backend's {} address.", family(*vip))
            }
            Self::PortMismatch { port, .. } => {
                format!("Give port {port}: Direct Routing cannot translate ports.")
            }
            Self::BadThresholds { .. } => {
                "Give a lower threshold that is at most the upper one; 0 means three quarters of it."
                    .to_owned()
            }
            Self::BadSource { right, .. } => format!("{right}."),
            Self::TooManySources { .. } => "Put prefixes together, or let a firewall deny them.".to_owned(),
            Self::WrongProtocol { option, .. } => format!("Leave {option} out."),
            Self::CheckProtocol { .. } => {
                "Give the check a `port` of its own in the file, or keep a TCP endpoint.".to_owned()
            }
            Self::BadTimeout { .. } => "Leave out what shall stay as it is.".to_owned(),
            Self::BadGranularity { .. } => "Give fewer bits, or none for each client by itself.".to_owned(),
            Self::BadVip { .. } | Self::BadBackend { .. } => "Give a unicast address.".to_owned(),
            Self::LimitReached { what, .. } => {
                format!(
                    "Delete some, or raise `limits.{what}` in the configuration file; maps get their size when they \
                     are made, so that takes `lb detach` and a new start, which ends all connections."
                )
            }
        }
    }
}

impl From<EditError> for ApiError {
    fn from(error: EditError) -> Self {
        Self { message: error.to_string(), hint: Some(error.hint()) }
    }
}

/// How an endpoint is in the way of another.
fn taken(endpoint: Endpoint, other: Endpoint) -> String {
    if endpoint == other { "is already served by".to_owned() } else { format!("overlaps {other} of") }
}
