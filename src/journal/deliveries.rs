//! The exceptions of webhooks and the log of their calls: the rows of `deliveries` and `attempts`.
//!
//! A healthy delivery leaves no row but its log line. One checkpoint moves a cursor and writes the exceptions that
//! it passes in the same transaction, so a cursor never stands beyond an undelivered event that has no row.

use std::sync::LazyLock;

use sqlx::AssertSqlSafe;

use super::batch::{POSTGRES_ROWS_MAX, Texts, chunks, column, inserts};
use super::db::{Conn, execute, select, with_conn};
use super::entries::Condition;
use super::webhooks::Status;
use super::{Error, Journal};
use crate::event::key;
use crate::filter::Selection;

/// Log lines kept for one webhook; those of undelivered events are kept beside.
const ATTEMPTS_KEPT: i64 = 10_000;
/// What became of an event at one webhook. Exceptions are stored. `failing`: the next position of a key, and once it was
/// tried its event and the bytes to repeat. `dead`: an event whose attempts are used up. Others are found when asked for.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
#[sqlx(default)]
pub struct DeliveryRow {
    pub position: i64,
    pub key: String,
    /// Read only: what a checkpoint writes follows from its list.
    pub status: String,
    pub event_id: Option<String>,
    pub r#type: Option<String>,
    pub attempts: i64,
    pub next_attempt_at: Option<i64>,
    pub last_attempt_at: Option<i64>,
    pub last_status: Option<i64>,
    pub last_error: Option<String>,
    /// Written when there is one; never read back with lists.
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
    /// The count of erasures under which the calls were made: after others, what was answered is not kept.
    pub erasures: i64,
}

/// What is erased is not sent any more, though its row may wait for the turn of its key.
const STATUS: &str = "case when e.erased_at is null then d.status else 'discarded' end";

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
        let sql = "select position, key, status, event_id, type, attempts, next_attempt_at, last_attempt_at, last_status, \
                   last_error from deliveries where webhook = $1 and status = 'failing' order by position, key";
        Ok(select!(self.db(), query_as.fetch_all, sql, webhook))
    }

    /// The tried exceptions after a position that the selection lets through, without bodies: `failing`, `dead` or both.
    ///
    /// # Errors
    /// The database.
    pub async fn exceptions(
        &self,
        selection: &Selection,
        webhook: &str,
        status: Option<&str>,
        after: i64,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, Error> {
        let condition = Condition::of(selection, 5);
        let sql = format!(
            "select d.position, d.key, {STATUS} as status, d.event_id, d.type, d.attempts, d.next_attempt_at, d.last_attempt_at, \
             d.last_status, d.last_error from deliveries d join entries e on e.position = d.position \
             where d.webhook = $1 and ($2 = '' or {STATUS} = $2) and d.position > $3 and d.attempts > 0{} \
             order by d.position limit $4",
            condition.text
        );
        let (sql, status) = (AssertSqlSafe(sql), status.unwrap_or_default());
        Ok(select!(self.db(), query_as.fetch_all, sql, webhook, status, after, limit; condition.binds))
    }

    /// How many exceptions there are, and the first position that is failing.
    ///
    /// # Errors
    /// The database.
    pub async fn exceptions_summary(&self, webhook: &str) -> Result<(i64, Option<i64>), Error> {
        let sql = "select count(event_id), min(case when status = 'failing' then position end) \
                   from deliveries where webhook = $1";
        Ok(select!(self.db(), query_as.fetch_one, sql, webhook))
    }

    /// The bytes to repeat for the failing row of a key.
    ///
    /// # Errors
    /// The database.
    pub async fn frozen_body(&self, webhook: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        let sql = "select body from deliveries where webhook = $1 and key = $2 and status = 'failing'";
        let body: Option<Option<Vec<u8>>> = select!(self.db(), query_scalar.fetch_optional, sql, webhook, key);
        Ok(body.flatten())
    }

    /// The calls that the log still has of one event, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn attempts(&self, webhook: &str, position: i64) -> Result<Vec<AttemptRow>, Error> {
        let sql = "select position, attempt, started_at, duration_ms, status, error, answer from attempts \
                   where webhook = $1 and position = $2 order by attempt";
        Ok(select!(self.db(), query_as.fetch_all, sql, webhook, position))
    }

    /// The recent log's delivered events after a position that the selection lets through.
    ///
    /// # Errors
    /// The database.
    pub async fn delivered(
        &self,
        selection: &Selection,
        webhook: &str,
        after: i64,
        limit: i64,
    ) -> Result<Vec<DeliveryRow>, Error> {
        let condition = Condition::of(selection, 4);
        let sql = format!(
            "select a.position, 'delivered' as status, e.event_id, e.type, a.attempt as attempts, \
             a.started_at as last_attempt_at, a.status as last_status, e.aggregate_type, e.aggregate_id \
             from attempts a join entries e on e.position = a.position \
             where a.webhook = $1 and a.position > $2 and a.error is null{} order by a.position limit $3",
            condition.text
        );
        let sql = AssertSqlSafe(sql);
        let rows: Vec<Delivered> = select!(self.db(), query_as.fetch_all, sql, webhook, after, limit; condition.binds);
        let with_key = |Delivered { row, aggregate_type, aggregate_id }| DeliveryRow {
            key: key(&aggregate_type, &aggregate_id),
            ..row
        };
        Ok(rows.into_iter().map(with_key).collect())
    }
}

