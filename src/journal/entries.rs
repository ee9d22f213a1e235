//! Reading the journal: pages by position, single events by id.

use std::collections::HashMap;
use std::fmt::Write as _;

use futures_util::TryStreamExt as _;
use sqlx::AssertSqlSafe;

use super::batch::numbered;
use super::columns::{Columns, FromRow as _};
use super::db::{Db, answered, select, with_pool};
use super::sources::IDS_MAX;
use super::{Error, Head, Journal};
use crate::event::{Entry, Micros, is_uuid};
use crate::filter::{Filter, OWN_SOURCE, Selection};

/// Payloads in one read, before the row that goes beyond it: large events come in short pages.
pub const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Entries read at once where they can only be counted by looking at them.
const COUNTED_AT_ONCE: usize = 500;

/// Which stretch of the journal, and from which end.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// Exclusive.
    pub after: i64,
    /// Inclusive; nothing means the head.
    pub through: Option<i64>,
    pub order: Order,
}

impl Range {
    /// Everything after a position, oldest first.
    pub fn after(position: i64) -> Self {
        Self { after: position, through: None, order: Order::Ascending }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Ascending,
    Descending,
}

/// A stretch of the journal as one reader sees it.
#[derive(Clone, Debug)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Ascending: everything up to here was looked at. Descending: everything above here was.
    pub covered: i64,
    /// More entries of the range match.
    pub more: bool,
    /// The head that the page was read under.
    pub head: Head,
}

impl Page {
    /// Whether it reached the head under which it was read.
    pub fn is_last(&self) -> bool {
        !self.more && self.covered >= self.head.position
    }
}

/// Reads entries with an executor of either engine until their payloads are too large, and tells how large they were.
macro_rules! fill {
    ($executor:expr, $sql:expr, $binds:expr, $columns:expr, $entries:expr) => {{
        let (after, through, rows, texts) = $binds;
        let query = sqlx::query(AssertSqlSafe($sql)).bind(after).bind(through).bind(rows);
        let query = texts.iter().fold(query, |query, text| query.bind(text.as_str()));
        let (mut rows, mut bytes) = (query.fetch($executor), 0);
        while let Some(row) = rows.try_next().await? {
            let entry = row.entry($columns)?;
            bytes += entry.event.payload_bytes();
            $entries.push(entry);
            if bytes > READ_BYTES_MAX {
                break;
            }
        }
        bytes
    }};
}

impl Journal {
    /// The entries of a range that the selection lets through, at most `limit`, each position once and in order. With
    /// dialects there may be fewer although there are more to come.
    ///
    /// # Errors
    /// The database.
    pub async fn read(
        &self,
        selection: &Selection,
        range: Range,
        limit: usize,
        columns: Columns,
    ) -> Result<Page, Error> {
        self.read_under(self.head().await?, selection, range, limit, columns).await
    }

    /// The same, without looking for the head where the answer does not depend on it: in a page that is full and ends before
    /// what is known to be there. The page's head may then be an older one.
    ///
    /// # Errors
    /// The database.
    pub async fn read_settled(
        &self,
        selection: &Selection,
        range: Range,
        limit: usize,
        columns: Columns,
    ) -> Result<Page, Error> {
        if let Some(head) = self.known_head().filter(|_| range.order == Order::Ascending) {
            let page = self.read_under(head, selection, range, limit, columns).await?;
            if page.more {
                return Ok(page);
            }
        }
        self.read(selection, range, limit, columns).await
    }

    /// The same under a head that was read before: nothing after it is looked at.
    ///
    /// # Errors
    /// The database.
    pub async fn read_under(
        &self,
        head: Head,
        selection: &Selection,
        range: Range,
        limit: usize,
        columns: Columns,
    ) -> Result<Page, Error> {
        let columns = match selection.dialects() {
            Some(dialects) if dialects.reads_data() => columns.with(Columns::ENVELOPE).with(Columns::DATA),
            Some(_) => columns.with(Columns::ENVELOPE),
            None => columns,
        };
        let through = range.through.unwrap_or(head.position).min(head.position);
        let direction = if range.order == Order::Ascending { "asc" } else { "desc" };
        let condition = Condition::of(selection, 4);
        // `+ 0`: SQLite prepares a statement anew for each value of a bare bind in `limit`.
        let sql = format!(
            "select {} from entries e where e.position > $1 and e.position <= $2{} order by e.position {direction} \
             limit $3 + 0",
            columns.sql(self.db()),
            condition.text
        );
        // One more than asked for tells whether there are more.
        let rows = i64::try_from(limit).unwrap_or(i64::MAX - 1).saturating_add(1);
        let (mut entries, mut bytes): (Vec<Entry>, usize) = (Vec::new(), 0);
        if through > range.after {
            let binds = (range.after, through, rows, condition.binds);
            bytes = match self.db() {
                Db::Sqlite(pool) => fill!(pool, sql, binds, columns, entries),
                Db::Postgres(pool) => {
                    let mut connection = self.inner.warm.take(pool).await?;
                    let bytes =
                        answered(async { Ok::<_, Error>(fill!(&mut *connection, sql, binds, columns, entries)) });
                    let bytes = bytes.await?;
                    self.inner.warm.give(pool, connection);
                    bytes
                }
            };
        }
        // Cut by bytes, there may be no more; a reader that comes again finds out.
        let more = entries.len() > limit || bytes > READ_BYTES_MAX;
        entries.truncate(limit);
        let covered = match (range.order, more, entries.last()) {
            (Order::Ascending, true, Some(last)) => last.position,
            (Order::Ascending, ..) => through.max(range.after),
            (Order::Descending, true, Some(last)) => last.position - 1,
            (Order::Descending, ..) => range.after,
        };
        if selection.dialects().is_some() {
            entries.retain(|entry| selection.shows(entry));
        }
        Ok(Page { entries, covered, more, head })
    }

