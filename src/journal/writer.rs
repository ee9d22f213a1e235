//! The one writer of a process: what waits is grouped into one transaction, because the disk's flush is the
//! scarce thing. Appending locks the head row first, so positions are dense and in commit order.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokio::sync::{mpsc, oneshot};

use super::db::{Conn, Db, LOCK_HEAD_POSTGRES, LOCK_HEAD_SQLITE, with_conn};
use super::{Error, deliveries, pages, sources, webhooks};
use crate::event::{Event, Micros};
use crate::runtime::{Bell, Tasks};

/// Jobs that may wait for the writer. Their senders wait for the answer anyway, so a longer queue only hides delay.
const JOBS_MAX: usize = 256;
/// Jobs in one transaction: bounds how long a reader of the SQLite file may wait for its checkpoint.
const GROUP_MAX: usize = 64;
/// An event dated later than this after its recording counts as recorded + 5 min for feed time.
const FUTURE_MAX_MICROS: i64 = 5 * 60 * 1_000_000;
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

/// What the writer does. Each must be repeatable: a group that fails is rolled back and run again one by one.
pub(super) enum Write {
    Append(Append),
    View(pages::View),
    Pages { epoch: String, borders: Vec<(i64, i64)> },
    Webhook(webhooks::Change),
    Checkpoint(deliveries::Checkpoint),
}

struct Job {
    write: Write,
    reply: oneshot::Sender<Result<Appended, Error>>,
}

/// The door to the writer task.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    pub(super) fn start(db: Db, bell: Bell, tasks: &Tasks) -> Self {
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        // Not stopped with the other tasks, whose last checkpoints it writes: it ends when the last sender is gone.
        tasks.spawn_untracked("journal writer", run(db, bell, waiting));
        Self { jobs }
    }

    /// Hands in a write and waits until it is durable.
    pub(super) async fn write(&self, write: Write) -> Result<Appended, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { write, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    pub(super) async fn webhook(&self, change: webhooks::Change) -> Result<(), Error> {
        self.write(Write::Webhook(change)).await.map(|_| ())
    }

    pub(super) async fn checkpoint(&self, checkpoint: deliveries::Checkpoint) -> Result<(), Error> {
        self.write(Write::Checkpoint(checkpoint)).await.map(|_| ())
    }

    /// Returns once everything handed in before is written.
    pub(super) async fn finish(&self) {
        let _ = self.write(Write::Append(Append::default())).await;
    }
}

impl super::Journal {
    /// Journals a batch: all of it with its checkpoint, or nothing. Positions follow the order given. Events that are
    /// known are dropped, so a batch may be offered again after a crash. Returns when it is durable.
    ///
    /// # Errors
    /// The database; nothing was written then.
    pub async fn append(&self, append: Append) -> Result<Appended, Error> {
        self.inner.writer.write(Write::Append(append)).await
    }
}

async fn run(db: Db, bell: Bell, mut waiting: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
        let jobs = std::mem::take(&mut group);
        let writes: Vec<&Write> = jobs.iter().map(|job| &job.write).collect();
        let outcome = transaction(&db, &writes).await;
        match outcome {
            Ok(results) => {
                bell.ring();
                for (job, result) in jobs.into_iter().zip(results) {
                    let _ = job.reply.send(Ok(result));
                }
            }
            Err(cause) if jobs.len() == 1 => answer(jobs, cause),
            // One of them is at fault: each on its own, so that the others don't suffer.
            Err(_) => {
                for job in jobs {
                    let result = transaction(&db, &[&job.write]).await;
                    bell.ring();
                    let _ = job.reply.send(result.map(|results| results[0]));
                }
            }
        }
    }
}

fn answer(jobs: Vec<Job>, cause: Error) {
    if let Some(job) = jobs.into_iter().next() {
        let _ = job.reply.send(Err(cause));
    }
}

async fn transaction(db: &Db, writes: &[&Write]) -> Result<Vec<Appended>, Error> {
    let mut conn = db.begin().await?;
    match apply_all(&mut conn, writes).await {
        Ok(results) => {
            conn.commit().await?;
            Ok(results)
        }
        Err(cause) => {
            let _ = conn.rollback().await;
            Err(cause)
        }
    }
}

