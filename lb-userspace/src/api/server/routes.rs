//! The routes table of [`api::types`](crate::api::types), as axum sees it.

use std::convert::Infallible;

use axum::{
    Json, Router, body,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{Method, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};

use futures::stream;

use super::{
    AgentHandle, Failure, Request,
    extract::{Body, Checked},
};
use crate::{
    api::types::{
        BackendAdd, BackendEdit, ConnFilter, ConnList, Done, MaintenanceBegin, ReloadOptions, Reloaded,
        ServiceAdd, ServiceEdit, ServiceView, Stats, Status,
    },
    events::{Filter, Listed},
    model::{BackendKey, PartialTimeouts, ServiceName, Timeouts},
    trace::Question,
};

/// Largest request body, in bytes; the largest legitimate one is far below.
const MAX_BODY: usize = 64 << 10;

type Agent = State<AgentHandle>;
type Answer<T> = Result<Json<T>, Failure>;
type Named = Checked<Path<ServiceName>>;
type Keyed = Checked<Path<(ServiceName, BackendKey)>>;

/// Every route of the API.
pub fn router(agent: AgentHandle) -> Router {
    let backend = "/v1/services/{name}/backends/{key}";
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/services", get(services).post(service_add))
        .route("/v1/services/{name}", get(service).patch(service_edit).delete(service_delete))
        .route("/v1/services/{name}/backends", post(backend_add))
        .route(backend, patch(backend_edit).delete(backend_delete))
        .route(&format!("{backend}/drain"), post(backend_drain))
        .route(&format!("{backend}/undrain"), post(backend_undrain))
        .route(&format!("{backend}/maintenance"), post(backend_maintain).delete(backend_maintenance_end))
        .route("/v1/timeouts", get(timeouts).patch(timeouts_edit))
        .route("/v1/conns", get(conns).delete(conns_flush))
        .route("/v1/stats", get(stats))
        .route("/v1/events", get(events))
        .route("/v1/trace", get(trace))
        .route("/v1/config", get(config))
        .route("/v1/reload", post(reload))
        .route("/v1/detach", post(detach))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(agent)
}

async fn status(State(agent): Agent) -> Answer<Status> {
    agent.ask(|reply| Request::Status { reply }).await.map(Json)
}

async fn services(State(agent): Agent) -> Answer<Vec<ServiceView>> {
    agent.ask(|reply| Request::Services { reply }).await.map(Json)
}

async fn service_add(State(agent): Agent, Body(add): Body<ServiceAdd>) -> Answer<Done> {
    agent.ask(|reply| Request::ServiceAdd { add, reply }).await.map(Json)
}

async fn service(State(agent): Agent, Checked(Path(name)): Named) -> Answer<ServiceView> {
    agent.ask(|reply| Request::Service { name, reply }).await.map(Json)
}

async fn service_edit(
    State(agent): Agent,
    Checked(Path(name)): Named,
    Body(edit): Body<ServiceEdit>,
) -> Answer<Done> {
    agent.ask(|reply| Request::ServiceEdit { name, edit, reply }).await.map(Json)
}

async fn service_delete(State(agent): Agent, Checked(Path(name)): Named) -> Answer<Done> {
    agent.ask(|reply| Request::ServiceDelete { name, reply }).await.map(Json)
}

async fn backend_add(
    State(agent): Agent,
    Checked(Path(service)): Named,
    Body(add): Body<BackendAdd>,
) -> Answer<Done> {
    agent.ask(|reply| Request::BackendAdd { service, add, reply }).await.map(Json)
}

async fn backend_edit(
    State(agent): Agent,
    Checked(Path((service, key))): Keyed,
    Body(edit): Body<BackendEdit>,
) -> Answer<Done> {
    agent.ask(|reply| Request::BackendEdit { service, key, edit, reply }).await.map(Json)
}

async fn backend_delete(State(agent): Agent, Checked(Path((service, key))): Keyed) -> Answer<Done> {
    agent.ask(|reply| Request::BackendDelete { service, key, reply }).await.map(Json)
}

async fn backend_drain(State(agent): Agent, Checked(Path((service, key))): Keyed) -> Answer<Done> {
    agent.ask(|reply| Request::BackendDrain { service, key, reply }).await.map(Json)
}

async fn backend_undrain(State(agent): Agent, Checked(Path((service, key))): Keyed) -> Answer<Done> {
    agent.ask(|reply| Request::BackendUndrain { service, key, reply }).await.map(Json)
}

async fn backend_maintain(
    State(agent): Agent,
    Checked(Path((service, key))): Keyed,
    Body(begin): Body<MaintenanceBegin>,
) -> Answer<Done> {
    agent.ask(|reply| Request::BackendMaintain { service, key, begin, reply }).await.map(Json)
}

async fn backend_maintenance_end(State(agent): Agent, Checked(Path((service, key))): Keyed) -> Answer<Done> {
    agent.ask(|reply| Request::BackendMaintenanceEnd { service, key, reply }).await.map(Json)
}

async fn timeouts(State(agent): Agent) -> Answer<Timeouts> {
    agent.ask(|reply| Request::Timeouts { reply }).await.map(Json)
}

async fn timeouts_edit(State(agent): Agent, Body(edit): Body<PartialTimeouts>) -> Answer<Done> {
    agent.ask(|reply| Request::TimeoutsEdit { edit, reply }).await.map(Json)
}

async fn conns(State(agent): Agent, Checked(Query(filter)): Checked<Query<ConnFilter>>) -> Answer<ConnList> {
    agent.ask(|reply| Request::Conns { filter, reply }).await.map(Json)
}

async fn conns_flush(
    State(agent): Agent,
    Checked(Query(filter)): Checked<Query<ConnFilter>>,
) -> Answer<Done> {
    agent.ask(|reply| Request::ConnsFlush { filter, reply }).await.map(Json)
}

async fn stats(State(agent): Agent) -> Answer<Stats> {
    agent.ask(|reply| Request::Stats { reply }).await.map(Json)
}

async fn events(State(agent): Agent, Checked(Query(filter)): Checked<Query<Filter>>) -> Answer<Listed> {
    let feed = agent.ask(|reply| Request::Events { reply }).await?;
    Ok(Json(feed.list(&filter).await))
}

async fn config(State(agent): Agent) -> Result<impl IntoResponse, Failure> {
    let text = agent.ask(|reply| Request::Config { reply }).await?;
    Ok(([(CONTENT_TYPE, "text/yaml; charset=utf-8")], text))
}

async fn reload(
    State(agent): Agent,
    Checked(Query(options)): Checked<Query<ReloadOptions>>,
) -> Answer<Reloaded> {
    agent.ask(|reply| Request::Reload { options, reply }).await.map(Json)
}

async fn detach(State(agent): Agent) -> Answer<Done> {
    agent.ask(|reply| Request::Detach { reply }).await.map(Json)
}

/// Lines of JSON for as long as the client listens. Its end is told to whoever writes them.
async fn trace(
    State(agent): Agent,
    Checked(Query(question)): Checked<Query<Question>>,
) -> Result<Response, Failure> {
    let reports = agent.ask(|reply| Request::Trace { question, reply }).await?;
    let lines = stream::unfold(reports, async |mut reports| {
        let line = reports.recv().await?;
        Some((Ok::<_, Infallible>(line), reports))
    });
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body::Body::from_stream(lines)).into_response())
}

async fn no_such_route(uri: Uri) -> Failure {
    Failure::not_found(format!("this agent has no route {}", uri.path())).hint(
        "routes begin with /v1/: status, services, timeouts, conns, stats, events, trace, config, reload, detach; a `/` in a service's \
         name is written %2F; if `lb` asked, it is newer than the agent: restart the agent",
    )
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    Failure::new(405, format!("{} does not take {method}", uri.path()))
        .hint("GET reads, POST adds or acts, PATCH edits, DELETE removes")
}
