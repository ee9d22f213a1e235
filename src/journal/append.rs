//! Journaling a batch: what the inbox knows is dropped, the others get their positions, and the source's checkpoint is
//! written with them.

use std::collections::HashMap;

use tracing::debug;

use super::db::Conn;
use super::leases::Lease;
use super::writer::{HeadRow, Write};
use super::{Error, Journal, inbox, sources, types};
use crate::catalogue::Catalogue;
use crate::event::{Event, Micros};
use crate::telemetry::traces::{self, SpanKind, Step};

/// A batch of one source: what it read, and how far it has read.
#[derive(Clone, Debug, Default)]
pub struct Append {
    pub source: String,
    pub arrivals: Vec<Arrival>,
    pub quarantined: Vec<Quarantined>,
    /// Rows that were seen and stay inside.
    pub withheld: u64,
    /// The source's own JSON, kept as it is, written in the same transaction.
    pub checkpoint: Option<String>,
    /// Ids of quarantined rows of this source that stand there no longer.
    pub resolved: Vec<String>,
    /// Ids of quarantined rows that an operator gave up: they are not listed any more, but remembered.
    pub discarded: Vec<String>,
    /// Nothing is written for who has lost it.
    pub lease: Option<Lease>,
    /// All or nothing: known ids with other data and conflicts are errors.
    pub is_strict: bool,
}

/// An event on its way into the journal.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub event: Event,
    /// Its number in the source, for the one who has to find the row.
    pub sequence: Option<i64>,
    pub summary: String,
    /// Why its data does not fit its schema, where that is counted.
    pub mismatch: Option<String>,
    pub late: bool,
}

impl Arrival {
    /// An event with what the catalogue says of it.
    pub fn new(catalogue: &Catalogue, event: Event, sequence: Option<i64>, late: bool) -> Self {
        let (summary, mismatch) = (catalogue.summary(&event), catalogue.reports(&event));
        Self { event, sequence, summary, mismatch, late }
    }
}

/// A row that could not become an event.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub event_id: Option<String>,
    pub sequence: Option<String>,
    /// A stable word, such as `bad-json`.
    pub reason: &'static str,
    pub detail: String,
    pub raw: String,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Appended {
    pub journaled: u64,
    /// Known already, with the same data.
    pub duplicates: u64,
    /// Known already, with other data: dropped.
    pub changed: u64,
    /// The same public id from another source, or with another type or aggregate: quarantined.
    pub conflicts: u64,
    /// The position of the first one that was journaled; the others follow it.
    pub first: Option<i64>,
}

impl Journal {
    /// Journals a batch: all of it with its checkpoint, or nothing. Positions follow the order given. Events that are
    /// known are dropped, so a batch may be offered again after a crash. Returns when it is durable.
    ///
    /// # Errors
    /// The database; nothing was written then.
    pub async fn append(&self, append: Append) -> Result<Appended, Error> {
        let mut steps = if traces::are_on() { steps(&append) } else { Vec::new() };
        let appended = self.inner.writer.write(Write::Append(append)).await;
        if appended.is_err() {
            steps.iter_mut().for_each(|step| step.fail("journal"));
        }
        appended
    }
}

