//! The exceptions of webhooks and the log of their calls: the rows of `deliveries` and `attempts`, which checkpoints
//! write. A healthy delivery leaves no row but its log line.

use sqlx::AssertSqlSafe;

use super::db::{Conn, execute, select};
use super::entries::Condition;
use super::writer::Write;
use super::{Error, Journal};
use crate::event::key;
use crate::filter::Selection;

/// What became of an event at one webhook. Exceptions are stored. `failing`: the next position of a turn, and once it was
/// tried its event and the bytes to repeat; `held`: the same, but it is dead and its turn stands still. `dead`: an event
/// whose attempts are used up. `discarded`: its owner gave it up. Others are found when asked for.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
#[sqlx(default)]
pub struct DeliveryRow {
    pub position: i64,
    /// What waits for it: the key of an aggregate, everything (empty), or nothing else.
    pub turn: String,
    /// Of its aggregate; only read with lists.
    pub key: String,
    /// Read only: what a checkpoint writes follows from its list, and from whether there is a next attempt.
    pub status: String,
    pub event_id: Option<String>,
    pub r#type: Option<String>,
    pub attempts: i64,
    pub next_attempt_at: Option<i64>,
    pub last_attempt_at: Option<i64>,
    pub last_status: Option<i64>,
    pub last_error: Option<String>,
    /// Of a batch: its last position, its id, and how many events it holds.
    pub through: Option<i64>,
    pub batch: Option<String>,
    pub events: Option<i64>,
    /// Of a turn from before an edit of the ordering: nothing after this position is part of it.
    pub until: Option<i64>,
    /// What its owner asks for. Written only to say that it was done.
    #[sqlx(try_from = "Option<String>")]
    pub wish: Wish,
    /// Written when there is one; never read back with lists.
    pub body: Option<Vec<u8>>,
    /// Of the body.
    pub format: Option<String>,
}

/// What the owner of a webhook asks of a failing delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    #[default]
    None,
    /// To be tried now.
    Resend,
    /// Not to be tried any more.
    Discard,
    /// A wish was fulfilled.
    Done,
}

impl From<Option<String>> for Wish {
    fn from(text: Option<String>) -> Self {
        match text.as_deref() {
            Some("resend") => Self::Resend,
            Some("discard") => Self::Discard,
            _ => Self::None,
        }
    }
}

/// A wish for rows at positions.
pub(super) struct Wished {
    pub(super) webhook: String,
    from: i64,
    through: i64,
    wish: Wish,
    /// Only those that hold their turns.
    only_held: bool,
}

impl Wished {
    /// To send again what holds its turn.
    pub(super) fn held(webhook: &str, from: i64, through: i64) -> Self {
        Self { webhook: webhook.to_owned(), from, through, wish: Wish::Resend, only_held: true }
    }
}

/// One call.
#[derive(Clone, Debug, Default, sqlx::FromRow)]
pub struct AttemptRow {
    pub position: i64,
    pub attempt: i64,
    pub started_at: i64,
    pub duration_ms: i64,
    pub status: Option<i64>,
    pub error: Option<String>,
    pub answer: Option<String>,
    /// The replay that it belongs to; empty in the live lane. Read only.
    #[sqlx(default)]
    pub replay: String,
}

/// One call, and what it was about.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct CallRow {
    #[sqlx(flatten)]
    pub call: AttemptRow,
    pub event_id: String,
    pub r#type: String,
}

/// What is erased is not sent any more, though its row may wait for the turn of its key.
const STATUS: &str =
    "case when e.erased_at is not null then 'discarded' when d.status = 'held' then 'dead' else d.status end";

impl Journal {
    /// The failing and held rows of a lane, by position, without bodies; also those whose event was not tried yet. `replay`
    /// is empty for the live lane.
    ///
    /// # Errors
    /// The database.
    pub async fn failing(&self, webhook: &str, replay: &str) -> Result<Vec<DeliveryRow>, Error> {
        let sql = "select position, turn, status, event_id, type, attempts, next_attempt_at, last_attempt_at, last_status, \
                   last_error, through, batch, events, until, wish from deliveries \
                   where webhook = $1 and replay = $2 and status in ('failing', 'held') order by position, turn";
        Ok(select!(self.db(), query_as.fetch_all, sql, webhook, replay))
    }

    /// Which turns of a lane their owner asks something for.
    ///
    /// # Errors
    /// The database.
    pub async fn wishes(&self, webhook: &str, replay: &str) -> Result<Vec<DeliveryRow>, Error> {
        let sql = "select position, turn, wish, through from deliveries where webhook = $1 and replay = $2 and wish is not null";
        Ok(select!(self.db(), query_as.fetch_all, sql, webhook, replay))
    }

