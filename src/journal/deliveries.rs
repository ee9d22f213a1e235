//! The exceptions of webhooks and the log of their calls: the rows of `deliveries` and `attempts`.
//!
//! A healthy delivery leaves no row but its log line. One checkpoint moves a cursor and writes the exceptions that
//! it passes in the same transaction, so a cursor never stands beyond an undelivered event that has no row.

use std::fmt::Write as _;
use std::sync::LazyLock;

use super::db::{Conn, with_conn, with_pool};
use super::webhooks::Status;
use super::{Error, Journal};
use crate::event::{Event, Micros};

/// Log lines kept for one webhook; those of undelivered events are kept beside.
const ATTEMPTS_KEPT: i64 = 10_000;
/// Rows in one statement. Few sizes, so that few texts are prepared; small ones, because sqlx asks SQLite for the name
/// of each bind and SQLite walks through all of them for the answer.
const ROWS: [usize; 3] = [16, 4, 1];

/// An exception. `failing`: the next position of a key, and once it was tried its event and the bytes to repeat.
/// `dead`: an event whose attempts are used up.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct DeliveryRow {
    pub position: i64,
    pub key: String,
    pub event_id: Option<String>,
    pub r#type: Option<String>,
    pub attempts: i64,
    pub next_attempt_at: Option<i64>,
    pub last_attempt_at: Option<i64>,
    pub last_status: Option<i64>,
    pub last_error: Option<String>,
    /// Written when there is one; never read back with lists.
    #[sqlx(default)]
    pub body: Option<Vec<u8>>,
}

/// One call.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AttemptRow {
    pub position: i64,
    pub attempt: i64,
    pub started_at: i64,
    pub duration_ms: i64,
    pub status: Option<i64>,
    pub error: Option<String>,
    pub answer: Option<String>,
}

/// A delivered event of the recent log, with what is needed to judge whether the reader may see it.
pub struct Delivered {
    pub event: Event,
    pub position: i64,
    pub attempt: i64,
    pub started_at: i64,
    pub status: Option<i64>,
}

/// How far a dispatcher got since its last one: all of it, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    pub webhook: String,
    pub cursor: i64,
    /// The failing rows that changed, by key; nothing means that the row goes.
    pub failing: Vec<(String, Option<DeliveryRow>)>,
    pub dead: Vec<DeliveryRow>,
    pub attempts: Vec<AttemptRow>,
    /// The receiver wants no more, and why; holds only while the webhook is active.
    pub disabled: Option<String>,
    pub failing_since: Option<i64>,
    pub last_success_at: Option<i64>,
    /// Also shortens the log.
    pub prune: bool,
}

