//! Whole command lines against a served socket: requests, stdout, stderr, exit codes.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
};

use pcap_file::pcapng::{Block, PcapNgReader};

use crate::{
    api::{
        fake::{self, FakeAgent, packet},
        types::{ConnList, OptionsEdit, ServiceAdd, ServiceEdit, ServiceView, Stats, Status},
    },
    cli::{Exit, Output, execute},
    events::{Event, Kind},
    model::{Endpoint, ExpireNodest, PartialTimeouts, Protocol, Reject, Scheduler, ServiceOptions},
    trace::Packet,
};

struct Ran {
    exit: Exit,
    stdout: String,
    stderr: String,
}

/// Runs `lb --socket SOCKET LINE` on a thread of its own, as it has a runtime of its own.
async fn run(socket: PathBuf, line: &str) -> Ran {
    let line = line.to_owned();
    tokio::task::spawn_blocking(move || {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let exit = execute(arguments(&socket, &line), &mut Output::new(&mut stdout, &mut stderr, false));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { exit, stdout: text(stdout), stderr: text(stderr) }
    })
    .await
    .unwrap()
}

fn arguments(socket: &Path, line: &str) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["lb".into(), "--socket".into(), socket.into()];
    arguments.extend(line.split_whitespace().map(OsString::from));
    arguments
}

#[tokio::test]
async fn events_are_lines_for_people_and_for_programs() {
    let agent = FakeAgent::start().await;
    let ran = run(agent.socket(), "events").await;
    assert_eq!((ran.exit, ran.stderr.as_str()), (Exit::Success, ""));
    let down = "2026-11-28T14:00:00.000Z  backend-down       mysql 172.18.14.11:3306 backend is down: tcp: connection \
                refused after 0.3 ms";
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (3, down));
    let ran = run(agent.socket(), "events --last 2 --output json").await;
    let events: Vec<Event> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        events.iter().map(|it| (it.seq, it.what.kind)).collect::<Vec<_>>(),
        [(2, Kind::BackendUp), (3, Kind::AgentStop)]
    );
    let ran = run(agent.socket(), "events --service dns --since 2020-01-01T00:00:00Z").await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Success, ""));
    let ran = run(agent.socket(), "events --since tomorrow").await;
    assert_eq!(ran.exit, Exit::Usage);
}

#[tokio::test]
async fn a_trace_is_lines_for_people_and_for_programs_and_says_what_is_missing() {
    let agent = FakeAgent::start().await;
    let line = "trace tcp 172.18.14.100:3306 --from 10.0.0.0/8 --only dropped,forwarded --sample 1/10";
    let ran = run(agent.socket(), line).await;
    let first = "2026-11-28T14:00:00.123456Z eth0 tcp 10.1.2.3:40000 > 172.18.14.100:3306 [SYN] 74 bytes: mysql \
                 forwarded-tx to 172.18.14.11:3306: rr decides";
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!((lines.len(), lines[0]), (2, first));
    // The fake agent ends it.
    assert_eq!(ran.exit, Exit::Failure);
    for words in
        ["tracing", "2 packets; 6 more", "3 above --rate", "2 the ring", "1 this command", "ended the trace"]
    {
        assert!(ran.stderr.contains(words), "{words}: {}", ran.stderr);
    }
    let asked = agent.asked.lock().unwrap().last().cloned().unwrap();
    for words in ["Trace", "Tcp", "10.0.0.0/8", "3306", "dropped,forwarded", "sample: Some(10)"] {
        assert!(asked.contains(words), "{words}: {asked}");
    }
    let ran = run(agent.socket(), "trace --count 1 --steps").await;
    assert_eq!((ran.exit, ran.stdout.lines().count()), (Exit::Success, 2));
    assert!(ran.stdout.lines().nth(1).unwrap().ends_with("scheduler: rr decides"), "{}", ran.stdout);
    let ran = run(agent.socket(), "trace --count 2 --output json").await;
    let packets: Vec<Packet> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (ran.exit, packets),
        (
            Exit::Success,
            vec![packet("forwarded-tx", Some("172.18.14.11:3306")), packet("dropped-no-backend", None)]
        )
    );
    for wrong in
        ["trace tcp udp", "trace nonsense", "trace --only lost", "trace --sample 100", "trace --snap 9000"]
    {
        let ran = run(agent.socket(), wrong).await;
        assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Usage, ""), "{wrong}: {}", ran.stderr);
    }
}

