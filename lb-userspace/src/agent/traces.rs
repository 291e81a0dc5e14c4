//! `lb trace`: as long as somebody asks, another build of the program takes the place of the one that forwards, on the
//! same links and maps, and reports what it does. What comes of it is read by a thread of its own (`crate::trace`).

use std::collections::BTreeSet;

use anyhow::Result;
use lb_common::trace::{Filter, SLOTS};
use tokio::sync::mpsc;

use super::{Agent, change::internal};
use crate::{
    api::server::Failure,
    dataplane::{Build, Target, Traces},
    plan::name_of,
    trace::{Ended, Question, Reports, Tracer},
};

/// Who traces.
#[derive(Debug)]
pub struct Tracing {
    /// While there is one, the programs are those that report.
    tracer: Option<Tracer>,
    open: usize,
    ended: Ended,
    endings: mpsc::UnboundedReceiver<()>,
}

impl Default for Tracing {
    fn default() -> Self {
        let (ended, endings) = mpsc::unbounded_channel();
        Self { tracer: None, open: 0, ended, endings }
    }
}

impl Tracing {
    /// Which build of the program belongs on the interfaces now.
    pub fn build(&self) -> Build {
        if self.tracer.is_some() { Build::Tracing } else { Build::Ordinary }
    }

    /// For `lb status`.
    pub fn warning(&self) -> Option<String> {
        (self.open > 0).then(|| {
            format!(
                "`lb trace` runs ({} of at most {SLOTS}): packets cost more as long as it does",
                self.open
            )
        })
    }

    /// A device has a program that reports.
    pub fn follow(&self, target: &Target, traces: Option<Traces>) {
        if let (Some(tracer), Some(traces)) = (&self.tracer, traces) {
            tracer.follow(target, traces);
        }
    }

    /// Waits for the end of a trace.
    pub async fn ending(&mut self) {
        // We hold a sender, so there is always another one to wait for.
        let _ = self.endings.recv().await;
    }
}

impl Agent {
    /// Begins a trace, and swaps the programs if it is the first one.
    pub(super) fn trace(&mut self, question: &Question) -> Result<Reports, Failure> {
        let (filter, device) = (self.filter(question)?, self.traced_device(question)?);
        if self.tracing.open >= SLOTS {
            let hint = "end one (Ctrl-C), or wait for it";
            return Err(
                Failure::conflict(format!("{SLOTS} traces run already, and there can be no more")).hint(hint)
            );
        }
        if self.tracing.tracer.is_none() {
            self.begin_tracing().map_err(internal)?;
        }
        let Some(tracer) = &self.tracing.tracer else { return Err(Failure::internal("nobody traces")) };
        self.tracing.open += 1;
        Ok(tracer.trace(filter, device, question.snap))
    }

    /// The device that is named: one that has the program.
    fn traced_device(&self, question: &Question) -> Result<Option<String>, Failure> {
        let Some(name) = &question.interface else { return Ok(None) };
        let devices = || self.interfaces.all.iter().map(|one| one.attachment.name.as_str());
        if devices().any(|device| device == name) {
            return Ok(Some(name.clone()));
        }
        let has: BTreeSet<&str> = devices().collect();
        let has = has.into_iter().collect::<Vec<_>>().join(", ");
        let wrong = match self.interfaces.all.iter().find(|one| one.spec.name == *name) {
            Some(one) => format!("the frames of {name} come in by {}, with their tags", one.attachment.name),
            None => format!("{name} has no program of ours"),
        };
        Err(Failure::not_found(wrong).hint(format!("one of {has}")))
    }

    fn filter(&self, question: &Question) -> Result<Filter, Failure> {
        let service = match &question.service {
            None => None,
            Some(name) => {
                if !self.model.services.iter().any(|service| service.name == *name) {
                    let hint = "`lb service list` shows them";
                    return Err(Failure::not_found(format!("there is no service {name}")).hint(hint));
                }
                let held = self.pins.maps.without_rules().map_err(internal)?;
                let id = held.services.iter().find(|(_, record)| name_of(&record.name) == name.as_str());
                Some(id.map(|(id, _)| *id).ok_or_else(|| {
                    Failure::conflict(format!("service {name} is not in the kernel yet")).hint("try again")
                })?)
            }
        };
        question.filter(service, self.pins.meta.hz).map_err(Failure::bad_input)
    }

    fn begin_tracing(&mut self) -> Result<()> {
        let tracer = Tracer::start(&self.pins.layout, self.clock, self.tracing.ended.clone())?;
        self.tracing.tracer = Some(tracer);
        let meta = self.pins.meta;
        let swapped = self.load(&meta, true).and_then(|programs| self.swap(programs));
        if swapped.is_err() {
            self.end_tracing();
        }
        swapped
    }

    /// One trace has ended; the last one takes the programs that report away.
    pub(super) fn trace_ended(&mut self) {
        self.tracing.open = self.tracing.open.saturating_sub(1);
        self.settle_tracing();
    }

    /// Takes them away, if nobody traces any more. What fails is tried again by the timer.
    pub(super) fn settle_tracing(&mut self) {
        if self.tracing.open == 0 && self.tracing.tracer.is_some() {
            self.end_tracing();
        }
    }

    /// Puts the ordinary programs back, and ends every trace.
    pub(super) fn end_tracing(&mut self) {
        let Some(tracer) = self.tracing.tracer.take() else { return };
        let meta = self.pins.meta;
        if let Err(error) = self.load(&meta, true).and_then(|programs| self.swap(programs)) {
            tracing::error!(
                "the program that reports to `lb trace` is still on an interface, and reports nothing: {error:#}; \
                 trying again"
            );
            self.tracing.tracer = Some(tracer);
        }
    }
}
