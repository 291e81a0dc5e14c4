use std::collections::BTreeSet;

use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::{
    api::types::{BackendEdit, EndpointsEdit, OptionsEdit, ServiceEdit, SourcesEdit},
    model::{arbitrary, edit::to_options, *},
};

/// What somebody types, before it is known which services and backends there are.
#[derive(Clone, Debug)]
enum Typed {
    AddService(Service),
    EditService(usize, ServiceEdit),
    AddEndpoint(usize, Endpoint, Option<bool>),
    /// The `n`th that it has.
    DeleteEndpoint(usize, usize),
    /// The last one of a service goes to another.
    MoveEndpoint(usize, usize),
    /// Rules that are set, and which of those that there are go.
    EditSources(usize, Sources, usize),
    DeleteService(usize),
    AddBackend(usize, u8, Backend),
    EditBackend(usize, u8, BackendEdit),
    DeleteBackend(usize, u8),
    Drain(usize, u8, bool),
    Maintain(usize, u8, Option<Maintenance>),
    EditTimeouts(PartialTimeouts),
}

fn typed() -> impl Strategy<Value = Typed> {
    let edit = (option::of(0..3u16), option::of(0..5u32), option::of(0..5u32)).prop_map(
        |(weight, upper_threshold, lower_threshold)| BackendEdit { weight, upper_threshold, lower_threshold },
    );
    prop_oneof![
        1 => arbitrary::services().prop_map(Typed::AddService),
        1 => (0..6usize, option::of(arbitrary::schedulers()), option::of(arbitrary::options())).prop_map(
            |(s, scheduler, options)| {
                let options = options.map(|options| to_options(&options)).unwrap_or_default();
                Typed::EditService(s, ServiceEdit { scheduler, options, ..ServiceEdit::default() })
            }),
        2 => (0..6usize, arbitrary::endpoints(), option::of(any::<bool>()))
            .prop_map(|(s, endpoint, sloppy_tcp)| Typed::AddEndpoint(s, endpoint, sloppy_tcp)),
        2 => (0..6usize, 0..6usize).prop_map(|(s, n)| Typed::DeleteEndpoint(s, n)),
        1 => (0..6usize, 0..6usize).prop_map(|(from, to)| Typed::MoveEndpoint(from, to)),
        2 => (0..6usize, arbitrary::sources(), 0..3usize)
            .prop_map(|(s, set, del)| Typed::EditSources(s, set, del)),
        1 => arbitrary::timeouts().prop_map(Typed::EditTimeouts),
        1 => (0..6usize).prop_map(Typed::DeleteService),
        3 => (0..6usize, 0..6u8, arbitrary::backends()).prop_map(|(s, k, b)| Typed::AddBackend(s, k, b)),
        3 => (0..6usize, 0..6u8, edit).prop_map(|(s, k, e)| Typed::EditBackend(s, k, e)),
        3 => (0..6usize, 0..6u8).prop_map(|(s, k)| Typed::DeleteBackend(s, k)),
        3 => (0..6usize, 0..6u8, any::<bool>()).prop_map(|(s, k, d)| Typed::Drain(s, k, d)),
        2 => (0..6usize, 0..6u8, option::of(arbitrary::maintenances()))
            .prop_map(|(s, k, m)| Typed::Maintain(s, k, m)),
    ]
}

