//! The schedulers that do not rotate: by load, by hash, by lot, by locality.

use std::collections::BTreeMap;

use lb::{
    model::{
        Endpoint, FlowSizes, HashFlags, Protocol,
        Scheduler::{self, *},
    },
    plan::{Desired, dest_address},
};
use lb_common::{
    service::{Locality, Rotation},
    tcp::flag::*,
    tick::{Tick, ticks},
    verdict::Verdict::*,
    vlan::Tags,
};
use lb_tests::xdp::Director;

use crate::world::*;

fn only(kind: Kind, scheduler: Scheduler, weights: &[(u8, u16)]) -> Desired {
    Desired { services: vec![kind.weighted(PORT, scheduler, weights)], ..lab() }
}

/// The same with an upper threshold on the first backend.
fn limited(kind: Kind, scheduler: Scheduler, weights: &[(u8, u16)], upper: u32) -> Desired {
    let mut want = only(kind, scheduler, weights);
    want.services[0].backends[0].upper_threshold = upper;
    want
}

/// Closes the connections of the client's ports: they are inactive from now on.
fn close(director: &mut Director, kind: Kind, ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        for flags in [ACK, FIN | ACK] {
            send(director, &kind.open().from_port(port).flags(flags)).expect("forwarded");
        }
    }
}

fn shares(turns: &[u8]) -> BTreeMap<u8, usize> {
    turns.iter().fold(BTreeMap::new(), |mut shares, backend| {
        *shares.entry(*backend).or_default() += 1;
        shares
    })
}

#[test]
fn wlc_and_lc_even_the_load_out() {
    for kind in ALL_KINDS {
        let mut director = director(&only(kind, Wlc, &[(1, 1), (2, 2), (3, 0), (4, 3)]));
        let turns = open(&mut director, kind, 1000..1012);
        assert_eq!(shares(&turns), BTreeMap::from([(1, 2), (2, 4), (4, 6)]), "{}", kind.name);
    }
    let mut director = director(&only(TCP4, Lc, &[(1, 1), (2, 9)]));
    assert_eq!(open(&mut director, TCP4, 1000..1004), [1, 2, 1, 2]);
    // An active connection weighs 256 inactive ones.
    close(&mut director, TCP4, [1000, 1002]);
    assert_eq!(open(&mut director, TCP4, 1004..1007), [1, 1, 2]);
}

/// The program looks at [`Look::AT_ONCE`](lb_common::scheduler::Look::AT_ONCE) of them at a time.
#[test]
fn lc_comes_to_the_last_of_as_many_as_there_are() {
    for number in [31, 32, 33, 64, 65] {
        let mut want = only(TCP6, Lc, &(1..=number).map(|backend| (backend, 1)).collect::<Vec<_>>());
        want.hosts.extend((1..=number).map(|it| (TCP6.backend(it), neighbour(it, ETH0, Tags::NONE))));
        let turns = open(&mut director(&want), TCP6, 1000..1000 + u16::from(number));
        assert!(turns.iter().copied().eq(1..=number), "{number} of them: {turns:?}");
    }
}

#[test]
fn sed_and_nq_count_active_connections_only() {
    // (active + 1) / weight: 1/1 against 1/3, 2/3, 3/3; the first of equals.
    let mut sed = director(&only(TCP4, Sed, &[(1, 1), (2, 3)]));
    assert_eq!(open(&mut sed, TCP4, 1000..1005), [2, 2, 1, 2, 2]);
    close(&mut sed, TCP4, [1002]);
    assert_eq!(open(&mut sed, TCP4, 1005..1006), [1]);
    // An idle one first, then as sed; of 2/1 and 6/3 the first.
    let mut nq = director(&only(TCP4, Nq, &[(1, 1), (2, 3)]));
    assert_eq!(open(&mut nq, TCP4, 1000..1007), [1, 2, 2, 2, 2, 2, 1]);
    // Datagrams are never active: IPVS's nq always takes the first.
    let mut nq = director(&only(UDP4, Nq, &[(1, 1), (2, 3)]));
    assert_eq!(open(&mut nq, UDP4, 1000..1003), [1, 1, 1]);
}

#[test]
fn fo_takes_the_heaviest_and_ovf_spills_over() {
    let mut fo = director(&limited(TCP4, Fo, &[(1, 5), (2, 1), (3, 4)], 2));
    assert_eq!(open(&mut fo, TCP4, 1000..1004), [1, 1, 3, 3]);
    let mut ovf = director(&only(TCP4, Ovf, &[(1, 1), (2, 2)]));
    assert_eq!(open(&mut ovf, TCP4, 1000..1005), [2, 2, 2, 1, 1]);
    assert_eq!(send(&mut ovf, &TCP4.open().from_port(1005)), Err(DroppedNoBackend));
    close(&mut ovf, TCP4, [1000]);
    assert_eq!(open(&mut ovf, TCP4, 1005..1006), [2]);
}

