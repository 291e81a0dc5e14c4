//! Each check of a real server whose answer is cut, reset, held back or slowed down after every single byte of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use lb::{
    health::{Failure, Outcome, Pass, Probe, Weight},
    model::check::CheckKind,
};
use lb_tests::{
    lab::Lab,
    proxy::{Fault, Port, Proxy},
    wait::PATIENCE,
};

/// So many attempts are under way at once: those that hang take their time, and nothing else.
const AT_ONCE: usize = 200;

/// For what is to hang until it is over: long enough for a busy machine to come as far as it is let.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Of a healthy server.
const LONG: Duration = Duration::from_secs(20);

/// An answer is closed after every byte of it; the other faults are tried at so many points or all of fewer.
const SAMPLE: usize = 200;

/// Where what a check needs ends in an answer, if all of it is there.
pub type End = fn(&[u8]) -> Option<usize>;

/// A conversation, and what has to be true of it.
pub struct Conversation<'a> {
    /// For people.
    pub what: &'a str,
    pub kind: CheckKind,
    /// Port of the server, on the first backend.
    pub port: u16,
    /// What the check finds if nothing is wrong, or the begin of it.
    pub finds: &'a str,
    /// How the reasons begin that are met one after another, as more and more of the answer comes.
    pub steps: &'a [&'a str],
    /// How many bytes of this answer the check needs; none: it cannot be read (TLS).
    pub needs: Option<End>,
    /// One point in so many is tried where each takes CPU; then `needs` has to be known.
    pub every: usize,
    /// Its answers are up to so many bytes longer or shorter than each other.
    pub jitter: usize,
    /// Bytes of such an answer each of which has to be what it is: with another one there the check has to fail.
    pub decisive: fn(&[u8]) -> Vec<usize>,
    /// A reset behind all that it needs is held against the server, if its library does not read first: it may be.
    pub reset_may_fail: bool,
}

/// Ways to the server.
struct Bench<'lab> {
    lab: &'lab Lab,
    ports: Mutex<Vec<Port>>,
    _proxy: Proxy,
}

impl<'lab> Bench<'lab> {
    fn start(lab: &'lab Lab, server: u16, ports: usize) -> Result<Self> {
        let (proxy, ports) = Proxy::start(&lab.net.backends[0], server, ports)?;
        Ok(Self { lab, ports: Mutex::new(ports), _proxy: proxy })
    }
}

/// What came of one attempt.
struct Tried {
    fault: Fault,
    outcome: Outcome,
    bytes: Vec<u8>,
}

