//! A mail server's greeting, its answer to ours, and an orderly end (RFC 5321).

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};

use super::{
    limit::farewell,
    step::Step,
    tcp,
    tls::{Speaks, Tls},
};
use crate::{
    health::{Failure, Pass, Probe},
    model::check::SmtpCheck,
};

/// RFC 5321 section 4.5.3.1.5 has 512 for a line of a reply; some say more.
const LONGEST_LINE: u64 = 4096;
/// Of one reply.
const MOST_LINES: usize = 100;

pub async fn check(probe: &Probe, smtp: &SmtpCheck, tls: &Tls, step: &Step) -> Result<Pass, Failure> {
    let mut stream = BufStream::new(tcp::connect(probe, step).await?);
    step.is("greeting");
    let greeting = reply(&mut stream, 220, "the greeting", step).await?;
    let Some(how) = &smtp.starttls else {
        step.is("HELO");
        say(&mut stream, &format!("HELO {}", smtp.helo), 250, step).await?;
        return leave(probe, stream, &greeting, step).await;
    };
    step.is("EHLO");
    let offers = say(&mut stream, &format!("EHLO {}", smtp.helo), 250, step).await?;
    if !offers.iter().any(|offer| offer.eq_ignore_ascii_case("STARTTLS")) {
        return Err(Failure { why: "no STARTTLS is offered".to_owned() });
    }
    step.is("STARTTLS");
    say(&mut stream, "STARTTLS", 220, step).await?;
    let stream = tls.connect(stream.into_inner(), probe, None, how, Speaks::Anything, step).await?;
    let mut stream = BufStream::new(stream);
    step.is("EHLO over TLS");
    say(&mut stream, &format!("EHLO {}", smtp.helo), 250, step).await?;
    leave(probe, stream, &greeting, step).await
}

/// QUIT.
async fn leave<S: AsyncRead + AsyncWrite + Unpin>(
    probe: &Probe,
    mut stream: BufStream<S>,
    greeting: &[String],
    step: &Step,
) -> Result<Pass, Failure> {
    farewell(probe, step, say(&mut stream, "QUIT", 221, step)).await;
    let whose = greeting.first().and_then(|line| line.split_whitespace().next()).unwrap_or_default();
    Ok(Pass::new(format!("greeting of {}", whose.escape_default())))
}

/// Sends one command; the lines of the reply, which must have this code.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    command: &str,
    code: u16,
    step: &Step,
) -> Result<Vec<String>, Failure> {
    let line = format!("{command}\r\n");
    stream.write_all(line.as_bytes()).await.map_err(|error| step.broken(&error))?;
    stream.flush().await.map_err(|error| step.broken(&error))?;
    let verb = command.split(' ').next().unwrap_or_default();
    reply(stream, code, &format!("the reply to {verb}"), step).await
}

/// The text of each line of one reply.
async fn reply<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufStream<S>,
    wanted: u16,
    what: &str,
    step: &Step,
) -> Result<Vec<String>, Failure> {
    let mut texts = Vec::new();
    while texts.len() < MOST_LINES {
        let mut line = Vec::new();
        stream.take(LONGEST_LINE).read_until(b'\n', &mut line).await.map_err(|error| step.broken(&error))?;
        if line.last() != Some(&b'\n') {
            return Err(step.closed());
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
        let (Some(code), Some(text)) = (code, line.get(3..)) else {
            return Err(Failure { why: "this is not SMTP".to_owned() });
        };
        if code != wanted {
            return Err(Failure { why: format!("{what} is {}", line.escape_default()) });
        }
        texts.push(text.get(1..).unwrap_or_default().to_owned());
        if !text.starts_with('-') {
            return Ok(texts);
        }
    }
    Err(Failure { why: format!("{what} has no end") })
}
