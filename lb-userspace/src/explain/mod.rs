//! `lb explain`: what would happen to a packet now, step by step.
//!
//! The program itself says it: another build of the same source runs on the pinned maps, notes its steps, and leaves
//! nothing behind (`lb-ebpf/src/record.rs`). It works with an agent and without.

mod asked;
mod fragment;
mod message;
mod packet;
mod story;

use std::path::PathBuf;

use anyhow::Result;
use lb_common::{
    link::{Link, MAC_MASK, flag},
    vlan::Tags,
};
use serde::Serialize;

pub use self::{
    asked::Asked,
    fragment::{Fragment, fragment},
    message::{Message, MessageKind, Peer, peer},
    packet::{MAX_LENGTH, Packet, flag_names, sctp_chunk, tcp_flags},
    story::{Leaves, Line, Story, tell},
};
use crate::{
    dataplane::{Explainer, Layout, Maps},
    plan::{Snapshot, name_of},
};

/// Who sends what is asked about: a locally administered MAC address.
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub about: Asked,
    /// It comes in by this one; may be left out where there is only one.
    pub interface: Option<String>,
    pub instance: String,
    /// The mount point.
    pub bpffs: PathBuf,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub packet: String,
    pub interface: String,
    #[serde(flatten)]
    pub story: Story,
    /// The frame as it would leave, in hexadecimal digits; none if it is dropped or passed.
    pub frame: Option<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error(
        "{0} is not there: no director of this instance has forwarded since the last boot or `lb detach`"
    )]
    NoPins(PathBuf),
    #[error("no permission to read {0}, or to run the program: run this as root")]
    Denied(PathBuf),
    /// What is wrong with the question.
    #[error("{0}")]
    Question(String),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// Asks the program on the pinned maps.
///
/// # Errors
/// See [`ExplainError`].
pub fn explain(question: &Question) -> Result<Explanation, ExplainError> {
    let layout = Layout::new(&question.bpffs, &question.instance);
    let denied = |error| {
        if rustix::process::geteuid().is_root() {
            ExplainError::Failed(error)
        } else {
            ExplainError::Denied(layout.dir())
        }
    };
    match layout.meta().try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(ExplainError::NoPins(layout.dir())),
        Err(_) => return Err(ExplainError::Denied(layout.dir())),
    }
    let held = Maps::pinned(&layout).and_then(|maps| maps.without_rules()).map_err(denied)?;
    let (index, link) = ingress(&held, question.interface.as_deref())?;
    let tags = tags(&held, index, link);
    let to = link.mac & MAC_MASK;
    let [a, b, c, d, e, f, ..] = to.to_le_bytes();
    let frame = question.about.frame([a, b, c, d, e, f], SENDER, tags).map_err(ExplainError::Question)?;
    let mut explainer = Explainer::open(&layout, index).map_err(denied)?;
    let ran = explainer.run(&frame)?;
    /// `enum xdp_action`: aborted, dropped, passed; the others send the frame.
    const XDP_PASS: u32 = 2;
    let frame = (ran.action > XDP_PASS).then(|| ran.frame.iter().map(|byte| format!("{byte:02x}")).collect());
    let mut story = tell(&ran.steps, &held, explainer.hz);
    story.steps.splice(0..0, question.about.opening());
    Ok(Explanation { packet: question.about.words(), interface: name_of(&link.name), story, frame })
}

/// The interface that the packet comes in by.
fn ingress<'a>(held: &'a Snapshot, wanted: Option<&str>) -> Result<(u16, &'a Link), ExplainError> {
    let comes_in = |index: u16, link: &Link| {
        link.mac & flag::UNTAGGED != 0 || held.tags.iter().any(|key| (key >> 32) as u16 == index)
    };
    let all: Vec<(u16, &Link)> = held
        .links
        .iter()
        .filter(|(index, link)| comes_in(**index, link))
        .map(|(i, link)| (*i, link))
        .collect();
    let names = || all.iter().map(|(_, link)| name_of(&link.name)).collect::<Vec<_>>().join(", ");
    let wrong = match (wanted, all.as_slice()) {
        (None, [only]) => return Ok(*only),
        (None, []) => "clients' packets come in by no interface of the director".to_owned(),
        (None, _) => format!(
            "clients' packets come in by several interfaces: say which with --interface ({})",
            names()
        ),
        (Some(name), _) => match all.iter().find(|(_, link)| name_of(&link.name) == name) {
            Some(found) => return Ok(*found),
            None => format!("clients' packets do not come in by {name}, but by {}", names()),
        },
    };
    Err(ExplainError::Question(wrong))
}

/// None where frames come in without; else those of the first VLAN.
fn tags(held: &Snapshot, index: u16, link: &Link) -> Tags {
    if link.mac & flag::UNTAGGED != 0 {
        return Tags::NONE;
    }
    let key = held.tags.iter().find(|key| (**key >> 32) as u16 == index);
    key.map_or(Tags::NONE, |key| Tags(*key as u32))
}