/// Of the traces that events are part of.
fn steps(append: &Append) -> Vec<Step> {
    let step = |event: &Event| {
        let trace = event.trace_context()?;
        let mut step = Step::start(SpanKind::Consumer, || format!("journal {}", event.r#type), Some(trace.both()));
        step.note("cloudevents.event_id", event.id.clone());
        step.note("cloudevents.event_source", event.source.clone());
        step.note("cloudevents.event_type", event.r#type.clone());
        Some(step)
    };
    append.arrivals.iter().filter_map(|arrival| step(&arrival.event)).collect()
}

/// A new event with its position.
pub(super) struct Placed<'a> {
    pub(super) arrival: &'a Arrival,
    pub(super) head: HeadRow,
    pub(super) known: Known,
}

/// What the inbox remembers of an event.
#[derive(Clone, Copy)]
pub(super) struct Known {
    pub(super) identity: i64,
    pub(super) content: i64,
}

impl Known {
    /// `bytes` is room to work in, so that a batch allocates it once.
    fn of(event: &Event, bytes: &mut Vec<u8>) -> Self {
        bytes.clear();
        for part in [&event.source, &event.r#type, &event.aggregate_type, &event.aggregate_id] {
            close(bytes, part);
        }
        let identity = short_hash(bytes);
        bytes.clear();
        close(bytes, &event.data);
        close(bytes, event.metadata.as_deref().unwrap_or_default());
        close(bytes, &event.aggregate_version.map_or(String::new(), |version| version.to_string()));
        close(bytes, &event.occurred_at.0.to_string());
        Self { identity, content: short_hash(bytes) }
    }
}

/// A part, closed by its length.
fn close(bytes: &mut Vec<u8>, part: &str) {
    bytes.extend_from_slice(part.as_bytes());
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
}

/// Eight bytes of SHA-256.
fn short_hash(bytes: &[u8]) -> i64 {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    i64::from_be_bytes(digest.as_ref()[..8].try_into().expect("a SHA-256 digest has 32 bytes"))
}

/// Runs in the writer's transaction, under the head's lock.
pub(super) async fn apply_append(conn: &mut Conn, head: &mut HeadRow, append: &Append) -> Result<Appended, Error> {
    let mut appended = Appended::default();
    let ids: Vec<&str> = append.arrivals.iter().map(|arrival| arrival.event.id.as_str()).collect();
    let taken = inbox::read(conn, &ids).await?;
    let mut known: HashMap<&str, Known> = taken.iter().map(|(id, known)| (id.as_str(), *known)).collect();
    let mut placed = Vec::with_capacity(append.arrivals.len());
    let (mut conflicts, mut bytes) = (Vec::new(), Vec::new());
    for arrival in &append.arrivals {
        let this = Known::of(&arrival.event, &mut bytes);
        match known.get(arrival.event.id.as_str()) {
            Some(other) if append.is_strict && (other.identity, other.content) != (this.identity, this.content) => {
                let is_same_event = other.identity == this.identity;
                let what = if is_same_event {
                    "with other data"
                } else {
                    "from another source, or of another type or aggregate"
                };
                return Err(Error::Conflict { id: arrival.event.id.clone(), what });
            }
            Some(other) if other.identity != this.identity => {
                appended.conflicts += 1;
                conflicts.push(conflict(arrival));
            }
            Some(other) if other.content != this.content => {
                debug!(event.id = %arrival.event.id, "dropped: the journal has this event with other data");
                appended.changed += 1;
            }
            Some(_) => appended.duplicates += 1,
            None => {
                appended.journaled += 1;
                known.insert(&arrival.event.id, this);
                placed.push(Placed { arrival, head: head.advance(arrival.event.occurred_at), known: this });
            }
        }
    }
    appended.first = placed.first().map(|placed: &Placed<'_>| placed.head.position);
    inbox::insert(conn, &placed).await?;
    types::count(conn, &placed).await?;
    // More or fewer in quarantine.
    let mut quarantined = 0;
    for id in &append.resolved {
        quarantined -= sources::delete_quarantined(conn, &append.source, id).await?.cast_signed();
    }
    for id in &append.discarded {
        quarantined -= sources::discard_quarantined(conn, &append.source, id).await?.cast_signed();
    }
    for row in append.quarantined.iter().chain(&conflicts) {
        quarantined += sources::insert_quarantined(conn, &append.source, row, head.now).await?.cast_signed();
    }
    if !append.source.is_empty() {
        sources::update(conn, append, &appended, quarantined, head.now).await?;
    }
    Ok(appended)
}

/// An id for a record.
pub(super) fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// A record of our own about something else, which happened now.
pub(super) struct Record {
    /// A new one.
    pub(super) id: String,
    pub(super) source: String,
    pub(super) r#type: &'static str,
    pub(super) aggregate_type: String,
    pub(super) aggregate_id: String,
    pub(super) data: serde_json::Value,
    pub(super) summary: String,
}

/// Journals records in the writer's transaction, under the head's lock.
pub(super) async fn apply_records(
    conn: &mut Conn,
    head: &mut HeadRow,
    records: impl IntoIterator<Item = Record>,
) -> Result<Appended, Error> {
    let now = Micros(head.now);
    let arrival = |record: Record| Arrival {
        event: Event {
            id: record.id,
            source: record.source,
            r#type: record.r#type.to_owned(),
            aggregate_type: record.aggregate_type,
            aggregate_id: record.aggregate_id,
            aggregate_version: None,
            occurred_at: now,
            data: record.data.to_string(),
            metadata: None,
        },
        sequence: None,
        summary: record.summary,
        mismatch: None,
        late: false,
    };
    let arrivals: Vec<Arrival> = records.into_iter().map(arrival).collect();
    let known = Known { identity: 0, content: 0 };
    let place = |arrival| Placed { arrival, head: head.advance(now), known };
    let placed: Vec<Placed<'_>> = arrivals.iter().map(place).collect();
    inbox::insert(conn, &placed).await?;
    types::count(conn, &placed).await?;
    let first = placed.first().map(|placed| placed.head.position);
    Ok(Appended { journaled: placed.len() as u64, first, ..Appended::default() })
}

fn conflict(arrival: &Arrival) -> Quarantined {
    let event = &arrival.event;
    let raw = serde_json::json!({
        "id": event.id, "type": event.r#type, "aggregateType": event.aggregate_type, "aggregateId": event.aggregate_id,
        "aggregateVersion": event.aggregate_version, "occurredAt": event.occurred_at.to_text(),
        "data": event.data, "metadata": event.metadata,
    });
    Quarantined {
        event_id: Some(event.id.clone()),
        sequence: arrival.sequence.map(|sequence| sequence.to_string()),
        reason: "conflicting-id",
        detail: format!(
            "event id `{}` is in the journal already, from another source or with another type or aggregate; \
             this row is {} of {}/{}",
            event.id, event.r#type, event.aggregate_type, event.aggregate_id
        ),
        raw: raw.to_string(),
    }
}
