//! Which event of a webhook may be tried now: the state of one dispatch, without any I/O.
//!
//! What waits for what is one *turn*: an aggregate, the whole webhook (`strict`), or each event by itself (`none`). First
//! tries follow the journal; of one turn only one is in flight. An event that fails parks its turn: one row holds the
//! turn's next position, later events of the turn pass as "behind the row", and the retry lane walks through them,
//! reading them from the journal, until none is left. So:
//! - every matching event at or below [`Lanes::cursor`] is delivered, dead, or at or behind its turn's row;
//! - every event of a parked turn before its row's position is delivered or dead;
//! - a row goes when no event is left at or behind it and the cursor has reached it.

mod parking;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::attempt::Delivery;
use super::definition::{OnExhausted, Ordering};
use super::pace::Pace;
use super::turn::{Done, Retry, Start, attempt_of};
use crate::event::Micros;
use crate::journal::checkpoint::Checkpoint;
use crate::journal::deliveries::{AttemptRow, DeliveryRow};
use crate::journal::webhooks::{Status, WebhookRow};

/// Events held in memory: enough to keep all calls busy over one read of the journal, and to read many at once.
const HELD_MAX: usize = 500;
/// … and bytes of their bodies, before the page that goes beyond.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Positions between the cursor and the last one read: what a crash may repeat at most.
const WINDOW_MAX: usize = 1_000;
/// Failing turns at which a receiver counts as down: the cursor stands still and retries go on.
const FAILING_MAX: usize = 1_000;
/// Rows in all. More than failing ones and the window, so that rows that only wait for the cursor can't stop it.
const PARKED_MAX: usize = FAILING_MAX + 2 * WINDOW_MAX;
/// When it is looked again at what waits for the cursor, or for the other lane.
const LOOK_AGAIN_MICROS: i64 = 250_000;
/// Calls without a checkpoint beyond which no new ones start: the journal's database is down.
const UNSAVED_MAX: usize = 1_000;

/// A receiver without any success for so long, and so many calls, is given up.
const DISABLED_AFTER: Micros = Micros(72 * 3_600 * 1_000_000);
const DISABLED_FAILURES: i64 = 10;
/// No wait is longer, whatever clock wrote it: a day, and the tenth that is added.
const WAIT_MAX_MICROS: i64 = 27 * 3_600 * 1_000_000;

/// Checkpoints after which the log is shortened; the first one does it, too, so that restarts don't let it grow.
const PRUNE_EVERY: u64 = 64;

struct Slot {
    position: i64,
    settled: bool,
}

struct Parked {
    row: DeliveryRow,
    /// Its call is in flight.
    is_called: bool,
    /// The last position of this turn that was passed as "behind the row".
    last_follower: i64,
    /// The checkpoint that has to be saved before the turn may go on: then the bytes can be read back, and an event
    /// that was given up is known to be dead and does not come back behind its followers after a crash.
    waits_for: u64,
}

/// What a webhook's owner decided about its calls, and how fast they may follow one another.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) schedule: Vec<Duration>,
    /// Calls in flight of this lane.
    pub(super) concurrency: usize,
    pub(super) on_exhausted: OnExhausted,
    /// Events go in batches, which are put together when their turn comes.
    pub(super) is_batched: bool,
    pub(super) ordering: Ordering,
    pub(super) pace: Arc<Mutex<Pace>>,
}

