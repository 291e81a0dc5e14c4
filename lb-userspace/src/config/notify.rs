//! Who is told.

use std::net::{IpAddr, SocketAddr};

use super::{
    check::kinds::{file, printable},
    error::Problems,
    fields::{Fields, scalar},
    schema::{self, Key},
    tree::{Node, Value},
    values::{Fault, boolean, fault, millis, number, word},
};
use crate::{
    events::Kind,
    model::{
        check::Secret,
        nearest::nearest,
        notify::{Hooks, Mail, MailTls, Notify, Webhook},
    },
};

pub(super) const MAIL_TLS: [(&str, MailTls); 3] =
    [("off", MailTls::Off), ("starttls", MailTls::Starttls), ("on", MailTls::On)];

pub(super) fn notify(node: &Node, problems: &mut Problems) -> Option<Notify> {
    use schema::notify::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let default = Notify::default();
    let kinds = fields.list(&EVENTS, problems).iter();
    let kinds: Vec<Kind> = kinds.filter_map(|node| scalar(node, &EVENTS, problems, kind)).collect();
    let hooks = fields.list(&WEBHOOKS, problems).iter();
    let webhooks = hooks.filter_map(|node| webhook(node, problems)).collect();
    Some(Notify {
        router_id: fields.value(&ROUTER_ID, problems, router_id),
        events: fields.node(&EVENTS).map(|_| kinds),
        delay: fields.value(&DELAY, problems, millis).unwrap_or(default.delay),
        interval: fields.value(&INTERVAL, problems, millis).unwrap_or(default.interval),
        program: program(&fields, &PROGRAM, problems),
        script_user: (fields.value(&SCRIPT_USER, problems, |text| printable(text, "a user")))
            .unwrap_or(default.script_user),
        script_timeout: fields.value(&SCRIPT_TIMEOUT, problems, millis).unwrap_or(default.script_timeout),
        webhooks,
        mail: mail(&fields, problems),
    })
}

/// A service's programs.
pub(super) fn hooks(fields: &Fields<'_>, problems: &mut Problems) -> Hooks {
    use schema::notify::hooks::*;
    Hooks {
        notify_up: program(fields, &NOTIFY_UP, problems),
        notify_down: program(fields, &NOTIFY_DOWN, problems),
        quorum_up: program(fields, &QUORUM_UP, problems),
        quorum_down: program(fields, &QUORUM_DOWN, problems),
    }
}

/// The path of a program and its arguments; empty if there is none.
fn program(fields: &Fields<'_>, key: &'static Key, problems: &mut Problems) -> Vec<String> {
    let words = fields.list(key, problems).iter();
    let words: Vec<String> = words.filter_map(|node| scalar(node, key, problems, word_of_command)).collect();
    let is_list = |node: &&Node| matches!(node.value, Value::List(_));
    if let Some(node) = fields.node(key).filter(is_list)
        && !words.first().is_none_or(|path| path.starts_with('/'))
    {
        let wrong = format!("`{}` does not begin with the absolute path of a program", key.name);
        problems.add(node.pos, wrong, "write [/path/of/program, its, arguments]; there is no shell");
    }
    words
}

fn word_of_command(text: &str) -> Result<String, Fault> {
    if text.contains('\0') {
        return fault(format!("{text:?} has a zero byte"), "leave it out: no program can be given one");
    }
    Ok(text.to_owned())
}

fn kind(text: &str) -> Result<Kind, Fault> {
    text.parse().or_else(|_| {
        let names = || Kind::ALL.iter().map(|kind| kind.name());
        let right = match nearest(text, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("valid are {}", names().collect::<Vec<_>>().join(", ")),
        };
        fault(format!("unknown kind of event `{text}`"), right)
    })
}

fn router_id(text: &str) -> Result<String, Fault> {
    if text.trim().is_empty() || text.len() > 64 || !text.chars().all(|c| c.is_ascii_graphic() || c == ' ') {
        return fault(format!("{text:?} cannot be a router_id"), "write 1 to 64 printable ASCII characters");
    }
    Ok(text.to_owned())
}

fn webhook(node: &Node, problems: &mut Problems) -> Option<Webhook> {
    use schema::notify::webhook::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let default = Webhook::default();
    let url = fields.required(&URL, problems, url);
    let (secret, secret_file) = secret(&fields, &SECRET, &SECRET_FILE, problems);
    let webhook = Webhook {
        url: url.unwrap_or_default(),
        timeout: fields.value(&TIMEOUT, problems, millis).unwrap_or(default.timeout),
        retries: fields.value(&RETRIES, problems, |t| number(t, 0..=100)).unwrap_or(default.retries),
        header: fields.value(&HEADER, problems, header).unwrap_or(default.header),
        secret,
        secret_file,
        verify: fields.value(&VERIFY, problems, boolean).unwrap_or(default.verify),
        ca: fields.value(&CA, problems, file),
    };
    (!webhook.url.is_empty()).then_some(webhook)
}