impl Conversation<'_> {
    /// Tries all of it.
    pub fn holds(&self, lab: &Lab) -> Result<()> {
        let bench = Bench::start(lab, self.port, AT_ONCE)?;
        self.try_all(&bench).with_context(|| self.what.to_owned())
    }

    /// What comes of a server that first is slow: it takes `share` of the time for what is behind `at` bytes. After
    /// `hangs` bytes it hangs.
    pub fn slow_and_hanging(&self, lab: &Lab, at: usize, share: f64, hangs: usize) -> Result<Outcome> {
        let bench = Bench::start(lab, self.port, 1)?;
        // What is left has to do for the rest of a login, also if the machine stands still meanwhile.
        let timeout = TIMEOUT * 3;
        let fault = Fault::Pauses { at, pause: timeout.mul_f64(share), hangs };
        Ok(self.one(&bench, fault, timeout)?.outcome)
    }

    /// What a healthy server says.
    pub fn whole(&self, lab: &Lab) -> Result<Vec<u8>> {
        let bench = Bench::start(lab, self.port, 1)?;
        Ok(self.one(&bench, Fault::None, LONG)?.bytes)
    }

    /// What comes of so many attempts at once, with a server that hangs after so many bytes.
    pub fn hanging(&self, lab: &Lab, after: usize, times: usize) -> Result<Vec<Outcome>> {
        let bench = Bench::start(lab, self.port, times)?;
        let tried = self.each(&bench, &vec![Fault::Hangs(after); times], TIMEOUT)?;
        Ok(tried.into_iter().map(|tried| tried.outcome).collect())
    }

    fn try_all(&self, bench: &Bench<'_>) -> Result<()> {
        let whole = self.one(bench, Fault::None, LONG)?;
        self.passes(&whole)?;
        let length = whole.bytes.len() + self.jitter;
        let ends = self.needs.map(|find| find(&whole.bytes).context("the answer has no end")).transpose()?;
        let closes =
            (0..=length).filter(|at| at % self.every == 0 || ends.is_some_and(|end| at.abs_diff(end) < 4));
        let closes = self.each(bench, &closes.map(Fault::Closes).collect::<Vec<_>>(), LONG)?;
        let first = closes.iter().find(|tried| self.passes(tried).is_ok()).context("it never passes")?;
        let Fault::Closes(needs) = first.fault else { bail!("all are closed") };
        if let Some(ends) = ends {
            ensure!(needs == ends, "it needs {needs} bytes of {length}, and the answer ends after {ends}");
        }
        let steps = self.is_sharp(&closes, needs)?;
        ensure!(self.is_in_order(&steps), "one step after the other: {steps:?}");
        let met: BTreeMap<_, _> = steps.iter().map(|(at, step)| (*step, *at)).collect();
        ensure!(met.len() == self.steps.len(), "not every step was met, but {met:?}");
        let every = needs.div_ceil(SAMPLE).max(self.every);
        let sample: BTreeSet<_> = (0..needs).step_by(every).collect();
        let around = [needs - self.jitter - 1, needs + self.jitter, length];
        let resets: Vec<_> = sample.iter().copied().chain(around).map(Fault::Resets).collect();
        self.is_sharp(&self.each(bench, &resets, LONG)?, needs)?;
        let hangs: Vec<_> = sample.iter().copied().chain([around[0]]).map(Fault::Hangs).collect();
        self.is_sharp(&self.each(bench, &hangs, TIMEOUT)?, needs)?;
        // By themselves, where the timeout finds all of them as far as they are let, also on a busy machine: at the last
        // point of each step.
        let lasts: Vec<_> = met.values().copied().map(Fault::Hangs).collect();
        let lasts = self.is_sharp(&self.each(bench, &lasts, TIMEOUT * 2)?, needs)?;
        // Where answers are of several lengths, nobody knows at which step the next one is there.
        let is_met = self.jitter > 0 || lasts.iter().map(|(_, step)| step).eq(met.keys());
        ensure!(is_met, "hangs: {lasts:?} instead of {met:?}");
        for tried in
            self.each(bench, &around[1..].iter().copied().map(Fault::Hangs).collect::<Vec<_>>(), LONG)?
        {
            self.passes(&tried)?;
        }
        // What a server may say besides, of how we end, makes the whole of it longer.
        self.is_slow(bench, needs + self.jitter)?;
        let is_needed = |at: &usize| at + self.jitter < needs;
        let decisive: Vec<_> = (self.decisive)(&whole.bytes).into_iter().filter(is_needed).collect();
        let some = decisive.iter().copied().step_by(decisive.len().div_ceil(SAMPLE).max(1));
        let lies: Vec<_> = sample.into_iter().filter(is_needed).chain(some).map(Fault::Lies).collect();
        self.is_honest(&self.each(bench, &lies, TIMEOUT)?)
    }

    /// Whether each lie that matters has been seen, and there were some.
    fn is_honest(&self, tried: &[Tried]) -> Result<()> {
        let mut seen = 0;
        for tried in tried {
            let Fault::Lies(at) = tried.fault else { continue };
            // As the server had said it.
            let mut answer = tried.bytes.clone();
            if let Some(byte) = answer.get_mut(at) {
                *byte = !*byte;
            }
            if (self.decisive)(&answer).contains(&at) {
                self.fails(tried)?;
                seen += 1;
            }
        }
        ensure!(seen > 0, "no lie of {} mattered", tried.len());
        Ok(())
    }

    /// Slow is no failure, and too slow is one, though something comes all the time.
    fn is_slow(&self, bench: &Bench<'_>, length: usize) -> Result<()> {
        let piece = length / 100 + 1;
        let slow = self.one(bench, Fault::Drips(piece, Duration::from_millis(10)), LONG)?;
        self.passes(&slow)?;
        // Four times what it has at least: the time in which nobody looked is given back once. With many pieces far longer:
        // a check that had no CPU until all of them are there passes, and rightly so.
        let (has, pieces) = (Duration::from_millis(500), length.div_ceil(piece).min(100));
        let pause = (has * 4 / u32::try_from(pieces)?).max(has / 2);
        let late = self.one(bench, Fault::Drips(piece, pause), has)?;
        let why = self.fails(&late)?;
        ensure!(why.ends_with("no answer"), "too slow: {why}");
        Ok(())
    }

    /// Whether no step comes back, but where answers of other lengths may have been cut.
    fn is_in_order(&self, steps: &[(usize, usize)]) -> bool {
        steps.iter().enumerate().all(|(number, (at, step))| {
            let later = &steps[number + 1..];
            later.iter().all(|(other, next)| step <= next || other - at <= 2 * self.jitter)
        })
    }

    /// Fails below `needs`, and passes from there on. At which step after how many bytes.
    fn is_sharp(&self, tried: &[Tried], needs: usize) -> Result<Vec<(usize, usize)>> {
        let mut steps = Vec::new();
        for tried in tried {
            let (Fault::Closes(at) | Fault::Resets(at) | Fault::Hangs(at)) = tried.fault else { continue };
            let is_reset = matches!(tried.fault, Fault::Resets(_));
            if at >= needs + self.jitter {
                if !(is_reset && self.reset_may_fail) {
                    self.passes(tried)?;
                }
                continue;
            }
            if at + self.jitter >= needs && self.jitter > 0 {
                continue;
            }
            let why = self.fails(tried)?;
            // It may be there before anybody sees that the connection is.
            if is_reset && why == "connection reset by peer" {
                continue;
            }
            let of = self.steps.iter().enumerate().filter(|(_, step)| why.starts_with(**step));
            let step = of.max_by_key(|(_, step)| step.len()).map(|(at, _)| at);
            steps.push((at, step.with_context(|| format!("{:?} of {needs}: {why}", tried.fault))?));
        }
        Ok(steps)
    }

    fn passes(&self, tried: &Tried) -> Result<()> {
        let Tried { fault, outcome, .. } = tried;
        let is = outcome.result.as_ref().is_ok_and(|Pass { found, weight }| {
            found.starts_with(self.finds) && *weight == Weight::Configured
        });
        ensure!(is, "{fault:?}: {outcome:?} instead of {}", self.finds);
        Ok(())
    }

    fn fails<'a>(&self, tried: &'a Tried) -> Result<&'a str> {
        match &tried.outcome.result {
            Err(Failure { why }) => Ok(why),
            // It lags as far as anybody knows.
            Ok(Pass { found, weight: Weight::Lagging { lag: None, .. } }) => Ok(found),
            Ok(pass) => bail!("{:?}: it passes ({pass:?})", tried.fault),
        }
    }

    fn one(&self, bench: &Bench<'_>, fault: Fault, timeout: Duration) -> Result<Tried> {
        let mut all = self.each(bench, &[fault], timeout)?;
        all.pop().context("there is one")
    }

    /// In the order of the faults.
    fn each(&self, bench: &Bench<'_>, faults: &[Fault], timeout: Duration) -> Result<Vec<Tried>> {
        bench.lab.net.director.netns.enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let tried = stream::iter(faults).map(|fault| self.attempt(bench, *fault, timeout));
            runtime.block_on(tried.buffered(AT_ONCE / self.every).try_collect())
        })?
    }

    async fn attempt(&self, bench: &Bench<'_>, fault: Fault, timeout: Duration) -> Result<Tried> {
        let port = bench.ports.lock().map(|mut ports| ports.pop());
        let mut port = port.ok().flatten().context("as many ports as attempts")?;
        port.set(fault);
        let outcome = lb::checks::once(&probe(&self.kind, port.at, timeout)).await;
        let bytes = port.passed().await?.bytes;
        if let Ok(mut ports) = bench.ports.lock() {
            ports.push(port);
        }
        if let Err(Failure { why }) = &outcome.result {
            ensure!(!why.contains("cannot be understood"), "{fault:?}: a panic");
        }
        // What is not looked at for a time is looked at once more (`within` in lb-userspace/src/checks/limit.rs).
        ensure!(outcome.took < timeout + PATIENCE, "{fault:?}: it has no end: {outcome:?}");
        Ok(Tried { fault, outcome, bytes })
    }
}