#[tokio::test]
async fn a_trace_s_file_has_frames_times_and_verdicts() {
    let agent = FakeAgent::start().await;
    let file = agent.directory.path().join("trace.pcapng");
    let line = format!("trace --count 2 --write {} --snap 64", file.display());
    let ran = run(agent.socket(), &line).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Success, ""), "{}", ran.stderr);
    let mut reader = PcapNgReader::new(std::fs::File::open(&file).unwrap()).unwrap();
    let (mut names, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(block) => {
                names.extend(block.options.iter().map(|it| format!("{it:?}")))
            }
            Block::EnhancedPacket(block) => packets.push(block.into_owned()),
            _ => {}
        }
    }
    assert_eq!(names, ["IfName(\"eth0\")", "IfTsResol(9)"]);
    assert_eq!((packets.len(), packets[0].data.len(), packets[0].original_len), (2, 14, 74));
    let time: jiff::Timestamp = "2026-11-28T14:00:00.123456Z".parse().unwrap();
    assert_eq!(i128::try_from(packets[0].timestamp.as_nanos()).unwrap(), time.as_nanosecond());
    let comment = format!("{:?}", packets[0].options);
    assert!(comment.contains("lb: forwarded-tx to 172.18.14.11:3306: rr decides"), "{comment}");
}

#[tokio::test]
async fn json_is_the_apis_body_and_nothing_else() {
    let agent = FakeAgent::start().await;
    let json = |line: &'static str| {
        let socket = agent.socket();
        async move {
            let ran = run(socket, &format!("{line} --output json")).await;
            assert_eq!((ran.exit, ran.stderr.as_str()), (Exit::Success, ""), "{line}");
            ran.stdout
        }
    };
    let services: Vec<ServiceView> = serde_json::from_str(&json("service list").await).unwrap();
    assert_eq!(services, fake::services());
    let service: ServiceView = serde_json::from_str(&json("service show mysql").await).unwrap();
    assert_eq!(service, fake::services()[0]);
    let status: Status = serde_json::from_str(&json("status").await).unwrap();
    assert_eq!(status, fake::status());
    let conns: ConnList = serde_json::from_str(&json("conn list").await).unwrap();
    assert_eq!(conns, fake::conns());
    let stats: Stats = serde_json::from_str(&json("stats").await).unwrap();
    assert_eq!(stats, fake::stats(1));
    let backends: serde_json::Value = serde_json::from_str(&json("backend list").await).unwrap();
    assert_eq!(backends[2]["service"], "udp/[2001:db8::53]:53");
    assert_eq!(backends[2]["key"], "[2001:db8::a]:53");
    assert_eq!(backends[0]["counters"]["bytes"], 123_456_789_012_u64, "exact");
    assert_eq!(json("service del mysql").await, "{\n  \"warnings\": []\n}\n");
}

#[tokio::test]
async fn watched_statistics_are_one_object_a_line() {
    let agent = FakeAgent::start().await;
    let ran = run(agent.socket(), "stats --rate --watch=0.1 --count 2 -o json").await;
    assert_eq!(ran.exit, Exit::Success, "{}", ran.stderr);
    let rates: Vec<serde_json::Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rates.len(), 2);
    assert_eq!(rates[1]["total"]["packets"], 2000.0);
}

#[tokio::test]
async fn requests_say_what_was_typed() {
    let agent = FakeAgent::start().await;
    for (line, asked, says) in [
        (
            "backend edit mysql 172.18.14.11 -w 0",
            "BackendEdit { service: ServiceName(\"mysql\"), key: BackendKey { address: 172.18.14.11, port: 3306 }, edit: BackendEdit { weight: Some(0), upper_threshold: None, lower_threshold: None }",
            "backend 172.18.14.11:3306 of mysql changed",
        ),
        (
            "backend drain udp/[2001:db8::53]:53 2001:db8::a",
            "BackendDrain { service: ServiceName(\"udp/[2001:db8::53]:53\"), key: BackendKey { address: 2001:db8::a, port: 53 }",
            "backend [2001:db8::a]:53 of udp/[2001:db8::53]:53 drained",
        ),
        (
            "conn flush --service mysql --backend 172.18.14.11 --state close",
            "ConnsFlush { filter: ConnFilter { service: Some(ServiceName(\"mysql\")), backend: Some(BackendKey { address: 172.18.14.11, port: 3306 }), client: None, state: Some(\"CLOSE\"), limit: None }",
            "connections flushed",
        ),
        ("detach", "Detach", "instance default is detached: nothing is forwarded any more"),
    ] {
        let ran = run(agent.socket(), line).await;
        assert_eq!((ran.exit, ran.stderr.as_str()), (Exit::Success, ""), "{line}");
        assert_eq!(agent.last(), asked, "{line}");
        assert_eq!(ran.stdout, format!("{says}\n"), "{line}");
    }
}

