//! What people see, from fixed inputs.

use crate::{
    api::{
        fake,
        types::{BackendState, BackendView},
    },
    cli::{
        Output, args::ColorChoice, args::OutputFormat, backend, conn, rate::Rates, realserver, service,
        stats, status, timeout,
    },
    model::{Endpoint, ExpireNodest, Guard, PartialTimeouts, Protocol, Reject, ServiceOptions, Timeouts},
    realserver::{Item, Report, Verdict},
};

/// What `print` writes to stdout, without colours.
fn printed(print: impl FnOnce(&mut Output<'_>)) -> String {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    print(&mut Output::new(&mut stdout, &mut stderr, false));
    String::from_utf8(stdout).unwrap()
}

#[track_caller]
fn same(found: &str, wanted: &str) {
    assert!(found.trim_end() == wanted.trim(), "found:\n{found}\nwanted:\n{}\n", wanted.trim());
}

#[test]
fn backend_list() {
    let table = printed(|out| {
        let table = backend::list_table(&fake::services(), out);
        out.table(&table).unwrap();
    });
    same(
        &table, "
Service                Backend            State       Weight  ActiveConn  InActConn  Conns  Packets   Bytes  MAC                Interface  Detail
mysql                  172.18.14.11:3306  up               1           3          1  1.23M    98.8M  115GiB  02:00:00:00:00:0a  eth1
mysql                  172.18.14.12:3306  drained          1           3          1  1.23M    98.8M  115GiB  02:00:00:00:00:0a  eth1
udp/[2001:db8::53]:53  [2001:db8::a]:53   unresolved       1           3          1  1.23M    98.8M  115GiB  -                  -          no answer to ARP on eth1
");
}

#[test]
fn thresholds_stand_in_the_detail() {
    let mut services = fake::services();
    let old = services[0].backends[0].clone();
    services[0].backends[0] =
        BackendView { upper_threshold: 100, lower_threshold: 75, state: BackendState::Overloaded, ..old };
    let table = printed(|out| {
        let table = backend::list_table(&services[..1], out);
        out.table(&table).unwrap();
    });
    assert!(table.lines().nth(1).unwrap().ends_with("eth1       thresholds 100/75"), "{table}");
    assert!(table.contains(" overloaded "), "{table}");
}

#[test]
fn service_list() {
    let table = printed(|out| {
        let table = service::list_table(&fake::services(), out);
        out.table(&table).unwrap();
    });
    same(
        &table, "
Service                Prot  LocalAddress:Port   Scheduler  Backends  ActiveConn  InActConn  Conns  Packets   Bytes
mysql                  TCP   172.18.14.100:3306  rr              1/2           6          2  2.47M     198M  230GiB
udp/[2001:db8::53]:53  UDP   [2001:db8::53]:53   wrr             0/1           3          1      7        7    539B
");
}

#[test]
fn a_service_of_several_endpoints() {
    let mut view = fake::services().remove(0);
    let range =
        Endpoint { last_port: Some(5100), ..Endpoint::new([192, 0, 2, 1].into(), 5000, Protocol::Tcp) };
    view.group = [range, Endpoint::new([192, 0, 2, 1].into(), 53, Protocol::Udp)].into();
    let text = printed(|out| service::show(&view, out).unwrap());
    assert!(text.lines().nth(1).is_some_and(|line| line.contains(" 172.18.14.100:3306 +2 ")), "{text}");
    let listed: Vec<&str> = text.lines().filter(|line| line.starts_with("endpoint: ")).collect();
    assert_eq!(listed, ["endpoint: udp/192.0.2.1:53", "endpoint: tcp/192.0.2.1:5000-5100"]);
}

#[test]
fn a_service_with_options() {
    let mut view = fake::services().remove(0);
    view.options.timeouts = PartialTimeouts { tcp: Some(1800), udp: Some(60), ..PartialTimeouts::default() };
    let text = printed(|out| service::show(&view, out).unwrap());
    assert_eq!(text.lines().nth(2), Some("timeouts of its own (seconds): tcp 1800, udp 60"), "{text}");
    assert_eq!(text.lines().nth(3), Some(""), "what is as by default is not shown: {text}");
    view.options = ServiceOptions {
        timeouts: PartialTimeouts::default(),
        persistence: None,
        expire_nodest: ExpireNodest::Reschedule,
        expire_quiescent_template: true,
        reject: Reject::Pass,
        guard: Guard::Rate(500),
        sloppy_tcp: true,
        sloppy_sctp: true,
        classic_load: true,
        ops: true,
    };
    let text = printed(|out| service::show(&view, out).unwrap());
    for words in [
        "(expire_nodest): reschedule\n",
        "(expire_quiescent_template)\n",
        "(reject): pass\n",
        "floods: 500\n",
        "(sloppy_tcp)\n",
        "(sloppy_sctp)\n",
        "(classic_load)\n",
        "(ops)\n",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn timeouts() {
    let text = printed(|out| timeout::show(&Timeouts::default(), out).unwrap());
    same(
        &text,
        "
Timeout (tcp tcpfin udp): 900 120 300

Timeout        Seconds  State
tcp                900  ESTABLISHED
tcp_fin            120  FIN_WAIT
tcp_syn             60  SYN_RECV
tcp_time_wait      120  TIME_WAIT
tcp_close           10  CLOSE
udp                300  UDP
sctp               900  ESTABLISHED
sctp_init1           4  INIT1
sctp_init           61  INIT
sctp_echoed         61  C-ECHOED
sctp_shutdown       61  S-RECEIVED
sctp_closed         61  CLOSED
",
    );
}

#[test]
fn conn_list() {
    let table = printed(|out| {
        let table = conn::list_table(&fake::conns().conns, out);
        out.table(&table).unwrap();
    });
    same(
        &table,
        "
Pro  Expire  State        Source              Virtual             Destination        Service
TCP   14:59  ESTABLISHED  10.1.2.3:40000      172.18.14.100:3306  172.18.14.11:3306  mysql
UDP   00:07  UDP          [2001:db8::c]:5353  [2001:db8::53]:53   [2001:db8::a]:53   udp/[2001:db8::53]:53
",
    );
}

#[test]
fn totals_and_rates() {
    let totals = printed(|out| {
        let table = stats::counter_table(&fake::stats(1), out);
        out.table(&table).unwrap();
        let table = stats::health_table(&fake::stats(1), out);
        out.table(&table).unwrap();
        let table = stats::check_table(&fake::stats(1), out);
        out.table(&table).unwrap();
        let table = stats::verdict_table(&fake::stats(1), out);
        out.table(&table).unwrap();
        let table = stats::flow_table(&fake::stats(1).flows, out);
        out.table(&table).unwrap();
    });
    same(
        &totals,
        "
Service -> Backend      LocalAddress:Port       Conns  Packets    Bytes
mysql                   tcp/172.18.14.100:3306    100     4000  5.72MiB
  -> 172.18.14.11:3306                             50     2000  2.86MiB
Total                                             100     4000  5.72MiB
Service  Backend            Incomplete  SYN again  Client RST
mysql    172.18.14.11:3306           3         15           1
Check                Made  Failed  Under way  Late 50 %  Late 99 %  Latest
tcp through the VIP  1000       7          3     < 1 ms    < 10 ms  7.3 ms
Verdict           Packets  Meaning
forwarded            4000  sent on to a backend
passed-not-a-vip       12  not ours, left to the host's stack
Flow table  Used  Rated  Use%   Memory
ipv4        524k  1.05M    50  64.0MiB
",
    );
    let rates = Rates::between(&fake::stats(1), &fake::stats(2)).unwrap();
    let rates = printed(|out| {
        let table = stats::rate_table(&rates, out);
        out.table(&table).unwrap();
    });
    same(
        &rates,
        "
Service -> Backend      LocalAddress:Port       Conns/s  Packets/s  Bytes/s
mysql                   tcp/172.18.14.100:3306       50       2000  2.86MiB
  -> 172.18.14.11:3306                               25       1000  1.43MiB
Total                                                50       2000  2.86MiB
",
    );
}

#[test]
fn status_puts_problems_first() {
    let screen =
        printed(|out| status::print(&fake::status(), &fake::services(), &fake::stats(1), out).unwrap());
    same(
        &screen, "
lb 0.1.0, instance default: 3 problems (agent pid 4242, up 1d 2h)
  ! service udp/[2001:db8::53]:53 has no backend that takes new connections (1 configured)
  ! backend [2001:db8::a]:53 of udp/[2001:db8::53]:53 is unresolved: no answer to ARP on eth1
  ! eth0: LRO is on; `ethtool -K eth0 lro off`
  ! backend 172.18.14.12:3306 of mysql is drained

Config  /etc/lb/lb.yaml
Pins    /sys/fs/bpf/lb/default (schema 1)

Interface  Attached to  VLAN  Mode    MAC                 MTU  Program
eth0.100   eth0         100   native  02:00:00:00:00:01  1500       77

Service                Prot  LocalAddress:Port   Scheduler  Backends  ActiveConn  InActConn  Conns  Packets   Bytes
mysql                  TCP   172.18.14.100:3306  rr              1/2           6          2  2.47M     198M  230GiB
udp/[2001:db8::53]:53  UDP   [2001:db8::53]:53   wrr             0/1           3          1      7        7    539B

Flow table  Used  Rated  Use%   Memory
ipv4        524k  1.05M    50  64.0MiB

Verdict           Packets  Meaning
forwarded            4000  sent on to a backend
passed-not-a-vip       12  not ours, left to the host's stack

Changed by command, not in the file (`lb save` writes it):
  backend 172.18.14.12:3306 of mysql is drained
");
}

#[test]
fn a_healthy_status_says_so() {
    let mut services = fake::services();
    services.truncate(1);
    services[0].backends.truncate(1);
    let mut status = fake::status();
    status.warnings.clear();
    status.overlay.clear();
    let screen = printed(|out| status::print(&status, &services, &fake::stats(1), out).unwrap());
    assert!(
        screen.starts_with("lb 0.1.0, instance default: working (agent pid 4242, up 1d 2h)\n\n"),
        "{screen}"
    );
    assert!(!screen.contains("Changed by command"), "{screen}");
}

#[test]
fn realserver_status_fails_if_something_is_wrong() {
    let item = |subject: &str, verdict| Item {
        subject: subject.to_owned(),
        verdict,
        found: "0".to_owned(),
        effect: None,
        fix: None,
    };
    let mut report =
        Report { changes: Vec::new(), items: vec![item("net.ipv4.conf.all.arp_ignore", Verdict::Wrong)] };
    let text = printed(|out| {
        let error = realserver::show(&report, out).unwrap_err();
        assert!(error.to_string().starts_with("something on this backend is wrong"), "{error}");
    });
    assert!(text.contains("net.ipv4.conf.all.arp_ignore"), "{text}");
    report.items[0].verdict = Verdict::Note;
    printed(|out| realserver::show(&report, out).unwrap());
}

#[test]
fn colour_is_for_terminals_unless_told_otherwise() {
    let coloured = |terminal, choice, no_color| {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = Output::new(&mut stdout, &mut stderr, terminal);
        out.configure(OutputFormat::Table, choice, no_color);
        let table = backend::list_table(&fake::services(), &out);
        out.table(&table).unwrap();
        String::from_utf8(stdout).unwrap().contains('\x1b')
    };
    assert!(coloured(true, ColorChoice::Auto, false));
    assert!(!coloured(true, ColorChoice::Auto, true), "NO_COLOR");
    assert!(!coloured(false, ColorChoice::Auto, false), "a pipe");
    assert!(coloured(false, ColorChoice::Always, true));
    assert!(!coloured(true, ColorChoice::Never, false));
}

#[test]
fn colours_do_not_move_the_columns() {
    let table = |choice| {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let mut out = Output::new(&mut stdout, &mut stderr, false);
        out.configure(OutputFormat::Table, choice, false);
        let table = backend::list_table(&fake::services(), &out);
        out.table(&table).unwrap();
        String::from_utf8(stdout).unwrap()
    };
    let mut plain = String::new();
    let mut escape = false;
    for c in table(ColorChoice::Always).chars() {
        match (escape, c) {
            (false, '\x1b') => escape = true,
            (true, 'm') => escape = false,
            (true, _) => {}
            (false, c) => plain.push(c),
        }
    }
    let trimmed: Vec<&str> = plain.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, table(ColorChoice::Never).lines().collect::<Vec<_>>());
}

#[test]
fn status_of_many_services_stays_on_a_screen() {
    let [healthy, broken] = <[_; 2]>::try_from(fake::services()).unwrap();
    let mut services = vec![healthy; 40];
    services.push(broken);
    let screen = printed(|out| status::print(&fake::status(), &services, &fake::stats(1), out).unwrap());
    assert!(screen.lines().count() < 60, "{screen}");
    assert!(screen.contains("... and 25 more: `lb service list`"), "{screen}");
    assert!(screen.contains("... and 27 more: `lb backend list`"), "{screen}");
    let services_begin = screen.find("LocalAddress:Port").unwrap();
    assert!(screen[services_begin..].contains("udp/[2001:db8::53]:53"), "the broken one is shown: {screen}");
}
