//! One SQL text, two engines. Everything that differs between SQLite and PostgreSQL stands in this file.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::LazyLock;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, Postgres, Sqlite, Transaction};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Error;
use super::listen::CHANNEL;
use crate::runtime::Backoff;

/// A connection that was used within this time is taken to be alive.
const PING_AFTER: Duration = Duration::from_secs(1);
/// One that is silent for so long is given up: what is gone without a word would keep its place for a quarter of an hour.
const PING_MAX: Duration = Duration::from_secs(3);
/// What was asked before the server fell silent is given up so long after it is back.
const ANSWER_AFTER_SILENCE: Duration = Duration::from_secs(15);
/// Readers. Each holds a page of rows at most.
const READERS_MAX: u32 = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement waits for another process's lock on the SQLite file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The database of the journal.
#[derive(Clone, Debug)]
pub(super) enum Db {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// A write transaction.
pub(super) enum Conn {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

/// Runs the body with the pool of either engine; the body is compiled for both.
macro_rules! with_pool {
    ($db:expr, $pool:ident => $body:expr) => {
        match $db {
            $crate::journal::db::Db::Sqlite($pool) => $body,
            $crate::journal::db::Db::Postgres($pool) => $body,
        }
    };
}

/// Runs the body with the connection of either engine's transaction; the body is compiled for both.
macro_rules! with_conn {
    ($conn:expr, $c:ident => $body:expr) => {
        match $conn {
            $crate::journal::db::Conn::Sqlite(transaction) => {
                let $c = &mut **transaction;
                $body
            }
            $crate::journal::db::Conn::Postgres(transaction) => {
                let $c = &mut **transaction;
                $body
            }
        }
    };
}

/// Changes rows in a transaction, and answers how many: `execute!(conn, text, binds…)`.
macro_rules! execute {
    ($conn:expr, $text:expr $(, $bind:expr)* $(,)?) => {
        $crate::journal::db::with_conn!($conn, c => sqlx::query($text)$(.bind($bind))*.execute(c).await?.rows_affected())
    };
}

/// Reads rows: `select!(db, query_as.fetch_all, text, binds…)`, and `; texts` for as many binds more as there are.
macro_rules! select {
    ($db:expr, $kind:ident . $fetch:ident, $text:expr $(, $bind:expr)* $(; $more:expr)?) => {
        $crate::journal::db::with_pool!($db, pool => {
            let query = sqlx::$kind($text)$(.bind($bind))*;
            $(let query = $more.iter().fold(query, |query, text: &String| query.bind(text.as_str()));)?
            $crate::journal::db::answered(query.$fetch(pool)).await?
        })
    };
}

pub(super) use {execute, select, with_conn, with_pool};

/// Rung when a server that had fallen silent answers again.
static BACK: LazyLock<watch::Sender<()>> = LazyLock::new(watch::Sender::default);

/// A server that had fallen silent answers again.
pub(super) fn is_back() {
    BACK.send_replace(());
}

/// What a server answers. There is no limit to how long that may take; but what was asked before it fell silent may never
/// be answered, and must not keep its connection from the others.
pub(super) async fn answered<T, E: From<sqlx::Error>>(answer: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let mut back = BACK.subscribe();
    let given_up = async {
        let _ = back.changed().await;
        sleep(ANSWER_AFTER_SILENCE).await;
    };
    tokio::select! {
        biased;
        answer = answer => answer,
        () = given_up => Err(silent().into()),
    }
}

pub(super) fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, "the journal's database does not answer"))
}

/// The head row, locked until the transaction ends, and the database's clock in microseconds.
pub(super) const LOCK_HEAD_SQLITE: &str = "select position, recorded_at, feed_time, oldest, erasures, \
     cast(unixepoch('subsec') * 1000000 as integer) as now from journal where singleton = 1";
pub(super) const LOCK_HEAD_POSTGRES: &str = "select position, recorded_at, feed_time, oldest, erasures, \
     (extract(epoch from clock_timestamp()) * 1000000)::bigint as now from journal where singleton = 1 for update";
/// PostgreSQL's clock in microseconds.
pub(super) const NOW_POSTGRES: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint";

