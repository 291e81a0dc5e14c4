use std::io;

/// Why the kernel could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel answered with an errno.
    #[error("cannot {action}: {source}{}", hint(source))]
    Refused { action: String, source: io::Error },
    /// The answer was lost, or the task that serves the connection is gone.
    #[error("cannot {action}: the kernel's answer did not arrive; try again")]
    NoAnswer { action: String },
    #[error("cannot {action}: the kernel's answer makes no sense ({detail}); please report this as a bug")]
    Garbled { action: String, detail: String },
}

impl Error {
    /// The errno of a refusal.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket(source) | Self::Refused { source, .. } => source.raw_os_error(),
            Self::NoAnswer { .. } | Self::Garbled { .. } => None,
        }
    }

    pub(super) fn from_rtnetlink(action: String, error: rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused { action, source: message.to_io() },
            rtnetlink::Error::RequestFailed => Self::NoAnswer { action },
            other => Self::Garbled { action, detail: other.to_string() },
        }
    }
}

pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or with CAP_NET_ADMIN in this network namespace",
        _ => "",
    }
}
