//! mysql checks of real MariaDB and MySQL servers that break off, hang and dawdle at every byte.

use anyhow::{Context, ensure};
use lb::health::{Pass, Weight};
use lb::model::check::{CheckKind, Galera, LagTier, MysqlCheck, Role, Secret, TlsCheck};
use lb_tests::{
    galera,
    lab::Lab,
    mariadb,
    mysql::{Mysql, PASSWORD},
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::cut::{Conversation, bytes_of, bytes_of_records, end_of};

/// Whoever hangs up in the handshake is an error to the server, and all of these do.
const OPTIONS: [&str; 4] = [
    "--server-id=1",
    "--max-connections=500",
    "--max-connect-errors=1000000000",
    // A busy machine must not end a login.
    "--connect-timeout=120",
];

fn login(user: &str, password: &str) -> MysqlCheck {
    let (user, password) = (Some(user.to_owned()), Some(Secret(password.to_owned())));
    MysqlCheck {
        user,
        password,
        role: Role::Primary,
        query: Some("SELECT 1".to_owned()),
        ..MysqlCheck::default()
    }
}

/// Where the packet ends that begins there.
fn end(answer: &[u8], at: usize) -> Option<usize> {
    let header = answer.get(at..at + 4)?;
    Some(at + 4 + u32::from_le_bytes([header[0], header[1], header[2], 0]) as usize)
}

/// The challenge of the greeting, the type of the answer to the login, and `read_only`, which is `0`.
fn of_login(answer: &[u8]) -> Vec<usize> {
    let Some(login) = end(answer, 0) else { return Vec::new() };
    let version = end_of(&answer[5..], b"\0").unwrap_or_default();
    // Behind the version and the connection's number.
    let challenge = 5 + version + 4..5 + version + 12;
    // The row: a packet of two bytes.
    let row = |packet: &[u8]| matches!(packet, [2, 0, 0, _, 1, b'0']);
    let read_only = answer.windows(6).position(row).map(|at| at + 5);
    challenge.chain([login + 4]).chain(read_only).collect()
}

/// The version of the protocol, and the type of the answer to the login, or its error's code.
fn of_handshake(answer: &[u8]) -> Vec<usize> {
    let login = end(answer, 0).unwrap_or(answer.len()) + 4;
    match answer.get(login) {
        Some(0xff) => vec![4, login + 1, login + 2],
        _ => vec![4, login],
    }
}

/// What is sealed behind the greeting.
fn of_tls(answer: &[u8]) -> Vec<usize> {
    bytes_of_records(answer, end(answer, 0).unwrap_or(answer.len()))
}

fn conversation<'a>(
    what: &'a str,
    check: MysqlCheck,
    finds: &'a str,
    steps: &'a [&'a str],
) -> Conversation<'a> {
    Conversation {
        what,
        kind: CheckKind::Mysql(check),
        port: 3306,
        finds,
        steps,
        needs: None,
        every: 1,
        jitter: 0,
        decisive: of_login,
        reset_may_fail: false,
    }
}

#[test]
fn the_handshake_needs_the_greeting_and_the_answer_to_a_login() {
    Lab::test(Topology::one_segment(1), |lab| {
        let server = mariadb::start_with(&lab.scope, &lab.net.backends[0], &OPTIONS)?;
        let version = mariadb::query(
            &lab.net.director.netns,
            lab.net.backends[0].ipv4(),
            &["-N", "-B"],
            "CREATE USER open@'%'; SELECT @@version",
        )?;
        let finds = format!("greeting of {}", version.ok()?.trim());
        let steps = ["greeting: ", "login: "];
        let without = conversation("without a user", MysqlCheck::default(), &finds, &steps);
        Conversation { decisive: of_handshake, ..without }.holds(lab)?;
        let user = MysqlCheck { user: Some("open".to_owned()), ..MysqlCheck::default() };
        let with = conversation("with a user", user, &finds, &steps);
        Conversation { decisive: of_handshake, ..with }.holds(lab)?;
        drop(server);
        Ok(())
    });
}

#[test]
fn a_login_needs_the_answer_to_each_of_its_questions() {
    Lab::test(Topology::one_segment(1), |lab| {
        let _server = mariadb::start_with(&lab.scope, &lab.net.backends[0], &OPTIONS)?;
        let steps = ["login: ", "read_only: ", "query: "];
        conversation("native password", login("root", "123"), "writable", &steps).holds(lab)
    });
}

#[test]
fn a_login_over_tls_needs_the_answer_to_each_of_its_questions() {
    Lab::test(Topology::one_segment(1), |lab| {
        let server = Mysql::start(&lab.scope, &lab.net.backends[0], &OPTIONS[1..])?;
        let tls = |check| MysqlCheck { tls: Some(TlsCheck::default()), ..check };
        let steps = ["login: ", "read_only: ", "query: "];
        conversation("by the hash", login("checker", PASSWORD), "writable", &steps).holds(lab)?;
        let over_tls = conversation("over TLS", tls(login("checker", PASSWORD)), "writable", &steps);
        Conversation { decisive: of_tls, ..over_tls }.holds(lab)?;
        drop(server);
        Ok(())
    });
}

