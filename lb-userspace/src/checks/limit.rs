//! Time limits of attempts.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::step::Step;
use crate::health::Probe;

/// A timer that rings so much later than it should was not heard: this process had no CPU, or other work. Timers have
/// a resolution of a millisecond.
const UNHEARD: Duration = Duration::from_millis(10);

/// What comes of `work` before `until`. The time in which we did not look is given back, once: that nobody read an answer
/// is no failure of who gave it. Of two, one in the other, that end at the same time the inner one ends first.
pub async fn within<T>(until: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let limit = until - Instant::now();
    if let Ok(done) = timeout_at(until, &mut work).await {
        return Some(done);
    }
    let late = Instant::now() - until;
    if late < UNHEARD {
        return None;
    }
    timeout_at(Instant::now() + late.min(limit), &mut work).await.ok()
}

/// The orderly end of a conversation, whose result is known already: who is slow with it is not waited for, least of all
/// until the attempt itself is over.
pub async fn farewell<T>(probe: &Probe, step: &Step, end: impl Future<Output = T>) {
    let _ = timeout((probe.timeout / 8).min(step.left() / 2), end).await;
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        sync::oneshot::{Sender, channel},
        task::{JoinHandle, yield_now},
        time::{advance, sleep},
    };

    use super::*;
    use crate::{checks::tests::probe, model::check::CheckKind};

    const SECOND: Duration = Duration::from_secs(1);

    /// Waits a second at most for what is to be sent.
    async fn waiting() -> (Sender<()>, JoinHandle<Option<()>>) {
        let (sender, receiver) = channel();
        let waits =
            tokio::spawn(within(Instant::now() + SECOND, async { receiver.await.expect("it is sent") }));
        yield_now().await;
        (sender, waits)
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_has_its_limit_and_not_more() {
        let (_sender, waits) = waiting().await;
        let began = Instant::now();
        assert_eq!(waits.await.expect("no panic"), None);
        assert_eq!(Instant::now() - began, SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_that_end_together_the_inner_one_says_why() {
        let step = Step::begin(&Probe { timeout: SECOND, ..probe(CheckKind::Tcp, 80) });
        let inner = async {
            sleep(Duration::from_millis(10)).await;
            within(step.until(), pending::<()>()).await
        };
        assert_eq!(within(step.until(), inner).await, Some(None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_farewell_is_not_waited_for_until_the_result_is_lost() {
        let probe = Probe { timeout: SECOND, ..probe(CheckKind::Tcp, 80) };
        for known_after in [0, 500, 900, 990] {
            let step = Step::begin(&probe);
            let work = async {
                sleep(Duration::from_millis(known_after)).await;
                farewell(&probe, &step, pending::<()>()).await;
            };
            assert_eq!(within(step.until(), work).await, Some(()), "known after {known_after} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_looked_for_is_no_failure() {
        let (sender, waits) = waiting().await;
        // This process had no CPU for so long.
        advance(3 * SECOND).await;
        yield_now().await;
        assert!(!waits.is_finished());
        sender.send(()).expect("it waits");
        assert_eq!(waits.await.expect("no panic"), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_director_finds_a_dead_backend_all_the_same() {
        let (_sender, waits) = waiting().await;
        for _ in 0..2 {
            advance(3 * SECOND).await;
            yield_now().await;
        }
        assert_eq!(waits.await.expect("no panic"), None);
    }
}
