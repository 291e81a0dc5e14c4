//! MySQL and MariaDB: the handshake alone, or a login and questions.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use mysql_async::{Conn, Error, OptsBuilder, Row, SslOpts, Value, prelude::Queryable};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};

use super::{failure, tcp};
use crate::{
    health::{Failure, Pass, Probe, Weight},
    model::check::{Galera, MysqlCheck, MysqlTls, Role, Secret},
};

/// The longest first packet that makes sense; a length beyond is no MySQL.
const LONGEST_PACKET: usize = 1 << 16;

pub async fn check(probe: &Probe, mysql: &MysqlCheck) -> Result<Pass, Failure> {
    if mysql.logs_in() { log_in(probe, mysql).await } else { handshake(probe, mysql).await }
}

/// The server's greeting, and its answer to a user without a password.
async fn handshake(probe: &Probe, mysql: &MysqlCheck) -> Result<Pass, Failure> {
    let mut stream = tcp::connect(probe).await?;
    let greeting = packet(&mut stream).await?;
    let version = greeting.get(1..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
    let version = String::from_utf8_lossy(version);
    // What MariaDB puts in front for old replicas.
    let found = format!("greeting of {}", version.strip_prefix("5.5.5-").unwrap_or(&version));
    let Some(user) = &mysql.user else { return Ok(Pass::new(found)) };
    stream.write_all(&first_answer(user)).await.map_err(|error| failure(&error))?;
    packet(&mut stream).await?;
    // COM_QUIT: an orderly end, which the server does not count as an aborted connection.
    stream.write_all(&[1, 0, 0, 0, 1]).await.map_err(|error| failure(&error))?;
    Ok(Pass::new(found))
}

/// The payload of the next packet, which must not be an error (protocol: Packets, ERR_Packet).
async fn packet(stream: &mut TcpStream) -> Result<Vec<u8>, Failure> {
    let cut = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Failure { why: "closed in the handshake".to_owned() },
        _ => failure(&error),
    };
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(cut)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    if !(1..=LONGEST_PACKET).contains(&length) {
        return Err(Failure { why: "this is not MySQL".to_owned() });
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.map_err(cut)?;
    match payload[..] {
        [0xff, low, high, ref text @ ..] => {
            let text = String::from_utf8_lossy(text);
            Err(Failure {
                why: format!("error {}: {}", u16::from_le_bytes([low, high]), text.trim_start_matches('#')),
            })
        }
        _ => Ok(payload),
    }
}

/// HandshakeResponse41 of a user without a password, by the native plugin.
fn first_answer(user: &str) -> Vec<u8> {
    /// CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION, CLIENT_PLUGIN_AUTH.
    const CAPABILITIES: u32 = 0x0200 | 0x8000 | 0x8_0000;
    /// utf8_general_ci
    const CHARSET: u8 = 33;
    let mut payload = CAPABILITIES.to_le_bytes().to_vec();
    payload.extend((1u32 << 24).to_le_bytes());
    payload.push(CHARSET);
    payload.extend([0; 23]);
    payload.extend(user.as_bytes());
    // The end of the name, and an answer to the challenge of no bytes.
    payload.extend([0, 0]);
    payload.extend(b"mysql_native_password\0");
    let mut packet = (payload.len() as u32).to_le_bytes().to_vec();
    packet[3] = 1;
    packet.extend(payload);
    packet
}

async fn log_in(probe: &Probe, mysql: &MysqlCheck) -> Result<Pass, Failure> {
    let password = password(mysql.password.as_ref(), mysql.password_file.as_deref())?;
    let relay = if probe.way.is_some() { Some(Relay::start(probe).await?) } else { None };
    let target = relay.as_ref().map_or(probe.target, |relay| relay.at);
    let options = OptsBuilder::default()
        .ip_or_hostname(target.ip().to_string())
        .tcp_port(target.port())
        .user(mysql.user.as_deref())
        .pass(password)
        .prefer_socket(Some(false))
        // Else it would ask the server for them.
        .max_allowed_packet(Some(1 << 24))
        .wait_timeout(Some(60))
        .ssl_opts((mysql.tls == MysqlTls::On).then(|| {
            SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true)
        }));
    let mut server = match timeout(probe.connect_timeout, Conn::new(options)).await {
        Ok(connected) => connected.map_err(|error| told(&error))?,
        Err(_) => return Err(Failure { why: "no login".to_owned() }),
    };
    let asked = questions(probe, mysql, &mut server).await;
    // An orderly end; the result is known already.
    let _ = server.disconnect().await;
    if let Some(mut relay) = relay {
        // Until it is passed on; the server answers it by closing.
        let _ = (&mut relay.task).await;
    }
    asked
}

