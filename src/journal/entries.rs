//! Reading the journal: pages by position, single events by id.

use std::collections::HashMap;
use std::fmt::Write as _;

use futures_util::TryStreamExt as _;
use sqlx::AssertSqlSafe;

use super::batch::numbered;
use super::db::{select, with_pool};
use super::sources::IDS_MAX;
use super::{Error, Head, Journal};
use crate::event::{Entry, Event, Micros, is_uuid};
use crate::filter::{Filter, OWN_SOURCE, Selection};

/// Payloads in one read, before the row that goes beyond it: large events come in short pages.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

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

/// Which of the large columns are read; where it is not read, `data` is `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payload {
    Without,
    Data,
    /// `data` and `metadata`.
    With,
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

struct Row {
    position: i64,
    event_id: String,
    source: String,
    r#type: String,
    aggregate_type: String,
    aggregate_id: String,
    aggregate_version: Option<i64>,
    occurred_at: i64,
    recorded_at: i64,
    feed_time: i64,
    late: bool,
    erased_at: Option<i64>,
    erases: Option<String>,
    summary: String,
    data: Option<String>,
    metadata: Option<String>,
}

impl Row {
    fn payload_bytes(&self) -> usize {
        self.data.as_ref().map_or(0, String::len) + self.metadata.as_ref().map_or(0, String::len)
    }
}

/// By index: looking sixteen names up in each row would cost as much as reading them.
impl<'r, R> sqlx::FromRow<'r, R> for Row
where
    R: sqlx::Row,
    usize: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    bool: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Self {
            position: row.try_get(0)?,
            event_id: row.try_get(1)?,
            source: row.try_get(2)?,
            r#type: row.try_get(3)?,
            aggregate_type: row.try_get(4)?,
            aggregate_id: row.try_get(5)?,
            aggregate_version: row.try_get(6)?,
            occurred_at: row.try_get(7)?,
            recorded_at: row.try_get(8)?,
            feed_time: row.try_get(9)?,
            late: row.try_get(10)?,
            erased_at: row.try_get(11)?,
            erases: row.try_get(12)?,
            summary: row.try_get(13)?,
            data: row.try_get(14)?,
            metadata: row.try_get(15)?,
        })
    }
}

impl From<Row> for Entry {
    fn from(row: Row) -> Self {
        let event = Event {
            id: row.event_id,
            source: row.source,
            r#type: row.r#type,
            aggregate_type: row.aggregate_type,
            aggregate_id: row.aggregate_id,
            aggregate_version: row.aggregate_version,
            occurred_at: Micros(row.occurred_at),
            data: row.data.unwrap_or_else(|| "null".to_owned()),
            metadata: row.metadata,
        };
        Self {
            position: row.position,
            event,
            recorded_at: Micros(row.recorded_at),
            feed_time: Micros(row.feed_time),
            late: row.late,
            erased_at: row.erased_at.map(Micros),
            erases: row.erases,
            summary: row.summary,
        }
    }
}

/// In the order in which [`Row`] reads them.
fn columns(payload: Payload) -> &'static str {
    match payload {
        Payload::With => {
            "e.position, e.event_id, e.source, e.type, e.aggregate_type, e.aggregate_id, e.aggregate_version, \
             e.occurred_at, e.recorded_at, e.feed_time, e.late, e.erased_at, e.erases, e.summary, e.data, e.metadata"
        }
        Payload::Data => {
            "e.position, e.event_id, e.source, e.type, e.aggregate_type, e.aggregate_id, e.aggregate_version, \
             e.occurred_at, e.recorded_at, e.feed_time, e.late, e.erased_at, e.erases, e.summary, \
             e.data, cast(null as text) as metadata"
        }
        Payload::Without => {
            "e.position, e.event_id, e.source, e.type, e.aggregate_type, e.aggregate_id, e.aggregate_version, \
             e.occurred_at, e.recorded_at, e.feed_time, e.late, e.erased_at, e.erases, e.summary, \
             cast(null as text) as data, cast(null as text) as metadata"
        }
    }
}