    /// How many entries of a range the selection lets through, counting no further than `most`.
    ///
    /// # Errors
    /// The database.
    pub async fn count(&self, selection: &Selection, range: Range, most: i64) -> Result<i64, Error> {
        if selection.dialects().is_some() {
            return self.count_by_reading(selection, range, most).await;
        }
        let condition = Condition::of(selection, 4);
        let sql = format!(
            "select count(*) from (select 1 from entries e where e.position > $1 and e.position <= $2{} limit $3) as counted",
            condition.text
        );
        let through = range.through.unwrap_or(i64::MAX);
        let sql = AssertSqlSafe(sql);
        Ok(select!(self.db(), query_scalar.fetch_one, sql, range.after, through, most; condition.binds))
    }

    async fn count_by_reading(&self, selection: &Selection, mut range: Range, most: i64) -> Result<i64, Error> {
        let mut count = 0;
        loop {
            let page = self.read(selection, range, COUNTED_AT_ONCE, Columns::NONE).await?;
            count += i64::try_from(page.entries.len()).unwrap_or(i64::MAX);
            if !page.more || count >= most {
                return Ok(count.min(most));
            }
            range.after = page.covered;
        }
    }

    /// The visible ones among the events with these public ids, in no particular order.
    ///
    /// # Errors
    /// The database; [`Error::TooMuch`] where their payloads are larger than 16 MiB together, but for a single event.
    pub async fn by_ids(&self, selection: &Selection, ids: &[String], columns: Columns) -> Result<Vec<Entry>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let binds = numbered(1, ids.len());
        let condition = Condition::of(selection, ids.len() + 1);
        let sql = format!(
            "select {} from inbox i join entries e on e.position = i.position where i.event_id in ({}){}",
            columns.sql(self.db()),
            binds,
            condition.text
        );
        // No id holds a NUL, and PostgreSQL refuses to look for one.
        let mut binds: Vec<String> = ids.iter().map(|id| normal_id(id).replace('\0', "\u{fffd}")).collect();
        binds.extend(condition.binds);
        with_pool!(self.db(), pool => answered(async {
            let query = binds.iter().fold(sqlx::query(AssertSqlSafe(sql)), |query, text| query.bind(text.as_str()));
            let mut rows = query.fetch(pool);
            let (mut entries, mut bytes): (Vec<Entry>, usize) = (Vec::new(), 0);
            while let Some(row) = rows.try_next().await? {
                let entry = row.entry(columns)?;
                bytes += entry.event.payload_bytes();
                if bytes > READ_BYTES_MAX && ids.len() > 1 {
                    return Err(Error::TooMuch);
                }
                entries.push(entry);
            }
            Ok(entries)
        }).await)
    }

    /// Those of the public ids that were ever taken, visible or not, with their positions.
    ///
    /// # Errors
    /// The database.
    pub async fn positions(&self, ids: &[impl AsRef<str>]) -> Result<HashMap<String, i64>, Error> {
        let mut known = HashMap::new();
        for ids in ids.chunks(IDS_MAX) {
            let sql = format!("select event_id, position from inbox where event_id in ({})", numbered(1, ids.len()));
            let ids: Vec<String> = ids.iter().map(|id| id.as_ref().to_owned()).collect();
            let rows: Vec<(String, i64)> = select!(self.db(), query_as.fetch_all, AssertSqlSafe(sql); ids);
            known.extend(rows);
        }
        Ok(known)
    }

    /// When the journaled ones among these events occurred.
    ///
    /// # Errors
    /// The database.
    pub async fn times(&self, ids: &[String]) -> Result<HashMap<String, Micros>, Error> {
        let mut times = HashMap::new();
        for ids in ids.chunks(IDS_MAX) {
            let binds = numbered(1, ids.len());
            let sql = format!(
                "select i.event_id, e.occurred_at from inbox i join entries e on e.position = i.position \
                 where i.event_id in ({binds})"
            );
            let rows: Vec<(String, i64)> = select!(self.db(), query_as.fetch_all, AssertSqlSafe(sql); ids);
            times.extend(rows.into_iter().map(|(id, at)| (id, Micros(at))));
        }
        Ok(times)
    }

    /// The versions that the newest visible events of aggregates, given by type and id, carry, in their order; nothing for
    /// an unknown aggregate.
    ///
    /// # Errors
    /// The database.
    pub async fn latest_versions(
        &self,
        selection: &Selection,
        aggregates: &[(String, String)],
    ) -> Result<Vec<Option<Option<i64>>>, Error> {
        let condition = Condition::of(selection, 2 * aggregates.len() + 1);
        let newest = (0..aggregates.len()).map(|n| {
            let (r#type, id) = (2 * n + 1, 2 * n + 2);
            format!(
                "select * from (select cast({n} as bigint) as n, e.aggregate_version from entries e \
                 where e.aggregate_type = ${type} and e.aggregate_id = ${id} and e.erases is null{} \
                 order by e.position desc limit 1) as newest{n}",
                condition.text
            )
        });
        let sql = AssertSqlSafe(newest.collect::<Vec<_>>().join(" union all "));
        let mut binds: Vec<String> = aggregates.iter().flat_map(|(r#type, id)| [r#type.clone(), id.clone()]).collect();
        binds.extend(condition.binds);
        let rows: Vec<(i64, Option<i64>)> = select!(self.db(), query_as.fetch_all, sql; binds);
        let mut versions = vec![None; aggregates.len()];
        for (n, version) in rows {
            if let Some(known) = usize::try_from(n).ok().and_then(|n| versions.get_mut(n)) {
                *known = Some(version);
            }
        }
        Ok(versions)
    }
}

pub(super) fn normal_id(id: &str) -> String {
    if is_uuid(id) { id.to_ascii_lowercase() } else { id.to_owned() }
}

/// A selection as SQL: ` and …` over the alias `e`, with its binds.
pub(super) struct Condition {
    pub(super) text: String,
    pub(super) binds: Vec<String>,
}

impl Condition {
    /// The binds are numbered from `first`.
    pub(super) fn of(selection: &Selection, first: usize) -> Self {
        let mut condition = Self { text: String::new(), binds: Vec::new() };
        if selection.excludes_own_source() {
            let _ = write!(condition.text, " and e.source <> '{OWN_SOURCE}'");
        }
        for filter in selection.filters() {
            condition.add(filter, first);
        }
        if let Some(viewer) = selection.viewer() {
            let bind = first + condition.binds.len();
            // We wrote that data; inside of its texts quotes are escaped.
            let _ =
                write!(condition.text, " and (e.source <> '{OWN_SOURCE}' or replace(e.data, ${bind}, '') <> e.data)");
            let owner = serde_json::to_string(viewer).unwrap_or_default();
            condition.binds.push(format!("\"owner\":{owner}"));
        }
        if let Some((r#type, id)) = selection.aggregate() {
            let bind = first + condition.binds.len();
            let _ = write!(condition.text, " and e.aggregate_type = ${bind} and e.aggregate_id = ${}", bind + 1);
            // No name holds a NUL, and PostgreSQL refuses to look for one.
            condition.binds.extend([r#type, id].map(|text| text.replace('\0', "\u{fffd}")));
        }
        condition
    }

    fn add(&mut self, filter: &Filter, first: usize) {
        // The record of an erasure goes to whoever the event went to.
        let columns: [&[&str]; 4] =
            [&["e.type", "e.erased_type"], &["e.source"], &["e.aggregate_type"], &["e.aggregate_id"]];
        for (columns, (_, patterns)) in columns.into_iter().zip(filter.lists()) {
            if patterns.is_empty() {
                continue;
            }
            let tests: Vec<String> = patterns
                .iter()
                .flat_map(|pattern| {
                    let bind = first + self.binds.len();
                    let prefix = pattern.strip_suffix('*');
                    self.binds.push(prefix.unwrap_or(pattern).to_owned());
                    columns.iter().map(move |column| match prefix {
                        // Not `like`: SQLite's ignores case.
                        Some(prefix) => format!("substr({column}, 1, {}) = ${bind}", prefix.chars().count()),
                        None => format!("{column} = ${bind}"),
                    })
                })
                .collect();
            let _ = write!(self.text, " and ({})", tests.join(" or "));
        }
    }
}
