//! A made-up receiver and journal around the lanes: answers fail at random, come in any order, and the process is
//! killed between any two steps.

use std::collections::HashMap;

use super::*;
use crate::event::{Entry, Event, Micros};
use crate::journal::deliveries::Wish;
use crate::journal::webhooks::Status;
use crate::outlet::webhook::attempt::Outcome;

const EVENTS: i64 = 300;
const KEYS: i64 = 7;

fn entry(position: i64) -> Entry {
    let event = Event {
        id: format!("e{position}"),
        source: "cart".into(),
        r#type: "T".into(),
        aggregate_type: "Cart".into(),
        aggregate_id: (position % KEYS).to_string(),
        aggregate_version: None,
        occurred_at: Micros(0),
        data: position.to_string(),
        metadata: None,
    };
    Entry { position, event, ..Entry::default() }
}

fn webhook() -> WebhookRow {
    WebhookRow { id: "w".into(), status: Status::Active, ..WebhookRow::default() }
}

fn delivery_of(position: i64) -> Delivery {
    let entry = entry(position);
    let turn = entry.event.key();
    Delivery { position, event_id: entry.event.id, key: turn.clone(), turn, ..Delivery::default() }
}

fn lanes_of(row: &WebhookRow, failing: Vec<DeliveryRow>, schedule: &[Duration], concurrency: usize) -> Lanes {
    let pace = Arc::new(Mutex::new(Pace::new(concurrency, &[], schedule)));
    let rules = Rules {
        schedule: schedule.to_vec(),
        concurrency,
        on_exhausted: OnExhausted::Skip,
        is_batched: false,
        ordering: Ordering::Key,
        pace,
    };
    Lanes::new(row, row.cursor, failing, rules, 0)
}

fn first(lanes: &mut Lanes, now: i64) -> Option<(Box<Delivery>, i64)> {
    match lanes.start(now) {
        Some(Start::First { delivery, started }) => Some((delivery, started)),
        _ => None,
    }
}

/// Small and always the same: a failure can be looked at again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % n as u64).expect("small")
    }
}

/// What survives a kill.
struct Stored {
    row: WebhookRow,
    failing: HashMap<String, DeliveryRow>,
    dead: Vec<i64>,
}

impl Stored {
    fn write(&mut self, checkpoint: Checkpoint) {
        assert!(checkpoint.cursor >= self.row.cursor, "a cursor never goes back");
        self.row.cursor = checkpoint.cursor;
        self.dead.extend(checkpoint.dead.iter().map(|row| row.position));
        for (key, row) in checkpoint.rows {
            let before = self.failing.remove(&key);
            if let Some(mut row) = row {
                row.body =
                    row.body.or(before.filter(|before| before.position == row.position).and_then(|before| before.body));
                assert!(row.attempts == 0 || row.body.is_some(), "the bytes of the first failure are kept");
                self.failing.insert(key, row);
            }
        }
    }

    fn lanes(&self, concurrency: usize) -> Lanes {
        let schedule = [Duration::from_millis(1), Duration::from_millis(4)];
        lanes_of(&self.row, self.failing.values().cloned().collect(), &schedule, concurrency)
    }
}

/// Calls by the order of their answers: (event, attempt, delivered).
type Calls = Vec<(i64, i64, bool)>;

fn answer(start: Start, chance: &mut Chance, now: i64, calls: &mut Calls) -> Done {
    let mut outcome = |delivery: &Delivery, attempt: i64| {
        let fails = chance.below(4) == 0;
        calls.push((delivery.position, attempt, !fails));
        Outcome { started_at: now, error: fails.then_some("status"), ..Outcome::default() }
    };
    match start {
        Start::First { delivery, started } => {
            let outcome = outcome(&delivery, 1);
            Done::First { delivery, started, outcome }
        }
        Start::Retry(retry) => {
            let next = (retry.position..=retry.through).find(|position| entry(*position).event.key() == retry.turn);
            match next {
                Some(position) => {
                    let delivery = delivery_of(position);
                    let outcome = outcome(&delivery, retry.attempts + 1);
                    Done::Retry { delivery, started: retry.started, outcome }
                }
                None => Done::NoneLeft { turn: retry.turn, through: retry.through },
            }
        }
    }
}

