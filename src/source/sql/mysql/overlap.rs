//! A table without numbers, read by the time of its rows: everything from a floor on, again and again, as long as a
//! transaction is open that may still write an earlier row. What comes again is known by its id.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlPool;

use super::{Engine as _, MySql};
use crate::source::mapping::{Kind, OCCURRED_AT};
use crate::source::sql::Table;
use crate::source::sql::windowed::Window;
use crate::source::{Page, time};

/// A row may be dated so much before its transaction began, in microseconds: clocks, and times without fractions.
const SKEW: i64 = 1_000_000;
/// How long a transaction is expected to be open at most, where nobody tells how long it is.
const OVERLAP: i64 = 600_000_000;

const SNAPSHOT: &str = "start transaction with consistent snapshot, read only";
/// After this time without a look, InnoDB shows the present.
const STALE: Duration = Duration::from_millis(120);
const LOOKS_MAX: usize = 3;

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
    /// The time and the id of the last row, as the database writes them. Rows without a time come first.
    after: (Option<String>, String),
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
    let (mut conditions, mut binds) = (vec!["true".to_owned()], Vec::new());
    if let Some(floor) = token.floor {
        // A row without a time belongs into the quarantine, whenever it was written.
        conditions.push(format!("({time} >= ? or {time} is null)"));
        binds.push(time::floor_text(floor, window.time.1, window.zone));
    }
    match after {
        Some((Some(at), last)) => {
            conditions.push(format!("{time} >= ? and ({time} > ? or {id} > {bind})"));
            binds.extend([at.clone(), at, last]);
        }
        Some((None, last)) => {
            conditions.push(format!("({time} is not null or {id} > {bind})"));
            binds.push(last);
        }
        None => {}
    }
    let (conditions, rows_max) = (conditions.join(" and "), window.rows_max);
    let statement = format!(
        "select coalesce({mark}, ''){list} from {table} where {conditions} order by {time}, {id} limit {rows_max}"
    );
    let page = MySql::read_marked(&mut *pool.acquire().await?, &statement.into(), fields, &binds, rows_max).await?;
    let last = page.rows.last().filter(|_| page.more);
    let token = match last {
        Some(row) => {
            let at = row.cells[OCCURRED_AT].as_ref().map(|cell| String::from_utf8_lossy(cell).into_owned());
            Token { floor: token.floor, reading: Some(Reading { floor, after: (at, row.mark.clone()) }) }
        }
        None => Token { floor: Some(floor), reading: None },
    };
    Ok((page, token))
}

/// The beginning of the oldest transaction or statement that may still write an earlier row; where that can't be seen,
/// some time ago.
async fn next_floor(pool: &MySqlPool) -> Result<i64, sqlx::Error> {
    let now = "select cast(unix_timestamp(now(6)) * 1000000 as signed)";
    let now: i64 = sqlx::query_scalar(now).fetch_one(pool).await?;
    let age = open_for(pool).await?.unwrap_or(OVERLAP);
    let age = if sees_all_writers(pool).await? { age } else { age.max(OVERLAP) };
    Ok(now - age - SKEW)
}

/// Whether rows are written by this server's own sessions alone: it is no replica and no node of a cluster.
async fn sees_all_writers(pool: &MySqlPool) -> Result<bool, sqlx::Error> {
    let read_only: i64 = sqlx::query_scalar("select cast(@@global.read_only as signed)").fetch_one(pool).await?;
    let cluster = "show global variables where variable_name in ('wsrep_on', 'group_replication_group_name') \
                   and value not in ('', 'OFF')";
    Ok(read_only == 0 && sqlx::query(cluster).fetch_optional(pool).await?.is_none())
}

/// For how long the oldest transaction or running statement is open; nothing if that can't be seen.
async fn open_for(pool: &MySqlPool) -> Result<Option<i64>, sqlx::Error> {
    // The table's times are those of the machine's zone, whatever the session's; where its clock is set back, it is not
    // below zero.
    let transactions = "select cast(greatest(coalesce(max(if(trx_is_read_only = 0 and trx_mysql_thread_id <> connection_id(), \
                        timestampdiff(microsecond, trx_started, convert_tz(utc_timestamp(6), '+00:00', 'SYSTEM')), 0)), 0), 0) \
                        as signed), cast(coalesce(max(trx_mysql_thread_id = connection_id()), 0) as signed) \
                        from information_schema.innodb_trx";
    // One that waits for a lock on the table is no transaction yet, but its time is fixed.
    let statements = "select cast(coalesce(max(time + 1), 0) * 1000000 as signed) from information_schema.processlist \
                      where command in ('Query', 'Execute') and id <> connection_id()";
    let mut transaction = pool.begin_with(SNAPSHOT).await?;
    // InnoDB shows what it saw up to a tenth of a second ago, or longer if it is asked all the time: what does not show
    // our own transaction is too old.
    for _ in 0..LOOKS_MAX {
        let seen: Result<(i64, i64), sqlx::Error> = sqlx::query_as(transactions).fetch_one(&mut *transaction).await;
        match seen {
            Ok((age, 1)) => {
                let statement: i64 = sqlx::query_scalar(statements).fetch_one(&mut *transaction).await?;
                transaction.commit().await?;
                return Ok(Some(age.max(statement)));
            }
            Ok(_) => tokio::time::sleep(STALE).await,
            Err(sqlx::Error::Database(cause)) if cause.message().contains("PROCESS") => return Ok(None),
            Err(cause) => return Err(cause),
        }
    }
    Ok(None)
}

pub(super) async fn examine(pool: &MySqlPool, table: &Table) -> Result<Vec<String>, sqlx::Error> {
    let mut warnings = vec![
        "a row is only found if its time is set by the database, or by a clock that is less than a second late"
            .to_owned(),
    ];
    if !sees_all_writers(pool).await? {
        warnings.push("the server is read-only or part of a cluster: rows of transactions that are open, or late, by more than 10 minutes are lost, and everything younger is read again at every poll".to_owned());
    } else if open_for(pool).await?.is_none() {
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
