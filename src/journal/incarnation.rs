//! Which incarnation of a journal this is. What was read of another one beyond the place where this one begins may never
//! have happened here: a backup was opened, or a standby took over that lacked the end. So the journal gets a new id then,
//! and remembers up to where cursors of the old one hold.

use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use super::db::{Conn, Db, LOCK_HEAD_POSTGRES, LOCK_HEAD_SQLITE, execute, with_conn};
use super::{Error, Journal};
use crate::runtime::random_hex;

/// The server that the journal is on, as far as it would be another one after a fail-over or a restore: its id, and the
/// timeline that it writes now (the last checkpoint's may be an older one for a while).
const CLUSTER: &str = "select (select system_identifier::text from pg_control_system()) || '/' || \
     substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
/// SQLSTATE of a right that is missing.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// The row of `settings` that marks a copy.
const BACKUP: &str = "backup";
const ORIGIN: &str = "cluster";

/// Gives the journal a new id if it is another incarnation than at its last start.
pub(super) async fn renew(db: &Db) -> Result<(), Error> {
    let now = match db {
        Db::Postgres(pool) => cluster(&mut *pool.acquire().await?).await?,
        Db::Sqlite(_) => None,
    };
    let mut conn = db.begin().await?;
    // One process at a time.
    let lock = if matches!(conn, Conn::Sqlite(_)) { LOCK_HEAD_SQLITE } else { LOCK_HEAD_POSTGRES };
    with_conn!(&mut conn, c => c.execute(lock).await.map(|_| ())?);
    let is_another = match &mut conn {
        Conn::Sqlite(transaction) => {
            let sql = "delete from settings where name = $1";
            sqlx::query(sql).bind(BACKUP).execute(&mut **transaction).await?.rows_affected() > 0
        }
        Conn::Postgres(transaction) => {
            let sql = "select value from settings where name = $1";
            let known: Option<String> = sqlx::query_scalar(sql).bind(ORIGIN).fetch_optional(&mut **transaction).await?;
            let sql = "insert into settings (name, value) values ($1, $2) \
                       on conflict (name) do update set value = excluded.value";
            if let Some(now) = &now {
                sqlx::query(sql).bind(ORIGIN).bind(now).execute(&mut **transaction).await?;
            }
            known.is_some_and(|known| now.is_some_and(|now| known != now))
        }
    };
    if is_another {
        let sql = "insert into incarnations (id, last_position, ended_at) select id, position, recorded_at from journal \
                   where true on conflict do nothing";
        execute!(&mut conn, sql);
        execute!(&mut conn, "update journal set id = $1", random_hex(4));
    }
    Ok(conn.commit().await?)
}

/// Nothing where the server does not tell us.
async fn cluster(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    match sqlx::query_scalar(CLUSTER).fetch_one(conn).await {
        Ok(cluster) => Ok(Some(cluster)),
        Err(sqlx::Error::Database(cause)) if cause.code().as_deref() == Some(INSUFFICIENT_PRIVILEGE) => Ok(None),
        Err(cause) => Err(cause),
    }
}

/// Whether the journal is still the one with this id, on the server that it was on.
pub(super) async fn is_same(conn: &mut PgConnection, id: &str) -> Result<bool, sqlx::Error> {
    let now = cluster(conn).await?;
    let sql = "select id = $1 and coalesce((select value from settings where name = $2) = $3, true) from journal";
    sqlx::query_scalar(sql).bind(id).bind(ORIGIN).bind(now).fetch_one(conn).await
}

impl Journal {
    /// Copies a SQLite journal to a file that does not exist yet, as it is at one moment, while others go on writing. The
    /// copy is marked: whoever opens it gets a new journal id. `false`: it is none, and its server has its own ways.
    ///
    /// # Errors
    /// The database or the file; an incomplete copy may be left under `{file}.partial`.
    pub async fn backup(&self, file: &Path) -> Result<bool, Error> {
        let Db::Sqlite(pool) = self.db() else { return Ok(false) };
        let partial = file.with_added_extension("partial");
        let _ = std::fs::remove_file(&partial);
        // Made before it has anything to hide.
        private(&partial)?;
        copy(pool, &partial).await?;
        std::fs::File::open(&partial)?.sync_all()?;
        // Not over one that appeared meanwhile.
        std::fs::hard_link(&partial, file)?;
        std::fs::remove_file(&partial)?;
        if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::File::open(folder)?.sync_all()?;
        }
        Ok(true)
    }
}

fn private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(|_| ())
}

async fn copy(pool: &SqlitePool, to: &Path) -> Result<(), Error> {
    sqlx::query("vacuum into $1").bind(to.to_string_lossy().into_owned()).execute(pool).await?;
    let options = SqliteConnectOptions::new().filename(to).journal_mode(SqliteJournalMode::Delete);
    let mut copy = options.connect().await?;
    let sql = "insert into settings (name, value) values ($1, '') on conflict do nothing";
    sqlx::query(sql).bind(BACKUP).execute(&mut copy).await?;
    let verdict: String = sqlx::query_scalar("pragma integrity_check(1)").fetch_one(&mut copy).await?;
    copy.close().await?;
    match verdict.as_str() {
        "ok" => Ok(()),
        _ => Err(Error::Damaged { what: to.display().to_string(), verdict }),
    }
}
