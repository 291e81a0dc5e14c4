//! A post to a URL.

use std::pin::pin;

use futures::future::{Either, select};
use http_body_util::Full;
use hyper::{
    Request,
    body::Bytes,
    client::conn::http1::handshake,
    header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use url::{Host, Url};

use super::{Settings, target::Refusal};
use crate::{
    checks::tls::Tls,
    events::Batch,
    model::{check::TlsCheck, notify::Webhook},
};

/// The body.
#[derive(Serialize)]
struct Body<'a> {
    router_id: &'a str,
    instance: &'a str,
    /// Of the events, listed or counted.
    count: u64,
    #[serde(flatten)]
    batch: &'a Batch,
}

/// One attempt.
pub async fn post(webhook: &Webhook, settings: &Settings, batch: &Batch) -> Result<(), Refusal> {
    let posting = try_post(webhook, settings, batch);
    timeout(webhook.timeout.duration(), posting).await.map_err(|_| Refusal::temporary("no answer in time"))?
}

async fn try_post(webhook: &Webhook, settings: &Settings, batch: &Batch) -> Result<(), Refusal> {
    let url = Url::parse(&webhook.url).map_err(Refusal::permanent)?;
    let request = request(&url, webhook, settings, batch).await?;
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => return Err(Refusal::permanent("the URL has no host")),
    };
    let port = url.port_or_known_default().unwrap_or(80);
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(Refusal::temporary)?;
    if url.scheme() != "https" {
        return exchange(stream, request).await;
    }
    let how = TlsCheck { sni: None, verify: webhook.verify, ca: webhook.ca.clone() };
    let stream = Tls::default().speak(stream, host, &how).await;
    exchange(stream.map_err(|failure| Refusal::temporary(failure.why))?, request).await
}

async fn request(
    url: &Url,
    webhook: &Webhook,
    settings: &Settings,
    batch: &Batch,
) -> Result<Request<Full<Bytes>>, Refusal> {
    let Settings { router_id, instance, .. } = settings;
    let body = serde_json::to_vec(&Body { router_id, instance, count: batch.count(), batch });
    let body = body.map_err(Refusal::permanent)?;
    let authority = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut request = Request::post(format!("{}{query}", url.path()))
        .header(HOST, authority)
        .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header(CONNECTION, "close")
        .body(Full::new(body.into()))
        .map_err(|_| Refusal::permanent("the URL cannot be asked for"))?;
    if let Some(secret) = secret(webhook).await? {
        let name = webhook.header.parse::<HeaderName>().unwrap_or(AUTHORIZATION);
        let value = secret.parse::<HeaderValue>();
        let mut value = value.map_err(|_| Refusal::permanent("the secret cannot stand in a header"))?;
        value.set_sensitive(true);
        request.headers_mut().insert(name, value);
    }
    Ok(request)
}

async fn secret(webhook: &Webhook) -> Result<Option<String>, Refusal> {
    match (&webhook.secret, &webhook.secret_file) {
        (Some(secret), _) => Ok(Some(secret.0.clone())),
        (None, Some(path)) => {
            let read = tokio::fs::read_to_string(path).await;
            let text =
                read.map_err(|error| Refusal::temporary(format!("reading {}: {error}", path.display())))?;
            Ok(Some(text.trim_end().to_owned()))
        }
        (None, None) => Ok(None),
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Refusal::temporary)?;
    let answered = pin!(sender.send_request(request));
    // The connection moves what the answer waits for; it may end first, with the answer delivered.
    let answer = match select(answered, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        Either::Right((_, answered)) => answered.await,
    };
    let status = answer.map_err(Refusal::temporary)?.status();
    match status.as_u16() {
        200..=299 => Ok(()),
        408 | 429 | 500..=599 => Err(Refusal::temporary(format!("status {status}"))),
        _ => Err(Refusal::permanent(format!("status {status}"))),
    }
}
