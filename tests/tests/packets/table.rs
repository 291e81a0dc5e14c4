//! A case, and what to say when it fails.

use std::fmt::Write;

use lb_common::verdict::Verdict;
use lb_tests::{
    packet::{Packet, difference},
    xdp::{Director, Ran},
};

/// A frame in; the verdict and the frame out.
pub struct Case {
    name: String,
    given: Vec<u8>,
    expect: Expect,
}

/// What should become of a frame.
pub struct Expect {
    verdict: Verdict,
    frame: Frame,
}

enum Frame {
    Unchanged,
    Exactly(Vec<u8>),
    /// It is dropped: nobody sees it.
    Whatever,
}

pub fn case(name: impl Into<String>, given: &Packet, expect: Expect) -> Case {
    Case { name: name.into(), given: given.bytes(), expect }
}

/// A case whose frame is no packet that the builder makes.
pub fn raw(name: impl Into<String>, given: Vec<u8>, expect: Expect) -> Case {
    Case { name: name.into(), given, expect }
}

/// Sent out of the interface it came in by.
pub fn tx(packet: &Packet) -> Expect {
    Expect { verdict: Verdict::ForwardedTx, frame: Frame::Exactly(packet.bytes()) }
}

/// Sent out of the other interface.
pub fn redirected(packet: &Packet) -> Expect {
    Expect { verdict: Verdict::ForwardedRedirect, frame: Frame::Exactly(packet.bytes()) }
}

/// Sent to a health check.
pub fn to_check(packet: &Packet) -> Expect {
    Expect { verdict: Verdict::ForwardedProbe, frame: Frame::Exactly(packet.bytes()) }
}

/// Sent to a health check, as this frame.
pub fn frame_to_check(frame: Vec<u8>) -> Expect {
    Expect { verdict: Verdict::ForwardedProbe, frame: Frame::Exactly(frame) }
}

/// Answered with this frame.
pub fn answered(verdict: Verdict, frame: Vec<u8>) -> Expect {
    Expect { verdict, frame: Frame::Exactly(frame) }
}

/// Sent out of the interface it came in by, as this frame.
pub fn tx_frame(frame: Vec<u8>) -> Expect {
    Expect { verdict: Verdict::ForwardedTx, frame: Frame::Exactly(frame) }
}

/// Given to the local stack as it came.
pub fn passed(verdict: Verdict) -> Expect {
    Expect { verdict, frame: Frame::Unchanged }
}

pub fn dropped(verdict: Verdict) -> Expect {
    Expect { verdict, frame: Frame::Whatever }
}

/// Runs all cases in order on one director and fails with a report of every one that went wrong.
pub fn check(director: &mut Director, cases: impl IntoIterator<Item = Case>) {
    let (mut report, mut count) = (String::new(), 0);
    for case in cases {
        count += 1;
        let ran = director.run(&case.given).unwrap_or_else(|error| panic!("{}: {error:#}", case.name));
        let wrong = case.wrong(&ran);
        if !wrong.is_empty() {
            let _ = writeln!(report, "case {:?}:\n{wrong}", case.name);
        }
    }
    assert!(count > 0, "a table without cases");
    assert!(report.is_empty(), "\n{report}");
}

impl Case {
    /// Empty if it went as expected.
    fn wrong(&self, ran: &Ran) -> String {
        let mut wrong = String::new();
        let Expect { verdict, frame } = &self.expect;
        if ran.verdict().ok() != Some(*verdict) {
            let _ = writeln!(wrong, "  expected the verdict {}, counted: {:?}", verdict.name(), ran.moved);
        }
        let action = action(*verdict);
        if ran.action != action {
            let _ =
                writeln!(wrong, "  expected {}, got {}", ACTIONS[action as usize], action_name(ran.action));
        }
        let difference = match frame {
            Frame::Unchanged => difference(&self.given, &ran.frame),
            Frame::Exactly(expected) => difference(expected, &ran.frame),
            Frame::Whatever => String::new(),
        };
        if !difference.is_empty() {
            let _ = writeln!(wrong, "  counted: {:?}\n{difference}", ran.moved);
        }
        wrong
    }
}

/// Names of `enum xdp_action`, in its order.
const ACTIONS: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];

fn action_name(action: u32) -> &'static str {
    ACTIONS.get(action as usize).copied().unwrap_or("no XDP action")
}

/// What the name of the verdict says is done with the frame.
fn action(verdict: Verdict) -> u32 {
    match verdict.name().split('-').next() {
        Some("dropped") => 1,
        Some("passed") => 2,
        Some("answered") => 3,
        _ if matches!(verdict, Verdict::ForwardedRedirect | Verdict::ForwardedProbe) => 4,
        _ => 3,
    }
}
