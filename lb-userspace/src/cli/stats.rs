//! `lb stats`: counters or rates, once or again and again.

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, Table};

use super::{
    CliError, Output, number,
    output::{Column, Tone},
    parse,
    rate::Rates,
};
use crate::api::{
    client::Client,
    types::{CheckStats, Counters, Health, Rate, Stats, TableStats},
};

#[derive(Debug, Args)]
pub(super) struct StatsArgs {
    /// Rates per second instead of totals: as IPVS estimates them, over some seconds; with --watch, exact ones
    /// between two readings from the second on
    #[arg(long)]
    pub(super) rate: bool,
    /// Again and again, every second or, with --watch=SECONDS, at that interval; JSON is then one
    /// object a line
    #[arg(long, value_name = "SECONDS", value_parser = parse::interval)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "1")]
    pub(super) watch: Option<Duration>,
    /// With --watch: end after N times
    #[arg(long, value_name = "N", requires = "watch")]
    pub(super) count: Option<u64>,
}

/// Cursor home, erase below (ECMA-48): a watched screen is redrawn in place.
const REDRAW: &[u8] = b"\x1b[H\x1b[J";
/// Erases the whole screen, once before the first drawing.
const ERASE: &[u8] = b"\x1b[2J";

pub(super) async fn run(args: StatsArgs, client: &Client, output: &mut Output<'_>) -> Result<(), CliError> {
    let StatsArgs { rate, watch, count } = args;
    let rounds = if watch.is_some() { count.unwrap_or(u64::MAX) } else { 1 };
    let redraw = watch.is_some() && output.terminal && !output.is_json();
    if redraw {
        output.raw(ERASE)?;
    }
    let mut older: Option<Stats> = None;
    for round in 0..rounds {
        if let Some(interval) = watch.filter(|_| round > 0) {
            tokio::time::sleep(interval).await;
        }
        let newer = client.stats().await?;
        if redraw {
            output.raw(REDRAW)?;
        } else if round > 0 && !output.is_json() {
            output.line("")?;
        }
        match &older {
            None if rate => print_rates(&Rates::estimated(&newer), watch.is_some(), output)?,
            None => print_totals(&newer, watch.is_some(), output)?,
            Some(older) => match Rates::between(older, &newer) {
                Some(rates) => print_rates(&rates, watch.is_some(), output)?,
                None => output.note("the agent's clock went back: no rate from these two readings"),
            },
        }
        output.flush()?;
        older = rate.then_some(newer);
    }
    Ok(())
}

fn print_totals(stats: &Stats, one_line: bool, output: &mut Output<'_>) -> Result<(), CliError> {
    if output.is_json() {
        return Ok(output.json(stats, one_line)?);
    }
    let tables = [
        counter_table(stats, output),
        health_table(stats, output),
        check_table(stats, output),
        verdict_table(stats, output),
        flow_table(&stats.flows, output),
    ];
    print_tables(&tables, output)
}

fn print_rates(rates: &Rates, one_line: bool, output: &mut Output<'_>) -> Result<(), CliError> {
    if output.is_json() {
        return Ok(output.json(rates, one_line)?);
    }
    let tables = [rate_table(rates, output), verdict_rate_table(rates, output)];
    print_tables(&tables, output)
}

/// With an empty line between them; tables without rows are left out.
fn print_tables(tables: &[Table], output: &mut Output<'_>) -> Result<(), CliError> {
    for (index, table) in tables.iter().filter(|t| !t.is_empty()).enumerate() {
        if index > 0 {
            output.line("")?;
        }
        output.table(table)?;
    }
    Ok(())
}

/// Services with their backends below them, as `ipvsadm -L --stats`; then the total.
pub(super) fn counter_table(stats: &Stats, output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Service -> Backend"),
        Text("LocalAddress:Port"),
        Number("Conns"),
        Number("Packets"),
        Number("Bytes"),
    ]);
    let row = |name: String, endpoint: String, counters: &Counters| {
        vec![
            Cell::new(name),
            Cell::new(endpoint),
            Cell::new(number::count(counters.connections)),
            Cell::new(number::count(counters.packets)),
            Cell::new(number::bytes(counters.bytes)),
        ]
    };
    for service in &stats.services {
        table.add_row(row(service.name.to_string(), service.endpoint.to_string(), &service.counters));
        for backend in &service.backends {
            table.add_row(row(format!("  -> {}", backend.key), String::new(), &backend.counters));
        }
    }
    table.add_row(row("Total".to_owned(), String::new(), &stats.total));
    table
}

