//! `lb status`: what an operator wants to see at 3 a.m., problems first.

use std::path::Path;

use comfy_table::{Cell, Table};

use super::{
    CliError, Exit, Output,
    backend::{state_tone, state_word},
    number,
    output::{Column, Tone, or_dash},
    service,
    stats::{self, NEARLY_FULL},
};
use crate::api::{
    client::{Client, ClientError},
    types::{BackendState, InterfaceView, ServiceView, Stats, Status},
};

/// `pins`: the instance's directory in bpffs, for when no agent answers.
pub(super) async fn run(client: &Client, pins: &Path, output: &mut Output<'_>) -> Result<(), CliError> {
    let status = client.status().await.map_err(|error| without_agent(error, pins))?;
    if output.is_json() {
        return Ok(output.json(&status, false)?);
    }
    let (services, stats) = (client.services().await?, client.stats().await?);
    print(&status, &services, &stats, output)
}

pub(super) fn print(
    status: &Status,
    services: &[ServiceView],
    stats: &Stats,
    output: &mut Output<'_>,
) -> Result<(), CliError> {
    let Status { version, instance, pid, uptime, .. } = status;
    let problems = problems(status, services, stats);
    let verdict = match problems.iter().filter(|p| p.tone == Tone::Bad).count() {
        0 => output.toned("working", Tone::Good),
        1 => output.toned("1 problem", Tone::Bad),
        n => output.toned(&format!("{n} problems"), Tone::Bad),
    };
    output.line(format!(
        "lb {version}, instance {instance}: {verdict} (agent pid {pid}, up {})",
        number::duration(*uptime)
    ))?;
    for Problem { tone, text } in problems.iter().take(SHOWN) {
        output.line(format!("  {} {text}", output.toned("!", *tone)))?;
    }
    and_more(problems.len(), "lb backend list", output)?;
    output.line("")?;
    output.line(format!("Config  {}", status.config_file))?;
    output.line(format!("Pins    {} (schema {})", status.bpf_pin_dir, status.schema_version))?;
    section(&interface_table(&status.interfaces, output), output)?;
    section(&service::list_table(&most_in_need(services), output), output)?;
    and_more(services.len(), "lb service list", output)?;
    section(&stats::flow_table(&stats.flows, output), output)?;
    section(&stats::verdict_table(stats, output), output)?;
    if !status.overlay.is_empty() {
        output.line("\nChanged by command, not in the file (`lb save` writes it):")?;
        for entry in &status.overlay {
            output.line(format!("  {entry}"))?;
        }
    }
    Ok(())
}

/// Lines of a list that fit on a screen together with the rest.
const SHOWN: usize = 16;

fn and_more(all: usize, command: &str, output: &mut Output<'_>) -> Result<(), CliError> {
    match all.checked_sub(SHOWN) {
        None | Some(0) => Ok(()),
        Some(more) => Ok(output.line(format!("  ... and {more} more: `{command}`"))?),
    }
}

/// As many services as are shown; if that is not all, those with no backend up come first, then
/// those with the most that are not.
fn most_in_need(services: &[ServiceView]) -> Vec<ServiceView> {
    let mut chosen = services.to_vec();
    if chosen.len() > SHOWN {
        let not_up = |s: &ServiceView| s.backends.iter().filter(|b| b.state != BackendState::Up).count();
        chosen.sort_by_key(|s| (not_up(s) < s.backends.len(), std::cmp::Reverse(not_up(s))));
        chosen.truncate(SHOWN);
    }
    chosen
}

/// Something to look at; `Tone::Bad` if it needs doing, `Tone::Notice` if it may be meant so.
struct Problem {
    tone: Tone,
    text: String,
}

fn problems(status: &Status, services: &[ServiceView], stats: &Stats) -> Vec<Problem> {
    let bad = |text: String| Problem { tone: Tone::Bad, text };
    let notice = |text: String| Problem { tone: Tone::Notice, text };
    let mut found = Vec::new();
    if status.interfaces.is_empty() {
        found.push(bad("no interface is attached: nothing is balanced".to_owned()));
    }
    for service in services {
        if service.guarded {
            found.push(bad(format!(
                "service {}: new connections come faster than its guard ({}) allows; what is established goes on, and new \
                 ones are placed by hash: a flood, or set a higher `guard`",
                service.name, service.options.guard
            )));
        }
        if !service.backends.iter().any(|b| b.state == BackendState::Up) {
            found.push(bad(format!(
                "service {} has no backend that takes new connections ({} configured)",
                service.name,
                service.backends.len()
            )));
        }
    }
    for (service, backend) in services.iter().flat_map(|s| s.backends.iter().map(move |b| (s, b))) {
        if !matches!(backend.state, BackendState::Up | BackendState::Standby) {
            let why = backend.detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default();
            let (word, tone) = (state_word(backend.state), state_tone(backend.state));
            found.push(Problem {
                tone,
                text: format!("backend {} of {} is {word}{why}", backend.key, service.name),
            });
        }
    }
    for flow in &stats.flows {
        let percent = number::percent(flow.used, flow.rated);
        if flow.pressed {
            found.push(bad(format!(
                "flow table {} is {percent:.0} % full and under pressure: half-open and closing connections that are idle \
                 give way early ({} have), established ones stay; a flood, or raise `flows`",
                flow.table,
                number::count(flow.pruned)
            )));
        } else if percent >= NEARLY_FULL {
            found.push(bad(format!("flow table {} is {percent:.0} % full", flow.table)));
        }
    }
    found.extend(status.interfaces.iter().filter(|i| i.mode == "generic").map(|interface| {
        notice(format!("{} runs in generic mode, several times slower than native", interface.name))
    }));
    found.extend(status.warnings.iter().cloned().map(bad));
    // Those that need doing first, else in the order above.
    found.sort_by_key(|p| p.tone != Tone::Bad);
    found
}

fn section(table: &Table, output: &mut Output<'_>) -> Result<(), CliError> {
    if !table.is_empty() {
        output.line("")?;
        output.table(table)?;
    }
    Ok(())
}

fn interface_table(interfaces: &[InterfaceView], output: &Output<'_>) -> Table {
    use Column::{Number, Text};
    let mut table = output.columns(&[
        Text("Interface"),
        Text("Attached to"),
        Text("VLAN"),
        Text("Mode"),
        Text("MAC"),
        Number("MTU"),
        Number("Program"),
    ]);
    for interface in interfaces {
        let tone = if interface.mode == "native" { Tone::Good } else { Tone::Notice };
        table.add_row(vec![
            Cell::new(&interface.name),
            Cell::new(&interface.attached_to),
            Cell::new(or_dash((interface.vlan != 0).then_some(interface.vlan))),
            tone.cell(&interface.mode),
            Cell::new(&interface.mac),
            Cell::new(interface.mtu),
            Cell::new(interface.program_id),
        ]);
    }
    table
}

/// Whether packets still flow is the next question when no agent answers: its pins tell.
fn without_agent(error: ClientError, pins: &Path) -> CliError {
    match error {
        ClientError::NotRunning { .. } if pins.is_dir() => CliError::Local {
            exit: Exit::NotRunning,
            message: format!(
                "{error}; what the last agent pinned in {} is still there, so packets are forwarded on the last state",
                pins.display()
            ),
        },
        error => error.into(),
    }
}
