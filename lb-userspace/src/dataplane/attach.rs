//! The program on an interface: attached through a pinned link, so that it outlives the agent, and
//! replaced atomically on that link.

use std::io;

use aya::programs::{
    ProgramError, Xdp, XdpMode,
    links::{FdLink, LinkError, PinnedLink},
    xdp::{XdpError, XdpLink},
};

use super::{
    layout::Layout,
    link::take_off,
    object::{LoadError, Object, PassObject, chain},
    trace::Traces,
};
use crate::model::AttachMode;
use lb_common::meta::Meta;

/// Why an interface has no program of ours.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(
        "{interface} already has another XDP program (`ip -details link show dev {interface}` shows it): detach it, or \
         start with --replace to take over"
    )]
    Occupied { interface: String },
    #[error(
        "{interface}: the driver refuses a native XDP program ({error}): set `mode: generic` or `mode: auto`"
    )]
    NoNative { interface: String, error: io::Error },
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

/// Which build of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    #[default]
    Ordinary,
    /// Reports what it does (`lb trace`).
    Tracing,
}

/// A program in the kernel, made for an interface and not on it yet.
pub struct Loaded {
    target: Target,
    object: Kind,
    traces: Option<Traces>,
}

/// The same before the kernel has verified it, on maps that are open.
pub struct Opened {
    target: Target,
    object: Kind,
    build: Build,
}

enum Kind {
    Director(Object),
    Pass(PassObject),
}

impl Opened {
    /// # Errors
    /// The maps cannot be opened.
    pub fn open(layout: &Layout, meta: &Meta, target: Target, build: Build) -> anyhow::Result<Self> {
        let object = match (target.pass, build) {
            (true, _) => Kind::Pass(PassObject::open()?),
            (false, Build::Ordinary) => Kind::Director(Object::open(layout, meta, target.link)?),
            (false, Build::Tracing) => Kind::Director(Object::open_tracing(layout, meta, target.link)?),
        };
        Ok(Self { target, object, build })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Has the kernel verify it, which takes half a second or more and no pin: it can be done beside other things.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn verify(self) -> anyhow::Result<Loaded> {
        let Self { target, mut object, build } = self;
        let mut traces = None;
        match &mut object {
            Kind::Director(object) => {
                object.director()?;
                if build == Build::Tracing {
                    traces = Some(object.traces()?);
                }
            }
            Kind::Pass(object) => drop(object.program()?),
        }
        Ok(Loaded { target, object, traces })
    }
}

impl Loaded {
    /// Loads the program for `target`, in a build of it unless it only transmits.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn load(layout: &Layout, meta: &Meta, target: Target, build: Build) -> anyhow::Result<Self> {
        Opened::open(layout, meta, target, build)?.verify()
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Where it reports, if it is the build that does.
    pub fn traces(&mut self) -> Option<Traces> {
        self.traces.take()
    }

    /// Puts it on the interface. `was_generic`: the mode that a pinned link of ours on it has, if there
    /// is one.
    pub fn attach(mut self, layout: &Layout, was_generic: Option<bool>) -> Result<Attached, AttachError> {
        let program = match &mut self.object {
            Kind::Director(object) => object.director()?,
            Kind::Pass(object) => object.program()?,
        };
        put(layout, program, &self.target, was_generic)
    }
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
        if let (true, Some(generic)) = (fits, was_generic) {
            match swap(program, &pin) {
                Ok(()) => return Ok(attached(generic, true, None)),
                Err(error) if is_dead(&error) => {
                    tracing::warn!(pin = %pin.display(), "the link takes no other program ({error:#}): making a new one");
                }
                Err(error) => return Err(not_replaced(target, &pin, &error)),
            }
        }
        // Of an interface that is gone, or of another mode.
        take_off(&pin).map_err(|error| other(target, &error))?;
    }
    let attempt = put_fresh(program, target, &pin);
    if let (Err(error), Some(generic)) = (&attempt, was_generic) {
        // What forwarded goes on forwarding, in its old mode.
        let mode = if generic { XdpMode::Skb } else { XdpMode::Driver };
        match fresh(program, target, mode, &pin) {
            Ok(()) => tracing::error!("{error}; attached in the old mode again"),
            Err(again) => tracing::error!("{error}; and attaching in the old mode failed: {again}"),
        }
    }
    let (generic, fallback) = attempt?;
    Ok(attached(generic, false, fallback))
}

