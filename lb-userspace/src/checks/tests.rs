//! Each kind of check against servers of this process that behave, and that do not. The real servers are in the labs.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    health::Weight,
    model::check::{
        DnsCheck, ExecCheck, FileCheck, HttpCheck, LagTier, MysqlCheck, PostgresCheck, RedisCheck, Role,
        Secret, SmtpCheck, StatusRange, TlsCheck, UdpCheck,
    },
};

/// What a server does with each connection after it has read something (or not).
#[derive(Clone, Copy)]
enum Does {
    Says(&'static [u8]),
    /// Says this, and then nothing more, for ever.
    SaysAndHangs(&'static [u8]),
    /// Waits for a request first.
    Answers(&'static [u8]),
    /// Says this slowly, byte by byte, and then nothing more.
    Drips(&'static [u8]),
}

async fn server(does: Does) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(serve(stream, does));
        }
    });
    port
}

async fn serve(mut stream: TcpStream, does: Does) {
    // The check may be gone: its own affair.
    let _ = match does {
        Does::Says(words) => stream.write_all(words).await,
        Does::SaysAndHangs(words) => {
            let said = stream.write_all(words).await;
            std::future::pending::<()>().await;
            said
        }
        Does::Drips(words) => {
            let _ = stream.set_nodelay(true);
            for byte in words {
                let _ = stream.write_all(std::slice::from_ref(byte)).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            std::future::pending().await
        }
        Does::Answers(words) => {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(words).await
        }
    };
}

pub(super) fn probe(kind: CheckKind, port: u16) -> Probe {
    let target = (Ipv4Addr::LOCALHOST, port).into();
    Probe {
        service: "web".parse().expect("a name"),
        backend: format!("127.0.0.1:{port}").parse().expect("a key"),
        kind,
        target,
        source: None,
        interface: None,
        via_vip: false,
        way: None,
        connect_timeout: Duration::from_secs(20),
        timeout: Duration::from_secs(20),
    }
}

/// For what never ends by itself.
fn impatient(probe: Probe) -> Probe {
    Probe { timeout: Duration::from_millis(200), ..probe }
}

async fn result(probe: Probe) -> Result<Pass, String> {
    attempt(&probe, &Common::default()).await.result.map_err(|failure| failure.why)
}

async fn found(kind: CheckKind, port: u16) -> Result<String, String> {
    result(probe(kind, port)).await.map(|pass| pass.found)
}

/// A port on which nothing listens.
async fn closed_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    listener.local_addr().expect("it has one").port()
}

fn http() -> CheckKind {
    CheckKind::Http(HttpCheck::default())
}

fn mysql() -> CheckKind {
    CheckKind::Mysql(MysqlCheck::default())
}

fn login() -> CheckKind {
    let (user, password) = (Some("check".to_owned()), Some(Secret("secret".to_owned())));
    CheckKind::Mysql(MysqlCheck { user, password, ..MysqlCheck::default() })
}

#[tokio::test]
async fn results_that_are_there_come_in_one_turn() {
    let (ended, done) = unbounded_channel();
    let mut results = Results { done };
    let all: Vec<_> =
        (0..50).map(|id| (ProbeId::from(id), Outcome::failed(Duration::ZERO, "refused"))).collect();
    all.iter().for_each(|result| ended.send(result.clone()).expect("it is open"));
    let mut heard = Vec::new();
    assert!(results.next(&mut heard).await && heard == all);
}

#[tokio::test]
async fn every_kind_tells_a_closed_port_and_a_silent_server() {
    let (closed, silent) = (closed_port().await, server(Does::SaysAndHangs(b"")).await);
    let tls = CheckKind::Http(HttpCheck { tls: Some(TlsCheck::default()), ..HttpCheck::default() });
    let http2 = CheckKind::Http(HttpCheck { http2: true, ..HttpCheck::default() });
    let [redis, smtp] = [CheckKind::Redis(RedisCheck::default()), smtp(false)];
    let [first, login_too] = [false, true].map(postgres);
    for kind in [CheckKind::Tcp, http(), http2, tls, mysql(), login(), redis, smtp, first, login_too] {
        let refused = found(kind.clone(), closed).await.expect_err("nobody listens");
        assert!(refused.contains("connection refused"), "{kind:?}: {refused}");
        if kind != CheckKind::Tcp {
            let hanging = result(impatient(probe(kind.clone(), silent))).await;
            assert!(hanging.as_ref().is_err_and(|why| why.ends_with("no answer")), "{kind:?}: {hanging:?}");
        }
    }
    assert_eq!(found(CheckKind::Tcp, silent).await.as_deref(), Ok("connected"));
}

