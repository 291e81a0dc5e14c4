//! The first packets of MySQL's protocol, without a login.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::super::{step::Step, tcp};
use crate::{
    health::{Failure, Pass, Probe},
    model::check::MysqlCheck,
};

/// The longest first packet that makes sense; a length beyond is no MySQL.
const LONGEST_PACKET: usize = 1 << 16;

/// ER_ACCESS_DENIED_ERROR, ER_NOT_SUPPORTED_AUTH_MODE, ER_ACCESS_DENIED_NO_PASSWORD_ERROR,
/// ER_SECURE_TRANSPORT_REQUIRED.
const REFUSALS: [u16; 4] = [1045, 1251, 1698, 3159];

/// The server's greeting, and its answer to a user without a password: the check's, or one without a name, whom it
/// may refuse. Who hangs up at the greeting, or in the middle of a login, is an error to the server: after
/// `max_connect_errors` of them (100 by default) it lets the director in no more.
pub async fn handshake(probe: &Probe, mysql: &MysqlCheck, step: &Step) -> Result<Pass, Failure> {
    let mut stream = tcp::connect(probe, step).await?;
    step.is("greeting");
    let greeting = packet(&mut stream, step).await?;
    if let Some((code, text)) = greeting.error() {
        return Err(Failure { why: format!("error {code}: {text}") });
    }
    if greeting.payload[0] != HANDSHAKE_V10 {
        return Err(Failure { why: NOT_MYSQL.to_owned() });
    }
    let version = greeting.payload[1..].split(|byte| *byte == 0).next().unwrap_or_default();
    let version = String::from_utf8_lossy(version);
    // What MariaDB puts in front for old replicas.
    let found = format!("greeting of {}", version.strip_prefix("5.5.5-").unwrap_or(&version));
    let user = mysql.user.as_deref().unwrap_or_default();
    step.is("login");
    send(&mut stream, greeting.sequence, &first_answer(user), step).await?;
    let mut answer = packet(&mut stream, step).await?;
    if answer.payload[0] == AUTH_SWITCH {
        // By another plugin, where no password is an empty answer too.
        send(&mut stream, answer.sequence, &[], step).await?;
        answer = packet(&mut stream, step).await?;
    }
    match answer.error() {
        Some((code, _)) if mysql.user.is_none() && REFUSALS.contains(&code) => {}
        Some((code, text)) => return Err(Failure { why: format!("error {code}: {text}") }),
        // COM_QUIT: an orderly end, which the server does not count as an aborted connection.
        // Its result is known already.
        None => drop(stream.write_all(&[1, 0, 0, 0, 1]).await),
    }
    Ok(Pass::new(found))
}

const NOT_MYSQL: &str = "this is not MySQL";

/// Version of the protocol with which a greeting begins, since MySQL 3.21.
const HANDSHAKE_V10: u8 = 10;

/// AuthSwitchRequest
const AUTH_SWITCH: u8 = 0xfe;

/// One packet of the protocol ("Packets").
struct Packet {
    sequence: u8,
    /// Never empty.
    payload: Vec<u8>,
}

impl Packet {
    /// Code and text, if it is an ERR_Packet.
    fn error(&self) -> Option<(u16, String)> {
        let [0xff, low, high, text @ ..] = &self.payload[..] else { return None };
        let text = String::from_utf8_lossy(text);
        Some((u16::from_le_bytes([*low, *high]), text.trim_start_matches('#').to_owned()))
    }
}

async fn packet(stream: &mut TcpStream, step: &Step) -> Result<Packet, Failure> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await.map_err(|error| step.broken(&error))?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize;
    if !(1..=LONGEST_PACKET).contains(&length) {
        return Err(Failure { why: NOT_MYSQL.to_owned() });
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await.map_err(|error| step.broken(&error))?;
    Ok(Packet { sequence: header[3], payload })
}

/// Answers a packet of this number. What is sent is short.
async fn send(stream: &mut TcpStream, to: u8, payload: &[u8], step: &Step) -> Result<(), Failure> {
    let mut packet = (payload.len() as u32).to_le_bytes().to_vec();
    packet[3] = to.wrapping_add(1);
    packet.extend(payload);
    stream.write_all(&packet).await.map_err(|error| step.broken(&error))
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
    payload
}
