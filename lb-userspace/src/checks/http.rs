//! A request over HTTP/1.1 or HTTP/2, with or without TLS.

use std::pin::pin;

use futures::future::{Either, select};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
    header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use md5::{Digest as _, Md5};
use regex::bytes::Regex;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    step::Step,
    tcp,
    tls::{Speaks, Tls},
};
use crate::{
    health::{Failure, Pass, Probe},
    model::check::{Digest, HttpCheck},
};

const CLOSED: &str = "closed without an answer";
/// Name of a step.
const BODY: &str = "the body cannot be read";
/// So much of a body is looked at.
const LONGEST_BODY: usize = 1 << 20;

pub async fn check(probe: &Probe, http: &HttpCheck, tls: &Tls, step: &Step) -> Result<Pass, Failure> {
    let stream = tcp::connect(probe, step).await?;
    let speaks = if http.http2 { Speaks::Protocol(b"h2") } else { Speaks::Anything };
    match &http.tls {
        None => ask(stream, probe, http, step).await,
        Some(how) => {
            let stream = tls.connect(stream, probe, http.host.as_deref(), how, speaks, step).await?;
            ask(stream, probe, http, step).await
        }
    }
}

async fn ask<S>(stream: S, probe: &Probe, http: &HttpCheck, step: &Step) -> Result<Pass, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (request, stream) = (request(probe, http)?, TokioIo::new(stream));
    // The check's label says it.
    step.is("");
    // The connection moves what the exchange waits for; it may end first, with the answer delivered.
    if http.http2 {
        let shaken = http2::handshake(TokioExecutor::new(), stream).await;
        let (mut sender, connection) = shaken.map_err(|error| told(&error, step))?;
        let exchange = pin!(async { judge(sender.send_request(request).await, http, step).await });
        match select(exchange, pin!(connection)).await {
            Either::Left((answered, _)) => answered,
            Either::Right((_, exchange)) => exchange.await,
        }
    } else {
        let shaken = http1::handshake(stream).await;
        let (mut sender, connection) = shaken.map_err(|error| told(&error, step))?;
        let exchange = pin!(async { judge(sender.send_request(request).await, http, step).await });
        match select(exchange, pin!(connection)).await {
            Either::Left((answered, _)) => answered,
            Either::Right((_, exchange)) => exchange.await,
        }
    }
}

/// HTTP/2 has the host in the URI, and no `Connection` (RFC 9113 section 8).
fn request(probe: &Probe, http: &HttpCheck) -> Result<Request<Empty<Bytes>>, Failure> {
    let host = http.host.clone().unwrap_or_else(|| probe.target.to_string());
    let scheme = if http.tls.is_some() { "https" } else { "http" };
    let builder = Request::builder()
        .method(http.method.as_str())
        .header(USER_AGENT, concat!("lb/", env!("CARGO_PKG_VERSION")));
    let builder = if http.http2 {
        builder.uri(format!("{scheme}://{host}{}", http.path))
    } else {
        builder.uri(&http.path).header(HOST, host).header(CONNECTION, "close")
    };
    let mut request = builder
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

async fn judge(
    answer: Result<Response<Incoming>, hyper::Error>,
    http: &HttpCheck,
    step: &Step,
) -> Result<Pass, Failure> {
    let answer = answer.map_err(|error| told(&error, step))?;
    let status = answer.status().as_u16();
    if !http.status.iter().any(|range| range.contains(status)) {
        return Err(Failure { why: format!("status {status}") });
    }
    for expected in &http.expect_headers {
        header_matches(&answer, expected)?;
    }
    if http.body.is_some() || http.digest.is_some() {
        step.is(BODY);
        body_matches(answer, http, step).await?;
    }
    Ok(Pass::new(format!("status {status}")))
}

/// `Name: regular expression`; of several headers of this name one is enough.
fn header_matches(answer: &Response<Incoming>, expected: &str) -> Result<(), Failure> {
    let (name, wanted) = expected.split_once(':').unwrap_or((expected, ""));
    let wanted =
        Regex::new(wanted.trim()).map_err(|error| Failure { why: format!("`expect_headers`: {error}") })?;
    let values = answer.headers().get_all(name.trim());
    if values.iter().any(|value| wanted.is_match(value.as_bytes())) {
        return Ok(());
    }
    Err(Failure {
        why: match values.iter().next() {
            None => format!("there is no header {name}"),
            Some(_) => format!("header {name} does not match"),
        },
    })
}

async fn body_matches(answer: Response<Incoming>, http: &HttpCheck, step: &Step) -> Result<(), Failure> {
    let body = Limited::new(answer.into_body(), LONGEST_BODY).collect().await;
    let body = body.map_err(|error| Failure { why: step.told(&error.to_string()) })?.to_bytes();
    if let Some(wanted) = &http.body {
        let wanted = Regex::new(wanted).map_err(|error| Failure { why: format!("`body`: {error}") })?;
        if !wanted.is_match(&body) {
            return Err(Failure { why: format!("the body ({} bytes) does not match", body.len()) });
        }
    }
    if let Some(wanted) = &http.digest {
        let is = match wanted {
            Digest::Md5(_) => hex(&Md5::digest(&body)),
            Digest::Sha256(_) => hex(&Sha256::digest(&body)),
        };
        if is != wanted.hex() {
            return Err(Failure { why: format!("the body ({} bytes) has the digest {is}", body.len()) });
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// In words for people.
fn told(error: &hyper::Error, step: &Step) -> Failure {
    let system = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match system {
        Some(system) if system.kind() != std::io::ErrorKind::UnexpectedEof => step.broken(system),
        Some(_) => Failure { why: CLOSED.to_owned() },
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            Failure { why: CLOSED.to_owned() }
        }
        None if error.is_parse() => Failure { why: "the answer is not HTTP".to_owned() },
        None => Failure { why: error.to_string() },
    }
}
