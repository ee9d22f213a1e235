//! How far a dispatch got, written in one go: a cursor moves in the same transaction in which the exceptions that it
//! passes are written, so a cursor never stands beyond an undelivered event that has no row.

use std::sync::LazyLock;

use super::batch::{POSTGRES_ROWS_MAX, Texts, chunks, column, inserts_with};
use super::db::{Conn, execute, with_conn};
use super::deliveries::{AttemptRow, DeliveryRow, Wish};
use super::leases::Lease;
use super::webhooks::{Notice, Status, notify};
use super::writer::HeadRow;
use super::{Error, Journal};

/// Log lines kept for one webhook; those of undelivered events are kept beside.
const ATTEMPTS_KEPT: i64 = 10_000;

/// What a dispatch did since its last checkpoint: all of it is written, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    pub webhook: String,
    /// The replay that it is about; empty for the live lane.
    pub replay: String,
    pub cursor: i64,
    /// The change of the webhook that it works for: how its calls went says nothing of what it has become since.
    pub updated_at: i64,
    /// The rows that changed, by turn; nothing means that the row goes.
    pub rows: Vec<(String, Option<DeliveryRow>)>,
    pub dead: Vec<DeliveryRow>,
    pub attempts: Vec<AttemptRow>,
    /// What the webhook is from now on, and why; holds only while it is active.
    pub ends: Option<(Status, String)>,
    pub failing_since: Option<i64>,
    pub failures: i64,
    pub last_success_at: Option<i64>,
    /// Events that its owner gave up: they stay listed, as discarded.
    pub discarded: Vec<DeliveryRow>,
    /// The replay has come to its end.
    pub is_done: bool,
    /// Also shortens the log.
    pub prune: bool,
    /// Nothing is written for who has lost it.
    pub lease: Option<Lease>,
    /// The count of erasures under which the calls were made: after others, what was answered is not kept.
    pub erasures: i64,
    pub notices: Vec<Notice>,
}

impl Checkpoint {
    /// Whether it holds bytes of events, or what was answered to them.
    fn holds_data(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.answer.is_some())
            || self.rows.iter().filter_map(|(_, row)| row.as_ref()).chain(&self.dead).any(|row| row.body.is_some())
    }
}

impl Journal {
    /// Durable when it returns. For a webhook or a replay that is gone it does nothing.
    ///
    /// # Errors
    /// The database; nothing was written then.
    pub async fn checkpoint(&self, checkpoint: Checkpoint) -> Result<(), Error> {
        self.inner.writer.checkpoint(checkpoint).await
    }
}

pub(super) async fn apply(conn: &mut Conn, head: Option<&mut HeadRow>, checkpoint: &Checkpoint) -> Result<(), Error> {
    let webhook = checkpoint.webhook.as_str();
    if !move_on(conn, checkpoint).await? {
        return Ok(());
    }
    if let Some((status, reason)) = &checkpoint.ends {
        let sql = "update webhooks set status = $2, status_reason = $3, updated_at = updated_at + 1 \
                   where id = $1 and status = $4 and updated_at = $5";
        let (status, active) = (status.as_str(), Status::Active.as_str());
        execute!(conn, sql, webhook, status, reason.as_str(), active, checkpoint.updated_at);
    }
    let is_current = match &head {
        _ if !checkpoint.holds_data() => true,
        // Others in this transaction may have counted up what is not stored yet.
        Some(head) => head.erasures == checkpoint.erasures,
        None => is_current(conn, checkpoint).await?,
    };
    // Before the others: a row that turns dead keeps its bytes.
    let replay = checkpoint.replay.as_str();
    for (rows, status) in [(&checkpoint.dead, "dead"), (&checkpoint.discarded, "discarded")] {
        for row in rows {
            if !replay.is_empty() {
                let sql = "delete from deliveries where webhook = $1 and replay = $2 and turn = $3";
                execute!(conn, sql, webhook, replay, row.turn.as_str());
            }
            upsert(conn, webhook, "", row, (status, replay.is_empty(), is_current)).await?;
        }
    }
    for (turn, row) in &checkpoint.rows {
        // First the old one: there is one row a turn.
        let sql = "delete from deliveries where webhook = $1 and replay = $2 and turn = $3 and position <> $4 \
                   and status in ('failing', 'held')";
        let keep = row.as_ref().map_or(-1, |row| row.position);
        execute!(conn, sql, webhook, replay, turn.as_str(), keep);
        if let Some(row) = row {
            let status = if row.next_attempt_at.is_none() { "held" } else { "failing" };
            upsert(conn, webhook, replay, row, (status, true, is_current)).await?;
        }
    }
    insert_attempts(conn, checkpoint, is_current).await?;
    if !replay.is_empty() {
        // What arrived after all is not dead any more.
        let sql = "delete from deliveries where webhook = $1 and replay = '' and status in ('dead', 'discarded') \
                   and position in (select position from attempts where webhook = $1 and replay = $2 and error is null \
                   and position >= $3 and position <= $4)";
        let positions = || checkpoint.attempts.iter().map(|attempt| attempt.position);
        let (first, last) = (positions().min().unwrap_or(0), positions().max().unwrap_or(-1));
        execute!(conn, sql, webhook, replay, first, last);
    }
    if checkpoint.prune {
        prune(conn, webhook).await?;
    }
    match head {
        Some(head) => notify(conn, head, &checkpoint.notices).await,
        None => Ok(()),
    }
}

