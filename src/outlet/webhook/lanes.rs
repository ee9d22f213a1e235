//! Which event of a webhook may be tried now: the state of one dispatch, without any I/O.
//!
//! First tries follow the journal; of one key only one is in flight. An event that fails parks its key: one row holds
//! the key's next position, later events of the key pass as "behind the row", and the retry lane walks through them,
//! reading them from the journal, until none is left. So:
//! - every matching event at or below [`Lanes::cursor`] is delivered, dead, or at or behind its key's row;
//! - every event of a parked key before its row's position is delivered or dead;
//! - a row goes when no event is left at or behind it and the cursor has reached it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::attempt::{Delivery, Outcome, wait_after};
use super::turn::{Done, Retry, Start, attempt_of};
use crate::event::Entry;
use crate::journal::deliveries::{AttemptRow, Checkpoint, DeliveryRow};
use crate::journal::webhooks::WebhookRow;

/// Events held in memory: enough to keep all calls busy over one read of the journal.
const HELD_MAX: usize = 200;
/// Positions between the cursor and the last one read: what a crash may repeat at most.
const WINDOW_MAX: usize = 1_000;
/// Failing keys at which a receiver counts as down: the cursor stands still and retries go on.
const FAILING_MAX: usize = 1_000;
/// Rows in all. More than failing ones and the window, so that rows that only wait for the cursor can't stop it.
const PARKED_MAX: usize = FAILING_MAX + 2 * WINDOW_MAX;
/// When a row is looked at again that has nothing left to do but to wait for the cursor.
const LOOK_AGAIN_MICROS: i64 = 250_000;
/// Calls without a checkpoint beyond which no new ones start: the journal's database is down.
const UNSAVED_MAX: usize = 1_000;

/// Checkpoints after which the log is shortened; the first one does it, too, so that restarts don't let it grow.
const PRUNE_EVERY: u64 = 16;

struct Slot {
    position: i64,
    settled: bool,
}

struct Parked {
    row: DeliveryRow,
    /// The last position of this key that was passed as "behind the row".
    last_follower: i64,
    /// The checkpoint that has to be saved before the key may go on: then the bytes can be read back, and an event
    /// that was given up is known to be dead and does not come back behind its followers after a crash.
    waits_for: u64,
}

/// The state of one dispatch.
#[derive(Default)]
pub(super) struct Lanes {
    schedule: Vec<Duration>,
    concurrency: usize,
    read_to: i64,
    window: VecDeque<Slot>,
    ready: VecDeque<Delivery>,
    /// Keys with a first try ready or in flight, and what waits behind it.
    busy: HashMap<String, VecDeque<Delivery>>,
    held: usize,
    parked: HashMap<String, Parked>,
    due: BTreeSet<(i64, String)>,
    /// Keys whose event was refused by 410: tried before all others.
    probes: BTreeSet<String>,
    first_in_flight: usize,
    retries_in_flight: usize,
    retried_last: bool,
    changed: BTreeSet<String>,
    dead: Vec<DeliveryRow>,
    attempts: Vec<AttemptRow>,
    failing_since: Option<i64>,
    last_success_at: Option<i64>,
    disabled: Option<String>,
    wants_save: bool,
    snapshots: u64,
    saved: u64,
}

impl Lanes {
    pub(super) fn new(
        row: &WebhookRow,
        failing: Vec<DeliveryRow>,
        schedule: Vec<Duration>,
        concurrency: usize,
    ) -> Self {
        let gone = |row: &&DeliveryRow| row.last_status == Some(410);
        let probes = failing.iter().filter(gone).map(|row| row.key.clone()).collect();
        let due = failing.iter().map(|row| (row.next_attempt_at.unwrap_or(0), row.key.clone())).collect();
        let parked = |row: DeliveryRow| (row.key.clone(), Parked { row, last_follower: 0, waits_for: 0 });
        Self {
            schedule,
            concurrency,
            read_to: row.cursor,
            parked: failing.into_iter().map(parked).collect(),
            due,
            probes,
            failing_since: row.failing_since,
            last_success_at: row.last_success_at,
            ..Self::default()
        }
    }

    /// Where the dispatch may start again.
    pub(super) fn cursor(&self) -> i64 {
        self.window.front().map_or(self.read_to, |slot| slot.position - 1)
    }

    /// After which position to read on and how many events there is room for; nothing while there is none.
    pub(super) fn room(&self) -> Option<(i64, usize)> {
        if self.held >= HELD_MAX / 2 || self.window.len() >= WINDOW_MAX || !self.probes.is_empty() {
            return None;
        }
        let mut room = HELD_MAX - self.held;
        // Each event that is held may fail and need a row.
        if self.parked.len() + HELD_MAX > FAILING_MAX {
            let failing = self.parked.values().filter(|parked| parked.row.attempts > 0).count();
            room = room.min(FAILING_MAX.saturating_sub(failing + self.held));
            room = room.min(PARKED_MAX.saturating_sub(self.parked.len() + self.held));
        }
        (room > 0).then_some((self.read_to, room))
    }