/// An attempt at a server on its own address.
pub fn probe(kind: &CheckKind, target: SocketAddr, timeout: Duration) -> Probe {
    Probe {
        service: "web".parse().expect("a name"),
        backend: target.to_string().parse().expect("a key"),
        kind: kind.clone(),
        target,
        source: None,
        interface: None,
        via_vip: false,
        way: None,
        connect_timeout: timeout,
        timeout,
    }
}

/// Where these words are in an answer, as far as it has come.
pub fn bytes_of(answer: &[u8], words: &[&[u8]]) -> Vec<usize> {
    let range = |words: &&[u8]| end_of(answer, words).map(|end| end - words.len()..end);
    words.iter().filter_map(range).flatten().collect()
}

/// What is sealed in the TLS records from so many bytes on (RFC 8446 section 5.1): all but the version's last byte, which
/// nobody looks at.
pub fn bytes_of_records(answer: &[u8], from: usize) -> Vec<usize> {
    let (mut at, mut bytes) = (from, Vec::new());
    while let Some(&[_, _, _, high, low]) = answer.get(at..at + 5) {
        let end = at + 5 + usize::from(u16::from_be_bytes([high, low]));
        bytes.extend((at..end).filter(|byte| *byte != at + 2));
        at = end;
    }
    bytes
}

/// The end of these words in an answer.
pub fn end_of(answer: &[u8], words: &[u8]) -> Option<usize> {
    answer.windows(words.len()).position(|window| window == words).map(|at| at + words.len())
}
