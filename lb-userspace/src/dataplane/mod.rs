//! The kernel half as the agent sees it: programs, pins, maps. IO.

mod apply;
mod attach;
mod clock;
mod flows;
mod layout;
mod mapped;
mod maps;
mod object;
mod pins;
mod snapshot;
mod stats;

pub use attach::{AttachError, Attached, Target, attach};
pub use clock::Clock;
pub use flows::{FlowEntry, Sweep};
pub use layout::Layout;
pub use maps::Maps;
pub use object::{LoadError, Object};
pub use pins::{Adopted, PinError, Pins, detach, grace_period};
