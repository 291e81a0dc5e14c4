//! The flow tables, and what is lost for want of room.

use crate::doctor::finding::{Finding, Id};

#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub tables: Vec<Table>,
    /// A second, now: new connections that found no room, and entries that gave way to new ones.
    pub placed_by_hash: f64,
    pub evicted: f64,
}

#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub used: u64,
    pub rated: u64,
}

/// Percent of the rated capacity. Above the rated capacity pairs of buckets begin to be full.
const NEARLY_FULL: u64 = 80;

/// A second; less is the rest of something that is over.
const SOME: f64 = 0.1;

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let full = facts.tables.iter().filter(|table| table.used * 100 >= table.rated * NEARLY_FULL);
    let mut findings: Vec<Finding> = full.map(nearly_full).collect();
    let Facts { placed_by_hash, evicted, .. } = *facts;
    if placed_by_hash >= SOME || evicted >= SOME {
        findings.push(Finding::new(
            Id::TableOverflows,
            "flow tables",
            format!("{placed_by_hash:.1} connections a second find no room, {evicted:.1} closing or half-open ones give way"),
            "a connection without an entry moves to another backend when backends come or go",
            "larger `flows` in the configuration and lb reload (no connection is lost); a flood: lb stats --rate",
        ));
    }
    findings
}

fn nearly_full(table: &Table) -> Finding {
    let Table { name, used, rated } = table;
    Finding::new(
        Id::TableFull,
        format!("flow table {name}"),
        format!("{used} connections, rated for {rated}"),
        "beyond its rated capacity new connections begin to find no room",
        format!(
            "a larger `flows: {{{name}: ...}}` in the configuration and lb reload (no connection is lost), or shorter timeouts"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_overflowing() {
        let table = |used| Table { name: "ipv4".into(), used, rated: 1000 };
        let ids = |facts: Facts| judge(&facts).iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert_eq!(ids(Facts { tables: vec![table(799)], ..Facts::default() }), []);
        assert_eq!(ids(Facts { tables: vec![table(800)], ..Facts::default() }), [Id::TableFull]);
        assert_eq!(ids(Facts { evicted: 1.0, ..Facts::default() }), [Id::TableOverflows]);
        assert_eq!(ids(Facts { placed_by_hash: 1.0, ..Facts::default() }), [Id::TableOverflows]);
        assert_eq!(ids(Facts { placed_by_hash: 0.01, ..Facts::default() }), []);
    }
}
