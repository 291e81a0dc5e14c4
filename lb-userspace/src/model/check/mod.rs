//! Health checks, as they are configured.

mod kinds;
mod protocols;
mod via;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use kinds::{
    Digest, ExecCheck, Fit, Galera, HttpCheck, LagTier, MysqlCheck, Role, Secret, StatusRange, TlsCheck,
};
pub use protocols::{DnsCheck, FileCheck, PostgresCheck, RedisCheck, SmtpCheck, UdpCheck};
pub use via::{ProbePorts, Via};

use super::{Backend, Service, notify::Hooks};

/// What a service does about the health of its backends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServiceHealth {
    /// Each of them must pass for a backend to get new connections. None: all backends count as healthy.
    pub checks: Vec<Check>,
    /// Percent of the backends; where fewer are healthy, all are kept. 0: however few.
    pub minimum_healthy: u8,
    /// Weight of the backends that serve, below which the backups do; `hysteresis` more to get it, less to
    /// lose it.
    pub quorum: u32,
    pub hysteresis: u32,
    /// A failing backend has weight 0, as if quiesced, instead of being out.
    pub inhibit_on_failure: bool,
    /// How long a backend that has come back takes to its whole weight.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Millis>,
    /// Programs that are told.
    #[serde(skip_serializing_if = "Hooks::is_default")]
    pub hooks: Hooks,
    /// How long a backend that flaps stays out at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flap_hold: Option<Millis>,
    /// What becomes of a backend whose connections fare worse than those of the others.
    pub passive: PassiveMode,
    /// How long at first.
    pub passive_hold: Millis,
}

impl Default for ServiceHealth {
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            minimum_healthy: 0,
            quorum: 1,
            hysteresis: 0,
            inhibit_on_failure: false,
            slow_start: None,
            hooks: Hooks::default(),
            flap_hold: None,
            passive: PassiveMode::Off,
            passive_hold: Millis(30_000),
        }
    }
}

/// What the connections themselves may do to a backend, beside its checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassiveMode {
    /// Nothing; they are not looked at.
    #[default]
    Off,
    /// It gets a tenth of its weight.
    Lower,
    /// It is out.
    Out,
}

impl PassiveMode {
    pub const ALL: [Self; 3] = [Self::Off, Self::Lower, Self::Out];

    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Lower => "lower",
            Self::Out => "out",
        }
    }
}

impl fmt::Display for PassiveMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Where a backend differs from its service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendHealth {
    /// Instead of the service's; an empty list checks nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<Check>>,
    /// It serves only while the others have no quorum.
    pub backup: bool,
}

/// One check of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    pub kind: CheckKind,
    /// Where to instead of the backend's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Where to instead of the service's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The director's address that it comes from; none: the kernel chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The director's interface that it leaves by; none: the kernel's routes say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// None: also through the VIP, if clients are served where the check goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Via>,
    #[serde(default)]
    pub timing: Timing,
}

/// What is tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A connection can be opened; it is closed by a reset at once.
    Tcp,
    /// The same, and the server never hears of it: what it is asked for is reset in the handshake.
    HalfOpen,
    /// A request is answered as it should be; with `tls` it is https.
    Http(HttpCheck),
    /// The server greets, or lets a user in, and is what it should be.
    Mysql(MysqlCheck),
    /// The server lives, lets us in, and is what it should be.
    Redis(RedisCheck),
    /// The server answers, or lets a user in, and is what it should be.
    Postgres(PostgresCheck),
    /// A datagram is answered, or at least not refused.
    Udp(UdpCheck),
    /// A question is answered as it should be.
    Dns(DnsCheck),
    /// The server greets and hears us.
    Smtp(SmtpCheck),
    /// An ICMP echo request is answered.
    Ping,
    /// A file says the weight.
    File(FileCheck),
    /// A program ends as it should.
    Exec(ExecCheck),
}

/// When a check is made, and how many results it takes. The names are HAProxy's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// From the begin of one check to the next one's.
    pub interval: Millis,
    /// The same while the state may be about to change, and until it is known; none: `interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_interval: Option<Millis>,
    /// For the whole check; none: `interval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// For the connection alone; none: `timeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Millis>,
    /// Passes in a row that bring a backend back.
    pub rise: u16,
    /// Failures in a row that take it out.
    pub fall: u16,
    /// How often a failure of a healthy backend is tried again before it counts.
    pub retries: u16,
    pub retry_delay: Millis,
    /// The first check begins at a random time within; none: a tenth of `interval`, at most a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Millis>,
    pub initial: Initial,
}

/// What a backend that is new to the model counts as until its first result, which decides alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// As keepalived's `alpha`.
    #[default]
    Down,
    /// As keepalived without it.
    Up,
}

