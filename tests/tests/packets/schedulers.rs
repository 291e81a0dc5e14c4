//! The schedulers that do not rotate: by load, by hash, by lot, by locality.

use std::collections::BTreeMap;

use lb::{
    model::{
        HashFlags,
        Scheduler::{self, *},
    },
    plan::Desired,
};
use lb_common::{tcp::flag::*, verdict::Verdict::*};
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
    for kind in KINDS {
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
    for kind in KINDS {
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

#[test]
fn lblc_stays_until_there_is_relief() {
    // Backend 1 may have two active connections; the third is one too many as soon as it is there.
    let mut director = director(&only(TCP4, Lblc, &[(1, 2), (2, 1)]));
    assert_eq!(open(&mut director, TCP4, 1000..1005), [1, 1, 1, 2, 2]);
    // Both are above their weight, so nobody relieves: it stays where it is.
    assert_eq!(open(&mut director, TCP4, 1005..1007), [2, 2]);
}

#[test]
fn lblcr_grows_a_set() {
    let mut director = director(&only(TCP4, Lblcr, &[(1, 2), (2, 1), (3, 1)]));
    // The least loaded of the set is under pressure, so the least loaded of all joins it.
    assert_eq!(open(&mut director, TCP4, 1000..1006), [1, 1, 1, 2, 2, 3]);
}
