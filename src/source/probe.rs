//! Following a table by its numbers. Nothing waits at a hole: what is visible is journaled, what is missing is remembered
//! and looked for again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::gate::Gate;
use super::holes::{Checkpoint, Lost, merged};
use super::pump::{Pump, Setting};
use super::status::Hole;
use super::{Config, Error, ROWS_FIRST, Source, Swept};
use crate::runtime::ready;
use batch::Batch;

/// Holes are given up all day long where transactions are rolled back; one line an hour tells enough.
const LOST_LOG_EVERY: Duration = Duration::from_secs(3_600);
/// How often it is asked who may still fill what is missing; and after a failure to ask.
const EVIDENCE_EVERY: Duration = Duration::from_secs(1);
const EVIDENCE_RETRY: Duration = Duration::from_secs(60);
/// Ranges that are looked through by one sweep of ours; the next goes on behind them.
const RANGES_SWEPT: usize = 1_000;
/// So many of the missing ranges are shown.
const HOLES_SHOWN: usize = 100;

pub(super) struct Probe<S> {
    setting: Arc<Setting>,
    source: S,
    /// As it stands in the journal.
    checkpoint: Checkpoint,
    /// Rows to ask for: fewer while they are large.
    rows_max: usize,
    /// What was said of it, and when.
    lost_logged: (Lost, Option<Instant>),
    gate: Option<Gate>,
    /// When it is asked next who may fill what is missing, and who may, by since when it is missing.
    evidence_at: Instant,
    held_by: Vec<(i64, Vec<i32>)>,
    /// The sweep that runs, when the next one starts, and what the last one found.
    sweep: Option<BoxFuture<'static, Result<Option<Swept>, Error>>>,
    sweep_at: Instant,
    swept: Option<Swept>,
    /// Where the next sweep of ours goes on, where the database can't tell who wrote a row.
    sweep_from: i64,
    /// When it is looked whether the numbers went back.
    look_back_at: Instant,
}

impl<S: Source> Pump for Probe<S> {
    async fn open(setting: Arc<Setting>) -> Result<Self, Error> {
        let Config { name, columns, sweep, .. } = &setting.config;
        let mut source = S::open(&setting.config).await?;
        let mut checkpoint = Checkpoint::parse(name, setting.checkpoint().await?.as_deref())?;
        let column = format!("{}.{}", setting.config.table(), columns.sequence.as_deref().unwrap_or_default());
        if let Some(before) = checkpoint.column.replace(column.clone()).filter(|before| *before != column) {
            // Its numbers mean nothing here. Whatever was journaled already is known by its id.
            warn!(source.name = %name, "source `{name}` was read by `{before}` and is now by `{column}`: starting at its beginning");
            checkpoint = Checkpoint { column: Some(column), ..Checkpoint::default() };
        }
        let id_column = format!("{:?}", columns.id);
        if checkpoint.id_column.replace(id_column.clone()).is_some_and(|before| before != id_column) {
            checkpoint.last_id = None;
        }
        if checkpoint.swept.is_none() {
            // Before the first row is read: what is written from now on is found.
            let now = setting.clock.now_micros();
            checkpoint.swept = source.sweep(None, Vec::new(), now).await?.map(|swept| swept.horizon);
        }
        let lost_logged = (checkpoint.lost, None);
        let (sweep, sweep_at, swept) = (None, Instant::now() + *sweep, None);
        let (rows_max, look_back_at) = (ROWS_FIRST, Instant::now());
        let sweep_from = i64::MIN;
        let gate = match setting.config.gate {
            Some(_) => Some(Gate::new(&source.tail(i64::MIN, ROWS_FIRST).await?.rows, source.mapping())),
            None => None,
        };
        Ok(Self {
            setting,
            source,
            checkpoint,
            rows_max,
            lost_logged,
            gate,
            evidence_at: look_back_at,
            held_by: Vec::new(),
            sweep,
            sweep_at,
            swept,
            sweep_from,
            look_back_at,
        })
    }

