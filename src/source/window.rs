//! Following a table without numbers: look, journal, remember where the look ended. A look that is cut off is repeated;
//! what is journaled already is known by its id.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::mapping::{Mapped, Row};
use super::pump::{Budget, Pump, Setting, bytes};
use super::{Error, Look, Windows, order};
use crate::event::Event;
use crate::journal::{Append, Arrival, Quarantined};
use crate::runtime::sha256;

/// What tells a row from others: its id, or all of it.
fn identity(row: &Row) -> String {
    if row.mark.is_empty() { format!("{:?}", row.cells) } else { row.mark.clone() }
}

/// Aggregates whose versions are remembered.
const VERSIONS_MAX: usize = 50_000;

/// Kept in the journal.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    /// What the token belongs to.
    column: String,
    token: String,
}

pub(super) struct WindowPump<S> {
    setting: Arc<Setting>,
    source: S,
    column: String,
    token: Option<String>,
    /// Ids of the rows that come again at every look, and of those that the present one has brought.
    known: HashSet<[u8; 32]>,
    seen: HashSet<[u8; 32]>,
    /// The highest version of each aggregate that was journaled lately: one below it is late.
    versions: HashMap<String, i64>,
}

impl<S: Windows> Pump for WindowPump<S> {
    async fn open(setting: Arc<Setting>) -> Result<Self, Error> {
        let config = &setting.config;
        let source = S::open(config).await?;
        let column = format!("{} by {:?}", config.table(), config.follow());
        let kept = setting.checkpoint().await?;
        let kept: Option<Checkpoint> = kept.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let token = kept.as_ref().filter(|kept| kept.column == column).map(|kept| kept.token.clone());
        if let Some(before) = kept.filter(|_| token.is_none()) {
            let name = &config.name;
            warn!(source.name = %name, "source `{name}` was read by `{}` and is now by `{column}`: starting at its beginning", before.column);
        }
        Ok(Self {
            setting,
            source,
            column,
            token,
            known: HashSet::new(),
            seen: HashSet::new(),
            versions: HashMap::new(),
        })
    }

    async fn poll(&mut self) -> Result<bool, Error> {
        let mut found_any = false;
        loop {
            let now = self.setting.clock.now_micros();
            let Look { mut rows, token, more } = self.source.look(self.token.as_deref(), now).await?;
            if self.source.repeats() {
                rows.retain(|row| {
                    let id = sha256(&identity(row));
                    self.seen.insert(id);
                    !self.known.contains(&id)
                });
            }
            found_any |= !rows.is_empty();
            self.journal(&rows, &token).await?;
            let marks: Vec<String> = rows.into_iter().map(|row| row.mark).collect();
            self.source.taken(&marks).await?;
            self.token = Some(token);
            if !more {
                self.known = std::mem::take(&mut self.seen);
                return Ok(found_any);
            }
        }
    }

    fn hints(&self) -> BoxStream<'static, ()> {
        self.source.hints(&self.setting.config)
    }

    async fn rest(&mut self, until: Instant) {
        sleep_until(until).await;
    }
}

impl<S: Windows> WindowPump<S> {
    /// The last piece carries the token.
    async fn journal(&mut self, rows: &[Row], token: &str) -> Result<(), Error> {
        let (events, quarantined, withheld) = self.map(rows);
        let (mut events, mut quarantined) = (events.into_iter().peekable(), quarantined.into_iter().peekable());
        let mut is_first = true;
        while events.peek().is_some() || quarantined.peek().is_some() || (is_first && withheld > 0) {
            let mut append = Append { source: self.setting.config.name.clone(), ..Append::default() };
            let mut budget = Budget::default();
            while let Some(event) = events.next_if(|event| budget.takes(bytes(event))) {
                let late = self.is_late(&event);
                append.arrivals.push(Arrival::new(&self.setting.catalogue, event, None, late));
            }
            while let Some(row) = quarantined.next_if(|row| budget.takes(row.raw.len())) {
                append.quarantined.push(row);
            }
            append.withheld = if is_first { withheld } else { 0 };
            if events.peek().is_none() && quarantined.peek().is_none() {
                let checkpoint = Checkpoint { column: self.column.clone(), token: token.to_owned() };
                append.checkpoint = Some(serde_json::to_string(&checkpoint).expect("texts are JSON"));
            }
            is_first = false;
            self.setting.append(append).await?;
        }
        Ok(())
    }

    /// Whether a later version of its aggregate is journaled, as far as that is remembered. (A row that was written in a
    /// savepoint may be found after one that follows it.)
    fn is_late(&mut self, event: &Event) -> bool {
        let Some(version) = event.aggregate_version else { return false };
        if self.versions.len() >= VERSIONS_MAX {
            self.versions.clear();
        }
        let highest = self.versions.entry(event.key()).or_insert(version);
        let is_late = version < *highest;
        *highest = version.max(*highest);
        is_late
    }

    /// Events in order, rows that can't be mapped, and how many stay inside.
    fn map(&self, rows: &[Row]) -> (Vec<Event>, Vec<Quarantined>, u64) {
        let (mut events, mut quarantined, mut withheld) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            match self.source.mapping().map(row, &self.setting.catalogue) {
                Mapped::Event(event) => events.push(event),
                Mapped::Withheld => withheld += 1,
                Mapped::Quarantined(row) => quarantined.push(Quarantined { sequence: None, ..row }),
            }
        }
        if self.source.is_unordered() {
            events.sort_by(|a, b| (a.occurred_at, &a.id).cmp(&(b.occurred_at, &b.id)));
        }
        order::by_version(&mut events, |event| {
            let version = event.aggregate_version?;
            Some(((event.aggregate_type.as_str(), event.aggregate_id.as_str()), version))
        });
        (events, quarantined, withheld)
    }
}