#[derive(sqlx::FromRow)]
struct Delivered {
    #[sqlx(flatten)]
    row: DeliveryRow,
    aggregate_type: String,
    aggregate_id: String,
}

pub(super) async fn apply(conn: &mut Conn, checkpoint: &Checkpoint) -> Result<(), Error> {
    let webhook = checkpoint.webhook.as_str();
    let sql = "update webhooks set cursor = $2, failing_since = $3, last_success_at = $4 where id = $1";
    let updated = execute!(conn, sql, webhook, checkpoint.cursor, checkpoint.failing_since, checkpoint.last_success_at);
    if updated == 0 {
        return Ok(());
    }
    if let Some(reason) = &checkpoint.disabled {
        let sql = "update webhooks set status = $2, status_reason = $3, updated_at = updated_at + 1 \
                   where id = $1 and status = $4";
        execute!(conn, sql, webhook, Status::Disabled.as_str(), reason.as_str(), Status::Active.as_str());
    }
    // Before the failing ones: a failing row that turns dead keeps its bytes.
    for row in &checkpoint.dead {
        upsert(conn, webhook, row, "dead").await?;
    }
    for (key, row) in &checkpoint.failing {
        // First the old one: there is one failing row a key.
        let sql = "delete from deliveries where webhook = $1 and key = $2 and status = 'failing' and position <> $3";
        let keep = row.as_ref().map_or(-1, |row| row.position);
        execute!(conn, sql, webhook, key.as_str(), keep);
        if let Some(row) = row {
            upsert(conn, webhook, row, "failing").await?;
        }
    }
    let sql = "select erasures from journal";
    let erasures: i64 = with_conn!(&mut *conn, c => sqlx::query_scalar(sql).fetch_one(c).await?);
    insert_attempts(conn, webhook, &checkpoint.attempts, erasures == checkpoint.erasures).await?;
    if checkpoint.prune { prune(conn, webhook).await } else { Ok(()) }
}

async fn upsert(conn: &mut Conn, webhook: &str, row: &DeliveryRow, status: &str) -> Result<(), Error> {
    // The bytes of the first failure stay.
    let sql = "insert into deliveries (webhook, position, key, status, event_id, type, attempts, next_attempt_at, \
               last_attempt_at, last_status, last_error, body) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
               case when exists (select 1 from entries where position = $2 and erased_at is null) then $12 end) \
               on conflict (webhook, position, key) do update set status = excluded.status, event_id = excluded.event_id, \
               type = excluded.type, attempts = excluded.attempts, next_attempt_at = excluded.next_attempt_at, \
               last_attempt_at = excluded.last_attempt_at, last_status = excluded.last_status, \
               last_error = excluded.last_error, body = coalesce(deliveries.body, excluded.body)";
    execute!(
        conn,
        sql,
        webhook,
        row.position,
        row.key.as_str(),
        status,
        row.event_id.as_deref(),
        row.r#type.as_deref(),
        row.attempts,
        row.next_attempt_at,
        row.last_attempt_at,
        row.last_status,
        row.last_error.as_deref(),
        row.body.as_deref()
    );
    Ok(())
}

async fn insert_attempts(
    conn: &mut Conn,
    webhook: &str,
    attempts: &[AttemptRow],
    with_answers: bool,
) -> Result<(), Error> {
    fn answer(attempt: &AttemptRow, is_kept: bool) -> Option<&str> {
        attempt.answer.as_deref().filter(|_| is_kept)
    }
    const POSTGRES: &str = "insert into attempts (webhook, position, attempt, started_at, duration_ms, status, error, \
         answer) select $1, * from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
         $7::text[], $8::text[]) on conflict do nothing";
    static SQLITE: LazyLock<Texts> = LazyLock::new(|| {
        let columns = "webhook, position, attempt, started_at, duration_ms, status, error, answer";
        inserts("attempts", columns).map(|text| text + " on conflict do nothing")
    });
    match conn {
        Conn::Sqlite(transaction) => {
            for (which, rows) in chunks(attempts) {
                let mut query = sqlx::query(SQLITE[which].as_str());
                for row in rows {
                    query = query
                        .bind(webhook)
                        .bind(row.position)
                        .bind(row.attempt)
                        .bind(row.started_at)
                        .bind(row.duration_ms)
                        .bind(row.status)
                        .bind(row.error.as_deref())
                        .bind(answer(row, with_answers));
                }
                query.execute(&mut **transaction).await?;
            }
        }
        Conn::Postgres(transaction) => {
            for rows in attempts.chunks(POSTGRES_ROWS_MAX) {
                sqlx::query(POSTGRES)
                    .bind(webhook)
                    .bind(column(rows, |row| row.position))
                    .bind(column(rows, |row| row.attempt))
                    .bind(column(rows, |row| row.started_at))
                    .bind(column(rows, |row| row.duration_ms))
                    .bind(column(rows, |row| row.status))
                    .bind(column(rows, |row| row.error.as_deref()))
                    .bind(column(rows, |row| answer(row, with_answers)))
                    .execute(&mut **transaction)
                    .await?;
            }
        }
    }
    Ok(())
}

async fn prune(conn: &mut Conn, webhook: &str) -> Result<(), Error> {
    let sql = "delete from attempts where webhook = $1 and position < (select position from attempts \
               where webhook = $1 order by position desc limit 1 offset $2) \
               and position not in (select position from deliveries where webhook = $1)";
    execute!(conn, sql, webhook, ATTEMPTS_KEPT);
    Ok(())
}