    fn hints(&self) -> BoxStream<'static, ()> {
        self.source.hints(&self.setting.config)
    }

    /// Until the next look; meanwhile a sweep goes on.
    async fn rest(&mut self, until: Instant) {
        if self.sweep.is_none() && self.checkpoint.swept.is_some() && Instant::now() >= self.sweep_at {
            let (since, ranges) = (self.checkpoint.swept, self.checkpoint.holes.unread());
            self.sweep = Some(self.source.sweep(since, ranges, self.setting.clock.now_micros()));
        }
        tokio::select! {
            () = sleep_until(until) => {}
            result = ready(&mut self.sweep) => self.end_sweep(result),
        }
    }

    /// A sweep goes on meanwhile: it may hold a lock on the table that a writer waits for, and we wait behind that one.
    async fn poll(&mut self) -> Result<bool, Error> {
        let (mut sweep, mut ended) = (self.sweep.take(), None);
        let polled = {
            let mut polling = pin!(self.look());
            loop {
                tokio::select! {
                    polled = &mut polling => break polled,
                    result = ready(&mut sweep) => ended = Some(result),
                }
            }
        };
        self.sweep = sweep;
        if let Some(result) = ended {
            self.end_sweep(result);
        }
        polled
    }
}

impl<S: Source> Probe<S> {
    fn end_sweep(&mut self, result: Result<Option<Swept>, Error>) {
        self.sweep_at = Instant::now() + self.setting.config.sweep;
        match result {
            Ok(swept) => {
                self.swept = swept;
                let now = self.setting.clock.now_micros();
                self.setting.status.update(|state| state.swept_at = Some(now));
            }
            Err(cause) => {
                let Config { name, sweep, .. } = &self.setting.config;
                warn!(source.name = %name, "can't sweep, will try again in {sweep:?}: {cause}");
            }
        }
    }

    /// One complete look at the table: everything above the maximum and in the holes that are due, as one snapshot
    /// shows it. Returns whether there was anything.
    async fn look(&mut self) -> Result<bool, Error> {
        if Instant::now() >= self.look_back_at {
            self.look_back().await?;
        }
        let now = self.setting.clock.now_micros();
        let mut due = self.checkpoint.holes.due(now);
        due.extend(self.due_by_sweep(now));
        let swept = self.swept.take();
        due.extend(swept.iter().flat_map(|swept| &swept.ranges));
        let due = merged(due);
        let mut batch = Batch::default();
        let mut is_complete = false;
        if due.is_empty() {
            let page = self.source.tail(self.above(), self.rows_max).await?;
            is_complete = !page.more;
            if is_complete && self.goes_on(&page).await? {
                self.take(&mut batch, &page);
            }
        }
        if !is_complete {
            self.read_snapshot(&mut batch, due).await?;
        }
        self.journal(&mut batch, 0).await?;
        if let Some(Swept { horizon, .. }) = swept {
            let before = self.checkpoint.swept.replace(horizon);
            if before.is_some_and(|before| before.is_of_another(&horizon)) {
                self.read_again("the database was promoted, restored or replaced");
            }
        }
        self.settle(now).await;
        self.finish(now);
        Ok(batch.highest.is_some())
    }

    /// What nobody can fill any more who ran when it was first missing need not be looked for at every poll. What waits at
    /// the gate is there already, and waits for others.
    async fn settle(&mut self, now: i64) {
        if self.gate.is_some() || Instant::now() < self.evidence_at {
            return;
        }
        let hot = self.checkpoint.holes.hot(now);
        self.held_by.clear();
        if hot.is_empty() {
            return;
        }
        match self.source.evidence(&hot).await {
            Ok(evidence) => {
                self.evidence_at = Instant::now() + EVIDENCE_EVERY;
                self.checkpoint.holes.settle(&evidence.settled);
                self.held_by = evidence.held_by;
            }
            Err(cause) => {
                self.evidence_at = Instant::now() + EVIDENCE_RETRY;
                debug!(source.name = %self.setting.config.name, "can't tell who may fill missing numbers: {cause}");
            }
        }
    }

