//! How many events of each type are journaled, and of how many the data did not fit its schema.

use std::collections::BTreeMap;

use super::append::Placed;
use super::db::{Conn, execute, select};
use super::{Error, Journal};

/// Types that are listed.
const TYPES_MAX: i64 = 1_000;

/// Runs in the writer's transaction.
pub(super) async fn count(conn: &mut Conn, placed: &[Placed<'_>]) -> Result<(), Error> {
    let mut counts: BTreeMap<(&str, &str), (i64, i64)> = BTreeMap::new();
    for Placed { arrival, .. } in placed {
        let (count, mismatches) = counts.entry((&arrival.event.source, &arrival.event.r#type)).or_default();
        *count += 1;
        *mismatches += i64::from(arrival.mismatch.is_some());
    }
    let Some(seen_at) = placed.last().map(|placed| placed.head.recorded_at) else { return Ok(()) };
    for ((source, r#type), (count, mismatches)) in counts {
        let sql = "insert into event_types (source, type, count, mismatch_count, first_seen_at, last_seen_at) \
                   values ($1, $2, $3, $4, $5, $5) on conflict (source, type) do update set \
                   count = event_types.count + excluded.count, \
                   mismatch_count = event_types.mismatch_count + excluded.mismatch_count, \
                   last_seen_at = excluded.last_seen_at";
        execute!(conn, sql, source, r#type, count, mismatches, seen_at);
    }
    Ok(())
}

impl Journal {
    /// The types of a source whose data did not always fit, by name, and how often it did not.
    ///
    /// # Errors
    /// The database.
    pub async fn mismatches(&self, source: &str) -> Result<Vec<(String, i64)>, Error> {
        let sql = "select type, mismatch_count from event_types where source = $1 and mismatch_count > 0 \
                   order by type limit $2";
        Ok(select!(self.db(), query_as.fetch_all, sql, source, TYPES_MAX))
    }
}
