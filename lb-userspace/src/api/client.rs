//! The command line's end of the control API: one typed method per route.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, body::Incoming, client::conn::http1, header::HOST};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, task::JoinHandle};

use super::types::{
    ApiError, BackendAdd, BackendEdit, ConnFilter, ConnList, Done, MaintenanceBegin, ReloadOptions, Reloaded,
    ServiceAdd, ServiceEdit, ServiceView, Stats, Status,
};
use crate::{
    events::{Filter, Listed},
    model::{BackendKey, PartialTimeouts, ServiceName, Timeouts},
    trace::{Question, Report},
};

/// Talks to the agent that serves one socket. Each request is a connection of its own.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
}

/// Why there is no answer, or a refusal instead of one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "the agent is not running (no socket at {}): start it with `lb run --config FILE` or \
         `systemctl start lb`; another instance: --instance NAME", .socket.display()
    )]
    NotRunning { socket: PathBuf },
    #[error(
        "no permission to use the control socket {}: run this as root, or join the group that owns the \
         socket (`ls -l {0}` names it)", .socket.display()
    )]
    NoPermission { socket: PathBuf },
    /// The agent's own words.
    #[error("{error}")]
    Refused { status: u16, error: ApiError },
    #[error(
        "the agent did not answer within {within:?}: a change may still be made; see its log \
         (`journalctl -u lb`) and `lb status`"
    )]
    Timeout { within: Duration },
    #[error("talking to the agent at {} failed: {what}; see its log (`journalctl -u lb`)", .socket.display())]
    Broken { socket: PathBuf, what: String },
}

impl Client {
    /// Half a minute: a reload of thousands of services takes seconds.
    pub const TIMEOUT: Duration = Duration::from_secs(30);

    /// A client of the agent that serves `socket`. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), timeout: Self::TIMEOUT }
    }

    /// How long one request may take, the connecting included.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(Method::GET, "/v1/status", NOTHING).await
    }

    pub async fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        self.json(Method::GET, "/v1/services", NOTHING).await
    }

    pub async fn service(&self, name: &ServiceName) -> Result<ServiceView, ClientError> {
        self.json(Method::GET, &service_path(name), NOTHING).await
    }

    pub async fn service_add(&self, add: &ServiceAdd) -> Result<Done, ClientError> {
        self.json(Method::POST, "/v1/services", Some(add)).await
    }

    pub async fn service_edit(&self, name: &ServiceName, edit: &ServiceEdit) -> Result<Done, ClientError> {
        self.json(Method::PATCH, &service_path(name), Some(edit)).await
    }

    pub async fn service_delete(&self, name: &ServiceName) -> Result<Done, ClientError> {
        self.json(Method::DELETE, &service_path(name), NOTHING).await
    }

    pub async fn backend_add(&self, service: &ServiceName, add: &BackendAdd) -> Result<Done, ClientError> {
        self.json(Method::POST, &format!("{}/backends", service_path(service)), Some(add)).await
    }

    pub async fn backend_edit(
        &self,
        service: &ServiceName,
        key: BackendKey,
        edit: &BackendEdit,
    ) -> Result<Done, ClientError> {
        self.json(Method::PATCH, &backend_path(service, key), Some(edit)).await
    }

    pub async fn backend_delete(&self, service: &ServiceName, key: BackendKey) -> Result<Done, ClientError> {
        self.json(Method::DELETE, &backend_path(service, key), NOTHING).await
    }

    pub async fn backend_drain(&self, service: &ServiceName, key: BackendKey) -> Result<Done, ClientError> {
        self.json(Method::POST, &format!("{}/drain", backend_path(service, key)), NOTHING).await
    }

    pub async fn backend_undrain(&self, service: &ServiceName, key: BackendKey) -> Result<Done, ClientError> {
        self.json(Method::POST, &format!("{}/undrain", backend_path(service, key)), NOTHING).await
    }

    pub async fn backend_maintain(
        &self,
        service: &ServiceName,
        key: BackendKey,
        begin: &MaintenanceBegin,
    ) -> Result<Done, ClientError> {
        let path = format!("{}/maintenance", backend_path(service, key));
        self.json(Method::POST, &path, Some(begin)).await
    }

    pub async fn backend_maintenance_end(
        &self,
        service: &ServiceName,
        key: BackendKey,
    ) -> Result<Done, ClientError> {
        let path = format!("{}/maintenance", backend_path(service, key));
        self.json(Method::DELETE, &path, NOTHING).await
    }

    pub async fn timeouts(&self) -> Result<Timeouts, ClientError> {
        self.json(Method::GET, "/v1/timeouts", NOTHING).await
    }

    pub async fn timeouts_edit(&self, edit: &PartialTimeouts) -> Result<Done, ClientError> {
        self.json(Method::PATCH, "/v1/timeouts", Some(edit)).await
    }

    pub async fn conns(&self, filter: &ConnFilter) -> Result<ConnList, ClientError> {
        self.json(Method::GET, &self.with_query("/v1/conns", filter)?, NOTHING).await
    }

    pub async fn conns_flush(&self, filter: &ConnFilter) -> Result<Done, ClientError> {
        self.json(Method::DELETE, &self.with_query("/v1/conns", filter)?, NOTHING).await
    }

    pub async fn events(&self, filter: &Filter) -> Result<Listed, ClientError> {
        self.json(Method::GET, &self.with_query("/v1/events", filter)?, NOTHING).await
    }

    pub async fn stats(&self) -> Result<Stats, ClientError> {
        self.json(Method::GET, "/v1/stats", NOTHING).await
    }

    /// The running state as the text of a configuration file.
    pub async fn config(&self) -> Result<String, ClientError> {
        let bytes = self.send(Method::GET, "/v1/config", Bytes::new()).await?;
        String::from_utf8(bytes.into()).map_err(|error| self.broken(error))
    }

    pub async fn reload(&self, options: &ReloadOptions) -> Result<Reloaded, ClientError> {
        self.json(Method::POST, &self.with_query("/v1/reload", options)?, NOTHING).await
    }

    pub async fn detach(&self) -> Result<Done, ClientError> {
        self.json(Method::POST, "/v1/detach", NOTHING).await
    }

    /// Begins a trace; it ends when what is returned is dropped.
    pub async fn trace(&self, question: &Question) -> Result<TraceStream, ClientError> {
        let path = self.with_query("/v1/trace", question)?;
        let begun = self.begin(Method::GET, &path, Bytes::new());
        let (body, connection) = tokio::time::timeout(self.timeout, begun)
            .await
            .map_err(|_| ClientError::Timeout { within: self.timeout })??;
        Ok(TraceStream { client: self.clone(), body, _connection: connection, rest: Vec::new() })
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let body = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| self.broken(error))?.into(),
            None => Bytes::new(),
        };
        let answer = self.send(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| {
            self.broken(format!(
                "the answer to {path} is not what this version expects ({error}); agent and command line should \
                 be of one version: restart the agent after an upgrade"
            ))
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        tokio::time::timeout(self.timeout, self.exchange(method, path, body))
            .await
            .map_err(|_| ClientError::Timeout { within: self.timeout })?
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let (body, _connection) = self.begin(method, path, body).await?;
        Ok(body.collect().await.map_err(|error| self.broken(error))?.to_bytes())
    }

    /// Asks, and waits for the beginning of an answer that is no refusal. The connection is driven beside it, and
    /// closed when it is dropped.
    async fn begin(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Incoming, Connection), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.not_connected(error))?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "lb")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        let connection = Connection(tokio::spawn(async move {
            // Its error, if any, reaches the request or its body, too.
            let _ = connection.await;
        }));
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok((body, connection));
        }
        let body = body.collect().await.map_err(|error| self.broken(error))?.to_bytes();
        let error = serde_json::from_slice(&body).unwrap_or_else(|_| ApiError {
            message: format!("the agent answered {status}: {}", String::from_utf8_lossy(&body).trim()),
            hint: None,
        });
        Err(ClientError::Refused { status: status.as_u16(), error })
    }

    fn not_connected(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning { socket },
            io::ErrorKind::PermissionDenied => ClientError::NoPermission { socket },
            _ => self.broken(error),
        }
    }

    fn broken(&self, what: impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), what: what.to_string() }
    }

    fn with_query(&self, path: &str, query: &impl Serialize) -> Result<String, ClientError> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.broken(error))?;
        Ok(if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") })
    }
}

