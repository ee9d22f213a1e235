//! From rows to what is journaled: mapped, ordered, held at the gate, cut into pieces that carry a true checkpoint each.

use std::collections::{BTreeSet, VecDeque};

use tracing::warn;

use super::Probe;
use crate::event::Event;
use crate::journal::{Append, Arrival, Quarantined};
use crate::source::holes::{Checkpoint, RANGES_MAX};
use crate::source::mapping::{Mapped, Row};
use crate::source::pump::{Budget, bytes};
use crate::source::status::Held;
use crate::source::{Error, Page, Source, order};

/// How long an event waits for the version before it: as long as nearly all transactions take.
pub(super) const GATE_TIMEOUT: i64 = 60_000_000;
/// From so many missing ranges on nothing waits any more: were they too many, they would be forgotten.
const GATE_RANGES_MAX: usize = RANGES_MAX / 2;

/// What was read in one snapshot and is not journaled yet.
#[derive(Default)]
pub(super) struct Batch {
    /// In sequence, as far as they are not ordered yet.
    pub(super) events: VecDeque<Found<Event>>,
    /// Rows that are no events: withheld (nothing) or quarantined. They are journaled once the checkpoint covers them.
    pub(super) others: VecDeque<Found<Option<Quarantined>>>,
    /// Numbers above the checkpoint's maximum that were there, ascending.
    pub(super) seen: Vec<i64>,
    /// How many events wait for others.
    pub(super) held: usize,
    /// The highest number, and its row's id.
    pub(super) highest: Option<(i64, Option<String>)>,
}

pub(super) struct Found<T> {
    pub(super) sequence: i64,
    pub(super) late: bool,
    pub(super) it: T,
}

impl<S: Source> Probe<S> {
    /// Maps the rows into the batch. Returns how many of them are events.
    pub(super) fn take(&mut self, batch: &mut Batch, page: &Page) -> usize {
        let before = batch.events.len();
        for row in &page.rows {
            self.take_row(batch, row);
        }
        batch.events.len() - before
    }

    fn take_row(&mut self, batch: &mut Batch, row: &Row) {
        let (sequence, max) = (row.sequence, self.checkpoint.max);
        let own_id = self.source.mapping().own_id(row);
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
    pub(super) async fn journal(&mut self, batch: &mut Batch, keep: usize) -> Result<(), Error> {
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
            // One that only a sweep finds has no age, and is not read again.
            let waits = || match holes.since(found.sequence) {
                Some(since) => now - since < GATE_TIMEOUT,
                None => max.is_none_or(|max| found.sequence > max),
            };
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
    pub(super) fn next_append(&self, batch: &mut Batch, rest: &[Found<Event>]) -> (Append, Checkpoint) {
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
}
