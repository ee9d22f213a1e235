//! How far each source was read, what became of its rows, and the rows that could not be mapped.

use super::append::{Append, Appended, Quarantined};
use super::db::{Conn, with_conn, with_pool};
use super::{Error, Journal};

/// What the journal keeps of a source.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct SourceRow {
    pub name: String,
    /// The source's own JSON: how far it has read and what it still looks for.
    pub checkpoint: Option<String>,
    pub journaled: i64,
    pub withheld: i64,
    pub duplicates: i64,
    pub changed: i64,
    pub quarantined: i64,
    pub updated_at: i64,
}

/// A quarantined row as it is listed.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct QuarantinedRow {
    pub id: String,
    pub event_id: Option<String>,
    pub sequence: Option<String>,
    pub reason: String,
    pub detail: String,
    pub received_at: i64,
    pub raw: String,
}

impl Journal {
    /// What is kept of a source, if it was ever read.
    ///
    /// # Errors
    /// The database.
    pub async fn source(&self, name: &str) -> Result<Option<SourceRow>, Error> {
        let sql = "select name, checkpoint, journaled, withheld, duplicates, changed, quarantined, updated_at \
                   from sources where name = $1";
        Ok(with_pool!(self.db(), pool => sqlx::query_as(sql).bind(name).fetch_optional(pool).await?))
    }

    /// Quarantined rows of a source, oldest first, after the row with this id.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantine(&self, source: &str, after: &str, limit: i64) -> Result<Vec<QuarantinedRow>, Error> {
        let sql = "select id, event_id, sequence, reason, detail, received_at, raw from quarantine \
                   where source = $1 and id > $2 order by id limit $3";
        Ok(
            with_pool!(self.db(), pool => sqlx::query_as(sql).bind(source).bind(after.replace('\0', "")).bind(limit).fetch_all(pool).await?),
        )
    }
}

pub(super) async fn insert_quarantined(
    conn: &mut Conn,
    source: &str,
    row: &Quarantined,
    now: i64,
) -> Result<(), Error> {
    let sql = "insert into quarantine (id, source, event_id, sequence, reason, detail, received_at, raw) \
               values ($1, $2, $3, $4, $5, $6, $7, $8)";
    with_conn!(conn, c => sqlx::query(sql)
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(source)
        .bind(row.event_id.as_deref())
        .bind(row.sequence.as_deref())
        .bind(row.reason)
        .bind(row.detail.as_str())
        .bind(now)
        .bind(row.raw.as_str())
        .execute(c).await?.rows_affected());
    Ok(())
}

pub(super) async fn update(conn: &mut Conn, append: &Append, appended: &Appended, now: i64) -> Result<(), Error> {
    let sql = "insert into sources (name, checkpoint, journaled, withheld, duplicates, changed, quarantined, updated_at) \
               values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (name) do update set \
               checkpoint = coalesce(excluded.checkpoint, sources.checkpoint), \
               journaled = sources.journaled + excluded.journaled, withheld = sources.withheld + excluded.withheld, \
               duplicates = sources.duplicates + excluded.duplicates, changed = sources.changed + excluded.changed, \
               quarantined = sources.quarantined + excluded.quarantined, updated_at = excluded.updated_at";
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    with_conn!(conn, c => sqlx::query(sql)
        .bind(append.source.as_str())
        .bind(append.checkpoint.as_deref())
        .bind(count(appended.journaled))
        .bind(count(append.withheld))
        .bind(count(appended.duplicates))
        .bind(count(appended.changed))
        .bind(count(append.quarantined.len() as u64 + appended.conflicts))
        .bind(now)
        .execute(c).await?.rows_affected());
    Ok(())
}