/// Every backend of which the clients' packets told something; JSON has the zeros too.
pub(super) fn health_table(stats: &Stats, output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Service"),
        Text("Backend"),
        Number("Incomplete"),
        Number("SYN again"),
        Number("Client RST"),
    ]);
    for service in &stats.services {
        for backend in service.backends.iter().filter(|backend| backend.health != Health::default()) {
            let Health { incomplete_handshakes, syn_retransmissions, client_resets } = backend.health;
            table.add_row(vec![
                Cell::new(&service.name),
                Cell::new(backend.key),
                Cell::new(number::count(incomplete_handshakes)),
                Cell::new(number::count(syn_retransmissions)),
                Cell::new(number::count(client_resets)),
            ]);
        }
    }
    table
}

/// What health checks were made, and how much later than they were due: half of them, all but one of a hundred, the
/// latest.
pub(super) fn check_table(stats: &Stats, output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Check"),
        Number("Made"),
        Number("Failed"),
        Number("Under way"),
        Number("Late 50 %"),
        Number("Late 99 %"),
        Number("Latest"),
    ]);
    let milliseconds = |us: u64| format!("{} ms", us as f64 / 1000.0);
    for check in &stats.checks {
        let CheckStats { kind, via_vip, begun, ended, failed, latest_us, .. } = check;
        let late = |share| {
            check.late_us(share).map_or("> 5000 ms".to_owned(), |us| format!("< {}", milliseconds(us)))
        };
        table.add_row(vec![
            Cell::new(if *via_vip { format!("{kind} through the VIP") } else { kind.clone() }),
            Cell::new(number::count(*ended)),
            Cell::new(number::count(*failed)),
            Cell::new(number::count(begun.saturating_sub(*ended))),
            Cell::new(late(0.5)),
            Cell::new(late(0.99)),
            Cell::new(format!("{:.1} ms", *latest_us as f64 / 1000.0)),
        ]);
    }
    table
}

/// Every verdict that some packet met; JSON has the zeros too.
pub(super) fn verdict_table(stats: &Stats, output: &Output<'_>) -> Table {
    let mut table =
        output.columns(&[Column::Text("Verdict"), Column::Number("Packets"), Column::Text("Meaning")]);
    for verdict in stats.verdicts.iter().filter(|v| v.packets > 0) {
        table.add_row(vec![
            verdict_cell(&verdict.name),
            Cell::new(number::count(verdict.packets)),
            Cell::new(&verdict.meaning),
        ]);
    }
    table
}

pub(super) fn flow_table(flows: &[TableStats], output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Flow table"),
        Number("Used"),
        Number("Rated"),
        Number("Use%"),
        Number("Memory"),
    ]);
    for flow in flows {
        let percent = number::percent(flow.used, flow.rated);
        let tone = if percent < NEARLY_FULL { Tone::Good } else { Tone::Bad };
        table.add_row(vec![
            Cell::new(&flow.table),
            Cell::new(number::count(flow.used)),
            Cell::new(number::count(flow.rated)),
            tone.cell(format!("{percent:.0}")),
            Cell::new(number::bytes(flow.memory_bytes)),
        ]);
    }
    table
}

/// Percent of the rated capacity from which a flow table needs somebody's attention.
pub(super) const NEARLY_FULL: f64 = 80.0;

pub(super) fn rate_table(rates: &Rates, output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Service -> Backend"),
        Text("LocalAddress:Port"),
        Number("Conns/s"),
        Number("Packets/s"),
        Number("Bytes/s"),
    ]);
    let row = |name: String, endpoint: String, rate: &Rate| {
        vec![
            Cell::new(name),
            Cell::new(endpoint),
            Cell::new(number::per_second(rate.connections)),
            Cell::new(number::per_second(rate.packets)),
            Cell::new(number::bytes_per_second(rate.bytes)),
        ]
    };
    for service in &rates.services {
        table.add_row(row(service.name.to_string(), service.endpoint.to_string(), &service.rate));
        for backend in &service.backends {
            table.add_row(row(format!("  -> {}", backend.key), String::new(), &backend.rate));
        }
    }
    table.add_row(row("Total".to_owned(), String::new(), &rates.total));
    table
}

fn verdict_rate_table(rates: &Rates, output: &Output<'_>) -> Table {
    let mut table =
        output.columns(&[Column::Text("Verdict"), Column::Number("Packets/s"), Column::Text("Meaning")]);
    for verdict in rates.verdicts.iter().filter(|v| v.packets > 0.0) {
        table.add_row(vec![
            verdict_cell(&verdict.name),
            Cell::new(number::per_second(verdict.packets)),
            Cell::new(&verdict.meaning),
        ]);
    }
    table
}

fn verdict_cell(name: &str) -> Cell {
    if name.starts_with("dropped") { Tone::Notice.cell(name) } else { Cell::new(name) }
}
