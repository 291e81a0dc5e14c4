//! Server and client together, over a real socket in a temporary directory.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{AgentHandle, BindError, bind, serve};
use crate::{
    api::{
        client::{Client, ClientError},
        fake::{self, FakeAgent, name},
        types::{ApiError, BackendAdd, BackendEdit, ConnFilter, ReloadOptions, ServiceAdd, ServiceEdit},
    },
    model::{BackendKey, PartialTimeouts, Scheduler, ServiceOptions, Timeouts},
};

fn key(text: &str) -> BackendKey {
    text.parse().unwrap()
}

#[tokio::test]
async fn every_route_reaches_the_agent_with_its_body() {
    let agent = FakeAgent::start().await;
    let client = Client::new(agent.socket());
    let mysql = name("mysql");

    assert_eq!(client.status().await.unwrap(), fake::status());
    assert_eq!(client.services().await.unwrap(), fake::services());
    assert_eq!(client.service(&mysql).await.unwrap(), fake::services()[0]);
    assert_eq!(client.stats().await.unwrap(), fake::stats(1));
    assert_eq!(client.conns(&ConnFilter::default()).await.unwrap(), fake::conns());
    assert_eq!(client.config().await.unwrap(), "services: []\n");

    let endpoint = fake::services()[0].endpoint;
    let options = ServiceOptions::default();
    let add = ServiceAdd {
        name: None,
        endpoint,
        group: [].into(),
        scheduler: Scheduler::Wrr,
        options,
        sources: Default::default(),
    };
    client.service_add(&add).await.unwrap();
    assert_eq!(agent.last(), format!("ServiceAdd {{ add: {add:?}"));
    let edit = ServiceEdit { scheduler: Some(Scheduler::Rr), ..ServiceEdit::default() };
    client.service_edit(&mysql, &edit).await.unwrap();
    assert_eq!(agent.last(), format!("ServiceEdit {{ name: {mysql:?}, edit: {edit:?}"));
    client.service_delete(&mysql).await.unwrap();
    assert_eq!(agent.last(), format!("ServiceDelete {{ name: {mysql:?}"));

    let k = key("10.0.0.1:3306");
    let add = BackendAdd { key: k, weight: 3, upper_threshold: 10, lower_threshold: 5 };
    let done = client.backend_add(&mysql, &add).await.unwrap();
    assert_eq!(done.warnings, ["the MAC address is not known yet"]);
    assert_eq!(agent.last(), format!("BackendAdd {{ service: {mysql:?}, add: {add:?}"));
    let edit = BackendEdit { weight: Some(0), ..BackendEdit::default() };
    client.backend_edit(&mysql, k, &edit).await.unwrap();
    assert_eq!(agent.last(), format!("BackendEdit {{ service: {mysql:?}, key: {k:?}, edit: {edit:?}"));
    client.backend_drain(&mysql, k).await.unwrap();
    assert_eq!(agent.last(), format!("BackendDrain {{ service: {mysql:?}, key: {k:?}"));
    client.backend_undrain(&mysql, k).await.unwrap();
    assert_eq!(agent.last(), format!("BackendUndrain {{ service: {mysql:?}, key: {k:?}"));
    client.backend_delete(&mysql, k).await.unwrap();
    assert_eq!(agent.last(), format!("BackendDelete {{ service: {mysql:?}, key: {k:?}"));

    assert_eq!(client.timeouts().await.unwrap(), Timeouts::default());
    let edit = PartialTimeouts { tcp_syn: Some(7), ..PartialTimeouts::default() };
    client.timeouts_edit(&edit).await.unwrap();
    assert_eq!(agent.last(), format!("TimeoutsEdit {{ edit: {edit:?}"));

    client.reload(&ReloadOptions { keep_runtime: true }).await.unwrap();
    assert_eq!(agent.last(), "Reload { options: ReloadOptions { keep_runtime: true }");
    client.detach().await.unwrap();
    assert_eq!(agent.last(), "Detach");
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn names_keys_and_filters_survive_the_encoding() {
    let agent = FakeAgent::start().await;
    let client = Client::new(agent.socket());
    let service = name("udp/[2001:db8::53]:53");
    assert_eq!(client.service(&service).await.unwrap().name, service);
    let k = key("[2001:db8::a]:53");
    client.backend_drain(&service, k).await.unwrap();
    assert_eq!(agent.last(), format!("BackendDrain {{ service: {service:?}, key: {k:?}"));

    let filter = ConnFilter {
        service: Some(service),
        backend: Some(k),
        client: Some("2001:db8::/32".to_owned()),
        state: Some("UDP".to_owned()),
        limit: Some(5),
    };
    client.conns(&filter).await.unwrap();
    assert_eq!(agent.last(), format!("Conns {{ filter: {filter:?}"));
    client.conns_flush(&filter).await.unwrap();
    assert_eq!(agent.last(), format!("ConnsFlush {{ filter: {filter:?}"));
}

#[tokio::test]
async fn refusals_pass_through_with_status_and_hint() {
    let agent = FakeAgent::start().await;
    let client = Client::new(agent.socket());
    match client.service(&name("msql")).await.unwrap_err() {
        ClientError::Refused { status: 404, error } => {
            assert_eq!(error.message, "there is no service msql");
            assert_eq!(error.hint.as_deref(), Some("the nearest name is mysql"));
        }
        other => panic!("{other:?}"),
    }
}

/// Sends `request` as it stands and returns status and JSON body.
async fn raw(agent: &FakeAgent, request: &str) -> (u16, ApiError) {
    let mut stream = UnixStream::connect(agent.socket()).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
}

#[tokio::test]
async fn whatever_is_wrong_comes_back_as_json_with_a_hint() {
    let agent = FakeAgent::start().await;
    let request = |line: &str, body: &str| {
        format!(
            "{line} HTTP/1.1\r\nHost: lb\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let large = "x".repeat(65 << 10);
    for (line, body, status, says) in [
        ("GET /v2/status", "", 404, "no route /v2/status"),
        ("GET /v1/services/tcp/1.2.3.4:5", "", 404, "no route"),
        ("PUT /v1/status", "", 405, "does not take PUT"),
        ("POST /v1/services", "{", 400, "EOF while parsing"),
        ("POST /v1/services", "{\"colour\":1}", 400, "unknown field `colour`"),
        ("POST /v1/services", &large, 413, "length limit"),
        ("PATCH /v1/timeouts", "{\"tpc\":1}", 400, "unknown field `tpc`"),
        ("PATCH /v1/timeouts", "{\"tcp\":-1}", 400, "invalid value"),
        ("GET /v1/services/a%20b", "", 400, "has the character ' '"),
        ("DELETE /v1/services/mysql/backends/10.0.0.1", "", 400, "not ADDRESS:PORT"),
        ("DELETE /v1/conns?servce=mysql", "", 400, "unknown field `servce`"),
        ("GET /v1/conns?limit=-1", "", 400, "limit"),
    ] {
        let (got, error) = raw(&agent, &request(line, body)).await;
        assert_eq!(got, status, "{line}: {error}");
        assert!(error.message.contains(says), "{line}: {error}");
        assert!(error.hint.is_some(), "{line}: {error}");
    }
    assert_eq!(*agent.asked.lock().unwrap(), Vec::<String>::new(), "no bad request reached the agent");
}

#[tokio::test]
async fn no_agent_no_permission_and_silence_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let client = Client::new(&path).with_timeout(Duration::from_millis(100));

    assert!(matches!(client.status().await, Err(ClientError::NotRunning { .. })), "no socket");
    let listener = bind(&path, None).await.unwrap();
    assert!(matches!(client.status().await, Err(ClientError::Timeout { .. })), "nobody accepts");
    drop(listener);
    let stale = client.status().await.unwrap_err();
    assert!(matches!(stale, ClientError::NotRunning { .. }), "nobody listens: {stale}");
    assert!(stale.to_string().contains(path.to_str().unwrap()), "{stale}");
}

#[tokio::test]
async fn an_agent_that_ends_without_an_answer_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let (handle, requests) = AgentHandle::channel();
    let listener = bind(&path, None).await.unwrap();
    let server = tokio::spawn(serve(listener, handle, std::future::pending()));
    drop(requests);
    let error = Client::new(&path).stats().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { status: 503, .. }), "{error:?}");
    server.abort();
}