impl Journal {
    /// Durable when it returns. For a webhook that is gone it does nothing.
    ///
    /// # Errors
    /// The database; nothing was written then.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<(), Error> {
        self.inner.writer.checkpoint(checkpoint).await
    }

    /// All failing rows of a webhook, by position, without bodies; also those whose event was not tried yet.
    ///
    /// # Errors
    /// The database.
    pub async fn failing(&self, webhook: &str) -> Result<Vec<DeliveryRow>, Error> {
        self.rows(webhook, "failing", 0, -1, i64::MAX).await
    }

    /// The `failing` or `dead` events after a position, without bodies.
    ///
    /// # Errors
    /// The database.
    pub async fn exceptions(
        &self,
        webhook: &str,
        status: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, Error> {
        self.rows(webhook, status, 1, after, limit).await
    }

    async fn rows(
        &self,
        webhook: &str,
        status: &str,
        attempts: i64,
        after: i64,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, Error> {
        let sql = "select position, key, event_id, type, attempts, next_attempt_at, last_attempt_at, last_status, \
                   last_error from deliveries where webhook = $1 and status = $2 and attempts >= $3 and position > $4 \
                   order by position, key limit $5";
        Ok(with_pool!(self.db(), pool => sqlx::query_as(sql).bind(webhook).bind(status).bind(attempts).bind(after)
            .bind(limit).fetch_all(pool).await?))
    }

    /// How many exceptions there are, and the first position that is failing.
    ///
    /// # Errors
    /// The database.
    pub async fn exceptions_summary(&self, webhook: &str) -> Result<(i64, Option<i64>), Error> {
        let sql = "select count(event_id), min(case when status = 'failing' then position end) \
                   from deliveries where webhook = $1";
        Ok(with_pool!(self.db(), pool => sqlx::query_as(sql).bind(webhook).fetch_one(pool).await?))
    }

    /// The bytes to repeat for the failing row of a key.
    ///
    /// # Errors
    /// The database.
    pub async fn frozen_body(&self, webhook: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let sql = "select body from deliveries where webhook = $1 and key = $2 and status = 'failing'";
        let body: Option<Option<Vec<u8>>> = with_pool!(self.db(), pool => sqlx::query_scalar(sql).bind(webhook).bind(key)
            .fetch_optional(pool).await?);
        Ok(body.flatten())
    }

    /// The calls that the log still has of one event, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn attempts(&self, webhook: &str, position: i64) -> Result<Vec<AttemptRow>, Error> {
        let sql = "select position, attempt, started_at, duration_ms, status, error, answer from attempts \
                   where webhook = $1 and position = $2 order by attempt";
        Ok(with_pool!(self.db(), pool => sqlx::query_as(sql).bind(webhook).bind(position).fetch_all(pool).await?))
    }

    /// The recent log's delivered events after a position.
    ///
    /// # Errors
    /// The database.
    pub async fn delivered(&self, webhook: &str, after: i64, limit: i64) -> Result<Vec<Delivered>, Error> {
        let sql = "select a.position, a.attempt, a.started_at, a.status, e.event_id, e.source, e.type, \
                   e.aggregate_type, e.aggregate_id from attempts a join entries e on e.position = a.position \
                   where a.webhook = $1 and a.position > $2 and a.error is null order by a.position limit $3";
        let rows: Vec<DeliveredRow> = with_pool!(self.db(), pool => sqlx::query_as(sql).bind(webhook).bind(after)
            .bind(limit).fetch_all(pool).await?);
        Ok(rows.into_iter().map(Delivered::from).collect())
    }
}

#[derive(sqlx::FromRow)]
struct DeliveredRow {
    position: i64,
    attempt: i64,
    started_at: i64,
    status: Option<i64>,
    event_id: String,
    source: String,
    r#type: String,
    aggregate_type: String,
    aggregate_id: String,
}

impl From<DeliveredRow> for Delivered {
    fn from(row: DeliveredRow) -> Self {
        let event = Event {
            id: row.event_id,
            source: row.source,
            r#type: row.r#type,
            aggregate_type: row.aggregate_type,
            aggregate_id: row.aggregate_id,
            aggregate_version: None,
            occurred_at: Micros(0),
            data: String::new(),
            metadata: None,
        };
        Self { event, position: row.position, attempt: row.attempt, started_at: row.started_at, status: row.status }
    }
}

pub(super) async fn apply(conn: &mut Conn, checkpoint: &Checkpoint) -> Result<(), Error> {
    let webhook = checkpoint.webhook.as_str();
    let sql = "update webhooks set cursor = $2, failing_since = $3, last_success_at = $4 where id = $1";
    let updated = with_conn!(conn, c => sqlx::query(sql).bind(webhook).bind(checkpoint.cursor)
        .bind(checkpoint.failing_since).bind(checkpoint.last_success_at).execute(c).await?.rows_affected());
    if updated == 0 {
        return Ok(());
    }
    if let Some(reason) = &checkpoint.disabled {
        let sql = "update webhooks set status = $2, status_reason = $3, updated_at = updated_at + 1 \
                   where id = $1 and status = $4";
        with_conn!(conn, c => sqlx::query(sql).bind(webhook).bind(Status::Disabled.as_str()).bind(reason.as_str())
            .bind(Status::Active.as_str()).execute(c).await?.rows_affected());
    }
    // Before the failing ones: a failing row that turns dead keeps its bytes.
    for row in &checkpoint.dead {
        upsert(conn, webhook, row, "dead").await?;
    }
    for (key, row) in &checkpoint.failing {
        // First the old one: there is one failing row a key.
        let sql = "delete from deliveries where webhook = $1 and key = $2 and status = 'failing' and position <> $3";
        let keep = row.as_ref().map_or(-1, |row| row.position);
        with_conn!(conn, c => sqlx::query(sql).bind(webhook).bind(key.as_str()).bind(keep).execute(c).await?.rows_affected());
        if let Some(row) = row {
            upsert(conn, webhook, row, "failing").await?;
        }
    }
    insert_attempts(conn, webhook, &checkpoint.attempts).await?;
    if checkpoint.prune { prune(conn, webhook).await } else { Ok(()) }
}

