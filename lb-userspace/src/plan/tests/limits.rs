//! What does not fit is refused as a whole: an error and no operation.

use super::{
    build::{desired, link, service},
    kernel::Kernel,
};
use crate::{
    model::{
        Backend, Endpoint, FlowSizes, Guard, Limits, PartialTimeouts, Protocol, Scheduler, Service, Timeouts,
    },
    plan::{
        CompileError, Desired, MapSizes, Op, PlanError, arena_words, compile, plan, reclaim,
        region::generation_words, tables::Candidate,
    },
};
use lb_common::{generation::Member, guard};

const SMALL: MapSizes = MapSizes { services: 3, dests: 4, arena: 1000, endpoints: 5 };

fn on_empty(want: &Desired) -> Result<Vec<Op>, PlanError> {
    plan(want, &Kernel::new(SMALL).snapshot())
}

fn many(count: u16) -> Vec<Service> {
    (1..=count).map(|n| service(&format!("s{n}"), n, &["10.0.0.1"])).collect()
}

#[test]
fn services() {
    // Id 0 does not exist.
    assert!(on_empty(&desired(&many(2))).is_ok());
    assert_eq!(on_empty(&desired(&many(3))), Err(PlanError::Services(2)));
}

/// What the arena is made for is what is compiled.
#[test]
fn generations() {
    for scheduler in Scheduler::ALL {
        for count in [0u16, 1, 16, 33, 300] {
            let addresses: Vec<String> =
                (0..count).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            let service = Service { scheduler, ..service("s", 80, &addresses) };
            let candidate = |backend: &Backend| Candidate {
                member: Member::new(1, backend.weight),
                address: backend.key.address,
                port: backend.key.port,
                last_weight: backend.weight,
            };
            let candidates: Vec<_> = service.backends.iter().map(candidate).collect();
            let words = compile(scheduler, &candidates).expect("compiles").len() as u64;
            let room = generation_words(&service);
            assert!(words <= room, "{scheduler} of {count}: {words} words in {room}");
        }
    }
    let mh = Scheduler::ALL.into_iter().find(|scheduler| matches!(scheduler, Scheduler::Mh(_)));
    let service = Service { scheduler: mh.expect("mh"), ..service("s", 80, &["10.0.0.1"; 16]) };
    let (one, many) = (vec![service.clone()], vec![service; 4096]);
    assert_eq!(arena_words(Limits::default(), &one), 1 << 21, "which is enough for what is usual");
    assert!(u64::from(arena_words(Limits::default(), &many)) >= 2 * 4096 * (2047 + 16));
}

#[test]
fn services_that_are_deleted_and_still_in_use_count() {
    let mut kernel = Kernel::new(SMALL);
    kernel.apply(&plan(&desired(&many(2)), &kernel.snapshot()).expect("a plan"));
    let other = desired(&[service("other", 99, &["10.0.0.1"])]);
    assert_eq!(plan(&other, &kernel.snapshot()), Err(PlanError::Services(2)));
    kernel.apply(&plan(&desired(&[]), &kernel.snapshot()).expect("a plan"));
    assert_eq!(plan(&other, &kernel.snapshot()), Err(PlanError::Services(2)));
    kernel.apply(&reclaim(&kernel.snapshot(), &Default::default()));
    assert!(plan(&other, &kernel.snapshot()).is_ok());
}

#[test]
fn destinations() {
    let backends = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"];
    assert!(on_empty(&desired(&[service("a", 80, &backends[..3])])).is_ok());
    assert_eq!(on_empty(&desired(&[service("a", 80, &backends)])), Err(PlanError::Dests(3)));
    // Two services of two each: four destinations, though only two hosts.
    let two = [service("a", 80, &backends[..2]), service("b", 81, &backends[..2])];
    assert_eq!(on_empty(&desired(&two)), Err(PlanError::Dests(3)));
}