#[test]
fn sh_and_mh_keep_a_client_to_its_backend() {
    let (plain, port) = (HashFlags::default(), HashFlags { port: true, ..HashFlags::default() });
    for kind in ALL_KINDS {
        for (scheduler, with_port) in [(Sh(plain), Sh(port)), (Mh(plain), Mh(port))] {
            let weights = [(1, 1), (2, 1), (3, 1)];
            let mut by_address = director(&only(kind, scheduler, &weights));
            let turns = open(&mut by_address, kind, 1000..1020);
            assert_eq!(shares(&turns).len(), 1, "{} {scheduler}", kind.name);
            let mut by_port = director(&only(kind, with_port, &weights));
            let turns = open(&mut by_port, kind, 1000..1040);
            assert_eq!(shares(&turns).len(), 3, "{} {with_port}: {turns:?}", kind.name);
        }
    }
}

#[test]
fn a_hashed_backend_that_takes_none_refuses_or_falls_back() {
    for (plain, fallback) in [
        (Sh as fn(HashFlags) -> Scheduler, HashFlags { fallback: true, port: true }),
        (Mh, HashFlags { fallback: true, port: true }),
    ]
    .map(|(make, flags)| (make(HashFlags { fallback: false, ..flags }), make(flags)))
    {
        // Backend 1 is overloaded by its first connection.
        let mut refusing = director(&limited(TCP4, plain, &[(1, 1), (2, 1)], 1));
        let turns: Vec<_> =
            (1000..1040).map(|port| send(&mut refusing, &TCP4.open().from_port(port))).collect();
        assert_eq!(turns.iter().filter(|turn| **turn == Ok(1)).count(), 1, "{plain}");
        assert!(turns.contains(&Ok(2)) && turns.contains(&Err(DroppedNoBackend)), "{plain}");
        // Who hashes to it gets the other one.
        let mut falling = director(&limited(TCP4, fallback, &[(1, 1), (2, 1)], 1));
        let turns = open(&mut falling, TCP4, 1000..1040);
        assert_eq!(shares(&turns), BTreeMap::from([(1, 1), (2, 39)]), "{fallback}");
        // The same for one of weight 0; the others keep their clients.
        let mut before = director(&only(TCP4, fallback, &[(1, 1), (2, 1), (3, 1)]));
        let turns = open(&mut before, TCP4, 1000..1040);
        let mut after = director(&only(TCP4, fallback, &[(1, 1), (2, 0), (3, 1)]));
        if matches!(fallback, Mh(_)) {
            // Its table remembers the weight before.
            after.configure(&only(TCP4, fallback, &[(1, 1), (2, 1), (3, 1)])).expect("configured");
            after.configure(&only(TCP4, fallback, &[(1, 1), (2, 0), (3, 1)])).expect("configured");
        }
        let drained = open(&mut after, TCP4, 1000..1040);
        for (before, after) in turns.iter().zip(&drained) {
            assert!(*after != 2 && (*before == 2 || before == after), "{fallback}: {turns:?} {drained:?}");
        }
    }
}

#[test]
fn dh_looks_at_the_vip() {
    for kind in [TCP4, UDP6] {
        let mut director = director(&only(kind, Dh, &[(1, 1), (2, 1), (3, 1)]));
        assert_eq!(shares(&open(&mut director, kind, 1000..1020)).len(), 1);
    }
}

#[test]
fn twos_draws_by_weight_and_takes_the_less_loaded() {
    let mut director = director(&only(TCP4, Twos, &[(1, 1), (2, 1), (3, 0), (4, 2)]));
    let shares = shares(&open(&mut director, TCP4, 1000..1400));
    assert_eq!(shares.keys().copied().collect::<Vec<_>>(), [1, 2, 4]);
    for (backend, ideal) in [(1, 100), (2, 100), (4, 200)] {
        assert!(shares[&backend].abs_diff(ideal) < 40, "{shares:?}");
    }
}

/// A service that takes datagrams too, each by itself: they draw without changing anybody's load.
fn with_datagrams(scheduler: Scheduler, weights: &[(u8, u16)]) -> Desired {
    let mut want = only(TCP4, scheduler, weights);
    let service = &mut want.services[0];
    service.group.insert(Endpoint { protocol: Protocol::Udp, ..service.endpoint });
    service.options.ops = true;
    want
}

