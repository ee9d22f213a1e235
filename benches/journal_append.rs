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
/// Rows in one statement of SQLite.
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

/// As wide as a hash is.
fn hash(position: i64) -> i64 {
    position.wrapping_mul(0x5851_f42d_4c95_7f2d)
}

impl Raw {
    /// One transaction.
    async fn append(&mut self, arrivals: &[Arrival], position: i64) -> anyhow::Result<()> {
        match self {
            Self::Sqlite(connection) => append_sqlite(connection, arrivals, position).await,
            Self::Postgres(connection) => append_postgres(connection, arrivals, position).await,
        }
    }
}

/// SQLite is faster with binds that have no number.
fn values(table: &str, columns: &str, width: usize) -> String {
    let row = format!("({})", vec!["?"; width].join(", "));
    format!("insert into {table} ({columns}) values {}", vec![row; ROWS].join(", "))
}

async fn append_sqlite(connection: &mut SqliteConnection, arrivals: &[Arrival], from: i64) -> anyhow::Result<()> {
    static ENTRIES: LazyLock<String> = LazyLock::new(|| {
        let columns = "position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
                       occurred_at, recorded_at, feed_time, late, summary, data, metadata";
        values("entries", columns, 14)
    });
    static INBOX: LazyLock<String> =
        LazyLock::new(|| values("inbox", "event_id, source, identity, content, position", 5));
    let mut position = from;
    let mut transaction = connection.begin().await?;
    for rows in arrivals.chunks(ROWS) {
        let first = position;
        let mut entries = sqlx::query(ENTRIES.as_str());
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
        let mut inbox = sqlx::query(INBOX.as_str());
        for (Arrival { event, .. }, position) in rows.iter().zip(first + 1..) {
            let hash = hash(position);
            inbox = inbox.bind(event.id.as_str()).bind(event.source.as_str()).bind(hash).bind(!hash).bind(position);
        }
        inbox.execute(&mut *transaction).await?;
    }
    transaction.commit().await?;
    Ok(())
}

async fn append_postgres(connection: &mut PgConnection, arrivals: &[Arrival], from: i64) -> anyhow::Result<()> {
    const TEXT: &str = "with placed as (\
         select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], \
         $8::bigint[], $9::boolean[], $10::text[], $11::text[], $12::text[], $13::bigint[], $14::bigint[]) \
         as placed (position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
         occurred_at, late, summary, data, metadata, identity, content)), \
         taken as (insert into inbox (event_id, source, identity, content, position) \
         select event_id, source, identity, content, position from placed) \
         insert into entries (position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
         occurred_at, recorded_at, feed_time, late, summary, data, metadata) \
         select position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
         occurred_at, occurred_at, occurred_at, late, summary, data, metadata from placed";
    let positions: Vec<i64> = (from + 1..).take(arrivals.len()).collect();
    let hashes: Vec<i64> = positions.iter().map(|position| hash(*position)).collect();
    let others: Vec<i64> = hashes.iter().map(|hash| !hash).collect();
    let text = |of: for<'a> fn(&'a Arrival) -> &'a str| arrivals.iter().map(of).collect::<Vec<_>>();
    let mut transaction = connection.begin().await?;
    sqlx::query(TEXT)
        .bind(positions)
        .bind(text(|arrival| &arrival.event.id))
        .bind(text(|arrival| &arrival.event.source))
        .bind(text(|arrival| &arrival.event.r#type))
        .bind(text(|arrival| &arrival.event.aggregate_type))
        .bind(text(|arrival| &arrival.event.aggregate_id))
        .bind(arrivals.iter().map(|arrival| arrival.event.aggregate_version).collect::<Vec<_>>())
        .bind(arrivals.iter().map(|arrival| arrival.event.occurred_at.0).collect::<Vec<_>>())
        .bind(arrivals.iter().map(|arrival| arrival.late).collect::<Vec<_>>())
        .bind(text(|arrival| &arrival.summary))
        .bind(text(|arrival| &arrival.event.data))
        .bind(arrivals.iter().map(|arrival| arrival.event.metadata.as_deref()).collect::<Vec<_>>())
        .bind(hashes)
        .bind(others)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}
