use std::net::IpAddr;

use proptest::{option, prelude::*, sample::select};

use super::{schema::Absent, *};
use crate::model::*;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples");

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The messages, without the file's name.
fn errors(text: &str) -> Vec<String> {
    let errors = parse("f.yaml", text).expect_err("the file must be refused").to_string();
    errors
        .lines()
        .map(|l| l.strip_prefix("f.yaml:").expect("the file's name comes first").to_owned())
        .collect()
}

/// A file with one service at 192.0.2.1:80 that begins on line 2, and `more` below it.
fn with_service(more: &str) -> String {
    format!("interfaces: [eth0]\nservices:\n  - address: 192.0.2.1\n    port: 80\n{more}")
}

#[test]
fn the_notes_service_reads_as_the_notes_mean_it() {
    let text = std::fs::read_to_string(format!("{EXAMPLES}/mysql.yaml")).expect("the example is there");
    let config = parse("mysql.yaml", &text).expect("valid");
    let backend = |a: &str| Backend {
        key: BackendKey { address: address(a), port: 3306 },
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drained: false,
        maintenance: None,
        health: Default::default(),
    };
    let endpoint = Endpoint::new(address("172.18.14.100"), 3306, Protocol::Tcp);
    let eth0 =
        InterfaceSpec { name: "eth0".to_owned(), mode: AttachMode::Auto, offloads: OffloadPolicy::Check };
    let expected = Model {
        interfaces: vec![eth0],
        vips: VipPlacement { add_to: Some("eth0".to_owned()) },
        services: vec![Service {
            name: ServiceName::new("mysql-read").expect("valid"),
            endpoint,
            group: [].into(),
            scheduler: Scheduler::Rr,
            backends: vec![backend("172.18.14.71"), backend("172.18.14.72")],
            options: ServiceOptions::default(),
            sources: Default::default(),
            health: Default::default(),
        }],
        ..Model::default()
    };
    assert_eq!(config, Config { model: expected, ..Config::default() });
    assert_eq!(config.socket(), PathBuf::from("/run/lb/default.sock"));
}

#[test]
fn every_example_is_valid_and_survives_render() {
    let mut seen = 0;
    for entry in std::fs::read_dir(EXAMPLES).expect("docs/examples is there") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let config = parse(&path.display().to_string(), &text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(parse("rendered", &render(&config)), Ok(config));
        seen += 1;
    }
    assert!(seen >= 3, "the examples have gone");
}

#[test]
fn the_full_example_shows_every_key() {
    let text = std::fs::read_to_string(format!("{EXAMPLES}/full.yaml")).expect("the example is there");
    for key in schema::SECTIONS.iter().flat_map(|s| s.keys) {
        assert!(text.contains(&format!("{}:", key.name)), "{} is not in full.yaml", key.name);
    }
}

#[test]
fn words_of_one_section_are_unique() {
    for section in schema::SECTIONS {
        let mut words: Vec<&str> =
            section.keys.iter().flat_map(|k| std::iter::once(&k.name).chain(k.also)).copied().collect();
        let all = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), all, "{} has a word twice", section.title());
    }
}

