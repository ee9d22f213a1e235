//! How far each source was read, what became of its rows, and the rows that could not be mapped.

use std::collections::HashSet;

use sqlx::AssertSqlSafe;

use super::append::{Append, Appended, Quarantined};
use super::batch::numbered;
use super::db::{Conn, execute, select};
use super::{Error, Journal};

/// Ids in one statement.
pub(super) const IDS_MAX: usize = 1_000;

/// The reason of rows that an operator gave up.
const DISCARDED: &str = "discarded";

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
        Ok(select!(self.db(), query_as.fetch_optional, sql, name))
    }

    /// Those of the ids that stand in the quarantine of a source, also as discarded, each with its number.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantined(&self, source: &str, ids: &[String]) -> Result<HashSet<(String, Option<String>)>, Error> {
        let mut found = HashSet::new();
        for ids in ids.chunks(IDS_MAX) {
            let binds = numbered(2, ids.len());
            let sql = format!("select event_id, sequence from quarantine where source = $1 and event_id in ({binds})");
            let ids: Vec<String> = ids.iter().map(|id| id.replace('\0', "")).collect();
            let rows: Vec<(String, Option<String>)> =
                select!(self.db(), query_as.fetch_all, AssertSqlSafe(sql), source; ids);
            found.extend(rows);
        }
        Ok(found)
    }

    /// Quarantined rows of a source, oldest first, after the row with this id; all, or those of one reason.
    ///
    /// # Errors
    /// The database.
    pub async fn quarantine(
        &self,
        source: &str,
        reason: Option<&str>,
        after: &str,
        limit: i64,
    ) -> Result<Vec<QuarantinedRow>, Error> {
        let sql = "select id, event_id, sequence, reason, detail, received_at, raw from quarantine \
                   where source = $1 and id > $2 and ($3 = '' or reason = $3) and reason <> $4 order by id limit $5";
        let reason = reason.unwrap_or_default().replace('\0', "");
        Ok(select!(self.db(), query_as.fetch_all, sql, source, after.replace('\0', ""), reason, DISCARDED, limit))
    }

    /// # Errors
    /// The database.
    pub async fn quarantined_row(&self, source: &str, id: &str) -> Result<Option<QuarantinedRow>, Error> {
        let sql = "select id, event_id, sequence, reason, detail, received_at, raw from quarantine \
                   where source = $1 and id = $2 and reason <> $3";
        Ok(select!(self.db(), query_as.fetch_optional, sql, source, id.replace('\0', ""), DISCARDED))
    }
}

/// Returns how many rows are new: one that is read again stands there already.
pub(super) async fn insert_quarantined(
    conn: &mut Conn,
    source: &str,
    row: &Quarantined,
    now: i64,
) -> Result<u64, Error> {
    let sql = "insert into quarantine (id, source, event_id, sequence, reason, detail, received_at, raw) \
               select $1, $2, $3, $4, $5, $6, $7, $8 where not exists (select 1 from quarantine where source = $2 \
               and reason in ($5, $9) \
               and (event_id is not null or sequence is not null) and event_id is not distinct from $3 \
               and sequence is not distinct from $4)";
    Ok(execute!(
        conn,
        sql,
        uuid::Uuid::now_v7().to_string(),
        source,
        row.event_id.as_deref(),
        row.sequence.as_deref(),
        row.reason,
        row.detail.as_str(),
        now,
        row.raw.as_str(),
        DISCARDED
    ))
}

pub(super) async fn delete_quarantined(conn: &mut Conn, source: &str, id: &str) -> Result<u64, Error> {
    Ok(execute!(conn, "delete from quarantine where source = $1 and id = $2", source, id))
}

/// What an operator gave up stays as a name without what it held.
pub(super) async fn discard_quarantined(conn: &mut Conn, source: &str, id: &str) -> Result<u64, Error> {
    let sql = "update quarantine set reason = $3, detail = '', raw = '' where source = $1 and id = $2 and reason <> $3";
    Ok(execute!(conn, sql, source, id, DISCARDED))
}

pub(super) async fn update(
    conn: &mut Conn,
    append: &Append,
    appended: &Appended,
    quarantined: i64,
    now: i64,
) -> Result<(), Error> {
    let sql = "insert into sources (name, checkpoint, journaled, withheld, duplicates, changed, quarantined, updated_at) \
               values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (name) do update set \
               checkpoint = coalesce(excluded.checkpoint, sources.checkpoint), \
               journaled = sources.journaled + excluded.journaled, withheld = sources.withheld + excluded.withheld, \
               duplicates = sources.duplicates + excluded.duplicates, changed = sources.changed + excluded.changed, \
               quarantined = sources.quarantined + excluded.quarantined, updated_at = excluded.updated_at";
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    execute!(
        conn,
        sql,
        append.source.as_str(),
        append.checkpoint.as_deref(),
        count(appended.journaled),
        count(append.withheld),
        count(appended.duplicates),
        count(appended.changed),
        quarantined,
        now
    );
    Ok(())
}