fn simulate(seed: u64, kills: bool) -> (Calls, Stored) {
    let mut chance = Chance(seed);
    let concurrency = 1 + chance.below(8);
    let mut stored = Stored { row: webhook(), failing: HashMap::new(), dead: Vec::new() };
    let (mut lanes, mut in_flight, mut calls, mut now) = (stored.lanes(concurrency), Vec::new(), Vec::new(), 1);
    for _ in 0..200_000 {
        now += 500;
        match chance.below(8) {
            0 => {
                if let Some((after, room)) = lanes.room(now) {
                    let last = (after + 1 + i64::try_from(chance.below(room)).expect("small")).min(EVENTS);
                    lanes.take((after + 1..=last).map(delivery_of), last);
                }
            }
            1 => {
                let checkpoint = lanes.snapshot("w");
                stored.write(checkpoint);
                lanes.saved();
            }
            2 if kills && chance.below(40) == 0 => {
                in_flight.clear();
                lanes = stored.lanes(concurrency);
            }
            3..=5 => in_flight.extend(lanes.start(now)),
            _ if !in_flight.is_empty() => {
                let start = in_flight.swap_remove(chance.below(in_flight.len()));
                lanes.settle(answer(start, &mut chance, now, &mut calls), now);
            }
            _ => {}
        }
        assert!(in_flight.len() <= concurrency);
        if stored.row.cursor == EVENTS && stored.failing.is_empty() {
            return (calls, stored);
        }
    }
    panic!("seed {seed} does not come to an end: cursor {}, {} failing", stored.row.cursor, stored.failing.len());
}

#[test]
fn everything_arrives_or_is_dead_and_each_key_in_order_through_failures_and_kills() {
    for seed in 0..200 {
        let kills = seed % 2 == 0;
        let (calls, stored) = simulate(seed, kills);
        let mut last: HashMap<i64, i64> = HashMap::new();
        let mut seen = vec![false; usize::try_from(EVENTS).expect("small") + 1];
        for (position, attempt, delivered) in &calls {
            let index = usize::try_from(*position).expect("positive");
            if !seen[index] && *delivered {
                let before = last.insert(position % KEYS, *position).unwrap_or(0);
                assert!(before < *position, "seed {seed}: {position} after {before}");
            }
            assert!(
                kills || !seen[index],
                "seed {seed}: {position} was called again, attempt {attempt}, after a success"
            );
            seen[index] |= *delivered;
        }
        let missing: Vec<i64> = (1..=EVENTS).filter(|p| !seen[usize::try_from(*p).expect("small")]).collect();
        assert!(
            missing.iter().all(|position| stored.dead.contains(position)),
            "seed {seed}: {missing:?} neither arrived nor dead"
        );
        assert!(!kills || calls.len() < 3_000, "seed {seed}: {} calls for {EVENTS} events", calls.len());
    }
}

#[test]
fn healthy_deliveries_leave_no_rows_and_one_call_each() {
    let mut lanes = lanes_of(&webhook(), Vec::new(), &[], 4);
    lanes.take((1..=20).map(delivery_of), 25);
    while let Some((delivery, started)) = first(&mut lanes, 0) {
        assert!(lanes.cursor() < delivery.position);
        lanes.settle(Done::First { delivery, started, outcome: Outcome::default() }, 0);
    }
    let checkpoint = lanes.snapshot("w");
    assert_eq!((checkpoint.cursor, checkpoint.attempts.len()), (25, 20));
    assert!(checkpoint.rows.is_empty() && checkpoint.dead.is_empty());
}

