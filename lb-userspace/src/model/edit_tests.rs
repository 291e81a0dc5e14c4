use super::*;
use crate::{
    api::types::{ApiError, SourcesEdit},
    model::{
        Limits, Protocol, Scheduler,
        check::{Check, CheckKind},
    },
};

fn name(text: &str) -> ServiceName {
    text.parse().expect("a name")
}

fn key(text: &str) -> BackendKey {
    text.parse().expect("a key")
}

fn endpoint(address: &str, port: u16) -> Endpoint {
    Endpoint::new(address.parse().expect("an address"), port, Protocol::Tcp)
}

fn service_add(name_: Option<&str>, endpoint: Endpoint) -> ServiceAdd {
    ServiceAdd {
        name: name_.map(name),
        endpoint,
        group: [].into(),
        scheduler: Scheduler::Rr,
        options: ServiceOptions::default(),
        sources: Default::default(),
    }
}

fn backend_add(key_: &str) -> BackendAdd {
    BackendAdd { key: key(key_), weight: 1, upper_threshold: 0, lower_threshold: 0 }
}

/// mysql-read at 172.18.14.100:3306 with backends .71 and .72.
fn model() -> Model {
    let mut model = Model::default();
    let add = service_add(Some("mysql-read"), endpoint("172.18.14.100", 3306));
    add_service(&mut model, &add).expect("added");
    for backend in ["172.18.14.72:3306", "172.18.14.71:3306"] {
        add_backend(&mut model, &name("mysql-read"), &backend_add(backend)).expect("added");
    }
    model
}

#[test]
fn a_hot_added_backend_goes_to_the_head_and_a_service_to_the_end() {
    let mut model = model();
    let added =
        add_backend(&mut model, &name("mysql-read"), &backend_add("172.18.14.73:3306")).expect("added");
    assert_eq!((added.key, added.drained), (key("172.18.14.73:3306"), false));
    let keys: Vec<String> = model.services[0].backends.iter().map(|b| b.key.to_string()).collect();
    assert_eq!(keys, ["172.18.14.73:3306", "172.18.14.71:3306", "172.18.14.72:3306"]);
    let service = add_service(&mut model, &service_add(None, endpoint("fd00::1", 53))).expect("added");
    assert_eq!(service.name, name("tcp/[fd00::1]:53"));
    assert_eq!(model.services[1], service);
}

#[test]
fn edits_change_what_is_given_and_nothing_else() {
    let mut model = model();
    let (service, backend) = (name("mysql-read"), key("172.18.14.71:3306"));
    let edit = ServiceEdit { scheduler: Some(Scheduler::Wrr), ..ServiceEdit::default() };
    assert_eq!(edit_service(&mut model, &service, &edit).expect("edited").scheduler, Scheduler::Wrr);
    assert_eq!(
        edit_service(&mut model, &service, &ServiceEdit::default()).expect("fine").scheduler,
        Scheduler::Wrr
    );
    let edit = BackendEdit { weight: Some(0), upper_threshold: Some(8), lower_threshold: None };
    edit_backend(&mut model, &service, backend, &edit).expect("edited");
    let edit = BackendEdit { lower_threshold: Some(8), ..BackendEdit::default() };
    let edited = edit_backend(&mut model, &service, backend, &edit).expect("edited");
    assert_eq!((edited.weight, edited.upper_threshold, edited.lower_threshold), (0, 8, 8));
    for drained in [true, true, false] {
        let backend = set_drained(&mut model, &service, backend, drained).expect("drained");
        assert_eq!((backend.drained, backend.weight), (drained, 0));
    }
    assert_eq!(delete_backend(&mut model, &service, backend).expect("deleted"), edited);
    assert_eq!(delete_service(&mut model, &service).expect("deleted").backends.len(), 1);
    assert!(model.services.is_empty());
}