/// (active, inactive) of backends 1, 2, ...
fn loads(director: &Director) -> Vec<(u64, u64)> {
    let snapshot = director.maps().snapshot().expect("a snapshot");
    let mut dests: Vec<_> = snapshot.dests.iter().map(|(id, dest)| (dest_address(dest), *id)).collect();
    dests.sort();
    let counts = dests.into_iter().map(|(_, id)| director.maps().conn_counts(id));
    counts.map(|counts| (counts.active, counts.inactive)).collect()
}

/// `ip_vs_twos.c`: each of two draws takes a member with the chance of its weight (the first one also the draw of 0), and
/// of both the one that is less loaded for its weight.
#[test]
fn twos_has_the_distribution_of_its_formula() {
    const DRAWS: u32 = 5_000;
    for weights in [&[1, 1, 2][..], &[5, 0, 1, 10], &[3, 3, 3]] {
        let backends: Vec<(u8, u16)> = (1..).zip(weights.iter().copied()).collect();
        let mut director = director(&with_datagrams(Twos, &backends));
        let datagram = UDP4.open().bytes();
        for connections in [0, 7] {
            for port in 1000..1000 + connections {
                send(&mut director, &TCP4.open().from_port(port)).expect("forwarded");
            }
            let cost: Vec<u64> = loads(&director).iter().map(|(active, idle)| active * 257 + idle).collect();
            let (all, weights) = (weights.iter().sum::<u16>(), weights.to_vec());
            let chance = |i: usize| f64::from(weights[i] + u16::from(i == 0)) / f64::from(all + 1);
            let mut expected = vec![0.0; weights.len()];
            let eligible: Vec<usize> = (0..weights.len()).filter(|i| weights[*i] != 0).collect();
            for a in &eligible {
                for b in &eligible {
                    let second = cost[*a] * u64::from(weights[*b]) > cost[*b] * u64::from(weights[*a]);
                    expected[if second { *b } else { *a }] += chance(*a) * chance(*b);
                }
            }
            let mut drawn = vec![0u32; weights.len()];
            for _ in 0..DRAWS {
                let (_, frame) = director.send(&datagram, None).expect("ran");
                drawn[usize::from(frame[5]) - 1] += 1;
            }
            for (times, chance) in drawn.iter().zip(&expected) {
                // Six standard deviations: one run of a hundred million is outside.
                let (mean, deviation) =
                    (f64::from(DRAWS) * chance, (f64::from(DRAWS) * chance * (1.0 - chance)).sqrt());
                let off = (f64::from(*times) - mean).abs();
                assert!(off <= 6.0 * deviation + 0.5, "{weights:?} {cost:?}: {drawn:?} for {expected:?}");
            }
        }
    }
}

/// 257 against 256, or with the classic formula a tie, which goes to the first in walk order.
#[test]
fn classic_load_counts_inactive_instead_of_all() {
    for scheduler in [Lc, Wlc] {
        for (classic_load, expected) in [(false, 2), (true, 1)] {
            let with = |backends: &[(u8, u16)]| {
                let mut want = with_datagrams(scheduler, backends);
                want.services[0].options.ops = false;
                want.services[0].options.classic_load = classic_load;
                want
            };
            let sizes = FlowSizes { ipv4: 4096, wide: 64 };
            let mut director = Director::new(sizes, &with(&[(2, 1)])).expect("a director");
            for port in 1000..1256 {
                assert_eq!(send(&mut director, &UDP4.open().from_port(port)), Ok(2));
            }
            director.configure(&with(&[(1, 1)])).expect("configured");
            assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
            director.configure(&with(&[(1, 1), (2, 1)])).expect("configured");
            assert_eq!(loads(&director), [(1, 0), (0, 256)]);
            let went = send(&mut director, &TCP4.open().from_port(9));
            assert_eq!(went, Ok(expected), "{scheduler}, classic: {classic_load}");
        }
    }
}

