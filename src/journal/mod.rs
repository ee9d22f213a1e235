//! The hall: one ordered, gap-free log of the events that may leave, and what readers keep about it.
//!
//! All SQL of our own tables stands in this folder, one text for both engines. Rooms read through
//! [`Journal::read`] and its neighbours, always with a [`Selection`](crate::filter::Selection), and write through
//! one writer that groups what waits into one transaction (`writer`).

mod agreed;
mod append;
mod batch;
pub mod checkpoint;
mod columns;
mod db;
pub mod deliveries;
mod entries;
mod erasure;
mod follow;
mod inbox;
mod incarnation;
mod leases;
mod listen;
mod pages;
mod places;
pub mod replays;
mod retention;
mod sources;
mod types;
mod warm;
pub mod webhooks;
mod writer;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;

use crate::event::Micros;
use crate::runtime::{Bell, Clock, Tasks, random_hex};
use db::{Db, select, with_pool};
use leases::Ended;
use tracing::error;

pub use agreed::Agreed;
pub use append::{Append, Appended, Arrival, Quarantined};
pub use columns::Columns;
pub use db::sqlite_path;
pub use entries::{Order, Page, READ_BYTES_MAX, Range};
pub use erasure::Holder;
pub use follow::{Follower, LOOK_EVERY, LOOKED_AT_MAX};
pub use leases::{Lease, Member, Report};
pub use pages::{Border, View};
pub use retention::Missed;
pub use sources::{QuarantinedRow, SourceRow};
pub use types::EventType;

/// `[journal]` of the configuration.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `sqlite://path`, or `postgres://…`.
    pub url: String,
    /// How long entries are kept; nothing means for ever.
    #[serde(deserialize_with = "retention::read")]
    pub retention: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self { url: "sqlite://postern.db".to_owned(), retention: None }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("url", &redacted(&self.url)).field("retention", &self.retention).finish()
    }
}

/// A database URL that may be shown: without its password. Works on the text, so that a password which breaks the
/// URL's syntax is hidden too.
pub fn redacted(url: &str) -> String {
    // A file has no password, but its name may look as if it had.
    if url.starts_with("sqlite:") {
        return url.to_owned();
    }
    // Parameters may carry secrets as well, but a `?` before the last `@` belongs to the password, if there is one.
    let end = url.rfind('@').filter(|end| url[..*end].split_once("://").is_some_and(|(_, user)| user.contains(':')));
    let end = end.unwrap_or_else(|| url.find('@').filter(|at| !url[..*at].contains('?')).unwrap_or(0));
    let (place, parameters) = url[end..].split_once('?').map_or((&url[end..], ""), |(place, _)| (place, "?***"));
    let (scheme, user) = url[..end].split_once("://").map_or(("", ""), |parts| parts);
    match user.split_once(':') {
        Some((user, _)) => format!("{scheme}://{user}:***{place}{parameters}"),
        None => format!("{}{place}{parameters}", &url[..end]),
    }
}

/// What can go wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`journal.url` must start with sqlite:// or postgres://")]
    Url,
    #[error("another gateway already serves the journal {what}; stop it first, or give this one a journal of its own")]
    InUse { what: String },
    #[error("`{text}` is no event id, cursor or position")]
    Malformed { text: String },
    #[error("no event, cursor or position `{text}` in this journal")]
    UnknownPosition { text: String },
    #[error("`{text}` is of another journal, or lies before what this one still keeps; the oldest cursor is {oldest}")]
    Expired { text: String, oldest: String },
    #[error("the webhook changed at the same time; read it again")]
    Stale,
    #[error("the webhook is sending events again already: wait, or end that with `Command: CancelReplay`")]
    Busy,
    #[error("event id `{id}` is in the journal already, {what}; nothing was taken")]
    Conflict { id: String, what: &'static str },
    #[error("the payloads of these events are larger than 16 MiB together")]
    TooMuch,
    #[error("journal database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("journal schema: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    #[error("journal file: {0}")]
    File(#[from] std::io::Error),
    #[error("another gateway has taken over `{name}`")]
    LeaseLost { name: String },
    #[error(
        "the gateways on this journal have agreed on {what} = `{agreed}`, and this one is told `{told}`: links and ids that \
         were given out would change. Correct `server.{what}`, or change it for all: `postern migrate --set {what}={told}`"
    )]
    Disagrees { what: Agreed, agreed: String, told: String },
    #[error("the copy {what} is damaged, and so may the journal be: {verdict}")]
    Damaged { what: String, verdict: String },
    #[error("the journal is closed")]
    Closed,
}

