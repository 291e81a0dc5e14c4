//! Random valid models, for property tests. Pools are small, so that names and keys meet often.

mod told;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use proptest::{collection::vec, option, prelude::*, sample::select};

use self::told::hooks;
pub(crate) use self::told::notify;
use super::{check::*, timeouts::MAX_TIMEOUT, *};

pub(crate) fn models() -> impl Strategy<Value = Model> {
    let flows = (1..=64u32 << 20, prop_oneof![1..=9u32, Just(64 << 10)])
        .prop_map(|(ipv4, wide)| FlowSizes { ipv4, wide });
    let limits = (20..=65534u32, 100..=262_144u32, prop_oneof![Just(None), (100..=65534u32).prop_map(Some)])
        .prop_map(|(services, destinations, endpoints)| Limits {
            services,
            destinations,
            endpoints: endpoints.unwrap_or(Limits::default_endpoints(services)),
        });
    (
        vec(interfaces(), 1..4),
        option::of(select(vec!["eth0", "0x10", "~", "null", "e#1", "\"'"])),
        prop_oneof![Just(FlowSizes::default()), flows],
        prop_oneof![Just(Limits::default()), limits],
        prop_oneof![Just(ProbePorts::default()), Just(ProbePorts { first: 1024, last: 65535 })],
        prop_oneof![Just(Timeouts::default()), timeouts().prop_map(|own| Timeouts::default().with(own))],
        vec(services(), 0..6),
    )
        .prop_map(|(interfaces, add_to, flows, limits, probes, timeouts, services)| Model {
            interfaces: unique(interfaces, |a, b| a.name == b.name),
            vips: VipPlacement { add_to: add_to.map(str::to_owned) },
            flows,
            limits,
            timeouts,
            probes,
            services: unique(services, |a, b| a.name == b.name || collide(a, b)),
        })
}

fn interfaces() -> impl Strategy<Value = InterfaceSpec> {
    let name =
        prop_oneof!["[a-z]{1,5}[0-9]{0,3}(\\.[0-9]{1,4})?", "[!-.0-9;-~]{1,15}", Just("ütf".to_owned())]
            .prop_filter("no names of directories", |n| n != "." && n != "..");
    let mode = select(vec![AttachMode::Auto, AttachMode::Native, AttachMode::Generic]);
    (name, mode, select(vec![OffloadPolicy::Check, OffloadPolicy::Set]))
        .prop_map(|(name, mode, offloads)| InterfaceSpec { name, mode, offloads })
}

pub(crate) fn services() -> impl Strategy<Value = Service> {
    (
        option::of(names()),
        groups(),
        schedulers(),
        vec((0..6u8, backends()), 0..5),
        (options(), sources()),
        (vec(checks(), 0..3), pools()),
    )
        .prop_map(
            |(name, (endpoint, group), scheduler, backends, (options, sources), (checks, pool))| {
                let backends = backends
                    .into_iter()
                    .map(|(n, backend)| {
                        let checks = backend.health.checks.clone().map(|checks| for_port(endpoint, checks));
                        Backend {
                            key: backend_key(endpoint, n),
                            health: BackendHealth { checks, ..backend.health },
                            ..backend
                        }
                    })
                    .collect();
                for_protocol(Service {
                    name: name.unwrap_or_else(|| endpoint.default_name()),
                    endpoint,
                    group,
                    scheduler,
                    backends: unique(backends, |a: &Backend, b| a.key == b.key),
                    options,
                    sources,
                    health: ServiceHealth { checks: for_port(endpoint, checks), ..pool },
                })
            },
        )
}

/// Rules, of one family mostly: what is not the service's is left out.
pub(crate) fn sources() -> impl Strategy<Value = Sources> {
    let network = (any::<[u8; 16]>(), prop_oneof![0..=128u8, Just(0), Just(8), Just(32)], any::<bool>());
    let limit = (1..=6_000_000u32, option::of(1..=1_000_000u32), option::of(0..=1u8));
    let rule = (0..3u8, limit);
    let one = (network, rule).prop_map(|((bytes, length, is_ipv6), (kind, (rate, burst, per)))| {
        let [a, b, c, d, ..] = bytes;
        let (address, longest) = match is_ipv6 {
            true => (IpAddr::from(bytes), 128),
            false => (IpAddr::from([a, b, c, d]), 32),
        };
        let network = ipnet::IpNet::new(address, length.min(longest)).expect("a prefix").trunc();
        let rule = match kind {
            0 => SourceRule::Allow,
            1 => SourceRule::Deny,
            _ => SourceRule::Limit(SourceLimit {
                rate: format!("{rate}/m").parse().expect("a rate"),
                burst,
                per: per.map(|all| if all == 1 { network.prefix_len() } else { longest }),
            }),
        };
        (network, rule)
    });
    prop_oneof![2 => Just(Sources::new()), 1 => vec(one, 0..6).prop_map(|all| all.into_iter().collect())]
}

