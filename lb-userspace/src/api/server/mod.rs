//! The agent's end of the control API.
//!
//! The agent stays one task and the only writer: handlers turn each HTTP request into a [`Request`] on
//! its channel and wait for the typed answer. curl works on the socket too:
//! `curl --unix-socket /run/lb/default.sock http://lb/v1/status`.

mod extract;
mod feed;
mod request;
mod routes;
mod socket;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use tokio::{net::UnixListener, sync::oneshot};

pub use feed::Feed;
pub use request::{AgentHandle, Failure, Reply, Request};
pub use routes::router;
pub use socket::{BindError, bind};

/// How long connections may take to end once `shutdown` has fired; a client that sends half a request
/// must not keep the agent alive.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the API on `listener` until `shutdown` completes, then lets running requests finish.
pub async fn serve(
    listener: UnixListener,
    agent: AgentHandle,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (closing, closed) = oneshot::channel();
    let server = axum::serve(listener, router(agent)).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = closing.send(()); // the receiver lives as long as this future
    });
    let overdue = async {
        let _ = closed.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = server => result,
        () = overdue => Ok(()),
    }
}
