//! Finding rows by the transaction that wrote them: `xmin`, which every row of a table carries, needs no column, no index
//! and no right. What was written since the last look is found whatever its number: rows that were filled in below the
//! first, and into holes that nobody looks for any more.
//!
//! Compared with the snapshot's horizon (the oldest transaction that still runs), never with its list of running ones: a
//! row written inside a savepoint carries the id of a subtransaction, which is in no list but always higher than its
//! parent's.

use futures_util::TryStreamExt as _;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPool;

use crate::source::holes::Horizon;
use crate::source::{Ask, Swept};

/// Looked through whole at each sweep: 200 MB take about a tenth of a second.
const SMALL_PAGES: i64 = 25_000;
/// A larger table is looked through whole so rarely, and between from where it ended before: new rows may also stand in
/// the room of deleted ones.
const WHOLE_EVERY: i64 = 24 * 3_600 * 1_000_000;
/// Numbers that one sweep brings; the next brings what is left.
const NUMBERS_MAX: usize = 100_000;

/// The transaction that wrote a row, as a number that does not wrap around. `$1` is the next id to be given.
const WRITER: &str = "(($1::bigint & -4294967296) + xmin::text::bigint \
                      - case when xmin::text::bigint > ($1::bigint & 4294967295) then 4294967296 else 0 end)";

/// Nothing for what has no `xmin`, such as a view.
pub(super) async fn sweep(pool: PgPool, ask: Ask) -> Result<Option<Swept>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let now = "select pg_snapshot_xmax(s)::text::bigint, pg_snapshot_xmin(s)::text::bigint, relkind in ('r', 'm'), \
               (select sum(pg_relation_size(oid)) from (select relid::oid as oid from pg_partition_tree(c.oid) \
               union select c.oid) as parts)::bigint / current_setting('block_size')::bigint \
               from pg_current_snapshot() s, pg_class c where c.oid = to_regclass($1) and relkind in ('r', 'm', 'p')";
    let now: Option<(i64, i64, bool, i64)> =
        sqlx::query_as(now).bind(&ask.table).fetch_optional(&mut *transaction).await?;
    let Some((next, end, is_one_heap, pages)) = now else { return Ok(None) };
    let whole = Horizon { end, whole: end, whole_at: ask.now, pages };
    let Some(since) = ask.since else { return Ok(Some(Swept { ranges: Vec::new(), horizon: whole })) };

    // A copy that was restored from a dump counts anew.
    let is_restored = since.end > next;
    let is_whole = is_restored || pages <= SMALL_PAGES || ask.now - since.whole_at >= WHOLE_EVERY;
    let (from, bound, horizon) = match is_whole {
        true if is_restored => (0, String::new(), whole),
        true => (since.whole, String::new(), whole),
        false if !is_one_heap => return Ok(Some(Swept { ranges: Vec::new(), horizon: since })),
        false => {
            let bound = format!(" and ctid >= '({},0)'::tid", since.pages.saturating_sub(1).max(0));
            (since.end, bound, Horizon { end, pages, ..since })
        }
    };
    if is_whole {
        sqlx::query("set local statement_timeout = '30min'").execute(&mut *transaction).await?;
    }
    let Ask { table, sequence, ranges, .. } = &ask;
    let text = format!("select {sequence}::bigint from {table} where {WRITER} >= $2 and {WRITER} < $3{bound}");
    let mut found = sqlx::query_scalar(AssertSqlSafe(text)).bind(next).bind(from).bind(end).fetch(&mut *transaction);
    let mut numbers: Vec<i64> = Vec::new();
    while let Some(number) = found.try_next().await? {
        let Some(number) = number else { continue };
        let at = ranges.partition_point(|(_, to)| *to < number);
        if ranges.get(at).is_some_and(|(from, _)| *from <= number) {
            numbers.push(number);
        }
        if numbers.len() >= NUMBERS_MAX {
            return Ok(Some(Swept { ranges: ranges_of(numbers), horizon: since }));
        }
    }
    Ok(Some(Swept { ranges: ranges_of(numbers), horizon }))
}

fn ranges_of(mut numbers: Vec<i64>) -> Vec<(i64, i64)> {
    numbers.sort_unstable();
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, to)) if number <= to.saturating_add(1) => *to = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, PgConnection};

    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(ranges_of(vec![5, -1, 4, 4, 9, i64::MAX]), [(-1, -1), (4, 5), (9, 9), (i64::MAX, i64::MAX)]);
    }

    #[tokio::test]
    async fn a_writer_keeps_its_number_when_ids_wrap_around() {
        let url = std::env::var("POSTERN_TEST_POSTGRES_URL")
            .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
        let mut connection = PgConnection::connect(&url).await.expect("PostgreSQL; `scripts/test` starts one");
        const ROUND: i64 = 1 << 32;
        for (next, xmin, expected) in [
            (7_i64, 3_i64, 3_i64),
            (1_000, 999, 999),
            (ROUND + 10, 5, ROUND + 5),
            (ROUND + 10, 4_294_967_290, ROUND - 6),
            (5 * ROUND, 4_294_967_295, 5 * ROUND - 1),
        ] {
            let text = format!("select {WRITER} from (values ('{xmin}'::xid)) as t (xmin)");
            let writer: i64 =
                sqlx::query_scalar(AssertSqlSafe(text)).bind(next).fetch_one(&mut connection).await.expect("a number");
            assert_eq!(writer, expected, "{xmin} seen at {next}");
        }
    }
}
