//! The program on an interface: attached through a pinned link, so that it outlives the agent, and
//! replaced atomically on that link.

use std::{fs, io};

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};

use super::{
    layout::Layout,
    object::{LoadError, Object, PassObject},
};
use crate::model::AttachMode;
use lb_common::meta::Meta;

/// Why an interface has no program of ours.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(
        "{interface} already has another XDP program ({other}): detach it (`ip link set dev {interface} xdp off`), \
         or start with --replace to take over"
    )]
    Occupied { interface: String, other: String },
    #[error(
        "{interface}: the driver refuses a native XDP program ({source}): set `mode: generic` or `mode: auto`"
    )]
    NoNative { interface: String, source: io::Error },
    #[error("{interface}: {message}")]
    Other { interface: String, message: String },
}

/// Where to attach.
#[derive(Clone, Debug)]
pub struct Target {
    pub interface: String,
    pub ifindex: u32,
    pub mode: AttachMode,
    /// Index in `LINKS`.
    pub link: u16,
    /// Only to transmit: the pass program.
    pub pass: bool,
}

/// What is attached now.
#[derive(Clone, Debug)]
pub struct Attached {
    pub interface: String,
    pub ifindex: u32,
    pub generic: bool,
    pub program_id: u32,
    /// Instructions that the verifier walked.
    pub verified_instructions: Option<u32>,
    /// An earlier agent's link was kept and its program replaced.
    pub adopted: bool,
    /// Native was asked for if possible and refused.
    pub fallback: Option<String>,
}

/// Loads the program for `target` and puts it on the interface. `was_generic`: the mode that a
/// pinned link of ours on it has, if there is one.
pub fn attach(
    layout: &Layout,
    meta: &Meta,
    target: &Target,
    was_generic: Option<bool>,
) -> Result<Attached, AttachError> {
    if target.pass {
        let mut object = PassObject::open()?;
        return put(layout, object.program()?, target, was_generic);
    }
    let mut object = Object::open(layout, meta, target.link)?;
    put(layout, object.director()?, target, was_generic)
}

fn put(
    layout: &Layout,
    program: &mut Xdp,
    target: &Target,
    was_generic: Option<bool>,
) -> Result<Attached, AttachError> {
    let (program_id, verified_instructions) = match program.info() {
        Ok(info) => (info.id(), info.verified_instruction_count()),
        Err(_) => (0, None),
    };
    let attached = |generic, adopted, fallback| Attached {
        interface: target.interface.clone(),
        ifindex: target.ifindex,
        generic,
        program_id,
        verified_instructions,
        adopted,
        fallback,
    };
    let pin = layout.link(&target.interface);
    if pin.exists() {
        let fits = match (target.mode, was_generic) {
            (_, None) => false,
            (AttachMode::Auto, Some(_)) => true,
            (mode, Some(generic)) => generic == (mode == AttachMode::Generic),
        };
        if let (true, Some(generic)) = (fits, was_generic)
            && swap(program, &pin).is_ok()
        {
            return Ok(attached(generic, true, None));
        }
        // Of an interface that is gone, or of another mode.
        fs::remove_file(&pin).map_err(|error| other(target, &error))?;
    }
    if target.mode == AttachMode::Generic {
        fresh(program, target, XdpMode::Skb, &pin)?;
        return Ok(attached(true, false, None));
    }
    match fresh(program, target, XdpMode::Driver, &pin) {
        Ok(()) => Ok(attached(false, false, None)),
        Err(AttachError::NoNative { source, .. }) if target.mode == AttachMode::Auto => {
            fresh(program, target, XdpMode::Skb, &pin)?;
            Ok(attached(true, false, Some(source.to_string())))
        }
        Err(error) => Err(error),
    }
}

/// Replaces the program on a pinned link, atomically.
fn swap(program: &mut Xdp, pin: &std::path::Path) -> anyhow::Result<()> {
    let link = XdpLink::try_from(FdLink::from(PinnedLink::from_pin(pin)?))?;
    let id = program.attach_to_link(link)?;
    // The pin holds the link; forgetting ours would detach nothing, but must not close it under aya.
    drop(program.take_link(id)?);
    Ok(())
}

fn fresh(
    program: &mut Xdp,
    target: &Target,
    mode: XdpMode,
    pin: &std::path::Path,
) -> Result<(), AttachError> {
    let id =
        program.attach_to_if_index(target.ifindex, mode).map_err(|error| refused(target, mode, error))?;
    let link = program.take_link(id).map_err(|error| other(target, &error))?;
    let link = FdLink::try_from(link).map_err(|error| other(target, &error))?;
    link.pin(pin).map_err(|error| other(target, &error))?;
    Ok(())
}

fn refused(target: &Target, mode: XdpMode, error: ProgramError) -> AttachError {
    let source = match &error {
        ProgramError::SyscallError(call) => &call.io_error,
        _ => return other(target, &error),
    };
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Occupied {
            interface: target.interface.clone(),
            other: "see `ip -details link show`".to_owned(),
        },
        Some(_) if mode == XdpMode::Driver => AttachError::NoNative {
            interface: target.interface.clone(),
            source: io::Error::from_raw_os_error(source.raw_os_error().unwrap_or(0)),
        },
        _ => other(target, &error),
    }
}

fn other(target: &Target, error: &dyn std::error::Error) -> AttachError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    AttachError::Other { interface: target.interface.clone(), message }
}
