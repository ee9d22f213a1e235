//! A made-up receiver and journal around the lanes: answers fail at random, come in any order, and the process is
//! killed between any two steps.

use std::collections::HashMap;

use super::*;
use crate::event::{Event, Micros};
use crate::journal::webhooks::Status;

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
    Entry {
        position,
        event,
        recorded_at: Micros(0),
        feed_time: Micros(0),
        late: false,
        erased_at: None,
        erases: None,
        summary: String::new(),
    }
}

fn webhook() -> WebhookRow {
    WebhookRow {
        id: "w".into(),
        owner: String::new(),
        revision: 1,
        url: String::new(),
        definition: String::new(),
        secrets: Vec::new(),
        status: Status::Active,
        status_reason: None,
        cursor: 0,
        created_at: 0,
        updated_at: 0,
        failing_since: None,
        last_success_at: None,
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
        for (key, row) in checkpoint.failing {
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
        let schedule = vec![Duration::from_millis(1), Duration::from_millis(4)];
        Lanes::new(&self.row, self.failing.values().cloned().collect(), schedule, concurrency)
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
        Start::First(delivery) => {
            let outcome = outcome(&delivery, 1);
            Done::First { delivery, outcome }
        }
        Start::Retry(retry) => {
            let next = (retry.position..=retry.through).find(|position| entry(*position).event.key() == retry.key);
            match next {
                Some(position) => {
                    let delivery = Delivery::of(&entry(position));
                    let outcome = outcome(&delivery, retry.attempts + 1);
                    Done::Retry { delivery, outcome }
                }
                None => Done::NoneLeft { key: retry.key, through: retry.through },
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
                if let Some((after, room)) = lanes.room() {
                    let last = (after + 1 + i64::try_from(chance.below(room)).expect("small")).min(EVENTS);
                    lanes.take((after + 1..=last).map(entry).collect(), last);
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
    let mut lanes = Lanes::new(&webhook(), Vec::new(), Vec::new(), 4);
    lanes.take((1..=20).map(entry).collect(), 25);
    while let Some(Start::First(delivery)) = lanes.start(0) {
        assert!(lanes.cursor() < delivery.position);
        lanes.settle(Done::First { delivery, outcome: Outcome::default() }, 0);
    }
    let checkpoint = lanes.snapshot("w");
    assert_eq!((checkpoint.cursor, checkpoint.attempts.len()), (25, 20));
    assert!(checkpoint.failing.is_empty() && checkpoint.dead.is_empty());
}

#[test]
fn a_failing_key_does_not_hold_the_others() {
    let mut lanes = Lanes::new(&webhook(), Vec::new(), vec![Duration::from_secs(5)], 2);
    lanes.take((1..=EVENTS / 2).map(entry).collect(), EVENTS / 2);
    let mut calls = 0;
    while let Some(Start::First(delivery)) = lanes.start(0) {
        calls += 1;
        let fails = delivery.position % KEYS == 1;
        lanes.settle(
            Done::First { delivery, outcome: Outcome { error: fails.then_some("status"), ..Outcome::default() } },
            0,
        );
    }
    assert_eq!(calls, EVENTS / 2 - (EVENTS / 2 + KEYS - 2) / KEYS + 1, "all of the other keys, and one of this");
    let checkpoint = lanes.snapshot("w");
    assert_eq!(checkpoint.cursor, EVENTS / 2);
    assert_eq!(checkpoint.failing.len(), 1, "one row a key, not one an event");
}

#[test]
fn a_410_disables_and_is_tried_alone_first_after_resume() {
    let mut lanes = Lanes::new(&webhook(), Vec::new(), Vec::new(), 4);
    lanes.take((1..=5).map(entry).collect(), 5);
    let Some(Start::First(delivery)) = lanes.start(0) else { panic!("a first try") };
    let outcome = Outcome { status: Some(410), error: Some("status"), ..Outcome::default() };
    lanes.settle(Done::First { delivery, outcome }, 0);
    assert!(lanes.is_disabled());
    let checkpoint = lanes.snapshot("w");
    assert!(checkpoint.disabled.is_some_and(|reason| reason.contains("e1")));
    let row = WebhookRow { cursor: checkpoint.cursor, ..webhook() };
    let failing = checkpoint.failing.into_iter().filter_map(|(_, row)| row).collect();
    let mut resumed = Lanes::new(&row, failing, Vec::new(), 4);
    resumed.take((2..=5).map(entry).collect(), 5);
    let Some(Start::Retry(retry)) = resumed.start(1) else { panic!("the refused one first") };
    assert_eq!((retry.position, retry.attempts), (1, 1));
    assert!(resumed.start(1).is_none(), "and alone");
    resumed.settle(Done::Retry { delivery: Delivery::of(&entry(1)), outcome: Outcome::default() }, 1);
    assert!(matches!(resumed.start(1), Some(Start::Retry(_) | Start::First(_))));
}

#[test]
fn at_a_thousand_failing_keys_the_cursor_stands_still() {
    let mut lanes = Lanes::new(&webhook(), Vec::new(), vec![Duration::from_secs(5)], 8);
    while let Some((after, room)) = lanes.room() {
        let last = after + i64::try_from(room).expect("small");
        let mut page: Vec<Entry> = (after + 1..=last).map(entry).collect();
        page.iter_mut().for_each(|entry| entry.event.aggregate_id = entry.position.to_string());
        lanes.take(page, last);
        while let Some(Start::First(delivery)) = lanes.start(0) {
            let outcome = Outcome { error: Some("connect"), ..Outcome::default() };
            lanes.settle(Done::First { delivery, outcome }, 0);
            if lanes.unsaved() > 500 {
                lanes.snapshot("w");
                lanes.saved();
            }
        }
    }
    assert_eq!((lanes.cursor(), lanes.parked.len()), (1_000, 1_000));
}
