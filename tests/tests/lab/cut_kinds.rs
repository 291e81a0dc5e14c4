//! Checks of a real mail server, Redis and PostgreSQL that break off, hang and dawdle at every byte.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::Result;
use lb::model::check::{CheckKind, PostgresCheck, RedisCheck, Role, Secret, SmtpCheck, TlsCheck};
use lb_tests::{
    certificate::Certificate,
    lab::Lab,
    mail,
    nginx::Nginx,
    stores::{Postgres, REDIS_PORT, redis},
    topo::Topology,
};

use crate::cut::{Conversation, bytes_of, bytes_of_records, end_of};

fn secret() -> Option<Secret> {
    Some(Secret("secret".to_owned()))
}

#[test]
fn a_mail_server_has_to_greet_and_to_hear_us() {
    Lab::test(Topology::one_segment(1), |lab| {
        let node = &lab.net.backends[0];
        let web = Nginx::start(&lab.scope, node)?;
        let _server = mail::greeter(&lab.scope, node, &web)?;
        let smtp = |starttls| CheckKind::Smtp(SmtpCheck { starttls, ..SmtpCheck::default() });
        let plain = Conversation {
            what: "smtp",
            kind: smtp(None),
            port: 25,
            finds: "greeting of ",
            steps: &["greeting: ", "HELO: "],
            // Two lines.
            needs: Some(|answer| {
                let greeting = end_of(answer, b"\n")?;
                Some(greeting + end_of(&answer[greeting..], b"\n")?)
            }),
            every: 1,
            jitter: 0,
            decisive: |answer| bytes_of(answer, &[b"220", b"250"]),
            reset_may_fail: false,
        };
        plain.holds(lab)?;
        let tls = Conversation {
            what: "smtp with STARTTLS",
            kind: smtp(Some(TlsCheck::default())),
            steps: &["greeting: ", "EHLO: ", "STARTTLS: ", "TLS: ", "EHLO over TLS: "],
            needs: None,
            decisive: |answer| {
                let tls = end_of(answer, b"220 Ready to start TLS\r\n").unwrap_or(answer.len());
                let clear = bytes_of(&answer[..tls], &[b"220", b"250", b"STARTTLS", b"220 R"]);
                [clear, bytes_of_records(answer, tls)].concat()
            },
            ..plain
        };
        tls.holds(lab)
    });
}

#[test]
fn redis_has_to_let_us_in_to_live_and_to_say_its_role() {
    Lab::test(Topology::one_segment(1), |lab| {
        let _server = redis(&lab.scope, &lab.net.backends[0], &["--requirepass", "secret"])?;
        let kind = |role| CheckKind::Redis(RedisCheck { password: secret(), role, ..RedisCheck::default() });
        let alive = Conversation {
            what: "redis with AUTH",
            kind: kind(Role::Any),
            port: REDIS_PORT,
            finds: "PONG",
            steps: &["AUTH: ", "PING: "],
            needs: Some(|answer| end_of(answer, b"+PONG\r\n")),
            every: 1,
            jitter: 0,
            decisive: |answer| bytes_of(answer, &[b"+OK\r\n", b"+PONG\r\n"]),
            reset_may_fail: false,
        };
        alive.holds(lab)?;
        let role = Conversation {
            what: "redis and its role",
            kind: kind(Role::Primary),
            finds: "master",
            steps: &["AUTH: ", "PING: ", "INFO: "],
            needs: Some(|answer| end_of(answer, b"\r\n\r\n")),
            decisive: |answer| bytes_of(answer, &[b"+OK\r\n", b"+PONG\r\n", b"role:master\r\n"]),
            ..alive
        };
        role.holds(lab)
    });
}

fn postgres(user: &str, more: PostgresCheck) -> CheckKind {
    CheckKind::Postgres(PostgresCheck { user: user.to_owned(), ..more })
}