    /// Takes what was read after the last one; everything up to `covered` was looked at.
    pub(super) fn take(&mut self, entries: Vec<Entry>, covered: i64) {
        for entry in entries {
            let (delivery, position) = (Delivery::of(&entry), entry.position);
            let behind = self.parked.get_mut(&delivery.key);
            self.window.push_back(Slot { position, settled: behind.is_some() });
            if let Some(parked) = behind {
                parked.last_follower = position;
                continue;
            }
            self.held += 1;
            match self.busy.get_mut(&delivery.key) {
                Some(queue) => queue.push_back(delivery),
                None => {
                    self.busy.insert(delivery.key.clone(), VecDeque::new());
                    self.ready.push_back(delivery);
                }
            }
        }
        self.read_to = covered;
        self.shrink_window();
    }

    /// The next call that may start now. Retries have at most half of the calls and come first in it, so neither
    /// lane starves the other; of a single call they take turns.
    pub(super) fn start(&mut self, now: i64) -> Option<Start> {
        if self.first_in_flight + self.retries_in_flight >= self.concurrency || self.attempts.len() >= UNSAVED_MAX {
            return None;
        }
        let first_possible = self.probes.is_empty() && !self.ready.is_empty();
        let not_my_turn = self.concurrency == 1 && self.retried_last && first_possible;
        if self.retries_in_flight < (self.concurrency / 2).max(1)
            && !not_my_turn
            && let Some(key) = self.due_key(now)
        {
            let parked = &self.parked[&key];
            let row = &parked.row;
            self.due.remove(&(row.next_attempt_at.unwrap_or(0), key.clone()));
            self.retries_in_flight += 1;
            self.retried_last = true;
            let (position, attempts) = (row.position, row.attempts);
            return Some(Start::Retry(Retry { key, position, attempts, through: self.read_to }));
        }
        let delivery = if first_possible { self.ready.pop_front()? } else { return None };
        self.first_in_flight += 1;
        self.retried_last = false;
        Some(Start::First(delivery))
    }

    /// When a parked key that is not due yet will be.
    pub(super) fn next_due(&self, now: i64) -> Option<i64> {
        self.due.range((now + 1, String::new())..).next().map(|(at, _)| *at)
    }

    /// Takes what became of a call.
    pub(super) fn settle(&mut self, done: Done, now: i64) {
        match done {
            Done::First { delivery, outcome } => {
                self.first_in_flight -= 1;
                self.log(&delivery, 1, &outcome);
                self.settle_slot(delivery.position);
                if outcome.error.is_some() {
                    let key = delivery.key.clone();
                    self.fail(delivery, 1, &outcome, now);
                    self.pass_followers(&key);
                } else {
                    self.release(&delivery.key);
                }
            }
            Done::Retry { delivery, outcome } => {
                self.retries_in_flight -= 1;
                self.probes.remove(&delivery.key);
                let row = &self.parked[&delivery.key].row;
                let attempt = attempt_of(&delivery, row.position, row.attempts);
                self.log(&delivery, attempt, &outcome);
                if outcome.error.is_some() {
                    self.fail(delivery, attempt, &outcome, now);
                } else {
                    self.go_on(delivery.key, delivery.position + 1, now, 0);
                }
            }
            Done::NoneLeft { key, through } => {
                self.retries_in_flight -= 1;
                self.probes.remove(&key);
                let parked = &self.parked[&key];
                if parked.last_follower > through {
                    self.go_on(key, through + 1, now, 0);
                } else if parked.row.position - 1 > self.cursor() {
                    // Without the row a crash would repeat what of the key lies between.
                    self.put(key, now + LOOK_AGAIN_MICROS);
                } else {
                    self.parked.remove(&key);
                    self.changed.insert(key);
                }
            }
            Done::Put { key, again_at } => {
                self.retries_in_flight -= 1;
                self.put(key, again_at);
            }
            Done::NotStarted => self.first_in_flight -= 1,
        }
    }

    /// Why the receiver gets nothing any more, once it said so.
    pub(super) fn is_disabled(&self) -> bool {
        self.disabled.is_some()
    }

    /// Calls and changes that no checkpoint has yet.
    pub(super) fn unsaved(&self) -> usize {
        self.attempts.len() + self.changed.len() + self.dead.len()
    }

    /// A key that is due waits for its row to be saved.
    pub(super) fn wants_save(&self) -> bool {
        self.wants_save
    }