impl Error {
    /// What the operator may do about it, where the database's words don't say.
    pub fn hint(&self) -> Option<&'static str> {
        let text = match self {
            Self::Database(sqlx::Error::Database(cause)) => cause.message().to_owned(),
            Self::Schema(cause) => cause.to_string(),
            _ => return None,
        };
        let is_of_pooler = text.contains("prepared statement \"sqlx_s_") || text.contains("startup parameter");
        is_of_pooler.then_some(
            "is there a connection pooler in between? In transaction mode it must keep prepared statements (PgBouncer 1.21 \
             or newer, `max_prepared_statements` above 0) and `ignore_startup_parameters = extra_float_digits`; session \
             mode works, too",
        )
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Tls(_)) => true,
            Self::Database(sqlx::Error::Database(cause)) => cause.code().is_some_and(|code| {
                // PostgreSQL: connection, rollback, resources, operator, system. SQLite, whose lowest byte tells: busy,
                // locked, io, full.
                match code.len() {
                    // 25P03: it was silent for too long in the middle of a transaction.
                    5 => ["08", "25P03", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)),
                    _ => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13)),
                }
            }),
            _ => false,
        }
    }
}

/// Where the journal stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Head {
    pub position: i64,
    #[sqlx(try_from = "i64")]
    pub recorded_at: Micros,
    #[sqlx(try_from = "i64")]
    pub feed_time: Micros,
    /// The oldest position that is still readable.
    pub oldest: i64,
    /// How many events were erased: entries that were read at another count may show what is gone.
    pub erasures: i64,
}

impl Head {
    pub fn past(&self) -> Past {
        Past { oldest: self.oldest, erasures: self.erasures }
    }
}

/// What can change of entries that are journaled. Both only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    pub oldest: i64,
    pub erasures: i64,
}

impl From<i64> for Micros {
    fn from(micros: i64) -> Self {
        Self(micros)
    }
}

/// The journal. Cheap to clone.
#[derive(Clone)]
pub struct Journal {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    id: String,
    created_at: Micros,
    bell: Bell,
    known: Known,
    writer: writer::Writer,
    warm: warm::Warm,
    url: String,
    leases: leases::Leases,
    changed_webhooks: tokio::sync::broadcast::Sender<String>,
}

/// The highest of each that this process has read or written.
#[derive(Clone, Debug, Default)]
struct Known {
    position: Arc<AtomicI64>,
    oldest: Arc<AtomicI64>,
    erasures: Arc<AtomicI64>,
    /// The head that was read last: older than these may be.
    head: Arc<Mutex<Option<Head>>>,
    /// Where the head stood when this process moved it last.
    written: Arc<Mutex<Option<(i64, Past)>>>,
}

impl Known {
    fn reached(&self, position: i64, past: Past) {
        // In this order: whoever sees the new position sees what happened to the past before it, too.
        self.erasures.fetch_max(past.erasures, Ordering::AcqRel);
        self.oldest.fetch_max(past.oldest, Ordering::AcqRel);
        self.position.fetch_max(position, Ordering::AcqRel);
    }

    fn wrote(&self, position: i64, past: Past) {
        self.reached(position, past);
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some((position, past));
    }

    /// Whether it was this process that moved the head to where it stands.
    fn has_written(&self, position: i64, past: Past) -> bool {
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) == Some((position, past))
    }
}

/// Held by the one `serve` of a SQLite journal; others are refused until it is dropped or the process ends. Any number may
/// serve one on PostgreSQL.
pub struct Lock {
    _file: Option<std::fs::File>,
}

impl Journal {
    /// Opens the journal, creating it and bringing its schema up to date, and starts its writer.
    ///
    /// # Errors
    /// A URL that names no engine, a database that can't be reached or has another schema.
    pub async fn open(config: &Config, clock: &Clock, tasks: &Tasks) -> Result<Self, Error> {
        let db = Db::open(&config.url).await?;
        // Both times start at the beginning of time: history that is journaled later keeps its own dates.
        let created = "insert into journal (singleton, id, created_at, position, recorded_at, feed_time, oldest) \
                       values (1, $1, $2, 0, 0, -62135596800000000, 1) on conflict do nothing";
        let now = clock.now_micros();
        with_pool!(&db, pool => sqlx::query(created).bind(random_hex(4)).bind(now).execute(pool).await?.rows_affected());
        incarnation::renew(&db).await?;
        Self::of(db, config, tasks).await
    }

    /// Opens a journal to read it, beside whoever serves it, without making or changing anything. `None`: it will be
    /// made at the first start.
    ///
    /// # Errors
    /// A URL that names no engine, a database that can't be reached or read.
    pub async fn open_to_read(config: &Config) -> Result<Option<Self>, Error> {
        let Some(db) = Db::look(&config.url).await? else { return Ok(None) };
        match Self::of(db, config, &Tasks::default()).await {
            Ok(journal) => Ok(Some(journal)),
            Err(Error::Database(sqlx::Error::Database(cause)))
                if cause.code().as_deref() == Some("42P01") || cause.message().contains("no such table") =>
            {
                Ok(None)
            }
            Err(cause) => Err(cause),
        }
    }