fn collide(one: &Service, other: &Service) -> bool {
    one.endpoints().any(|endpoint| other.endpoints().any(|it| it.collides(endpoint)))
}

/// A first endpoint, and those of some more that may stand beside it.
fn groups() -> impl Strategy<Value = (Endpoint, BTreeSet<Endpoint>)> {
    (endpoints(), prop_oneof![2 => Just(Vec::new()), 1 => vec(endpoints(), 0..5)]).prop_map(
        |(first, more)| {
            let fits = |endpoint: &Endpoint| endpoint.address.is_ipv4() == first.address.is_ipv4();
            let all = std::iter::once(first).chain(more.into_iter().filter(fits)).collect();
            let kept: Vec<Endpoint> = unique(all, Endpoint::collides);
            (first, kept[1..].iter().copied().collect())
        },
    )
}

pub(crate) fn options() -> impl Strategy<Value = ServiceOptions> {
    let scope = select(vec![Scope::Service, Scope::Endpoint]);
    let persistence = (prop_oneof![Just(300), 1..=MAX_TIMEOUT], option::of(0..=32u8), scope)
        .prop_map(|(timeout, granularity, scope)| Persistence { timeout, granularity, scope });
    let nodest = select(ExpireNodest::ALL.to_vec());
    let reject = select(Reject::ALL.to_vec());
    let guard = prop_oneof![Just(Guard::Auto), Just(Guard::Off), (1..3_000_000u32).prop_map(Guard::Rate)];
    (timeouts(), option::of(persistence), nodest, reject, guard, any::<[bool; 5]>()).prop_map(
        |(
            timeouts,
            persistence,
            expire_nodest,
            reject,
            guard,
            [expire_quiescent_template, sloppy_tcp, sloppy_sctp, classic_load, ops],
        )| ServiceOptions {
            timeouts,
            persistence,
            expire_nodest,
            expire_quiescent_template,
            reject,
            guard,
            sloppy_tcp,
            sloppy_sctp,
            classic_load,
            ops,
        },
    )
}

/// Without what a service of its protocols cannot have.
fn for_protocol(mut service: Service) -> Service {
    service.options.sloppy_tcp &= service.has(Protocol::Tcp);
    service.options.sloppy_sctp &= service.has(Protocol::Sctp);
    service.options.ops &= service.has(Protocol::Udp);
    let is_ipv4 = service.endpoint.address.is_ipv4();
    service.sources.retain(|network, _| network.addr().is_ipv4() == is_ipv4);
    let all = service.clone();
    let own = service.backends.iter_mut().filter_map(|backend| backend.health.checks.as_mut()).flatten();
    for check in service.health.checks.iter_mut().chain(own) {
        if rules::check_fault(|protocol| all.has(protocol), check) {
            check.port = Some(80);
        }
    }
    service
}

/// None, or some.
pub(crate) fn timeouts() -> impl Strategy<Value = PartialTimeouts> {
    let some = vec(option::of(prop_oneof![Just(900), Just(120), 1..=MAX_TIMEOUT]), 12).prop_map(|given| {
        let mut given = given.into_iter();
        PartialTimeouts::default().map(|_| given.next().flatten())
    });
    prop_oneof![Just(PartialTimeouts::default()), some]
}

pub(crate) fn names() -> impl Strategy<Value = ServiceName> {
    select(vec!["a", "b", "c", "mysql-read", "[x]", ":", "-", "1", "null", "a:", "no"])
        .prop_map(|n| ServiceName::new(n).expect("a valid name"))
}