/// The challenge of the greeting, the type of the answer to the login, `read_only`, and of what the node says of itself each
/// name and value that decide: its words for its state are for people.
fn of_galera(answer: &[u8]) -> Vec<usize> {
    let rows: [&[u8]; 3] =
        [b"wsrep_ready\x02ON", b"wsrep_cluster_status\x07Primary", b"wsrep_local_state\x014"];
    [of_login(answer), bytes_of(answer, &rows)].concat()
}

/// A cluster of one node: what it is asked and answers is what it is in a larger one.
#[test]
fn a_node_of_galera_has_to_say_that_it_is_synced() {
    Lab::test(Topology::one_segment(1), |lab| {
        let _nodes = galera::start_with(&lab.scope, &lab.net.backends, &OPTIONS)?;
        for (galera, what) in [(Galera::Synced, "synced"), (Galera::Donor, "or a donor")] {
            let check = MysqlCheck { galera, ..login("root", "123") };
            let steps = ["login: ", "read_only: ", "wsrep: ", "query: "];
            let node = conversation(what, check, "wsrep Synced", &steps);
            Conversation { decisive: of_galera, ..node }.holds(lab)?;
        }
        Ok(())
    });
}

/// Once it has logged in, a replica that does not say how far behind it is lags, and is not dead.
#[test]
fn a_replica_that_breaks_off_lags() {
    Lab::test(Topology::one_segment(2), |lab| {
        let [replica, primary] = &lab.net.backends[..] else { unreachable!("there are two") };
        let _servers = [
            mariadb::start_with(&lab.scope, replica, &OPTIONS)?,
            mariadb::start_with(&lab.scope, primary, &["--server-id=2", "--log-bin=bin"])?,
        ];
        let sql = |statement: &str| {
            mariadb::query(&lab.net.director.netns, replica.ipv4(), &["-N", "-B"], statement)?.ok()
        };
        sql(&format!(
            "CHANGE MASTER TO MASTER_HOST='{}', MASTER_USER='root', MASTER_PASSWORD='123', \
             MASTER_USE_GTID=slave_pos; START SLAVE",
            primary.ipv4()
        ))?;
        eventually(PATIENCE, "a replica that has read all", || {
            let status = sql("SHOW REPLICA STATUS")?;
            let is = status.contains("Slave has read all relay log");
            Ok(if is { Seen::Yes(()) } else { Seen::NotYet(status) })
        })?;
        let lag = vec![LagTier { from: 10, weight: 50 }, LagTier { from: 60, weight: 0 }];
        let check = MysqlCheck { lag, role: Role::Any, query: None, ..login("root", "123") };
        let steps = ["login: ", "logged in, replication: "];
        let replication = conversation("replication", check, "logged in, 0 s behind", &steps);
        replication.holds(lab)?;
        // In the middle of the greeting, and behind the login.
        let late = replication.slow_and_hanging(lab, 10, 0.6, 1000)?.result;
        let lags = Pass {
            found: "logged in, replication: no answer".to_owned(),
            weight: Weight::Lagging { percent: 0, lag: None },
        };
        ensure!(late == Ok(lags.clone()), "{late:?} instead of {lags:?}");
        Ok(())
    });
}

/// MariaDB that blocks hosts after three errors, and knows its own name, as only then it counts (`HOST_VALIDATED`): from
/// there the proxy comes. Whom a server greets in vain is an error to it, whatever a check does; behind the login it is none.
#[test]
fn a_check_that_is_given_up_behind_the_login_is_no_error_to_the_server() {
    Lab::test(Topology::one_segment(1), |lab| {
        let (node, director) = (&lab.net.backends[0], &lab.net.director);
        let hosts = format!("{} {}\n{} director\n", node.ipv4(), node.role, director.ipv4());
        let _server = mariadb::start_knowing(&lab.scope, node, &["--max-connect-errors=3"], &hosts)?;
        // From another host than the proxy.
        let sql =
            |statement: &str| mariadb::query(&director.netns, node.ipv4(), &["-N", "-B"], statement)?.ok();
        let steps = ["login: ", "read_only: ", "query: "];
        let login = conversation("native password", login("root", "123"), "writable", &steps);
        let whole = login.whole(lab)?;
        let greeted = end(&whole, 0).context("a greeting")?;
        let logged_in = end(&whole, greeted).context("an answer to the login")?;
        for (hangs, blocks) in [(whole.len() - 1, false), (logged_in, false), (greeted - 1, true)] {
            login.hanging(lab, hangs, 5)?;
            eventually(PATIENCE, "the end of all that was given up", || {
                let connected = sql("SHOW STATUS LIKE 'Threads_connected'")?;
                Ok(if connected.trim().ends_with("\t1") { Seen::Yes(()) } else { Seen::NotYet(connected) })
            })?;
            let sound = login.hanging(lab, usize::MAX, 1)?;
            let why = sound.iter().find_map(|outcome| outcome.result.as_ref().err());
            let is = why.is_some_and(|failure| failure.why.starts_with("error 1129: "));
            ensure!(is == blocks && why.is_some() == blocks, "after {hangs} bytes: {sound:?}");
        }
        Ok(())
    });
}