/// Whether nothing was erased since its calls were made.
async fn is_current(conn: &mut Conn, checkpoint: &Checkpoint) -> Result<bool, Error> {
    let sql = "select erasures from journal";
    let erasures: i64 = with_conn!(conn, c => sqlx::query_scalar(sql).fetch_one(c).await?);
    Ok(erasures == checkpoint.erasures)
}

/// Whether what the checkpoint is about is still there.
async fn move_on(conn: &mut Conn, checkpoint: &Checkpoint) -> Result<bool, Error> {
    let Checkpoint { webhook, replay, cursor, failing_since, failures, last_success_at, .. } = checkpoint;
    let webhook = webhook.as_str();
    if replay.is_empty() {
        let sql = "update webhooks set cursor = $2, last_success_at = $5, \
             failing_since = case when updated_at = $6 then $3 else failing_since end, \
             failures = case when updated_at = $6 then $4 else failures end where id = $1";
        let updated_at = checkpoint.updated_at;
        return Ok(execute!(conn, sql, webhook, cursor, failing_since, failures, last_success_at, updated_at) > 0);
    }
    if checkpoint.is_done {
        let sql = "delete from deliveries where webhook = $1 and replay = $2 and status in ('failing', 'held')";
        execute!(conn, sql, webhook, replay.as_str());
        return Ok(execute!(conn, "delete from replays where webhook = $1 and id = $2", webhook, replay.as_str()) > 0);
    }
    let sql = "update replays set cursor = $3 where webhook = $1 and id = $2";
    Ok(execute!(conn, sql, webhook, replay.as_str(), cursor) > 0)
}

/// `status`: what the row is, whether it may replace a row that is failing, and whether nothing was erased meanwhile.
async fn upsert(
    conn: &mut Conn,
    webhook: &str,
    replay: &str,
    row: &DeliveryRow,
    status: (&str, bool, bool),
) -> Result<(), Error> {
    let (status, may_replace, is_current) = status;
    // A batch holds events beside the first one, which is looked at below.
    let body = row.body.as_deref().filter(|_| row.batch.is_none() || is_current);
    // The bytes of the first failure stay, and so does what its owner asks for until it is done.
    let sql = "insert into deliveries (webhook, replay, position, turn, status, event_id, type, attempts, next_attempt_at, \
               last_attempt_at, last_status, last_error, through, batch, events, body, format, until) \
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, \
               case when exists (select 1 from entries where position = $3 and erased_at is null) then $16 end, $19, $20) \
               on conflict (webhook, replay, position, turn) do update set status = excluded.status, \
               event_id = excluded.event_id, type = excluded.type, attempts = excluded.attempts, \
               next_attempt_at = excluded.next_attempt_at, last_attempt_at = excluded.last_attempt_at, \
               last_status = excluded.last_status, last_error = excluded.last_error, through = excluded.through, \
               batch = excluded.batch, events = excluded.events, until = excluded.until, \
               body = case when excluded.status = 'discarded' or (excluded.batch is null and deliveries.batch is not null) \
               then null else coalesce(deliveries.body, excluded.body) end, \
               format = case when deliveries.body is null then excluded.format else deliveries.format end, \
               wish = case when $17 then null else deliveries.wish end \
               where $18 or deliveries.status not in ('failing', 'held')";
    execute!(
        conn,
        sql,
        webhook,
        replay,
        row.position,
        row.turn.as_str(),
        status,
        row.event_id.as_deref(),
        row.r#type.as_deref(),
        row.attempts,
        row.next_attempt_at,
        row.last_attempt_at,
        row.last_status,
        row.last_error.as_deref(),
        row.through,
        row.batch.as_deref(),
        row.events,
        body,
        row.wish == Wish::Done,
        may_replace,
        row.format.as_deref(),
        row.until
    );
    Ok(())
}

async fn insert_attempts(conn: &mut Conn, checkpoint: &Checkpoint, with_answers: bool) -> Result<(), Error> {
    let Checkpoint { webhook, replay, attempts, .. } = checkpoint;
    fn answer(attempt: &AttemptRow, is_kept: bool) -> Option<&str> {
        attempt.answer.as_deref().filter(|_| is_kept)
    }
    const POSTGRES: &str = "insert into attempts (webhook, replay, position, attempt, started_at, duration_ms, status, \
         error, answer) select $1, $2, * from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], \
         $7::bigint[], $8::text[], $9::text[]) on conflict do nothing";
    static SQLITE: LazyLock<Texts> = LazyLock::new(|| {
        let columns = "position, attempt, started_at, duration_ms, status, error, answer";
        inserts_with("attempts", "webhook, replay", columns).map(|text| text + " on conflict do nothing")
    });
    match conn {
        Conn::Sqlite(transaction) => {
            for (which, rows) in chunks(attempts) {
                let mut query = sqlx::query(SQLITE[which].as_str()).bind(webhook).bind(replay);
                for row in rows {
                    query = query
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
                    .bind(replay)
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