#[test]
fn interfaces() {
    let with = |count: u32| Desired {
        links: (1..=count).map(|n| link(&format!("eth{n}"), n)).collect(),
        ..desired(&[])
    };
    assert!(on_empty(&with(lb_common::link::MAX_LINKS - 1)).is_ok());
    assert_eq!(on_empty(&with(lb_common::link::MAX_LINKS)), Err(PlanError::Links));
}

#[test]
fn the_arena() {
    let mut long = service("long", 80, &["10.0.0.1", "10.0.0.2"]);
    long.scheduler = Scheduler::Wrr;
    long.backends[0].weight = 2000;
    assert_eq!(on_empty(&desired(&[long])), Err(PlanError::Arena(1000)));
}

#[test]
fn members() {
    let addresses: Vec<String> = (0..1025).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let want = desired(&[service("a", 80, &addresses)]);
    let kernel = Kernel::new(MapSizes { dests: 2000, arena: 1 << 16, ..SMALL });
    let expected = PlanError::Compile(want.services[0].name.clone(), CompileError::TooManyMembers(1025));
    assert_eq!(plan(&want, &kernel.snapshot()), Err(expected));
}

#[test]
fn maps_of_no_entries() {
    let kernel = Kernel::new(MapSizes::default());
    assert_eq!(plan(&desired(&many(1)), &kernel.snapshot()), Err(PlanError::Services(0)));
}

/// `guard: auto` lets half-open connections take half of their table, however long they live; and UDP flows.
#[test]
fn guards() {
    let rates = |global: Option<u32>, own: Option<u32>| {
        let mut v4 = service("v4", 80, &["10.0.0.1"]);
        v4.options.timeouts = PartialTimeouts { tcp_syn: own, ..Default::default() };
        let v6 = service("v6", 80, &["2001:db8::2"]);
        let default = Timeouts::default();
        let want = Desired {
            flows: FlowSizes { ipv4: 1 << 20, wide: 1 << 18 },
            timeouts: Timeouts { tcp_syn: global.unwrap_or(default.tcp_syn), ..default },
            ..desired(&[v4, v6])
        };
        let ops = on_empty(&want).expect("a plan");
        let guards = ops.iter().filter_map(|op| match op {
            Op::SetService { service, .. } => Some(service.guard),
            _ => None,
        });
        guards.collect::<Vec<_>>()
    };
    let ticks = lb_common::tick::ticks(1, 250);
    let expected = |per_second: [u32; 2]| per_second.map(|rate| guard::rate(rate, ticks)).to_vec();
    assert_eq!(rates(None, None), expected([8738, 2184]));
    assert_eq!(rates(Some(600), None), expected([873, 218]));
    assert_eq!(rates(Some(600), Some(10)), expected([52428, 218]), "its own comes first");
    let of_protocols = |first: Protocol, second: Protocol| {
        let mut service = service("p", 80, &["10.0.0.1"]);
        service.endpoint.protocol = first;
        service.group.insert(Endpoint { protocol: second, ..service.endpoint });
        let want = Desired { flows: FlowSizes { ipv4: 1 << 20, wide: 1 << 18 }, ..desired(&[service]) };
        let ops = on_empty(&want).expect("a plan");
        ops.iter().find_map(|op| match op {
            Op::SetService { service, .. } => Some(service.guard),
            _ => None,
        })
    };
    for (first, second, rate) in [
        (Protocol::Udp, Protocol::Udp, 1747),
        (Protocol::Tcp, Protocol::Udp, 1747),
        (Protocol::Tcp, Protocol::Sctp, 8594),
        (Protocol::Tcp, Protocol::Tcp, 8738),
    ] {
        let expected = guard::rate(rate, ticks);
        assert_eq!(of_protocols(first, second), Some(expected), "{first:?} and {second:?}");
    }
    assert_eq!(Guard::auto(1 << 10, u32::MAX), 1);
    assert_eq!(Guard::auto(u32::MAX, 0), guard::MAX_RATE);
}
