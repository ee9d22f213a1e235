//! How many events of each type are journaled, and of how many the data did not fit its schema.

use std::collections::BTreeMap;

use super::append::Placed;
use super::db::{Conn, execute, select};
use super::{Error, Journal};
use crate::event::Micros;
use crate::filter::Selection;

/// Types that are listed.
const TYPES_MAX: i64 = 1_000;
/// Counts that are read.
const ROWS_MAX: i64 = 10_000;

/// Runs in the writer's transaction.
pub(super) async fn count(conn: &mut Conn, placed: &[Placed<'_>]) -> Result<(), Error> {
    let mut counts: BTreeMap<(&str, &str, &str), (i64, i64)> = BTreeMap::new();
    for Placed { arrival, .. } in placed {
        let event = &arrival.event;
        let key = (event.source.as_str(), event.r#type.as_str(), event.aggregate_type.as_str());
        let (count, mismatches) = counts.entry(key).or_default();
        *count += 1;
        *mismatches += i64::from(arrival.mismatch.is_some());
    }
    let Some(seen_at) = placed.last().map(|placed| placed.head.recorded_at) else { return Ok(()) };
    for ((source, r#type, aggregate_type), (count, mismatches)) in counts {
        let sql = "insert into event_types \
                   (source, type, aggregate_type, count, mismatch_count, first_seen_at, last_seen_at) \
                   values ($1, $2, $3, $4, $5, $6, $6) on conflict (source, type, aggregate_type) do update set \
                   count = event_types.count + excluded.count, \
                   mismatch_count = event_types.mismatch_count + excluded.mismatch_count, \
                   last_seen_at = excluded.last_seen_at";
        execute!(conn, sql, source, r#type, aggregate_type, count, mismatches, seen_at);
    }
    Ok(())
}

/// What is known of the events of one type that a reader may see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventType {
    pub count: i64,
    /// Of how many the data did not fit its schema when they were journaled.
    pub mismatch_count: i64,
    pub first_seen_at: Option<Micros>,
    pub last_seen_at: Option<Micros>,
}

impl EventType {
    fn add(&mut self, row: &Row) {
        self.count += row.count;
        self.mismatch_count += row.mismatch_count;
        self.first_seen_at = [self.first_seen_at, Some(Micros(row.first_seen_at))].into_iter().flatten().min();
        self.last_seen_at = self.last_seen_at.max(Some(Micros(row.last_seen_at)));
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    source: String,
    r#type: String,
    aggregate_type: String,
    count: i64,
    mismatch_count: i64,
    first_seen_at: i64,
    last_seen_at: i64,
}

impl Journal {
    /// The types of a source whose data did not always fit, by name, and how often it did not.
    ///
    /// # Errors
    /// The database.
    pub async fn mismatches(&self, source: &str) -> Result<Vec<(String, i64)>, Error> {
        let sql = "select type, cast(sum(mismatch_count) as bigint) from event_types \
                   where source = $1 and mismatch_count > 0 group by type order by type limit $2";
        Ok(select!(self.db(), query_as.fetch_all, sql, source, TYPES_MAX))
    }

    /// The types of the events that the selection lets through, by name. It must not name ids of aggregates.
    ///
    /// # Errors
    /// The database.
    pub async fn event_types(&self, selection: &Selection) -> Result<BTreeMap<String, EventType>, Error> {
        let sql = "select source, type, aggregate_type, count, mismatch_count, first_seen_at, last_seen_at \
                   from event_types order by type, source, aggregate_type limit $1";
        let rows: Vec<Row> = select!(self.db(), query_as.fetch_all, sql, ROWS_MAX);
        let mut types: BTreeMap<String, EventType> = BTreeMap::new();
        for row in rows {
            if selection.lets_through(&row.source, &row.r#type, &row.aggregate_type) {
                types.entry(row.r#type.clone()).or_default().add(&row);
            }
        }
        Ok(types)
    }
}
