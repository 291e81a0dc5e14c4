//! The top of the command line: global options and the list of commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    agent::ReloadArgs, backend::BackendCommand, conn::ConnCommand, events::EventsArgs, exit::EXIT_CODES,
    explain::ExplainArgs, parse, realserver::RealserverCommand, service::ServiceCommand, stats::StatsArgs,
    timeout::TimeoutCommand, trace::TraceArgs,
};
use crate::log::LogFormat;

/// Layer-4 load balancer in XDP, Direct Routing.
///
/// `lb run` is the agent of a director. The other commands talk to it over its unix socket, except
/// `lb realserver`, which prepares a backend, and those that only read files.
#[derive(Debug, Parser)]
#[command(name = "lb", version, after_long_help = EXIT_CODES)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct Global {
    /// Which agent of this host, where there are several (environment: LB_INSTANCE)
    #[arg(long, global = true, value_name = "NAME", env = "LB_INSTANCE", hide_env = true)]
    #[arg(default_value = DEFAULT_INSTANCE, value_parser = parse::instance)]
    pub(super) instance: String,
    /// The agent's control socket (environment: LB_SOCKET) [default: /run/lb/INSTANCE.sock]
    #[arg(long, global = true, value_name = "PATH", env = "LB_SOCKET", hide_env = true)]
    pub(super) socket: Option<PathBuf>,
    /// Tables for people or JSON for programs
    #[arg(long, short, global = true, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) output: OutputFormat,
    /// Colour in tables; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    pub(super) color: ColorChoice,
    /// What is logged to stderr: error, warn, info, debug, trace, or levels by module such as
    /// info,lb::agent=debug (environment: LB_LOG) [default: info for run, else warn]
    #[arg(long, global = true, value_name = "FILTER", env = "LB_LOG", hide_env = true)]
    pub(super) log: Option<String>,
}