/// The defaults in the tables (and so in docs/config.md) are the ones that hold.
#[test]
fn documented_defaults_are_the_real_ones() {
    let written = |section: &schema::Section, indent: &str| -> String {
        let lines = section.keys.iter().filter_map(|key| match key.absent {
            Absent::Is(value) => Some(format!("{indent}{}: {value}\n", key.name)),
            Absent::Required | Absent::Words(_) => None,
        });
        lines.collect()
    };
    let mut explicit = written(&schema::file::SECTION, "");
    explicit += &format!("interfaces:\n  - name: eth0\n{}", written(&schema::interface::SECTION, "    "));
    for section in [
        &schema::flows::SECTION,
        &schema::limits::SECTION,
        &schema::timeouts::SECTION,
        &schema::probes::SECTION,
    ] {
        explicit += &format!("{}:\n{}", section.path, written(section, "  "));
    }
    explicit += &format!(
        "notify:\n  webhooks:\n    - url: http://a\n{}",
        written(&schema::notify::webhook::SECTION, "      ")
    );
    explicit += "  notification_email: [a@b]\n  notification_email_from: a@b\n  smtp_server: b\n";
    explicit += &written(&schema::notify::SECTION, "  ");
    explicit += "services:\n  - address: 192.0.2.1\n    port: 80\n";
    explicit += &written(&schema::service::SECTION, "    ");
    let tcp = written(&schema::tcp_check::SECTION, "          ");
    explicit += &format!("    checks:\n      - tcp:\n{tcp}{}", written(&schema::check::SECTION, "        "));
    explicit += &format!("      - https:\n{}", written(&schema::https_check::SECTION, "          "));
    explicit += &format!(
        "      - mysql:\n          user: a\n{}",
        // What is about TLS has its own row.
        written(&schema::mysql_check::SECTION, "          ").replace("          verify: false\n", "")
    );
    for (name, section, required) in [
        ("redis", &schema::redis_check::SECTION, ""),
        ("postgres", &schema::postgres_check::SECTION, "          user: a\n"),
        ("udp", &schema::udp_check::SECTION, ""),
        ("dns", &schema::dns_check::SECTION, ""),
        ("smtp", &schema::smtp_check::SECTION, ""),
    ] {
        let own = written(section, "          ").replace("          verify: false\n", "");
        explicit += &format!("      - {name}:\n{required}{own}");
    }
    explicit += "      - exec:\n          command: [/a]\n";
    explicit += &written(&schema::exec_check::SECTION, "          ");
    explicit += "    backends:\n      - address: 192.0.2.2\n";
    explicit += &written(&schema::backend::SECTION, "        ");
    let told = "notify: {webhooks: [{url: http://a}], notification_email: [a@b], notification_email_from: a@b, \
                smtp_server: b}\n";
    let service = with_service(
        "    checks: [tcp, https, {mysql: {user: a}}, redis, {postgres: {user: a}}, udp, dns, smtp, {exec: {command: [/a]}}]\n    backends: [{address: 192.0.2.2}]\n",
    );
    let implicit = format!("{told}{service}");
    let config = parse("explicit", &explicit).unwrap_or_else(|e| panic!("{e}\n{explicit}"));
    assert_eq!(Ok(config), parse("implicit", &implicit));
    for key in schema::SECTIONS.iter().flat_map(|s| s.keys) {
        if let Absent::Is(value) = key.absent {
            assert!(explicit.contains(&format!("{}: {value}\n", key.name)), "{} is not tried", key.name);
        }
    }
}

#[test]
fn words_of_keepalived_are_understood() {
    let theirs = "interfaces: [eth0]\nvirtual_servers:\n  - vip: 192.0.2.1\n    port: 80\n    lb_algo: RR\n    \
                  protocol: TCP\n    persistence_timeout: 0\n    real_servers:\n      - {ip: 192.0.2.2, \
                  uthreshold: 9, lthreshold: 8}\n";
    let ours = with_service(
        "    scheduler: rr\n    backends: [{address: 192.0.2.2, upper_threshold: 9, lower_threshold: 8}]\n",
    );
    assert_eq!(parse("theirs", theirs).expect("valid"), parse("ours", &ours).expect("valid"));
}

#[test]
fn anchors_and_aliases_work() {
    let text = "interfaces: [eth0]\nservices:\n  - {address: 192.0.2.1, port: 80, backends: &web [{address: \
                192.0.2.2}]}\n  - {address: 192.0.2.3, port: 80, backends: *web}\n";
    let services = parse("f", text).expect("valid").model.services;
    assert_eq!(services[0].backends, services[1].backends);
}

#[test]
fn every_problem_of_a_file_is_told_with_its_place() {
    let text = "\
instanse: a
interfaces:
  - eth0
  - {name: eth0, mode: turbo}
timeouts: {tcp: 15 minutes}
services:
  - name: a
    address: 172.18.14.100
    port: 3306
    scheduler: wlcc
    persistence: 50 s
    backends:
      - {address: 172.18.14.71, port: 3307, weight: 70000}
      - address: fd00::71
      - address: 172.18.14.72
        upper_threshold: 5
        lower_threshold: 6
      - address: 172.18.14.72
  - name: b
    address: 172.18.14.100
    port: 3306
  - name: a
    address: 239.1.1.1
    port: 99999
    backends:
      - {address: nonsense, wieght: 1}
";
    let expected = [
        "1:1: unknown key `instanse` in the top level; did you mean `instance`?",
        "4:12: interface eth0 is given twice, first on line 3; keep one of them",
        "4:24: `mode`: unknown mode `turbo`; valid are auto, native, generic",
        "5:17: `tcp`: `15 minutes` is not a duration; write whole seconds, or a number with s, m, h or d, for \
         example 900 or 15m",
        "10:16: `scheduler`: unknown scheduler `wlcc`; did you mean `wlc`? valid are rr, wrr, lc, wlc, sed, nq, fo, ovf, sh, mh, dh, twos, lblc, lblcr",
        "11:18: `persistence`: `50 s` is not a duration; write whole seconds, or a number with s, m, h or d, for \
         example 900 or 15m",
        "13:39: `port`: backend port 3307 differs from the service's port 3306; write 3306 or leave the key \
         out: Direct Routing cannot translate ports",
        "13:53: `weight`: 70000 is out of range; write a number from 0 to 65535",
        "14:18: `address`: fd00::71 is IPv6, but the VIP 172.18.14.100 is IPv4; write the backend's IPv4 \
         address",
        "17:26: lower_threshold 6 is above upper_threshold 5 (IPVS says ERANGE); lower it, or raise \
         upper_threshold; 0 means three quarters of upper_threshold",
        "18:18: backend 172.18.14.72 is given twice, first on line 15; keep one of them",
        "20:14: endpoint tcp/172.18.14.100:3306 is already served by a on line 8; put the backends of both \
         into one service",
        "23:14: `address`: 239.1.1.1 cannot be a VIP: it is a multicast address; write a unicast address",
        "24:11: `port`: 99999 is out of range; write a number from 0 to 65535",
        "26:19: `address`: `nonsense` is not an IP address; write an address such as 192.0.2.10 or \
         2001:db8::10",
        "26:29: unknown key `wieght` in services[].backends[]; did you mean `weight`?",
    ];
    assert_eq!(errors(text), expected);
}

