//! One line per command line that must parse, and per one that must not.

use clap::{Parser, error::ErrorKind};

use crate::{
    cli::{
        args::{Cli, ColorChoice, Command, OutputFormat},
        backend::BackendCommand,
        conn::ConnCommand,
        realserver::RealserverCommand,
        service::ServiceCommand,
    },
    log::LogFormat,
    model::Scheduler,
};

fn parse(line: &str) -> Cli {
    Cli::try_parse_from(line.split_whitespace()).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn refuse(line: &str) -> (ErrorKind, String) {
    match Cli::try_parse_from(line.split_whitespace()) {
        Ok(cli) => panic!("{line}: parsed as {cli:?}"),
        Err(error) => {
            assert_eq!(error.exit_code(), 2, "{line}");
            (error.kind(), error.to_string())
        }
    }
}

#[test]
fn global_options_stand_anywhere() {
    let cli = parse("lb service list --instance lab-1 -o json --color never --log debug");
    assert_eq!(cli.global.instance, "lab-1");
    assert_eq!(cli.global.output, OutputFormat::Json);
    assert_eq!(cli.global.color, ColorChoice::Never);
    assert_eq!(cli.global.log.as_deref(), Some("debug"));
    assert_eq!(cli.global.socket().to_str(), Some("/run/lb/lab-1.sock"));
    let cli = parse("lb --socket /tmp/a.sock status");
    assert_eq!(cli.global.socket().to_str(), Some("/tmp/a.sock"));
}

#[test]
fn run_has_defaults_for_its_places() {
    let cli = parse("lb run --config lb.yaml");
    let Command::Run(run) = &cli.command else { panic!("{cli:?}") };
    assert!(!run.replace && run.socket_group.is_none());
    assert_eq!(run.log_format, LogFormat::Auto);
    let paths = cli.global.paths(&run.place);
    assert_eq!(paths.state_dir.to_str(), Some("/var/lib/lb"));
    assert_eq!(paths.bpffs.to_str(), Some("/sys/fs/bpf"));

    let line =
        "lb run -c lb.yaml --replace --state-dir /s --bpffs /b --log-format journald --socket-group adm";
    let cli = parse(line);
    let Command::Run(run) = &cli.command else { panic!("{cli:?}") };
    assert!(run.replace);
    assert_eq!(run.log_format, LogFormat::Journald);
    assert_eq!(run.socket_group.as_deref(), Some("adm"));
    assert_eq!(cli.global.paths(&run.place).state_dir.to_str(), Some("/s"));
}

#[test]
fn the_agents_verbs() {
    assert!(matches!(parse("lb reload --keep-runtime").command, Command::Reload(r) if r.keep_runtime));
    assert!(matches!(parse("lb detach --bpffs /b").command, Command::Detach(_)));
    assert!(matches!(parse("lb check-config lb.yaml").command, Command::CheckConfig { .. }));
    assert!(matches!(parse("lb status").command, Command::Status { .. }));
    assert!(matches!(parse("lb save").command, Command::Save { file } if file.to_str() == Some("-")));
    assert!(
        matches!(parse("lb save a.yaml").command, Command::Save { file } if file.to_str() == Some("a.yaml"))
    );
    assert!(matches!(parse("lb completions bash").command, Command::Completions { .. }));
    assert!(matches!(parse("lb man").command, Command::Man { directory: None }));
}

#[test]
fn services_in_ipvsadms_words() {
    for line in [
        "lb service add --tcp 172.18.14.100:3306 --name mysql --scheduler wrr",
        "lb service add mysql -t 172.18.14.100:3306 -s wrr",
        "lb service add mysql --tcp-service 172.18.14.100:3306 --scheduler wrr",
    ] {
        let Command::Service(ServiceCommand::Add(add)) = parse(line).command else { panic!("{line}") };
        assert_eq!(add.name.or(add.name_option).unwrap().as_str(), "mysql", "{line}");
        assert_eq!(add.scheduler, Scheduler::Wrr, "{line}");
        assert_eq!(
            crate::model::Endpoint::from(add.endpoint).to_string(),
            "tcp/172.18.14.100:3306",
            "{line}"
        );
    }
    let Command::Service(ServiceCommand::Add(add)) = parse("lb service add -u [2001:db8::1]:53").command
    else {
        panic!()
    };
    assert_eq!(crate::model::Endpoint::from(add.endpoint).to_string(), "udp/[2001:db8::1]:53");
    assert!(matches!(
        parse("lb service edit mysql -s rr").command,
        Command::Service(ServiceCommand::Edit(edit)) if edit.change.scheduler == Some(Scheduler::Rr)
    ));
    parse("lb service edit mysql -p 300");
    parse("lb service del tcp/172.18.14.100:3306");
    parse("lb service show mysql");
}

#[test]
fn backends_in_ipvsadms_words() {
    let line = "lb backend add mysql 172.18.14.11 -w 3 -x 100 -y 80";
    let Command::Backend(BackendCommand::Add(add)) = parse(line).command else { panic!() };
    assert_eq!((add.weight, add.upper_threshold, add.lower_threshold), (3, 100, 80));
    assert_eq!(add.which.backend.port, None);
    let Command::Backend(BackendCommand::Add(add)) = parse("lb backend add mysql [fd00::1]:80").command
    else {
        panic!()
    };
    assert_eq!((add.weight, add.upper_threshold, add.lower_threshold), (1, 0, 0));
    assert_eq!(add.which.backend.port, Some(80));
    let line = "lb backend edit mysql 10.0.0.1 --upper-threshold 9";
    let Command::Backend(BackendCommand::Edit(edit)) = parse(line).command else { panic!() };
    assert_eq!((edit.change.weight, edit.change.upper_threshold), (None, Some(9)));
    let line = "lb backend drain mysql 10.0.0.1 --wait --deadline 10m";
    let Command::Backend(BackendCommand::Drain(drain)) = parse(line).command else { panic!() };
    assert_eq!((drain.wait, drain.deadline.as_secs()), (true, 600));
    let Command::Backend(BackendCommand::Drain(drain)) = parse("lb backend drain mysql 10.0.0.1").command
    else {
        panic!()
    };
    assert!(!drain.wait);
    for line in [
        "del mysql 10.0.0.1",
        "drain mysql 10.0.0.1:80",
        "undrain 10.9.9.9:80 10.0.0.1",
        "list",
        "list mysql",
    ] {
        parse(&format!("lb backend {line}"));
    }
}

#[test]
fn connections_statistics_and_realservers() {
    let line = "lb conn list --service mysql --backend 10.0.0.1:80 --client 10.0.0.0/8 --state established --limit 5";
    let Command::Conn(ConnCommand::List { limit, .. }) = parse(line).command else { panic!() };
    assert_eq!(limit, Some(5));
    parse("lb conn flush --all");
    parse("lb conn flush --service mysql --state CLOSE");
    let watch = |line: &str| match parse(line).command {
        Command::Stats(stats) => (stats.rate, stats.watch.map(|w| w.as_millis()), stats.count),
        other => panic!("{other:?}"),
    };
    assert_eq!(watch("lb stats"), (false, None, None));
    assert_eq!(watch("lb stats --rate --watch"), (true, Some(1000), None));
    assert_eq!(watch("lb stats --watch=0.5 --count 3"), (false, Some(500), Some(3)));
    let Command::Realserver(RealserverCommand::Start { vips, .. }) =
        parse("lb realserver start 172.18.14.100 2001:db8::1").command
    else {
        panic!()
    };
    assert_eq!(vips.len(), 2);
    parse("lb realserver status");
    parse("lb realserver stop 172.18.14.100");
}

#[test]
fn wrong_lines_are_usage_errors_that_say_what_is_wrong() {
    for (line, says) in [
        ("lb frobnicate", "frobnicate"),
        ("lb run", "--config"),
        ("lb service add mysql", "--tcp"),
        ("lb service add -t 1.2.3.4:80 -u 1.2.3.4:80", "cannot be used with"),
        ("lb service add a --name b -t 1.2.3.4:80", "cannot be used with"),
        ("lb service add -t 1.2.3.4", "1.2.3.4:PORT"),
        ("lb service add -t 1.2.3.4:80 -s wcl", "rr, wrr, lc, wlc"),
        ("lb service edit mysql", "--scheduler"),
        ("lb service edit mysql --timeout tcp", "NAME=DURATION"),
        ("lb service edit mysql --timeout tpc=1", "did you mean tcp?"),
        ("lb service edit mysql --timeout tcp=0", "1s to 2678400s"),
        ("lb service edit mysql --reject rst", "valid are icmp, reset, drop, pass"),
        ("lb service edit mysql --sloppy-tcp=maybe", "maybe"),
        ("lb timeout set", "--tcp-syn"),
        ("lb timeout set 900 120", "TCPFIN"),
        ("lb timeout set 900 120 forever", "not a duration"),
        ("lb timeout set 900 120 300 --udp 5", "cannot be used with"),
        ("lb timeout set --udp 0", "out of range"),
        ("lb backend add mysql 10.0.0.1 -w 65536", "0..=65535"),
        ("lb backend add mysql db1", "host names are not looked up"),
        ("lb backend edit mysql 10.0.0.1", "--weight"),
        ("lb backend drain mysql 10.0.0.1 --deadline 5m", "--wait"),
        ("lb backend drain mysql 10.0.0.1 --wait --deadline 0", "out of range"),
        ("lb conn flush", "--all"),
        ("lb conn flush --all --service mysql", "cannot be used with"),
        ("lb conn list --client 10.0.0.0/99", "0 to 32"),
        ("lb stats --watch=0", "0.1 to 86400"),
        ("lb stats --count 2", "--watch"),
        ("lb realserver start", "VIP"),
        ("lb realserver start vip", "vip"),
        ("lb --instance ../x status", "letters, digits"),
        ("lb -o yaml status", "table, json"),
    ] {
        let (_, text) = refuse(line);
        assert!(text.contains(says), "{line}: {text}");
    }
}
