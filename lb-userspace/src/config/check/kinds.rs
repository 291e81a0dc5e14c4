//! What the kinds of checks take.

use std::path::PathBuf;

use super::super::{
    error::Problems,
    fields::{Fields, scalar},
    schema::{self, Key, check},
    tree::{Node, Value},
    values::{Fault, boolean, duration, fault, number, word},
};
use super::protocols;
use crate::model::{
    check::{
        CheckKind, Digest, ExecCheck, Galera, HttpCheck, LagTier, MysqlCheck, Role, Secret, StatusRange,
        TlsCheck,
    },
    timeouts::MAX_TIMEOUT,
};

pub(in crate::config) const ROLES: [(&str, Role); 3] =
    [("any", Role::Any), ("primary", Role::Primary), ("replica", Role::Replica)];
/// Whether the primary stands by.
pub(in crate::config) const FALLBACKS: [(&str, bool); 2] = [("none", false), ("primary", true)];
pub(in crate::config) const GALERA: [(&str, Galera); 3] =
    [("off", Galera::Off), ("synced", Galera::Synced), ("donor", Galera::Donor)];
pub(in crate::config) const ON_OFF: [(&str, bool); 2] = [("off", false), ("on", true)];
pub(in crate::config) const DEFAULT_USER: &str = "nobody";

/// The value of one of [`check::KINDS`].
pub(super) fn read(key: &'static Key, node: &Node, problems: &mut Problems) -> Option<CheckKind> {
    let is = |other: &'static Key| std::ptr::eq(key, other);
    if is(&check::HTTP) {
        let fields = Fields::of(node, &schema::http_check::SECTION, problems)?;
        Some(CheckKind::Http(http(&fields, problems)))
    } else if is(&check::HTTPS) {
        let fields = Fields::of(node, &schema::https_check::SECTION, problems)?;
        let tls = Some(tls(&fields, problems));
        Some(CheckKind::Http(HttpCheck { tls, ..http(&fields, problems) }))
    } else if is(&check::MYSQL) {
        mysql(node, problems).map(CheckKind::Mysql)
    } else if is(&check::REDIS) {
        protocols::redis(node, problems).map(CheckKind::Redis)
    } else if is(&check::POSTGRES) {
        protocols::postgres(node, problems).map(CheckKind::Postgres)
    } else if is(&check::UDP) {
        protocols::udp(node, problems).map(CheckKind::Udp)
    } else if is(&check::DNS) {
        protocols::dns(node, problems).map(CheckKind::Dns)
    } else if is(&check::SMTP) {
        protocols::smtp(node, problems).map(CheckKind::Smtp)
    } else if is(&check::PING) {
        Fields::of(node, &schema::ping_check::SECTION, problems)?;
        Some(CheckKind::Ping)
    } else if is(&check::FILE) {
        protocols::weight_file(node, problems).map(CheckKind::File)
    } else if is(&check::EXEC) {
        exec(node, problems).map(CheckKind::Exec)
    } else {
        let fields = Fields::of(node, &schema::tcp_check::SECTION, problems)?;
        let half_open = fields.value(&schema::tcp_check::HALF_OPEN, problems, boolean).unwrap_or_default();
        Some(if half_open { CheckKind::HalfOpen } else { CheckKind::Tcp })
    }
}

