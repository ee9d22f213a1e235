//! Journaling a batch: what the inbox knows is dropped, the others get their positions, and the source's checkpoint is
//! written with them.

use std::collections::HashMap;
use std::sync::LazyLock;

use tracing::debug;

use super::db::{Conn, with_conn};
use super::writer::{HeadRow, Write};
use super::{Error, Journal, sources};
use crate::event::Event;

/// Rows in one statement. Two sizes, so that few texts are prepared.
const ROWS: [usize; 2] = [100, 1];

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
}

/// An event on its way into the journal.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub event: Event,
    /// Its number in the source, for the one who has to find the row.
    pub sequence: Option<i64>,
    pub summary: String,
    pub late: bool,
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
}

impl Journal {
    /// Journals a batch: all of it with its checkpoint, or nothing. Positions follow the order given. Events that are
    /// known are dropped, so a batch may be offered again after a crash. Returns when it is durable.
    ///
    /// # Errors
    /// The database; nothing was written then.
    pub async fn append(&self, append: Append) -> Result<Appended, Error> {
        self.inner.writer.write(Write::Append(append)).await
    }
}

struct Placed<'a> {
    arrival: &'a Arrival,
    head: HeadRow,
    known: Known,
}

/// What the inbox remembers of an event.
#[derive(Clone, Copy)]
struct Known {
    identity: i64,
    content: i64,
}

impl Known {
    fn of(event: &Event) -> Self {
        let version = event.aggregate_version.map_or(String::new(), |version| version.to_string());
        let metadata = event.metadata.as_deref().unwrap_or_default();
        let occurred_at = event.occurred_at.0.to_string();
        Self {
            identity: short_hash(&[&event.source, &event.r#type, &event.aggregate_type, &event.aggregate_id]),
            content: short_hash(&[&event.data, metadata, &version, &occurred_at]),
        }
    }
}

/// Eight bytes of SHA-256 over the parts, each closed by its length.
fn short_hash(parts: &[&str]) -> i64 {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part.as_bytes());
        context.update(&(part.len() as u64).to_be_bytes());
    }
    let digest = context.finish();
    i64::from_be_bytes(digest.as_ref()[..8].try_into().expect("a SHA-256 digest has 32 bytes"))
}

/// Runs in the writer's transaction, under the head's lock.
pub(super) async fn apply_append(conn: &mut Conn, head: &mut HeadRow, append: &Append) -> Result<Appended, Error> {
    let mut appended = Appended::default();
    let mut known = read_inbox(conn, &append.arrivals).await?;
    let mut placed = Vec::with_capacity(append.arrivals.len());
    let mut conflicts = Vec::new();
    for arrival in &append.arrivals {
        let this = Known::of(&arrival.event);
        match known.get(arrival.event.id.as_str()) {
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
                known.insert(arrival.event.id.clone(), this);
                placed.push(Placed { arrival, head: head.advance(arrival.event.occurred_at), known: this });
            }
        }
    }
    insert_placed(conn, &placed).await?;
    for row in append.quarantined.iter().chain(&conflicts) {
        sources::insert_quarantined(conn, &append.source, row, head.now).await?;
    }
    if !append.source.is_empty() {
        sources::update(conn, append, &appended, head.now).await?;
    }
    Ok(appended)
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

async fn read_inbox(conn: &mut Conn, arrivals: &[Arrival]) -> Result<HashMap<String, Known>, Error> {
    static TEXTS: LazyLock<Texts> = LazyLock::new(|| {
        Texts::new(|rows, bind| {
            let binds: Vec<String> = (1..=rows).map(bind).collect();
            format!("select event_id, identity, content from inbox where event_id in ({})", binds.join(", "))
        })
    });
    let mut known = HashMap::new();
    for (which, chunk) in chunks(arrivals) {
        let text = TEXTS.get(conn, which);
        let rows: Vec<(String, i64, i64)> = with_conn!(conn, c => {
            let mut query = sqlx::query_as(text);
            for arrival in chunk {
                query = query.bind(arrival.event.id.as_str());
            }
            query.fetch_all(c).await?
        });
        known.extend(rows.into_iter().map(|(id, identity, content)| (id, Known { identity, content })));
    }
    Ok(known)
}

async fn insert_placed(conn: &mut Conn, placed: &[Placed<'_>]) -> Result<(), Error> {
    static ENTRIES: LazyLock<Texts> = LazyLock::new(|| {
        let columns = "position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
                       occurred_at, recorded_at, feed_time, late, summary, data, metadata";
        Texts::new(|rows, bind| insert_text("entries", columns, 14, rows, bind))
    });
    static INBOX: LazyLock<Texts> = LazyLock::new(|| {
        let columns = "event_id, source, identity, content, position";
        Texts::new(|rows, bind| insert_text("inbox", columns, 5, rows, bind))
    });
    for (which, chunk) in chunks(placed) {
        let (entries, inbox) = (ENTRIES.get(conn, which), INBOX.get(conn, which));
        with_conn!(conn, c => {
            let mut query = sqlx::query(entries);
            for Placed { arrival, head, .. } in chunk {
                let event = &arrival.event;
                query = query
                    .bind(head.position)
                    .bind(event.id.as_str())
                    .bind(event.source.as_str())
                    .bind(event.r#type.as_str())
                    .bind(event.aggregate_type.as_str())
                    .bind(event.aggregate_id.as_str())
                    .bind(event.aggregate_version)
                    .bind(event.occurred_at.0)
                    .bind(head.recorded_at)
                    .bind(head.feed_time)
                    .bind(arrival.late)
                    .bind(arrival.summary.as_str())
                    .bind(event.data.as_str())
                    .bind(event.metadata.as_deref());
            }
            query.execute(&mut *c).await?;
            let mut query = sqlx::query(inbox);
            for Placed { arrival, head, known } in chunk {
                query = query
                    .bind(arrival.event.id.as_str())
                    .bind(arrival.event.source.as_str())
                    .bind(known.identity)
                    .bind(known.content)
                    .bind(head.position);
            }
            query.execute(c).await?;
        });
    }
    Ok(())
}

/// The rows in pieces of the two sizes that have a prepared text.
fn chunks<T>(rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    let whole = rows.len() - rows.len() % ROWS[0];
    let (large, small) = rows.split_at(whole);
    large.chunks(ROWS[0]).map(|chunk| (0, chunk)).chain(small.chunks(ROWS[1]).map(|chunk| (1, chunk)))
}

fn insert_text(table: &str, columns: &str, width: usize, rows: usize, bind: fn(usize) -> String) -> String {
    let row = |r: usize| {
        let binds: Vec<String> = (1..=width).map(|n| bind(r * width + n)).collect();
        format!("({})", binds.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("insert into {table} ({columns}) values {}", rows.join(", "))
}

/// A statement for each engine and each of the sizes in [`ROWS`]. The one place where the texts differ by more than
/// a constant: SQLite looks each `$n` up in a list, which grows with the square of the binds, so it gets `?`.
struct Texts {
    sqlite: [String; 2],
    postgres: [String; 2],
}

impl Texts {
    fn new(text: impl Fn(usize, fn(usize) -> String) -> String) -> Self {
        let text = &text;
        Self {
            sqlite: ROWS.map(|rows| text(rows, |_| "?".to_owned())),
            postgres: ROWS.map(|rows| text(rows, |n| format!("${n}"))),
        }
    }

    fn get(&self, conn: &Conn, which: usize) -> &str {
        match conn {
            Conn::Sqlite(_) => &self.sqlite[which],
            Conn::Postgres(_) => &self.postgres[which],
        }
    }
}
