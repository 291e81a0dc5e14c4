//! What the kinds of checks take that are of one protocol each.

use std::str::FromStr;

use hickory_proto::rr::{Name, RecordType};

use super::{
    super::{
        error::Problems,
        fields::{Fields, scalar},
        schema,
        tree::Node,
        values::{boolean, fault, number, word},
    },
    kinds::{ON_OFF, expression, file, optional_tls, printable, role},
};
use crate::model::check::{DnsCheck, FileCheck, PostgresCheck, RedisCheck, Secret, SmtpCheck, UdpCheck};

/// The longest datagram that fits into one Ethernet frame, with IPv6.
const LONGEST_DATAGRAM: usize = 1452;

/// By the numbers of RFC 1035 section 4.1.1 and RFC 2136 section 2.2.
pub(in crate::config) const RCODES: [(&str, u8); 11] = [
    ("NOERROR", 0),
    ("FORMERR", 1),
    ("SERVFAIL", 2),
    ("NXDOMAIN", 3),
    ("NOTIMP", 4),
    ("REFUSED", 5),
    ("YXDOMAIN", 6),
    ("YXRRSET", 7),
    ("NXRRSET", 8),
    ("NOTAUTH", 9),
    ("NOTZONE", 10),
];

pub(super) fn redis(node: &Node, problems: &mut Problems) -> Option<RedisCheck> {
    use schema::redis_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let any = |text: &str| Ok(text.to_owned());
    let (role, fallback) = role(&fields, (&ROLE, &FALLBACK), problems);
    let redis = RedisCheck {
        user: fields.value(&USER, problems, any),
        password: fields.value(&PASSWORD, problems, any).map(Secret),
        password_file: fields.value(&PASSWORD_FILE, problems, file),
        role,
        fallback,
    };
    if let Some(node) = fields.node(&PASSWORD_FILE).filter(|_| redis.password.is_some()) {
        problems.add(node.pos, "both `password` and `password_file`", "keep one of them");
    }
    let has_password = fields.node(&PASSWORD).is_some() || fields.node(&PASSWORD_FILE).is_some();
    if let Some(node) = fields.node(&USER).filter(|_| !has_password) {
        problems.add(node.pos, "a user without a password", "add `password: ...`, or leave `user` out");
    }
    Some(redis)
}

pub(super) fn postgres(node: &Node, problems: &mut Problems) -> Option<PostgresCheck> {
    use schema::postgres_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let any = |text: &str| match text.contains('\0') {
        true => fault("it has a byte 0", "leave that out"),
        false => Ok(text.to_owned()),
    };
    let user = fields.required(&USER, problems, any);
    let on = fields.value(&TLS, problems, |text| word(text, "tls", &ON_OFF)).unwrap_or_default();
    let (role, fallback) = role(&fields, (&ROLE, &FALLBACK), problems);
    let postgres = PostgresCheck {
        user: user?,
        database: fields.value(&DATABASE, problems, any),
        password: fields.value(&PASSWORD, problems, any).map(Secret),
        password_file: fields.value(&PASSWORD_FILE, problems, file),
        tls: optional_tls(&fields, ("tls: on", on), problems),
        query: fields.value(&QUERY, problems, any),
        role,
        fallback,
    };
    if let Some(node) = fields.node(&PASSWORD_FILE).filter(|_| postgres.password.is_some()) {
        problems.add(node.pos, "both `password` and `password_file`", "keep one of them");
    }
    Some(postgres)
}

pub(super) fn udp(node: &Node, problems: &mut Problems) -> Option<UdpCheck> {
    use schema::udp_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let short = |bytes: Vec<u8>| match bytes.len() {
        0..=LONGEST_DATAGRAM => Ok(bytes),
        length => fault(
            format!("{length} bytes are too many for a datagram"),
            format!("write at most {LONGEST_DATAGRAM}"),
        ),
    };
    let text = fields.value(&SEND, problems, |text| short(text.as_bytes().to_vec()));
    let bytes = fields.value(&SEND_HEX, problems, |text| match from_hex(text) {
        Some(bytes) => short(bytes),
        None => fault(format!("`{text}` is not hexadecimal"), "write two digits for each byte: 00ff"),
    });
    if let Some(node) = fields.node(&SEND_HEX).filter(|_| fields.node(&SEND).is_some()) {
        problems.add(node.pos, "both `send` and `send_hex`", "keep one of them");
    }
    let expect = fields.value(&EXPECT, problems, expression);
    let require_reply = fields.value(&REQUIRE_REPLY, problems, boolean);
    let require_reply = require_reply.unwrap_or(expect.is_some());
    Some(UdpCheck { send: text.or(bytes).unwrap_or_default(), expect, require_reply })
}

/// Blanks between the bytes do no harm.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = (text.chars().filter(|c| !c.is_ascii_whitespace()))
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

pub(super) fn dns(node: &Node, problems: &mut Problems) -> Option<DnsCheck> {
    use schema::dns_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let default = DnsCheck::default();
    let name = fields.value(&NAME, problems, |text| match Name::from_str(text) {
        Ok(_) if !text.is_empty() && text.is_ascii() => Ok(text.to_owned()),
        _ => fault(format!("{text:?} is no domain name"), "write one such as www.example.com"),
    });
    let kind = fields.value(&TYPE, problems, |text| match RecordType::from_str(&text.to_ascii_uppercase()) {
        Ok(kind) if u16::from(kind) != 0 => Ok(text.to_ascii_uppercase()),
        _ => fault(format!("unknown record type `{text}`"), "write A, AAAA, NS, SOA, MX, TXT or another one"),
    });
    let rcode = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => number(text, 0..=15u8),
        false => word(text, "response code", &RCODES),
    };
    let rcodes = fields.list(&RCODE, problems);
    let rcodes: Vec<_> = rcodes.iter().filter_map(|node| scalar(node, &RCODE, problems, rcode)).collect();
    Some(DnsCheck {
        name: name.unwrap_or(default.name),
        kind: kind.unwrap_or(default.kind),
        rcode: if fields.node(&RCODE).is_some() { rcodes } else { default.rcode },
        answer: fields.value(&ANSWER, problems, expression),
    })
}

pub(super) fn smtp(node: &Node, problems: &mut Problems) -> Option<SmtpCheck> {
    use schema::smtp_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    let helo = fields.value(&HELO, problems, |text| printable(text, "our name"));
    let starttls = fields.value(&STARTTLS, problems, boolean).unwrap_or_default();
    let starttls = optional_tls(&fields, ("starttls: true", starttls), problems);
    let default = SmtpCheck::default();
    Some(SmtpCheck { helo: helo.unwrap_or(default.helo), starttls })
}

pub(super) fn weight_file(node: &Node, problems: &mut Problems) -> Option<FileCheck> {
    use schema::file_check::*;
    let fields = Fields::of(node, &SECTION, problems)?;
    Some(FileCheck { path: fields.required(&PATH, problems, file)? })
}