/// Each refused change: its status, how its message begins, and a part of its hint. Nothing changes.
#[test]
fn a_refused_change_changes_nothing_and_says_what_would_be_right() {
    type Edit = fn(&mut Model) -> Result<(), EditError>;
    let service = || name("mysql-read");
    let cases: [(Edit, u16, &str, &str); 19] = [
        (
            |m| add_service(m, &service_add(Some("mysql-read"), endpoint("172.18.14.101", 1))).map(drop),
            409,
            "service mysql-read already exists",
            "lb service edit mysql-read",
        ),
        (
            |m| add_service(m, &service_add(None, endpoint("172.18.14.100", 3306))).map(drop),
            409,
            "endpoint tcp/172.18.14.100:3306 is already served by service mysql-read",
            "Add backends to mysql-read",
        ),
        (
            |m| add_service(m, &service_add(None, endpoint("224.0.0.1", 1))).map(drop),
            400,
            "224.0.0.1 cannot be a VIP: it is a multicast address",
            "unicast",
        ),
        (
            |m| delete_service(m, &name("mysql-raed")).map(drop),
            404,
            "there is no service mysql-raed",
            "Did you mean mysql-read?",
        ),
        (
            |m| edit_service(m, &name("tcp/172.18.14.100:3306"), &ServiceEdit::default()).map(drop),
            404,
            "there is no service tcp/",
            "Did you mean mysql-read?",
        ),
        (
            |m| add_backend(m, &name("web"), &backend_add("10.0.0.1:80")).map(drop),
            404,
            "there is no service web",
            "lb service list",
        ),
        (
            |m| add_backend(m, &name("mysql-read"), &backend_add("172.18.14.71:3306")).map(drop),
            409,
            "service mysql-read already has a backend 172.18.14.71:3306",
            "lb backend edit mysql-read 172.18.14.71:3306",
        ),
        (
            |m| add_backend(m, &name("mysql-read"), &backend_add("[fd00::1]:3306")).map(drop),
            400,
            "backend fd00::1 is IPv6, but the VIP 172.18.14.100 of service mysql-read is IPv4",
            "IPv4",
        ),
        (
            |m| add_backend(m, &name("mysql-read"), &backend_add("172.18.14.73:3307")).map(drop),
            400,
            "backend 172.18.14.73:3307 has port 3307, but service mysql-read has port 3306",
            "cannot translate ports",
        ),
        (
            |m| add_backend(m, &name("mysql-read"), &backend_add("0.0.0.0:3306")).map(drop),
            400,
            "0.0.0.0 cannot be a backend's address",
            "unicast",
        ),
        (
            |m| {
                let edit = BackendEdit { lower_threshold: Some(1), ..BackendEdit::default() };
                edit_backend(m, &name("mysql-read"), key("172.18.14.71:3306"), &edit).map(drop)
            },
            400,
            "lower threshold 1 is above upper threshold 0",
            "at most the upper",
        ),
        (
            |m| delete_backend(m, &name("mysql-read"), key("172.18.14.71:3307")).map(drop),
            404,
            "service mysql-read has no backend 172.18.14.71:3307",
            "Did you mean 172.18.14.71:3306?",
        ),
        (
            |m| set_drained(m, &name("mysql-read"), key("172.18.14.79:3306"), true).map(drop),
            404,
            "service mysql-read has no backend",
            "lb backend list mysql-read",
        ),
        (
            |m| {
                let options = OptionsEdit { ops: Some(true), ..OptionsEdit::default() };
                let edit = ServiceEdit { options, ..ServiceEdit::default() };
                edit_service(m, &name("mysql-read"), &edit).map(drop)
            },
            400,
            "ops is for udp services, and service mysql-read is none",
            "Leave ops out",
        ),
        (
            |m| {
                let endpoint = Endpoint { protocol: Protocol::Udp, ..endpoint("172.18.14.101", 53) };
                let options = ServiceOptions { sloppy_tcp: true, ..ServiceOptions::default() };
                add_service(m, &ServiceAdd { options, ..service_add(Some("dns"), endpoint) }).map(drop)
            },
            400,
            "sloppy_tcp is for tcp services, and service dns is none",
            "Leave sloppy_tcp out",
        ),
        (
            |m| {
                let sctp = Endpoint { protocol: Protocol::Sctp, ..endpoint("172.18.14.101", 2905) };
                let tcp = endpoint("172.18.14.101", 2905);
                add_service(m, &ServiceAdd { group: [tcp].into(), ..service_add(Some("sig"), sctp) })?;
                let service = m.services.last_mut().expect("added");
                service.health.checks = vec![Check::new(CheckKind::Tcp)];
                let endpoints = EndpointsEdit { del: [tcp].into(), ..EndpointsEdit::default() };
                let edited =
                    edit_service(m, &name("sig"), &ServiceEdit { endpoints, ..ServiceEdit::default() });
                m.services.pop();
                edited.map(drop)
            },
            400,
            "a tcp check speaks TCP, and service sig has only SCTP endpoints",
            "Give the check a `port` of its own",
        ),
        (
            |m| {
                edit_timeouts(m, PartialTimeouts { udp: Some(0), tcp: Some(5), ..PartialTimeouts::default() })
            },
            400,
            "timeout udp cannot be 0 s: it is 1 to 2678400 s",
            "Leave out",
        ),
        (
            |m| {
                let timeouts = PartialTimeouts { tcp: Some(MAX_TIMEOUT + 1), ..PartialTimeouts::default() };
                let options = OptionsEdit { timeouts, ..OptionsEdit::default() };
                let edit = ServiceEdit { options, ..ServiceEdit::default() };
                edit_service(m, &name("mysql-read"), &edit).map(drop)
            },
            400,
            "timeout tcp cannot be 2678401 s",
            "Leave out",
        ),
        (
            |m| {
                let full = Service {
                    endpoint: endpoint("10.9.9.9", 3306),
                    name: name("copy"),
                    ..m.services[0].clone()
                };
                insert_service(m, full)
            },
            409,
            "there are already 3 destinations, as many as `limits.destinations` allows",
            "raise `limits.destinations`",
        ),
    ];
    for (edit, status, message, hint) in cases {
        let mut model = Model { limits: Limits { services: 2, destinations: 3, endpoints: 3 }, ..model() };
        let before = model.clone();
        let error = edit(&mut model).expect_err(message);
        assert_eq!(model, before, "{message}");
        assert_eq!(error.status(), status, "{message}");
        let api = ApiError::from(error);
        assert!(api.message.starts_with(message), "{api}");
        assert!(api.hint.as_deref().is_some_and(|h| h.contains(hint)), "{api}");
    }
    assert!(model().service(&service()).is_some());
}

