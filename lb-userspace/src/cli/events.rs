//! `lb events`: what has happened, and what happens.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::{CliError, Output, output::Tone};
use crate::{
    api::client::{Client, ClientError},
    clock::realtime,
    events::{Event, Filter, Level, Listed},
    model::ServiceName,
};

/// So many are shown if nothing else is asked for.
const SHOWN: usize = 50;
/// A request waits so many seconds for an event.
const WAIT: u64 = 20;
/// Between attempts to reach an agent that is away.
const AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Goes on with what happens, until Ctrl-C; also after a restart of the agent
    #[arg(long, short)]
    pub(super) follow: bool,
    /// Only events from then on: 10m ago (s, m, h, d), or a time such as 2026-11-28T14:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub(super) since: Option<When>,
    /// The newest N only [default: 50, unless --since is given]
    #[arg(long, value_name = "N")]
    pub(super) last: Option<usize>,
    /// Only events of this service
    #[arg(long, value_name = "NAME")]
    pub(super) service: Option<ServiceName>,
}

/// A time, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    At(Timestamp),
    Ago(Duration),
}

impl When {
    fn time(self) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(ago) => SignedDuration::try_from(ago)
                .ok()
                .and_then(|ago| realtime().checked_sub(ago).ok())
                .unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }
}

pub(super) async fn run(args: EventsArgs, client: &Client, output: &mut Output<'_>) -> Result<(), CliError> {
    let EventsArgs { follow, since, last, service } = args;
    let since = since.map(When::time);
    let last = last.or((since.is_none()).then_some(SHOWN));
    let listed =
        client.events(&Filter { since, last, service: service.clone(), ..Filter::default() }).await?;
    print(&listed, output)?;
    output.flush()?;
    if follow { go_on(listed.newest, service, client, output).await } else { Ok(()) }
}

/// Prints what comes after the event of this number, for ever.
async fn go_on(
    mut after: u64,
    service: Option<ServiceName>,
    client: &Client,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    let mut is_away = false;
    loop {
        let filter =
            Filter { after: Some(after), service: service.clone(), wait: Some(WAIT), ..Filter::default() };
        let listed = match client.events(&filter).await {
            Ok(listed) => listed,
            // It stops in the middle of a wait, or is being restarted; or has bound its socket and is not ready yet.
            Err(
                error @ (ClientError::NotRunning { .. }
                | ClientError::Broken { .. }
                | ClientError::Timeout { .. }),
            ) => {
                if !std::mem::replace(&mut is_away, true) {
                    output.note(&format!("waiting for the agent: {error}"));
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        is_away = false;
        if listed.newest < after {
            output.note("the numbers of events have begun anew: the event log was lost");
            after = 0;
            continue;
        }
        if listed.missed > 0 {
            output.note(&format!("{} events came too fast to be shown", listed.missed));
        }
        print(&listed, output)?;
        output.flush()?;
        after = listed.newest;
    }
}

/// A line for each; of JSON an object.
fn print(listed: &Listed, output: &mut Output<'_>) -> Result<(), CliError> {
    for event in &listed.events {
        if output.is_json() {
            output.json(event, true)?;
        } else {
            output.line(line(event, output))?;
        }
    }
    Ok(())
}

fn line(event: &Event, output: &Output<'_>) -> String {
    let Event { time, what, .. } = event;
    let tone = match what.kind.level() {
        Level::Info => Tone::Good,
        Level::Warning => Tone::Notice,
        Level::Error => Tone::Bad,
    };
    let kind = output.toned(&format!("{:17}", what.kind.name()), tone);
    let place = match (&what.service, what.backend) {
        (Some(service), Some(backend)) => format!("{service} {backend} "),
        (Some(service), None) => format!("{service} "),
        (None, Some(backend)) => format!("{backend} "),
        (None, None) => String::new(),
    };
    format!("{time:.3}  {kind}  {place}{what}")
}

/// `10m`, or RFC 3339.
pub(super) fn when(text: &str) -> Result<When, String> {
    if let Ok(seconds) = crate::config::timeout(text) {
        return Ok(When::Ago(Duration::from_secs(seconds.into())));
    }
    text.parse().map(When::At).map_err(|_| {
        "not a time: write how long ago (90s, 10m, 2h, 1d) or a time such as 2026-11-28T14:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ago_or_absolute() {
        assert_eq!(when("10m"), Ok(When::Ago(Duration::from_secs(600))));
        let time = "2026-11-28T14:00:00Z".parse().expect("a time");
        assert_eq!(when("2026-11-28T15:00:00+01:00"), Ok(When::At(time)));
        assert!(when("yesterday").expect_err("no time").contains("10m"));
        assert!(When::Ago(Duration::from_secs(60)).time() < realtime());
        assert_eq!(When::At(time).time(), time);
    }

    #[test]
    fn a_line_has_it_all() {
        let text = "{\"seq\":7,\"time\":\"2026-11-18T10:00:00.123456Z\",\"kind\":\"backend-down\",\"service\":\"web\",\
                    \"backend\":\"10.0.0.1:80\",\"reason\":\"tcp: connection refused after 0.3 ms\"}";
        let event = serde_json::from_str(text).expect("an event");
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(
            line(&event, &Output::new(&mut out, &mut err, false)),
            "2026-11-18T10:00:00.123Z  backend-down       web 10.0.0.1:80 backend is down: tcp: connection refused after \
             0.3 ms"
        );
    }
}
