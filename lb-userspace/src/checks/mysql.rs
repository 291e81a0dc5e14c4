//! MySQL and MariaDB: the handshake alone, or a login and questions.

mod handshake;
mod replication;
mod unanswered;

use std::{
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use mysql_async::{Conn, Error, IoError, OptsBuilder, Row, SslOpts, Value, prelude::Queryable};
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::copy_bidirectional, net::TcpListener, task::JoinHandle};
use tokio_rustls::rustls;

pub use unanswered::Unanswered;

use super::{
    Common, failure,
    limit::{farewell, within},
    local,
    step::Step,
    tcp,
    tls::{Tls, ca_file},
};
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::{Fit, Galera, MysqlCheck, Role, Secret, TlsCheck},
};

pub async fn check(probe: &Probe, mysql: &MysqlCheck, common: &Common, step: &Step) -> Result<Pass, Failure> {
    if mysql.logs_in() {
        log_in(probe, mysql, common, step).await
    } else {
        handshake::handshake(probe, mysql, step).await
    }
}

async fn log_in(probe: &Probe, mysql: &MysqlCheck, common: &Common, step: &Step) -> Result<Pass, Failure> {
    let password = password(mysql.password.as_ref(), mysql.password_file.as_deref()).await?;
    let ssl = match &mysql.tls {
        Some(how) => Some(ssl(probe, how, &common.tls).await?),
        None => None,
    };
    let relay = Relay::start(probe, step).await?;
    let options = OptsBuilder::default()
        .ip_or_hostname(relay.at.ip().to_string())
        .tcp_port(relay.at.port())
        .user(mysql.user.as_deref())
        .pass(password)
        .prefer_socket(Some(false))
        // Else it would ask the server for them.
        .max_allowed_packet(Some(1 << 24))
        .wait_timeout(Some(60))
        .ssl_opts(ssl);
    step.is("login");
    let server = match within(step.connected_by(probe), Conn::new(options)).await {
        Some(connected) => connected.map_err(|error| told(&error, step))?,
        None => return Err(Failure { why: step.told("no answer") }),
    };
    let mut session = Session { server, relay };
    match questions(mysql, &mut session.server, step).await {
        Ok(pass) if !mysql.lag.is_empty() && pass.weight != Weight::StandBy => {
            Ok(replication::check(probe, mysql, session, &pass.found, step, &common.unanswered).await)
        }
        asked => {
            farewell(probe, step, session.end()).await;
            asked
        }
    }
}

/// A login that has succeeded.
struct Session {
    server: Conn,
    relay: Relay,
}

impl Session {
    /// Ends it in order.
    async fn end(mut self) {
        let _ = self.server.disconnect().await;
        // Until it is passed on; the server answers it by closing.
        let _ = (&mut self.relay.task).await;
    }
}

/// The name is the check's own, as the login goes to a relay.
async fn ssl(probe: &Probe, how: &TlsCheck, tls: &Tls) -> Result<SslOpts, Failure> {
    let name = how.sni.clone().unwrap_or_else(|| probe.target.ip().to_string());
    let options = SslOpts::default().with_danger_tls_hostname_override(Some(name));
    if !how.verify {
        return Ok(options.with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true));
    }
    let trusted = match &how.ca {
        Some(path) => vec![local::read(path).await.map_err(|error| ca_file(path, &error))?.into()],
        None => tls.system_certificates().iter().map(|it| it.as_ref().to_vec().into()).collect(),
    };
    Ok(options.with_disable_built_in_roots(true).with_root_certs(trusted))
}

/// The login's library makes its connections itself, and none that is marked, or bound, or ends with a reset (see
/// [`tcp::connect`]; a server that hangs and goes on would find each that was given up closed in the handshake, which is
/// an error to it): it connects to this, which passes on what it says. Whoever else on the director came first would have
/// no more than a connection to the server, and the check would fail once; in the namespace of the checks through the
/// VIP is nobody else.
struct Relay {
    at: SocketAddr,
    task: JoinHandle<()>,
}

/// Of a server that is silent: whether it is still there is asked from so long on, so often, and three times.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(5))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);