/// The change that is meant, on the services that there are.
fn meant(typed: Typed, model: &Model) -> Option<Change> {
    let service = |n: usize| model.services.get(n % model.services.len().max(1)).map(|s| s.name.clone());
    let key = |n: usize, k: u8| {
        let endpoint = model.services.get(n % model.services.len().max(1))?.endpoint;
        Some(arbitrary::backend_key(endpoint, k))
    };
    Some(match typed {
        Typed::AddService(service) => Change::AddService { service },
        Typed::EditService(s, edit) => Change::EditService { name: service(s)?, edit },
        Typed::AddEndpoint(s, endpoint, sloppy_tcp) => {
            let endpoints = EndpointsEdit { add: [endpoint].into(), ..EndpointsEdit::default() };
            let options = OptionsEdit { sloppy_tcp, ..OptionsEdit::default() };
            let edit = ServiceEdit { endpoints, options, ..ServiceEdit::default() };
            Change::EditService { name: service(s)?, edit }
        }
        Typed::DeleteEndpoint(s, n) => {
            let name = service(s)?;
            let del = model.service(&name)?.endpoints().nth(n).copied().into_iter().collect();
            let endpoints = EndpointsEdit { del, ..EndpointsEdit::default() };
            Change::EditService { name, edit: ServiceEdit { endpoints, ..ServiceEdit::default() } }
        }
        Typed::MoveEndpoint(..) => return None,
        Typed::EditSources(s, mut set, del) => {
            let name = service(s)?;
            let there = model.service(&name)?;
            let is_ipv4 = there.endpoint.address.is_ipv4();
            set.retain(|network, _| network.addr().is_ipv4() == is_ipv4);
            let del = there.sources.keys().skip(del).filter(|it| !set.contains_key(it)).copied().collect();
            let sources = SourcesEdit { set, del };
            Change::EditService { name, edit: ServiceEdit { sources, ..ServiceEdit::default() } }
        }
        Typed::DeleteService(s) => Change::DeleteService { name: service(s)? },
        Typed::AddBackend(s, k, b) => {
            Change::AddBackend { service: service(s)?, backend: Backend { key: key(s, k)?, ..b } }
        }
        Typed::EditBackend(s, k, edit) => Change::EditBackend { service: service(s)?, key: key(s, k)?, edit },
        Typed::DeleteBackend(s, k) => Change::DeleteBackend { service: service(s)?, key: key(s, k)? },
        Typed::Drain(s, k, true) => Change::Drain { service: service(s)?, key: key(s, k)? },
        Typed::Maintain(s, k, Some(maintenance)) => {
            Change::Maintain { service: service(s)?, key: key(s, k)?, maintenance }
        }
        Typed::Maintain(s, k, None) => Change::EndMaintenance { service: service(s)?, key: key(s, k)? },
        Typed::EditTimeouts(timeouts) => Change::EditTimeouts { timeouts },
        Typed::Drain(s, k, false) => Change::Undrain { service: service(s)?, key: key(s, k)? },
    })
}

/// The running model and the overlay after what was typed, and every change that was made.
fn run(file: &Model, typed: Vec<Typed>) -> (Model, Overlay, Vec<Change>) {
    let (mut running, mut overlay, mut made) = (file.clone(), Overlay::default(), Vec::new());
    for typed in typed {
        let changes = match typed {
            Typed::MoveEndpoint(from, to) => moved(from, to, &running),
            typed => meant(typed, &running).into_iter().collect(),
        };
        for change in changes {
            if change.apply(&mut running).is_ok() {
                overlay.push(file, change.clone());
                made.push(change);
            }
        }
    }
    (running, overlay, made)
}

/// A service loses its last endpoint, and another one gets it.
fn moved(from: usize, to: usize, model: &Model) -> Vec<Change> {
    let service = |n: usize| model.services.get(n % model.services.len().max(1));
    let (Some(from), Some(to)) = (service(from), service(to)) else { return Vec::new() };
    let last: BTreeSet<Endpoint> = from.group.last().copied().into_iter().collect();
    let edit = |service: &Service, endpoints| Change::EditService {
        name: service.name.clone(),
        edit: ServiceEdit { endpoints, ..ServiceEdit::default() },
    };
    let none = BTreeSet::new();
    vec![
        edit(from, EndpointsEdit { del: last.clone(), add: none.clone() }),
        edit(to, EndpointsEdit { add: last, del: none }),
    ]
}