    /// Everything since the last checkpoint. Until [`Lanes::saved`] is called no other may be taken.
    pub(super) fn snapshot(&mut self, webhook: &str) -> Checkpoint {
        self.snapshots += 1;
        self.wants_save = false;
        let failing = std::mem::take(&mut self.changed).into_iter().map(|key| {
            let row = self.parked.get_mut(&key).map(|parked| {
                // The bytes stay in the row only; they are read back when it is due.
                let body = parked.row.body.take();
                DeliveryRow { body, ..parked.row.clone() }
            });
            (key, row)
        });
        Checkpoint {
            webhook: webhook.to_owned(),
            failing: failing.collect(),
            cursor: self.cursor(),
            dead: std::mem::take(&mut self.dead),
            attempts: std::mem::take(&mut self.attempts),
            disabled: self.disabled.clone(),
            failing_since: self.failing_since,
            last_success_at: self.last_success_at,
            prune: self.snapshots % PRUNE_EVERY == 1,
            ..Checkpoint::default()
        }
    }

    /// The last snapshot is durable.
    pub(super) fn saved(&mut self) {
        self.saved = self.snapshots;
    }

    fn due_key(&mut self, now: i64) -> Option<String> {
        for (at, key) in &self.due {
            if *at > now {
                return None;
            }
            if !self.probes.is_empty() && !self.probes.contains(key) {
                continue;
            }
            let parked = &self.parked[key];
            if parked.waits_for <= self.saved {
                return Some(key.clone());
            }
            // Not while it is being written already.
            self.wants_save |= parked.waits_for > self.snapshots;
        }
        None
    }

    fn log(&mut self, delivery: &Delivery, attempt: i64, outcome: &Outcome) {
        if outcome.error.is_some() {
            self.failing_since.get_or_insert(outcome.started_at);
        } else {
            self.failing_since = None;
            self.last_success_at = Some(outcome.started_at);
        }
        self.attempts.push(AttemptRow {
            position: delivery.position,
            attempt,
            started_at: outcome.started_at,
            duration_ms: outcome.duration_ms,
            status: outcome.status.map(i64::from),
            error: outcome.error.map(str::to_owned),
            answer: outcome.answer.clone(),
        });
    }

    /// Parks the key at this event, or behind it if the event is dead.
    fn fail(&mut self, delivery: Delivery, attempts: i64, outcome: &Outcome, now: i64) {
        let gone = outcome.status == Some(410);
        let wait = if gone { Some(Duration::ZERO) } else { wait_after(&self.schedule, attempts, outcome.retry_after) };
        let next = wait.map(|wait| now.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)));
        if gone {
            self.disabled =
                Some(format!("the receiver answered 410 to event {}; Resume tries it again first", delivery.event_id));
        }
        let row = DeliveryRow {
            position: delivery.position,
            key: delivery.key,
            event_id: Some(delivery.event_id),
            r#type: Some(delivery.r#type),
            attempts,
            next_attempt_at: next,
            last_attempt_at: Some(outcome.started_at),
            last_status: outcome.status.map(i64::from),
            last_error: outcome.error.map(str::to_owned),
            // Kept from the first failure on: later attempts read it from the row.
            body: (attempts == 1).then(|| delivery.body.to_vec()),
            ..DeliveryRow::default()
        };
        let saved = self.snapshots + 1;
        if next.is_none() {
            let (key, position) = (row.key.clone(), row.position);
            self.dead.push(row);
            self.go_on(key, position + 1, now, saved);
        } else {
            self.park(row, saved);
        }
    }

    /// The key's row now says to go on from `position`, once the given checkpoint is saved.
    fn go_on(&mut self, key: String, position: i64, now: i64, waits_for: u64) {
        self.park(DeliveryRow { position, key, next_attempt_at: Some(now), ..DeliveryRow::default() }, waits_for);
    }

    fn park(&mut self, row: DeliveryRow, waits_for: u64) {
        let key = row.key.clone();
        self.due.insert((row.next_attempt_at.unwrap_or(0), key.clone()));
        self.changed.insert(key.clone());
        let last_follower = self.parked.get(&key).map_or(0, |parked| parked.last_follower);
        self.parked.insert(key, Parked { row, last_follower, waits_for });
    }

    fn put(&mut self, key: String, again_at: i64) {
        if let Some(parked) = self.parked.get_mut(&key) {
            parked.row.next_attempt_at = Some(again_at);
            self.due.insert((again_at, key));
        }
    }

    /// The next first try of a key may start.
    fn release(&mut self, key: &str) {
        if let Some(queue) = self.busy.get_mut(key) {
            match queue.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => drop(self.busy.remove(key)),
            }
        }
    }

    /// What waited behind a first try that failed now stands behind its row.
    fn pass_followers(&mut self, key: &str) {
        for Delivery { position, .. } in self.busy.remove(key).unwrap_or_default() {
            self.settle_slot(position);
            if let Some(parked) = self.parked.get_mut(key) {
                parked.last_follower = position;
            }
        }
    }

    fn settle_slot(&mut self, position: i64) {
        self.held -= 1;
        if let Ok(index) = self.window.binary_search_by_key(&position, |slot| slot.position) {
            self.window[index].settled = true;
        }
        self.shrink_window();
    }

    fn shrink_window(&mut self) {
        while self.window.front().is_some_and(|slot| slot.settled) {
            self.window.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
