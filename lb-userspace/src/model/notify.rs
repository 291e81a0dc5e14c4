//! Whom events are told, and how, as it is configured. The names are keepalived's.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::check::{Millis, Secret};
use crate::events::Kind;

/// Programs that a service has run. Each is a path and its arguments; empty: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hooks {
    /// A backend is up.
    pub notify_up: Vec<String>,
    /// A backend is down.
    pub notify_down: Vec<String>,
    pub quorum_up: Vec<String>,
    pub quorum_down: Vec<String>,
}

impl Hooks {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The program for this kind of event; empty: none.
    pub fn program(&self, kind: Kind) -> &[String] {
        match kind {
            Kind::BackendUp => &self.notify_up,
            Kind::BackendDown => &self.notify_down,
            Kind::QuorumUp => &self.quorum_up,
            Kind::QuorumDown => &self.quorum_down,
            _ => &[],
        }
    }
}

/// The director's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// What the director is called in mails; none: the host's name.
    pub router_id: Option<String>,
    /// What is told; none: what [`Kind::is_told`] says.
    pub events: Option<Vec<Kind>>,
    /// From the first event on, so long others are waited for that go with it.
    pub delay: Millis,
    /// Between two mails, and between two posts to one URL.
    pub interval: Millis,
    /// A program for each event; empty: none.
    pub program: Vec<String>,
    /// Whom this program and those of services run as.
    pub script_user: String,
    pub script_timeout: Millis,
    pub webhooks: Vec<Webhook>,
    pub mail: Option<Mail>,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            router_id: None,
            events: None,
            delay: Millis(2000),
            interval: Millis(30_000),
            program: Vec::new(),
            script_user: NOBODY.to_owned(),
            script_timeout: Millis(10_000),
            webhooks: Vec::new(),
            mail: None,
        }
    }
}

/// Who owns nothing.
const NOBODY: &str = "nobody";

impl Notify {
    /// Whether mails, webhooks and the program get it.
    pub fn wants(&self, kind: Kind) -> bool {
        let asked = self.events.as_ref().map_or(kind.is_told(), |kinds| kinds.contains(&kind));
        asked && !kind.is_of_telling()
    }
}

/// A URL that events are posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// May hold a secret, so only its host is ever shown.
    pub url: String,
    pub timeout: Millis,
    /// How often it is tried again.
    pub retries: u16,
    /// The header that carries the secret.
    pub header: String,
    pub secret: Option<Secret>,
    /// The same in a file, read for each post.
    pub secret_file: Option<PathBuf>,
    /// Whether an https server's certificate is verified.
    pub verify: bool,
    /// Its CA; none: the system's.
    pub ca: Option<PathBuf>,
}

impl Default for Webhook {
    fn default() -> Self {
        Self {
            url: String::new(),
            timeout: Millis(5000),
            retries: 5,
            header: "Authorization".to_owned(),
            secret: None,
            secret_file: None,
            verify: true,
            ca: None,
        }
    }
}

/// How mails are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// keepalived's `notification_email`.
    pub to: Vec<String>,
    pub from: String,
    /// Host name or address.
    pub server: String,
    /// None: 25, with `tls: on` 465.
    pub port: Option<u16>,
    pub connect_timeout: Millis,
    /// What the director says it is called; none: the host's name.
    pub helo_name: Option<String>,
    pub tls: MailTls,
    pub verify: bool,
    /// The server's CA; none: the system's.
    pub ca: Option<PathBuf>,
    /// With it the director logs in.
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// The same in a file, read for each mail.
    pub password_file: Option<PathBuf>,
}

impl Default for Mail {
    fn default() -> Self {
        Self {
            to: Vec::new(),
            from: String::new(),
            server: String::new(),
            port: None,
            connect_timeout: Millis(30_000),
            helo_name: None,
            tls: MailTls::Starttls,
            verify: true,
            ca: None,
            user: None,
            password: None,
            password_file: None,
        }
    }
}

/// How a mail server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MailTls {
    /// In clear text.
    Off,
    /// STARTTLS (RFC 3207), or no mail.
    #[default]
    Starttls,
    /// TLS from the first byte (RFC 8314).
    On,
}
