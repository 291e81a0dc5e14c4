//! A flow table that is nearly full, beside real connections.

use anyhow::{Result, ensure};
use lb_tests::{
    hello::Session,
    lab::Lab,
    topo::Topology,
    wait::{PATIENCE, Seen, eventually},
};

use crate::{
    flood::flood,
    setup::{HELLO, HelloLab, SERVICE, said},
};

/// The labs' table is rated for 64 k flows, and pressure begins at nine tenths of twice that. Not all SYNs need arrive, so
/// there are more until it is enough.
const PART: usize = 32_000;

#[test]
fn half_open_connections_give_way_and_established_ones_stay() {
    Lab::test(Topology::one_segment(2), |lab| {
        let hello = HelloLab::start(lab, 2)?;
        let agent = &hello.agent;
        // So that the flood fills the table at all.
        agent.lb(&["service", "edit", SERVICE, "--guard", "off"])?.ok()?;
        let mut sessions =
            (0..20).map(|_| Session::open(hello.client(), HELLO)).collect::<Result<Vec<_>>>()?;
        let table = || -> Result<_> {
            let stats = agent.stats()?;
            let table = stats.flows.iter().find(|table| table.table == "ipv4").cloned();
            table.ok_or_else(|| anyhow::anyhow!("no table in {stats:#?}"))
        };
        let mut parts = (0..).step_by(PART);
        eventually(PATIENCE * 3, "pressure", || {
            let table = table()?;
            if table.used <= 2 * table.rated {
                flood(hello.client(), parts.next().unwrap_or_default(), PART as u32)?;
            }
            Ok(if table.pressed { Seen::Yes(()) } else { Seen::NotYet(format!("{table:?}")) })
        })?;
        said(&agent.lb(&["status"])?.ok()?, &["flow table ipv4", "under pressure"])?;
        ensure!(agent.log().contains("the flow table is nearly full"), "not in the log");
        // Long before the minute that half-open connections have.
        let pruned = eventually(2 * PATIENCE, "half-open connections to give way", || {
            let table = table()?;
            let is_done = table.pruned > table.rated / 2 && table.used < table.rated;
            Ok(if is_done { Seen::Yes(table.pruned) } else { Seen::NotYet(format!("{table:?}")) })
        })?;
        ensure!(table()?.pressed, "{pruned} gave way; it holds for a minute");
        sessions.iter_mut().try_for_each(|session| session.echo(b"still there"))?;
        Session::open(hello.client(), HELLO)?.echo(b"and a new one")
    });
}