/// The state of one dispatch.
pub(super) struct Lanes {
    rules: Rules,
    read_to: i64,
    window: VecDeque<Slot>,
    ready: VecDeque<Delivery>,
    /// Turns with a first try ready or in flight, and what waits behind it.
    busy: HashMap<String, VecDeque<Delivery>>,
    held: usize,
    held_bytes: usize,
    parked: HashMap<String, Parked>,
    due: BTreeSet<(i64, String)>,
    /// Turns whose event was refused by 410: tried before all others.
    probes: BTreeSet<String>,
    first_in_flight: usize,
    retries_in_flight: usize,
    retried_last: bool,
    changed: BTreeSet<String>,
    dead: Vec<DeliveryRow>,
    attempts: Vec<AttemptRow>,
    failing_since: Option<i64>,
    failures: i64,
    last_success_at: Option<i64>,
    /// Wishes that were fulfilled by giving an event up.
    discarded: Vec<DeliveryRow>,
    ends: Option<(Status, String)>,
    /// What happened that is journaled: a word, and why.
    happened: Vec<(&'static str, Option<String>)>,
    wants_save: bool,
    snapshots: u64,
    saved: u64,
}

impl Lanes {
    /// Goes on after `cursor` with what is failing. `now` is also what the clock said: rows of a clock that went back wait
    /// no longer than any.
    pub(super) fn new(row: &WebhookRow, cursor: i64, mut failing: Vec<DeliveryRow>, rules: Rules, now: i64) -> Self {
        let gone = |row: &&DeliveryRow| row.last_status == Some(410);
        let probes = failing.iter().filter(gone).map(|row| row.turn.clone()).collect();
        for row in &mut failing {
            row.next_attempt_at = row.next_attempt_at.map(|at| at.min(now.saturating_add(WAIT_MAX_MICROS)));
        }
        let due = failing.iter().filter_map(|row| Some((row.next_attempt_at?, row.turn.clone()))).collect();
        let mut changed = BTreeSet::new();
        let parked = |mut row: DeliveryRow| {
            // Of another ordering, from before an edit: what is read from now on is no part of it.
            if row.until.is_none() && Ordering::of_turn(&row.turn) != rules.ordering {
                row.until = Some(cursor);
                changed.insert(row.turn.clone());
            }
            (row.turn.clone(), Parked { row, is_called: false, last_follower: 0, waits_for: 0 })
        };
        let parked = failing.into_iter().map(parked).collect();
        Self {
            rules,
            read_to: cursor,
            window: VecDeque::new(),
            ready: VecDeque::new(),
            busy: HashMap::new(),
            held: 0,
            held_bytes: 0,
            parked,
            due,
            probes,
            first_in_flight: 0,
            retries_in_flight: 0,
            retried_last: false,
            changed,
            dead: Vec::new(),
            attempts: Vec::new(),
            failing_since: row.failing_since,
            failures: row.failures,
            last_success_at: row.last_success_at,
            discarded: Vec::new(),
            ends: None,
            happened: Vec::new(),
            wants_save: false,
            snapshots: 0,
            saved: 0,
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.rules.pace.lock().expect("nothing panics while it holds this lock")
    }

    /// Nothing is in flight, waiting or failing: everything up to what was read is delivered or dead.
    pub(super) fn is_idle(&self) -> bool {
        self.window.is_empty() && self.parked.is_empty() && self.in_flight() == 0
    }

    fn in_flight(&self) -> usize {
        self.first_in_flight + self.retries_in_flight
    }

    /// Where the dispatch may start again.
    pub(super) fn cursor(&self) -> i64 {
        self.window.front().map_or(self.read_to, |slot| slot.position - 1)
    }

    /// After which position to read on and how many events there is room for; nothing while there is none.
    pub(super) fn room(&self, now: i64) -> Option<(i64, usize)> {
        let is_full = self.held >= HELD_MAX / 2 || self.held_bytes >= HELD_BYTES_MAX || self.window.len() >= WINDOW_MAX;
        if is_full || !self.probes.is_empty() || self.pace().is_down(now) {
            return None;
        }
        // What failed before an edit goes before everything.
        let is_strict = self.rules.ordering == Ordering::Strict;
        if is_strict && self.parked.values().any(|parked| parked.row.until.is_some()) {
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
    pub(super) fn take(&mut self, deliveries: impl IntoIterator<Item = Delivery>, covered: i64) {
        for delivery in deliveries {
            let position = delivery.position;
            if self.rules.is_batched && !self.parked.contains_key(&delivery.turn) {
                self.go_on(delivery.turn.clone(), position, 0, 0);
            }
            let behind = self.parked.get_mut(&delivery.turn);
            self.window.push_back(Slot { position, settled: behind.is_some() });
            if let Some(parked) = behind {
                parked.last_follower = position;
                continue;
            }
            self.held += 1;
            self.held_bytes += delivery.body.len();
            match self.busy.get_mut(&delivery.turn) {
                Some(queue) => queue.push_back(delivery),
                None => {
                    self.busy.insert(delivery.turn.clone(), VecDeque::new());
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
        if self.attempts.len() >= UNSAVED_MAX || !self.pace().may_start(now, self.in_flight(), self.rules.concurrency) {
            return None;
        }
        let first_possible = self.probes.is_empty() && !self.ready.is_empty();
        let not_my_turn = self.rules.concurrency == 1 && self.retried_last && first_possible;
        if self.retries_in_flight < (self.rules.concurrency / 2).max(1)
            && !not_my_turn
            && let Some(turn) = self.due_turn(now)
            && let Some(parked) = self.parked.get_mut(&turn)
        {
            parked.is_called = true;
            let row = &parked.row;
            self.due.remove(&(row.next_attempt_at.unwrap_or(0), turn.clone()));
            let (position, attempts, batch) = (row.position, row.attempts, row.batch.clone().zip(row.through));
            let through = row.until.unwrap_or(self.read_to);
            self.retries_in_flight += 1;
            self.retried_last = true;
            self.pace().started(now);
            return Some(Start::Retry(Retry { turn, position, attempts, through, batch, started: now }));
        }
        let delivery = if first_possible { Box::new(self.ready.pop_front()?) } else { return None };
        self.pace().started(now);
        self.first_in_flight += 1;
        self.retried_last = false;
        Some(Start::First { delivery, started: now })
    }

    /// When something may start although nothing happens until then.
    pub(super) fn next_due(&self, now: i64) -> Option<i64> {
        let has_waiting = !self.ready.is_empty() || self.due.first().is_some_and(|(at, _)| *at <= now);
        // A receiver that is down is looked at again, also if nothing is due.
        let is_asked = has_waiting || self.pace().is_down(now);
        let mut free = if is_asked { self.pace().wakes_at(now) } else { None };
        if has_waiting && self.in_flight() == 0 {
            // Perhaps the other lane's calls are in the way.
            free.get_or_insert(now + LOOK_AGAIN_MICROS);
        }
        let due = self.due.range((now + 1, String::new())..).next().map(|(at, _)| *at);
        free.into_iter().chain(due).min()
    }

    /// Takes what became of a call.
    pub(super) fn settle(&mut self, done: Done, now: i64) {
        match done {
            Done::First { delivery, started, outcome } => {
                self.first_in_flight -= 1;
                self.called(started, &outcome, now);
                self.log(&delivery, 1, &outcome, now);
                self.held_bytes -= delivery.body.len();
                self.settle_slot(delivery.position);
                if outcome.error.is_some() {
                    let turn = delivery.turn.clone();
                    self.fail(*delivery, 1, &outcome, now);
                    self.pass_followers(&turn);
                } else {
                    self.release(&delivery.turn);
                }
            }
            Done::Retry { delivery, started, outcome } => {
                self.retries_in_flight -= 1;
                self.called(started, &outcome, now);
                self.probes.remove(&delivery.turn);
                let row = &self.parked[&delivery.turn].row;
                let attempt = attempt_of(&delivery, row.position, row.attempts);
                self.log(&delivery, attempt, &outcome, now);
                if outcome.error.is_some() {
                    self.fail(delivery, attempt, &outcome, now);
                } else {
                    let next = delivery.last() + 1;
                    self.go_on(delivery.turn, next, now, 0);
                }
            }
            Done::Formed { row } => {
                self.retries_in_flight -= 1;
                self.pace().gave_back(now);
                self.park(DeliveryRow { next_attempt_at: Some(now), ..row }, self.snapshots + 1);
                self.wants_save = true;
            }
            Done::NoneLeft { turn, through } => {
                self.retries_in_flight -= 1;
                self.pace().gave_back(now);
                self.probes.remove(&turn);
                let parked = &self.parked[&turn];
                if parked.last_follower > through {
                    self.go_on(turn, through + 1, now, 0);
                } else if parked.row.position - 1 > self.cursor() {
                    // Without the row a crash would repeat what of the turn lies between.
                    self.put(turn, now + LOOK_AGAIN_MICROS);
                } else {
                    self.parked.remove(&turn);
                    self.changed.insert(turn);
                }
            }
            Done::Put { turn, again_at } => {
                self.retries_in_flight -= 1;
                self.pace().gave_back(now);
                self.put(turn, again_at);
            }
            Done::NotStarted => {
                self.first_in_flight -= 1;
                self.pace().gave_back(now);
            }
        }
    }

    /// The receiver gets nothing any more: it said so, or nothing arrives.
    pub(super) fn has_ended(&self) -> bool {
        self.ends.is_some()
    }

    /// What happened since it was asked last.
    pub(super) fn happened(&mut self) -> Vec<(&'static str, Option<String>)> {
        std::mem::take(&mut self.happened)
    }

    /// Calls that are still in flight are not waited for any more.
    pub(super) fn abandon(&mut self, now: i64) {
        for _ in 0..self.in_flight() {
            self.pace().gave_back(now);
        }
    }

    /// Calls and changes that no checkpoint has yet.
    pub(super) fn unsaved(&self) -> usize {
        self.attempts.len() + self.changed.len() + self.dead.len() + self.discarded.len()
    }

    /// A turn that is due waits for its row to be saved.
    pub(super) fn wants_save(&self) -> bool {
        self.wants_save
    }

    /// Everything since the last checkpoint. Until [`Lanes::saved`] is called no other may be taken.
    pub(super) fn snapshot(&mut self, webhook: &str) -> Checkpoint {
        self.snapshots += 1;
        self.wants_save = false;
        let rows = std::mem::take(&mut self.changed).into_iter().map(|turn| {
            let row = self.parked.get_mut(&turn).map(|parked| {
                // The bytes stay in the row only; they are read back when it is due.
                let (body, wish) = (parked.row.body.take(), std::mem::take(&mut parked.row.wish));
                DeliveryRow { body, wish, ..parked.row.clone() }
            });
            (turn, row)
        });
        Checkpoint {
            webhook: webhook.to_owned(),
            rows: rows.collect(),
            cursor: self.cursor(),
            dead: std::mem::take(&mut self.dead),
            discarded: std::mem::take(&mut self.discarded),
            attempts: std::mem::take(&mut self.attempts),
            ends: self.ends.clone(),
            failing_since: self.failing_since,
            failures: self.failures,
            last_success_at: self.last_success_at,
            prune: self.snapshots % PRUNE_EVERY == 1,
            ..Checkpoint::default()
        }
    }

    /// The last snapshot is durable.
    pub(super) fn saved(&mut self) {
        self.saved = self.snapshots;
    }

    /// The next first try of a turn may start.
    fn release(&mut self, turn: &str) {
        if let Some(queue) = self.busy.get_mut(turn) {
            match queue.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => drop(self.busy.remove(turn)),
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