/// In the handshake is reset what was asked for: unless this process has no CPU for 200 ms just then.
#[tokio::test]
async fn a_server_does_not_hear_of_half_open_checks() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.set_nonblocking(true).expect("it is a socket");
    let port = listener.local_addr().expect("it has one").port();
    let accepted = async |kind: CheckKind| {
        for _ in 0..16 {
            assert_eq!(found(kind.clone(), port).await.as_deref(), Ok("connected"));
        }
        listener.incoming().take_while(Result::is_ok).count()
    };
    assert_eq!(accepted(CheckKind::Tcp).await, 16);
    let half_open = accepted(CheckKind::HalfOpen).await;
    assert!(half_open < 8, "{half_open} of 16");
    assert_eq!(found(CheckKind::HalfOpen, closed_port().await).await, Err("connection refused".to_owned()));
}

/// Each kind that has a conversation, and what a healthy server says in it: all of this is needed.
fn conversations() -> Vec<(CheckKind, &'static [u8])> {
    let digest = Some("36059628abb220b1e7c5b5095d3b96f5".parse().expect("of the body"));
    let body = CheckKind::Http(HttpCheck { digest, ..HttpCheck::default() });
    vec![
        (http(), b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (body, b"HTTP/1.1 200 OK\r\nX: 1\r\nContent-Length: 9\r\n\r\nall well\n"),
        (mysql(), b"\x08\0\0\0\x0a9.7.4\0x\x0d\0\0\x02\xff\x15\x04#28000...."),
        (CheckKind::Redis(RedisCheck::default()), b"+PONG\r\n"),
        (postgres(false), b"R\0\0\0\x08\0\0\0\x03"),
        (smtp(false), b"220 mx.lab\r\n250 mx.lab\r\n"),
    ]
}

#[tokio::test]
async fn a_server_that_closes_too_early_fails_and_a_slow_one_has_its_time() {
    for (kind, words) in conversations() {
        for length in 0..words.len() {
            let greets = matches!(kind, CheckKind::Mysql(_) | CheckKind::Smtp(_));
            let cut = &words[..length];
            let port = server(if greets { Does::Says(cut) } else { Does::Answers(cut) }).await;
            assert!(found(kind.clone(), port).await.is_err(), "{kind:?}: after {length} of {}", words.len());
        }
        let farewell: &[u8] = match kind {
            CheckKind::Redis(_) => b"+OK\r\n",
            CheckKind::Smtp(_) => b"221 bye\r\n",
            _ => b"",
        };
        let slow = server(Does::Drips(Box::leak([words, farewell].concat().into_boxed_slice()))).await;
        found(kind.clone(), slow).await.unwrap_or_else(|why| panic!("{kind:?}: {why}"));
        let leaves_unanswered = server(Does::SaysAndHangs(words)).await;
        found(kind.clone(), leaves_unanswered).await.unwrap_or_else(|why| panic!("{kind:?}: {why}"));
        let never = server(Does::SaysAndHangs(&words[..words.len() - 1])).await;
        let hanging = result(impatient(probe(kind, never))).await;
        assert!(hanging.as_ref().is_err_and(|why| why.ends_with("no answer")), "{hanging:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_passes_for_none() {
    let https = CheckKind::Http(HttpCheck { tls: Some(TlsCheck::default()), ..HttpCheck::default() });
    let http2 = CheckKind::Http(HttpCheck { http2: true, ..HttpCheck::default() });
    let liars = [https, http2, login(), postgres(true), smtp(true)];
    let all = conversations();
    let kinds = all.iter().map(|(kind, words)| (kind.clone(), *words));
    let kinds = kinds.chain(liars.map(|kind| (kind, &b""[..])));
    let tried = kinds.flat_map(|(kind, own)| all.iter().map(move |(_, words)| (kind.clone(), own, *words)));
    let tried = tried.map(async |(kind, own, words)| {
        let port = server(Does::Says(words)).await;
        let passed = result(Probe { timeout: Duration::from_secs(1), ..probe(kind.clone(), port) }).await;
        let is_http = own.starts_with(b"HTTP") && words.starts_with(b"HTTP");
        assert!(passed.is_err() || words == own || is_http, "{kind:?} believes {words:?}");
    });
    futures::future::join_all(tried).await;
}

/// Whoever is checked sees whom the check comes from: `source` takes effect with each kind that takes it.
#[tokio::test]
async fn each_kind_comes_from_its_source() {
    let source = Some(Ipv4Addr::new(127, 0, 0, 2).into());
    let from = |probe: Probe| Probe { source, interface: Some("lo".to_owned()), ..probe };
    let kinds = conversations().into_iter().map(|(kind, _)| kind);
    for kind in kinds.chain([CheckKind::Tcp, login(), postgres(true), smtp(true)]) {
        assert!(kind.can_bind());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let probe = from(probe(kind.clone(), listener.local_addr().expect("it has one").port()));
        let made = tokio::spawn(async move { result(probe).await });
        let (stream, peer) = listener.accept().await.expect("a connection");
        drop(stream);
        assert_eq!(Some(peer.ip()), source, "{kind:?}");
        made.await.expect("no panic").err();
    }
    for kind in [CheckKind::Udp(UdpCheck::default()), CheckKind::Dns(DnsCheck::default())] {
        assert!(kind.can_bind());
        let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let probe = from(impatient(probe(kind.clone(), socket.local_addr().expect("it has one").port())));
        let made = tokio::spawn(async move { result(probe).await });
        let (_, peer) = socket.recv_from(&mut [0; 1500]).await.expect("a datagram");
        assert_eq!(Some(peer.ip()), source, "{kind:?}");
        made.await.expect("no panic").err();
    }
    assert!([CheckKind::Ping].iter().all(CheckKind::can_bind));
    let me = result(from(probe(CheckKind::Ping, 0))).await;
    assert_eq!(me.map(|pass| pass.found).as_deref(), Ok("echo reply"));
}

/// A server whose queue is full: the kernel drops SYNs (`tcp_max_syn_backlog` and listen(2)).
#[tokio::test]
async fn each_kind_that_connects_has_a_time_for_it() {
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a port");
    full.listen(0).expect("it listens");
    let at = full.local_addr().expect("it has one").as_socket().expect("of IP");
    let mut waiting = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(at)).await
    {
        waiting.push(stream);
        assert!(waiting.len() < 10, "it takes all");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, "secret").expect("a file");
    let CheckKind::Mysql(mysql) = login() else { unreachable!("it is of MySQL") };
    let reads = CheckKind::Mysql(MysqlCheck { password: None, password_file: Some(file), ..mysql });
    let kinds = conversations().into_iter().map(|(kind, _)| kind);
    for kind in kinds.chain([CheckKind::Tcp, login(), reads, postgres(true), smtp(true)]) {
        assert!(kind.connects());
        let connect_timeout = Duration::from_millis(20);
        let probe = Probe { connect_timeout, ..probe(kind.clone(), at.port()) };
        // The same limit for the whole attempt, as it is when none is configured, takes no reason away.
        for timeout in [probe.timeout, connect_timeout] {
            let why = result(Probe { timeout, ..probe.clone() }).await.expect_err("it is full");
            assert!(["no connection", "no login"].contains(&&*why), "{kind:?}: {why}");
        }
    }
}

#[tokio::test]
async fn an_http_answer_must_have_the_status_and_the_body() {
    let port = server(Does::Answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall well\n")).await;
    assert_eq!(found(http(), port).await.as_deref(), Ok("status 200"));
    let with =
        |body: &str| CheckKind::Http(HttpCheck { body: Some(body.to_owned()), ..HttpCheck::default() });
    assert_eq!(found(with("^all (is )?well"), port).await.as_deref(), Ok("status 200"));
    let wrong = found(with("^well"), port).await;
    assert_eq!(wrong, Err("the body (9 bytes) does not match".to_owned()));
    let status = vec![StatusRange { from: 300, to: 399 }];
    let other = CheckKind::Http(HttpCheck { status, ..HttpCheck::default() });
    assert_eq!(found(other, port).await, Err("status 200".to_owned()));
}

#[tokio::test]
async fn http_servers_that_break_off_or_speak_another_language_fail() {
    let broken: [(&[u8], &str); 4] = [
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 O", "closed without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", "the body cannot be read"),
    ];
    for (words, why) in broken {
        let port = server(Does::Answers(words)).await;
        let body = Some("short".to_owned());
        let told = found(CheckKind::Http(HttpCheck { body, ..HttpCheck::default() }), port).await;
        let told = told.expect_err("it is broken");
        assert!(told.starts_with(why), "{words:?}: {told}");
    }
    let tls = CheckKind::Http(HttpCheck { tls: Some(TlsCheck::default()), ..HttpCheck::default() });
    let plain = server(Does::Answers(b"HTTP/1.1 400 Bad Request\r\n\r\n")).await;
    let told = found(tls, plain).await.expect_err("it does not speak TLS");
    assert!(told.starts_with("TLS: "), "{told}");
}

#[tokio::test]
async fn a_mysql_greeting_is_read_and_an_error_told() {
    let greeting =
        b"\x4b\0\0\0\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0abcdefghijklmnopqrstuvwxyzabcdefghijklmnop";
    let denies = b"\x1a\0\0\x02\xff\x15\x04#28000Access denied ...";
    let port =
        server(Does::SaysAndHangs(Box::leak([&greeting[..], denies].concat().into_boxed_slice()))).await;
    assert_eq!(found(mysql(), port).await.as_deref(), Ok("greeting of 10.11.6-MariaDB-0+deb12u1"));
    let full = server(Does::Says(b"\x17\0\0\0\xff\x10\x04Too many connections")).await;
    assert_eq!(found(mysql(), full).await, Err("error 1040: Too many connections".to_owned()));
    let cut = server(Does::Says(&greeting[..9])).await;
    assert_eq!(found(mysql(), cut).await, Err("greeting: closed".to_owned()));
    let other = server(Does::Says(b"SSH-2.0-OpenSSH_9.2\r\n")).await;
    let older = server(Does::SaysAndHangs(b"\x08\0\0\0\x093.20.1\0")).await;
    for port in [other, older] {
        assert_eq!(found(mysql(), port).await, Err("this is not MySQL".to_owned()));
    }
    assert!(found(login(), cut).await.is_err() && found(login(), full).await.is_err());
}

/// What its library makes of such keys is a panic: the check has to have a result all the same.
#[tokio::test]
async fn a_mysql_server_with_a_key_that_is_none_fails() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        // Protocol::HandshakeV10 of caching_sha2_password, "full authentication" (01 04), and a key.
        let mut greeting = b"\x0a9.7.4\0\x01\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xdf\x15".to_vec();
        greeting.extend([0; 10]);
        greeting.extend(b"ijklmnopqrst\0caching_sha2_password\0");
        for (sequence, says) in [(0, &greeting[..]), (2, b"\x01\x04"), (4, b"\x01no key at all")] {
            let mut packet = (says.len() as u32).to_le_bytes().to_vec();
            packet[3] = sequence;
            packet.extend(says);
            let _ = stream.write_all(&packet).await;
            let _ = stream.read(&mut [0; 4096]).await;
        }
    });
    let told = found(login(), port).await;
    assert_eq!(told, Err("what the server said cannot be understood".to_owned()));
}

