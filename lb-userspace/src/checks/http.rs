//! A request over HTTP/1.1, with or without TLS.

use std::pin::pin;

use futures::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use regex::bytes::Regex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{failure, tcp, tls::Tls};
use crate::{
    health::{Failure, Pass, Probe},
    model::check::HttpCheck,
};

/// So much of a body is looked at.
const LONGEST_BODY: usize = 1 << 20;

pub async fn check(probe: &Probe, http: &HttpCheck, tls: &Tls) -> Result<Pass, Failure> {
    let stream = tcp::connect(probe).await?;
    match &http.tls {
        None => ask(stream, probe, http).await,
        Some(how) => ask(tls.connect(stream, probe, http.host.as_deref(), how).await?, probe, http).await,
    }
}

async fn ask<S>(stream: S, probe: &Probe, http: &HttpCheck) -> Result<Pass, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(probe, http)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| told(&error))?;
    let exchange = pin!(exchange(sender, request, http));
    // The connection moves what the exchange waits for; it may end first, with the answer delivered.
    match select(exchange, pin!(connection)).await {
        Either::Left((answered, _)) => answered,
        Either::Right((_, exchange)) => exchange.await,
    }
}

fn request(probe: &Probe, http: &HttpCheck) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = http.host.clone().unwrap_or_else(|| probe.target.to_string());
    let mut request = Request::builder()
        .method(http.method.as_str())
        .uri(&http.path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Failure { why: format!("the request cannot be made: {error}") })?;
    for header in &http.headers {
        let (name, value) = header.split_once(':').unwrap_or((header, ""));
        if let (Ok(name), Ok(value)) =
            (name.trim().parse::<HeaderName>(), value.trim().parse::<HeaderValue>())
        {
            request.headers_mut().insert(name, value);
        }
    }
    Ok(request)
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    http: &HttpCheck,
) -> Result<Pass, Failure> {
    let answer = sender.send_request(request).await.map_err(|error| told(&error))?;
    let status = answer.status().as_u16();
    if !http.status.iter().any(|range| range.contains(status)) {
        return Err(Failure { why: format!("status {status}") });
    }
    if let Some(wanted) = &http.body {
        body_matches(answer, wanted).await?;
    }
    Ok(Pass::new(format!("status {status}")))
}

async fn body_matches(answer: Response<Incoming>, wanted: &str) -> Result<(), Failure> {
    let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await;
    let body = body.map_err(|error| Failure { why: format!("the body cannot be read: {error}") })?.to_bytes();
    let wanted = Regex::new(wanted).map_err(|error| Failure { why: format!("`body`: {error}") })?;
    if wanted.is_match(&body) {
        Ok(())
    } else {
        Err(Failure { why: format!("the body ({} bytes) does not match", body.len()) })
    }
}

/// In words for people.
fn told(error: &hyper::Error) -> Failure {
    let system = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match system {
        Some(system) => failure(system),
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            Failure { why: "closed without an answer".to_owned() }
        }
        None if error.is_parse() => Failure { why: "the answer is not HTTP".to_owned() },
        None => Failure { why: error.to_string() },
    }
}