/// A duration in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u32);

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Millis(2000),
            fast_interval: None,
            timeout: None,
            connect_timeout: None,
            rise: 2,
            fall: 3,
            retries: 0,
            retry_delay: Millis(1000),
            warmup: None,
            initial: Initial::Down,
        }
    }
}

impl Timing {
    pub fn fast_interval(&self) -> Millis {
        self.fast_interval.unwrap_or(self.interval)
    }

    pub fn timeout(&self) -> Millis {
        self.timeout.unwrap_or(self.interval)
    }

    /// Never longer than the whole.
    pub fn connect_timeout(&self) -> Millis {
        self.connect_timeout.map_or(self.timeout(), |own| own.min(self.timeout()))
    }

    pub fn warmup(&self) -> Millis {
        self.warmup.unwrap_or(Millis((self.interval.0 / 10).min(1000)))
    }
}

impl BackendHealth {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Service {
    /// The checks that `backend`, which is one of its own, has to pass.
    pub fn checks<'a>(&'a self, backend: &'a Backend) -> &'a [Check] {
        backend.health.checks.as_deref().unwrap_or(&self.health.checks)
    }
}

impl Check {
    /// A check by default timing, of the backend's own address and port.
    pub fn new(kind: CheckKind) -> Self {
        Self {
            kind,
            address: None,
            port: None,
            source: None,
            interface: None,
            via: None,
            timing: Timing::default(),
        }
    }

    /// What it does, for people: `tcp`, `tcp to port 8080`. A check is known again by it after a reload.
    pub fn label(&self) -> String {
        let Self { kind, address, port, source, interface, via: _, timing: _ } = self;
        let to = match (address, port) {
            (Some(address), Some(port)) => format!(" to {}", SocketAddr::new(*address, *port)),
            (Some(address), None) => format!(" to {address}"),
            (None, Some(port)) => format!(" to port {port}"),
            (None, None) => String::new(),
        };
        let from = source.map(|source| format!(" from {source}")).unwrap_or_default();
        let by = interface.as_ref().map(|interface| format!(" by {interface}")).unwrap_or_default();
        format!("{}{to}{from}{by}", kind.label())
    }

    /// Where it goes to for a backend.
    pub fn target(&self, backend: &Backend) -> SocketAddr {
        let key = backend.key;
        SocketAddr::new(self.address.unwrap_or(key.address), self.port.unwrap_or(key.port))
    }
}

impl CheckKind {
    /// Its word in the configuration file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp | Self::HalfOpen => "tcp",
            Self::Http(HttpCheck { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Mysql(_) => "mysql",
            Self::Redis(_) => "redis",
            Self::Postgres(_) => "postgres",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Smtp(_) => "smtp",
            Self::Ping => "ping",
            Self::File(_) => "file",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether it goes to a port.
    pub fn has_port(&self) -> bool {
        !matches!(self, Self::Exec(_) | Self::File(_) | Self::Ping)
    }

    /// Whether it can be told another port: what finds its way by itself can too.
    pub fn takes_port(&self) -> bool {
        !matches!(self, Self::File(_) | Self::Ping)
    }

    /// Whether it can be told another address.
    pub fn takes_address(&self) -> bool {
        !matches!(self, Self::File(_))
    }

    /// Whether it opens a connection, which may have a timeout of its own.
    pub fn connects(&self) -> bool {
        !matches!(self, Self::Udp(_) | Self::Dns(_) | Self::Ping | Self::File(_) | Self::Exec(_))
    }

    /// Whether it can be told where to leave from. A program finds its own way.
    pub fn can_bind(&self) -> bool {
        !matches!(self, Self::Exec(_) | Self::File(_))
    }

    /// What it does, for people.
    fn label(&self) -> String {
        match self {
            Self::HalfOpen => "tcp half-open".to_owned(),
            Self::Http(http) => format!("{} {} {}", self.name(), http.method, http.path),
            Self::Exec(exec) => format!("exec {}", exec.command.join(" ")),
            Self::Mysql(mysql) if mysql.logs_in() => "mysql login".to_owned(),
            Self::Postgres(postgres) if postgres.logs_in() => "postgres login".to_owned(),
            Self::Dns(dns) => format!("dns {} {}", dns.name, dns.kind),
            Self::File(file) => format!("file {}", file.path.display()),
            _ => self.name().to_owned(),
        }
    }
}

impl Millis {
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

/// As the configuration file takes it.
impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            millis if millis % 1000 == 0 => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}

/// What it does and how often, for people.
impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Timing { interval, rise, fall, .. } = self.timing;
        write!(f, "{} every {interval}, rise {rise}, fall {fall}", self.label())
    }
}
