//! `lb explain`: what would happen to a packet.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::{CliError, Exit, Output, output::Tone};
use crate::{
    explain::{
        self, Asked, ExplainError, Fragment, MAX_LENGTH, Message, MessageKind, Packet, Peer, Question,
    },
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
        flow: Flow,
        #[command(flatten)]
        arrival: Arrival,
    },
    /// A datagram
    Udp {
        #[command(flatten)]
        flow: Flow,
        #[command(flatten)]
        arrival: Arrival,
    },
    /// An SCTP packet
    Sctp {
        /// Its first chunk: INIT, COOKIE-ECHO, DATA, ABORT, SHUTDOWN, ...
        #[arg(long, value_name = "CHUNK", default_value = "INIT", value_parser = explain::sctp_chunk)]
        chunk: u8,
        #[command(flatten)]
        flow: Flow,
        #[command(flatten)]
        arrival: Arrival,
    },
    /// An ICMP message to a VIP: an error about a connection, or a ping
    ///
    /// An error is what a router, or the client, says to the VIP about a packet that a backend sent. It quotes that
    /// packet, and goes to the backend of that connection.
    Icmp {
        /// What it says
        #[arg(value_enum, value_name = "TYPE")]
        kind: MessageKind,
        /// The connection's client: ADDRESS:PORT, IPv6 as [ADDRESS]:PORT; of an echo ADDRESS alone
        #[arg(value_parser = explain::peer)]
        client: Peer,
        /// The connection's other end: VIP:PORT; of an echo VIP alone
        #[arg(value_parser = explain::peer)]
        vip: Peer,
        /// Protocol of the connection: tcp, udp, sctp
        #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = protocol)]
        of: Protocol,
        /// Who sends the message [default: the client]
        #[arg(long, value_name = "ADDRESS")]
        sender: Option<IpAddr>,
        #[command(flatten)]
        arrival: Arrival,
    },
}

/// A packet's ends and size.
#[derive(Debug, Args)]
struct Flow {
    /// The client: ADDRESS:PORT, IPv6 as [ADDRESS]:PORT
    #[arg(value_name = "CLIENT")]
    from: SocketAddr,
    /// Where it connects: VIP:PORT
    #[arg(value_name = "VIP")]
    to: SocketAddr,
    /// IP total length, bytes [default: of its headers]
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true, value_parser = length)]
    length: usize,
    /// As a fragment: identification of the datagram, and its offset in bytes; 0 is the first one, which has the ports
    #[arg(long, value_name = "ID,OFFSET", value_parser = explain::fragment)]
    fragment: Option<Fragment>,
}

/// How it comes in, and where that is looked up.
#[derive(Debug, Args)]
struct Arrival {
    /// The interface it comes in by [default: the one that clients' packets come in by]
    #[arg(long, value_name = "INTERFACE")]
    interface: Option<String>,
    /// TTL or hop limit on arrival
    #[arg(long, default_value_t = 64)]
    ttl: u8,
    /// Where bpffs is mounted; the pins are in DIR/lb/INSTANCE
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
}

fn protocol(text: &str) -> Result<Protocol, String> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let found = all.into_iter().find(|protocol| protocol.to_string() == text);
    found.ok_or_else(|| "it is none of tcp, udp, sctp".to_owned())
}

fn length(text: &str) -> Result<usize, String> {
    let length: usize = text.parse().map_err(|_| "not a number of bytes".to_owned())?;
    if length > MAX_LENGTH { Err(format!("at most {MAX_LENGTH} bytes")) } else { Ok(length) }
}

pub(super) fn run(args: ExplainArgs, instance: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    let (about, Arrival { interface, bpffs, .. }) = match args.protocol {
        Kind::Tcp { flags, flow, arrival } => (packet(Protocol::Tcp, flags, 0, &flow, &arrival), arrival),
        Kind::Udp { flow, arrival } => (packet(Protocol::Udp, 0, 0, &flow, &arrival), arrival),
        Kind::Sctp { chunk, flow, arrival } => (packet(Protocol::Sctp, 0, chunk, &flow, &arrival), arrival),
        Kind::Icmp { kind, client, vip, of, sender, arrival } => {
            let (sender, ttl) = (sender.unwrap_or(client.address), arrival.ttl);
            (Asked::Message(Message { kind, sender, client, vip, protocol: of, ttl }), arrival)
        }
    };
    let question = Question { about, interface, instance: instance.to_owned(), bpffs };
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

fn packet(protocol: Protocol, flags: u8, chunk: u8, flow: &Flow, arrival: &Arrival) -> Asked {
    let Flow { from, to, length, fragment } = *flow;
    Asked::Packet(Packet { protocol, from, to, flags, chunk, ttl: arrival.ttl, length, fragment })
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