/// The login's library makes its connections itself, and none that is marked: it connects to this, which passes on
/// what it says. Nobody else is in the namespace of the checks through the VIP.
struct Relay {
    at: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(probe: &Probe) -> Result<Self, Failure> {
        let mut server = tcp::connect(probe).await?;
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
pub fn password(given: Option<&Secret>, file: Option<&Path>) -> Result<Option<String>, Failure> {
    let Some(path) = file else {
        return Ok(given.map(|secret| secret.0.clone()));
    };
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
        Err(error) => Err(Failure { why: format!("password_file {}: {error}", path.display()) }),
    }
}

async fn questions(probe: &Probe, mysql: &MysqlCheck, server: &mut Conn) -> Result<Pass, Failure> {
    let mut found = "logged in".to_owned();
    if mysql.role != Role::Any {
        let read_only: Option<bool> =
            server.query_first("SELECT @@global.read_only").await.map_err(|error| told(&error))?;
        match (mysql.role, read_only) {
            (Role::Primary, Some(true)) => {
                return Err(Failure { why: "read_only, not the primary".to_owned() });
            }
            (Role::Replica, Some(false)) => {
                return Err(Failure { why: "writable, no replica".to_owned() });
            }
            _ => {}
        }
        found = if read_only == Some(true) { "read_only" } else { "writable" }.to_owned();
    }
    if mysql.galera != Galera::Off {
        found = galera(mysql.galera, server).await?;
    }
    if let Some(query) = &mysql.query {
        let row: Option<Row> = server.query_first(query.as_str()).await.map_err(|error| told(&error))?;
        if row.is_none() {
            return Err(Failure { why: "the query gave no row".to_owned() });
        }
    }
    if mysql.lag.is_empty() {
        return Ok(Pass::new(found));
    }
    // One that does not say how far behind it is counts as lagging, and not as dead: so it has to be found
    // out before the whole attempt is over.
    let (lag, why) = match timeout(probe.timeout / 2, replication(server)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (Some(None), told(&error).why),
        Err(_) => (Some(None), "no answer about its replication".to_owned()),
    };
    let Some(lag) = lag else { return Ok(Pass::new(format!("{found}, {why}"))) };
    let percent = mysql.percent(lag);
    let weight = if percent >= 100 { Weight::Configured } else { Weight::Lagging { percent, lag } };
    Ok(Pass { found: format!("{found}, {why}"), weight })
}

/// Whether the node of a cluster may serve.
async fn galera(wanted: Galera, server: &mut Conn) -> Result<String, Failure> {
    let names = "SHOW GLOBAL STATUS WHERE Variable_name IN \
                 ('wsrep_ready', 'wsrep_local_state', 'wsrep_local_state_comment')";
    let rows: Vec<(String, String)> = server.query(names).await.map_err(|error| told(&error))?;
    let of = |name: &str| {
        let row = rows.iter().find(|(row, _)| row.eq_ignore_ascii_case(name));
        row.map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let (ready, state, words) = (of("wsrep_ready"), of("wsrep_local_state"), of("wsrep_local_state_comment"));
    let serves = state == "4" || (wanted == Galera::Donor && state == "2");
    match (ready, serves) {
        ("ON", true) => Ok(format!("wsrep {words}")),
        ("", _) => Err(Failure { why: "no node of a Galera cluster".to_owned() }),
        _ => Err(Failure { why: format!("wsrep is {words} (state {state}), ready {ready}") }),
    }
}

/// How many seconds behind, in words too; none: replication is stopped; no figure at all: it is no replica.
type Lag = (Option<Option<u64>>, String);

async fn replication(server: &mut Conn) -> Result<Lag, Error> {
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
    match value {
        Value::Bytes(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        Value::Int(n) => u64::try_from(*n).ok(),
        Value::UInt(n) => Some(*n),
        _ => None,
    }
}

fn told(error: &Error) -> Failure {
    match error {
        Error::Server(error) => Failure { why: format!("error {}: {}", error.code, error.message) },
        Error::Io(mysql_async::IoError::Io(error)) => failure(error),
        error => Failure { why: error.to_string() },
    }
}