    /// Where the database can't tell what was written lately, all numbers are looked for that were not read.
    fn due_by_sweep(&mut self, now: i64) -> Vec<(i64, i64)> {
        if self.checkpoint.swept.is_some() || Instant::now() < self.sweep_at {
            return Vec::new();
        }
        self.sweep_at = Instant::now() + self.setting.config.sweep;
        let unread = self.checkpoint.holes.unread();
        let from = unread.partition_point(|(from, _)| *from < self.sweep_from);
        let due: Vec<_> = unread[from..].iter().copied().take(RANGES_SWEPT).collect();
        self.sweep_from = unread.get(from + RANGES_SWEPT).map_or(i64::MIN, |(from, _)| *from);
        self.setting.status.update(|state| state.swept_at = Some(now));
        due
    }

    /// Reads page by page and journals all but the latest page, which may still exchange rows with the next.
    async fn read_snapshot(&mut self, batch: &mut Batch, mut due: Vec<(i64, i64)>) -> Result<(), Error> {
        self.source.begin().await?;
        // Late rows come first: their numbers are lower.
        while !due.is_empty() {
            let page = self.source.ranges(&due, self.rows_max).await?;
            let next = page.rows.last().filter(|_| page.more).map(|row| row.sequence.saturating_add(1));
            due.retain(|(_, to)| next.is_some_and(|next| next <= *to));
            if let (Some(range), Some(next)) = (due.first_mut(), next) {
                range.0 = range.0.max(next);
            }
            let keep = self.take(batch, &page);
            if page.more {
                self.journal(batch, keep).await?;
            }
        }
        let mut above = self.above();
        let mut is_first = true;
        loop {
            let page = self.source.tail(above, self.rows_max).await?;
            if std::mem::take(&mut is_first) && !self.goes_on(&page).await? {
                // All of it comes again.
                *batch = Batch::default();
                return self.source.end().await;
            }
            above = page.rows.last().map_or(above, |row| row.sequence);
            self.rows_max = page.rows_next(self.rows_max);
            let keep = self.take(batch, &page);
            if !page.more {
                return self.source.end().await;
            }
            self.journal(batch, keep).await?;
        }
    }

    /// What is above this number was not read yet.
    fn above(&self) -> i64 {
        match self.checkpoint.max {
            Some(max) if S::REREADS_LAST => max.saturating_sub(1),
            Some(max) => max,
            None => i64::MIN,
        }
    }

    /// After a complete look: forgets holes that are too old, and says how the source is.
    fn finish(&mut self, now: i64) {
        self.checkpoint.catch_up = None;
        self.checkpoint.give_up(now);
        let name = &self.setting.config.name;
        let (lost, (logged, at)) = (self.checkpoint.lost, self.lost_logged);
        if lost != logged && at.is_none_or(|at| at.elapsed() >= LOST_LOG_EVERY) {
            let (too_old, too_many) = (lost.too_old - logged.too_old, lost.too_many - logged.too_many);
            warn!(source.name = %name, too_old, too_many, "no longer looking for missing numbers of `{name}`: {too_old} ranges after a day, {too_many} because too many are missing");
            self.lost_logged = (lost, Some(Instant::now()));
        }
        let (position, hole_count) = (self.checkpoint.max, self.checkpoint.holes.len());
        let held_by = |since: i64| self.held_by.iter().find(|(held, _)| since <= *held).map(|(_, by)| by.clone());
        let mut holes: Vec<Hole> = self.checkpoint.holes.first(HOLES_SHOWN).collect();
        for hole in holes.iter_mut().filter(|hole| !hole.settled) {
            hole.held_by = held_by(hole.since).unwrap_or_default();
        }
        self.setting.status.update(|state| {
            state.position = position;
            state.holes = holes;
            state.hole_count = hole_count;
            state.catch_up = None;
        });
    }
}

mod batch;
mod catch_up;
#[cfg(test)]
mod tests;
