//! What becomes of turns whose event failed: parked, tried again, given up, let go on.

use std::time::Duration;

use super::{DISABLED_AFTER, DISABLED_FAILURES, Lanes, Parked};
use crate::event::Micros;
use crate::journal::deliveries::{AttemptRow, DeliveryRow, Wish};
use crate::journal::webhooks::Status;
use crate::outlet::webhook::attempt::{Delivery, Outcome, wait_after};
use crate::outlet::webhook::definition::OnExhausted;

impl Lanes {
    /// What its owner asks for. `false`: a call is in flight, it must be asked again.
    pub(in super::super) fn wish(&mut self, asked: &DeliveryRow, positions: &[i64], now: i64) -> bool {
        let Some(parked) = self.parked.get_mut(&asked.turn).filter(|parked| parked.row.position == asked.position)
        else {
            return true;
        };
        if parked.is_called {
            return false;
        }
        parked.row.wish = Wish::Done;
        self.wants_save = true;
        if let Some(at) = parked.row.next_attempt_at {
            self.due.remove(&(at, asked.turn.clone()));
        }
        if asked.wish == Wish::Resend {
            parked.row.next_attempt_at = Some(now);
            self.due.insert((now, asked.turn.clone()));
            self.changed.insert(asked.turn.clone());
        } else {
            let row = DeliveryRow { next_attempt_at: None, body: None, ..parked.row.clone() };
            let last = row.through.unwrap_or(row.position);
            // Of a batch each event by itself.
            let of = |position: &i64| DeliveryRow {
                position: *position,
                through: None,
                batch: None,
                events: None,
                ..row.clone()
            };
            self.discarded.extend(positions.iter().map(of));
            self.go_on(asked.turn.clone(), last + 1, now, self.snapshots + 1);
        }
        true
    }

    /// Lets the breaker and the rates know, and those go at once that waited for a receiver that could not be reached.
    pub(super) fn called(&mut self, started: i64, outcome: &Outcome, now: i64) {
        if !self.pace().settled(started, outcome, now) {
            return;
        }
        let waits = |parked: &Parked| {
            let unreachable = matches!(parked.row.last_error.as_deref(), Some("dns" | "connect" | "tls" | "timeout"));
            unreachable && parked.row.next_attempt_at.is_some_and(|at| at > now)
        };
        for (turn, parked) in self.parked.iter_mut().filter(|(_, parked)| !parked.is_called && waits(parked)) {
            self.due.remove(&(parked.row.next_attempt_at.unwrap_or(0), turn.clone()));
            parked.row.next_attempt_at = Some(now);
            self.due.insert((now, turn.clone()));
        }
    }

    pub(super) fn due_turn(&mut self, now: i64) -> Option<String> {
        for (at, turn) in &self.due {
            if *at > now {
                return None;
            }
            if !self.probes.is_empty() && !self.probes.contains(turn) {
                continue;
            }
            let parked = &self.parked[turn];
            if parked.waits_for <= self.saved {
                return Some(turn.clone());
            }
            // Not while it is being written already.
            self.wants_save |= parked.waits_for > self.snapshots;
        }
        None
    }

    pub(super) fn log(&mut self, delivery: &Delivery, attempt: i64, outcome: &Outcome, now: i64) {
        if let Some(error) = outcome.error {
            if self.failing_since.is_none() {
                let what = outcome.status.map_or_else(|| error.to_owned(), |status| format!("status {status}"));
                self.happened.push(("postern.webhook.failing", Some(format!("event {}: {what}", delivery.event_id))));
            }
            let since = *self.failing_since.get_or_insert(outcome.started_at);
            self.failures += 1;
            if now - since >= DISABLED_AFTER.0 && self.failures >= DISABLED_FAILURES && self.ends.is_none() {
                let since = Micros(since).to_text();
                self.end(Status::Disabled, format!("no success since {since}, {} calls failed", self.failures));
            }
        } else {
            if self.failing_since.take().is_some() {
                self.happened.push(("postern.webhook.recovered", None));
            }
            self.failures = 0;
            self.last_success_at = Some(outcome.started_at);
        }
        let row = |position: i64, answer: Option<String>| AttemptRow {
            position,
            attempt,
            started_at: outcome.started_at,
            duration_ms: outcome.duration_ms,
            status: outcome.status.map(i64::from),
            error: outcome.error.map(str::to_owned),
            answer,
            ..AttemptRow::default()
        };
        self.attempts.push(row(delivery.position, outcome.answer.clone()));
        // What was answered stands with the first.
        self.attempts.extend(delivery.batch.iter().skip(1).map(|position| row(*position, None)));
    }

