//! PostgreSQL: the server's first answer alone, or a login and questions.

use std::pin::pin;

use futures::future::{Either, select};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_postgres::{Client, Config, Error, NoTls, SimpleQueryMessage, config::SslMode};

use super::{
    limit::farewell,
    mysql::password,
    step::Step,
    tcp,
    tls::{Speaks, Tls},
};
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::{Fit, PostgresCheck, Role},
};

/// The longest first answer that makes sense.
const LONGEST: usize = 1 << 16;
/// SSLRequest and the version of a StartupMessage, as in the manual's chapter "Message Formats".
const SSL_REQUEST: u32 = 80_877_103;
const PROTOCOL_3: u32 = 3 << 16;

pub async fn check(probe: &Probe, postgres: &PostgresCheck, tls: &Tls, step: &Step) -> Result<Pass, Failure> {
    let mut stream = tcp::connect(probe, step).await?;
    if !postgres.logs_in() {
        return first_answer(stream, postgres, step).await;
    }
    let Some(how) = &postgres.tls else {
        return log_in(probe, stream, postgres, step).await;
    };
    step.is("SSLRequest");
    stream.write_all(&message(&[SSL_REQUEST], &[])).await.map_err(|error| step.broken(&error))?;
    match stream.read_u8().await {
        Ok(b'S') => {}
        Ok(b'N') => return Err(Failure { why: "the server has no TLS".to_owned() }),
        Ok(_) => return Err(Failure { why: "this is not PostgreSQL".to_owned() }),
        Err(error) => return Err(step.broken(&error)),
    }
    let stream = tls.connect(stream, probe, None, how, Speaks::Anything, step).await?;
    log_in(probe, stream, postgres, step).await
}

/// How the server answers to the begin of a login: with a question for a password, or with an error.
async fn first_answer(mut stream: TcpStream, postgres: &PostgresCheck, step: &Step) -> Result<Pass, Failure> {
    step.is("login");
    let database = postgres.database.as_deref().unwrap_or(&postgres.user);
    let start = message(&[PROTOCOL_3], &["user", &postgres.user, "database", database, ""]);
    stream.write_all(&start).await.map_err(|error| step.broken(&error))?;
    let kind = stream.read_u8().await.map_err(|error| step.broken(&error))?;
    let length = stream.read_u32().await.map_err(|error| step.broken(&error))? as usize;
    if !matches!(kind, b'R' | b'E') || !(4..=LONGEST).contains(&length) {
        return Err(Failure { why: "this is not PostgreSQL".to_owned() });
    }
    let mut payload = vec![0; length - 4];
    stream.read_exact(&mut payload).await.map_err(|error| step.broken(&error))?;
    // Terminate: the result is known already.
    let _ = stream.write_all(b"X\0\0\0\x04").await;
    match kind {
        b'R' => Ok(Pass::new("answers to a login")),
        _ => Err(Failure { why: format!("error {}", told_fields(&payload)) }),
    }
}

/// A message without a type, as a connection begins.
fn message(words: &[u32], texts: &[&str]) -> Vec<u8> {
    let mut payload: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    for text in texts {
        payload.extend(text.as_bytes());
        payload.push(0);
    }
    let length = u32::try_from(payload.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &payload].concat()
}

/// Code and text of an ErrorResponse: fields of a letter and a text each.
fn told_fields(payload: &[u8]) -> String {
    let fields = payload.split(|byte| *byte == 0).filter_map(|field| field.split_first());
    let of = |letter: u8| {
        let text = fields.clone().find(|(kind, _)| **kind == letter).map(|(_, text)| text);
        String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
    };
    format!("{}: {}", of(b'C'), of(b'M'))
}

async fn log_in<S>(probe: &Probe, stream: S, postgres: &PostgresCheck, step: &Step) -> Result<Pass, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let password = password(postgres.password.as_ref(), postgres.password_file.as_deref()).await?;
    let mut config = Config::new();
    // What is below is TLS already, or shall not be.
    config.user(&postgres.user).application_name("lb").ssl_mode(SslMode::Disable);
    config.dbname(postgres.database.as_deref().unwrap_or(&postgres.user));
    if let Some(password) = password {
        config.password(password);
    }
    step.is("login");
    let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(|error| told(&error, step))?;
    let questions = pin!(async move {
        let asked = questions(&client, postgres, step).await;
        // Its end is the connection's: it leaves in order.
        drop(client);
        asked
    });
    // In a box, so that its end is an end to those who wait for it.
    match select(questions, Box::pin(connection)).await {
        Either::Left((asked, connection)) => {
            farewell(probe, step, connection).await;
            asked
        }
        // Its last answers may have been heard.
        Either::Right((ended, questions)) => match (questions.await, ended) {
            (Err(failure), Err(error)) if failure == step.closed() => Err(told(&error, step)),
            (asked, _) => asked,
        },
    }
}

async fn questions(client: &Client, postgres: &PostgresCheck, step: &Step) -> Result<Pass, Failure> {
    let (mut found, mut weight) = ("logged in".to_owned(), Weight::Configured);
    if postgres.role != Role::Any {
        step.is("pg_is_in_recovery");
        let in_recovery = first_row(client, "SELECT pg_is_in_recovery()", step).await?;
        let is_primary = match in_recovery.as_deref() {
            Some("f") => true,
            Some("t") => false,
            _ => return Err(Failure { why: "it does not say whether it is in recovery".to_owned() }),
        };
        found = if is_primary { "not in recovery" } else { "in recovery" }.to_owned();
        match postgres.role.fit(is_primary, postgres.fallback) {
            Fit::Serves => {}
            Fit::StandsBy => {
                found += ", stands by for the replicas";
                weight = Weight::StandBy;
            }
            Fit::Wrong if is_primary => return Err(Failure { why: format!("{found}, no replica") }),
            Fit::Wrong => return Err(Failure { why: format!("{found}, not the primary") }),
        }
    }
    if let Some(query) = &postgres.query {
        step.is("query");
        if first_row(client, query, step).await?.is_none() {
            return Err(Failure { why: "the query gave no row".to_owned() });
        }
    }
    Ok(Pass { found, weight })
}

/// The first column of the first row, as text; NULL is empty.
async fn first_row(client: &Client, query: &str, step: &Step) -> Result<Option<String>, Failure> {
    let messages = client.simple_query(query).await.map_err(|error| told(&error, step))?;
    Ok(messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.try_get(0).ok().flatten().unwrap_or_default().to_owned()),
        _ => None,
    }))
}

fn told(error: &Error, step: &Step) -> Failure {
    if let Some(error) = error.as_db_error() {
        return Failure { why: format!("error {}: {}", error.code().code(), error.message()) };
    }
    let system = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    match system {
        Some(system) => step.broken(system),
        None if error.is_closed() => step.closed(),
        None => Failure { why: error.to_string() },
    }
}