/// Packets of a trace, as they come.
#[derive(Debug)]
pub struct TraceStream {
    client: Client,
    body: Incoming,
    _connection: Connection,
    /// The beginning of a line.
    rest: Vec<u8>,
}

impl TraceStream {
    /// What has come next, several reports at once; none when the agent has ended the trace.
    ///
    /// # Errors
    /// The agent is silent, or does not say what this version expects.
    pub async fn next(&mut self) -> Result<Option<Vec<Report>>, ClientError> {
        let Self { client, body, _connection, rest } = self;
        let within = client.timeout;
        // It says something each second.
        let frame =
            tokio::time::timeout(within, body.frame()).await.map_err(|_| ClientError::Timeout { within })?;
        let Some(frame) = frame else { return Ok(None) };
        let Ok(data) = frame.map_err(|error| client.broken(error))?.into_data() else {
            return Ok(Some(Vec::new()));
        };
        rest.extend_from_slice(&data);
        let Some(end) = rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(Some(Vec::new())) };
        let behind = rest.split_off(end + 1);
        let lines = std::mem::replace(rest, behind);
        let reports = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        reports
            .map(|line| serde_json::from_slice(line).map_err(|error| client.broken(error)))
            .collect::<Result<_, _>>()
            .map(Some)
    }
}

/// Closed when it is dropped.
#[derive(Debug)]
struct Connection(JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// No request body; the type is any that could be one.
const NOTHING: Option<&()> = None;

fn service_path(name: &ServiceName) -> String {
    format!("/v1/services/{}", utf8_percent_encode(name.as_str(), NON_ALPHANUMERIC))
}

fn backend_path(service: &ServiceName, key: BackendKey) -> String {
    let key = key.to_string();
    format!("{}/backends/{}", service_path(service), utf8_percent_encode(&key, NON_ALPHANUMERIC))
}
