//! Questions that servers have not answered in time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tokio::task::JoinHandle;

use crate::{
    health::Probe,
    model::{BackendKey, ServiceName},
};

/// While a replica has no room for its relay log, whoever asks about its replication waits in the server, also who has
/// hung up long since: one more of them with each attempt, until it lets nobody in (error 1040). So the session that waits
/// is kept, and nobody else asks so long.
#[derive(Debug, Default)]
pub struct Unanswered(Mutex<BTreeMap<Asked, JoinHandle<()>>>);

/// Who was asked, by whom, and which way: on the backend's own address or through a VIP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    service: ServiceName,
    backend: BackendKey,
    target: SocketAddr,
}

impl Unanswered {
    /// Whether there is still no answer to the last question. The connection may have broken: then there will be none,
    /// and it can be asked anew.
    pub fn waits(&self, asked: &Asked) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(asked).is_some_and(|it| !it.is_finished())
    }

    /// Nobody asks anew until `waiting` ends: with the answer, or without one, or with its thread.
    pub fn wait(&self, asked: Asked, waiting: JoinHandle<()>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, it| !it.is_finished());
        all.insert(asked, waiting);
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).values().for_each(JoinHandle::abort);
    }
}

impl Asked {
    pub fn by(probe: &Probe) -> Self {
        Self { service: probe.service.clone(), backend: probe.backend, target: probe.target }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{spawn, sync::oneshot, task::yield_now};

    use super::*;
    use crate::{checks::tests::probe, model::check::CheckKind};

    #[tokio::test]
    async fn one_question_waits_of_each_way_until_it_is_answered() {
        let own = probe(CheckKind::Tcp, 3306);
        let vip = Probe { target: "192.0.2.1:3306".parse().expect("an address"), ..own.clone() };
        let other = Probe { backend: "127.0.0.2:3306".parse().expect("a key"), ..vip.clone() };
        let [own, vip, other] = [own, vip, other].map(|probe| Asked::by(&probe));
        let unanswered = Unanswered::default();
        assert!(!unanswered.waits(&own));
        let (answer, is_there) = oneshot::channel();
        unanswered.wait(own.clone(), spawn(async { is_there.await.expect("it is sent") }));
        yield_now().await;
        assert!(unanswered.waits(&own) && !unanswered.waits(&vip));
        unanswered.wait(vip.clone(), spawn(pending()));
        assert!(unanswered.waits(&own) && unanswered.waits(&vip) && !unanswered.waits(&other));
        answer.send(()).expect("it waits");
        yield_now().await;
        assert!(!unanswered.waits(&own) && unanswered.waits(&vip));
        // What is over is not kept.
        unanswered.wait(other, spawn(pending()));
        assert_eq!(unanswered.0.lock().expect("no panic").len(), 2);
    }

    #[tokio::test]
    async fn with_those_who_would_ask_anew_the_sessions_end_too() {
        let (held, is_held) = oneshot::channel::<()>();
        let unanswered = Unanswered::default();
        let waiting = spawn(async {
            pending::<()>().await;
            drop(held);
        });
        unanswered.wait(Asked::by(&probe(CheckKind::Tcp, 3306)), waiting);
        drop(unanswered);
        assert!(is_held.await.is_err());
    }

    #[test]
    fn what_waited_on_a_thread_that_has_ended_holds_up_nobody() {
        let unanswered = Unanswered::default();
        let asked = Asked::by(&probe(CheckKind::Tcp, 3306));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async { unanswered.wait(asked.clone(), spawn(pending())) });
        assert!(unanswered.waits(&asked));
        drop(runtime);
        assert!(!unanswered.waits(&asked));
    }
}