#[test]
fn whoever_is_told_is_said_right_or_refused() {
    let text = "
interfaces: [eth0]
notify:
  router_id: \"a\\tb\"
  events: [backend-dwon]
  program: notify.sh
  webhooks:
    - {url: \"ftp://token@a/\"}
    - {url: http://a, header: \"X Y\", secret: a, secret_file: /b}
    - {timeout: 1s}
  notification_email: [ops, a@b]
  smtp_server: \"a b c\"
  smtp_user: x
services:
  - {address: 192.0.2.1, port: 80, notify_down: [down.sh]}
";
    let found = errors(text);
    let wanted = [
        "4:14: `router_id`: \"a\\tb\" cannot be a router_id; write 1 to 64 printable ASCII characters",
        "5:12: `events`: unknown kind of event `backend-dwon`; did you mean `backend-down`?",
        "6:12: `program` must be a list, not a single value; begin each element with `- `",
        "8:13: `url`: the URL's scheme is `ftp`; write an http or https URL",
        "9:31: `header`: \"X Y\" cannot be the name of a header; write one such as X-Token",
        "9:62: `secret_file` beside `secret`; keep one of them",
        "10:7: notify.webhooks[] has no `url`; add `url: ...` (http or https URL)",
        "11:24: `notification_email`: \"ops\" is not a mail address; write one such as ops@example.net",
        "11:23: `notification_email` without `notification_email_from`; add `notification_email_from: ...`",
        "12:16: `smtp_server`: `b c` is not a whole number; write a number from 1 to 65535",
        "13:14: `smtp_user` without a password; add `smtp_password_file: ...`",
        "15:49: `notify_down` does not begin with the absolute path of a program; write [/path/of/program, its, \
         arguments]; there is no shell",
    ];
    for line in wanted {
        assert!(found.iter().any(|it| it == line), "{line}\n{found:#?}");
    }
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
}

#[test]
fn a_service_may_have_many_endpoints() {
    let text = "
interfaces: [eth0]
services:
  - name: dns
    address: 192.0.2.53
    port: 53
    protocol: udp
    ops: true
    sloppy_tcp: true
    endpoints:
      - {port: 53, protocol: tcp}
      - {address: 192.0.2.54, port: 53}
  - name: ftp
    virtual_server_group:
      - {vip: 192.0.2.21, port: 21}
      - {vip: 192.0.2.21, ports: 50000-50999}
    backends: [{address: 192.0.2.99, port: 21}]
";
    let model = parse("test", text).unwrap_or_else(|e| panic!("{e}")).model;
    let endpoints = |service: &Service| service.endpoints().map(|it| it.to_string()).collect::<Vec<_>>();
    assert_eq!(
        endpoints(&model.services[0]),
        ["udp/192.0.2.53:53", "tcp/192.0.2.53:53", "udp/192.0.2.54:53"]
    );
    assert_eq!(endpoints(&model.services[1]), ["tcp/192.0.2.21:21", "tcp/192.0.2.21:50000-50999"]);
    assert_eq!(model.services[1].backends[0].key.to_string(), "192.0.2.99:21");
    let saved = render(&Config { model: model.clone(), ..Config::default() });
    assert!(saved.contains("- address: 192.0.2.21\n        port: 50000-50999\n"), "{saved}");
    assert_eq!(parse("saved", &saved).unwrap_or_else(|e| panic!("{e}")).model, model);
}

#[test]
fn endpoints_have_room_for_all_services() {
    let of = |limits: &str| {
        let text = format!("interfaces: [eth0]\nlimits: {{{limits}}}\n");
        parse("test", &text).unwrap_or_else(|e| panic!("{e}")).model.limits.endpoints
    };
    assert_eq!(of("services: 10"), 16384);
    assert_eq!(of("services: 20000"), 20000);
    assert_eq!(of("services: 20000, endpoints: 100"), 100);
}

/// One problem each: the file, and how its message begins.
#[test]
fn bad_files_are_refused_where_they_are_bad() {
    let bad_service = |field: &str| format!("interfaces: [eth0]\nservices:\n  - {{{field}}}\n");
    let check = |check: &str| bad_service(&format!("address: 192.0.2.1, port: 80, checks: [{{{check}}}]"));
    let cases = [
        (String::new(), "1:1: the file is empty; write"),
        ("# only a comment\n".to_owned(), "1:1: the file is empty; write"),
        ("- eth0\n".to_owned(), "1:1: the top level must be a mapping, not a list; write"),
        ("services: []\n".to_owned(), "1:1: the top level has no `interfaces`; add"),
        ("interfaces: []\n".to_owned(), "1:13: `interfaces` is empty; name"),
        ("interfaces:\n".to_owned(), "1:1: `interfaces` is empty; name"),
        ("interfaces: eth0\n".to_owned(), "1:13: `interfaces` must be a list, not a single value; begin"),
        (
            "interfaces: [eth0]\ninterfaces: [eth1]\n".to_owned(),
            "2:1: key `interfaces` is given twice, first on line 1; ",
        ),
        ("interfaces: [{mode: auto}]\n".to_owned(), "1:14: interfaces[] has no `name`; add `name: ...`"),
        ("interfaces: [a/b]\n".to_owned(), "1:14: `name`: \"a/b\" cannot be an interface's name; "),
        ("interfaces: [eth0]\ninstance: ../x\n".to_owned(), "2:11: `instance`: \"../x\" cannot be"),
        (
            "interfaces: [eth0]\nflows: {ipv4: 0}\n".to_owned(),
            "2:15: `ipv4`: 0 is out of range; write a count from 1 to 134217728",
        ),
        ("interfaces: [eth0]\nflows: {ipv4: 129M}\n".to_owned(), "2:15: `ipv4`: 129M is out of range; "),
        (
            "interfaces: [eth0]\nflows: {ipv4: 1Mi}\n".to_owned(),
            "2:15: `ipv4`: `1Mi` is not a count; write a number, optionally with k",
        ),
        (
            "interfaces: [eth0]\nlimits: {services: 65535}\n".to_owned(),
            "2:20: `services`: 65535 is out of range; ",
        ),
        (
            "interfaces: [eth0]\ntimeouts: {udp: 0}\n".to_owned(),
            "2:17: `udp`: 0 is out of range; write a duration from 1s to 2678400s",
        ),
        (
            "interfaces: [eth0]\ntimeouts: {udp: [5]}\n".to_owned(),
            "2:17: `udp` must be a single value, not a list; write duration",
        ),
        (
            "interfaces: [eth0]\ntimeouts: {udp: }\n".to_owned(),
            "2:12: `udp` must be a single value, not nothing; write duration",
        ),
        (
            "interfaces: [eth0]\ncontrol: {socket: lb.sock}\n".to_owned(),
            "2:19: `socket`: \"lb.sock\" is not the absolute path",
        ),
        (
            bad_service("address: 192.0.2.1, port: 90-80"),
            "3:32: `port`: the range 90-80 ends before it begins; write 80-90",
        ),
        (
            bad_service("address: 192.0.2.1, port: 0-80"),
            "3:32: `port`: 0 is out of range; write a number from 1 to 65535",
        ),
        (
            bad_service("address: 192.0.2.1, ports: 80-"),
            "3:33: `port`: `` is not a whole number; write a number from 1 to 65535",
        ),
        (
            bad_service("port: 80, endpoints: [{port: 81, address: 192.0.2.1}]"),
            "3:5: services[] has no `address`; add",
        ),
        (bad_service("port: 80, endpoints: []"), "3:5: services[] has no `address`; add"),
        (
            bad_service("endpoints: [{port: 81}]"),
            "3:18: services[].endpoints[] has no `address`; add `address: ...`",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, endpoints: [{port: 80}]"),
            "3:48: endpoint tcp/192.0.2.1:80 is already served by tcp/192.0.2.1:80 on line 3; put",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80-90, endpoints: [{port: 90-99}]"),
            "3:51: endpoint tcp/192.0.2.1:90-99 overlaps tcp/192.0.2.1:80-90 of tcp/192.0.2.1:80-90 on line 3; \
             write ranges that have no port in common",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, endpoints: [{address: '2001:db8::1', port: 80}]"),
            "3:58: `address`: 2001:db8::1 is IPv6, but the service's first, 192.0.2.1, is IPv4; make a service of \
             its own for IPv6, with the backends' IPv6 addresses",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, persistence: 5, persistence_scope: group"),
            "3:71: `persistence_scope`: unknown persistence_scope `group`; valid are service, endpoint",
        ),
        (
            "interfaces: [eth0]\nlimits: {endpoints: 1}\nservices:\n  - {address: 192.0.2.1, port: 80, \
             endpoints: [{port: 81}]}\n"
                .to_owned(),
            "4:5: from here on there are more endpoints than `limits.endpoints`, 1; raise",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, timeouts: {tcp: 0}"),
            "3:52: `tcp`: 0 is out of range; write a duration from 1s to 2678400s",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, timeouts: {tpc: 1}"),
            "3:47: unknown key `tpc` in services[].timeouts; did you mean `tcp`?",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, reject: rst"),
            "3:44: `reject`: unknown reject `rst`; valid are icmp, reset, drop, pass",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, expire_nodest: dorp"),
            "3:51: `expire_nodest`: unknown expire_nodest `dorp`; did you mean `drop`? valid are auto, drop, ",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, ops: true"),
            "3:41: `ops` is for udp services, and this one is none; leave the key out",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, protocol: udp, sloppy_tcp: true"),
            "3:63: `sloppy_tcp` is for tcp services, and this one is none; leave the key out",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, protocol: tcp, sloppy_sctp: true"),
            "3:64: `sloppy_sctp` is for sctp services, and this one is none; leave the key out",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, timeouts: 5"),
            "3:46: services[].timeouts must be a mapping, not a single value; ",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, checks: [tpc]"),
            "3:45: unknown key `tpc` in services[].checks[]; did you mean `tcp`?",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, checks: [{interval: 1s}]"),
            "3:45: the check does not say what it does; add one of tcp",
        ),
        (
            bad_service("address: 192.0.2.1, port: 0, checks: [tcp]"),
            "3:44: the service has every port, so a tcp check needs its own; add `port: ...`",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, protocol: sctp, checks: [tcp]"),
            "3:61: a tcp check speaks TCP, and the service's port SCTP alone; add the `port: ...` of something",
        ),
        (
            bad_service(
                "address: 192.0.2.1, port: 80, protocol: sctp, backends: [{address: 10.0.0.1, checks: [http]}]",
            ),
            "3:92: a http check speaks TCP, and the service's port SCTP alone; add",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, checks: [{tcp: , source: \"fd00::1\"}]"),
            "3:61: `source`: fd00::1 is IPv6, but what is checked is IPv4; write one of the director's IPv4",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, checks: [{tcp: , interval: 1.5s}]"),
            "3:63: `interval`: `1.5s` is not a duration; write whole seconds, or a number with s, m, h or d, for \
             example 900 or 15m, or milliseconds such as 500ms",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, checks: [{tcp: , fall: 0}]"),
            "3:59: `fall`: 0 is out of range; write a number from 1 to 1000",
        ),
        (
            check("http: {path: health}"),
            "3:59: `path`: \"health\" is not the path of a request; write one such as /health?full=1",
        ),
        (
            check("http: {status: [200-]}"),
            "3:62: `status`: `200-` is neither an HTTP status nor a range of them; write",
        ),
        (
            check("http: {body: \"(\"}"),
            "3:59: `body`: this is no regular expression (error: unclosed group); put",
        ),
        (
            check("http: {headers: [X]}"),
            "3:63: `headers`: \"X\" is no header; write \"Name: value\", in quotes",
        ),
        (
            check("http: {verify: true}"),
            "3:53: unknown key `verify` in services[].checks[].http; valid keys are",
        ),
        (check("http: , tcp: "), "3:46: `http` is a second kind of check in one; make two checks of it"),
        (check("mysql: {password: x}"), "3:53: a login without a user; add `user: ...`"),
        (
            check("mysql: {user: u, password: x, password_file: /x}"),
            "3:91: both `password` and `password_file`; keep one of them",
        ),
        (
            check("mysql: {user: u, lag: [{from: 5, weight: 50}, {from: 5, weight: 0}]}"),
            "3:92: the tiers of `lag` do not rise; write the smallest `from` first, and each once",
        ),
        (
            check("mysql: {user: u, role: any, fallback: primary}"),
            "3:84: `fallback: primary` without `role: replica`; add `role: replica`, or leave the key out",
        ),
        (
            check("postgres: {user: u, fallback: primary}"),
            "3:76: `fallback: primary` without `role: replica`; ",
        ),
        (
            check("redis: {role: replica, fallback: yes}"),
            "3:79: `fallback`: unknown fallback `yes`; valid are none, primary",
        ),
        (
            check("mysql: {user: u, password: p, verify: true}"),
            "3:84: `verify` without `tls`; add `tls: on`, or leave the key out",
        ),
        (check("postgres: {user: u, sni: db}"), "3:71: `sni` without `tls`; add `tls: on`"),
        (
            check("mysql: {user: u, tls: on, ca: /ca.pem}"),
            "3:76: `ca` without `verify: true`; add `verify: true`, or leave the key out",
        ),
        (check("https: {ca: /ca.pem}"), "3:58: `ca` without `verify: true`; "),
        (
            check("http: {method: HEAD, body: ok}"),
            "3:73: `body`: the answer to HEAD has no body; write `method: GET`, or leave the key out",
        ),
        (
            check("udp: , connect_timeout: 1s"),
            "3:70: `connect_timeout` does not hold for an udp check; leave the key out",
        ),
        (check("ping: , port: 80"), "3:60: `port` does not hold for a ping check; leave the key out"),
        (
            check("redis: {user: u}"),
            "3:60: a user without a password; add `password: ...`, or leave `user` out",
        ),
        (check("postgres: {}"), "3:56: services[].checks[].postgres has no `user`; add `user: ...` (name)"),
        (
            check("udp: {send_hex: 0}"),
            "3:62: `send_hex`: `0` is not hexadecimal; write two digits for each byte: 00ff",
        ),
        (check("dns: {type: AAAAA}"), "3:58: `type`: unknown record type `AAAAA`; write A, AAAA, NS"),
        (
            check("dns: {rcode: [NXDOMAN]}"),
            "3:60: `rcode`: unknown response code `NXDOMAN`; did you mean `NXDOMAIN`?",
        ),
        (
            check("smtp: {verify: true}"),
            "3:61: `verify` without `starttls`; add `starttls: true`, or leave the key out",
        ),
        (check("file: {path: weight}"), "3:59: `path`: \"weight\" is not the absolute path of a file"),
        (
            check("http: {digest: 00ff}"),
            "3:61: `digest`: `00ff` is no digest; write the 64 hexadecimal digits",
        ),
        (
            check("file: {path: /x}, interface: eth0"),
            "3:75: `interface` does not hold for a file check; leave the key out",
        ),
        (
            check("exec: {command: [check]}"),
            "3:62: `command` does not begin with the absolute path of a program; ",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, quorum: 2, hysteresis: 2"),
            "3:59: hysteresis 2 is not below quorum 2; lower it, or raise `quorum`",
        ),
        (bad_service("port: 80"), "3:5: services[] has no `address`; add"),
        (
            bad_service("address: 192.0.2.1"),
            "3:5: services[] has no `port`; add `port: ...` (0 to 65535, or a range such as 5000-5100)",
        ),
        (
            bad_service("address: 127.0.0.1, port: 80"),
            "3:15: `address`: 127.0.0.1 cannot be a VIP: it is a loopback",
        ),
        (
            bad_service("address: 0.0.0.0, port: 80"),
            "3:15: `address`: 0.0.0.0 cannot be a VIP: it is the unspecified",
        ),
        (
            bad_service("address: \"ff02::1\", port: 80"),
            "3:15: `address`: ff02::1 cannot be a VIP: it is a multicast",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, protocol: dccp"),
            "3:46: `protocol`: unknown protocol `dccp`; valid are tcp, udp, sctp",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, scheduler: rrr"),
            "3:47: `scheduler`: unknown scheduler `rrr`; did you mean `rr`? valid are rr, wrr, lc, wlc, sed, nq, fo, ovf, sh, mh, dh, twos, lblc, lblcr",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, scheduler: sh, flags: [sh-port, mh-port]"),
            "3:68: `flags`: sh has no flag `mh-port`, only sh-fallback and sh-port; write flags of",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, persistence: 50, granularity: 33"),
            "3:66: `persistence_granularity`: 33 bits are more than an address has; write at most 32",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, granularity: 255.255.0.0"),
            "3:49: `persistence_granularity` without `persistence`; give the service a `persistence`",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, scheduler: rr, flags: [sh-port]"),
            "3:59: `flags`: the scheduler rr has no flags, only sh and mh have; write flags of",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, vip: 192.0.2.2"),
            "3:36: key `vip` (another word for `address`) is given twice, first on line 3; ",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, name: a b"),
            "3:42: `name`: service name \"a b\" has the character ' '",
        ),
        (
            bad_service("address: 192.0.2.1, port: 80, backends: [{address: 0.0.0.0}]"),
            "3:57: `address`: 0.0.0.0 cannot be a backend's",
        ),
        (
            bad_service(
                "address: 192.0.2.1, port: 80}\n  - {name: \"tcp/192.0.2.1:80\", address: 192.0.2.2, port: 80",
            ),
            "4:12: the name tcp/192.0.2.1:80 is taken by the service on line 3; ",
        ),
        (
            with_service("  - {address: 192.0.2.2, port: 80}\nlimits: {services: 1}\n"),
            "5:5: 2 services are more than `limits.services`, 1; ",
        ),
        (
            with_service(
                "    backends: [{address: 192.0.2.2}, {address: 192.0.2.3}]\nlimits: {destinations: 1}\n",
            ),
            "3:5: from here on there are more backends than `limits.destinations`, 1; ",
        ),
        (
            "interfaces: [eth0]\n---\ninterfaces: [eth1]\n".to_owned(),
            "2:1: a second YAML document begins here; ",
        ),
        ("interfaces: !secret [eth0]\n".to_owned(), "1:13: tags (`!name`) mean nothing here; "),
        ("interfaces: &a [*a]\n".to_owned(), "1:17: this alias stands inside of its own anchor; "),
        ("? [a]\n: b\n".to_owned(), "1:3: a key must be a single word; "),
        (format!("interfaces: {}\n", "[".repeat(20)), "1:28: lists and mappings are nested too deeply; "),
        ("interfaces: [eth0\nservices: []\n".to_owned(), "2:9: this is not YAML: "),
        ("interfaces:\n\t- eth0\n".to_owned(), "2:2: this is not YAML: "),
        ("interfaces: [\"eth0]\n".to_owned(), "1:14: this is not YAML: "),
    ];
    for (text, begin) in cases {
        let errors = errors(&text);
        assert_eq!(errors.len(), 1, "{text}{errors:#?}");
        assert!(errors[0].starts_with(begin), "{text}{}\ninstead of\n{begin}", errors[0]);
        assert!(errors[0].contains("; "), "no advice: {}", errors[0]);
    }
}

/// Each kind of check with each key that is common to them: what takes no effect is refused.
#[test]
fn a_key_holds_for_a_kind_of_check_or_is_refused() {
    let keys = [
        ("address", "10.0.0.9"),
        ("port", "81"),
        ("source", "192.0.2.9"),
        ("interface", "eth0"),
        ("connect_timeout", "1s"),
        ("interval", "1s"),
        ("fast_interval", "1s"),
        ("timeout", "1s"),
        ("rise", "1"),
        ("fall", "1"),
        ("retries", "1"),
        ("retry_delay", "2s"),
        ("warmup", "1s"),
        ("initial", "up"),
    ];
    let kinds = [
        ("tcp: ", "all"),
        ("tcp: {half_open: true}", "all"),
        ("http: ", "all"),
        ("https: ", "all"),
        ("mysql: ", "all"),
        ("mysql: {user: a}", "all"),
        ("mysql: {user: a, password: b}", "all"),
        ("redis: ", "all"),
        ("postgres: {user: a}", "all"),
        ("postgres: {user: a, password: b}", "all"),
        ("smtp: ", "all"),
        ("udp: ", "all but connect_timeout"),
        ("dns: ", "all but connect_timeout"),
        ("ping: ", "all but port connect_timeout"),
        ("file: {path: /a}", "all but address port source interface connect_timeout"),
        ("exec: {command: [/a]}", "all but source interface connect_timeout"),
    ];
    for (kind, held) in kinds {
        for (key, value) in keys {
            let text = with_service(&format!(
                "    checks: [{{{kind}, {key}: {value}}}]\n    backends: [{{address: 192.0.2.2}}]\n"
            ));
            let is_refused = held.split(' ').any(|word| word == key);
            match (errors_of(&text), is_refused) {
                (None, false) => {
                    let model = parse("f", &text).expect("valid").model;
                    let default =
                        parse("f", &text.replace(&format!(", {key}: {value}"), "")).expect("valid").model;
                    assert!(model != default, "{kind} {key}: it changes nothing");
                }
                (Some(errors), true) => {
                    let begin = format!("`{key}` does not hold for ");
                    assert!(errors.len() == 1 && errors[0].contains(&begin), "{kind} {key}: {errors:?}");
                }
                (found, _) => panic!("{kind} {key}: {found:?}"),
            }
        }
    }
}

/// None: it is valid.
fn errors_of(text: &str) -> Option<Vec<String>> {
    parse("f", text).is_err().then(|| errors(text))
}

#[test]
fn nested_aliases_do_not_fill_the_memory() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..9 {
        text += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    assert!(errors(&text)[0].contains("enormous"), "{:?}", errors(&text));
}

#[test]
fn a_rendered_file_is_short_and_readable() {
    let text = with_service(
        "    scheduler: rr\n    timeouts: {udp: 1m, tcp: 15m}\n    backends:\n      - address: 192.0.2.2\n      - {address: 192.0.2.3, weight: 0, drained: \
         true}\nflows: {ipv4: 4M, wide: 3k}\ntimeouts: {tcp: 15m, udp: 1m}\n",
    );
    let config = parse("f", &text).expect("valid");
    let expected = "\
interfaces:
  - eth0
flows:
  ipv4: 4M
  wide: 3k
timeouts:
  udp: 60
services:
  - address: 192.0.2.1
    port: 80
    protocol: tcp
    scheduler: rr
    timeouts:
      tcp: 900
      udp: 60
    backends:
      - address: 192.0.2.2
      - address: 192.0.2.3
        weight: 0
        drained: true
";
    assert_eq!(render(&config), expected);
}

fn configs() -> impl Strategy<Value = Config> {
    let sockets =
        select(vec!["/run/lb/x.sock", "/tmp/with space", "/tmp/: #", "/tmp/\"\\'", "/tmp/ü\n\u{1}"]);
    let groups = select(vec!["lbadmin", "0", "true", "null", "wheel$", "-"]);
    (
        select(vec!["default", "null", "-", "a_1"]),
        option::of(sockets),
        option::of(groups),
        arbitrary::models(),
        arbitrary::notify(),
    )
        .prop_map(|(instance, socket, group, model, notify)| Config {
            instance: instance.to_owned(),
            control: Control { socket: socket.map(PathBuf::from), group: group.map(str::to_owned) },
            notify,
            model,
        })
}

proptest! {
    #[test]
    fn what_is_rendered_parses_back(config in configs()) {
        let text = render(&config);
        prop_assert_eq!(parse("rendered", &text).map_err(|e| format!("{e}\n{text}")), Ok(config));
        // Another YAML library agrees that this is YAML.
        prop_assert!(serde_yaml::from_str::<serde_yaml::Value>(&text).is_ok(), "{}", text);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[ \\n:a-e0-9{}\\[\\]&*!|>'\"#,?-]{0,60}") {
        let _ = parse("random", &text);
    }

    /// Damage to a good file is found or harmless, never a panic; and it is told with a place in the file.
    #[test]
    fn damage_is_told_with_a_place(at in 0..600usize, with in "[ \\n:x0{}\\[\\]&*!'\"#,-]{0,3}") {
        let mut text = std::fs::read_to_string(format!("{EXAMPLES}/full.yaml")).expect("the example is there");
        let at = at.min(text.len() - 1);
        text.replace_range(at..=at, &with);
        if let Err(errors) = parse("damaged", &text) {
            prop_assert!(!errors.problems.is_empty());
            let lines = text.lines().count() + 1;
            prop_assert!(errors.problems.iter().all(|p| (1..=lines).contains(&p.pos.line) && p.pos.column >= 1));
        }
    }
}

#[test]
fn rules_about_sources_are_read_in_either_form() {
    let file = |rules: &str| {
        format!("interfaces: [eth0]\nservices:\n  - {{address: 192.0.2.1, port: 80, sources: [{rules}]}}\n")
    };
    let long = file(
        "{prefix: 10.0.0.0/8, action: deny}, {prefix: 192.0.2.9, action: allow}, \
         {prefix: 0.0.0.0/0, limit: 100/s, burst: 300, per: 24}",
    );
    let short = file("10.0.0.0/8 deny, 192.0.2.9/32 allow, 0.0.0.0/0 limit 100/s burst 300 per 24");
    let (long, short) = (parse("f", &long).expect("valid"), parse("f", &short).expect("valid"));
    assert_eq!(long, short);
    assert_eq!(long.model.services[0].sources.len(), 3);
}

#[test]
fn wrong_rules_about_sources_have_their_message_and_place() {
    let text = "\
interfaces: [eth0]
services:
  - address: 192.0.2.1
    port: 80
    sources:
      - 10.0.0.0/8 drop
      - {prefix: 10.0.0.1/8, action: deny}
      - {prefix: 10.0.0.0/8}
      - {prefix: 10.0.0.0/8, action: deny, limit: 5/s}
      - {prefix: 10.0.0.0/8, action: deny, burst: 5}
      - {prefix: 11.0.0.0/8, limit: 5/d}
      - {prefix: 11.0.0.0/8, limit: 5/s, per: 4}
      - {prefix: \"::/0\", action: deny}
      - 12.0.0.0/8 deny
      - {prefix: 12.0.0.0/8, action: block}
      - {prefix: 12.0.0.0/8, action: allow}
";
    let expected = [
        "6:9: `sources`: `drop` is no action; write PREFIX allow, PREFIX deny or PREFIX limit 100/s",
        "7:18: `prefix`: `10.0.0.1/8` has bits beyond its length; write 10.0.0.0/8, or 10.0.0.1",
        "8:9: services[].sources[] has neither `action` nor `limit`; write one of them",
        "9:9: services[].sources[] has both `action` and `limit`; write one of them",
        "10:51: `burst` without `limit`; write a `limit`, or leave it out",
        "11:37: `limit`: `5/d` is no rate; write connections a second or a minute, from 1/m to 100000/s, for \
         example 100/s",
        "12:9: clients of 11.0.0.0/8 cannot be told apart per /4; write a length from 8, all of them together, to 32",
        "13:9: ::/0 is IPv6, but the service's address 192.0.2.1 is IPv4; write IPv4 prefixes",
        "15:38: `action`: unknown action `block`; valid are allow, deny",
        "16:9: prefix 12.0.0.0/8 is given twice, first on line 14; keep one of them",
    ];
    assert_eq!(errors(text), expected);
}
