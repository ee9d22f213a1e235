//! How fast one receiver may be called: rates that its owner and itself set, how many calls at once, and not at all while
//! it is down. Both lanes of a webhook share it. Pure: time comes in.

use std::collections::VecDeque;
use std::time::Duration;

use super::attempt::Outcome;

/// Failures in a row at which a receiver counts as down.
const FAILURES_MAX: u32 = 10;
/// Longest wait between two calls that look whether it is up again.
const OPEN_MAX: Duration = Duration::from_secs(10 * 60);
const OPEN_DEFAULT: Duration = Duration::from_secs(5);
/// An answer that takes longer says that the receiver has more than it can do.
const SLOW_MS: i64 = 5_000;

/// The state of one receiver. Times are microseconds of a clock that never goes back.
pub(super) struct Pace {
    calls_max: usize,
    /// Calls at once that it seems to bear.
    limit: f64,
    /// Since it is up again the limit grows with each success, not with each round of them.
    is_slow_start: bool,
    /// Calls that started before tell nothing new.
    cut_at: i64,
    in_flight: usize,
    /// Its last answer said so, or took long.
    is_loaded: bool,
    rates: Vec<Window>,
    failures_in_row: u32,
    /// It asked for silence until then.
    silent_until: i64,
    breaker: Breaker,
    /// Times that it was found to be still down.
    still_down: u32,
    open_first: Duration,
    open_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaker {
    Closed,
    Open { until: i64 },
    Probing,
}

/// At most so many calls in any stretch of this length.
struct Window {
    max: usize,
    per: i64,
    started: VecDeque<i64>,
}

impl Window {
    fn free_at(&self) -> i64 {
        if self.started.len() < self.max { i64::MIN } else { self.started[self.started.len() - self.max] + self.per }
    }

