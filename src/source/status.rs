//! How a source is doing, for those who look.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::holes::Checkpoint;
use super::{Config, Follow};
use crate::journal::SourceRow;

/// The state of one source, shared between its loop and those who show it.
#[derive(Clone, Debug)]
pub struct Status(Arc<Mutex<State>>);

/// How a source is doing. Times are microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub name: String,
    /// The database, `push` or `feed`.
    pub kind: String,
    pub follow: Option<Follow>,
    /// The last poll worked.
    pub healthy: bool,
    pub last_error: Option<String>,
    /// When everything that was visible had been journaled for the last time.
    pub complete_at: Option<i64>,
    /// When the newest journaled event occurred.
    pub last_event_at: Option<i64>,
    /// The highest sequence number that was read.
    pub position: Option<i64>,
    /// The lowest ranges of numbers below it that were never seen and are still looked for.
    pub holes: Vec<Hole>,
    /// How many there are.
    pub hole_count: usize,
    /// Where `gate` is set.
    pub gate: Option<Held>,
    /// When the last sweep ended.
    pub swept_at: Option<i64>,
    /// What the last scheduled audit found.
    pub audit: Option<Audited>,
    /// How far a table is read that is far ahead.
    pub catch_up: Option<CatchUp>,
}

/// A range of missing numbers, both ends included.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hole {
    pub from: i64,
    pub to: i64,
    #[serde(with = "time")]
    pub since: i64,
    /// Nobody runs any more who ran when it was first missing: most likely it was rolled back.
    pub settled: bool,
    /// The database's processes that may still fill it, where that is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<i32>,
}

/// Events that wait for the version before theirs, and how many went without it since the gateway started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub waiting: usize,
    pub given_up: u64,
}

/// The source compared with the journal, in rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    #[serde(with = "time")]
    pub at: i64,
    pub journaled: u64,
    pub withheld: u64,
    pub quarantined: u64,
    pub not_read_yet: u64,
    pub missing: u64,
    /// The first of the missing ones.
    pub missing_ids: Vec<String>,
}

/// A time as text.
mod time {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::event::Micros;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(at: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Micros(*at).to_text())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
        let text = String::deserialize(deserializer)?;
        Micros::parse_rfc3339(&text).map(|at| at.0).ok_or_else(|| D::Error::custom("no time"))
    }
}

/// Reading what was there before: rows, and rows a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Since the gateway started.
    pub done: u64,
    /// An estimate: numbers may be missing.
    pub total: u64,
    pub rate: u64,
}

impl CatchUp {
    /// The rest is as dense as the numbers from the first to the present one, on the way to the last.
    pub(super) fn new(done: u64, (first, present, last): (i64, i64, i64), elapsed: Duration) -> Self {
        let span = |to: i64| to.saturating_sub(first).max(1) as f64;
        let total = done as f64 * (span(last) / span(present)).max(1.0);
        Self { done, total: total as u64, rate: (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64 }
    }
}

/// How far a table is read that is far ahead, as its checkpoint in the journal says.
pub fn catching_up(row: &SourceRow) -> Option<CatchUp> {
    let checkpoint = Checkpoint::parse(&row.name, row.checkpoint.as_deref()).ok()?;
    checkpoint.catch_up
}

impl State {
    /// Seconds since everything visible was journaled; nothing before that happened for the first time, and where nothing
    /// is looked for.
    pub fn lag_seconds(&self, now: i64) -> Option<f64> {
        if self.kind == "push" {
            return None;
        }
        // Precision is lost beyond 285 years.
        self.complete_at.map(|at| (now - at).max(0) as f64 / 1e6)
    }
}

impl Status {
    pub(super) fn new(config: &Config) -> Self {
        Self(Arc::new(Mutex::new(State {
            name: config.name.clone(),
            kind: config.kind().to_owned(),
            follow: config.has_table().then(|| config.follow()),
            healthy: config.push,
            last_error: None,
            complete_at: None,
            last_event_at: None,
            position: None,
            holes: Vec::new(),
            hole_count: 0,
            gate: config.gate.map(|_| Held::default()),
            swept_at: None,
            audit: None,
            catch_up: None,
        })))
    }

    /// A copy of the present state.
    pub fn get(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
