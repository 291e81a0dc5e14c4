//! What travels between the HTTP handlers and the agent's task.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::Feed;
use crate::{
    api::types::{
        ApiError, BackendAdd, BackendEdit, ConnFilter, ConnList, Done, MaintenanceBegin, ReloadOptions,
        Reloaded, ServiceAdd, ServiceEdit, ServiceView, Stats, Status,
    },
    model::{BackendKey, PartialTimeouts, ServiceName, Timeouts},
    trace::{Question, Reports},
};

/// Where the agent puts its answer. A send that fails means that the client has gone: ignore it.
pub type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// One request of the control API, one variant per route.
#[derive(Debug)]
pub enum Request {
    BackendAdd {
        service: ServiceName,
        add: BackendAdd,
        reply: Reply<Done>,
    },
    BackendDelete {
        service: ServiceName,
        key: BackendKey,
        reply: Reply<Done>,
    },
    BackendDrain {
        service: ServiceName,
        key: BackendKey,
        reply: Reply<Done>,
    },
    BackendEdit {
        service: ServiceName,
        key: BackendKey,
        edit: BackendEdit,
        reply: Reply<Done>,
    },
    BackendMaintain {
        service: ServiceName,
        key: BackendKey,
        begin: MaintenanceBegin,
        reply: Reply<Done>,
    },
    BackendMaintenanceEnd {
        service: ServiceName,
        key: BackendKey,
        reply: Reply<Done>,
    },
    BackendUndrain {
        service: ServiceName,
        key: BackendKey,
        reply: Reply<Done>,
    },
    /// The running state as the text of a configuration file.
    Config {
        reply: Reply<String>,
    },
    Conns {
        filter: ConnFilter,
        reply: Reply<ConnList>,
    },
    ConnsFlush {
        filter: ConnFilter,
        reply: Reply<Done>,
    },
    /// The agent answers first and ends then.
    Detach {
        reply: Reply<Done>,
    },
    /// Where events can be read.
    Events {
        reply: Reply<Feed>,
    },
    Reload {
        options: ReloadOptions,
        reply: Reply<Reloaded>,
    },
    Service {
        name: ServiceName,
        reply: Reply<ServiceView>,
    },
    ServiceAdd {
        add: ServiceAdd,
        reply: Reply<Done>,
    },
    ServiceDelete {
        name: ServiceName,
        reply: Reply<Done>,
    },
    ServiceEdit {
        name: ServiceName,
        edit: ServiceEdit,
        reply: Reply<Done>,
    },
    Services {
        reply: Reply<Vec<ServiceView>>,
    },
    Stats {
        reply: Reply<Stats>,
    },
    Status {
        reply: Reply<Status>,
    },
    /// The global ones.
    Timeouts {
        reply: Reply<Timeouts>,
    },
    TimeoutsEdit {
        edit: PartialTimeouts,
        reply: Reply<Done>,
    },
    /// Where the lines of the answer come from.
    Trace {
        question: Question,
        reply: Reply<Reports>,
    },
}

/// A refusal: an HTTP status and the body that explains it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Failure {
    /// 400 bad input, 404 no such thing, 409 already there or in the way, 500 the kernel refused.
    pub status: u16,
    pub error: ApiError,
}

impl Failure {
    /// 400: the request itself is wrong.
    pub fn bad_input(message: impl Into<String>) -> Self {
        Self::new(400, message)
    }

    /// 404: no such service, backend or route.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, message)
    }

    /// 409: already there, or something is in the way.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, message)
    }

    /// 500: the kernel refused, or the agent could not do it.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, message)
    }

    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Self { status, error: ApiError { message: message.into(), hint: None } }
    }

    /// Adds what would be right.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.error.hint = Some(hint.into());
        self
    }
}

/// The way to the agent's task.
#[derive(Clone, Debug)]
pub struct AgentHandle(mpsc::Sender<Request>);

impl AgentHandle {
    /// Requests that may wait for the agent; more make their senders wait.
    const QUEUE: usize = 64;
    /// How long a request may take, the waiting included. A reload that rebuilds thousands of services
    /// takes seconds; longer than this is a hang.
    const ANSWER_WITHIN: Duration = Duration::from_secs(60);

    /// A handle for the server and the receiver for the agent's loop.
    pub fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(Self::QUEUE);
        (Self(sender), receiver)
    }

    /// Puts a request to the agent and waits for its answer.
    pub async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Failure> {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.0.send(request(reply)).await.map_err(|_| stopping())?;
            answer.await.map_err(|_| stopping())?
        };
        tokio::time::timeout(Self::ANSWER_WITHIN, asked).await.map_err(|_| hanging())?
    }
}

fn stopping() -> Failure {
    Failure::new(503, "the agent is stopping and did not answer this request")
        .hint("look at its log (`journalctl -u lb`) and start it again")
}

fn hanging() -> Failure {
    Failure::new(504, format!("the agent did not answer within {:?}", AgentHandle::ANSWER_WITHIN))
        .hint("the change may still be made; look at its log (`journalctl -u lb`) and at `lb status`")
}