#[test]
fn a_failing_key_does_not_hold_the_others() {
    let mut lanes = lanes_of(&webhook(), Vec::new(), &[Duration::from_secs(5)], 2);
    lanes.take((1..=EVENTS / 2).map(delivery_of), EVENTS / 2);
    let mut calls = 0;
    while let Some((delivery, started)) = first(&mut lanes, 0) {
        calls += 1;
        let fails = delivery.position % KEYS == 1;
        lanes.settle(
            Done::First {
                delivery,
                started,
                outcome: Outcome { error: fails.then_some("status"), ..Outcome::default() },
            },
            0,
        );
    }
    assert_eq!(calls, EVENTS / 2 - (EVENTS / 2 + KEYS - 2) / KEYS + 1, "all of the other keys, and one of this");
    let checkpoint = lanes.snapshot("w");
    assert_eq!(checkpoint.cursor, EVENTS / 2);
    assert_eq!(checkpoint.rows.len(), 1, "one row a key, not one an event");
}

#[test]
fn a_410_disables_and_is_tried_alone_first_after_resume() {
    let mut lanes = lanes_of(&webhook(), Vec::new(), &[], 4);
    lanes.take((1..=5).map(delivery_of), 5);
    let Some((delivery, started)) = first(&mut lanes, 0) else { panic!("a first try") };
    let outcome = Outcome { status: Some(410), error: Some("status"), ..Outcome::default() };
    lanes.settle(Done::First { delivery, started, outcome }, 0);
    assert!(lanes.has_ended());
    let checkpoint = lanes.snapshot("w");
    assert!(checkpoint.ends.is_some_and(|(status, reason)| status == Status::Disabled && reason.contains("e1")));
    let row = WebhookRow { cursor: checkpoint.cursor, ..webhook() };
    let failing = checkpoint.rows.into_iter().filter_map(|(_, row)| row).collect();
    let mut resumed = lanes_of(&row, failing, &[], 4);
    resumed.take((2..=5).map(delivery_of), 5);
    let Some(Start::Retry(retry)) = resumed.start(1) else { panic!("the refused one first") };
    assert_eq!((retry.position, retry.attempts), (1, 1));
    assert!(resumed.start(1).is_none(), "and alone");
    resumed.settle(Done::Retry { delivery: delivery_of(1), started: 1, outcome: Outcome::default() }, 1);
    assert!(matches!(resumed.start(1), Some(Start::Retry(_) | Start::First { .. })));
}

#[test]
fn at_a_thousand_failing_keys_the_cursor_stands_still() {
    let mut lanes = lanes_of(&webhook(), Vec::new(), &[Duration::from_secs(5)], 8);
    while let Some((after, room)) = lanes.room(0) {
        let last = after + i64::try_from(room).expect("small");
        let own_turn = |position: i64| Delivery { turn: position.to_string(), ..delivery_of(position) };
        lanes.take((after + 1..=last).map(own_turn), last);
        while let Some((delivery, started)) = first(&mut lanes, 0) {
            // It is not down: a few arrive.
            let fails = delivery.position % 5 != 0;
            let outcome = Outcome { error: fails.then_some("connect"), ..Outcome::default() };
            lanes.settle(Done::First { delivery, started, outcome }, 0);
            if lanes.unsaved() > 500 {
                lanes.snapshot("w");
                lanes.saved();
            }
        }
    }
    assert_eq!((lanes.parked.len(), lanes.cursor() >= 1_000), (1_000, true));
}

