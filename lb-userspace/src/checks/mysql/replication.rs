//! How far behind its source a replica is.

use mysql_async::{Conn, Error, Row, Value, prelude::Queryable};
use tokio::{sync::oneshot, time::timeout};

use super::{
    super::{
        limit::{farewell, part},
        step::Step,
    },
    Session, Unanswered, text, told,
    unanswered::Asked,
};
use crate::{
    health::{Pass, Probe, Weight},
    model::check::MysqlCheck,
};

/// The last question of a check, which has `found` this before. A replica that does not say how far behind it is counts as
/// lagging, and not as dead.
pub async fn check(
    probe: &Probe,
    mysql: &MysqlCheck,
    session: Session,
    found: &str,
    step: &Step,
    unanswered: &Unanswered,
) -> Pass {
    step.is("replication");
    let asked = Asked::by(probe);
    let (lag, why) = if unanswered.waits(&asked) {
        farewell(probe, step, session.end()).await;
        (Some(None), step.told(SILENT))
    } else {
        ask(probe, session, step, unanswered, asked).await
    };
    let found = format!("{found}, {why}");
    let Some(lag) = lag else { return Pass::new(found) };
    let percent = mysql.percent(lag);
    let weight = if percent >= 100 { Weight::Configured } else { Weight::Lagging { percent, lag } };
    Pass { found, weight }
}

/// What is told of who does not answer.
const SILENT: &str = "no answer";

/// Has to find it out before the whole attempt is over, also if the login took most of its time.
async fn ask(probe: &Probe, session: Session, step: &Step, unanswered: &Unanswered, asked: Asked) -> Lag {
    let (teller, told_of) = oneshot::channel();
    let enough = probe.timeout;
    let asking = tokio::spawn(async move {
        let mut session = session;
        let answer = lag(&mut session.server).await;
        if let Err((_, session)) = teller.send((answer, session)) {
            // Too late for the attempt, but in order.
            let _ = timeout(enough, session.end()).await;
        }
    });
    let why = match part(step, (probe.timeout / 2).min(step.left() / 2), told_of).await {
        Some(Ok((answer, session))) => {
            farewell(probe, step, session.end()).await;
            match answer {
                Ok(lag) => return lag,
                Err(error) => told(&error, step).why,
            }
        }
        // The library panics of what a server says.
        Some(Err(_)) => step.told("the answer cannot be understood"),
        None => {
            unanswered.wait(asked, asking);
            step.told(SILENT)
        }
    };
    (Some(None), why)
}

/// How many seconds behind, in words too; none: replication is stopped; no figure at all: it is no replica.
type Lag = (Option<Option<u64>>, String);

/// How all sources of a replica are asked for; of those of MariaDB the plain words show the session's own connection alone.
/// MariaDB from 10.5.1 on, MySQL from 8.0.22 on, older MariaDB: older MySQL knows none of them.
const NEWER: [&str; 3] = ["SHOW ALL REPLICAS STATUS", "SHOW REPLICA STATUS", "SHOW ALL SLAVES STATUS"];
const OLDEST: &str = "SHOW SLAVE STATUS";

async fn lag(server: &mut Conn) -> Result<Lag, Error> {
    let sources = |rows: Vec<Row>| rows.iter().map(Source::of).collect::<Vec<_>>();
    for question in NEWER {
        match server.query(question).await {
            Err(Error::Server(error)) if error.code == SYNTAX => {}
            rows => return Ok(worst(sources(rows?))),
        }
    }
    Ok(worst(sources(server.query(OLDEST).await?)))
}

/// ER_PARSE_ERROR
const SYNTAX: u16 = 1064;

/// What a replica says of one of its sources: MySQL's channel, MariaDB's connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    /// Empty: the one without a name.
    name: String,
    /// In seconds; none: it is stopped.
    behind: Option<u64>,
}

impl Source {
    fn of(row: &Row) -> Self {
        Self::from_columns(|name| {
            let at = row.columns_ref().iter().position(|column| column.name_str() == name)?;
            row.as_ref(at)
        })
    }

    fn from_columns<'a>(column: impl Fn(&str) -> Option<&'a Value>) -> Self {
        let either = |names: [&str; 2]| names.into_iter().find_map(&column).and_then(text);
        Self {
            name: either(["Channel_Name", "Connection_name"]).unwrap_or_default(),
            behind: either(["Seconds_Behind_Source", "Seconds_Behind_Master"]).and_then(|it| it.parse().ok()),
        }
    }
}

/// Its data is as old as that of the source that is the furthest behind.
fn worst(sources: Vec<Source>) -> Lag {
    let Some(worst) = sources.into_iter().max_by_key(|source| (source.behind.is_none(), source.behind))
    else {
        return (None, "replicates nothing".to_owned());
    };
    let mut words = match worst.behind {
        Some(seconds) => format!("{seconds} s behind"),
        None => "replication is stopped".to_owned(),
    };
    if !worst.name.is_empty() {
        words += &format!(" ({})", worst.name);
    }
    (Some(worst.behind), words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(columns: &[(&str, Value)]) -> Source {
        Source::from_columns(|name| columns.iter().find_map(|(is, value)| (*is == name).then_some(value)))
    }

    fn named(name: &str, behind: Option<u64>) -> Source {
        Source { name: name.to_owned(), behind }
    }

    #[test]
    fn a_source_has_its_name_and_its_lag_in_the_words_of_both_servers() {
        let bytes = |text: &str| Value::Bytes(text.as_bytes().to_vec());
        let mysql = [("Seconds_Behind_Source", bytes("7")), ("Channel_Name", bytes("east"))];
        assert_eq!(source(&mysql), named("east", Some(7)));
        let mariadb = [("Connection_name", bytes("")), ("Seconds_Behind_Master", bytes("0"))];
        assert_eq!(source(&mariadb), named("", Some(0)));
        let stopped = [("Connection_name", bytes("west")), ("Seconds_Behind_Master", Value::NULL)];
        assert_eq!(source(&stopped), named("west", None));
        // What is no figure, or not there at all, is none of a lag that is small.
        assert_eq!(source(&[("Seconds_Behind_Source", bytes("few"))]), named("", None));
        assert_eq!(source(&[]), named("", None));
    }

    #[test]
    fn the_worst_source_counts_wherever_it_stands() {
        let lag = |sources: &[Source]| worst(sources.to_vec());
        assert_eq!(lag(&[]), (None, "replicates nothing".to_owned()));
        assert_eq!(lag(&[named("", Some(3))]), (Some(Some(3)), "3 s behind".to_owned()));
        let mut sources = [named("", Some(0)), named("east", Some(u64::MAX)), named("west", Some(9))];
        for _ in 0..sources.len() {
            sources.rotate_left(1);
            assert_eq!(lag(&sources), (Some(Some(u64::MAX)), format!("{} s behind (east)", u64::MAX)));
        }
        let mut sources = [named("", Some(0)), named("east", None), named("west", Some(u64::MAX))];
        for _ in 0..sources.len() {
            sources.rotate_left(1);
            assert_eq!(lag(&sources), (Some(None), "replication is stopped (east)".to_owned()));
        }
    }
}