impl Relay {
    async fn start(probe: &Probe, step: &Step) -> Result<Self, Failure> {
        let mut server = tcp::connect(probe, step).await?;
        // A question may wait for long: that its server has gone without a word is to be found out.
        SockRef::from(&server).set_tcp_keepalive(&KEEPALIVE).map_err(|error| failure(&error))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(|error| failure(&error))?;
        let at = listener.local_addr().map_err(|error| failure(&error))?;
        let task = tokio::spawn(async move {
            if let Ok((mut login, _)) = listener.accept().await {
                // Either end tells the check what there is to tell.
                let _ = copy_bidirectional(&mut login, &mut server).await;
            }
        });
        Ok(Self { at, task })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The one that is given, or that stands in a file; there is at most one of them.
pub async fn password(given: Option<&Secret>, file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file else {
        return Ok(given.map(|secret| secret.0.clone()));
    };
    let wrong = |why: &dyn Display| Failure { why: format!("password_file {}: {why}", path.display()) };
    let content = local::read(path).await.map_err(|error| wrong(&failure(&error).why))?;
    let text = String::from_utf8(content).map_err(|error| wrong(&error))?;
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// All but the one about replication.
async fn questions(mysql: &MysqlCheck, server: &mut Conn, step: &Step) -> Result<Pass, Failure> {
    let mut found = "logged in".to_owned();
    if mysql.role != Role::Any {
        step.is("read_only");
        let is_primary = is_primary(server, step).await?;
        found = if is_primary { "writable" } else { "read_only" }.to_owned();
        match mysql.role.fit(is_primary, mysql.fallback) {
            Fit::Serves => {}
            Fit::StandsBy => {
                query(mysql, server, step).await?;
                return Ok(Pass {
                    found: "writable, stands by for the replicas".to_owned(),
                    weight: Weight::StandBy,
                });
            }
            Fit::Wrong if is_primary => return Err(Failure { why: "writable, no replica".to_owned() }),
            Fit::Wrong => return Err(Failure { why: "read_only, not the primary".to_owned() }),
        }
    }
    if mysql.galera != Galera::Off {
        step.is("wsrep");
        found = galera(mysql.galera, server, step).await?;
    }
    query(mysql, server, step).await?;
    Ok(Pass::new(found))
}

/// Whether it takes writes: `read_only` is off. It is a number, or a word where it has more values (MariaDB 12).
async fn is_primary(server: &mut Conn, step: &Step) -> Result<bool, Failure> {
    let row: Option<Row> =
        server.query_first("SELECT @@global.read_only").await.map_err(|error| told(&error, step))?;
    match row.as_ref().and_then(|row| row.as_ref(0)).and_then(text) {
        Some(value) => Ok(value == "0" || value.eq_ignore_ascii_case("OFF")),
        None => Err(Failure { why: "it does not say whether it is read_only".to_owned() }),
    }
}

/// The check's own question.
async fn query(mysql: &MysqlCheck, server: &mut Conn, step: &Step) -> Result<(), Failure> {
    let Some(query) = &mysql.query else { return Ok(()) };
    step.is("query");
    let row: Option<Row> = server.query_first(query.as_str()).await.map_err(|error| told(&error, step))?;
    row.map(drop).ok_or_else(|| Failure { why: "the query gave no row".to_owned() })
}

/// Whether the node of a cluster may serve.
async fn galera(wanted: Galera, server: &mut Conn, step: &Step) -> Result<String, Failure> {
    let names = "SHOW GLOBAL STATUS WHERE Variable_name IN \
                 ('wsrep_ready', 'wsrep_cluster_status', 'wsrep_local_state', 'wsrep_local_state_comment')";
    let rows: Vec<Row> = server.query(names).await.map_err(|error| told(&error, step))?;
    let of = |name: &str| {
        let column = |row: &Row, at: usize| row.as_ref(at).and_then(text);
        let row = rows.iter().find(|row| column(row, 0).is_some_and(|it| it.eq_ignore_ascii_case(name)));
        row.and_then(|row| column(row, 1)).unwrap_or_default()
    };
    let (ready, state, words) = (of("wsrep_ready"), of("wsrep_local_state"), of("wsrep_local_state_comment"));
    let cluster = of("wsrep_cluster_status");
    let serves = cluster == "Primary" && (state == "4" || (wanted == Galera::Donor && state == "2"));
    match (&*ready, serves) {
        ("ON", true) => Ok(format!("wsrep {words}")),
        _ if state.is_empty() => Err(Failure { why: "no node of a Galera cluster".to_owned() }),
        _ => {
            let why = format!("wsrep is {words} (state {state}), ready {ready}, the cluster {cluster}");
            Err(Failure { why })
        }
    }
}

/// As the text protocol has it; a lying server may say it in another type.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::Int(n) => Some(n.to_string()),
        Value::UInt(n) => Some(n.to_string()),
        _ => None,
    }
}

fn told(error: &Error, step: &Step) -> Failure {
    match error {
        Error::Server(error) => Failure { why: format!("error {}: {}", error.code, error.message) },
        Error::Io(IoError::Tls(error)) => Failure { why: format!("TLS: {error}") },
        Error::Io(IoError::Io(error)) => {
            let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
            if is_tls { Failure { why: format!("TLS: {}", failure(error).why) } } else { step.broken(error) }
        }
        error => Failure { why: error.to_string() },
    }
}
