//! Finding rows by the transaction that wrote them: `xmin`, which every row of a table carries, needs no column, no index
//! and no right. What was written since the last look is found whatever its number: rows that were filled in below the
//! first, into holes that nobody looks for any more, and all rows of a table without numbers.
//!
//! Compared with the snapshot's horizon (the oldest transaction that still runs), never with its list of running ones: a
//! row written inside a savepoint carries the id of a subtransaction, which is in no list but always higher than its
//! parent's.

use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;
use sqlx::postgres::{PgConnection, PgPool};

use super::Postgres;
use crate::source::holes::{Horizon, merged};
use crate::source::sql::Engine as _;
use crate::source::sql::windowed::Window;
use crate::source::{Ask, Page, Swept};

/// Looked through whole at each sweep: 200 MB take about a tenth of a second.
pub(super) const SMALL_PAGES: i64 = 25_000;
/// A larger table is swept whole so rarely, and between from where it ended before: new rows may also stand in the room
/// of deleted ones.
const WHOLE_EVERY: i64 = 24 * 3_600 * 1_000_000;
/// For a statement that may read a large table from end to end, until its transaction ends.
const LONG: &str = "set local statement_timeout = '30min'";
/// Numbers that one sweep brings; the next brings what is left.
const NUMBERS_MAX: usize = 100_000;

/// The transaction that wrote a row, as a number that does not wrap around. `$1` is the next id to be given.
const WRITER: &str = "(($1::bigint & -4294967296) + xmin::text::bigint \
                      - case when xmin::text::bigint > ($1::bigint & 4294967295) then 4294967296 else 0 end)";

/// What is to be looked through.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    /// Transactions from here …
    from: i64,
    /// … to just below here.
    end: i64,
    from_page: i64,
    /// The file that the places are in: a table that is written anew has its rows in other places.
    file: i64,
    /// What is known once it was.
    horizon: Horizon,
}

/// The table as it is now.
struct Heap {
    /// The next transaction's id.
    next: i64,
    /// The oldest that runs.
    end: i64,
    /// Without parts, so that the places of its rows are ordered.
    is_one: bool,
    pages: i64,
    file: i64,
    /// The cluster, and how often it was promoted or restored.
    server: (i64, i64),
}

impl Heap {
    /// Nothing for what has no `xmin`, such as a view.
    async fn look(connection: &mut PgConnection, table: &str) -> Result<Option<Self>, sqlx::Error> {
        let text = "with recursive parts as (select to_regclass($1)::oid as oid union all \
                    select i.inhrelid from pg_inherits i join parts p on p.oid = i.inhparent) \
                    select pg_snapshot_xmax(s)::text::bigint, pg_snapshot_xmin(s)::text::bigint, \
                    relkind in ('r', 'm') and (select count(*) = 1 from parts), \
                    (select sum(pg_relation_size(oid)) from parts)::bigint / current_setting('block_size')::bigint, \
                    coalesce(pg_relation_filenode(c.oid)::bigint, 0), \
                    (select system_identifier from pg_control_system()), \
                    (select timeline_id::bigint from pg_control_checkpoint()) \
                    from pg_current_snapshot() s, pg_class c where c.oid = to_regclass($1) and relkind in ('r', 'm', 'p')";
        let found: Option<(i64, i64, bool, i64, i64, i64, i64)> =
            sqlx::query_as(text).bind(table).fetch_optional(connection).await?;
        Ok(found.map(|(next, end, is_one, pages, file, system, timeline)| Self {
            next,
            end,
            is_one,
            pages,
            file,
            server: (system, timeline),
        }))
    }

    /// What to look through now. A large table is looked through whole once in `whole_every` only; one that is
    /// partitioned not at all in between.
    fn plan(&self, since: Option<Horizon>, now: i64, whole_every: i64) -> Option<Plan> {
        let Self { end, pages, file, server, .. } = *self;
        let whole = Horizon { end, whole: end, whole_at: now, pages, server };
        // A copy that was restored counts anew.
        let Some(since) = since.filter(|since| since.end <= self.next && since.server == server) else {
            return Some(Plan { from: 0, end, from_page: 0, file, horizon: whole });
        };
        if pages <= SMALL_PAGES || now - since.whole_at >= whole_every {
            return Some(Plan { from: since.whole, end, from_page: 0, file, horizon: whole });
        }
        let from_page = since.pages.saturating_sub(1).max(0);
        self.is_one.then_some(Plan { from: since.end, end, from_page, file, horizon: Horizon { end, pages, ..since } })
    }
}