fn http(fields: &Fields<'_>, problems: &mut Problems) -> HttpCheck {
    use schema::http_check::*;
    let default = HttpCheck::default();
    let method = fields.value(&METHOD, problems, method);
    let path = fields.value(&PATH, problems, path);
    let host = fields.value(&HOST, problems, |text| printable(text, "a host"));
    let headers = fields.list(&HEADERS, problems);
    let headers = headers.iter().filter_map(|node| scalar(node, &HEADERS, problems, header)).collect();
    let expected = fields.list(&EXPECT_HEADERS, problems);
    let expected: Vec<_> =
        expected.iter().filter_map(|node| scalar(node, &EXPECT_HEADERS, problems, expected_header)).collect();
    let status = |text: &str| {
        text.parse::<StatusRange>()
            .or_else(|wrong| fault(wrong, "write statuses such as 200, and ranges such as 200-299"))
    };
    let statuses = fields.list(&STATUS, problems);
    let statuses: Vec<_> =
        statuses.iter().filter_map(|node| scalar(node, &STATUS, problems, status)).collect();
    let body = fields.value(&BODY, problems, expression);
    let digest = fields.value(&DIGEST, problems, |text| {
        let right = "write the 64 hexadecimal digits of `sha256sum`, or the 32 of `md5sum` or `genhash`";
        text.parse::<Digest>().or_else(|wrong| fault(wrong, right))
    });
    for key in [&BODY, &DIGEST] {
        if let Some(node) = fields.node(key).filter(|_| method.as_deref() == Some("HEAD")) {
            let wrong = format!("`{}`: the answer to HEAD has no body", key.name);
            problems.add(node.pos, wrong, "write `method: GET`, or leave the key out");
        }
    }
    HttpCheck {
        method: method.unwrap_or(default.method),
        path: path.unwrap_or(default.path),
        host,
        headers,
        status: if fields.node(&STATUS).is_some() { statuses } else { default.status },
        body,
        digest,
        expect_headers: expected,
        http2: fields.value(&HTTP2, problems, boolean).unwrap_or_default(),
        tls: None,
    }
}

pub(super) fn tls(fields: &Fields<'_>, problems: &mut Problems) -> TlsCheck {
    use schema::https_check::*;
    let verify = fields.value(&VERIFY, problems, boolean).unwrap_or_default();
    if let Some(node) = fields.node(&CA).filter(|_| !verify) {
        problems.add(node.pos, "`ca` without `verify: true`", "add `verify: true`, or leave the key out");
    }
    TlsCheck {
        sni: fields.value(&SNI, problems, |text| printable(text, "a name")),
        verify,
        ca: fields.value(&CA, problems, file),
    }
}

/// The same where `switch` is needed for it: a key that is `on`, if it is.
pub(super) fn optional_tls(
    fields: &Fields<'_>,
    (switch, on): (&str, bool),
    problems: &mut Problems,
) -> Option<TlsCheck> {
    use schema::https_check::*;
    if on {
        return Some(tls(fields, problems));
    }
    for key in [&SNI, &VERIFY, &CA] {
        if let Some(node) = fields.node(key) {
            let (name, _) = switch.split_once(':').unwrap_or((switch, ""));
            let wrong = format!("`{}` without `{name}`", key.name);
            problems.add(node.pos, wrong, format!("add `{switch}`, or leave the key out"));
        }
    }
    None
}

/// `role`, and whether the primary stands by.
pub(super) fn role(
    fields: &Fields<'_>,
    (role, fallback): (&'static Key, &'static Key),
    problems: &mut Problems,
) -> (Role, bool) {
    let wanted = fields.value(role, problems, |text| word(text, "role", &ROLES));
    let stands_by = fields.value(fallback, problems, |text| word(text, "fallback", &FALLBACKS));
    let (wanted, stands_by) = (wanted.unwrap_or_default(), stands_by.unwrap_or_default());
    if let Some(node) = fields.node(fallback).filter(|_| stands_by && wanted != Role::Replica) {
        let wrong = "`fallback: primary` without `role: replica`";
        problems.add(node.pos, wrong, "add `role: replica`, or leave the key out");
    }
    (wanted, stands_by)
}

fn mysql(node: &Node, problems: &mut Problems) -> Option<MysqlCheck> {
    use schema::mysql_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let any = |text: &str| Ok(text.to_owned());
    let on = fields.value(&TLS, problems, |text| word(text, "tls", &ON_OFF)).unwrap_or_default();
    let (role, fallback) = role(&fields, (&ROLE, &FALLBACK), problems);
    let mysql = MysqlCheck {
        user: fields.value(&USER, problems, any),
        password: fields.value(&PASSWORD, problems, any).map(Secret),
        password_file: fields.value(&PASSWORD_FILE, problems, file),
        tls: optional_tls(&fields, ("tls: on", on), problems),
        query: fields.value(&QUERY, problems, any),
        galera: (fields.value(&GALERA_KEY, problems, |text| word(text, "galera state", &GALERA)))
            .unwrap_or_default(),
        role,
        fallback,
        lag: lag(&fields, problems),
    };
    if mysql.logs_in() && fields.node(&USER).is_none() {
        problems.add(fields.pos, "a login without a user", "add `user: ...`");
    }
    if let Some(node) = fields.node(&PASSWORD_FILE).filter(|_| mysql.password.is_some()) {
        problems.add(node.pos, "both `password` and `password_file`", "keep one of them");
    }
    Some(mysql)
}