    pub(super) fn end(&mut self, status: Status, reason: String) {
        let what = if status == Status::Paused { "postern.webhook.paused" } else { "postern.webhook.disabled" };
        self.happened.push((what, Some(reason.clone())));
        self.ends = Some((status, reason));
    }

    /// Parks the turn at this event, or behind it if the event is dead.
    pub(super) fn fail(&mut self, delivery: Delivery, attempts: i64, outcome: &Outcome, now: i64) {
        let gone = outcome.status == Some(410);
        let wait = wait_after(&self.rules.schedule, attempts, outcome.retry_after);
        let wait = if gone { Some(Duration::ZERO) } else { wait };
        let mut next = wait.map(|wait| now.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)));
        let event = delivery.event_id.clone();
        if gone {
            let reason = format!("the receiver answered 410 to event {event}; Resume tries it again first");
            self.end(Status::Disabled, reason);
        }
        let mut is_held = false;
        if next.is_none() {
            self.happened.push(("postern.webhook.exhausted", Some(format!("event {event} failed {attempts} times"))));
            match self.rules.on_exhausted {
                OnExhausted::Skip => {}
                OnExhausted::HoldKey => is_held = true,
                OnExhausted::Pause => {
                    let reason = format!("event {event} failed {attempts} times; Resume tries it again first");
                    self.end(Status::Paused, reason);
                    next = Some(now);
                }
            }
        }
        let row = DeliveryRow {
            position: delivery.position,
            turn: delivery.turn,
            event_id: Some(delivery.event_id),
            r#type: Some(delivery.r#type),
            attempts,
            next_attempt_at: next,
            last_attempt_at: Some(outcome.started_at),
            last_status: outcome.status.map(i64::from),
            last_error: outcome.error.map(str::to_owned),
            // Kept from the first failure on: later attempts read it from the row.
            body: (attempts == 1 && delivery.batch.is_empty()).then(|| delivery.body.to_vec()),
            format: Some(delivery.format.word().to_owned()),
            ..DeliveryRow::default()
        };
        let saved = self.snapshots + 1;
        if next.is_none() && !is_held {
            let last = delivery.batch.last().copied().unwrap_or(row.position);
            // Of a batch each event is dead by itself.
            let others =
                delivery.batch.iter().skip(1).map(|position| DeliveryRow { position: *position, ..row.clone() });
            self.dead.extend(others);
            let turn = row.turn.clone();
            self.dead.push(row);
            self.go_on(turn, last + 1, now, saved);
        } else if let Some(last) = delivery.batch.last() {
            let (batch, events) = (row.event_id.clone(), i64::try_from(delivery.batch.len()).ok());
            self.park(DeliveryRow { batch, events, through: Some(*last), ..row }, saved);
        } else {
            self.park(row, saved);
        }
    }

    /// The turn's row now says to go on from `position`, once the given checkpoint is saved.
    pub(super) fn go_on(&mut self, turn: String, position: i64, now: i64, waits_for: u64) {
        self.park(DeliveryRow { position, turn, next_attempt_at: Some(now), ..DeliveryRow::default() }, waits_for);
    }

    pub(super) fn park(&mut self, row: DeliveryRow, waits_for: u64) {
        let turn = row.turn.clone();
        if let Some(at) = row.next_attempt_at {
            self.due.insert((at, turn.clone()));
        }
        self.changed.insert(turn.clone());
        let (mut row, mut last_follower) = (row, 0);
        if let Some(known) = self.parked.get(&turn) {
            last_follower = known.last_follower;
            row.until = known.row.until;
            // A wish that was fulfilled and is not written yet.
            if known.row.position == row.position {
                row.wish = known.row.wish;
            }
        }
        self.parked.insert(turn, Parked { row, is_called: false, last_follower, waits_for });
    }

    pub(super) fn put(&mut self, turn: String, again_at: i64) {
        if let Some(parked) = self.parked.get_mut(&turn) {
            parked.is_called = false;
            parked.row.next_attempt_at = Some(again_at);
            self.due.insert((again_at, turn));
        }
    }

    /// What waited behind a first try that failed now stands behind its row.
    pub(super) fn pass_followers(&mut self, turn: &str) {
        for Delivery { position, body, .. } in self.busy.remove(turn).unwrap_or_default() {
            self.held_bytes -= body.len();
            self.settle_slot(position);
            if let Some(parked) = self.parked.get_mut(turn) {
                parked.last_follower = position;
            }
        }
    }
}
