//! The inbox, which knows every event that was ever taken, and the rows of a new one: its entry and its inbox line.
//! The statements whose texts differ between the engines by more than a constant.

use std::sync::LazyLock;

use super::Error;
use super::append::{Known, Placed};
use super::batch::{POSTGRES_ROWS_MAX, SQLITE_ROWS, Texts, chunks, column, inserts};
use super::db::Conn;

/// Ids in one statement of PostgreSQL: a message of more than one TLS record waits 40 ms for an acknowledgement, as sqlx
/// 0.9.0 does not set TCP_NODELAY (transact-rs/sqlx#4335, merged but not released).
const POSTGRES_IDS: usize = 250;

/// Those of the ids that were taken before, with what is remembered of them.
pub(super) async fn read(conn: &mut Conn, ids: &[&str]) -> Result<Vec<(String, Known)>, Error> {
    static SQLITE: LazyLock<Texts> = LazyLock::new(|| {
        SQLITE_ROWS.map(|rows| {
            let binds = vec!["?"; rows].join(", ");
            format!("select event_id, identity, content from inbox where event_id in ({binds})")
        })
    });
    let mut rows: Vec<(String, i64, i64)> = Vec::new();
    match conn {
        Conn::Sqlite(transaction) => {
            for (which, ids) in chunks(ids) {
                let mut query = sqlx::query_as(SQLITE[which].as_str());
                for id in ids {
                    query = query.bind(*id);
                }
                rows.extend(query.fetch_all(&mut **transaction).await?);
            }
        }
        Conn::Postgres(transaction) => {
            let text = "select event_id, identity, content from inbox where event_id = any($1)";
            for ids in ids.chunks(POSTGRES_IDS) {
                rows.extend(sqlx::query_as(text).bind(ids).fetch_all(&mut **transaction).await?);
            }
        }
    }
    Ok(rows.into_iter().map(|(id, identity, content)| (id, Known { identity, content })).collect())
}

/// Writes the rows of events that have their positions.
pub(super) async fn insert(conn: &mut Conn, placed: &[Placed<'_>]) -> Result<(), Error> {
    match conn {
        Conn::Sqlite(transaction) => {
            for (which, rows) in chunks(placed) {
                insert_sqlite(transaction, which, rows).await?;
            }
        }
        Conn::Postgres(transaction) => {
            for rows in placed.chunks(POSTGRES_ROWS_MAX) {
                insert_postgres(transaction, rows).await?;
            }
        }
    }
    Ok(())
}

async fn insert_sqlite(conn: &mut sqlx::SqliteConnection, which: usize, rows: &[Placed<'_>]) -> Result<(), Error> {
    static ENTRIES: LazyLock<Texts> = LazyLock::new(|| {
        let columns = "position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
                       occurred_at, recorded_at, feed_time, late, summary, data, metadata";
        inserts("entries", columns)
    });
    static INBOX: LazyLock<Texts> = LazyLock::new(|| inserts("inbox", "event_id, source, identity, content, position"));
    let mut query = sqlx::query(ENTRIES[which].as_str());
    for Placed { arrival, head, .. } in rows {
        let event = &arrival.event;
        query = query
            .bind(head.position)
            .bind(event.id.as_str())
            .bind(event.source.as_str())
            .bind(event.r#type.as_str())
            .bind(event.aggregate_type.as_str())
            .bind(event.aggregate_id.as_str())
            .bind(event.aggregate_version)
            .bind(event.occurred_at.0)
            .bind(head.recorded_at)
            .bind(head.feed_time)
            .bind(arrival.late)
            .bind(arrival.summary.as_str())
            .bind(event.data.as_str())
            .bind(event.metadata.as_deref());
    }
    query.execute(&mut *conn).await?;
    let mut query = sqlx::query(INBOX[which].as_str());
    for Placed { arrival, head, known } in rows {
        let event = &arrival.event;
        query = query.bind(event.id.as_str()).bind(event.source.as_str());
        query = query.bind(known.identity).bind(known.content).bind(head.position);
    }
    query.execute(conn).await?;
    Ok(())
}

/// One round trip for both tables: each one costs as much as encoding a hundred rows.
async fn insert_postgres(conn: &mut sqlx::PgConnection, rows: &[Placed<'_>]) -> Result<(), Error> {
    const TEXT: &str = "with placed as (\
         select * from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], \
         $8::bigint[], $9::bigint[], $10::bigint[], $11::boolean[], $12::text[], $13::text[], $14::text[], \
         $15::bigint[], $16::bigint[]) as placed (position, event_id, source, type, aggregate_type, aggregate_id, \
         aggregate_version, occurred_at, recorded_at, feed_time, late, summary, data, metadata, identity, content)), \
         taken as (insert into inbox (event_id, source, identity, content, position) \
         select event_id, source, identity, content, position from placed) \
         insert into entries (position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
         occurred_at, recorded_at, feed_time, late, summary, data, metadata) \
         select position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, \
         occurred_at, recorded_at, feed_time, late, summary, data, metadata from placed";
    sqlx::query(TEXT)
        .bind(column(rows, |row| row.head.position))
        .bind(column(rows, |row| row.arrival.event.id.as_str()))
        .bind(column(rows, |row| row.arrival.event.source.as_str()))
        .bind(column(rows, |row| row.arrival.event.r#type.as_str()))
        .bind(column(rows, |row| row.arrival.event.aggregate_type.as_str()))
        .bind(column(rows, |row| row.arrival.event.aggregate_id.as_str()))
        .bind(column(rows, |row| row.arrival.event.aggregate_version))
        .bind(column(rows, |row| row.arrival.event.occurred_at.0))
        .bind(column(rows, |row| row.head.recorded_at))
        .bind(column(rows, |row| row.head.feed_time))
        .bind(column(rows, |row| row.arrival.late))
        .bind(column(rows, |row| row.arrival.summary.as_str()))
        .bind(column(rows, |row| row.arrival.event.data.as_str()))
        .bind(column(rows, |row| row.arrival.event.metadata.as_deref()))
        .bind(column(rows, |row| row.known.identity))
        .bind(column(rows, |row| row.known.content))
        .execute(conn)
        .await?;
    Ok(())
}
