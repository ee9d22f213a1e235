//! Appending to the journal in batches of 1 000, on both engines, against raw inserts of the same rows into the same
//! tables: same statements, same transactions, same durability, but no look whether an event is known already, no
//! hashes, no head.
//!
//! PostgreSQL is the one that `POSTERN_TEST_POSTGRES_URL` names; only the client's side is counted.

mod support;

use std::str::FromStr as _;
use std::sync::LazyLock;

use anyhow::{Context as _, ensure};
use postern::journal::{Append, Arrival, Config, Journal};
use postern::runtime::{Clock, Tasks, random_hex};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use support::{Comparison, Meter};

const BATCH: usize = 1_000;
const BATCHES: usize = 10;
const REPETITIONS: usize = 7;
const CARTS: usize = 1_000;
const DATA_BYTES: usize = 500;
/// Rows in one statement.
const ROWS: usize = 100;
const TARGET: f64 = 0.6;

fn main() -> anyhow::Result<()> {
    support::pin();
    support::runtime("append")?.block_on(async {
        let comparisons = [sqlite().await?, postgres().await?];
        support::print("row", &comparisons);
        Ok(())
    })
}

async fn sqlite() -> anyhow::Result<Comparison> {
    let folder = tempfile::tempdir()?;
    let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    let journal = open(&url("ours.db")).await?;
    open(&url("raw.db")).await?.close().await;
    let options = SqliteConnectOptions::from_str(&url("raw.db"))?
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full);
    let raw = Raw::Sqlite(SqliteConnection::connect_with(&options).await?);
    compare("append to SQLite", journal, raw).await
}

async fn postgres() -> anyhow::Result<Comparison> {
    let server = std::env::var("POSTERN_TEST_POSTGRES_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
    let hint = "no PostgreSQL: `docker compose up -d postgres` or scripts/test starts one, or set \
                POSTERN_TEST_POSTGRES_URL to one where databases may be created";
    let mut admin = PgConnection::connect(&server).await.context(hint)?;
    let names = ["ours", "raw"].map(|side| format!("postern_bench_{side}_{}", random_hex(4)));
    for name in &names {
        admin.execute(AssertSqlSafe(format!("create database {name}"))).await.context(hint)?;
    }
    let compared = compare_postgres(&server, &names).await;
    for name in &names {
        admin.execute(AssertSqlSafe(format!("drop database {name} with (force)"))).await?;
    }
    compared
}

async fn compare_postgres(server: &str, names: &[String; 2]) -> anyhow::Result<Comparison> {
    let url = |name: &str| {
        let mut url = url::Url::parse(server)?;
        url.set_path(name);
        anyhow::Ok(url.to_string())
    };
    let journal = open(&url(&names[0])?).await?;
    open(&url(&names[1])?).await?.close().await;
    let raw = Raw::Postgres(PgConnection::connect(&url(&names[1])?).await?);
    compare("append to PostgreSQL", journal, raw).await
}

/// Makes the tables, too.
async fn open(url: &str) -> anyhow::Result<Journal> {
    Ok(Journal::open(&Config { url: url.to_owned() }, &Clock::system(), &Tasks::default()).await?)
}

/// In turns, so that both tables have the same size; the first turn only warms up.
async fn compare(name: &'static str, journal: Journal, mut raw: Raw) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::new(name, TARGET);
    let mut position = 0;
    for turn in 0..=REPETITIONS {
        let arrivals = support::arrivals(BATCH * BATCHES, CARTS, DATA_BYTES);
        let batches: Vec<Vec<Arrival>> = arrivals.chunks(BATCH).map(<[Arrival]>::to_vec).collect();
        drop(arrivals);
        let copy = batches.clone();

        let meter = Meter::start()?;
        for arrivals in batches {
            let checkpoint = Some("{\"after\":1}".to_owned());
            let append = Append { source: "shop".to_owned(), arrivals, checkpoint, ..Append::default() };
            let appended = journal.append(append).await?;
            ensure!(appended.journaled == BATCH as u64, "only {} events were new", appended.journaled);
        }
        let ours = meter.stop(BATCH * BATCHES)?;

        let meter = Meter::start()?;
        for arrivals in copy {
            raw.append(&arrivals, position).await?;
            position += i64::try_from(BATCH)?;
        }
        let ceiling = meter.stop(BATCH * BATCHES)?;
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    ensure!(journal.head().await?.position == position, "both sides wrote the same number of rows");
    journal.close().await;
    Ok(comparison)
}

enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// The two statements of an engine.
struct Texts {
    entries: String,
    inbox: String,
}

impl Texts {
    fn new(bind: fn(usize) -> String) -> Self {
        let columns = "position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
                       occurred_at, recorded_at, feed_time, late, summary, data, metadata";
        let entries = insert_text("entries", columns, 14, bind);
        let inbox = insert_text("inbox", "event_id, source, identity, content, position", 5, bind);
        Self { entries, inbox }
    }
}

/// SQLite is faster with binds that have no number.
static SQLITE: LazyLock<Texts> = LazyLock::new(|| Texts::new(|_| "?".to_owned()));
static POSTGRES: LazyLock<Texts> = LazyLock::new(|| Texts::new(|n| format!("${n}")));

fn insert_text(table: &str, columns: &str, width: usize, bind: fn(usize) -> String) -> String {
    let row = |r: usize| {
        let binds: Vec<String> = (1..=width).map(|n| bind(r * width + n)).collect();
        format!("({})", binds.join(", "))
    };
    let rows: Vec<String> = (0..ROWS).map(row).collect();
    format!("insert into {table} ({columns}) values {}", rows.join(", "))
}

/// The body for both engines: one transaction.
macro_rules! insert {
    ($connection:expr, $texts:expr, $arrivals:expr, $position:expr) => {{
        let mut position: i64 = $position;
        let mut transaction = $connection.begin().await?;
        for rows in $arrivals.chunks(ROWS) {
            let first = position;
            let mut entries = sqlx::query($texts.entries.as_str());
            for Arrival { event, summary, late, .. } in rows {
                position += 1;
                entries = entries
                    .bind(position)
                    .bind(event.id.as_str())
                    .bind(event.source.as_str())
                    .bind(event.r#type.as_str())
                    .bind(event.aggregate_type.as_str())
                    .bind(event.aggregate_id.as_str())
                    .bind(event.aggregate_version)
                    .bind(event.occurred_at.0)
                    .bind(event.occurred_at.0)
                    .bind(event.occurred_at.0)
                    .bind(late)
                    .bind(summary.as_str())
                    .bind(event.data.as_str())
                    .bind(event.metadata.as_deref());
            }
            entries.execute(&mut *transaction).await?;
            let mut inbox = sqlx::query($texts.inbox.as_str());
            for (Arrival { event, .. }, position) in rows.iter().zip(first + 1..) {
                // As wide as a hash is.
                let hash = position.wrapping_mul(0x5851_f42d_4c95_7f2d);
                inbox = inbox.bind(event.id.as_str()).bind(event.source.as_str()).bind(hash).bind(!hash).bind(position);
            }
            inbox.execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
    }};
}

impl Raw {
    async fn append(&mut self, arrivals: &[Arrival], position: i64) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(connection) => insert!(connection, SQLITE, arrivals, position),
            Self::Postgres(connection) => insert!(connection, POSTGRES, arrivals, position),
        }
        Ok(())
    }
}