/// Whether it is in generic mode, and why if native was to be preferred.
fn put_fresh(
    program: &mut Xdp,
    target: &Target,
    pin: &std::path::Path,
) -> Result<(bool, Option<String>), AttachError> {
    if target.mode == AttachMode::Generic {
        fresh(program, target, XdpMode::Skb, pin)?;
        return Ok((true, None));
    }
    match fresh(program, target, XdpMode::Driver, pin) {
        Ok(()) => Ok((false, None)),
        Err(AttachError::NoNative { error, .. }) if target.mode == AttachMode::Auto => {
            fresh(program, target, XdpMode::Skb, pin)?;
            Ok((true, Some(error.to_string())))
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

/// Whether a pin leads to nothing that could have another program: its device is gone (ENOLINK of
/// `bpf_xdp_link_update`, net/core/dev.c), or it is no link of ours. Whatever else fails, for want of memory or
/// descriptors, the program that is there forwards.
fn is_dead(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<LinkError>() {
        let LinkError::SyscallError(call) = error else { return true };
        return !matches!(call.io_error.raw_os_error(), Some(libc::ENOMEM | libc::ENFILE | libc::EMFILE));
    }
    match error.downcast_ref::<ProgramError>() {
        Some(ProgramError::SyscallError(call)) => call.io_error.raw_os_error() == Some(libc::ENOLINK),
        _ => false,
    }
}

fn not_replaced(target: &Target, pin: &std::path::Path, error: &anyhow::Error) -> AttachError {
    let message = format!(
        "the program of the link {} was not replaced, the one that was there goes on: {}",
        pin.display(),
        chain(error.as_ref())
    );
    AttachError::Other { interface: target.interface.clone(), message }
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
    let errno = match &error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        // aya's second attempt, where the kernel did not take a bpf_link.
        ProgramError::XdpError(XdpError::NetlinkError(netlink)) => netlink.raw_os_error(),
        _ => None,
    };
    let interface = target.interface.clone();
    match errno {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Occupied { interface },
        // What drivers say of a mode, an MTU, an offload or a feature that they cannot have with XDP.
        Some(errno @ (libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::E2BIG | libc::EPERM))
            if mode == XdpMode::Driver =>
        {
            AttachError::NoNative { interface, error: io::Error::from_raw_os_error(errno) }
        }
        _ => other(target, &error),
    }
}

fn other(target: &Target, error: &dyn std::error::Error) -> AttachError {
    AttachError::Other { interface: target.interface.clone(), message: chain(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn refused_with(errno: i32) -> SyscallError {
        SyscallError { call: "bpf", io_error: io::Error::from_raw_os_error(errno) }
    }

    /// To take a program off and put another on is the last resort.
    #[test]
    fn a_link_is_given_up_only_when_it_leads_nowhere() {
        let update = |errno| ProgramError::from(refused_with(errno)).into();
        let open = |errno| LinkError::from(refused_with(errno)).into();
        let cases: [(&str, anyhow::Error, bool); 8] = [
            ("its device is gone", update(libc::ENOLINK), true),
            ("no memory", update(libc::ENOMEM), false),
            ("the driver refuses", update(libc::EINVAL), false),
            ("the driver has no room", update(libc::ENOSPC), false),
            ("the pin cannot be opened", open(libc::EACCES), true),
            ("of another kind", LinkError::InvalidLink.into(), true),
            ("no descriptor of the host's", open(libc::ENFILE), false),
            ("no descriptor of ours", open(libc::EMFILE), false),
        ];
        for (what, error, dead) in cases {
            assert_eq!(is_dead(&error), dead, "{what}");
        }
    }

    #[test]
    fn what_is_not_replaced_is_told_with_its_cause() {
        let interface = "eth0".to_owned();
        let target = Target { interface, ifindex: 2, mode: AttachMode::Auto, link: 0, pass: false };
        let error = ProgramError::from(refused_with(libc::ENOMEM)).into();
        let told = not_replaced(&target, std::path::Path::new("/pin"), &error).to_string();
        for word in ["eth0: ", "/pin", "goes on", "Cannot allocate memory"] {
            assert!(told.contains(word), "{word:?} is not in: {told}");
        }
    }
}
