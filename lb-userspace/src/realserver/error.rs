use std::{io, net::IpAddr, path::PathBuf};

use crate::net::{self, sysctl};

/// Why a host could not be made a backend, or be taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{address} cannot be a VIP: {why}")]
    NotAVip { address: IpAddr, why: &'static str },
    #[error(
        "cannot put {address} on lo: IPv6 is off there; switch it on with \
         `sysctl -w net.ipv6.conf.lo.disable_ipv6=0` and start again"
    )]
    Ipv6Off { address: IpAddr },
    #[error("this network namespace has no loopback interface")]
    NoLoopback,
    #[error(
        "another `lb realserver` is at work (it holds {}); wait for it, or look what it waits for",
        path.display()
    )]
    Busy { path: PathBuf },
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    State { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} is not a state file of `lb realserver` ({source}); if it is not needed, remove it - `stop` \
         then no longer knows what was there before `start`",
        path.display()
    )]
    BadState { path: PathBuf, source: serde_json::Error },
    #[error(
        "{} was written in another network namespace ({theirs}, this is {ours}); give each namespace a state \
         file of its own, or remove the file if that namespace is gone",
        path.display()
    )]
    OtherNamespace { path: PathBuf, theirs: String, ours: String },
    #[error(transparent)]
    Net(#[from] net::Error),
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root",
        _ => "",
    }
}