    /// Asks for what is failing or dead at a position: the dispatch does it. What is dead is discarded at once. `false`:
    /// there is nothing such.
    ///
    /// # Errors
    /// The database.
    pub async fn wish(&self, webhook: &str, position: i64, wish: Wish) -> Result<bool, Error> {
        let (from, through) = (position, position);
        let wished = Wished { webhook: webhook.to_owned(), from, through, wish, only_held: false };
        Ok(self.inner.writer.write(Write::Wish(wished)).await?.journaled > 0)
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
            "select d.position, d.turn, {STATUS} as status, e.event_id, e.type, d.attempts, d.next_attempt_at, d.last_attempt_at, \
             d.last_status, d.last_error, d.through, d.batch, d.events, e.aggregate_type, e.aggregate_id \
             from deliveries d join entries e on e.position = d.position \
             where d.webhook = $1 and (({STATUS} = $2) or ($2 = '' and d.replay = '' and d.status <> 'discarded')) \
             and d.position > $3 and d.attempts > 0{} \
             order by d.position, d.replay limit $4",
            condition.text
        );
        let (sql, status) = (AssertSqlSafe(sql), status.unwrap_or_default());
        let rows: Vec<Listed> =
            select!(self.db(), query_as.fetch_all, sql, webhook, status, after, limit; condition.binds);
        Ok(rows.into_iter().map(Listed::with_key).collect())
    }

    /// How many exceptions each webhook has that has any.
    ///
    /// # Errors
    /// The database.
    pub async fn count_exceptions(&self) -> Result<Vec<(String, i64)>, Error> {
        let sql = "select webhook, cast(sum(coalesce(events, 1)) as bigint) from deliveries where replay = '' and status <> 'discarded' \
                   and event_id is not null group by webhook";
        Ok(select!(self.db(), query_as.fetch_all, sql))
    }

    /// How many events are dead at a webhook.
    ///
    /// # Errors
    /// The database.
    pub async fn count_all_dead(&self, webhook: &str) -> Result<i64, Error> {
        let sql = "select count(*) from deliveries where webhook = $1 and replay = '' and status = 'dead'";
        Ok(select!(self.db(), query_scalar.fetch_one, sql, webhook))
    }

    /// The bytes to repeat for an exception and the format that they are in: of the lane, or where a replay has none, of the
    /// live one. Of a batch that was formed, or of a single event.
    ///
    /// # Errors
    /// The database.
    pub async fn frozen(
        &self,
        webhook: &str,
        replay: &str,
        position: i64,
        is_batch: bool,
    ) -> Result<Option<(Vec<u8>, String)>, Error> {
        let sql = "select body, coalesce(format, 'standard') from deliveries where webhook = $1 and replay in ($2, '') \
                   and position = $3 and body is not null and (batch is not null) = $4 order by replay desc limit 1";
        Ok(select!(self.db(), query_as.fetch_optional, sql, webhook, replay, position, is_batch))
    }

    /// The calls that the log still has of one event, oldest first.
    ///
    /// # Errors
    /// The database.
    pub async fn attempts(&self, webhook: &str, position: i64) -> Result<Vec<AttemptRow>, Error> {
        let sql = "select position, attempt, started_at, duration_ms, status, error, answer, replay from attempts \
                   where webhook = $1 and position = $2 order by started_at, attempt";
        Ok(select!(self.db(), query_as.fetch_all, sql, webhook, position))
    }

    /// The logged calls about the newest events that the selection lets through, newest first.
    ///
    /// # Errors
    /// The database.
    pub async fn recent_calls(&self, selection: &Selection, webhook: &str, limit: i64) -> Result<Vec<CallRow>, Error> {
        let condition = Condition::of(selection, 3);
        let sql = format!(
            "select a.position, a.attempt, a.started_at, a.duration_ms, a.status, a.error, a.answer, a.replay, e.event_id, \
             e.type from attempts a join entries e on e.position = a.position \
             where a.webhook = $1{} order by a.position desc, a.started_at desc limit $2",
            condition.text
        );
        Ok(select!(self.db(), query_as.fetch_all, AssertSqlSafe(sql), webhook, limit; condition.binds))
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
             where a.webhook = $1 and a.position > $2 and a.error is null and not exists (select 1 from attempts b \
             where b.webhook = a.webhook and b.position = a.position and b.error is null \
             and (b.started_at, b.replay, b.attempt) > (a.started_at, a.replay, a.attempt)){} order by a.position limit $3",
            condition.text
        );
        let sql = AssertSqlSafe(sql);
        let rows: Vec<Listed> = select!(self.db(), query_as.fetch_all, sql, webhook, after, limit; condition.binds);
        Ok(rows.into_iter().map(Listed::with_key).collect())
    }
}

#[derive(sqlx::FromRow)]
struct Listed {
    #[sqlx(flatten)]
    row: DeliveryRow,
    aggregate_type: String,
    aggregate_id: String,
}

impl Listed {
    fn with_key(self) -> DeliveryRow {
        DeliveryRow { key: key(&self.aggregate_type, &self.aggregate_id), ..self.row }
    }
}

pub(super) async fn wish(conn: &mut Conn, wished: &Wished) -> Result<u64, Error> {
    let Wished { webhook, from, through, wish, only_held } = wished;
    let text = if *wish == Wish::Discard { "discard" } else { "resend" };
    let sql = "update deliveries set wish = $4 where webhook = $1 and position >= $2 and position <= $3 \
               and (status = 'held' or (status = 'failing' and not $5))";
    let asked = execute!(conn, sql, webhook, from, through, text, only_held);
    if asked > 0 || *wish != Wish::Discard {
        return Ok(asked);
    }
    let sql = "update deliveries set status = 'discarded', next_attempt_at = null, body = null \
               where webhook = $1 and position >= $2 and position <= $3 and status = 'dead'";
    Ok(execute!(conn, sql, webhook, from, through))
}
