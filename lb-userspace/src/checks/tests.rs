//! Each kind of check against servers of this process that behave, and that do not. The real servers are in the labs.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    health::Weight,
    model::check::{ExecCheck, HttpCheck, LagTier, MysqlCheck, Secret, StatusRange, TlsCheck},
};

/// What a server does with each connection after it has read something (or not).
#[derive(Clone, Copy)]
enum Does {
    Says(&'static [u8]),
    /// Says this, and then nothing more, for ever.
    SaysAndHangs(&'static [u8]),
    /// Waits for a request first.
    Answers(&'static [u8]),
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
        Does::Answers(words) => {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            stream.write_all(words).await
        }
    };
}

fn probe(kind: CheckKind, port: u16) -> Probe {
    let target = (Ipv4Addr::LOCALHOST, port).into();
    Probe {
        service: "web".parse().expect("a name"),
        backend: format!("127.0.0.1:{port}").parse().expect("a key"),
        kind,
        target,
        source: None,
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
    attempt(&probe, &Tls::default()).await.result.map_err(|failure| failure.why)
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
async fn every_kind_tells_a_closed_port_and_a_silent_server() {
    let (closed, silent) = (closed_port().await, server(Does::SaysAndHangs(b"")).await);
    let tls = CheckKind::Http(HttpCheck { tls: Some(TlsCheck::default()), ..HttpCheck::default() });
    for kind in [CheckKind::Tcp, http(), tls, mysql(), login()] {
        let refused = found(kind.clone(), closed).await.expect_err("nobody listens");
        assert!(refused.contains("connection refused"), "{kind:?}: {refused}");
        if kind != CheckKind::Tcp {
            let hanging = result(impatient(probe(kind.clone(), silent))).await;
            assert_eq!(hanging, Err("no answer".to_owned()), "{kind:?}");
        }
    }
    assert_eq!(found(CheckKind::Tcp, silent).await.as_deref(), Ok("connected"));
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
        b"\x4a\0\0\0\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0abcdefghijklmnopqrstuvwxyzabcdefghijklmnop";
    let port = server(Does::Says(greeting)).await;
    assert_eq!(found(mysql(), port).await.as_deref(), Ok("greeting of 10.11.6-MariaDB-0+deb12u1"));
    let full = server(Does::Says(b"\x17\0\0\0\xff\x10\x04Too many connections")).await;
    assert_eq!(found(mysql(), full).await, Err("error 1040: Too many connections".to_owned()));
    let cut = server(Does::Says(&greeting[..9])).await;
    assert_eq!(found(mysql(), cut).await, Err("closed in the handshake".to_owned()));
    let other = server(Does::Says(b"SSH-2.0-OpenSSH_9.2\r\n")).await;
    assert_eq!(found(mysql(), other).await, Err("this is not MySQL".to_owned()));
    assert!(found(login(), cut).await.is_err() && found(login(), full).await.is_err());
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
    checks.attempt(ids[0], Arc::new(probe(http(), silent)));
    checks.attempt(ids[1], Arc::new(probe(http(), closed)));
    let mut ended = Vec::new();
    assert!(results.next(&mut ended).await);
    assert_eq!(ended.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids[1..]);
}