/// The same of those that take the least loaded where they remember nobody: their first connection.
#[test]
fn classic_load_counts_for_lblc_lblcr_and_twos_too() {
    const DRAWS: u16 = 2_000;
    for classic_load in [false, true] {
        let with = |scheduler, ops, backends: &[(u8, u16)]| {
            let mut want = with_datagrams(scheduler, backends);
            (want.services[0].options.ops, want.services[0].options.classic_load) = (ops, classic_load);
            want
        };
        for scheduler in [Lblc, Lblcr, Twos] {
            let sizes = FlowSizes { ipv4: 4096, wide: 64 };
            let mut director = Director::new(sizes, &with(Rr, false, &[(2, 1)])).expect("a director");
            for port in 1000..1256 {
                assert_eq!(send(&mut director, &UDP4.open().from_port(port)), Ok(2));
            }
            director.configure(&with(Rr, false, &[(1, 1)])).expect("configured");
            assert_eq!(send(&mut director, &TCP4.open()), Ok(1));
            director.configure(&with(scheduler, scheduler == Twos, &[(1, 1), (2, 1)])).expect("configured");
            assert_eq!(loads(&director), [(1, 0), (0, 256)]);
            if scheduler != Twos {
                let went = send(&mut director, &TCP4.open().from_port(9));
                assert_eq!(
                    went,
                    Ok(if classic_load { 1 } else { 2 }),
                    "{scheduler}, classic: {classic_load}"
                );
                continue;
            }
            // Backend 1 is drawn with the chance of 2/3. In a tie the first draw decides, otherwise both must be of it.
            let turns = open(&mut director, UDP4, 2000..2000 + DRAWS);
            let first = shares(&turns).get(&1).copied().unwrap_or(0);
            let expected: usize = if classic_load { 1333 } else { 889 };
            // Ten standard deviations, and half of the way to the other figure.
            assert!(first.abs_diff(expected) < 220, "{first} of {DRAWS} draws, classic: {classic_load}");
        }
    }
}

#[test]
fn lblc_stays_until_there_is_relief() {
    // Backend 1 may have two active connections; the third is one too many as soon as it is there.
    let mut director = director(&only(TCP4, Lblc, &[(1, 2), (2, 1)]));
    assert_eq!(open(&mut director, TCP4, 1000..1005), [1, 1, 1, 2, 2]);
    // Both are above their weight, so nobody relieves: it stays where it is.
    assert_eq!(open(&mut director, TCP4, 1005..1007), [2, 2]);
}

/// As if what the only service remembers of its VIP were so many hours old.
fn age_locality(director: &Director, hours: u32) {
    let ago = ticks(hours * 3600, director.clock.hz());
    let age = |rotation: &mut Rotation| {
        let seen = Locality(rotation.locality);
        assert!(seen.number() != 0);
        rotation.locality = Locality::new(seen.number(), Tick(seen.tick().0.wrapping_sub(ago))).0;
    };
    director.change_rotation(only_service(director), age).expect("set");
}

/// What lblc remembers of the VIP is forgotten after 24 hours without a new connection (`sysctl_lblc_expiration`): the
/// least loaded one is looked for then.
#[test]
fn lblc_forgets_after_a_day() {
    for (hours, expected) in [(23, 1), (25, 2)] {
        let mut director = director(&only(TCP4, Lblc, &[(1, 9), (2, 9)]));
        assert_eq!(open(&mut director, TCP4, 1000..1002), [1, 1]);
        age_locality(&director, hours);
        assert_eq!(open(&mut director, TCP4, 1002..1003), [expected], "after {hours} hours");
    }
}

/// lblcr's set loses its most loaded member with the first new connection after 24 hours in which it did not change
/// (`sysctl_lblcr_expiration`): the others take what comes, even if that one is idle by then.
#[test]
fn lblcr_shrinks_its_set_after_a_day() {
    for (hours, expected) in [(23, 1), (25, 2)] {
        let mut director = director(&only(TCP4, Lblcr, &[(1, 2), (2, 9)]));
        // Backend 1 may have two active connections, then 2 joins it.
        assert_eq!(open(&mut director, TCP4, 1000..1004), [1, 1, 1, 2]);
        age_locality(&director, hours);
        assert_eq!(open(&mut director, TCP4, 1004..1005), [2], "2 is the less loaded of the set");
        close(&mut director, TCP4, 1000..1003);
        assert_eq!(open(&mut director, TCP4, 1005..1006), [expected], "after {hours} hours");
        // It shrinks once: the next time is a day later.
        if hours > 24 {
            assert_eq!(open(&mut director, TCP4, 1006..1009), [2; 3]);
        }
    }
}

#[test]
fn lblcr_grows_a_set() {
    let mut director = director(&only(TCP4, Lblcr, &[(1, 2), (2, 1), (3, 1)]));
    // The least loaded of the set is under pressure, so the least loaded of all joins it.
    assert_eq!(open(&mut director, TCP4, 1000..1006), [1, 1, 1, 2, 2, 3]);
}
