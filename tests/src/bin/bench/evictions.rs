//! Too many flows: how many live ones lose their entry, and how many new ones get none.

use anyhow::{Result, ensure};
use lb::model::{FlowSizes, Scheduler};
use lb_common::{
    tcp::{
        State,
        flag::{ACK, SYN},
    },
    verdict::Event,
};
use lb_tests::{
    feeder::{Feed, Feeder, Target},
    xdp::Director,
};

use crate::world::{PORT, VIP4, backend, counted, desired, open, service};

/// A quarter of the slots.
const RATED: u32 = 1 << 20;
/// Of the rated capacity.
const LOADS: [(f64, u32); 3] = [(0.5, RATED / 2), (1.0, RATED), (2.0, 2 * RATED)];
/// Connections that are in their handshake together.
const AT_ONCE: u32 = 1024;

/// A table: connections are opened and established up to a load, then as many are opened beside them as the table is
/// rated for, and not completed.
pub fn evictions() -> Result<()> {
    println!(
        "table rated for {RATED} flows                established opened beside  evicted live  without entry"
    );
    for (load, flows) in LOADS {
        let addresses = [1, 2].map(|number| backend(VIP4, number));
        let want = desired(vec![service(VIP4, PORT, Scheduler::Rr, addresses)]);
        let mut director = Director::new(FlowSizes { ipv4: RATED, wide: 1 << 10 }, &want)?;
        let mut feeder = Feeder::new()?;
        feeder.aim(Target::Director, &mut director)?;
        let packet = open(VIP4);
        let (mut syn, mut ack) = (Feed::new_flows(&packet), Feed::new_flows(&packet));
        for _ in 0..flows / AT_ONCE {
            feeder.run(&packet.bytes(), &mut syn, AT_ONCE)?;
            feeder.run(&packet.flags(ACK).bytes(), &mut ack, AT_ONCE)?;
        }
        let established = established(&director);
        let first = events(&director)?;
        let line = |what: String, beside: u32, [evicted, without]: [u64; 2]| {
            println!("{what:<42}{established:>13}{beside:>14}{evicted:>14}{without:>15}");
        };
        line(format!("{load} x rated, handshakes completed"), 0, first);
        feeder.run(&packet.flags(SYN).bytes(), &mut syn, RATED)?;
        let second = events(&director)?;
        line(
            format!("{load} x rated, then half-open ones"),
            RATED,
            [second[0] - first[0], second[1] - first[1]],
        );
        let left = self::established(&director);
        ensure!(left == established, "{established} flows were established, {left} are");
    }
    Ok(())
}

fn established(director: &Director) -> usize {
    director.flows().into_iter().filter(|flow| flow.value.state() == State::ESTABLISHED).count()
}

/// Live flows that gave their entry to another, connections that got none.
fn events(director: &Director) -> Result<[u64; 2]> {
    Ok([counted(director, Event::Evicted.name())?, counted(director, Event::PlacedByHash.name())?])
}