pub(crate) fn schedulers() -> impl Strategy<Value = Scheduler> {
    (select(Scheduler::ALL.to_vec()), any::<bool>(), any::<bool>()).prop_map(|(scheduler, fallback, port)| {
        let flags = HashFlags { fallback, port };
        match scheduler {
            Scheduler::Sh(_) => Scheduler::Sh(flags),
            Scheduler::Mh(_) => Scheduler::Mh(flags),
            other => other,
        }
    })
}

pub(crate) fn endpoints() -> impl Strategy<Value = Endpoint> {
    let addresses: Vec<IpAddr> = ["192.0.2.1", "172.18.14.100", "fd00::", "2001:db8::1", "ff0::1"]
        .map(|a| a.parse().expect("valid"))
        .into();
    let ports = prop_oneof![
        3 => select(vec![0u16, 53, 3306]).prop_map(|port| (port, None)),
        1 => select(vec![(53, 60), (3000, 3306), (3306, 65535), (1, 2)])
            .prop_map(|(port, last)| (port, Some(last))),
    ];
    (select(addresses), ports, select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]))
        .prop_map(|(address, (port, last_port), protocol)| Endpoint { address, port, protocol, last_port })
}

/// The `n`th possible backend of a service.
pub(crate) fn backend_key(endpoint: Endpoint, n: u8) -> BackendKey {
    let address = match endpoint.address {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 0, n + 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)).into(),
    };
    BackendKey { address, port: endpoint.port }
}

/// Backends whose key is still to be set.
pub(crate) fn backends() -> impl Strategy<Value = Backend> {
    let key = BackendKey { address: Ipv4Addr::UNSPECIFIED.into(), port: 0 };
    let thresholds = prop_oneof![Just((0, 0)), (0..9u32).prop_flat_map(|u| (Just(u), 0..=u))];
    let health = (option::weighted(0.2, vec(checks(), 0..3)), any::<bool>());
    let health = health.prop_map(|(checks, backup)| BackendHealth { checks, backup });
    (prop_oneof![0..3u16, any::<u16>()], thresholds, any::<bool>(), health).prop_map(
        move |(weight, (upper, lower), drained, health)| Backend {
            key,
            weight,
            upper_threshold: upper,
            lower_threshold: lower,
            drained,
            maintenance: None,
            health,
        },
    )
}

/// What somebody does to a backend.
pub(crate) fn maintenances() -> impl Strategy<Value = Maintenance> {
    (select(vec!["new memory", "a reboot"]), option::of(1..9000u32)).prop_map(|(comment, seconds)| {
        Maintenance::begin(comment, "root", jiff::Timestamp::UNIX_EPOCH, seconds).expect("can be")
    })
}

fn unique<T>(items: Vec<T>, same: impl Fn(&T, &T) -> bool) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    for item in items {
        if !kept.iter().any(|k| same(k, &item)) {
            kept.push(item);
        }
    }
    kept
}

/// Checks of IPv4 and IPv6 services; `source` and `address` fit each other.
pub(crate) fn checks() -> impl Strategy<Value = Check> {
    let addresses = prop_oneof![
        Just((None, None)),
        Just((Some([192, 0, 2, 9].into()), Some([192, 0, 2, 1].into()))),
        Just((Some(Ipv6Addr::LOCALHOST.into()), None)),
    ];
    let via = option::of(select(vec![Via::Rip, Via::Vip, Via::Both]));
    (kinds(), addresses, option::of(1..=u16::MAX), via, timings()).prop_map(
        |(kind, (address, source), port, via, timing)| {
            let address = address.filter(|_| kind.takes_address());
            let port = port.filter(|_| kind.takes_port());
            let connect_timeout = timing.connect_timeout.filter(|_| kind.connects());
            let timing = Timing { connect_timeout, ..timing };
            let source = source.filter(|_| kind.can_bind());
            let interface = source.map(|_| "eth0.100".to_owned());
            let via = via.filter(|via| *via == Via::Rip || kind.can_take_the_vip() && address.is_none());
            Check { kind, address, port, source, interface, via, timing }
        },
    )
}

fn kinds() -> impl Strategy<Value = CheckKind> {
    prop_oneof![
        select(vec![CheckKind::Tcp, CheckKind::HalfOpen]),
        http().prop_map(CheckKind::Http),
        mysql().prop_map(CheckKind::Mysql),
        Just(CheckKind::Ping),
        others(),
        exec().prop_map(CheckKind::Exec),
    ]
}