/// A file with hardly any room left, so that limits take part.
fn files() -> impl Strategy<Value = Model> {
    (arbitrary::models(), 0..3u32, 0..4u32).prop_map(|(mut model, services, destinations)| {
        let used: usize = model.services.iter().map(|s| s.backends.len()).sum();
        model.limits.services = model.services.len() as u32 + services;
        model.limits.destinations = used as u32 + destinations;
        let endpoints: usize = model.services.iter().map(|s| s.endpoints().count()).sum();
        model.limits.endpoints = endpoints as u32 + services + 1;
        model
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_compacted_overlay_makes_the_running_state(file in files(), typed in vec(typed(), 0..40)) {
        let (running, overlay, made) = run(&file, typed);
        prop_assert_eq!(overlay.apply(&file), (running.clone(), vec![]));
        prop_assert_eq!(Overlay { changes: made.clone() }.apply(&file), (running, vec![]));
        prop_assert!(overlay.changes.len() <= made.len());
        prop_assert_eq!(overlay.describe().len(), overlay.changes.len());
    }

    #[test]
    fn json_keeps_it(file in files(), typed in vec(typed(), 0..20)) {
        let (_, overlay, _) = run(&file, typed);
        let json = serde_json::to_string(&overlay).expect("serializes");
        prop_assert_eq!(serde_json::from_str::<Overlay>(&json).map_err(|e| e.to_string()), Ok(overlay));
    }

    #[test]
    fn the_same_file_again(file in files(), typed in vec(typed(), 0..20)) {
        let (_, overlay, _) = run(&file, typed);
        let (again, discarded) = overlay.reload(&file, true);
        prop_assert_eq!(discarded, Vec::<String>::new());
        prop_assert_eq!(again.apply(&file), overlay.apply(&file));
        // Edits that could not be folded when they were made may be folded now.
        prop_assert!(again.changes.len() <= overlay.changes.len());
        let moves = |c: &Change| matches!(c, Change::EditService { edit, .. } if !edit.endpoints.is_empty());
        prop_assert!(again == overlay || overlay.changes.iter().any(moves));

        let (kept, _) = overlay.reload(&file, false);
        let is_kept = |c: &&Change| matches!(c, Change::Drain { .. } | Change::Maintain { .. });
        let all_drains = kept.changes.iter().all(|c| is_kept(&c));
        prop_assert!(all_drains, "{:?}", kept);
        for drain in overlay.changes.iter().filter(is_kept) {
            prop_assert!(kept.changes.contains(drain));
        }
    }

    /// `lb save`, then `lb reload`: the overlay is in the file now, and nothing is lost or complained about.
    #[test]
    fn a_saved_state_absorbs_the_overlay(file in files(), typed in vec(typed(), 0..20)) {
        let (running, overlay, _) = run(&file, typed);
        // A file has no maintenance: that alone stays in the overlay.
        let mut saved = running.clone();
        saved.services.iter_mut().flat_map(|s| &mut s.backends).for_each(|b| b.maintenance = None);
        let (kept, discarded) = overlay.reload(&saved, false);
        prop_assert_eq!(discarded, Vec::<String>::new());
        prop_assert!(kept.changes.iter().all(|c| matches!(c, Change::Maintain { .. })), "{:?}", kept);
        prop_assert_eq!(kept.apply(&saved), (running, vec![]));
        prop_assert_eq!(overlay.reload(&saved, true).1, Vec::<String>::new());
    }

    #[test]
    fn what_a_reload_keeps_applies_to_the_new_file(
        file in files(), typed in vec(typed(), 0..20), new_file in files(), keep_runtime in any::<bool>()
    ) {
        let (_, overlay, _) = run(&file, typed);
        let (kept, _) = overlay.reload(&new_file, keep_runtime);
        let (running, skipped) = kept.apply(&new_file);
        prop_assert_eq!(skipped, Vec::<String>::new());
        if !keep_runtime {
            let undrained = |mut model: Model| {
                model.services.iter_mut().flat_map(|s| &mut s.backends).for_each(|b| {
                    (b.drained, b.maintenance) = (false, None);
                });
                model
            };
            prop_assert_eq!(undrained(running), undrained(new_file), "the file must win");
        }
    }

    #[test]
    fn diff_is_empty_exactly_for_equals(old in files(), new in files(), typed in vec(typed(), 0..4)) {
        prop_assert_eq!(diff(&old, &old), Vec::<String>::new());
        prop_assert_eq!(diff(&old, &new).is_empty(), old == new);
        let (edited, _, _) = run(&old, typed);
        prop_assert_eq!(diff(&old, &edited).is_empty(), old == edited);
    }
}

fn file() -> Model {
    let text = "\
interfaces: [eth0]
services:
  - name: db
    address: 10.0.0.100
    port: 3306
    scheduler: rr
    backends:
      - address: 10.0.0.1
      - {address: 10.0.0.2, weight: 5, drained: true}
";
    crate::config::parse("file", text).expect("valid").model
}

fn db() -> ServiceName {
    "db".parse().expect("valid")
}

fn key(n: u8) -> BackendKey {
    format!("10.0.0.{n}:3306").parse().expect("valid")
}

fn new_backend(n: u8) -> Backend {
    Backend {
        key: key(n),
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
        drained: false,
        maintenance: None,
        health: Default::default(),
    }
}

fn weight(n: u8, weight: u16) -> Change {
    let edit = BackendEdit { weight: Some(weight), ..BackendEdit::default() };
    Change::EditBackend { service: db(), key: key(n), edit }
}

fn pushed(changes: Vec<Change>) -> Vec<String> {
    let mut overlay = Overlay::default();
    changes.into_iter().for_each(|c| overlay.push(&file(), c));
    overlay.describe()
}

#[test]
fn what_undoes_itself_vanishes() {
    let none = Vec::<String>::new();
    let drain = |n| Change::Drain { service: db(), key: key(n) };
    let undrain = |n| Change::Undrain { service: db(), key: key(n) };
    assert_eq!(pushed(vec![drain(1), undrain(1)]), none);
    assert_eq!(pushed(vec![undrain(2), drain(2)]), none);
    assert_eq!(pushed(vec![drain(1), drain(1)]), ["backend 10.0.0.1:3306 of service db drained"]);
    assert_eq!(pushed(vec![weight(1, 9), weight(1, 1)]), none);
    assert_eq!(
        pushed(vec![weight(1, 9), weight(1, 3)]),
        ["backend 10.0.0.1:3306 of service db: weight set to 3"]
    );
    let add = Change::AddBackend { service: db(), backend: new_backend(3) };
    let delete = |n| Change::DeleteBackend { service: db(), key: key(n) };
    assert_eq!(pushed(vec![add.clone(), weight(3, 7), drain(3), delete(3)]), none);
    assert_eq!(
        pushed(vec![add, weight(3, 7), drain(3)]),
        ["backend 10.0.0.3:3306 added to service db (weight 7, drained)"]
    );
    assert_eq!(
        pushed(vec![weight(1, 7), drain(1), delete(1)]),
        ["backend 10.0.0.1:3306 of service db deleted"]
    );
    let service = Service { name: "new".parse().expect("valid"), ..file().services.remove(0) };
    let name = service.name.clone();
    let edit = ServiceEdit { scheduler: Some(Scheduler::Wrr), ..ServiceEdit::default() };
    let edited = Change::EditService { name: name.clone(), edit };
    assert_eq!(
        pushed(vec![Change::AddService { service: service.clone() }, edited]),
        ["service new added (tcp/10.0.0.100:3306, wrr)"]
    );
    assert_eq!(pushed(vec![Change::AddService { service }, Change::DeleteService { name }]), none);
    let gone = Change::DeleteService { name: db() };
    assert_eq!(pushed(vec![drain(1), delete(2), gone]), ["service db deleted"]);
}

#[test]
fn timeouts_are_changes_like_any_other() {
    let set =
        |tcp, udp| Change::EditTimeouts { timeouts: PartialTimeouts { tcp, udp, ..Default::default() } };
    assert_eq!(
        pushed(vec![set(Some(1800), None), set(Some(60), Some(5))]),
        ["timeouts: tcp set to 60, udp set to 5"]
    );
    assert_eq!(pushed(vec![set(Some(1800), Some(5)), set(Some(900), None)]), ["timeouts: udp set to 5"]);
    assert_eq!(pushed(vec![set(Some(1800), None), set(Some(900), None)]), Vec::<String>::new());
    let own = |tcp| {
        let timeouts = PartialTimeouts { tcp: Some(tcp), ..Default::default() };
        let options = OptionsEdit { timeouts, ..Default::default() };
        Change::EditService { name: db(), edit: ServiceEdit { options, ..ServiceEdit::default() } }
    };
    assert_eq!(pushed(vec![own(5)]), ["service db: timeouts.tcp set to 5"]);
    assert_eq!(pushed(vec![own(5), own(0)]), Vec::<String>::new());

    let mut overlay = Overlay::default();
    [set(Some(1800), None), own(5)].into_iter().for_each(|change| overlay.push(&file(), change));
    let (kept, discarded) = overlay.reload(&file(), false);
    assert_eq!(discarded, ["timeouts: tcp set to 1800", "service db: timeouts.tcp set to 5"]);
    assert!(kept.is_empty());
    let mut new_file = file();
    new_file.timeouts.tcp = 1800;
    new_file.services[0].options.timeouts.tcp = Some(6);
    assert_eq!(overlay.reload(&new_file, false).1, ["service db: timeouts.tcp set to 5"]);
    let (kept, discarded) = overlay.reload(&new_file, true);
    assert_eq!((kept.describe(), discarded.len()), (vec!["service db: timeouts.tcp set to 5".to_owned()], 0));
    let nodest = |what| {
        let options = OptionsEdit { expire_nodest: Some(what), ..Default::default() };
        Change::EditService { name: db(), edit: ServiceEdit { options, ..ServiceEdit::default() } }
    };
    assert_eq!(pushed(vec![nodest(ExpireNodest::Drop)]), ["service db: expire_nodest set to drop"]);
    assert_eq!(pushed(vec![nodest(ExpireNodest::Drop), nodest(ExpireNodest::Auto)]), Vec::<String>::new());
    // The file may have one of its own, and the command gives it back.
    let mut overlay = Overlay::default();
    overlay.push(&new_file, own(0));
    assert_eq!(overlay.describe(), ["service db: timeouts.tcp set to the global one"]);
    assert_eq!(overlay.apply(&new_file).0.services[0].options.timeouts, PartialTimeouts::default());
}

/// A journal of a version that knew no options.
#[test]
fn an_older_journal_is_read() {
    let json = r#"{"changes":[
        {"change":"add_service","service":{"name":"a","endpoint":{"address":"10.0.0.9","port":1,"protocol":"tcp"},
         "scheduler":"rr","backends":[]}},
        {"change":"edit_service","name":"db","edit":{"scheduler":"wrr"}}]}"#;
    let overlay: Overlay = serde_json::from_str(json).expect("read");
    assert_eq!(overlay.apply(&file()).1, Vec::<String>::new());
}

