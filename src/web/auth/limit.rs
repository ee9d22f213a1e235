//! How often something may happen: requests of a client, and log-ins that fail. All of it in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use crate::runtime::parse_duration;

/// More would be no limit.
const RATE_MAX: u32 = 100_000;
const PER_MAX: Duration = Duration::from_secs(86_400);
/// Addresses, or names, that are remembered; the least recent half is forgotten when there are more.
const REMEMBERED_MAX: usize = 10_000;

/// `rate` of a client: so many requests in such a stretch, all of them at once if it likes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub max: u32,
    pub per: String,
}

impl Rate {
    /// # Errors
    /// A sentence that says what can be written.
    pub(super) fn pace(&self) -> Result<Pace, String> {
        let per = parse_duration(&self.per).filter(|per| (Duration::from_secs(1)..=PER_MAX).contains(per));
        match per.filter(|_| (1..=RATE_MAX).contains(&self.max)) {
            Some(per) => {
                let allowance = Allowance { burst: self.max, every: per / self.max };
                Ok(Pace { allowance, full_at: Mutex::new(Instant::now()) })
            }
            None => {
                Err("`rate` must be such as { max = 600, per = \"60s\" }: 1 to 100000 requests, per 1s to 24h".into())
            }
        }
    }
}

/// So many at once, and then one every so often: a bucket that fills steadily.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    pub(super) burst: u32,
    pub(super) every: Duration,
}

impl Allowance {
    /// When the bucket is full again after one more is taken now, or how long to wait for that one.
    fn take(self, full_at: Instant, now: Instant) -> Result<Instant, Duration> {
        let next = full_at.max(now) + self.every;
        match next.duration_since(now).checked_sub(self.every * self.burst) {
            None | Some(Duration::ZERO) => Ok(next),
            Some(wait) => Err(wait),
        }
    }
}

/// The requests of one client.
#[derive(Debug)]
pub(super) struct Pace {
    allowance: Allowance,
    full_at: Mutex<Instant>,
}

impl Pace {
    /// # Errors
    /// How long to wait.
    pub(super) fn take(&self) -> Result<(), Duration> {
        let mut full_at = self.full_at.lock().expect("nothing panics while it holds this lock");
        *full_at = self.allowance.take(*full_at, Instant::now())?;
        Ok(())
    }
}

/// What was put in lately: at least `max` things, at most twice as many.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    max: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    pub(super) fn new(max: usize) -> Self {
        Self { max, young: HashMap::new(), old: HashMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn put(&mut self, key: K, value: V) {
        if self.young.len() >= self.max && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

/// Log-ins that failed, by where they came from or whom they were for.
#[derive(Debug)]
pub(super) struct Failures<K> {
    allowance: Allowance,
    full_at: Mutex<Recent<K, Instant>>,
}

impl<K: Eq + Hash + Clone> Failures<K> {
    pub(super) fn new(allowance: Allowance) -> Self {
        Self { allowance, full_at: Mutex::new(Recent::new(REMEMBERED_MAX)) }
    }

    /// # Errors
    /// How long to wait before another one may fail.
    pub(super) fn look(&self, key: &K) -> Result<(), Duration> {
        self.taken(key).map(|_| ())
    }

    /// Counts one as failed. Done before it is looked at, so that many at a time are no way around it.
    ///
    /// # Errors
    /// How long to wait; then it is not counted.
    pub(super) fn take(&self, key: &K) -> Result<(), Duration> {
        let next = self.taken(key)?;
        self.full_at.lock().expect("nothing panics while it holds this lock").put(key.clone(), next);
        Ok(())
    }

    /// It did not fail.
    pub(super) fn give_back(&self, key: &K) {
        let mut full_at = self.full_at.lock().expect("nothing panics while it holds this lock");
        if let Some(earlier) = full_at.get(key).and_then(|at| at.checked_sub(self.allowance.every)) {
            full_at.put(key.clone(), earlier);
        }
    }

    fn taken(&self, key: &K) -> Result<Instant, Duration> {
        let now = Instant::now();
        let full_at = self.full_at.lock().expect("nothing panics while it holds this lock").get(key).copied();
        self.allowance.take(full_at.unwrap_or(now), now)
    }
}

/// Whom an address stands for: in IPv6 one customer has a whole /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

/// Seconds for `Retry-After`, never too few.
pub(super) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_empty_after_its_burst_and_fills_steadily() {
        let (allowance, start) = (Allowance { burst: 3, every: Duration::from_secs(6) }, Instant::now());
        let mut full_at = start;
        for _ in 0..3 {
            full_at = allowance.take(full_at, start).expect("of the burst");
        }
        assert_eq!(allowance.take(full_at, start), Err(Duration::from_secs(6)));
        let later = start + Duration::from_secs(7);
        full_at = allowance.take(full_at, later).expect("one came back");
        assert_eq!(allowance.take(full_at, later), Err(Duration::from_secs(5)));
        assert!(allowance.take(full_at, start + Duration::from_secs(3600)).is_ok());
    }

    #[test]
    fn failures_are_counted_each_for_itself_and_what_did_not_fail_is_given_back() {
        let failures = Failures::new(Allowance { burst: 1, every: Duration::from_secs(3600) });
        assert!(failures.take(&"a").is_ok() && failures.take(&"a").is_err() && failures.look(&"a").is_err());
        assert_eq!(failures.look(&"b"), Ok(()));
        failures.give_back(&"a");
        assert!(failures.take(&"a").is_ok());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::new(2);
        (0..10).for_each(|n| recent.put(n, n));
        assert_eq!((recent.get(&9), recent.get(&8), recent.get(&5)), (Some(&9), Some(&8), None));
        assert!(recent.young.len() + recent.old.len() <= 4);
    }

    #[test]
    fn an_address_stands_for_its_network() {
        let network = |text: &str| network(text.parse().expect("an address")).to_string();
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