fn others() -> impl Strategy<Value = CheckKind> {
    let words = |words: Vec<&'static str>| option::of(select(words).prop_map(str::to_owned));
    let secrets = || {
        (words(vec!["", "secret", "~", "a: #\"'"]), any::<bool>()).prop_map(|(password, in_file)| {
            let file = password.as_ref().filter(|_| in_file).map(|_| "/etc/lb/password".into());
            (password.filter(|_| !in_file).map(Secret), file)
        })
    };
    let redis = (words(vec!["check", "null"]), secrets(), roles()).prop_map(
        |(user, (password, file), (role, fallback))| {
            let user = user.filter(|_| password.is_some() || file.is_some());
            CheckKind::Redis(RedisCheck { user, password, password_file: file, role, fallback })
        },
    );
    let postgres = (words(vec!["app", "~"]), secrets(), tls(), words(vec!["SELECT 1"]), roles());
    let postgres =
        postgres.prop_map(|(database, (password, password_file), tls, query, (role, fallback))| {
            let user = "check".to_owned();
            CheckKind::Postgres(PostgresCheck {
                user,
                database,
                password,
                password_file,
                tls,
                query,
                role,
                fallback,
            })
        });
    let udp = (vec(any::<u8>(), 0..9), words(vec!["^ok", "(?s-u)\\xff"]), any::<bool>());
    let udp = udp
        .prop_map(|(send, expect, require_reply)| CheckKind::Udp(UdpCheck { send, expect, require_reply }));
    let dns = (select(vec![".", "www.example.com"]), select(vec!["A", "SOA", "TXT"]), vec(0..16u8, 0..3));
    let dns = (dns, words(vec!["^192\\.0\\.2\\.1$", "#"])).prop_map(|((name, kind, rcode), answer)| {
        CheckKind::Dns(DnsCheck { name: name.to_owned(), kind: kind.to_owned(), rcode, answer })
    });
    let smtp = (select(vec!["localhost", "lb.example"]), tls())
        .prop_map(|(helo, starttls)| CheckKind::Smtp(SmtpCheck { helo: helo.to_owned(), starttls }));
    let file = select(vec!["/run/weight", "/a b: #"])
        .prop_map(|path| CheckKind::File(FileCheck { path: path.into() }));
    prop_oneof![redis, postgres, udp, dns, smtp, file]
}

fn timings() -> impl Strategy<Value = Timing> {
    let millis = || prop_oneof![Just(2000), 1..=86_400_000u32].prop_map(Millis);
    let own = || option::of(millis());
    let counts = (1..=1000u16, 1..=1000u16, 0..=1000u16);
    let initial = select(vec![Initial::Down, Initial::Up]);
    (millis(), own(), own(), own(), counts, millis(), own(), initial).prop_map(
        |(interval, fast_interval, timeout, connect_timeout, counts, retry_delay, warmup, initial)| Timing {
            interval,
            fast_interval,
            timeout,
            connect_timeout,
            rise: counts.0,
            fall: counts.1,
            retries: counts.2,
            retry_delay,
            warmup,
            initial,
        },
    )
}

/// A service of every port has checks that say their port.
fn for_port(endpoint: Endpoint, checks: Vec<Check>) -> Vec<Check> {
    let with_port = |check: Check| {
        let port = check.port.or((endpoint.port == 0 && check.kind.has_port()).then_some(80));
        Check { port, ..check }
    };
    checks.into_iter().map(with_port).collect()
}

fn http() -> impl Strategy<Value = HttpCheck> {
    let words =
        || option::of(select(vec!["web", "a.example:80", "null", "10.0.0.1"]).prop_map(str::to_owned));
    let path = select(vec!["/", "/health?full=1", "/a:b"]).prop_map(str::to_owned);
    let headers = vec(select(vec!["X-Lb: 1", "Accept: */*", "X-Empty:"]).prop_map(str::to_owned), 0..3);
    let status = prop_oneof![
        Just(vec![StatusRange { from: 200, to: 299 }]),
        vec((100..300u16, 300..600u16).prop_map(|(from, to)| StatusRange { from, to }), 0..3),
    ];
    let body =
        option::of(select(vec!["ok", "^[a-z]+\\s\"x\" #\n$", "{\"up\": true"]).prop_map(regex::escape));
    let digest = option::of(select(vec!["0f", "A7"]).prop_map(|byte| byte.repeat(16).parse().expect("MD5")));
    let expected = vec(select(vec!["X-Up: ^yes$", "Via:"]).prop_map(str::to_owned), 0..3);
    let more = (digest, expected, any::<bool>());
    (select(vec!["GET", "HEAD"]), path, words(), headers, status, body, tls(), more).prop_map(
        |(method, path, host, headers, status, body, tls, (digest, expect_headers, http2))| HttpCheck {
            method: method.to_owned(),
            path,
            host,
            headers,
            status,
            // The answer to HEAD has none.
            body: body.filter(|_| method != "HEAD"),
            digest: digest.filter(|_| method != "HEAD"),
            expect_headers,
            http2,
            tls,
        },
    )
}