fn in_a_lab(of: impl FnOnce(&Lab, Conversation<'static>) -> Result<()>) {
    Lab::test(Topology::one_segment(1), |lab| {
        let dir = lab.scope.dir().join("tls");
        fs::create_dir(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let tls = Certificate::make(&dir, "db.lab")?;
        let _server = Postgres::start_with(&lab.scope, &lab.net.backends[0], false, Some(&tls))?;
        let login = PostgresCheck {
            password: secret(),
            role: Role::Primary,
            query: Some("SELECT 1".to_owned()),
            ..PostgresCheck::default()
        };
        let md5 = Conversation {
            what: "postgres by MD5",
            kind: postgres("old", login),
            port: Postgres::PORT,
            finds: "not in recovery",
            steps: &["login: ", "pg_is_in_recovery: ", "query: "],
            // After the login and each of two questions.
            needs: Some(|answer| ready(answer, 3)),
            every: 1,
            jitter: 0,
            decisive: |answer| decisive(answer),
            reset_may_fail: false,
        };
        of(lab, md5)
    });
}

#[test]
fn postgres_has_to_ask_for_a_password() {
    in_a_lab(|lab, md5| {
        let first = Conversation {
            what: "the first answer of postgres",
            kind: postgres("check", PostgresCheck::default()),
            finds: "answers to a login",
            steps: &["login: "],
            decisive: |_| (0..5).collect(),
            // The message's length, without its type.
            needs: Some(|answer| {
                let length = answer.get(1..5)?.try_into().ok()?;
                Some(u32::from_be_bytes(length) as usize + 1)
            }),
            ..md5
        };
        first.holds(lab)
    });
}

#[test]
fn postgres_has_to_let_us_in_and_to_answer_each_question() {
    in_a_lab(|lab, md5| md5.holds(lab));
}

#[test]
fn postgres_over_tls_has_to_shake_hands_too() {
    in_a_lab(|lab, md5| {
        let login =
            PostgresCheck { password: secret(), tls: Some(TlsCheck::default()), ..PostgresCheck::default() };
        let tls = Conversation {
            what: "postgres over TLS",
            kind: postgres("old", login),
            finds: "logged in",
            steps: &["SSLRequest: ", "TLS: ", "login: "],
            needs: None,
            decisive: |answer| [vec![0], bytes_of_records(answer, 1)].concat(),
            ..md5
        };
        tls.holds(lab)
    });
}

#[test]
fn postgres_by_scram_has_to_prove_that_it_knows_the_password() {
    in_a_lab(|lab, md5| {
        let login = PostgresCheck { password: secret(), role: Role::Primary, ..PostgresCheck::default() };
        let scram = Conversation {
            what: "postgres by SCRAM",
            kind: postgres("check", login),
            steps: &["login: ", "pg_is_in_recovery: "],
            needs: Some(|answer| ready(answer, 2)),
            // Its rounds of hashing take long in a debug build.
            every: 16,
            ..md5
        };
        scram.holds(lab)
    });
}

/// The type of each message, all that is said in a login, and the answer to a question.
fn decisive(answer: &[u8]) -> Vec<usize> {
    let (mut at, mut bytes) = (0, Vec::new());
    while let Some(&[kind, a, b, c, d]) = answer.get(at..at + 5) {
        let end = at + 1 + u32::from_be_bytes([a, b, c, d]) as usize;
        bytes.push(at);
        match kind {
            b'R' => bytes.extend(at + 5..end),
            // The last column of the first question.
            b'D' if answer.get(end - 1) == Some(&b'f') => bytes.push(end - 1),
            _ => {}
        }
        at = end;
    }
    bytes
}

/// The end of so many ReadyForQuery.
fn ready(answer: &[u8], times: usize) -> Option<usize> {
    let (mut at, mut seen) = (0, 0);
    while seen < times {
        let length = answer.get(at + 1..at + 5)?.try_into().ok()?;
        seen += usize::from(answer[at] == b'Z');
        at += u32::from_be_bytes(length) as usize + 1;
    }
    (at <= answer.len()).then_some(at)
}
