//! Redis, and what else speaks its protocol (<https://redis.io/docs/latest/develop/reference/protocol-spec/>).

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream},
    net::TcpStream,
};

use super::{limit::farewell, mysql::password, step::Step, tcp};
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::{Fit, RedisCheck, Role},
};

/// The longest reply that makes sense: `INFO replication` of a primary with many replicas is the longest.
const LONGEST: u64 = 1 << 16;

pub async fn check(probe: &Probe, redis: &RedisCheck, step: &Step) -> Result<Pass, Failure> {
    let password = password(redis.password.as_ref(), redis.password_file.as_deref()).await?;
    let mut stream = BufStream::new(tcp::connect(probe, step).await?);
    if let Some(password) = &password {
        let login: Vec<&str> =
            ["AUTH"].into_iter().chain(redis.user.as_deref()).chain([&**password]).collect();
        step.is("AUTH");
        expect(&mut stream, &login, "OK", step).await?;
    }
    step.is("PING");
    expect(&mut stream, &["PING"], "PONG", step).await?;
    let mut pass = Pass::new("PONG");
    if redis.role != Role::Any {
        step.is("INFO");
        pass = role(&ask(&mut stream, &["INFO", "replication"], step).await?, redis)?;
    }
    farewell(probe, step, ask(&mut stream, &["QUIT"], step)).await;
    Ok(pass)
}

/// Out of `INFO replication`. A replica whose link to its primary is down has old data.
fn role(info: &str, redis: &RedisCheck) -> Result<Pass, Failure> {
    let of = |key: &str| info.lines().find_map(|line| line.trim_end().strip_prefix(key)).unwrap_or_default();
    let (role, link) = (of("role:"), of("master_link_status:"));
    let is_primary = match role {
        "master" => true,
        "slave" => false,
        _ => return Err(Failure { why: format!("its role is {}", role.escape_default()) }),
    };
    match redis.role.fit(is_primary, redis.fallback) {
        Fit::StandsBy => {
            Ok(Pass { found: "master, stands by for the replicas".to_owned(), weight: Weight::StandBy })
        }
        Fit::Serves if is_primary || link == "up" => Ok(Pass::new(role)),
        Fit::Serves => Err(Failure { why: "the link to the primary is down".to_owned() }),
        Fit::Wrong if is_primary => Err(Failure { why: "the primary, no replica".to_owned() }),
        Fit::Wrong => Err(Failure { why: "a replica, not the primary".to_owned() }),
    }
}

/// One command, whose reply has to be this one.
async fn expect(
    stream: &mut BufStream<TcpStream>,
    words: &[&str],
    wanted: &str,
    step: &Step,
) -> Result<(), Failure> {
    let answer = ask(stream, words, step).await?;
    if answer == wanted {
        return Ok(());
    }
    let command = words.first().copied().unwrap_or_default();
    Err(Failure { why: format!("{command} is answered with {}", answer.escape_default()) })
}

/// One command and its reply, a simple or a bulk string. An error is a failure.
async fn ask(stream: &mut BufStream<TcpStream>, words: &[&str], step: &Step) -> Result<String, Failure> {
    let mut command = format!("*{}\r\n", words.len());
    for word in words {
        command += &format!("${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(command.as_bytes()).await.map_err(|error| step.broken(&error))?;
    stream.flush().await.map_err(|error| step.broken(&error))?;
    let line = line(stream, step).await?;
    match line.split_at_checked(1) {
        Some(("+", text)) => Ok(text.to_owned()),
        Some(("-", error)) => Err(Failure { why: format!("error: {}", error.escape_default()) }),
        Some(("$", length)) => match length.parse() {
            Ok(length) if length <= LONGEST => bulk(stream, length, step).await,
            _ => Err(not_redis()),
        },
        _ => Err(not_redis()),
    }
}

async fn line(stream: &mut BufStream<TcpStream>, step: &Step) -> Result<String, Failure> {
    let mut line = Vec::new();
    stream.take(LONGEST).read_until(b'\n', &mut line).await.map_err(|error| step.broken(&error))?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None if line.last() == Some(&b'\n') => Err(not_redis()),
        None => Err(step.closed()),
    }
}

async fn bulk(stream: &mut BufStream<TcpStream>, length: u64, step: &Step) -> Result<String, Failure> {
    let mut text = Vec::new();
    stream.take(length + 2).read_to_end(&mut text).await.map_err(|error| step.broken(&error))?;
    match text.strip_suffix(b"\r\n") {
        Some(text) if text.len() as u64 == length => Ok(String::from_utf8_lossy(text).into_owned()),
        _ => Err(step.closed()),
    }
}

fn not_redis() -> Failure {
    Failure { why: "this is not Redis".to_owned() }
}