fn tls() -> impl Strategy<Value = Option<TlsCheck>> {
    let names = option::of(select(vec!["web", "null", "10.0.0.1"]).prop_map(str::to_owned));
    let file = option::of(select(vec!["/etc/ca.pem", "/a b: #"]).prop_map(PathBuf::from));
    let tls = (names, any::<bool>(), file).prop_map(|(sni, verify, ca)| {
        let ca = ca.filter(|_| verify);
        TlsCheck { sni, verify, ca }
    });
    option::of(tls)
}

/// A role, and whether the primary stands by.
fn roles() -> impl Strategy<Value = (Role, bool)> {
    select(vec![(Role::Any, false), (Role::Primary, false), (Role::Replica, false), (Role::Replica, true)])
}

fn mysql() -> impl Strategy<Value = MysqlCheck> {
    let words = |words: Vec<&'static str>| option::of(select(words).prop_map(str::to_owned));
    let lag = vec((1..500u32, 0..=100u8), 0..3).prop_map(|tiers| {
        let mut from = 0;
        let rising = tiers.into_iter().map(|(step, weight)| {
            from += step;
            LagTier { from, weight }
        });
        rising.collect::<Vec<_>>()
    });
    let password = words(vec!["", "secret", "~", "a: #\"'"]);
    let query = words(vec!["SELECT 1", "select 'a: b' # c"]);
    let galera = select(vec![Galera::Off, Galera::Synced, Galera::Donor]);
    (words(vec!["check", "null"]), password, any::<bool>(), tls(), query, roles(), galera, lag).prop_map(
        |(user, password, in_file, tls, query, (role, fallback), galera, lag)| {
            let password_file = password.as_ref().filter(|_| in_file).map(|_| "/etc/lb/password".into());
            let password = password.filter(|_| !in_file).map(Secret);
            let check = MysqlCheck { user, password, password_file, tls, query, role, fallback, galera, lag };
            let user = check.user.clone().or(check.logs_in().then(|| "check".to_owned()));
            MysqlCheck { user, ..check }
        },
    )
}

fn exec() -> impl Strategy<Value = ExecCheck> {
    let words = vec(select(vec!["-v", "", "a b", "$X: #"]).prop_map(str::to_owned), 0..3);
    (words, select(vec!["nobody", "root", "null"]), any::<bool>()).prop_map(|(words, user, dynamic)| {
        let command = std::iter::once("/bin/check".to_owned()).chain(words).collect();
        ExecCheck { command, user: user.to_owned(), dynamic }
    })
}

/// All but the checks.
fn pools() -> impl Strategy<Value = ServiceHealth> {
    let slow_start = option::of((1..86_400_000u32).prop_map(Millis));
    let quorum = prop_oneof![Just((1, 0)), (1..9u32).prop_flat_map(|quorum| (Just(quorum), 0..quorum))];
    let flap_hold = option::of((1..86_400_000u32).prop_map(Millis));
    let passive = (select(PassiveMode::ALL.to_vec()), (1..86_400_000u32).prop_map(Millis));
    (0..=100u8, quorum, any::<bool>(), slow_start, flap_hold, hooks(), passive).prop_map(
        |(
            minimum_healthy,
            (quorum, hysteresis),
            inhibit_on_failure,
            slow_start,
            flap_hold,
            hooks,
            (passive, passive_hold),
        )| {
            ServiceHealth {
                checks: Vec::new(),
                minimum_healthy,
                quorum,
                hysteresis,
                inhibit_on_failure,
                slow_start,
                hooks,
                flap_hold,
                passive,
                passive_hold,
            }
        },
    )
}
