//! The least that journaling costs: the journal's own statements and transactions, without looking whether an event is
//! known, without hashes and head.

use std::str::FromStr as _;
use std::sync::LazyLock;

use postern::journal::Arrival;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection as _, PgConnection, SqliteConnection};

/// Rows in one statement of SQLite.
const ROWS: usize = 100;

pub enum Raw {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// As wide as a hash is.
fn hash(position: i64) -> i64 {
    position.wrapping_mul(0x5851_f42d_4c95_7f2d)
}

impl Raw {
    /// On tables that are there.
    ///
    /// # Errors
    /// The database.
    pub async fn open(url: &str) -> anyhow::Result<Self> {
        if !url.starts_with("sqlite:") {
            return Ok(Self::Postgres(PgConnection::connect(url).await?));
        }
        let options = SqliteConnectOptions::from_str(url)?;
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        Ok(Self::Sqlite(SqliteConnection::connect_with(&options).await?))
    }

    /// One transaction.
    ///
    /// # Errors
    /// The database.
    pub async fn append(&mut self, arrivals: &[Arrival], position: i64) -> anyhow::Result<()> {
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
