//! Time limits of attempts.

use std::{pin::pin, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use super::step::Step;
use crate::health::Probe;

/// A timer that rings so much later than it should was not heard: this process had no CPU, or other work. Timers have
/// a resolution of a millisecond.
pub(super) const UNHEARD: Duration = Duration::from_millis(10);

/// What comes of a whole attempt: until [`Step::until`], also where that is put off meanwhile.
pub async fn whole<T>(step: &Step, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut until = step.until();
    loop {
        if let Ok(done) = timeout_at(until, &mut work).await {
            return Some(done);
        }
        let put_off = step.until();
        if put_off == until {
            return None;
        }
        until = put_off;
    }
}

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

/// What comes of a part of an attempt within `limit`. Time is given back as by [`within`], but no more than half of what is
/// left of the attempt, with what it gets back itself: who is silent in a part has a result all the same.
pub async fn part<T>(step: &Step, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let until = Instant::now() + limit;
    if let Ok(done) = timeout_at(until, &mut work).await {
        return Some(done);
    }
    let (late, left) = (Instant::now() - until, step.left());
    if late < UNHEARD || left < UNHEARD {
        return None;
    }
    timeout(late.min(limit).min(left / 2), work).await.ok()
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
        assert_eq!(whole(&step, inner).await, Some(None));
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
            assert_eq!(whole(&step, work).await, Some(()), "known after {known_after} ms");
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

    /// One and a half seconds, of which the last question may take half a second; and nobody looks for so long.
    async fn asks_last(unseen: Duration) -> (Sender<()>, JoinHandle<Option<Option<()>>>) {
        let (sender, receiver) = channel();
        let step = Step::begin(&Probe { timeout: SECOND * 3 / 2, ..probe(CheckKind::Tcp, 80) });
        let asks = tokio::spawn(async move {
            let answer = async { receiver.await.expect("it is sent") };
            whole(&step, part(&step, SECOND / 2, answer)).await
        });
        yield_now().await;
        advance(unseen).await;
        yield_now().await;
        (sender, asks)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_the_last_question_that_nobody_looked_for_is_there() {
        for unseen in [SECOND, 3 * SECOND] {
            let (sender, asks) = asks_last(unseen).await;
            sender.send(()).expect("it waits");
            assert_eq!(asks.await.expect("no panic"), Some(Some(())), "after {unseen:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_the_last_question_has_a_result_before_the_attempt_is_over() {
        for unseen in [0, 400, 505, 1000, 1490, 1499, 1500, 1505, 3000].map(Duration::from_millis) {
            let (_sender, asks) = asks_last(unseen).await;
            assert_eq!(asks.await.expect("no panic"), Some(None), "after {unseen:?}");
        }
    }

    /// One and a half seconds; a first answer takes that long to be seen, or longer, and then a last one is asked for, or a
    /// connection begun.
    async fn goes_on<T>(
        unseen: Duration,
        after: Duration,
        last: impl AsyncFnOnce(&Probe, &Step) -> T,
    ) -> Option<T> {
        let probe = Probe { timeout: SECOND * 3 / 2, ..probe(CheckKind::Tcp, 80) };
        let step = Step::begin(&probe);
        let (sender, receiver) = channel();
        let work = async {
            receiver.await.expect("it is sent");
            sleep(after).await;
            last(&probe, &step).await
        };
        let mut attempt = Box::pin(whole(&step, work));
        assert!(futures::poll!(&mut attempt).is_pending());
        advance(unseen).await;
        sender.send(()).expect("it waits");
        attempt.await
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_begun_when_time_was_given_back_has_a_part_of_it() {
        for (unseen, after) in [(1600, 0), (3000, 0), (3000, 200), (3000, 1000), (9000, 1400)] {
            let [unseen, after] = [unseen, after].map(Duration::from_millis);
            let soon = Duration::from_millis(10);
            let asked = goes_on(unseen, after, async |probe: &Probe, step: &Step| {
                part(step, (probe.timeout / 2).min(step.left() / 2), sleep(soon)).await
            });
            assert_eq!(asked.await, Some(Some(())), "{unseen:?}, {after:?}");
            let connected = goes_on(unseen, after, async |probe: &Probe, step: &Step| {
                within(step.connected_by(probe), sleep(soon)).await
            });
            assert_eq!(connected.await, Some(Some(())), "{unseen:?}, {after:?}");
        }
    }

    /// Who is silent then is told of as whoever is silent in time.
    #[tokio::test(start_paused = true)]
    async fn who_is_silent_when_time_was_given_back_says_so_before_the_attempt_is_over() {
        for (unseen, after) in [(1600, 0), (3000, 0), (3000, 200), (3000, 1000), (9000, 1400)] {
            let [unseen, after] = [unseen, after].map(Duration::from_millis);
            let asked = goes_on(unseen, after, async |probe: &Probe, step: &Step| {
                part(step, (probe.timeout / 2).min(step.left() / 2), pending::<()>()).await
            });
            assert_eq!(asked.await, Some(None), "{unseen:?}, {after:?}");
            let connected = goes_on(unseen, after, async |probe: &Probe, step: &Step| {
                within(step.connected_by(probe), pending::<()>()).await
            });
            assert_eq!(connected.await, Some(None), "{unseen:?}, {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_given_back_once_and_no_more_than_there_was() {
        let step = Step::begin(&Probe { timeout: SECOND, ..probe(CheckKind::Tcp, 80) });
        advance(SECOND).await;
        assert_eq!(step.left(), Duration::ZERO);
        advance(SECOND / 2).await;
        assert_eq!(step.left(), SECOND / 2);
        advance(SECOND / 4).await;
        assert_eq!(step.left(), SECOND / 4);
        advance(9 * SECOND).await;
        assert_eq!(step.left(), Duration::ZERO);
        let step = Step::begin(&Probe { timeout: SECOND, ..probe(CheckKind::Tcp, 80) });
        advance(9 * SECOND).await;
        assert_eq!(step.left(), SECOND);
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