#[tokio::test]
async fn what_a_service_is_given_arrives() {
    let agent = FakeAgent::start().await;
    let timeouts = PartialTimeouts { tcp: Some(1800), ..PartialTimeouts::default() };
    let endpoint = |protocol| Endpoint::new([10, 9, 9, 9].into(), 80, protocol);
    let add = |protocol, options| {
        let add = ServiceAdd {
            name: None,
            endpoint: endpoint(protocol),
            group: [].into(),
            scheduler: Scheduler::Wrr,
            options,
            sources: Default::default(),
        };
        format!("ServiceAdd {{ add: {add:?}")
    };
    let edit = |scheduler, options| {
        let edit = ServiceEdit { scheduler, options, ..ServiceEdit::default() };
        format!("ServiceEdit {{ name: {:?}, edit: {edit:?}", fake::name("mysql"))
    };
    let (own, given) = (ServiceOptions::default(), OptionsEdit::default());
    for (line, asked, says) in [
        ("add -t 10.9.9.9:80 -s wrr", add(Protocol::Tcp, own), "tcp/10.9.9.9:80 added"),
        (
            "add -t 10.9.9.9:80 -s wrr --timeout tcp=30m,udp=default --sloppy-tcp",
            add(Protocol::Tcp, ServiceOptions { timeouts, sloppy_tcp: true, ..own }),
            "tcp/10.9.9.9:80 added",
        ),
        (
            "add -u 10.9.9.9:80 -s wrr --expire-nodest drop --ops",
            add(Protocol::Udp, ServiceOptions { expire_nodest: ExpireNodest::Drop, ops: true, ..own }),
            "udp/10.9.9.9:80 added",
        ),
        ("edit 172.18.14.100:3306 -s wrr", edit(Some(Scheduler::Wrr), given), "mysql changed: scheduler wrr"),
        (
            "edit mysql --timeout tcp=30m,udp=default",
            edit(None, OptionsEdit { timeouts: PartialTimeouts { udp: Some(0), ..timeouts }, ..given }),
            "mysql changed: timeouts tcp 1800, udp as the global one",
        ),
        (
            "edit mysql --expire-nodest=reset --expire-quiescent-template --reject drop --sloppy-tcp=false",
            edit(
                None,
                OptionsEdit {
                    expire_nodest: Some(ExpireNodest::Reset),
                    expire_quiescent_template: Some(true),
                    reject: Some(Reject::Drop),
                    sloppy_tcp: Some(false),
                    ..given
                },
            ),
            "mysql changed: expire_nodest reset, expire_quiescent_template true, reject drop, sloppy_tcp false",
        ),
    ] {
        let ran = run(agent.socket(), &format!("service {line}")).await;
        assert_eq!((ran.exit, ran.stderr.as_str()), (Exit::Success, ""), "{line}");
        assert_eq!(agent.last(), asked, "{line}");
        assert_eq!(ran.stdout, format!("service {says}\n"), "{line}");
    }
    let set = PartialTimeouts { tcp_syn: Some(5), udp: Some(60), ..timeouts };
    let ran = run(agent.socket(), "timeout set 30m 0 60 --tcp-syn 5").await;
    assert_eq!(agent.last(), format!("TimeoutsEdit {{ edit: {set:?}"));
    assert_eq!(ran.stdout, "timeouts changed: tcp 1800, tcp_syn 5, udp 60\n");
}

#[tokio::test]
async fn a_drain_waits_for_the_connections() {
    let agent = FakeAgent::start().await;
    let ran = run(agent.socket(), "backend drain mysql 172.18.14.12:3306 --wait").await;
    assert_eq!((ran.exit, ran.stderr.as_str()), (Exit::Success, ""));
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "backend 172.18.14.12:3306 of mysql: 3 active and 1 inactive connections left");
    assert_eq!(lines[2..], ["backend 172.18.14.12:3306 of mysql has no connections left"]);
    assert!(agent.asked.lock().unwrap()[0].starts_with("BackendDrain"), "{:?}", agent.asked);
    let ran = run(agent.socket(), "backend drain mysql 172.18.14.12:3306 --wait -o json").await;
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines, [r#"{"active":3,"inactive":1}"#, r#"{"active":0,"inactive":0}"#]);
}

#[tokio::test]
async fn warnings_go_to_stderr() {
    let agent = FakeAgent::start().await;
    let ran = run(agent.socket(), "backend add mysql 172.18.14.13").await;
    assert_eq!(ran.exit, Exit::Success);
    assert_eq!(ran.stdout, "backend 172.18.14.13:3306 of mysql added\n");
    assert_eq!(ran.stderr, "lb: warning: the MAC address is not known yet\n");
}