#[tokio::test]
async fn the_socket_is_for_root_and_its_group_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/lb/a.sock");
    let own_gid = directory.path().metadata().unwrap().gid().to_string();
    let _listener = bind(&path, Some(&own_gid)).await.unwrap();
    let meta = path.metadata().unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o660);
    assert_eq!(meta.gid().to_string(), own_gid);
    let parent = path.parent().unwrap();
    assert_eq!(std::fs::read_dir(parent).unwrap().count(), 1, "no staging directory is left");
    assert!(matches!(
        bind(&directory.path().join("b.sock"), Some("no-such-group-here")).await,
        Err(BindError::NoSuchGroup(_))
    ));
}

#[tokio::test]
async fn a_live_agents_socket_is_refused_and_a_stale_one_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let first = bind(&path, None).await.unwrap();
    let error = bind(&path, None).await.unwrap_err();
    let pid = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(error, BindError::InUse { pid: Some(p), .. } if p == pid), "{error}");
    drop(first);
    let second = bind(&path, None).await.unwrap();
    drop(second);

    let file = directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(bind(&file, None).await, Err(BindError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[tokio::test]
async fn half_a_request_does_not_keep_the_server_alive() {
    let agent = FakeAgent::start().await;
    let mut half = UnixStream::connect(agent.socket()).await.unwrap();
    let head = "POST /v1/services HTTP/1.1\r\nHost: lb\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    half.write_all(head.as_bytes()).await.unwrap();
    // "100 Continue" comes when the handler waits for the body, which it will not get.
    let mut interim = [0; 12];
    tokio::time::timeout(Duration::from_secs(5), half.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100");
    tokio::time::timeout(Duration::from_secs(20), agent.stop()).await.expect("serve ends").unwrap();
}
