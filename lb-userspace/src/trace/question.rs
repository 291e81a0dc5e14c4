//! Which packets are asked about. PURE.

use ipnet::IpNet;
use lb_common::{
    protocol, tick,
    trace::{Filter, MAX_SNAP},
    verdict::Verdict,
};
use serde::{Deserialize, Serialize};

use super::Place;
use crate::model::ServiceName;

/// Packets a second on each CPU, if it is not said.
const RATE: u32 = 1000;
/// The most that can be asked for.
const MAX_RATE: u32 = 100_000;
/// Bytes of an Ethernet header with two tags, and what they carry: noted of each, for what is no IP.
const ETHERNET: u32 = 22;

/// What a packet is, in tcpdump's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Tcp,
    Udp,
    Sctp,
    /// Of IPv6, too.
    Icmp,
}

impl std::str::FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            "icmp" => Ok(Self::Icmp),
            _ => Err(()),
        }
    }
}

/// Query of GET `/v1/trace`. All that is said must hold of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Kind>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Place>,
    /// Where it is addressed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Place>,
    /// The device that it comes in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// Verdicts, with commas: their names, or how they begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<String>,
    /// One in so many, at random.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<u32>,
    /// At most so many packets a second on each CPU [1000].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    /// Bytes of each frame that are sent along; none if it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snap: Option<u32>,
}

impl Question {
    /// For the program, but for its end. `service`: the id of the service that is named; `hz`: of the kernel's ticks.
    ///
    /// # Errors
    /// What is asked cannot be, in one paragraph.
    pub fn filter(&self, service: Option<u16>, hz: u32) -> Result<Filter, String> {
        let Self { protocol, from, to, interface: _, service: _, only, sample, rate, snap } = self;
        let sample = match sample.unwrap_or(1) {
            0 => return Err("of each 0 packets none can be taken: `sample` is 1 or more".to_owned()),
            sample => u32::MAX / sample,
        };
        let rate = rate.unwrap_or(RATE);
        if rate == 0 || rate > MAX_RATE {
            return Err(format!("`rate` is 1 to {MAX_RATE} packets a second on each CPU, not {rate}"));
        }
        let snap = snap.unwrap_or(0);
        if snap as usize > MAX_SNAP {
            return Err(format!("`snap` is at most {MAX_SNAP} bytes of a frame, not {snap}"));
        }
        let networks = [from, to].map(|place| place.and_then(|place| place.network));
        let families = networks.map(|network| network.map(|network| if is_ipv4(&network) { 4 } else { 6 }));
        if let [Some(source), Some(dest)] = families
            && source != dest
        {
            return Err("no packet goes from IPv4 to IPv6 or back".to_owned());
        }
        let port = |place: &Option<Place>| place.and_then(|place| place.port).unwrap_or(0).to_be();
        Ok(Filter {
            source: from.map(|place| place.words()).unwrap_or_default(),
            dest: to.map(|place| place.words()).unwrap_or_default(),
            verdicts: verdicts(only.as_deref())?,
            until: 0,
            on: 1,
            sample,
            per_tick: rate.div_ceil(tick::ticks(1, hz)).max(1),
            snap: snap.max(ETHERNET),
            service: service.unwrap_or(0).into(),
            source_port: port(from),
            dest_port: port(to),
            protocol: protocol.map_or(0, number),
            family: families.into_iter().flatten().next().unwrap_or(0),
            pad: 0,
        })
    }
}

fn is_ipv4(network: &IpNet) -> bool {
    matches!(network, IpNet::V4(_))
}

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::Tcp => protocol::TCP,
        Kind::Udp => protocol::UDP,
        Kind::Sctp => protocol::SCTP,
        Kind::Icmp => 1,
    }
}

/// Bits of the verdicts that are named.
fn verdicts(only: Option<&str>) -> Result<u64, String> {
    let Some(only) = only else { return Ok(u64::MAX) };
    let mut bits = 0;
    for word in only.split(',').map(str::trim) {
        let named = Verdict::ALL.iter().filter(|verdict| {
            let rest = verdict.name().strip_prefix(word);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        });
        let found = named.fold(0, |bits, verdict| bits | 1 << *verdict as u32);
        if found == 0 || word.is_empty() {
            return Err(format!(
                "there is no verdict {word}: forwarded, passed, answered, dropped, or one of those that `lb stats` \
                 lists, such as {}",
                Verdict::DroppedNoFlow.name()
            ));
        }
        bits |= found;
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_becomes_a_filter() {
        let question = Question {
            protocol: Some(Kind::Tcp),
            from: Some("10.1.2.0/24".parse().expect("a place")),
            to: Some("172.18.14.100:3306".parse().expect("a place")),
            only: Some("dropped,answered-ttl".to_owned()),
            sample: Some(100),
            rate: Some(1000),
            ..Question::default()
        };
        let filter = question.filter(Some(7), 250).expect("a filter");
        assert_eq!((filter.protocol, filter.family, filter.service), (6, 4, 7));
        assert_eq!((filter.source_port, filter.dest_port), (0, 3306u16.to_be()));
        assert_eq!(filter.sample, u32::MAX / 100);
        // 32 jiffies of 4 ms a tick: 8 ticks a second, rounded up.
        assert_eq!(filter.per_tick, 125);
        let bit = |verdict: Verdict| filter.verdicts >> verdict as u32 & 1;
        assert_eq!([Verdict::DroppedDenied, Verdict::AnsweredTtl].map(bit), [1, 1]);
        assert_eq!([Verdict::ForwardedTx, Verdict::AnsweredNoFlow].map(bit), [0, 0]);
        let all = Question::default().filter(None, 250).expect("a filter");
        assert_eq!((all.verdicts, all.sample, all.service, all.family), (u64::MAX, u32::MAX, 0, 0));
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        let with = |change: fn(&mut Question)| {
            let mut question = Question::default();
            change(&mut question);
            question.filter(None, 250).expect_err("refused")
        };
        assert!(with(|q| q.only = Some("lost".to_owned())).contains("no verdict lost"));
        assert!(with(|q| q.only = Some(String::new())).contains("no verdict"));
        assert!(with(|q| q.sample = Some(0)).contains("sample"));
        assert!(with(|q| q.rate = Some(0)).contains("rate"));
        assert!(with(|q| q.snap = Some(9000)).contains("1528"));
        let mixed = with(|q| {
            q.from = "10.0.0.1".parse().ok();
            q.to = "[2001:db8::1]".parse().ok();
        });
        assert!(mixed.contains("IPv4"), "{mixed}");
    }

    #[test]
    fn a_question_survives_the_query() {
        let question = Question {
            protocol: Some(Kind::Icmp),
            to: Some("[2001:db8::]/32:53".parse().expect("a place")),
            interface: Some("bond0.4".to_owned()),
            service: Some(ServiceName::new("tcp/172.18.14.100:80").expect("a name")),
            snap: Some(128),
            ..Question::default()
        };
        let query = serde_urlencoded::to_string(&question).expect("a query");
        assert_eq!(serde_urlencoded::from_str::<Question>(&query), Ok(question), "{query}");
    }
}
