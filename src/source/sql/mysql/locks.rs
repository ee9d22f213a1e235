//! Who may still fill a missing number: whoever holds a lock on its row. A locking read that does not wait tells; at READ
//! COMMITTED it locks nothing where nothing is, so it stands in no inserter's way. No right is needed but to select.

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlPool;

use crate::source::Evidence;

/// Ranges that are asked for at a time.
const RANGES_MAX: usize = 20;
/// The row is locked: `ER_LOCK_WAIT_TIMEOUT` of MariaDB, `ER_LOCK_NOWAIT` of MySQL.
const LOCKED: [u16; 2] = [1205, 3572];

/// `asked` is the newest time that the call before was asked about: numbers are drawn shortly before their rows are
/// there, so one is judged only when it is asked about again.
pub(super) async fn evidence(
    pool: &MySqlPool,
    asked: &mut Option<i64>,
    table: &str,
    sequence: &str,
    missing: &[(i64, i64, i64)],
) -> Result<Evidence, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let version: String = sqlx::query_scalar("select cast(version() as char)").fetch_one(&mut *connection).await?;
    let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
    let lock = if is_mariadb { "lock in share mode nowait" } else { "for share nowait" };
    let text = format!("select {sequence} from {table} where {sequence} between ? and ? limit 1 {lock}");
    let newest = missing.iter().map(|(_, _, since)| *since).max();
    let before = std::mem::replace(asked, newest);
    let mut settled = Vec::new();
    let known = missing.iter().filter(|(_, _, since)| before.is_some_and(|before| *since <= before));
    for (from, to, _) in known.take(RANGES_MAX) {
        sqlx::raw_sql("set transaction isolation level read committed, read write").execute(&mut *connection).await?;
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
        let found = sqlx::query(AssertSqlSafe(text.clone())).bind(from).bind(to).fetch_all(&mut *transaction).await;
        transaction.rollback().await?;
        match found {
            // One that is there now is found by the next poll.
            Ok(rows) => settled.extend(rows.is_empty().then_some((*from, *to))),
            Err(sqlx::Error::Database(cause)) if is_locked(cause.as_ref()) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(Evidence { settled, held_by: Vec::new() })
}

fn is_locked(cause: &dyn sqlx::error::DatabaseError) -> bool {
    cause.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().is_some_and(|cause| LOCKED.contains(&cause.number()))
}