#[test]
fn a_receiver_that_is_down_gets_single_calls_and_nothing_new_is_read() {
    let schedule = [Duration::from_secs(5), Duration::from_secs(600)];
    let mut lanes = lanes_of(&webhook(), Vec::new(), &schedule, 8);
    let mut calls = 0;
    let (after, room) = lanes.room(0).expect("room");
    let last = after + i64::try_from(room).expect("small");
    lanes.take(
        (after + 1..=last).map(|position| Delivery { turn: position.to_string(), ..delivery_of(position) }),
        last,
    );
    while let Some((delivery, started)) = first(&mut lanes, 0) {
        calls += 1;
        let outcome = Outcome { error: Some("connect"), ..Outcome::default() };
        lanes.settle(Done::First { delivery, started, outcome }, 0);
    }
    assert_eq!((calls, lanes.room(0)), (10, None));
    lanes.snapshot("w");
    lanes.saved();
    let open_until = lanes.next_due(0).expect("a time");
    assert_eq!(open_until, 5_000_000);
    let Some(Start::First { delivery, started }) = lanes.start(open_until) else { panic!("a look whether it is up") };
    assert!(lanes.start(open_until).is_none(), "one at a time");
    lanes.settle(Done::First { delivery, started, outcome: Outcome::default() }, open_until);
    let waiting = lanes.parked.values().filter(|parked| parked.row.next_attempt_at == Some(open_until)).count();
    assert_eq!(waiting, 10, "whoever waited for it goes at once");
    assert!(!lanes.pace().is_down(open_until));
}

#[test]
fn a_dead_event_is_skipped_holds_its_turn_or_pauses() {
    for (policy, dead, ends) in
        [(OnExhausted::Skip, 1, None), (OnExhausted::HoldKey, 0, None), (OnExhausted::Pause, 0, Some(Status::Paused))]
    {
        let mut lanes = lanes_of(&webhook(), Vec::new(), &[], 4);
        lanes.rules.on_exhausted = policy;
        lanes.take([delivery_of(1), delivery_of(1 + KEYS)], 1 + KEYS);
        let (delivery, started) = first(&mut lanes, 0).expect("a first try");
        let outcome = Outcome { status: Some(500), error: Some("status"), ..Outcome::default() };
        lanes.settle(Done::First { delivery, started, outcome }, 0);
        let checkpoint = lanes.snapshot("w");
        lanes.saved();
        assert_eq!((checkpoint.dead.len(), checkpoint.ends.map(|(status, _)| status)), (dead, ends), "{policy:?}");
        let (turn, row) = checkpoint.rows.into_iter().next().expect("a row");
        let row = row.expect("its turn goes on or waits");
        assert_eq!(row.position == 1, policy != OnExhausted::Skip, "{policy:?}");
        assert_eq!(row.next_attempt_at.is_none(), policy == OnExhausted::HoldKey, "{policy:?}");
        if policy == OnExhausted::HoldKey {
            assert!(lanes.start(i64::MAX / 2).is_none(), "it stands still");
            let asked = DeliveryRow { position: 1, turn, wish: Wish::Discard, ..DeliveryRow::default() };
            assert!(lanes.wish(&asked, &[1], 1));
            let checkpoint = lanes.snapshot("w");
            lanes.saved();
            assert_eq!(checkpoint.discarded.len(), 1);
            assert!(matches!(lanes.start(1), Some(Start::Retry(Retry { position: 2, .. }))));
        }
    }
}

#[test]
fn who_gets_nothing_for_three_days_is_disabled() {
    let hours = |hours: i64| hours * 3_600 * 1_000_000;
    for (since, failures, ends) in [(hours(1), 9, true), (hours(1), 8, false), (hours(2), 9, false)] {
        let row = WebhookRow { failing_since: Some(since), failures, ..webhook() };
        let mut lanes = lanes_of(&row, Vec::new(), &[Duration::from_secs(5)], 1);
        lanes.take([delivery_of(1)], 1);
        let now = hours(73);
        let (delivery, started) = first(&mut lanes, now).expect("a first try");
        let outcome = Outcome { error: Some("timeout"), ..Outcome::default() };
        lanes.settle(Done::First { delivery, started, outcome }, now);
        assert_eq!(lanes.has_ended(), ends, "{since} {failures}");
    }
}