#[tokio::test]
async fn an_http_answer_must_have_the_headers_and_the_digest() {
    let answer = b"HTTP/1.1 200 OK\r\nX-Up: no\r\nX-Up: yes\r\nContent-Length: 9\r\n\r\nall well\n";
    let port = server(Does::Answers(answer)).await;
    let with = |headers: &[&str], digest: &str| {
        let expect_headers = headers.iter().map(|it| (*it).to_owned()).collect();
        let digest = Some(digest.parse().expect("a digest"));
        CheckKind::Http(HttpCheck { expect_headers, digest, ..HttpCheck::default() })
    };
    // Of `printf 'all well\n' | md5sum` and `sha256sum`.
    let (md5, sha) = (
        "36059628abb220b1e7c5b5095d3b96f5",
        "76da3989f20c38c4876a1adff41129644d357f73a939d84cbe652a8f49e3a5b9",
    );
    assert_eq!(found(with(&["x-up: ^yes$"], md5), port).await.as_deref(), Ok("status 200"));
    assert_eq!(found(with(&[], &sha.to_uppercase()), port).await.as_deref(), Ok("status 200"));
    let missing = found(with(&["X-Down:"], md5), port).await;
    assert_eq!(missing, Err("there is no header X-Down".to_owned()));
    let other = found(with(&["X-Up: ^perhaps"], md5), port).await;
    assert_eq!(other, Err("header X-Up does not match".to_owned()));
    let wrong = found(with(&[], &"0".repeat(32)), port).await;
    assert_eq!(wrong, Err(format!("the body (9 bytes) has the digest {md5}")));
}

