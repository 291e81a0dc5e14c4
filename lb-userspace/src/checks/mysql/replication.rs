//! How far behind its source a replica is.

use mysql_async::{Conn, Error, Row, Value, prelude::Queryable};
use tokio::{sync::oneshot, time::timeout};

use super::{
    super::{limit::farewell, step::Step},
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
    let why = match timeout((probe.timeout / 2).min(step.left() / 2), told_of).await {
        Ok(Ok((answer, session))) => {
            farewell(probe, step, session.end()).await;
            match answer {
                Ok(lag) => return lag,
                Err(error) => told(&error, step).why,
            }
        }
        // The library panics of what a server says.
        Ok(Err(_)) => step.told("the answer cannot be understood"),
        Err(_) => {
            unanswered.wait(asked, asking);
            step.told(SILENT)
        }
    };
    (Some(None), why)
}

/// How many seconds behind, in words too; none: replication is stopped; no figure at all: it is no replica.
type Lag = (Option<Option<u64>>, String);

async fn lag(server: &mut Conn) -> Result<Lag, Error> {
    /// ER_PARSE_ERROR
    const SYNTAX: u16 = 1064;
    let row: Option<Row> = match server.query_first("SHOW REPLICA STATUS").await {
        // MySQL before 8.0.22, MariaDB before 10.5.
        Err(Error::Server(error)) if error.code == SYNTAX => server.query_first("SHOW SLAVE STATUS").await?,
        other => other?,
    };
    let Some(row) = row else { return Ok((None, "replicates nothing".to_owned())) };
    let column = |names: [&str; 2]| {
        names
            .iter()
            .find_map(|name| row.columns_ref().iter().position(|c| c.name_str() == *name))
            .and_then(|at| row.as_ref(at))
    };
    match column(["Seconds_Behind_Source", "Seconds_Behind_Master"]).and_then(number) {
        Some(seconds) => Ok((Some(Some(seconds)), format!("{seconds} s behind"))),
        None => Ok((Some(None), "replication is stopped".to_owned())),
    }
}

fn number(value: &Value) -> Option<u64> {
    text(value)?.parse().ok()
}