    fn start(&mut self, now: i64) {
        self.started.push_back(now);
        while self.started.len() > self.max {
            self.started.pop_front();
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

impl Pace {
    /// `rates` are calls and the stretch that they may be made in. A receiver that is down is looked at after the first wait
    /// of its webhook's schedule, then ever less often.
    pub(super) fn new(calls_max: usize, rates: &[(u32, Duration)], schedule: &[Duration]) -> Self {
        let window = |(max, per): &(u32, Duration)| Window {
            max: usize::try_from(*max).unwrap_or(usize::MAX),
            per: micros(*per),
            started: VecDeque::new(),
        };
        let open_first = schedule.first().copied().unwrap_or(OPEN_DEFAULT).min(OPEN_MAX);
        Self {
            calls_max,
            limit: calls_max as f64,
            is_slow_start: false,
            cut_at: i64::MIN,
            in_flight: 0,
            is_loaded: false,
            rates: rates.iter().map(window).collect(),
            failures_in_row: 0,
            silent_until: i64::MIN,
            breaker: Breaker::Closed,
            still_down: 0,
            open_first,
            open_max: schedule.iter().copied().max().unwrap_or(OPEN_DEFAULT).min(OPEN_MAX).max(open_first),
        }
    }

    /// Whether a call may start now; a lane that has `own` calls in flight may be held to `own_max`.
    pub(super) fn may_start(&self, now: i64, own: usize, own_max: usize) -> bool {
        let is_up = match self.breaker {
            Breaker::Closed => true,
            Breaker::Open { until } => until <= now && self.in_flight == 0,
            Breaker::Probing => false,
        };
        // The limit is at least 1.
        is_up
            && own < own_max
            && self.in_flight < self.limit as usize
            && self.silent_until <= now
            && self.rates.iter().all(|window| window.free_at() <= now)
    }

    /// When something may start that may not now, unless a call ends before.
    pub(super) fn wakes_at(&self, now: i64) -> Option<i64> {
        let open = if let Breaker::Open { until } = self.breaker { until } else { i64::MIN };
        let free = self.rates.iter().map(Window::free_at).max().unwrap_or(i64::MIN);
        Some(open.max(free).max(self.silent_until)).filter(|at| *at > now)
    }

    pub(super) fn started(&mut self, now: i64) {
        self.in_flight += 1;
        if matches!(self.breaker, Breaker::Open { .. }) {
            self.breaker = Breaker::Probing;
        }
        for window in &mut self.rates {
            window.start(now);
        }
    }

    /// A call that was to start did not.
    pub(super) fn gave_back(&mut self, now: i64) {
        self.in_flight -= 1;
        if self.breaker == Breaker::Probing {
            self.breaker = Breaker::Open { until: now };
        }
        for window in &mut self.rates {
            window.started.pop_back();
        }
    }

    /// Takes what came of a call that started at `started`. `true`: the receiver is up again.
    pub(super) fn settled(&mut self, started: i64, outcome: &Outcome, now: i64) -> bool {
        self.in_flight -= 1;
        let is_loaded = matches!(outcome.status, Some(429 | 503))
            || outcome.error == Some("timeout")
            || outcome.duration_ms > SLOW_MS;
        self.is_loaded = is_loaded;
        if is_loaded && started > self.cut_at {
            (self.limit, self.is_slow_start, self.cut_at) = ((self.limit / 2.0).max(1.0), false, now);
        }
        if let (Some(429 | 503), Some(wait)) = (outcome.status, outcome.retry_after) {
            self.silent_until = self.silent_until.max(now.saturating_add(micros(wait)));
        }
        if outcome.error.is_some() {
            self.failures_in_row += 1;
            self.fail(now);
            return false;
        }
        self.failures_in_row = 0;
        let is_up_again = self.breaker != Breaker::Closed;
        if is_up_again {
            (self.breaker, self.still_down) = (Breaker::Closed, 0);
            (self.limit, self.is_slow_start) = (1.0, true);
        } else if !is_loaded {
            let more = if self.is_slow_start { 1.0 } else { 1.0 / self.limit };
            self.limit = (self.limit + more).min(self.calls_max as f64);
        }
        is_up_again
    }

    fn fail(&mut self, now: i64) {
        match self.breaker {
            Breaker::Closed if self.failures_in_row >= FAILURES_MAX => {
                self.breaker = Breaker::Open { until: now.saturating_add(micros(self.open_first)) };
            }
            Breaker::Probing => {
                self.still_down = (self.still_down + 1).min(20);
                let wait = self.open_first.saturating_mul(1 << self.still_down).min(self.open_max);
                self.breaker = Breaker::Open { until: now.saturating_add(micros(wait)) };
            }
            // Called before it counted as down.
            Breaker::Closed | Breaker::Open { .. } => {}
        }
    }

    /// It counts as down: nothing new is read for it.
    pub(super) fn is_down(&self, now: i64) -> bool {
        match self.breaker {
            Breaker::Closed => false,
            Breaker::Open { until } => until > now,
            Breaker::Probing => true,
        }
    }

    /// Its last call failed or took long: it may use less of what all webhooks share.
    pub(super) fn is_suspect(&self) -> bool {
        self.failures_in_row > 0 || self.is_loaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn pace(calls_max: usize, rates: &[(u32, Duration)]) -> Pace {
        Pace::new(calls_max, rates, &[Duration::from_secs(5), Duration::from_secs(3600)])
    }

    fn outcome(status: u16, error: Option<&'static str>, retry_after: Option<u64>) -> Outcome {
        let retry_after = retry_after.map(Duration::from_secs);
        Outcome { status: Some(status), error, retry_after, ..Outcome::default() }
    }

    fn call(pace: &mut Pace, now: i64, outcome: &Outcome) -> bool {
        assert!(pace.may_start(now, 0, 9), "at {now}");
        pace.started(now);
        pace.settled(now, outcome, now)
    }

    #[test]
    fn no_stretch_holds_more_calls_than_the_rate() {
        let mut pace = pace(8, &[(3, Duration::from_secs(60)), (100, Duration::from_secs(1))]);
        let good = outcome(200, None, None);
        for at in [0, 30, 59] {
            call(&mut pace, at * SECOND, &good);
        }
        assert!(!pace.may_start(59 * SECOND, 0, 9) && pace.wakes_at(59 * SECOND) == Some(60 * SECOND));
        call(&mut pace, 60 * SECOND, &good);
        assert!(!pace.may_start(89 * SECOND, 0, 9) && pace.may_start(90 * SECOND, 0, 9));
    }

    #[test]
    fn a_receiver_that_is_down_gets_one_call_at_a_time_ever_less_often() {
        let mut pace = pace(8, &[]);
        let (bad, good) = (outcome(500, Some("status"), None), outcome(200, None, None));
        for _ in 0..9 {
            call(&mut pace, 0, &bad);
        }
        assert!(!pace.is_down(0) && pace.is_suspect());
        call(&mut pace, 0, &bad);
        let mut now = 0;
        for wait in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
            assert_eq!(pace.wakes_at(now), Some(now + wait * SECOND));
            assert!(!pace.may_start(now + wait * SECOND - 1, 0, 9));
            now += wait * SECOND;
            assert!(pace.may_start(now, 0, 9));
            pace.started(now);
            assert!(!pace.may_start(now, 0, 9), "one at a time");
            assert!(!pace.settled(now, &bad, now));
        }
        now += 600 * SECOND;
        assert!(call(&mut pace, now, &good), "up again");
        assert!(!pace.is_down(now) && !pace.is_suspect());
        // And gets more only as it bears it.
        pace.started(now);
        assert!(!pace.may_start(now, 0, 9));
        pace.settled(now, &good, now);
        pace.started(now);
        assert!(pace.may_start(now, 0, 9));
    }

    #[test]
    fn a_call_that_did_not_start_looks_again() {
        let mut pace = pace(1, &[]);
        for _ in 0..10 {
            call(&mut pace, 0, &outcome(500, Some("status"), None));
        }
        pace.started(5 * SECOND);
        pace.gave_back(5 * SECOND);
        assert!(pace.may_start(5 * SECOND, 0, 9));
    }

    #[test]
    fn overload_halves_the_calls_at_once_and_silence_is_kept() {
        let mut pace = pace(8, &[]);
        for _ in 0..4 {
            pace.started(1);
        }
        for _ in 0..4 {
            pace.settled(1, &outcome(429, Some("status"), None), 2);
        }
        for _ in 0..4 {
            assert!(pace.may_start(3, 0, 9));
            pace.started(3);
        }
        assert!(!pace.may_start(3, 0, 9), "halved once by calls of one time");
        pace.settled(3, &outcome(503, Some("status"), Some(7)), 3);
        assert!(
            !pace.may_start(3 + 7 * SECOND - 1, 0, 9) && pace.may_start(3 + 7 * SECOND, 0, 9) == (pace.in_flight < 2)
        );
        for _ in 0..3 {
            pace.settled(3, &outcome(200, None, None), 4);
        }
        assert!(pace.may_start(3 + 7 * SECOND, 0, 9));
        assert!(!pace.may_start(3 + 7 * SECOND, 1, 1), "a lane may have a limit of its own");
    }
}