#[test]
fn timeouts_of_a_service_are_its_own_until_they_are_given_back() {
    let mut model = model();
    let service = name("mysql-read");
    let set = |timeouts| {
        let options = OptionsEdit { timeouts, ..OptionsEdit::default() };
        ServiceEdit { options, ..ServiceEdit::default() }
    };
    let own = PartialTimeouts { tcp: Some(1800), udp: Some(5), ..PartialTimeouts::default() };
    assert_eq!(edit_service(&mut model, &service, &set(own)).expect("edited").options.timeouts, own);
    let back = PartialTimeouts { tcp: Some(0), ..PartialTimeouts::default() };
    let edited = edit_service(&mut model, &service, &set(back)).expect("edited");
    assert_eq!(edited.options.timeouts, PartialTimeouts { udp: Some(5), ..PartialTimeouts::default() });
    edit_timeouts(&mut model, own).expect("edited");
    assert_eq!((model.timeouts.tcp, model.timeouts.tcp_fin, model.timeouts.udp), (1800, 120, 5));
}

fn endpoints(add: &[Endpoint], del: &[Endpoint]) -> ServiceEdit {
    let endpoints = EndpointsEdit { add: add.iter().copied().collect(), del: del.iter().copied().collect() };
    ServiceEdit { endpoints, ..ServiceEdit::default() }
}

fn range(first: u16, last: u16) -> Endpoint {
    Endpoint { last_port: Some(last), ..endpoint("172.18.14.101", first) }
}

#[test]
fn endpoints_come_and_go() {
    let mut model = model();
    let service = name("mysql-read");
    let mut edited = |edit: &ServiceEdit| edit_service(&mut model, &service, edit).map(|s| s.group);
    let (one, two) = (endpoint("172.18.14.101", 3306), range(5000, 5100));
    assert_eq!(edited(&endpoints(&[one, two], &[])), Ok([one, two].into()));
    // What is there already is no difference, nor is the first one.
    assert_eq!(edited(&endpoints(&[one, endpoint("172.18.14.100", 3306)], &[])), Ok([one, two].into()));
    // A range with other ends.
    assert_eq!(edited(&endpoints(&[range(5000, 5200)], &[two])), Ok([one, range(5000, 5200)].into()));
    assert_eq!(edited(&endpoints(&[], &[one])), Ok([range(5000, 5200)].into()));
}