#[tokio::test]
async fn redis_is_asked_and_its_errors_are_told() {
    let kind = || CheckKind::Redis(RedisCheck::default());
    let told: [(&'static [u8], Result<&str, &str>); 6] = [
        (b"+PONG\r\n", Ok("PONG")),
        (b"-LOADING Redis is loading\r\n", Err("error: LOADING Redis is loading")),
        (b"+OK\r\n", Err("PING is answered with OK")),
        (b"HTTP/1.1 400 Bad Request\r\n", Err("this is not Redis")),
        (b"+PO", Err("PING: closed")),
        (b"$9\r\nPO", Err("PING: closed")),
    ];
    for (words, expected) in told {
        let port = server(Does::Answers(words)).await;
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(found(kind(), port).await, expected, "{words:?}");
    }
    let password = Some(Secret("secret".to_owned()));
    let login = CheckKind::Redis(RedisCheck { password, ..RedisCheck::default() });
    let port = server(Does::Answers(b"+PONG\r\n+PONG\r\n")).await;
    assert_eq!(found(login, port).await, Err("AUTH is answered with PONG".to_owned()));
}

#[tokio::test]
async fn a_primary_among_replicas_stands_by_if_it_may() {
    let port = server(Does::SaysAndHangs(b"+PONG\r\n$13\r\nrole:master\r\n\r\n+OK\r\n")).await;
    let kind =
        |fallback| CheckKind::Redis(RedisCheck { role: Role::Replica, fallback, ..RedisCheck::default() });
    let told = result(probe(kind(false), port)).await;
    assert_eq!(told, Err("the primary, no replica".to_owned()));
    let passed = result(probe(kind(true), port)).await.expect("it stands by");
    assert_eq!(passed.weight, Weight::StandBy);
}

fn postgres(logs_in: bool) -> CheckKind {
    let query = logs_in.then(|| "SELECT 1".to_owned());
    CheckKind::Postgres(PostgresCheck { user: "check".to_owned(), query, ..PostgresCheck::default() })
}

#[tokio::test]
async fn postgres_servers_that_refuse_lie_or_break_off_fail() {
    // AuthenticationCleartextPassword, and an ErrorResponse.
    let asks = server(Does::Answers(b"R\0\0\0\x08\0\0\0\x03")).await;
    assert_eq!(found(postgres(false), asks).await.as_deref(), Ok("answers to a login"));
    let full = b"E\0\0\0\x2cSFATAL\0C53300\0Msorry, too many clients\0\0";
    let full = server(Does::Answers(full)).await;
    for logs_in in [false, true] {
        let told = found(postgres(logs_in), full).await;
        assert_eq!(told, Err("error 53300: sorry, too many clients".to_owned()));
    }
    let cut = server(Does::Answers(b"R\0\0")).await;
    assert_eq!(found(postgres(false), cut).await, Err("login: closed".to_owned()));
    let other = server(Does::Answers(b"HTTP/1.1 400 Bad Request\r\n")).await;
    assert_eq!(found(postgres(false), other).await, Err("this is not PostgreSQL".to_owned()));
    let tls = PostgresCheck {
        user: "check".to_owned(),
        tls: Some(TlsCheck::default()),
        ..PostgresCheck::default()
    };
    let plain = server(Does::Answers(b"N")).await;
    assert_eq!(found(CheckKind::Postgres(tls), plain).await, Err("the server has no TLS".to_owned()));
    for port in [cut, other] {
        assert!(found(postgres(true), port).await.is_err());
    }
}

fn smtp(starttls: bool) -> CheckKind {
    let starttls = starttls.then(TlsCheck::default);
    CheckKind::Smtp(SmtpCheck { starttls, ..SmtpCheck::default() })
}

#[tokio::test]
async fn smtp_servers_that_refuse_lie_or_break_off_fail() {
    let told: [(&'static [u8], &str); 6] = [
        (b"554 no mail for you\r\n", "the greeting is 554 no mail for you"),
        (b"220-mx.lab\r\n220 hello\r\n421 full\r\n", "the reply to HELO is 421 full"),
        (b"220 mx.lab\r\n", "HELO: closed"),
        (b"220 mx", "greeting: closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "this is not SMTP"),
        (b"", "greeting: closed"),
    ];
    for (words, why) in told {
        let port = server(Does::Says(words)).await;
        assert_eq!(found(smtp(false), port).await, Err(why.to_owned()), "{words:?}");
    }
    let port = server(Does::Says(b"220 mx.lab\r\n250 mx.lab\r\n")).await;
    assert_eq!(found(smtp(false), port).await.as_deref(), Ok("greeting of mx.lab"));
    assert_eq!(found(smtp(true), port).await, Err("no STARTTLS is offered".to_owned()));
}

/// Answers each datagram with what `reply` makes of it; none: not at all.
async fn datagrams(reply: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> u16 {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = socket.local_addr().expect("it has one").port();
    tokio::spawn(async move {
        let mut request = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut request).await.expect("a datagram");
            if let Some(reply) = reply(&request[..length]) {
                // The check may be gone: its own affair.
                let _ = socket.send_to(&reply, from).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn a_datagram_is_answered_refused_or_met_with_silence() {
    let udp = |expect: Option<&str>, require_reply| {
        let expect = expect.map(str::to_owned);
        CheckKind::Udp(UdpCheck { send: b"ping".to_vec(), expect, require_reply })
    };
    let echo = datagrams(|request| Some([request, b"\xff"].concat())).await;
    assert_eq!(found(udp(None, true), echo).await.as_deref(), Ok("a reply of 5 bytes"));
    assert_eq!(found(udp(Some("(?s-u)^ping\\xff$"), true), echo).await.as_deref(), Ok("a reply of 5 bytes"));
    let wrong = found(udp(Some("^pong"), true), echo).await;
    assert_eq!(wrong, Err("the reply (5 bytes) does not match".to_owned()));
    let silent = datagrams(|_| None).await;
    let passed = result(impatient(probe(udp(None, false), silent))).await.map(|pass| pass.found);
    assert_eq!(passed.as_deref(), Ok("no reply, and no error"));
    let failed = result(impatient(probe(udp(None, true), silent))).await;
    assert_eq!(failed, Err("no reply".to_owned()));
    let closed = closed_datagram_port().await;
    assert_eq!(found(udp(None, false), closed).await, Err("connection refused".to_owned()));
    let dns = CheckKind::Dns(DnsCheck::default());
    assert_eq!(found(dns.clone(), closed).await, Err("connection refused".to_owned()));
    assert_eq!(result(impatient(probe(dns, silent))).await, Err("no answer".to_owned()));
}

async fn closed_datagram_port() -> u16 {
    let socket = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    socket.local_addr().expect("it has one").port()
}

#[tokio::test]
async fn a_dns_answer_must_be_to_the_question_with_the_code() {
    use hickory_proto::{
        op::{Message, MessageType, Query, ResponseCode},
        rr::RecordType,
    };
    let answering = |code: ResponseCode, id_off: u16| {
        datagrams(move |request| {
            let mut message = Message::from_vec(request).ok()?;
            message.set_message_type(MessageType::Response).set_response_code(code);
            message.set_id(message.id().wrapping_add(id_off));
            message.to_vec().ok()
        })
    };
    let dns = |rcode: Vec<u8>, answer: Option<&str>| {
        CheckKind::Dns(DnsCheck { rcode, answer: answer.map(str::to_owned), ..DnsCheck::default() })
    };
    let fine = answering(ResponseCode::NoError, 0).await;
    assert_eq!(found(dns(vec![0], None), fine).await.as_deref(), Ok("response code 0, 0 records"));
    let none = found(dns(vec![0], Some("192")), fine).await;
    assert_eq!(none, Err("response code 0, 0 records, and none matches".to_owned()));
    let refusing = answering(ResponseCode::Refused, 0).await;
    let told = found(dns(vec![0, 3], None), refusing).await.expect_err("it refuses");
    assert!(told.starts_with("response code 5 ("), "{told}");
    assert!(found(dns(vec![5], None), refusing).await.is_ok());
    let forging = answering(ResponseCode::NoError, 1).await;
    assert_eq!(result(impatient(probe(dns(vec![0], None), forging))).await, Err("no answer".to_owned()));
    for queries in [vec![], vec![Query::query("lab.".parse().expect("a name"), RecordType::SOA)]] {
        let other = datagrams(move |request| {
            let mut message = Message::from_vec(request).ok()?;
            message.set_message_type(MessageType::Response);
            let _own = message.take_queries();
            message.add_queries(queries.clone()).to_vec().ok()
        });
        let told = found(dns(vec![0], None), other.await).await;
        assert_eq!(told, Err("the answer is to another question".to_owned()));
    }
    let lying = datagrams(|_| Some(b"?".to_vec())).await;
    assert_eq!(found(dns(vec![0], None), lying).await, Err("the answer (1 bytes) is not DNS".to_owned()));
}

#[tokio::test]
async fn a_file_says_the_weight_or_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let kind = |path: &std::path::Path| CheckKind::File(FileCheck { path: path.to_owned() });
    let of_backend = dir.path().join("127.0.0.1:80");
    std::fs::write(&of_backend, "40\n").expect("writable");
    for path in [&of_backend, &dir.path().to_owned()] {
        assert_eq!(result(probe(kind(path), 80)).await.expect("it passes").weight, Weight::Exactly(40));
    }
    for (text, why) in [("down\n", "the file says down"), ("70000", "says \"70000\""), ("", "says \"\"")] {
        std::fs::write(&of_backend, text).expect("writable");
        let told = found(kind(&of_backend), 80).await.expect_err("no weight");
        assert!(told.contains(why), "{told}");
    }
    // Whoever opens it to read waits for a writer.
    let pipe = dir.path().join("127.0.0.1:82");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).expect("made");
    let told = found(kind(dir.path()), 82).await.expect_err("no file");
    assert!(told.ends_with("127.0.0.1:82: it is no file"), "{told}");
    let missing = found(kind(dir.path()), 81).await.expect_err("not there");
    assert!(missing.ends_with("127.0.0.1:81: no such file or directory"), "{missing}");
}

fn script(text: &str, dynamic: bool) -> CheckKind {
    let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("readable").expect("there").name;
    let command = ["/bin/sh", "-c", text].map(str::to_owned).into();
    CheckKind::Exec(ExecCheck { command, user: me, dynamic })
}

#[tokio::test]
async fn a_program_tells_by_its_exit_code() {
    assert_eq!(found(script("exit 0", false), 80).await.as_deref(), Ok("exit code 0"));
    assert_eq!(found(script("exit 3", false), 80).await, Err("exit code 3".to_owned()));
    assert_eq!(found(script("kill -9 $$", false), 80).await, Err("ended by signal 9".to_owned()));
    let weighed = result(probe(script("exit 42", true), 80)).await.expect("it passes");
    assert_eq!(weighed.weight, Weight::Exactly(40));
    // keepalived's misc_dynamic: 0 is the configured weight, 2 to 255 are 0 to 253.
    for (code, weight) in [(0, Weight::Configured), (2, Weight::Exactly(0)), (255, Weight::Exactly(253))] {
        let weighed = result(probe(script(&format!("exit {code}"), true), 80)).await.expect("it passes");
        assert_eq!(weighed.weight, weight);
    }
    assert_eq!(found(script("exit 1", true), 80).await, Err("exit code 1".to_owned()));
    let told = "[ $LB_SERVICE:$LB_BACKEND:$LB_PORT:$(env | grep -c ^LB_) = web:127.0.0.1:80:80:5 ]";
    assert_eq!(found(script(told, false), 80).await.as_deref(), Ok("exit code 0"));
    let CheckKind::Exec(exec) = script("", false) else { unreachable!("it is one") };
    let missing = ExecCheck { command: vec!["/no/such/program".to_owned()], ..exec.clone() };
    let why = found(CheckKind::Exec(missing), 80).await.expect_err("it is not there");
    assert_eq!(why, "/no/such/program cannot be run: no such file or directory");
    let nobody = ExecCheck { user: "no-such-user".to_owned(), ..exec };
    assert_eq!(found(CheckKind::Exec(nobody), 80).await, Err("there is no user no-such-user".to_owned()));
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().expect("a directory");
    let (pids, fifo) = (dir.path().join("pids"), dir.path().join("fifo"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    // Both hold the FIFO open for writing: its end is theirs.
    let text = format!("exec 3>{}; sleep 600 & echo $$ $! >{}; wait", fifo.display(), pids.display());
    let reading = thread::spawn(move || std::fs::read(fifo).expect("readable until both have ended"));
    let hanging = result(Probe { timeout: Duration::from_secs(2), ..probe(script(&text, false), 80) }).await;
    assert_eq!(hanging, Err("no answer".to_owned()));
    assert!(pids.exists(), "it had begun");
    assert_eq!(reading.join().expect("no panic"), b"");
}

/// A program that passes, but that nobody can begin until this is dropped, as one of a file system that does not answer: at
/// most for `fs.lease-break-time`, 45 s (fcntl(2), F_SETLEASE). It is another process that writes it: a child that is just
/// forked here would have it open too.
struct Stuck(std::process::Child);

impl Stuck {
    fn at(path: &std::path::Path) -> Self {
        let script = "$SIG{IO} = 'IGNORE'; $_ = shift; open F, '>', $_ and print F \"#!/bin/sh\\n\" and close F and \
                      chmod 0755, $_ and open F, '<', $_ and fcntl F, 1024, 1 or die $!; print 'stuck'; close STDOUT; \
                      sleep";
        let mut perl = std::process::Command::new("perl");
        perl.args(["-e", script]).arg(path).stdout(std::process::Stdio::piped());
        let mut holder = perl.spawn().expect("there is perl");
        let mut words = String::new();
        io::Read::read_to_string(holder.stdout.as_mut().expect("it speaks"), &mut words).expect("readable");
        assert_eq!(words, "stuck");
        Self(holder)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ends");
    }
}

#[tokio::test]
async fn a_program_that_does_not_begin_is_in_nobodys_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("program");
    let stuck = Stuck::at(&program);
    let CheckKind::Exec(exec) = script("", false) else { unreachable!("it is one") };
    let command = vec![program.display().to_string()];
    let kind = CheckKind::Exec(ExecCheck { command, ..exec });
    let common = Common::default();
    let made = async |timeout| {
        let outcome = attempt(&Probe { timeout, ..probe(kind.clone(), 80) }, &common).await;
        outcome.result.map(|pass| pass.found).map_err(|failure| failure.why)
    };
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(20));
    assert_eq!(made(short).await, Err("no answer".to_owned()));
    // One thread waits for it, and not one more.
    let again = made(long).await.expect_err("it hangs");
    assert!(again.ends_with("program does not begin since it was started last"), "{again}");
    assert_eq!(found(script("exit 0", false), 80).await.as_deref(), Ok("exit code 0"));
    drop(stuck);
    // The start that was given up is over at any time now.
    let passes = async {
        while made(long).await.as_deref() != Ok("exit code 0") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), passes).await.expect("it is started again");
}

#[test]
fn lag_tiers_give_the_percentage() {
    let lag = [(5, 50), (60, 0)].map(|(from, weight)| LagTier { from, weight }).into();
    let check = MysqlCheck { lag, ..MysqlCheck::default() };
    let given =
        [Some(0), Some(4), Some(5), Some(59), Some(60), Some(u64::MAX), None].map(|lag| check.percent(lag));
    assert_eq!(given, [100, 100, 50, 50, 0, 0, 0]);
}

#[tokio::test]
async fn attempts_do_not_wait_for_each_other() {
    let (checks, mut results) = start().expect("a thread");
    let (silent, closed) = (server(Does::SaysAndHangs(b"")).await, closed_port().await);
    let ids = [0, 1].map(ProbeId::from);
    let wanted = |id, port| Wanted { due: Duration::ZERO, id, probe: Arc::new(probe(http(), port)) };
    checks.attempt(vec![wanted(ids[0], silent), wanted(ids[1], closed)]);
    let mut ended = Vec::new();
    assert!(results.next(&mut ended).await);
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[1..]);
    let counts = &checks.tally().read()[&("http", false)];
    assert_eq!((counts.begun, counts.ended, counts.failed), (2, 1, 1));
    // They were due when the machine started.
    assert_eq!(counts.late.iter().sum::<u64>(), 2);
    assert!(counts.latest > Duration::ZERO && counts.late[0] == 0, "{counts:?}");
}

#[tokio::test]
async fn an_attempt_waits_until_it_is_due() {
    let (checks, mut results) = start().expect("a thread");
    let closed = closed_port().await;
    let now = monotonic();
    let [sooner, later] = [100, 200].map(|millis| now + Duration::from_millis(millis));
    for (id, due) in [(0, later), (1, sooner)] {
        let probe = Arc::new(probe(CheckKind::Tcp, closed));
        checks.attempt(vec![Wanted { due, id: id.into(), probe }]);
    }
    let mut ended = Vec::new();
    assert!(results.next(&mut ended).await);
    assert!(monotonic() >= sooner);
    while ended.len() < 2 {
        assert!(results.next(&mut ended).await);
    }
    assert!(monotonic() >= later);
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 0].map(ProbeId::from));
}