/// The file that was edited while the agent ran: it wins, drains stay, the rest is told.
#[test]
fn a_reload_keeps_drains_and_tells_what_it_discards() {
    let mut overlay = Overlay::default();
    let hot = Backend { drained: true, ..new_backend(3) };
    let udp = Endpoint::new("10.0.0.101".parse().expect("valid"), 53, Protocol::Udp);
    let name = udp.default_name();
    let dns = Service { name, endpoint: udp, backends: vec![], ..file().services.remove(0) };
    for change in [
        Change::Drain { service: db(), key: key(1) },
        Change::Undrain { service: db(), key: key(2) },
        Change::AddBackend { service: db(), backend: hot },
        Change::AddBackend { service: db(), backend: new_backend(4) },
        Change::AddBackend { service: db(), backend: new_backend(5) },
        Change::Drain { service: db(), key: key(5) },
        Change::AddService { service: dns },
    ] {
        overlay.push(&file(), change);
    }
    let mut new_file = file();
    new_file.services[0].backends.extend([new_backend(3), Backend { weight: 8, ..new_backend(4) }]);

    let (kept, discarded) = overlay.reload(&new_file, false);
    assert_eq!(
        kept.describe(),
        ["backend 10.0.0.1:3306 of service db drained", "backend 10.0.0.3:3306 of service db drained"]
    );
    assert_eq!(
        discarded,
        [
            "backend 10.0.0.2:3306 of service db undrained",
            "backend 10.0.0.4:3306 added to service db (weight 1)",
            "backend 10.0.0.5:3306 added to service db (weight 1, drained)",
            "service udp/10.0.0.101:53 added (udp/10.0.0.101:53, rr)",
        ]
    );

    let (kept, discarded) = overlay.reload(&new_file, true);
    assert_eq!(discarded, Vec::<String>::new());
    assert_eq!(
        kept.describe(),
        [
            "backend 10.0.0.1:3306 of service db drained",
            "backend 10.0.0.2:3306 of service db undrained",
            "backend 10.0.0.3:3306 of service db drained",
            "backend 10.0.0.4:3306 of service db: weight set to 1",
            "backend 10.0.0.5:3306 added to service db (weight 1, drained)",
            "service udp/10.0.0.101:53 added (udp/10.0.0.101:53, rr)",
        ]
    );
}

