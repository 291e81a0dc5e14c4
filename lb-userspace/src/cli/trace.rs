//! `lb trace`: what becomes of the packets that come in now.

use std::{fs::File, io::BufWriter, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    CliError, Exit, Output,
    output::Tone,
    parse::{self, ServiceArg},
    service,
};
use crate::{
    api::client::Client,
    clock::monotonic,
    trace::{Counts, Kind, Packet, Place, Question, Report, SaveFile},
};

/// Bytes of a frame that are kept in a file, if it is not said.
const SNAP: u32 = 128;

#[derive(Debug, Args)]
pub(super) struct TraceArgs {
    /// Which packets: tcp, udp, sctp or icmp, and where they go: ADDRESS[/LENGTH][:PORT] or :PORT, in any order, IPv6
    /// as [ADDRESS]:PORT
    #[arg(value_name = "FILTER", num_args = 0..=2)]
    words: Vec<String>,
    /// Only packets that come in by this interface, one that has the program; a VLAN's by its parent
    #[arg(long, short, value_name = "INTERFACE")]
    interface: Option<String>,
    /// Only packets of this service: its name, or its endpoint VIP:PORT or PROTOCOL/VIP:PORT
    #[arg(long, value_parser = parse::service)]
    service: Option<ServiceArg>,
    /// Only packets from there: a client, a network, a port
    #[arg(long, value_name = "ADDRESS[/LENGTH][:PORT]")]
    from: Option<Place>,
    /// Only these ends, with commas: forwarded, passed, answered, dropped, or verdicts as `lb stats` lists them
    #[arg(long, value_name = "VERDICT,...")]
    only: Option<String>,
    /// Takes one packet in N, at random
    #[arg(long, value_name = "1/N", value_parser = sample)]
    sample: Option<u32>,
    /// At most N packets a second on each CPU; how many more there were is said at the end [default: 1000]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Ends after N packets
    #[arg(long, short = 'c', value_name = "N")]
    count: Option<u64>,
    /// Ends after this time: 30s, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = parse::timeout)]
    duration: Option<u32>,
    /// Shows every step of each packet, as `lb explain` does
    #[arg(long)]
    steps: bool,
    /// Writes the frames as they came to a file of pcapng for tcpdump or Wireshark, - for stdout, and shows none; each
    /// packet's comment says what became of it
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Bytes of each frame that are kept, at most 1528 [default: 128 with --write, else none]
    #[arg(long, value_name = "BYTES")]
    snap: Option<u32>,
}

pub(super) async fn run(args: TraceArgs, client: &Client, output: &mut Output<'_>) -> Result<(), CliError> {
    let question = question(&args, client).await?;
    let mut stream = client.trace(&question).await?;
    let mut shown = Shown::open(&args, question.snap.unwrap_or(0))?;
    let deadline = args.duration.map(|seconds| monotonic() + Duration::from_secs(seconds.into()));
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let mut told = Told::default();
    let end = loop {
        let left = deadline.map(|deadline| deadline.saturating_sub(monotonic()));
        let reports = tokio::select! {
            biased;
            // Without a handler the signal ends us anyhow.
            _ = &mut interrupted => break End::Asked,
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => break End::Asked,
            reports = stream.next() => match reports? {
                Some(reports) => reports,
                None => break End::Agent,
            },
        };
        for report in reports {
            match report {
                Report::Counts(counts) => {
                    // The first one says that every packet is asked about from here on.
                    if !std::mem::replace(&mut told.begun, true) {
                        output.note("tracing; Ctrl-C ends it");
                    }
                    told.counts = counts;
                }
                Report::Packet(packet) if args.count.is_none_or(|count| told.shown < count) => {
                    shown.packet(&packet, args.steps, output)?;
                    told.shown += 1;
                }
                Report::Packet(_) => {}
            }
        }
        shown.flush(output)?;
        if args.count.is_some_and(|count| told.shown >= count) {
            break End::Asked;
        }
    };
    drop(stream);
    output.note(&told.words());
    match end {
        End::Asked => Ok(()),
        End::Agent => Err(CliError::Local {
            exit: Exit::Failure,
            message: "the agent has ended the trace: it stops, or this command took nothing for 10 s"
                .to_owned(),
        }),
    }
}

enum End {
    /// As the command line says, or by Ctrl-C.
    Asked,
    Agent,
}