/// The problem does not repeat the URL: it may hold a secret.
fn url(text: &str) -> Result<String, Fault> {
    let right = "write one such as https://hooks.example.net/lb";
    match url::Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            fault(format!("the URL's scheme is `{}`", url.scheme()), "write an http or https URL")
        }
        Ok(url) if url.host_str().is_none_or(str::is_empty) => fault("the URL has no host", right),
        Ok(_) => Ok(text.to_owned()),
        Err(error) => fault(format!("this is no URL: {error}"), right),
    }
}

fn header(text: &str) -> Result<String, Fault> {
    // RFC 9110, section 5.6.2: a token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return fault(format!("{text:?} cannot be the name of a header"), "write one such as X-Token");
    }
    Ok(text.to_owned())
}

/// A secret stands here or in a file, not in both.
fn secret(
    fields: &Fields<'_>,
    here: &'static Key,
    in_file: &'static Key,
    problems: &mut Problems,
) -> (Option<Secret>, Option<std::path::PathBuf>) {
    let text = fields.value(here, problems, |text| {
        // A header, or a login: both are one line.
        if text.is_empty() || text.chars().any(char::is_control) {
            return fault("it is empty or has control characters", "write one line of text");
        }
        Ok(Secret(text.to_owned()))
    });
    let path = fields.value(in_file, problems, file);
    if let (Some(node), Some(_)) = (fields.node(in_file), fields.node(here)) {
        let wrong = format!("`{}` beside `{}`", in_file.name, here.name);
        problems.add(node.pos, wrong, "keep one of them");
    }
    (text, path)
}

fn mail(fields: &Fields<'_>, problems: &mut Problems) -> Option<Mail> {
    use schema::notify::*;
    let default = Mail::default();
    let list = fields.list(&EMAIL, problems).iter();
    let to: Vec<String> = list.filter_map(|node| scalar(node, &EMAIL, problems, mail_address)).collect();
    let from = fields.value(&EMAIL_FROM, problems, mail_address);
    let server = fields.value(&SMTP_SERVER, problems, server);
    let (password, password_file) = secret(fields, &SMTP_PASSWORD, &SMTP_PASSWORD_FILE, problems);
    let user = fields.value(&SMTP_USER, problems, |text| printable(text, "a user"));
    let keys = [&SMTP_PASSWORD, &SMTP_PASSWORD_FILE];
    let given = keys.iter().find_map(|key| fields.node(key));
    match (fields.node(&SMTP_USER), given) {
        (Some(node), None) => {
            problems.add(node.pos, "`smtp_user` without a password", "add `smtp_password_file: ...`");
        }
        (None, Some(node)) => {
            problems.add(node.pos, "a password without `smtp_user`", "add `smtp_user: ...`")
        }
        _ => {}
    }
    let mail = Mail {
        connect_timeout: fields
            .value(&SMTP_CONNECT_TIMEOUT, problems, millis)
            .unwrap_or(default.connect_timeout),
        helo_name: fields.value(&SMTP_HELO_NAME, problems, |text| printable(text, "a host name")),
        tls: fields.value(&SMTP_TLS, problems, |t| word(t, "smtp_tls", &MAIL_TLS)).unwrap_or_default(),
        verify: fields.value(&SMTP_VERIFY, problems, boolean).unwrap_or(default.verify),
        ca: fields.value(&SMTP_CA, problems, file),
        user,
        password,
        password_file,
        ..default
    };
    let node = fields.node(&EMAIL)?;
    if to.is_empty() {
        return None;
    }
    for key in [&EMAIL_FROM, &SMTP_SERVER].into_iter().filter(|key| fields.node(key).is_none()) {
        let wrong = format!("`notification_email` without `{}`", key.name);
        problems.add(node.pos, wrong, format!("add `{}: ...`", key.name));
    }
    let (server, port) = server?;
    Some(Mail { to, from: from?, server, port, ..mail })
}

fn mail_address(text: &str) -> Result<String, Fault> {
    let is_good = |text: &str| {
        text.split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>,;:\"()\\".contains(&byte))
    };
    if !is_good(text) {
        return fault(format!("{text:?} is not a mail address"), "write one such as ops@example.net");
    }
    Ok(text.to_owned())
}

/// Host or address, and the port if there is one.
fn server(text: &str) -> Result<(String, Option<u16>), Fault> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((socket.ip().to_string(), Some(socket.port())));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address.to_string(), None));
    }
    let (host, port) = match text.split_once([':', ' ']) {
        Some((host, port)) => (host, Some(number(port.trim(), 1..=u16::MAX)?)),
        None => (text, None),
    };
    let is_host = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    if host.is_empty() || !host.chars().all(is_host) {
        return fault(
            format!("{text:?} is not a mail server"),
            "write a host or address, with a port if it is not 25: mail.example.net:587, [2001:db8::25]:587",
        );
    }
    Ok((host.to_owned(), port))
}
