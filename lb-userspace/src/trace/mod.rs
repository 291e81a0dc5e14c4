//! `lb trace`: what becomes of the packets that come in now, and why.
//!
//! The program itself says it: another build of the same source, on the same maps, takes the place of the one that
//! forwards as long as somebody asks (`lb-ebpf/src/trace.rs`), and reports into a ring buffer what it did.

mod place;
mod question;
mod report;
mod savefile;
mod tracer;

pub use self::{
    place::Place,
    question::{Kind, Question},
    report::{Counts, Packet, Report},
    savefile::SaveFile,
    tracer::{Ended, Reports, Tracer},
};