async fn question(args: &TraceArgs, client: &Client) -> Result<Question, CliError> {
    let (mut protocol, mut to): (Option<Kind>, Option<Place>) = (None, None);
    for word in &args.words {
        let twice = if let Ok(kind) = word.parse() {
            protocol.replace(kind).is_some()
        } else {
            let place = word
                .parse()
                .map_err(|wrong| usage(format!("{word}: neither tcp, udp, sctp or icmp, and {wrong}")))?;
            to.replace(place).is_some()
        };
        if twice {
            return Err(usage(format!("{word}: one protocol and one place can be asked for")));
        }
    }
    let service = match &args.service {
        Some(arg) => Some(service::find_name(client, arg).await?),
        None => None,
    };
    let snap = args.snap.or(args.write.is_some().then_some(SNAP));
    let question = Question {
        protocol,
        from: args.from,
        to,
        interface: args.interface.clone(),
        service,
        only: args.only.clone(),
        sample: args.sample,
        rate: args.rate,
        snap,
    };
    // What the agent would refuse; no id and any clock will do for that.
    question.filter(None, 250).map_err(usage)?;
    Ok(question)
}

fn usage(message: String) -> CliError {
    CliError::Local { exit: Exit::Usage, message }
}

/// Where packets go.
enum Shown {
    Lines,
    File(SaveFile<BufWriter<File>>),
    /// Handed on to stdout with each flush.
    Stdout(SaveFile<Vec<u8>>),
}

impl Shown {
    fn open(args: &TraceArgs, snap: u32) -> Result<Self, CliError> {
        match &args.write {
            None => Ok(Self::Lines),
            Some(path) if path.as_os_str() == "-" => Ok(Self::Stdout(SaveFile::new(Vec::new(), snap)?)),
            Some(path) => {
                let file = File::create(path).map_err(|error| not_written(path, &error))?;
                let file =
                    SaveFile::new(BufWriter::new(file), snap).map_err(|error| not_written(path, &error))?;
                Ok(Self::File(file))
            }
        }
    }

    fn packet(&mut self, packet: &Packet, steps: bool, output: &mut Output<'_>) -> Result<(), CliError> {
        match self {
            Self::Lines if output.is_json() => Ok(output.json(packet, true)?),
            Self::Lines => {
                output.line(line(packet, output))?;
                for step in packet.steps.iter().filter(|_| steps) {
                    output.line(format!("    {step}"))?;
                }
                Ok(())
            }
            Self::File(file) => file.write(packet).map_err(|error| unwritten(&error)),
            Self::Stdout(file) => Ok(file.write(packet)?),
        }
    }

    fn flush(&mut self, output: &mut Output<'_>) -> Result<(), CliError> {
        match self {
            Self::Lines => {}
            Self::File(file) => file.flush().map_err(|error| unwritten(&error))?,
            Self::Stdout(file) => output.raw(&file.take())?,
        }
        Ok(output.flush()?)
    }
}

fn not_written(path: &std::path::Path, error: &std::io::Error) -> CliError {
    CliError::Local { exit: Exit::Failure, message: format!("{} cannot be written: {error}", path.display()) }
}

fn unwritten(error: &std::io::Error) -> CliError {
    CliError::Local { exit: Exit::Failure, message: format!("writing the file of packets failed: {error}") }
}

fn line(packet: &Packet, output: &Output<'_>) -> String {
    let Packet { time, interface, length, verdict, cause, .. } = packet;
    let tone = match verdict.split('-').next() {
        Some("forwarded") => Tone::Good,
        Some("dropped") => Tone::Bad,
        _ => Tone::Notice,
    };
    let verdict = output.toned(verdict, tone);
    let what = match (&packet.protocol, &packet.source, &packet.destination) {
        (Some(protocol), Some(source), Some(destination)) => {
            let flags = packet.flags.as_ref().map_or_else(String::new, |flags| format!(" [{flags}]"));
            let fragment = if packet.fragment { " fragment" } else { "" };
            format!("{protocol} {source} > {destination}{flags}{fragment}")
        }
        _ => packet.ethernet.clone().unwrap_or_else(|| "no IP".to_owned()),
    };
    let service = packet.service.as_ref().map_or_else(String::new, |service| format!(" {service}"));
    let backend = packet.backend.map_or_else(String::new, |backend| format!(" to {backend}"));
    format!("{time:.6} {interface} {what} {length} bytes:{service} {verdict}{backend}: {cause}")
}

/// For the end.
#[derive(Default)]
struct Told {
    begun: bool,
    shown: u64,
    counts: Counts,
}

impl Told {
    fn words(&self) -> String {
        let Counts { over_rate, ring_full, client_slow, .. } = self.counts;
        let mut text = format!("{} packets", self.shown);
        if self.counts.lost() > 0 {
            text = format!(
                "{text}; {} more were wanted and not reported: {over_rate} above --rate, {ring_full} the ring was full, \
                 {client_slow} this command was too slow",
                self.counts.lost()
            );
        }
        text
    }
}

/// `1/100`
fn sample(text: &str) -> Result<u32, String> {
    match text.strip_prefix("1/").map(str::parse) {
        Some(Ok(n)) if n > 0 => Ok(n),
        _ => Err("not 1/N, for example 1/100".to_owned()),
    }
}
