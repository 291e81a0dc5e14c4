//! `lb doctor`: what is wrong with a director and its backends, how it is known, what it causes, and what mends it.
//!
//! Three steps: facts are read (`gather`) and backends are asked as a client would (`probe`), both IO; what they mean
//! is decided by judges that are pure and tested on facts alone (`judge`). It works with an agent and without: what the
//! data plane does is read out of the pinned maps, and the agent only adds what it alone knows (health, rates).
//!
//! Nothing on this machine is changed, and nobody is disturbed: see `probe`.

mod finding;
mod gather;
mod held;
mod judge;
mod probe;
mod report;

use std::path::PathBuf;

use anyhow::Result;

use self::{
    gather::{backend::Asked, network::Network},
    held::Held,
    judge::agent::{Answer, Pins},
};
use crate::dataplane::{Layout, Maps};

pub use self::{
    finding::{Finding, Id, Severity},
    report::{Examined, Report},
};

/// Where the instance keeps things.
#[derive(Clone, Debug)]
pub struct Place {
    pub instance: String,
    pub socket: PathBuf,
    /// Without the instance.
    pub state_dir: PathBuf,
    /// The mount point; used where no agent answers.
    pub bpffs: PathBuf,
}

/// Looks at everything, in the caller's network namespace.
///
/// # Errors
/// If the kernel does not tell of interfaces and addresses: nothing can be said then.
pub async fn examine(place: &Place) -> Result<Report> {
    let (mut agent, told, maps) = gather::agent::gather(place).await;
    let mut unknown = Vec::new();
    if agent.answer == Answer::Denied {
        unknown.push("what the agent says: no permission to use its socket".to_owned());
    }
    if agent.pins == Pins::Denied {
        unknown.push("the pinned maps: no permission; run this as root".to_owned());
    }
    let reading = maps.as_ref().and_then(Maps::clock_reading);
    let mut findings = judge::machine::judge(&gather::machine::gather(place, reading));
    findings.extend(judge::tables::judge(&gather::tables::gather(told.stats.as_ref())));
    let layout = Layout::new(gather::agent::bpffs(place, &told), &place.instance);
    let held = match maps.as_ref().map(|maps| maps.snapshot()).transpose()? {
        Some(snapshot) => Held::new(&snapshot),
        None => Held::default(),
    };
    let network = Network::gather(held.backends()).await?;
    let interfaces = gather::interface::gather(&held, &network.links, &layout);
    findings.extend(interfaces.iter().flat_map(judge::interface::judge));
    let lacks = judge::driver::lacks(&gather::driver::gather(&held, &network.links, &interfaces));
    let incapable = gather::capability::gather(&place.instance, &told, agent.lock, &mut unknown);
    let incapable = incapable.as_ref().and_then(judge::capability::judge);
    // What the agent warns of, too, is one finding.
    agent.warnings.retain(|warning| lacks.iter().all(|lack| lack.to_string() != *warning));
    agent.warnings.retain(|warning| !incapable.iter().any(|it| judge::capability::repeats(it, warning)));
    findings.extend(incapable);
    findings.extend(judge::agent::judge(&agent));
    findings.extend(lacks.into_iter().map(judge::driver::finding));
    // What a link that is down causes is no news.
    if !findings.iter().any(|finding| finding.id == Id::LinkDown) {
        findings.extend(gather::service::gather(&told.services).iter().filter_map(judge::service::judge));
    }
    let asked = match gather::backend::gather(&held, &network, &told.services) {
        Ok(asked) => asked,
        Err(error) => {
            unknown.push(format!("backends and VIPs, by asking them: raw sockets: {error}"));
            Asked::default()
        }
    };
    findings.extend(asked.ways.iter().flat_map(judge::backend::judge));
    findings.extend(asked.mtus.iter().flat_map(judge::mtu::judge));
    findings.extend(asked.reach.iter().filter_map(judge::reach::judge));
    findings.extend(asked.vips.iter().flat_map(judge::vip::judge));
    unknown.extend(asked.unknown);
    findings.extend(gather::local::gather(&held).iter().filter_map(judge::local::judge));
    findings.extend(judge::rivals::judge(&gather::rivals::gather(held.vips.clone(), &mut unknown)));
    findings.extend(judge::stack::judge(&gather::stack::gather(
        &held,
        &network,
        told.config.as_ref(),
        &mut unknown,
    )));
    let examined = Examined {
        interfaces: interfaces.len(),
        vips: held.vips.len(),
        backends: held.backends().len(),
        probed: asked.ways.len(),
    };
    Ok(Report::new(&place.instance, findings, unknown, examined))
}