fn lag(fields: &Fields<'_>, problems: &mut Problems) -> Vec<LagTier> {
    use schema::lag_tier::*;
    let mut tiers: Vec<LagTier> = Vec::new();
    for node in fields.list(&schema::mysql_check::LAG, problems) {
        let Some(fields) = Fields::of(node, &SECTION, problems) else { continue };
        let from = fields.required(&FROM, problems, |text| duration(text, 1..=MAX_TIMEOUT));
        let weight = fields.required(&WEIGHT, problems, |text| number(text, 0..=100u8));
        let (Some(from), Some(weight)) = (from, weight) else { continue };
        if tiers.last().is_some_and(|last| last.from >= from) {
            let wrong = "the tiers of `lag` do not rise";
            problems.add(node.pos, wrong, "write the smallest `from` first, and each once");
        }
        tiers.push(LagTier { from, weight });
    }
    tiers
}

fn exec(node: &Node, problems: &mut Problems) -> Option<ExecCheck> {
    use schema::exec_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let given = fields.required_node(&COMMAND, problems)?;
    let words = fields.list(&COMMAND, problems).iter();
    let command: Vec<String> =
        words.filter_map(|node| scalar(node, &COMMAND, problems, |text| Ok(text.to_owned()))).collect();
    let is_list = matches!(given.value, Value::List(_) | Value::Null);
    if is_list && !command.first().is_some_and(|path| path.starts_with('/')) {
        let wrong = "`command` does not begin with the absolute path of a program";
        problems.add(given.pos, wrong, "write [/path/of/program, its, arguments]; there is no shell");
    }
    let user = fields.value(&USER, problems, |text| printable(text, "a user"));
    let dynamic = fields.value(&DYNAMIC, problems, boolean).unwrap_or_default();
    Some(ExecCheck { command, user: user.unwrap_or_else(|| DEFAULT_USER.to_owned()), dynamic })
}

fn method(text: &str) -> Result<String, Fault> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return fault(format!("{text:?} is no HTTP method"), "write GET, HEAD, OPTIONS or another one");
    }
    Ok(text.to_ascii_uppercase())
}

fn path(text: &str) -> Result<String, Fault> {
    if !text.starts_with('/') || !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return fault(format!("{text:?} is not the path of a request"), "write one such as /health?full=1");
    }
    Ok(text.to_owned())
}

fn header(text: &str) -> Result<String, Fault> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let is_value = |c: char| c.is_ascii() && !c.is_control();
    match text.split_once(':') {
        Some((name, value))
            if !name.is_empty() && name.chars().all(is_token) && value.chars().all(is_value) =>
        {
            Ok(text.to_owned())
        }
        _ => fault(format!("{text:?} is no header"), "write \"Name: value\", in quotes"),
    }
}

fn expected_header(text: &str) -> Result<String, Fault> {
    let (name, wanted) = text.split_once(':').unwrap_or((text, ""));
    header(&format!("{name}:"))?;
    expression(wanted.trim())?;
    Ok(text.to_owned())
}

pub(super) fn expression(text: &str) -> Result<String, Fault> {
    match regex::bytes::Regex::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => {
            // Of several lines, the last says what is wrong.
            let why = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            let right = "put a backslash before characters that mean themselves";
            fault(format!("this is no regular expression ({why})"), right)
        }
    }
}

pub(in crate::config) fn printable(text: &str, what: &str) -> Result<String, Fault> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return fault(format!("{text:?} cannot be {what}"), "write printable ASCII without spaces");
    }
    Ok(text.to_owned())
}

pub(in crate::config) fn file(text: &str) -> Result<PathBuf, Fault> {
    if !text.starts_with('/') || text.contains('\0') {
        return fault(
            format!("{text:?} is not the absolute path of a file"),
            "write a path such as /etc/lb/file",
        );
    }
    Ok(PathBuf::from(text))
}