/// Each statement is planned for its values: a plan that was made while a table was empty reads all of it later. A gateway
/// whose machine is gone without a word keeps the head's lock for no longer than its leases.
const SESSION: &str = "set plan_cache_mode = force_custom_plan; set idle_in_transaction_session_timeout = '5s'";
/// The same for one that is gone while the server works, and for a statement that its gateway gave up, which would wait for
/// its lock for ever. Not every system and version has them.
const WISHES: [&str; 2] = [
    "set tcp_user_timeout = '10s'; set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; \
     set tcp_keepalives_count = 3",
    "set client_connection_check_interval = '2s'",
];

fn postgres_pool(connections_max: u32, options: &PgConnectOptions) -> PgPoolOptions {
    let pool = PgPoolOptions::new().max_connections(connections_max).acquire_timeout(CONNECT_TIMEOUT);
    let (at_use, at_return) = (options.clone(), options.clone());
    // A round trip for each read would be much of its cost.
    let pool = pool.test_before_acquire(false).before_acquire(move |connection, known| {
        let options = at_use.clone();
        Box::pin(async move {
            if known.idle_for > PING_AFTER {
                revive(connection, &options).await?;
            }
            Ok(true)
        })
    });
    // Whoever gave up waiting for an answer left a connection that may never give one.
    let pool = pool.after_release(move |connection, _| {
        let options = at_return.clone();
        Box::pin(async move { revive(connection, &options).await.map(|()| true) })
    });
    pool.after_connect(|connection, _| Box::pin(set_up(connection)))
}

async fn set_up(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
    for wish in WISHES {
        if let Err(cause) = sqlx::raw_sql(wish).execute(&mut *connection).await {
            debug!(%cause, "the journal's server does not take `{wish}`");
        }
    }
    Ok(())
}

/// A connection that is no pool's. When it is dropped it is gone, whatever the server is doing.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let mut connection = options.connect().await?;
    set_up(&mut connection).await?;
    Ok(connection)
}

/// Puts another connection into the place of one that is silent, as soon as there is one. The library would close it, and
/// wait for the server's farewell in TLS first.
async fn revive(connection: &mut PgConnection, options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    if let Ok(answer) = timeout(PING_MAX, connection.ping()).await {
        return answer;
    }
    let mut backoff = Backoff::new(PING_AFTER, CONNECT_TIMEOUT);
    loop {
        match timeout(CONNECT_TIMEOUT, connect(options)).await.unwrap_or_else(|_| Err(silent())) {
            Ok(fresh) => {
                *connection = fresh;
                return Ok(());
            }
            Err(cause) => warn!(%cause, "can't replace a connection to the journal that fell silent: {cause}"),
        }
        sleep(backoff.next_wait()).await;
    }
}

/// A connection of its own to the same database, for what a crowd must not keep waiting.
pub(super) fn apart(pool: &PgPool) -> PgPool {
    let options = pool.connect_options();
    postgres_pool(1, &options).connect_lazy_with(options.as_ref().clone())
}

impl Db {
    /// Connects to `sqlite://path` (made if missing) or `postgres://…`, and brings the schema up to date.
    pub(super) async fn open(url: &str) -> Result<Self, Error> {
        let db = if let Some(path) = sqlite_path(url) {
            let options = SqliteConnectOptions::new()
                .filename(path)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                // Pages that many commits change, such as those of logs, are copied to the file once for more of them.
                .pragma("wal_autocheckpoint", "4000")
                // Full: a commit that was answered survives a power cut, not only a crash.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(BUSY_TIMEOUT)
                // What is erased is overwritten.
                .pragma("secure_delete", "on")
                // Whoever reads pages takes many rows at once: fewer turns between the threads.
                .row_buffer_size(256)
                .statement_cache_capacity(200);
            let pool = SqlitePoolOptions::new().max_connections(READERS_MAX).acquire_timeout(CONNECT_TIMEOUT);
            // A file does not go away.
            let pool = pool.test_before_acquire(false);
            Self::Sqlite(pool.connect_with(options).await?)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = PgConnectOptions::from_str(url)?.application_name("postern");
            // The pool would go on trying and then only say that it took too long; this says why at once.
            options.connect().await?.close().await?;
            Self::Postgres(postgres_pool(READERS_MAX, &options).connect_with(options).await?)
        } else {
            return Err(Error::Url);
        };
        db.migrate().await?;
        Ok(db)
    }

