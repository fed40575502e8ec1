//! How long to wait before the next request. Pure: time and chance are arguments.

use std::time::Duration;

use crate::clock::Moment;

/// The longest wait that we choose on our own.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest wait that a homeserver's `Retry-After` can make us keep.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);
/// The shortest wait after a failure, whatever chance says.
const SHORTEST: Duration = Duration::from_millis(100);
/// How long a catching-up request is repeated quickly.
const QUICK_MILLIS: i64 = 10 * 60 * 1000;

/// Answers without news that follow one another faster than this are suspicious.
const QUICK_ANSWER_MILLIS: i64 = 200;
/// So many of them in a row (about ten seconds) are a loop.
const QUICK_ANSWERS: u32 = 50;

/// What kind of request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A first or `timeout=0` request. Repeated quickly, as the homeserver may hold or still compute the answer to the
    /// identical request; Synapse gives that up after two minutes without anybody asking.
    CatchUp,
    /// A long poll. Spread widely, as all of them fail in the same instant when the homeserver restarts.
    LongPoll,
}

/// Waits between failures of one poller.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    slow_failures: u32,
    since: Option<Moment>,
}

impl Backoff {
    /// Returns how long to wait before the failed request is repeated. `random` is in `0.0..1.0`; `retry_after` is what
    /// the homeserver asked for, which is kept up to an hour.
    pub fn failed(&mut self, pace: Pace, now: Moment, retry_after: Option<Duration>, random: f64) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.failures = self.failures.saturating_add(1);
        let delay = match pace {
            Pace::CatchUp if now.0.saturating_sub(since.0) < QUICK_MILLIS => {
                Duration::from_secs(if self.failures == 1 { 1 } else { 3 })
            }
            Pace::CatchUp => {
                self.slow_failures = self.slow_failures.saturating_add(1);
                exponential(Duration::from_secs(3), self.slow_failures)
            }
            Pace::LongPoll => exponential(Duration::from_secs(1), self.failures - 1).mul_f64(random.clamp(0.0, 1.0)),
        };
        let asked = retry_after.unwrap_or_default().min(LONGEST_ASKED);
        delay.max(asked).max(SHORTEST)
    }

    /// Forgets the failures.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Returns the number of failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// `base` doubled `times` times, up to [`LONGEST`].
fn exponential(base: Duration, times: u32) -> Duration {
    let factor = 1_u32.checked_shl(times).filter(|_| times < 16).unwrap_or(u32::MAX);
    base.saturating_mul(factor).min(LONGEST)
}

/// Slows a poller down whose homeserver answers without end and without news.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    repeats: u32,
    quick: u32,
    previous: Option<Moment>,
}

impl Throttle {
    /// Returns how long to wait before the next request. `is_empty` says whether the response brought anything at all.
    ///
    /// Synapse has been seen to repeat a response with content and an unchanged `next_batch` in a tight loop; others
    /// answer long polls at once.
    pub fn answered(&mut self, now: Moment, since: Option<&str>, next_batch: &str, is_empty: bool) -> Duration {
        let stands_still = since == Some(next_batch);
        let gap = self
            .previous
            .map_or(i64::MAX, |previous| now.0.saturating_sub(previous.0));
        let is_quick = gap < QUICK_ANSWER_MILLIS && (stands_still || is_empty);
        self.repeats = if stands_still && !is_empty { self.repeats + 1 } else { 0 };
        self.quick = if is_quick { self.quick.saturating_add(1) } else { 0 };
        let steps = self.repeats.max(self.quick.saturating_sub(QUICK_ANSWERS));
        let delay = if steps == 0 {
            Duration::ZERO
        } else {
            exponential(Duration::from_millis(500), steps - 1).min(Duration::from_secs(5))
        };
        // Our own wait must not make the next answer look slow.
        let waited = i64::try_from(delay.as_millis()).unwrap_or(0);
        self.previous = Some(Moment(now.0.saturating_add(waited)));
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn catching_up_is_quick_for_ten_minutes_and_then_slows_down() {
        let mut backoff = Backoff::default();
        let mut at = |secs: i64| backoff.failed(Pace::CatchUp, Moment(secs * 1000), None, 0.5);
        assert_eq!(at(0), seconds(1));
        assert_eq!(at(1), seconds(3));
        assert_eq!(at(599), seconds(3));
        assert_eq!(
            [at(600), at(606), at(618), at(642), at(690)],
            [6, 12, 24, 48, 60].map(seconds)
        );
        assert_eq!(at(100_000), seconds(60));
        backoff.succeeded();
        assert_eq!(backoff.failed(Pace::CatchUp, Moment(0), None, 0.5), seconds(1));
    }

    #[test]
    fn long_polls_spread() {
        let mut backoff = Backoff::default();
        let mut next = |random| backoff.failed(Pace::LongPoll, Moment(0), None, random);
        assert_eq!(next(0.0), SHORTEST);
        assert_eq!(next(0.5), seconds(1));
        assert_eq!(next(0.25), seconds(1));
        for _ in 0..200 {
            assert!(next(0.999) <= seconds(60));
        }
        assert_eq!(next(0.5), seconds(30));
        assert_eq!(backoff.failures(), 204);
    }

    #[test]
    fn the_homeserver_may_ask_for_more_but_not_for_less() {
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.failed(Pace::CatchUp, Moment(0), Some(seconds(20)), 0.5),
            seconds(20)
        );
        assert_eq!(
            backoff.failed(Pace::CatchUp, Moment(0), Some(seconds(1)), 0.5),
            seconds(3)
        );
        assert_eq!(
            backoff.failed(Pace::LongPoll, Moment(0), Some(seconds(1 << 40)), 0.5),
            seconds(3600)
        );
    }

    #[test]
    fn repeated_content_is_slowed_down() {
        let mut throttle = Throttle::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..6 {
            let delay = throttle.answered(Moment(now), Some("s1"), "s1", false);
            now += 10 + delay.as_millis() as i64;
            delays.push(delay.as_millis());
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(throttle.answered(Moment(now), Some("s1"), "s2", false), Duration::ZERO);
    }

    #[test]
    fn empty_answers_without_end_are_slowed_down_and_news_never() {
        let mut throttle = Throttle::default();
        let mut now = 0;
        let mut slowed = 0;
        for n in 0..100 {
            let delay = throttle.answered(Moment(now), Some(&format!("s{n}")), &format!("s{}", n + 1), true);
            now += 10 + delay.as_millis() as i64;
            slowed += u32::from(!delay.is_zero());
        }
        assert_eq!(slowed, 49);
        for n in 0..100 {
            now += 10;
            let next = format!("t{n}");
            assert!(throttle.answered(Moment(now), Some("x"), &next, false).is_zero());
        }
    }
}