    async fn of(db: Db, config: &Config, tasks: &Tasks) -> Result<Self, Error> {
        let (id, created_at): (String, i64) = select!(&db, query_as.fetch_one, "select id, created_at from journal");
        let bell = Bell::default();
        let known = Known::default();
        let leases = leases::Leases::new(matches!(db, Db::Postgres(_)));
        let writer = writer::Writer::start(&db, bell.clone(), known.clone(), leases.process(), tasks);
        let (warm, url) = (warm::Warm::default(), config.url.clone());
        let (changed_webhooks, _) = tokio::sync::broadcast::channel(listen::CHANGES_MAX);
        let created_at = Micros(created_at);
        let inner = Inner { db, id, created_at, bell, known, writer, warm, url, leases, changed_webhooks };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes a SQLite journal for this process alone, and its share of the work on one on PostgreSQL. `configuration`: a
    /// short hash of what this process is told to do; the newest one counts.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process serves it, or the database.
    pub async fn serve(&self, configuration: &str, tasks: &Tasks) -> Result<Lock, Error> {
        let Db::Postgres(pool) = self.db() else {
            let path = db::sqlite_path(&self.inner.url).unwrap_or_default();
            return Ok(Lock { _file: Some(db::lock_file(&path)?) });
        };
        self.configure(configuration).await?;
        let configuration = configuration.to_owned();
        // Not stopped with the other tasks: what they still write needs their leases.
        let (leases, options, id, all) =
            (self.inner.leases.clone(), pool.connect_options(), self.id().to_owned(), tasks.clone());
        tasks.spawn_untracked("leases", async move {
            if leases.run(options.as_ref().clone(), configuration, id).await == Ended::OtherJournal {
                error!("the journal is another one now: a backup was restored, or another server took over; stopping");
                all.fail();
            }
        });
        tasks.spawn("bell of other gateways", self.clone().listen(pool.clone(), tasks.stopping()));
        Ok(Lock { _file: None })
    }

    /// This configuration counts from now on.
    ///
    /// # Errors
    /// The database.
    pub async fn configure(&self, configuration: &str) -> Result<(), Error> {
        self.set("configuration", configuration).await
    }

    /// The incarnation: 8 hex digits, the first part of every cursor.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// As it is configured, with its password.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// When the journal began: the time of an empty feed, and the year of Atom ids.
    pub fn created_at(&self) -> Micros {
        self.inner.created_at
    }

    /// Rings after every commit that added entries.
    pub fn bell(&self) -> Bell {
        self.inner.bell.clone()
    }

    /// Where the journal stands now, read from the database.
    ///
    /// # Errors
    /// The database.
    pub async fn head(&self) -> Result<Head, Error> {
        let sql = "select position, recorded_at, feed_time, oldest, erasures from journal";
        let head: Head = select!(&self.inner.db, query_as.fetch_one, sql);
        self.inner.known.reached(head.position, head.past());
        *self.inner.known.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
        Ok(head)
    }

    /// The head that this process read last.
    fn known_head(&self) -> Option<Head> {
        *self.inner.known.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest position that this process has read or written: the head, as long as nobody else appends.
    pub fn known_position(&self) -> i64 {
        self.inner.known.position.load(Ordering::Acquire)
    }

    /// What this process knows of changes of the past. Moves before the position does under which they are known.
    pub fn known_past(&self) -> Past {
        let Known { oldest, erasures, .. } = &self.inner.known;
        Past { oldest: oldest.load(Ordering::Acquire), erasures: erasures.load(Ordering::Acquire) }
    }

    /// Waits for what is being written and closes the database.
    pub async fn close(&self) {
        self.inner.writer.finish().await;
        if let Db::Postgres(pool) = self.db()
            && let Err(cause) = self.inner.leases.leave(pool).await
        {
            tracing::warn!(%cause, "can't give back the leases of this gateway: others take them up in a few seconds");
        }
        self.inner.warm.clear();
        self.inner.db.close().await;
    }

    fn db(&self) -> &Db {
        &self.inner.db
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(redacted("postgres://u:p@db/shop"), "postgres://u:***@db/shop");
        assert_eq!(redacted("mysql://u:p#:@x/?@db/shop?ssl-ca=a"), "mysql://u:***@db/shop?***");
        assert_eq!(redacted("postgres://db/shop?password=p"), "postgres://db/shop?***");
        assert_eq!(redacted("postgres://db/shop?password=p@q"), "postgres://db/shop?***");
        assert_eq!(redacted("sqlite:///tmp/shop.db"), "sqlite:///tmp/shop.db");
    }
}