#[test]
fn endpoints_that_cannot_be_are_refused() {
    let first = endpoint("172.18.14.100", 3306);
    let six = endpoint("fd00::1", 3306);
    let cases: &[(ServiceEdit, u16, &str, &str)] = &[
        (
            endpoints(&[endpoint("172.18.14.109", 80)], &[]),
            409,
            "endpoint tcp/172.18.14.109:80 is already served by service other",
            "Add backends to other",
        ),
        (
            endpoints(&[Endpoint { address: [172, 18, 14, 109].into(), ..range(90, 100) }], &[]),
            409,
            "endpoint tcp/172.18.14.109:90-100 overlaps tcp/172.18.14.109:100-200 of service other",
            "no port in common",
        ),
        (
            endpoints(&[range(10, 20), range(20, 30)], &[]),
            409,
            "endpoint tcp/172.18.14.101:20-30 overlaps tcp/172.18.14.101:10-20 of service mysql-read",
            "no port in common",
        ),
        (
            endpoints(&[range(20, 10)], &[]),
            400,
            "endpoint tcp/172.18.14.101:20-10 cannot be: a range ends",
            "Write",
        ),
        (
            endpoints(&[range(0, 10)], &[]),
            400,
            "endpoint tcp/172.18.14.101:0-10 cannot be: a range cannot",
            "Write",
        ),
        (
            endpoints(&[six], &[]),
            400,
            "endpoint tcp/[fd00::1]:3306 is IPv6, but tcp/172.18.14.100:3306, the first of service mysql-read, is \
             IPv4",
            "Make a service of its own for IPv6",
        ),
        (endpoints(&[endpoint("224.0.0.1", 80)], &[]), 400, "224.0.0.1 cannot be a VIP", "unicast"),
        (endpoints(&[], &[first]), 400, "endpoint tcp/172.18.14.100:3306 is the first of service", "delete"),
        (
            endpoints(&[], &[six]),
            404,
            "service mysql-read has no endpoint tcp/[fd00::1]:3306",
            "lb service show",
        ),
        (
            endpoints(&[endpoint("172.18.14.101", 1), endpoint("172.18.14.101", 2)], &[]),
            409,
            "there are already 4 endpoints, as many as `limits.endpoints` allows",
            "raise `limits.endpoints`",
        ),
    ];
    for (edit, status, message, hint) in cases {
        let mut model = model();
        let other = endpoint("172.18.14.109", 80);
        let group = [Endpoint { address: other.address, ..range(100, 200) }].into();
        add_service(&mut model, &ServiceAdd { group, ..service_add(Some("other"), other) }).expect("added");
        model.limits.endpoints = 4;
        let before = model.clone();
        let error = edit_service(&mut model, &name("mysql-read"), edit).expect_err(message);
        assert_eq!(model, before, "{message}");
        assert_eq!(error.status(), *status, "{message}");
        let api = ApiError::from(error);
        assert!(api.message.starts_with(message), "{api}");
        assert!(api.hint.as_deref().is_some_and(|h| h.contains(hint)), "{api}");
    }
}

#[test]
fn limits_hold_for_what_is_added() {
    let mut model = Model { limits: Limits { services: 1, destinations: 2, endpoints: 2 }, ..model() };
    let error = add_service(&mut model, &service_add(None, endpoint("10.0.0.1", 1))).expect_err("full");
    assert_eq!(error, EditError::LimitReached { what: "services", limit: 1 });
    let error =
        add_backend(&mut model, &name("mysql-read"), &backend_add("172.18.14.73:3306")).expect_err("full");
    assert_eq!(error, EditError::LimitReached { what: "destinations", limit: 2 });
}

fn sources(set: &[&str], del: &[&str]) -> ServiceEdit {
    let set = set.iter().map(|text| crate::model::sources::rule(text).expect("a rule")).collect();
    let del = del.iter().map(|text| text.parse().expect("a prefix")).collect();
    ServiceEdit { sources: SourcesEdit { set, del }, ..ServiceEdit::default() }
}

#[test]
fn rules_about_sources_come_and_go() {
    let mut model = model();
    let service = name("mysql-read");
    let mut edited = |set: &[&str], del: &[&str]| {
        let service = edit_service(&mut model, &service, &sources(set, del)).expect("edited");
        service.sources.iter().map(|(network, rule)| format!("{network} {rule}")).collect::<Vec<_>>()
    };
    assert_eq!(
        edited(&["10.0.0.0/8 deny", "0.0.0.0/0 limit 9/s"], &[]),
        ["0.0.0.0/0 limit 9/s", "10.0.0.0/8 deny"]
    );
    assert_eq!(edited(&["10.0.0.0/8 allow"], &["0.0.0.0/0", "11.0.0.0/8"]), ["10.0.0.0/8 allow"]);
    assert!(edited(&[], &["10.0.0.0/8"]).is_empty());
}

#[test]
fn rules_that_cannot_be_are_refused() {
    let many: Vec<String> = (0..70_000u32).map(|n| format!("{} deny", std::net::Ipv4Addr::from(n))).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: &[(ServiceEdit, u16, &str, &str)] = &[
        (sources(&["::/0 deny"], &[]), 400, "service mysql-read: ::/0 is IPv6, but", "write IPv4 prefixes"),
        (
            sources(&["10.0.0.0/8 limit 1/s per 4"], &[]),
            400,
            "service mysql-read: clients of 10.0.0.0/8 cannot be told apart per /4",
            "from 8, all of them together, to 32",
        ),
        (sources(&many, &[]), 409, "70000 rules in the `sources` of all services", "Put prefixes together"),
    ];
    for (edit, status, message, hint) in cases {
        let mut model = model();
        let before = model.clone();
        let error = edit_service(&mut model, &name("mysql-read"), edit).expect_err(message);
        assert_eq!(model, before, "{message}");
        assert_eq!(error.status(), *status, "{message}");
        let api = ApiError::from(error);
        assert!(api.message.starts_with(message), "{api}");
        assert!(api.hint.as_deref().is_some_and(|h| h.contains(hint)), "{api}");
    }
}
