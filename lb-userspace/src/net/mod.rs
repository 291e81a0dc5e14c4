//! The kernel's networking, as far as the agent needs it: rtnetlink, sysctl, ethtool, XDP features.
//!
//! Everything acts in the network namespace of the calling thread: a netlink socket belongs to the
//! namespace in which it was opened, and `/proc/sys/net` shows the caller's. So [`Netlink::connect`] and
//! [`Events::subscribe`] are plain functions: they open the socket before they return.
//! Read first: rtnetlink(7), `Documentation/userspace-api/netlink/intro.rst` of the kernel.

mod address;
mod attach;
mod batch;
pub mod drivers;
mod error;
pub mod ethtool;
mod events;
mod link;
pub mod listeners;
pub mod namespace;
mod neighbour;
pub mod offload;
pub mod reserved;
mod route;
pub mod sysctl;
pub mod xdp;

use std::{sync::Arc, time::Duration};

use futures::{Stream, TryStreamExt};
use rtnetlink::Handle;

use batch::Batch;

pub use self::{
    address::{Address, NewAddress, host_prefix},
    attach::{Attachment, ResolveError, resolve_attach},
    error::Error,
    events::{Event, Events},
    link::{Link, Vlan},
    neighbour::{Neighbour, NeighbourState, Probe},
    route::Route,
};

/// A request is answered inside the sendmsg(2) that carries it; this bound is for an answer that was
/// lost to a full socket buffer, which would else be waited for without end.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A connection to the kernel's rtnetlink, cheap to clone.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
    /// For what is asked many times over.
    batch: Arc<Batch>,
}

impl Netlink {
    /// Opens a socket in the caller's network namespace and spawns the task that serves it, which ends
    /// with the last clone. Must be called within a tokio runtime.
    pub fn connect() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
        tokio::spawn(connection);
        let batch = Arc::new(Batch::open().map_err(Error::Socket)?);
        Ok(Self { handle, batch })
    }
}

/// All answers to a request.
async fn all<T>(
    action: impl Fn() -> String,
    answers: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, Error> {
    bounded(action, answers.try_collect()).await
}

async fn bounded<T>(
    action: impl Fn() -> String,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(ANSWER_WITHIN, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(Error::from_rtnetlink(action(), source)),
        Err(_) => Err(Error::NoAnswer { action: action() }),
    }
}