    /// Brings the schema up to date; one process at a time.
    async fn migrate(&self) -> Result<(), Error> {
        let mut migrator = sqlx::migrate!("./migrations");
        // A newer gateway beside this one may have added to the schema; what it adds, this one can do without.
        migrator.set_ignore_missing(true);
        let Self::Postgres(pool) = self else {
            return with_pool!(self, pool => Ok(migrator.run(pool).await?));
        };
        // Of a transaction: a connection pooler may give each transaction another connection, and keep a session's lock.
        let mut turn = pool.begin().await?;
        sqlx::query("select pg_advisory_xact_lock(hashtext('postern schema'), hashtext(current_schema()::text))")
            .execute(&mut *turn)
            .await?;
        // It waits for the others, however long they take.
        sqlx::query("set local idle_in_transaction_session_timeout = 0").execute(&mut *turn).await?;
        migrator.set_locking(false);
        migrator.run(pool).await?;
        Ok(turn.commit().await?)
    }

    /// Connects to a journal without making or changing anything. `None`: there is no file yet.
    pub(super) async fn look(url: &str) -> Result<Option<Self>, Error> {
        let Some(path) = sqlite_path(url) else {
            if !url.starts_with("postgres") {
                return Err(Error::Url);
            }
            let options = PgConnectOptions::from_str(url)?.application_name("postern");
            options.connect().await?.close().await?;
            return Ok(Some(Self::Postgres(postgres_pool(1, &options).connect_with(options).await?)));
        };
        if !path.exists() {
            return Ok(None);
        }
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
        Ok(Some(Self::Sqlite(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?)))
    }

    /// A pool of its own for the writer, so that no crowd of readers keeps it waiting for a connection.
    pub(super) fn for_writer(&self) -> Self {
        match self {
            Self::Sqlite(pool) => {
                let one = SqlitePoolOptions::new().max_connections(1).acquire_timeout(CONNECT_TIMEOUT);
                // After an I/O error SQLite has rolled back by itself, and the library counts wrong from then on.
                let one = one.before_acquire(|connection, _| {
                    let is_usable = !connection.is_in_transaction();
                    Box::pin(async move { Ok(is_usable) })
                });
                Self::Sqlite(one.connect_lazy_with(pool.connect_options().as_ref().clone()))
            }
            Self::Postgres(pool) => Self::Postgres(apart(pool)),
        }
    }

    /// A write transaction: SQLite takes its write lock at once, so that it never has to give up half-way.
    pub(super) async fn begin(&self) -> Result<Conn, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => Ok(Conn::Sqlite(pool.begin_with("begin immediate").await?)),
            Self::Postgres(pool) => Ok(Conn::Postgres(pool.begin().await?)),
        }
    }

    pub(super) async fn close(&self) {
        with_pool!(self, pool => pool.close().await);
    }
}

impl Conn {
    /// Tells other processes, once the transaction is committed.
    pub(super) async fn notify(&mut self, payload: &str) -> Result<(), sqlx::Error> {
        let Self::Postgres(transaction) = self else { return Ok(()) };
        let query = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(payload);
        query.execute(&mut **transaction).await.map(|_| ())
    }

    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await,
            Self::Postgres(transaction) => transaction.commit().await,
        }
    }

    pub(super) async fn rollback(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(transaction) => transaction.rollback().await,
            Self::Postgres(transaction) => transaction.rollback().await,
        }
    }
}

/// The file of a `sqlite://` URL.
pub fn sqlite_path(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:"))?;
    Some(PathBuf::from(path.split('?').next().unwrap_or(path)))
}

/// Keeps a second `serve` away from the same SQLite journal, for as long as it lives.
pub(super) fn lock_file(path: &Path) -> Result<std::fs::File, Error> {
    let lock = path.with_extension("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::InUse { what: path.display().to_string() }),
        Err(std::fs::TryLockError::Error(cause)) => Err(cause.into()),
    }
}