async fn apply_all(conn: &mut Conn, writes: &[&Write]) -> Result<Vec<Appended>, Error> {
    // Before anything else: whoever locks the head first can't wait for a lock that another holder of it waits for.
    let mut head = match writes.iter().any(|write| matches!(write, Write::Append(_))) {
        true => Some(HeadRow::lock(conn).await?),
        false => None,
    };
    let before = head;
    let mut results = Vec::with_capacity(writes.len());
    for write in writes {
        let mut result = Appended::default();
        match (write, &mut head) {
            (Write::Append(append), Some(head)) => result = apply_append(conn, head, append).await?,
            (Write::Append(_), None) => unreachable!("the head is locked when there is an append"),
            (Write::View(view), _) => pages::insert_view(conn, view).await?,
            (Write::Pages { epoch, borders }, _) => pages::insert_borders(conn, epoch, borders).await?,
            (Write::Webhook(change), _) => webhooks::apply(conn, change).await?,
            (Write::Checkpoint(checkpoint), _) => deliveries::apply(conn, checkpoint).await?,
        }
        results.push(result);
    }
    if let Some(head) = head.filter(|_| head != before) {
        head.store(conn).await?;
    }
    Ok(results)
}

#[derive(Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
struct HeadRow {
    position: i64,
    recorded_at: i64,
    feed_time: i64,
    now: i64,
}

impl HeadRow {
    async fn lock(conn: &mut Conn) -> Result<Self, Error> {
        Ok(match conn {
            Conn::Sqlite(transaction) => sqlx::query_as(LOCK_HEAD_SQLITE).fetch_one(&mut **transaction).await?,
            Conn::Postgres(transaction) => sqlx::query_as(LOCK_HEAD_POSTGRES).fetch_one(&mut **transaction).await?,
        })
    }

    /// Gives the next position to an event of this time.
    fn advance(&mut self, occurred_at: Micros) -> Self {
        self.position += 1;
        self.recorded_at = self.recorded_at.max(self.now);
        self.feed_time = self.feed_time.max(occurred_at.0.min(self.recorded_at.saturating_add(FUTURE_MAX_MICROS)));
        *self
    }

    async fn store(&self, conn: &mut Conn) -> Result<(), Error> {
        let sql = "update journal set position = $1, recorded_at = $2, feed_time = $3 where singleton = 1";
        with_conn!(conn, c => sqlx::query(sql).bind(self.position).bind(self.recorded_at).bind(self.feed_time)
            .execute(c).await?.rows_affected());
        Ok(())
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

async fn apply_append(conn: &mut Conn, head: &mut HeadRow, append: &Append) -> Result<Appended, Error> {
    let mut appended = Appended::default();
    let mut known = read_inbox(conn, &append.arrivals).await?;
    let mut placed = Vec::with_capacity(append.arrivals.len());
    let mut conflicts = Vec::new();
    for arrival in &append.arrivals {
        let this = Known::of(&arrival.event);
        match known.get(arrival.event.id.as_str()) {
            Some(other) if other.identity != this.identity => {
                appended.conflicts += 1;
                conflicts.push(conflict(&arrival.event));
            }
            Some(other) if other.content != this.content => appended.changed += 1,
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

fn conflict(event: &Event) -> Quarantined {
    Quarantined {
        event_id: Some(event.id.clone()),
        sequence: None,
        reason: "conflicting-id",
        detail: format!(
            "event id `{}` is in the journal already, from another source or with another type or aggregate; \
             this row is {} of {}/{}",
            event.id, event.r#type, event.aggregate_type, event.aggregate_id
        ),
        raw: event.data.clone(),
    }
}

async fn read_inbox(conn: &mut Conn, arrivals: &[Arrival]) -> Result<HashMap<String, Known>, Error> {
    static TEXTS: LazyLock<[String; 2]> = LazyLock::new(|| {
        ROWS.map(|rows| {
            let binds: Vec<String> = (1..=rows).map(|n| format!("${n}")).collect();
            format!("select event_id, identity, content from inbox where event_id in ({})", binds.join(", "))
        })
    });
    let mut known = HashMap::new();
    for (which, chunk) in chunks(arrivals) {
        let text = TEXTS[which].as_str();
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
    static ENTRIES: LazyLock<[String; 2]> = LazyLock::new(|| {
        ROWS.map(|rows| {
            let columns = "position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
                           occurred_at, recorded_at, feed_time, late, summary, data, metadata";
            insert_text("entries", columns, 14, rows)
        })
    });
    static INBOX: LazyLock<[String; 2]> = LazyLock::new(|| {
        ROWS.map(|rows| insert_text("inbox", "event_id, source, identity, content, position", 5, rows))
    });
    for (which, chunk) in chunks(placed) {
        let (entries, inbox) = (ENTRIES[which].as_str(), INBOX[which].as_str());
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

fn insert_text(table: &str, columns: &str, width: usize, rows: usize) -> String {
    let row = |r: usize| {
        let binds: Vec<String> = (1..=width).map(|n| format!("${}", r * width + n)).collect();
        format!("({})", binds.join(", "))
    };
    let rows: Vec<String> = (0..rows).map(row).collect();
    format!("insert into {table} ({columns}) values {}", rows.join(", "))
}
