//! `lb explain`: what would happen to a packet.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, Exit, Output, output::Tone};
use crate::{
    explain::{self, ExplainError, MAX_LENGTH, Packet, Question},
    model::Protocol,
};

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(subcommand)]
    protocol: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// A TCP segment
    Tcp {
        /// Its flags: SYN, ACK, FIN, RST, PSH, URG
        #[arg(long, value_name = "FLAG,...", default_value = "SYN", value_parser = explain::tcp_flags)]
        flags: u8,
        #[command(flatten)]
        common: Common,
    },
    /// A datagram
    Udp {
        #[command(flatten)]
        common: Common,
    },
    /// An SCTP packet
    Sctp {
        /// Its first chunk: INIT, COOKIE-ECHO, DATA, ABORT, SHUTDOWN, ...
        #[arg(long, value_name = "CHUNK", default_value = "INIT", value_parser = explain::sctp_chunk)]
        chunk: u8,
        #[command(flatten)]
        common: Common,
    },
    /// An ICMP message: not asked about here, and said why
    #[command(hide = true)]
    Icmp(Rest),
    /// A fragment: not asked about here, and said why
    #[command(hide = true)]
    Fragment(Rest),
}

/// Whatever else is there.
#[derive(Debug, Args)]
struct Rest {
    /// Is not looked at
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0.., hide = true)]
    _words: Vec<String>,
}

/// Why there is no answer.
const ICMP: &str = "an ICMP error goes to the backend of the connection that it quotes: ask about that one, lb explain tcp \
                    (or udp, sctp) CLIENT VIP:PORT. Other ICMP, pings of a VIP among it, is passed to the director's own \
                    stack, but for answers to health checks. lb trace icmp shows what becomes of real ones";
const FRAGMENT: &str = "a first fragment goes the way of a whole packet: ask about that one, lb explain udp (or tcp, sctp) \
                        CLIENT VIP:PORT. Later ones follow it for two seconds, and without it are dropped \
                        (dropped-fragment in lb stats). lb trace shows what becomes of real ones";

#[derive(Debug, Args)]
struct Common {
    /// The client: ADDRESS:PORT, IPv6 as [ADDRESS]:PORT
    #[arg(value_name = "CLIENT")]
    from: SocketAddr,
    /// Where it connects: VIP:PORT
    #[arg(value_name = "VIP")]
    to: SocketAddr,
    /// The interface it comes in by [default: the one that clients' packets come in by]
    #[arg(long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// TTL or hop limit on arrival
    #[arg(long, default_value_t = 64)]
    ttl: u8,
    /// IP total length, bytes [default: of its headers]
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true, value_parser = length)]
    length: usize,
    /// Where bpffs is mounted; the pins are in DIR/lb/INSTANCE
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
}

fn length(text: &str) -> Result<usize, String> {
    let length: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    if length > MAX_LENGTH { Err(format!("at most {MAX_LENGTH} bytes")) } else { Ok(length) }
}

pub(super) fn run(args: ExplainArgs, instance: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    let (protocol, flags, chunk, common) = match args.protocol {
        Kind::Tcp { flags, common } => (Protocol::Tcp, flags, 0, common),
        Kind::Udp { common } => (Protocol::Udp, 0, 0, common),
        Kind::Sctp { chunk, common } => (Protocol::Sctp, 0, chunk, common),
        Kind::Icmp(_) => return Err(not_here(ICMP)),
        Kind::Fragment(_) => return Err(not_here(FRAGMENT)),
    };
    let Common { from, to, interface, ttl, length, bpffs } = common;
    let packet = Packet { protocol, from, to, flags, chunk, ttl, length };
    let question = Question { packet, interface, instance: instance.to_owned(), bpffs };
    let answer = explain::explain(&question).map_err(failed)?;
    if output.is_json() {
        output.json(&answer, false)?;
        return Ok(());
    }
    output.line(format!("{}, in by {}", answer.packet, answer.interface))?;
    let width = answer.story.steps.iter().map(|line| line.step.len()).max().unwrap_or(0);
    for line in &answer.story.steps {
        let text = if line.step == "verdict" {
            output.toned(&line.text, tone(answer.story.verdict))
        } else {
            line.text.clone()
        };
        output.line(format!("  {:width$}  {text}", line.step))?;
    }
    Ok(())
}

fn not_here(why: &str) -> CliError {
    CliError::Local { exit: Exit::Usage, message: why.to_owned() }
}

fn tone(verdict: &str) -> Tone {
    match verdict.split('-').next() {
        Some("forwarded") => Tone::Good,
        Some("dropped") => Tone::Bad,
        _ => Tone::Notice,
    }
}

fn failed(error: ExplainError) -> CliError {
    let message = error.to_string();
    let exit = match error {
        ExplainError::NoPins(_) => Exit::NotRunning,
        ExplainError::Denied(_) => Exit::NoPermission,
        ExplainError::Question(_) => Exit::Usage,
        ExplainError::Failed(error) => return CliError::Failed(error),
    };
    CliError::Local { exit, message }
}
