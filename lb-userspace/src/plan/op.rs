//! The operations that a plan is made of.

use std::net::IpAddr;

use lb_common::{
    dest::Dest, endpoint::Endpoint, generation::Published, host::Host, link::Link, probe::Probes,
    service::Service, source::Rule,
};

use super::{EndpointKey, RangeKey, RuleKey};

/// One change of a configuration map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    SetLink {
        index: u16,
        link: Link,
    },
    DeleteLink {
        index: u16,
    },
    SetProbes {
        source: IpAddr,
        probes: Probes,
    },
    DeleteProbes {
        source: IpAddr,
    },
    AddTag(u64),
    DeleteTag(u64),
    AddMac(u64),
    DeleteMac(u64),
    SetHost {
        index: u32,
        host: Host,
    },
    DeleteHost {
        index: u32,
    },
    /// `fresh`: the id was free, so what its counters hold is somebody else's.
    SetDest {
        id: u32,
        dest: Dest,
        fresh: bool,
    },
    DeleteDest {
        id: u32,
    },
    /// Everything but the generation word.
    SetService {
        id: u16,
        service: Service,
        fresh: bool,
    },
    DeleteService {
        id: u16,
    },
    WriteRegion {
        offset: u32,
        words: Vec<u64>,
    },
    /// One aligned store.
    Publish {
        service: u16,
        published: Published,
    },
    /// Moves a rotation's position by a difference, so that what the kernel adds meanwhile is kept.
    Rotate {
        service: u16,
        by: u64,
    },
    SetEndpoint {
        key: EndpointKey,
        endpoint: Endpoint,
    },
    DeleteEndpoint {
        key: EndpointKey,
    },
    SetRange {
        key: RangeKey,
        endpoint: Endpoint,
    },
    DeleteRange {
        key: RangeKey,
    },
    SetRule {
        key: RuleKey,
        rule: Rule,
    },
    DeleteRule {
        key: RuleKey,
    },
    SetFilter {
        word: u32,
        bits: u64,
    },
}
