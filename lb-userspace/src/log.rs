//! Where log lines go: stderr, in the form that whoever reads stderr wants.

use std::{
    env, fmt,
    io::{self, IsTerminal},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    filter::ParseError,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Format, Writer},
    },
    registry::LookupSpan,
};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `journald` when stderr is the journal, else `text`.
    #[default]
    Auto,
    /// One line with time, level and fields; colour on a terminal.
    Text,
    /// One JSON object a line.
    Json,
    /// No time (the journal has it), a syslog priority `<N>` in front.
    Journald,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "log filter {filter:?}: {error}; use a level (error, warn, info, debug, trace), or levels by module \
         such as info,lb::agent=debug"
    )]
    BadFilter { filter: String, error: ParseError },
    #[error("logging is set up already")]
    Twice,
}

/// Sends the events that pass `filter` (a level, or levels by module) to stderr.
///
/// # Errors
/// A filter that does not parse; a second call in one process.
pub fn init(filter: &str, format: LogFormat) -> Result<(), LogError> {
    let levels = EnvFilter::try_new(filter)
        .map_err(|error| LogError::BadFilter { filter: filter.to_owned(), error })?;
    let lines = tracing_subscriber::fmt().with_env_filter(levels).with_writer(io::stderr);
    match resolve(format, stderr_is_the_journal()) {
        LogFormat::Json => lines.json().try_init(),
        LogFormat::Journald => lines.with_ansi(false).event_format(Prioritised::new()).try_init(),
        LogFormat::Auto | LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
    }
    .map_err(|_| LogError::Twice)
}

fn resolve(format: LogFormat, journal: bool) -> LogFormat {
    match (format, journal) {
        (LogFormat::Auto, true) => LogFormat::Journald,
        (LogFormat::Auto, false) => LogFormat::Text,
        (chosen, _) => chosen,
    }
}

/// Whether stderr is the stream that systemd connected to the journal: `JOURNAL_STREAM` holds its device
/// and inode (systemd.exec(5)), and a redirected stderr has others.
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|stderr| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Lines with a syslog priority in front, which journald takes off again (sd-daemon(3)).
struct Prioritised(Format<format::Full, ()>);

impl Prioritised {
    fn new() -> Self {
        // The priority says the level and the journal has the time.
        Self(Format::default().without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(event.metadata().level());
        // The journal cuts at line ends: without a prefix of its own a second line would fall to the
        // default priority.
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

/// syslog(3)'s severity.
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Captured {
        type Writer = Self;
        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn journal_lines_carry_a_priority_and_no_time() {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("info")
            .with_writer(captured.clone())
            .with_ansi(false)
            .event_format(Prioritised::new())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(target: "lb::agent", service = "mysql", "added");
            tracing::error!(target: "lb", "first\nsecond");
            tracing::debug!(target: "lb", "not shown");
        });
        let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<6>lb::agent: added service=\"mysql\"\n<3>lb: first\n<3>second\n");
    }

    #[test]
    fn auto_follows_what_stderr_is() {
        assert_eq!(resolve(LogFormat::Auto, true), LogFormat::Journald);
        assert_eq!(resolve(LogFormat::Auto, false), LogFormat::Text);
        assert_eq!(resolve(LogFormat::Json, true), LogFormat::Json);
    }

    #[test]
    fn a_bad_filter_says_what_a_good_one_is() {
        let error = init("lb=loud", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("error, warn, info"), "{error}");
    }
}
