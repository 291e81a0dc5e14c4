//! The keys of checks that are of one protocol each.

pub mod redis_check {
    use super::super::super::*;
    pub use super::super::mysql_check::{FALLBACK, PASSWORD_FILE};
    pub static SECTION: Section = Section {
        path: "services[].checks[].redis",
        doc: "The server answers PING with PONG, after a login if there is a password. What speaks Redis's protocol \
              (Valkey, KeyDB) is asked in the same way.",
        keys: &[&USER, &PASSWORD, &PASSWORD_FILE, &ROLE, &FALLBACK],
    };
    pub static USER: Key =
        key("user", "name", Words("the default user"), "Who logs in, of an access control list (Redis 6).");
    pub static PASSWORD: Key = key(
        "password",
        "password",
        Words("none: no login"),
        "Its password. `lb save` writes it; listings and the log do not show it.",
    );
    pub static ROLE: Key = key(
        "role",
        "`any`, `primary` or `replica`",
        Is("any"),
        "By `INFO replication`. A `replica` whose link to its primary is down fails as well.",
    );
}

pub mod postgres_check {
    use super::super::super::*;
    pub use super::super::mysql_check::{CA, FALLBACK, PASSWORD, PASSWORD_FILE, QUERY, SNI, TLS, VERIFY};
    pub static SECTION: Section = Section {
        path: "services[].checks[].postgres",
        doc: "With `user` (and `database`) alone: the server answers the begin of a login with a question for a \
              password, as with HAProxy's `pgsql-check`. With any of the other keys the user logs in (trust, clear \
              text, MD5 and SCRAM-SHA-256) and leaves in order.",
        keys: &[
            &USER,
            &DATABASE,
            &PASSWORD,
            &PASSWORD_FILE,
            &TLS,
            &SNI,
            &VERIFY,
            &CA,
            &QUERY,
            &ROLE,
            &FALLBACK,
        ],
    };
    pub static USER: Key = key("user", "name", Required, "Who logs in.");
    pub static DATABASE: Key =
        key("database", "name", Words("the user's name"), "Where to, as with libpq's `dbname`.")
            .also(&["dbname"]);
    pub static ROLE: Key = key(
        "role",
        "`any`, `primary` or `replica`",
        Is("any"),
        "By `pg_is_in_recovery()`: `primary` is not in recovery, `replica` is.",
    );
}

pub mod udp_check {
    use super::super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].udp",
        doc: "Sends one datagram. An ICMP error fails, and so does a reply that does not match. What silence means \
              is said by `require_reply`; where it may pass, it takes nine tenths of `timeout` to be one.",
        keys: &[&SEND, &SEND_HEX, &EXPECT, &REQUIRE_REPLY],
    };
    pub static SEND: Key = key("send", "text", Words("nothing: an empty datagram"), "What is sent.");
    pub static SEND_HEX: Key =
        key("send_hex", "hexadecimal digits", Words("none"), "The same, in the place of `send`.")
            .also(&["payload"]);
    pub static EXPECT: Key = key(
        "expect",
        "regular expression",
        Words("any reply is good"),
        "The reply must match it somewhere. For bytes that are no text: `(?s-u)^\\x00\\xff`.",
    );
    pub static REQUIRE_REPLY: Key = key(
        "require_reply",
        "`true` or `false`",
        Words("`true` with `expect`, else `false`"),
        "No reply is a failure. Without it only an ICMP error (port unreachable) or a wrong reply is one.",
    );
}

pub mod dns_check {
    use super::super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].dns",
        doc: "A question over UDP, with recursion desired. `{}` asks for the SOA of the root, as keepalived does.",
        keys: &[&NAME, &TYPE, &RCODE, &ANSWER],
    };
    pub static NAME: Key = key("name", "domain name", Is("."), "What is asked for.");
    pub static TYPE: Key =
        key("type", "`A`, `AAAA`, `NS`, `SOA`, `MX`, `TXT`...", Is("SOA"), "The type of record.");
    pub static RCODE: Key = key(
        "rcode",
        "list of response codes, by name or number",
        Words("`[NOERROR]`"),
        "The answer must have one of them. NOERROR without any record passes too, unless there is `answer`.",
    );
    pub static ANSWER: Key = key(
        "answer",
        "regular expression",
        Words("not looked at"),
        "The data of at least one record of the answer must match it somewhere, as it stands in a zone file: an \
         address, or `10 mail.example.com.`",
    );
}

pub mod smtp_check {
    use super::{super::super::*, super::https_check::*};
    pub static SECTION: Section = Section {
        path: "services[].checks[].smtp",
        doc: "The server greets with 220 and answers HELO (with `starttls`: EHLO, STARTTLS and a second EHLO, all of \
              which must succeed). The check leaves with QUIT.",
        keys: &[&HELO, &STARTTLS, &SNI, &VERIFY, &CA],
    };
    pub static HELO: Key =
        key("helo", "name", Is("localhost"), "What the director calls itself.").also(&["helo_name"]);
    pub static STARTTLS: Key = key(
        "starttls",
        "`true` or `false`",
        Is("false"),
        "The server must offer STARTTLS, and speak it. `sni`, `verify` and `ca` are about that.",
    );
}

pub mod ping_check {
    use super::super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].ping",
        doc: "An ICMP or ICMPv6 echo request is answered. It proves that the host is there, not that it serves. \
              Where `net.ipv4.ping_group_range` does not let the agent have a ping socket, it needs CAP_NET_RAW.",
        keys: &[],
    };
}

pub mod file_check {
    use super::super::super::*;
    pub static SECTION: Section = Section {
        path: "services[].checks[].file",
        doc: "A file, read at each check, with the weight in it: 0 to 65535 (0 quiesces), or the word `down`, which \
              fails. A file that is missing or says something else fails.",
        keys: &[&PATH],
    };
    pub static PATH: Key = key(
        "path",
        "absolute path",
        Required,
        "The file; or a directory with one for each backend, named by its address and port: `10.0.0.1:80`.",
    );
}