#[test]
fn a_file_edited_while_no_agent_ran_skips_what_does_not_apply() {
    let mut overlay = Overlay::default();
    overlay.push(&file(), Change::Drain { service: db(), key: key(1) });
    overlay.push(&file(), weight(2, 7));
    let mut new_file = file();
    new_file.services[0].backends.remove(0);
    let (running, skipped) = overlay.apply(&new_file);
    assert_eq!(running.services[0].backends[0].weight, 7);
    assert_eq!(
        skipped,
        ["not applied: backend 10.0.0.1:3306 of service db drained, because service db has no backend \
          10.0.0.1:3306"]
    );
    let (pruned, discarded) = overlay.reload(&new_file, true);
    assert_eq!((pruned.changes.len(), discarded.len()), (1, 1));
}

#[test]
fn diff_tells_every_kind_of_change() {
    let old = file();
    let text = "\
interfaces: [{name: eth0, mode: generic}, eth1]
vips: {add_to: eth1}
flows: {ipv4: 2M}
timeouts: {udp: 30}
services:
  - {name: web, address: 10.0.0.200, port: 80, scheduler: wrr, backends: [{address: 10.0.0.9}]}
  - name: db
    address: 10.0.0.100
    port: 3306
    scheduler: wrr
    timeouts: {tcp: 30m}
    expire_nodest: reschedule
    expire_quiescent_template: yes
    sloppy_tcp: yes
    backends:
      - {address: 10.0.0.2, weight: 6, upper_threshold: 10}
      - {address: 10.0.0.3, drained: true}
";
    let new = crate::config::parse("new", text).expect("valid").model;
    assert_eq!(
        diff(&old, &new),
        [
            "interface eth0: mode generic and offloads check (was auto and check)",
            "interface eth1 added",
            "vips.add_to changed from (none) to eth1",
            "flows.ipv4 changed from 1048576 to 2097152",
            "timeouts.udp changed from 300 to 30",
            "service web added (tcp/10.0.0.200:80, wrr, 1 backend)",
            "service db: scheduler changed from rr to wrr",
            "service db: timeouts.tcp changed from the global one to 1800",
            "service db: expire_nodest changed from auto to reschedule",
            "service db: expire_quiescent_template changed from false to true",
            "service db: sloppy_tcp changed from false to true",
            "service db: backend 10.0.0.1:3306 removed",
            "service db: backend 10.0.0.2:3306: weight changed from 5 to 6, upper_threshold changed from 0 to 10, \
             undrained",
            "service db: backend 10.0.0.3:3306 added (weight 1, drained)",
        ]
    );
    let mut reordered = old.clone();
    reordered.services[0].backends.reverse();
    assert_eq!(diff(&old, &reordered), ["the order of the backends of service db changed"]);
}
