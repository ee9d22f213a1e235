//! Following a table by its numbers. Nothing waits at a hole: what is visible is journaled, what is missing is remembered
//! and looked for again.

use std::collections::{BTreeSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::gate::Gate;
use super::holes::{Checkpoint, Lost, RANGES_MAX, merged};
use super::mapping::{Mapped, Row};
use super::pump::{Budget, Pump, Setting, bytes};
use super::status::{CatchUp, Held, Hole};
use super::{Config, Error, Page, ROWS_FIRST, Source, Swept, order};
use crate::event::Event;
use crate::journal::{Append, Arrival, Quarantined};
use crate::runtime::ready;

/// Holes are given up all day long where transactions are rolled back; one line an hour tells enough.
const LOST_LOG_EVERY: Duration = Duration::from_secs(3_600);
/// Numbers behind from which a table is caught up with in many short snapshots: a long one keeps databases from cleaning up.
const CATCH_UP_MIN: i64 = 100_000;
const PROGRESS_LOG_EVERY: Duration = Duration::from_secs(10);
/// How often it is asked who may still fill what is missing; and after a failure to ask.
const EVIDENCE_EVERY: Duration = Duration::from_secs(1);
const EVIDENCE_RETRY: Duration = Duration::from_secs(60);
/// How long an event waits for the version before it: as long as nearly all transactions take.
const GATE_TIMEOUT: i64 = 60_000_000;
/// From so many missing ranges on nothing waits any more: were they too many, they would be forgotten.
const GATE_RANGES_MAX: usize = RANGES_MAX / 2;
/// Ranges that are looked through by one sweep of ours; the next goes on behind them.
const RANGES_SWEPT: usize = 1_000;
/// So many of the missing ranges are shown.
const HOLES_SHOWN: usize = 100;

/// What was read in one snapshot and is not journaled yet.
#[derive(Default)]
struct Batch {
    /// In sequence, as far as they are not ordered yet.
    events: VecDeque<Found<Event>>,
    /// Rows that are no events: withheld (nothing) or quarantined. They are journaled once the checkpoint covers them.
    others: VecDeque<Found<Option<Quarantined>>>,
    /// Numbers above the checkpoint's maximum that were there, ascending.
    seen: Vec<i64>,
    /// How many events wait for others.
    held: usize,
    /// The highest number, and its row's id where that matters.
    highest: Option<(i64, Option<String>)>,
}

struct Found<T> {
    sequence: i64,
    late: bool,
    it: T,
}

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
            if is_complete {
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

    /// A table that was truncated, or replaced by an older copy, gives numbers again that were read: then all is read
    /// again, and what is known by its id is dropped. One that is far ahead is caught up with.
    async fn look_back(&mut self) -> Result<(), Error> {
        self.look_back_at = Instant::now() + self.setting.config.sweep;
        let newest = self.source.newest(1).await?.rows.first().map(|row| row.sequence);
        if self.checkpoint.max.is_some_and(|max| newest.is_none_or(|newest| newest < max)) {
            self.read_again("its highest number went back");
        }
        let Some(newest) = newest else { return Ok(()) };
        if self.checkpoint.max.is_some_and(|max| newest.saturating_sub(max) < CATCH_UP_MIN) {
            return Ok(());
        }
        let first = self.source.tail(self.above(), 1).await?.rows.first().map(|row| row.sequence);
        match first.filter(|first| newest.saturating_sub(*first) >= CATCH_UP_MIN) {
            Some(first) => self.catch_up(first, newest).await,
            None => Ok(()),
        }
    }

    /// Numbers may be those of other rows now.
    fn read_again(&mut self, why: &str) {
        let name = &self.setting.config.name;
        warn!(source.name = %name, "reading `{name}` from its beginning, as {why}; what is known by its id is dropped");
        let Checkpoint { column, swept, .. } = std::mem::take(&mut self.checkpoint);
        self.checkpoint = Checkpoint { column, swept, ..Checkpoint::default() };
    }

    /// Reads page by page, each as it is then, up to the number that was the highest when this began. What is written
    /// meanwhile below it is missing for now and looked for afterwards.
    async fn catch_up(&mut self, first: i64, target: i64) -> Result<(), Error> {
        let name = self.setting.config.name.clone();
        info!(source.name = %name, "catching up with `{name}`: its numbers go from {first} to {target}");
        let (mut batch, mut above, mut done) = (Batch::default(), self.above(), 0_u64);
        let (started, mut logged) = (Instant::now(), Instant::now());
        loop {
            let mut page = self.source.tail(above, self.rows_max).await?;
            self.rows_max = page.rows_next(self.rows_max);
            page.rows.truncate(page.rows.partition_point(|row| row.sequence <= target));
            let is_last = !page.more || page.rows.last().is_none_or(|row| row.sequence >= target);
            above = page.rows.last().map_or(above, |row| row.sequence);
            let keep = self.take(&mut batch, &page);
            done += page.rows.len() as u64;
            let progress = CatchUp::new(done, (first, above, target), started.elapsed());
            self.checkpoint.catch_up = Some(progress).filter(|_| !is_last);
            self.journal(&mut batch, if is_last { 0 } else { keep }).await?;
            let position = self.checkpoint.max;
            self.setting.status.update(|state| {
                (state.healthy, state.last_error) = (true, None);
                state.catch_up = Some(progress);
                state.position = position;
            });
            if is_last || logged.elapsed() >= PROGRESS_LOG_EVERY {
                logged = Instant::now();
                let CatchUp { total, rate, .. } = progress;
                info!(source.name = %name, done, total, "`{name}`: read {done} of about {total} rows, {rate} a second");
            }
            if is_last {
                return Ok(());
            }
        }
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
        loop {
            let page = self.source.tail(above, self.rows_max).await?;
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

    /// Maps the rows into the batch. Returns how many of them are events.
    fn take(&mut self, batch: &mut Batch, page: &Page) -> usize {
        let before = batch.events.len();
        for row in &page.rows {
            self.take_row(batch, row);
        }
        batch.events.len() - before
    }

    fn take_row(&mut self, batch: &mut Batch, row: &Row) {
        let (sequence, max) = (row.sequence, self.checkpoint.max);
        let own_id = if S::REREADS_LAST { self.source.mapping().own_id(row) } else { None };
        if S::REREADS_LAST && max == Some(sequence) && own_id == self.checkpoint.last_id {
            return;
        }
        let late = max.is_some_and(|max| sequence < max);
        if max.is_none_or(|max| sequence > max) {
            batch.seen.push(sequence);
        }
        if batch.highest.as_ref().is_none_or(|(highest, _)| *highest <= sequence) {
            batch.highest = Some((sequence, own_id));
        }
        let mapped = self.source.mapping().map(row, &self.setting.catalogue);
        if let (Some(gate), Mapped::Withheld | Mapped::Quarantined(_)) = (&mut self.gate, &mapped) {
            gate.read_row(row, self.source.mapping());
        }
        match mapped {
            Mapped::Event(it) => batch.events.push_back(Found { sequence, late, it }),
            Mapped::Withheld => batch.others.push_back(Found { sequence, late, it: None }),
            Mapped::Quarantined(row) => batch.others.push_back(Found { sequence, late, it: Some(row) }),
        }
    }

    /// Orders what was read and journals it but for the last `keep` events.
    async fn journal(&mut self, batch: &mut Batch, keep: usize) -> Result<(), Error> {
        let mut events = Vec::from(std::mem::take(&mut batch.events));
        order::by_version(&mut events, |found| {
            let event = &found.it;
            event
                .aggregate_version
                .map(|version| ((event.aggregate_type.as_str(), event.aggregate_id.as_str()), version))
        });
        let mut rest = events.split_off(events.len().saturating_sub(keep));
        let (events, mut is_moved) = self.hold(batch, events).await?;
        batch.events = events.into();
        while is_moved || !batch.events.is_empty() || (keep == 0 && !batch.others.is_empty()) {
            is_moved = false;
            let (append, checkpoint) = self.next_append(batch, &rest);
            self.setting.append(append).await?;
            self.checkpoint = checkpoint;
        }
        // By number again: the next page may bring rows that belong between them.
        rest.sort_by_key(|found| found.sequence);
        batch.events = rest.into();
        Ok(())
    }

    /// Leaves out the events that must wait for the version before theirs: they are missing for now, and looked for as
    /// such. Returns the others, and whether the checkpoint must tell of new missing ones.
    async fn hold(&mut self, batch: &mut Batch, events: Vec<Found<Event>>) -> Result<(Vec<Found<Event>>, bool), Error> {
        let Some(gate) = &mut self.gate else { return Ok((events, false)) };
        let Checkpoint { max, holes, .. } = &self.checkpoint;
        let unknown = gate.unknown(events.iter().map(|found| &found.it));
        for row in self.source.versions(&unknown).await? {
            if max.is_some_and(|max| row.sequence <= max) && !holes.holds(row.sequence) {
                gate.read_row(&row, self.source.mapping());
            }
        }
        let now = self.setting.clock.now_micros();
        let (mut free, mut held, mut given_up) = (Vec::with_capacity(events.len()), BTreeSet::new(), Vec::new());
        for found in events {
            let is_next = gate.is_next(&found.it);
            let waits = || holes.since(found.sequence).is_none_or(|since| now - since < GATE_TIMEOUT);
            if !is_next && holes.len() + held.len() < GATE_RANGES_MAX && waits() {
                held.insert(found.sequence);
                continue;
            }
            if !is_next {
                given_up.push(found.it.key());
            }
            gate.read_event(&found.it);
            free.push(found);
        }
        batch.seen.retain(|number| !held.contains(number));
        if let Some((highest, last_id)) = &mut batch.highest
            && held.contains(highest)
        {
            *last_id = None;
        }
        let is_new = held.last().is_some_and(|highest| max.is_none_or(|max| *highest > max));
        batch.held += held.len();
        self.tell_held(batch.held, &given_up);
        Ok((free, is_new))
    }

    fn tell_held(&self, waiting: usize, given_up: &[String]) {
        let (name, count) = (&self.setting.config.name, given_up.len());
        if let Some(first) = given_up.first() {
            warn!(source.name = %name, count, "`{name}`: {count} events were journaled without the version before theirs, which did not come; the first: {first}");
        }
        self.setting.status.update(|state| {
            let before = state.gate.unwrap_or_default().given_up;
            state.gate = Some(Held { waiting, given_up: before + count as u64 });
        });
    }

    /// Takes the next piece out of the batch, with the checkpoint that is true once it is journaled.
    fn next_append(&self, batch: &mut Batch, rest: &[Found<Event>]) -> (Append, Checkpoint) {
        let mut append = Append { source: self.setting.config.name.clone(), ..Append::default() };
        let mut checkpoint = self.checkpoint.clone();
        let mut budget = Budget::default();
        while let Some(Found { sequence, late, it }) = batch.events.pop_front_if(|found| budget.takes(bytes(&found.it)))
        {
            checkpoint.holes.found(sequence);
            append.arrivals.push(Arrival::new(&self.setting.catalogue, it, Some(sequence), late));
        }
        let waiting = batch.events.iter().chain(rest).map(|found| found.sequence).min();
        // Once the others are counted they must not be read again, so they wait for what stands below them.
        let mut budget = Budget::default();
        while let Some(Found { sequence, it, .. }) = batch.others.pop_front_if(|found| {
            let fits = |row: &Quarantined| budget.takes(row.raw.len());
            waiting.is_none_or(|waiting| found.sequence < waiting) && found.it.as_ref().is_none_or(fits)
        }) {
            checkpoint.holes.found(sequence);
            append.withheld += u64::from(it.is_none());
            append.quarantined.extend(it);
        }
        let waiting = batch.others.front().map(|found| found.sequence).into_iter().chain(waiting).min();
        self.advance(&mut checkpoint, batch, waiting);
        append.checkpoint = Some(checkpoint.to_json());
        (append, checkpoint)
    }

    /// Moves the maximum to just below what waits, or to the highest number read.
    fn advance(&self, checkpoint: &mut Checkpoint, batch: &mut Batch, waiting: Option<i64>) {
        let Some((highest, last_id)) = &batch.highest else { return };
        let through = waiting.map_or(*highest, |waiting| waiting.saturating_sub(1));
        if checkpoint.max.is_none_or(|max| through > max) {
            let settled: Vec<i64> =
                batch.seen.drain(..batch.seen.partition_point(|number| *number <= through)).collect();
            checkpoint.advance(&settled, through, self.setting.clock.now_micros());
            checkpoint.last_id = None;
        }
        if checkpoint.max == Some(*highest) {
            checkpoint.last_id.clone_from(last_id);
        }
    }

    /// After a complete look: forgets holes that are too old, and says how the source is.
    fn finish(&mut self, now: i64) {
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

#[cfg(test)]
mod tests;