#[tokio::test]
async fn reload_says_what_changed_and_what_was_lost() {
    let agent = FakeAgent::start().await;
    let ran = run(agent.socket(), "reload --keep-runtime").await;
    assert_eq!(
        ran.stdout,
        "changed: service mysql: scheduler rr -> wrr\n\
         discarded, the file overrules it: backend 10.0.0.9:3306 of mysql\n"
    );
    assert_eq!(agent.last(), "Reload { options: ReloadOptions { keep_runtime: true }");
}

#[tokio::test]
async fn save_replaces_the_file_as_a_whole() {
    let agent = FakeAgent::start().await;
    assert_eq!(run(agent.socket(), "save").await.stdout, "services: []\n");
    let file = agent.directory.path().join("lb.yaml");
    std::fs::write(&file, "old").unwrap();
    let ran = run(agent.socket(), &format!("save {}", file.display())).await;
    assert_eq!((ran.exit, ran.stdout.as_str()), (Exit::Success, ""));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "services: []\n");

    let ran = run(agent.socket(), "save /proc/no/such/place").await;
    assert_eq!(ran.exit, Exit::Failure);
    assert!(ran.stderr.starts_with("lb: error: cannot write /proc/no/such/place"), "{}", ran.stderr);
}

#[tokio::test]
async fn failures_have_their_codes_and_one_paragraph() {
    let agent = FakeAgent::start().await;
    let nobody = agent.directory.path().join("nobody.sock");
    for (socket, line, exit, says) in [
        (nobody.clone(), "status", Exit::NotRunning, "the agent is not running (no socket at "),
        // Not the default instance in the place of whose socket it was.
        (nobody.clone(), "detach", Exit::NotRunning, "the agent is not running (no socket at "),
        (
            agent.socket(),
            "service show msql",
            Exit::NotFound,
            "there is no service msql; the nearest name is mysql",
        ),
        (agent.socket(), "backend add msql 10.0.0.1", Exit::NotFound, "there is no service msql"),
        (agent.socket(), "service show 10.9.9.9:80", Exit::NotFound, "there is no service 10.9.9.9:80"),
        (
            agent.socket(),
            "service add mysql -t 1.2.3.4:80",
            Exit::Refused,
            "service mysql exists already; change it with `lb service edit`",
        ),
        (agent.socket(), "conn list --backend 10.0.0.1", Exit::Usage, "--backend 10.0.0.1 needs its port"),
        (agent.socket(), "status --log lb=loud", Exit::Usage, "log filter \"lb=loud\""),
        (agent.socket(), "check-config /no/such/file", Exit::Failure, "cannot read /no/such/file"),
    ] {
        let ran = run(socket, line).await;
        assert_eq!(ran.exit, exit, "{line}: {}", ran.stderr);
        assert_eq!(ran.stdout, "", "{line}");
        assert!(ran.stderr.starts_with(&format!("lb: error: {says}")), "{line}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{line}: {}", ran.stderr);
    }
    assert_eq!(run(nobody, "frobnicate").await.exit, Exit::Usage);
}

#[tokio::test]
async fn without_an_agent_status_says_whether_packets_still_flow() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.sock");
    std::fs::create_dir_all(directory.path().join("lb/default")).unwrap();
    let ran = run(socket, &format!("status --bpffs {}", directory.path().display())).await;
    assert_eq!(ran.exit, Exit::NotRunning);
    assert!(ran.stderr.contains("packets are forwarded on the last state"), "{}", ran.stderr);
}

/// A reader that has gone away, like `head` after its ten lines.
struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_error() {
    let agent = FakeAgent::start().await;
    for line in
        ["conn list", "stats --watch=0.1", "status", "completions bash", "man", "service list -o json"]
    {
        let socket = agent.socket();
        let (exit, stderr) = tokio::task::spawn_blocking(move || {
            let mut stderr = Vec::new();
            let exit = execute(arguments(&socket, line), &mut Output::new(&mut Gone, &mut stderr, false));
            (exit, stderr)
        })
        .await
        .unwrap();
        assert_eq!((exit, stderr.as_slice()), (Exit::Success, &b""[..]), "{line}");
    }
}

#[tokio::test]
async fn pages_are_made_for_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("none.sock");
    let pages = directory.path().join("man");
    let ran = run(socket.clone(), &format!("man {}", pages.display())).await;
    assert_eq!((ran.exit, ran.stderr.as_str()), (Exit::Success, ""));
    for page in ["lb.1", "lb-run.1", "lb-service-add.1", "lb-backend-drain.1", "lb-realserver-status.1"] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    assert!(run(socket.clone(), "man").await.stdout.contains("the agent is not running"));
    assert!(run(socket, "completions zsh").await.stdout.starts_with("#compdef lb"));
}