async fn upsert(conn: &mut Conn, webhook: &str, row: &DeliveryRow, status: &str) -> Result<(), Error> {
    // The bytes of the first failure stay.
    let sql = "insert into deliveries (webhook, position, key, status, event_id, type, attempts, next_attempt_at, \
               last_attempt_at, last_status, last_error, body) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
               on conflict (webhook, position, key) do update set status = excluded.status, event_id = excluded.event_id, \
               type = excluded.type, attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at, \
               last_attempt_at = excluded.last_attempt_at, last_status = excluded.last_status, \
               last_error = excluded.last_error, body = coalesce(deliveries.body, excluded.body)";
    with_conn!(conn, c => sqlx::query(sql)
        .bind(webhook)
        .bind(row.position)
        .bind(row.key.as_str())
        .bind(status)
        .bind(row.event_id.as_deref())
        .bind(row.r#type.as_deref())
        .bind(row.attempts)
        .bind(row.next_attempt_at)
        .bind(row.last_attempt_at)
        .bind(row.last_status)
        .bind(row.last_error.as_deref())
        .bind(row.body.as_deref())
        .execute(c).await?.rows_affected());
    Ok(())
}

async fn insert_attempts(conn: &mut Conn, webhook: &str, attempts: &[AttemptRow]) -> Result<(), Error> {
    // `$1` is the webhook in every row: the text is bound once.
    static TEXTS: LazyLock<[String; 3]> = LazyLock::new(|| {
        ROWS.map(|rows| {
            let mut text = "insert into attempts (webhook, position, attempt, started_at, duration_ms, status, error, \
                            answer) values "
                .to_owned();
            for row in 0..rows {
                let _ = write!(text, "{}($1", if row == 0 { "" } else { ", " });
                for bind in 0..7 {
                    let _ = write!(text, ", ${}", row * 7 + bind + 2);
                }
                text.push(')');
            }
            text + " on conflict do nothing"
        })
    });
    let mut left = attempts;
    while let Some(which) = ROWS.iter().position(|rows| left.len() >= *rows) {
        let text = TEXTS[which].as_str();
        let (rows, later) = left.split_at(ROWS[which]);
        left = later;
        with_conn!(conn, c => {
            let mut query = sqlx::query(text).bind(webhook);
            for row in rows {
                query = query
                    .bind(row.position)
                    .bind(row.attempt)
                    .bind(row.started_at)
                    .bind(row.duration_ms)
                    .bind(row.status)
                    .bind(row.error.as_deref())
                    .bind(row.answer.as_deref());
            }
            query.execute(c).await?;
        });
    }
    Ok(())
}

async fn prune(conn: &mut Conn, webhook: &str) -> Result<(), Error> {
    let sql = "delete from attempts where webhook = $1 and position < (select position from attempts \
               where webhook = $1 order by position desc limit 1 offset $2) \
               and position not in (select position from deliveries where webhook = $1)";
    with_conn!(conn, c => sqlx::query(sql).bind(webhook).bind(ATTEMPTS_KEPT).execute(c).await?.rows_affected());
    Ok(())
}
