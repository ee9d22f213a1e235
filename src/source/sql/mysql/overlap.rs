//! A table without numbers, read by the time of its rows: everything from a floor on, again and again, as long as a
//! transaction is open that may still write an earlier row. What comes again is known by its id.

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlPool;

use super::{Engine as _, MySql};
use crate::source::mapping::{Kind, OCCURRED_AT};
use crate::source::sql::Table;
use crate::source::sql::windowed::Window;
use crate::source::{Page, ROWS_MAX, time};

/// A row may be dated so much before its transaction began, in microseconds: clocks, and times without fractions.
const SKEW: i64 = 1_000_000;
/// How long a transaction is expected to be open at most, where nobody tells how long it is.
const OVERLAP: i64 = 600_000_000;

/// How far the table was read. Times are microseconds.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::source) struct Token {
    /// Rows before it were all read.
    floor: Option<i64>,
    reading: Option<Reading>,
}

/// The look that goes on.
#[derive(Serialize, Deserialize)]
struct Reading {
    /// The floor of the next one.
    floor: i64,
    /// The time and the id of the last row, as the database writes them.
    after: (String, String),
}

pub(super) async fn window(pool: &MySqlPool, window: &Window, token: Token) -> Result<(Page, Token), sqlx::Error> {
    let (floor, after) = match token.reading {
        Some(Reading { floor, after }) => (floor, Some(after)),
        // Before the rows are read.
        None => (next_floor(pool).await?, None),
    };
    let Window { list, table, fields, id: (id, kind), time: (time, _), .. } = window;
    let (mark, bind) = match kind {
        Kind::Bytes => (MySql::hex(id), "unhex(?)"),
        _ => (format!("cast({id} as char)"), "?"),
    };
    let mut conditions: Vec<String> = Vec::new();
    let mut binds = Vec::new();
    if let Some(floor) = token.floor {
        conditions.push(format!("{time} >= ?"));
        binds.push(time::to_text(floor, window.time.1, window.zone));
    }
    if let Some((at, last)) = after {
        conditions.push(format!("{time} >= ? and ({time} > ? or {id} > {bind})"));
        binds.extend([at.clone(), at, last]);
    }
    let conditions = if conditions.is_empty() { String::new() } else { format!("where {}", conditions.join(" and ")) };
    let statement = format!("select {mark}{list} from {table} {conditions} order by {time}, {id} limit {ROWS_MAX}");
    let page = MySql::read_marked(&mut *pool.acquire().await?, &statement.into(), fields, &binds).await?;
    let last = page.rows.last().filter(|_| page.more);
    let last = last.and_then(|row| Some((String::from_utf8(row.cells[OCCURRED_AT].clone()?).ok()?, row.mark.clone())));
    let token = match last {
        Some(after) => Token { floor: token.floor, reading: Some(Reading { floor, after }) },
        None => Token { floor: Some(floor), reading: None },
    };
    Ok((page, token))
}

/// The beginning of the oldest transaction that may write; without the right to see them, some time ago.
async fn next_floor(pool: &MySqlPool) -> Result<i64, sqlx::Error> {
    let now = "select cast(unix_timestamp(now(6)) * 1000000 as signed)";
    let now: i64 = sqlx::query_scalar(now).fetch_one(pool).await?;
    Ok(now - open_for(pool).await?.unwrap_or(OVERLAP) - SKEW)
}

/// For how long the oldest transaction is open; nothing without the right to see it.
async fn open_for(pool: &MySqlPool) -> Result<Option<i64>, sqlx::Error> {
    // The table's times are those of the machine's zone, whatever the session's.
    let age = "select cast(coalesce(max(timestampdiff(microsecond, trx_started, \
               convert_tz(utc_timestamp(6), '+00:00', 'SYSTEM'))), 0) as signed) \
               from information_schema.innodb_trx where trx_is_read_only = 0";
    match sqlx::query_scalar(age).fetch_one(pool).await {
        Ok(age) => Ok(Some(age)),
        Err(sqlx::Error::Database(cause)) if cause.message().contains("PROCESS") => Ok(None),
        Err(cause) => Err(cause),
    }
}

pub(super) async fn examine(pool: &MySqlPool, table: &Table) -> Result<Vec<String>, sqlx::Error> {
    let mut warnings = vec![
        "a row is only found if its time is set by the database, or by a clock that is less than a second late"
            .to_owned(),
    ];
    if open_for(pool).await?.is_none() {
        warnings.push("without the PROCESS right open transactions can't be seen: rows of transactions that are open for more than 10 minutes are lost, and everything younger is read again at every poll".to_owned());
    }
    let indexes = "select count(*) from information_schema.statistics where table_schema = coalesce(?, database()) \
                   and table_name = ?";
    let indexes = sqlx::query_scalar(AssertSqlSafe(indexes)).bind(table.schema.as_deref()).bind(&table.name);
    if indexes.fetch_one(pool).await.map(|count: i64| count == 0)? {
        warnings.push("the table has no index: every poll reads it whole".to_owned());
    }
    Ok(warnings)
}
