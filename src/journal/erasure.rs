//! Erasing an event: its data goes, its place stays, and a record of it is journaled that reaches whoever could see it.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _};

use super::append::{Appended, Record, apply_records, new_id};
use super::db::{Conn, Db, execute, select, with_conn};
use super::writer::{HeadRow, Write};
use super::{Error, Journal};
use crate::event::ERASED;

/// Requests that are read at a time.
const REQUESTS_MAX: i64 = 100;
/// How long readers are waited for. Writers wait, too.
const SHRED_TIMEOUT: Duration = Duration::from_millis(500);

/// A page that holds, or may hold, an event.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Holder {
    pub feed: String,
    pub epoch: String,
    /// Nothing: it was not sealed yet.
    pub n: Option<i64>,
}

impl Journal {
    /// Erases the event with this public id: its data, metadata and summary, the bodies kept for webhooks and what
    /// receivers answered. An erased event stays erased; of an unknown one nothing is changed. Durable when it returns;
    /// [`Journal::shred`] comes after it.
    ///
    /// # Errors
    /// The database; nothing was erased then.
    pub async fn erase(&self, event_id: &str) -> Result<(), Error> {
        self.inner.writer.write(Write::Erase(event_id.to_owned())).await.map(|_| ())
    }

    /// Overwrites what the files of a SQLite journal still hold of what was erased. PostgreSQL does so by itself, when it
    /// vacuums. `false`: a reader is in the way, try again.
    ///
    /// # Errors
    /// The database.
    pub async fn shred(&self) -> Result<bool, Error> {
        let Db::Sqlite(pool) = self.db() else { return Ok(true) };
        let options = pool.connect_options().as_ref().clone().busy_timeout(SHRED_TIMEOUT);
        let mut connection = options.connect().await?;
        let (busy, _, _): (i64, i64, i64) =
            sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(busy == 0)
    }

    /// Asks whoever serves this journal to erase an event.
    ///
    /// # Errors
    /// The database.
    pub async fn request_erasure(&self, event_id: &str) -> Result<(), Error> {
        self.inner.writer.write(Write::RequestErasure(event_id.to_owned())).await.map(|_| ())
    }

    /// Events that are to be erased, or that are and still have to be overwritten and told to outside caches; the oldest
    /// first.
    ///
    /// # Errors
    /// The database.
    pub async fn erasures(&self, is_erased: bool) -> Result<Vec<String>, Error> {
        let sql = "select event_id from erasures where is_erased = $1 order by requested_at, event_id limit $2";
        Ok(select!(self.db(), query_scalar.fetch_all, sql, is_erased, REQUESTS_MAX))
    }

    /// Nothing is left to do about these erasures.
    ///
    /// # Errors
    /// The database.
    pub async fn erasures_done(&self, event_ids: Vec<String>) -> Result<(), Error> {
        self.inner.writer.write(Write::ErasuresDone(event_ids)).await.map(|_| ())
    }

    /// The pages of every epoch, also of former ones, that an entry at this position belongs to if it is theirs.
    ///
    /// # Errors
    /// The database.
    pub async fn holders(&self, position: i64) -> Result<Vec<Holder>, Error> {
        let sql = "select v.feed, v.epoch, min(p.n) as n from views v left join pages p \
                   on p.epoch = v.epoch and p.last_position >= $1 group by v.feed, v.epoch order by v.feed, v.epoch";
        Ok(select!(self.db(), query_as.fetch_all, sql, position))
    }
}

pub(super) async fn request(conn: &mut Conn, event_id: &str, now: i64, is_erased: bool) -> Result<(), Error> {
    let sql = "insert into erasures (event_id, requested_at, is_erased) values ($1, $2, $3) \
               on conflict (event_id) do update set is_erased = erasures.is_erased or excluded.is_erased";
    execute!(conn, sql, event_id, now, is_erased);
    Ok(())
}

pub(super) async fn done(conn: &mut Conn, event_ids: &[String]) -> Result<(), Error> {
    for id in event_ids {
        execute!(conn, "delete from erasures where event_id = $1", id.as_str());
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct Erased {
    position: i64,
    source: String,
    r#type: String,
    aggregate_type: String,
    aggregate_id: String,
}

/// Runs in the writer's transaction, under the head's lock.
pub(super) async fn apply(conn: &mut Conn, head: &mut HeadRow, event_id: &str) -> Result<Appended, Error> {
    let sql = "select e.position, e.source, e.type, e.aggregate_type, e.aggregate_id from inbox i \
               join entries e on e.position = i.position where i.event_id = $1 and e.erased_at is null and e.erases is null";
    let found: Option<Erased> =
        with_conn!(&mut *conn, c => sqlx::query_as(sql).bind(event_id).fetch_optional(c).await?);
    let Some(erased) = found else {
        execute!(conn, "delete from erasures where event_id = $1 and not is_erased", event_id);
        return Ok(Appended::default());
    };
    let position = erased.position;
    execute!(
        conn,
        "update entries set data = null, metadata = null, summary = '', erased_at = $2 where position = $1",
        position,
        head.now
    );
    // A failing row keeps its key parked until its turn, which comes now and finds nothing to send.
    let sql = "update deliveries set body = null, next_attempt_at = $2, \
               status = case when status = 'held' then 'failing' else status end \
               where position <= $1 and coalesce(through, position) >= $1 and status in ('failing', 'held', 'dead')";
    execute!(conn, sql, position, head.now);
    execute!(conn, "update deliveries set status = 'discarded' where position = $1 and status = 'dead'", position);
    // Calls that carried several events have one answer.
    let sql = "select webhook, started_at from attempts where webhook in (select id from webhooks) and position = $1";
    let calls: Vec<(String, i64)> = with_conn!(&mut *conn, c => sqlx::query_as(sql).bind(position).fetch_all(c).await?);
    for (webhook, started_at) in calls {
        let sql = "update attempts set answer = null where webhook = $1 and started_at = $2";
        execute!(conn, sql, webhook.as_str(), started_at);
    }
    execute!(conn, "update quarantine set raw = '' where event_id = $1", event_id);
    let record = Record {
        id: new_id(),
        data: serde_json::json!({ "id": event_id, "type": erased.r#type, "position": position }),
        source: erased.source,
        r#type: ERASED,
        aggregate_type: erased.aggregate_type,
        aggregate_id: erased.aggregate_id,
        summary: format!("{event_id} was erased"),
    };
    let appended = apply_records(conn, head, [record]).await?;
    let sql = "update entries set erases = $2, erased_type = $3 where position = $1";
    execute!(conn, sql, head.position, event_id, erased.r#type.as_str());
    request(conn, event_id, head.now, true).await?;
    head.erasures += 1;
    Ok(appended)
}