/// What stdout is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum OutputFormat {
    #[default]
    Table,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorChoice {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Runs the agent of this director in the foreground
    ///
    /// Loads and attaches the XDP program, or adopts what an earlier agent left running, and keeps it
    /// equal to the configuration until SIGTERM. SIGTERM leaves forwarding up; `lb detach` takes it
    /// down. SIGHUP reloads.
    Run(RunArgs),
    /// Makes the agent read its configuration file again, all of it or, on an error, none
    Reload(ReloadArgs),
    /// Takes everything down: program, maps, pins, added VIPs; also when no agent runs
    Detach(Place),
    /// Validates a configuration file without touching anything
    CheckConfig {
        /// The file, - for stdin
        file: PathBuf,
    },
    /// Shows on one screen how the director is and what needs attention
    Status {
        /// Where bpffs is mounted; looked at when no agent answers
        #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
        bpffs: PathBuf,
    },
    /// Finds what is wrong with this director and its backends, and says how to mend it
    ///
    /// Reads the pinned maps, the kernel and the agent (which need not run), and asks every backend as a client would
    /// be served: a SYN to the VIP by the backend's MAC, ended by a RST. Changes nothing. For each finding: what was
    /// seen, what it causes, the command that mends it; docs/operations.md has a table of them. Exits with 8 if there
    /// are only warnings, with 9 if there are errors. On a backend: `lb realserver status`.
    Doctor(Place),
    /// Says what would happen to a packet now, step by step, and why
    ///
    /// Runs the director's program on the packet and on the pinned maps, in a build that writes nothing: no
    /// connection, counter, cursor or limit changes, and nothing is sent. Needs no agent. Given for a packet of a
    /// known connection, it says where that goes; for a SYN, which backend the next connection would get; for an ICMP
    /// error, where the connection is that it is about: lb explain icmp frag-needed CLIENT:PORT VIP:PORT; for a
    /// fragment: lb explain udp CLIENT:PORT VIP:PORT --fragment ID,OFFSET. Exits with 0 whatever the verdict is, with 2
    /// if the packet cannot come in, with 3 if there are no pins.
    Explain(ExplainArgs),
    /// Shows what becomes of the packets that come in now, and why
    ///
    /// A line for each packet that the filter lets through: what it is, its service, its verdict and backend, and the
    /// step that decided; with --output json one object a line, with all steps. While a trace runs, another build of the
    /// program is on the interfaces, swapped in and out without a gap: packets that no filter wants cost a few dozen
    /// nanoseconds more, and it goes with the last trace. Ends on Ctrl-C, and says then how many packets it could not
    /// report. Whoever may use the agent's socket may trace. For the frames as they came: --write.
    Trace(TraceArgs),
    /// Writes the running state as a configuration file that reproduces it
    Save {
        /// Where to, - for stdout
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// Services (IPVS: virtual servers)
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Backends of a service (IPVS: real servers)
    #[command(subcommand)]
    Backend(BackendCommand),
    /// Connections in the flow table
    #[command(subcommand)]
    Conn(ConnCommand),
    /// Idle timeouts of connections (ipvsadm --set)
    #[command(subcommand)]
    Timeout(TimeoutCommand),
    /// What has happened: backends, services, floods, changes, the agent itself
    ///
    /// One line for each event, oldest first; with --output json one object a line. docs/operations.md lists
    /// the kinds. They are kept over restarts of the agent.
    Events(EventsArgs),
    /// Counters of services, backends, verdicts and flow tables
    Stats(StatsArgs),
    /// Prepares this host as a backend: VIPs on lo, and ARP silent about them
    #[command(subcommand)]
    Realserver(RealserverCommand),
    /// Prints a shell's completion script
    #[command(after_help = "bash: lb completions bash > /usr/share/bash-completion/completions/lb")]
    Completions {
        /// The shell to make it for
        shell: clap_complete::Shell,
    },
    /// Prints the manual page lb(1), or writes a page for every command
    Man {
        /// Where to write the pages: one file per command
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// `lb run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file (YAML)
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Take an interface over from an XDP program of somebody else
    #[arg(long)]
    pub replace: bool,
    #[command(flatten)]
    pub place: Place,
    /// Group whose members may use the control socket [default: only root]
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// How log lines look; auto: journald where stderr is the journal, else text
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// The instance of a configuration that names none.
const DEFAULT_INSTANCE: &str = "default";

/// Where an agent keeps things.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Directory of the journal of changes made by command
    #[arg(long, value_name = "DIR", default_value = "/var/lib/lb")]
    pub state_dir: PathBuf,
    /// Where bpffs is mounted; the pins are in DIR/lb/INSTANCE
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// An instance and everything that is named after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub instance: String,
    /// Control socket.
    pub socket: PathBuf,
    /// As given: not yet with the instance in it.
    pub state_dir: PathBuf,
    /// The mount point, not the instance's directory below it.
    pub bpffs: PathBuf,
}

impl Global {
    pub(super) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| format!("/run/lb/{}.sock", self.instance).into())
    }

    /// Whether it is said, or follows from what is not said, which instance is meant.
    pub(super) fn names_instance(&self) -> bool {
        self.socket.is_none() || self.instance != DEFAULT_INSTANCE
    }

    /// What the agent needs; instance and socket only where they were named.
    pub(super) fn options(&self, run: RunArgs) -> crate::agent::Options {
        let RunArgs { config, replace, place, socket_group, log_format: _ } = run;
        crate::agent::Options {
            config,
            instance: (self.instance != DEFAULT_INSTANCE).then(|| self.instance.clone()),
            socket: self.socket.clone(),
            socket_group,
            state_dir: place.state_dir,
            bpffs: place.bpffs,
            replace,
        }
    }

    pub(super) fn paths(&self, place: &Place) -> Paths {
        let Place { state_dir, bpffs } = place.clone();
        Paths { instance: self.instance.clone(), socket: self.socket(), state_dir, bpffs }
    }
}