/// Nothing for what has no `xmin`, such as a view.
pub(super) async fn sweep(pool: PgPool, ask: Ask) -> Result<Option<Swept>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let Some(heap) = Heap::look(&mut transaction, &ask.table).await? else { return Ok(None) };
    let Some(since) = ask.since else {
        let Heap { end, pages, server, .. } = heap;
        let horizon = Horizon { end, whole: end, whole_at: ask.now, pages, server };
        return Ok(Some(Swept { ranges: Vec::new(), horizon }));
    };
    let Some(Plan { from, end, from_page, horizon, .. }) = heap.plan(Some(since), ask.now, WHOLE_EVERY) else {
        return Ok(Some(Swept { ranges: Vec::new(), horizon: since }));
    };
    let bound = if from_page > 0 { format!(" and ctid >= '({from_page},0)'::tid") } else { String::new() };
    sqlx::query(LONG).execute(&mut *transaction).await?;
    let Ask { table, sequence, ranges, .. } = &ask;
    let text = format!("select {sequence}::bigint from {table} where {WRITER} >= $2 and {WRITER} < $3{bound}");
    let mut found =
        sqlx::query_scalar(AssertSqlSafe(text)).bind(heap.next).bind(from).bind(end).fetch(&mut *transaction);
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

/// How far a table without numbers was read.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::source) struct Token {
    /// Where the last look ended.
    since: Option<Horizon>,
    /// The look that goes on, and the place of its last row.
    reading: Option<(Plan, String)>,
}

/// The next rows in the order of their places, which only roughly is that of their times.
pub(super) async fn window(pool: &PgPool, window: &Window, token: Token) -> Result<(Page, Token), sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let heap = Heap::look(&mut transaction, &window.table).await?.filter(|heap| heap.is_one).ok_or_else(|| {
        sqlx::Error::Configuration("`follow` = \"xmin\" reads neither views nor tables that have parts or heirs".into())
    })?;
    let reading = token.reading.filter(|(plan, _)| plan.horizon.server == heap.server);
    let (plan, last) = match reading {
        Some((plan, _)) if plan.file != heap.file => {
            (Plan { file: heap.file, from_page: 0, ..plan }, "(0,0)".to_owned())
        }
        Some(reading) => reading,
        None => match heap.plan(token.since, window.now, window.whole_every) {
            Some(plan) => {
                let place = format!("({},0)", plan.from_page);
                (plan, place)
            }
            None => return Ok((Page::default(), Token { since: token.since, reading: None })),
        },
    };
    // All rows of the window are there since it was planned, so pages of later snapshots go together.
    let Window { list, table, fields, rows_max, .. } = window;
    let statement = format!(
        "select ctid::text{list} from {table} where {WRITER} >= $2::bigint and {WRITER} < $3::bigint \
         and ctid > $4::text::tid limit {rows_max}"
    );
    let binds = [heap.next.to_string(), plan.from.to_string(), plan.end.to_string(), last];
    if heap.pages > SMALL_PAGES {
        sqlx::query(LONG).execute(&mut *transaction).await?;
    }
    let page = Postgres::read_marked(&mut transaction, &statement.into(), fields, &binds, *rows_max).await?;
    // The lock that the select holds keeps the table from being written anew until here.
    let file = "select coalesce(pg_relation_filenode(to_regclass($1))::bigint, 0)";
    let file: i64 = sqlx::query_scalar(file).bind(table).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    if file != plan.file {
        // Nothing of it counts: the next look starts this plan again.
        let [.., place] = binds;
        return Ok((Page { rows: Vec::new(), more: true }, Token { since: token.since, reading: Some((plan, place)) }));
    }
    let token = match page.rows.last().filter(|_| page.more) {
        Some(last) => Token { since: token.since, reading: Some((plan, last.mark.clone())) },
        None => Token { since: Some(plan.horizon), reading: None },
    };
    Ok((page, token))
}

fn ranges_of(numbers: Vec<i64>) -> Vec<(i64, i64)> {
    merged(numbers.into_iter().map(|number| (number, number)).collect())
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