impl Journal {
    /// The entries of a range that the selection lets through, at most `limit`, each position once and in order.
    ///
    /// # Errors
    /// The database.
    pub async fn read(
        &self,
        selection: &Selection,
        range: Range,
        limit: usize,
        payload: Payload,
    ) -> Result<Page, Error> {
        self.read_under(self.head().await?, selection, range, limit, payload).await
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
        payload: Payload,
    ) -> Result<Page, Error> {
        let through = range.through.unwrap_or(head.position).min(head.position);
        let direction = if range.order == Order::Ascending { "asc" } else { "desc" };
        let condition = Condition::of(selection, 4);
        // `+ 0`: SQLite prepares a statement anew for each value of a bare bind in `limit`.
        let sql = format!(
            "select {} from entries e where e.position > $1 and e.position <= $2{} order by e.position {direction} \
             limit $3 + 0",
            columns(payload),
            condition.text
        );
        // One more than asked for tells whether there are more.
        let rows = i64::try_from(limit).unwrap_or(i64::MAX - 1).saturating_add(1);
        let (mut entries, mut bytes): (Vec<Entry>, usize) = (Vec::new(), 0);
        if through > range.after {
            with_pool!(self.db(), pool => {
                let mut query = sqlx::query_as(AssertSqlSafe(sql)).bind(range.after).bind(through).bind(rows);
                for text in &condition.binds {
                    query = query.bind(text.as_str());
                }
                let mut rows = query.fetch(pool);
                while let Some(row) = rows.try_next().await? {
                    let row: Row = row;
                    bytes += row.payload_bytes();
                    entries.push(row.into());
                    if bytes > READ_BYTES_MAX {
                        break;
                    }
                }
            });
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
        Ok(Page { entries, covered, more, head })
    }

    /// How many entries of a range the selection lets through, counting no further than `most`.
    ///
    /// # Errors
    /// The database.
    pub async fn count(&self, selection: &Selection, range: Range, most: i64) -> Result<i64, Error> {
        let condition = Condition::of(selection, 4);
        let sql = format!(
            "select count(*) from (select 1 from entries e where e.position > $1 and e.position <= $2{} limit $3) as counted",
            condition.text
        );
        let through = range.through.unwrap_or(i64::MAX);
        let sql = AssertSqlSafe(sql);
        Ok(select!(self.db(), query_scalar.fetch_one, sql, range.after, through, most; condition.binds))
    }

    /// The visible ones among the events with these public ids, in no particular order.
    ///
    /// # Errors
    /// The database; [`Error::TooMuch`] where their payloads are larger than 16 MiB together, but for a single event.
    pub async fn by_ids(&self, selection: &Selection, ids: &[String], payload: Payload) -> Result<Vec<Entry>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let binds = numbered(1, ids.len());
        let condition = Condition::of(selection, ids.len() + 1);
        let sql = format!(
            "select {} from inbox i join entries e on e.position = i.position where i.event_id in ({}){}",
            columns(payload),
            binds,
            condition.text
        );
        // No id holds a NUL, and PostgreSQL refuses to look for one.
        let mut binds: Vec<String> = ids.iter().map(|id| normal_id(id).replace('\0', "\u{fffd}")).collect();
        binds.extend(condition.binds);
        let (mut entries, mut bytes): (Vec<Entry>, usize) = (Vec::new(), 0);
        with_pool!(self.db(), pool => {
            let query = binds.iter().fold(sqlx::query_as(AssertSqlSafe(sql)), |query, text| query.bind(text.as_str()));
            let mut rows = query.fetch(pool);
            while let Some(row) = rows.try_next().await? {
                let row: Row = row;
                bytes += row.payload_bytes();
                if bytes > READ_BYTES_MAX && ids.len() > 1 {
                    return Err(Error::TooMuch);
                }
                entries.push(row.into());
            }
        });
        Ok(entries)
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
