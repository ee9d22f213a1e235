//! Which columns of entries are read, and how a row with them becomes an entry.

use crate::event::{Entry, Micros};

/// Which columns of entries are read beside position and type. What is not read is empty, or `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns(u16);

impl Columns {
    pub const NONE: Self = Self(0);
    pub const ID: Self = Self(1);
    pub const SOURCE: Self = Self(1 << 1);
    /// Type and id.
    pub const AGGREGATE: Self = Self(1 << 2);
    pub const VERSION: Self = Self(1 << 3);
    pub const OCCURRED: Self = Self(1 << 4);
    pub const RECORDED: Self = Self(1 << 5);
    pub const LATE: Self = Self(1 << 6);
    pub const ERASED: Self = Self(1 << 7);
    /// What feeds show: feed time, summary, what a record of an erasure names.
    pub const FEED: Self = Self(1 << 8);
    pub const DATA: Self = Self(1 << 9);
    pub const METADATA: Self = Self(1 << 10);
    /// All but data and metadata.
    pub const ENVELOPE: Self = Self((1 << 9) - 1);
    pub const ALL: Self = Self((1 << 11) - 1);

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// In the order in which [`entry`] reads them.
    pub(super) fn sql(self) -> String {
        let mut sql = "e.position, e.type".to_owned();
        for (column, name) in NAMES {
            if self.has(column) {
                sql.push_str(name);
            }
        }
        sql
    }
}

const NAMES: [(Columns, &str); 11] = [
    (Columns::ID, ", e.event_id"),
    (Columns::SOURCE, ", e.source"),
    (Columns::AGGREGATE, ", e.aggregate_type, e.aggregate_id"),
    (Columns::VERSION, ", e.aggregate_version"),
    (Columns::OCCURRED, ", e.occurred_at"),
    (Columns::RECORDED, ", e.recorded_at"),
    (Columns::LATE, ", e.late"),
    (Columns::ERASED, ", e.erased_at"),
    (Columns::FEED, ", e.feed_time, e.summary, e.erases, e.erased_type"),
    (Columns::DATA, ", e.data"),
    (Columns::METADATA, ", e.metadata"),
];

/// Reads a row by index: looking the names up in each row would cost as much as reading them.
pub(super) fn entry<'r, R>(row: &'r R, columns: Columns) -> Result<Entry, sqlx::Error>
where
    R: sqlx::Row,
    usize: sqlx::ColumnIndex<R>,
    i64: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    bool: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    let mut next = 0..;
    let mut at = || next.next().unwrap_or_default();
    let mut entry = Entry { position: row.try_get(at())?, ..Entry::default() };
    let event = &mut entry.event;
    event.r#type = row.try_get(at())?;
    if columns.has(Columns::ID) {
        event.id = row.try_get(at())?;
    }
    if columns.has(Columns::SOURCE) {
        event.source = row.try_get(at())?;
    }
    if columns.has(Columns::AGGREGATE) {
        (event.aggregate_type, event.aggregate_id) = (row.try_get(at())?, row.try_get(at())?);
    }
    if columns.has(Columns::VERSION) {
        event.aggregate_version = row.try_get(at())?;
    }
    if columns.has(Columns::OCCURRED) {
        event.occurred_at = Micros(row.try_get(at())?);
    }
    if columns.has(Columns::RECORDED) {
        entry.recorded_at = Micros(row.try_get(at())?);
    }
    if columns.has(Columns::LATE) {
        entry.late = row.try_get(at())?;
    }
    if columns.has(Columns::ERASED) {
        entry.erased_at = row.try_get::<Option<i64>, _>(at())?.map(Micros);
    }
    if columns.has(Columns::FEED) {
        entry.feed_time = Micros(row.try_get(at())?);
        (entry.summary, entry.erases) = (row.try_get(at())?, row.try_get(at())?);
        entry.erased_type = row.try_get(at())?;
    }
    // Null in a row that was erased.
    let data = if columns.has(Columns::DATA) { row.try_get(at())? } else { None };
    event.data = data.unwrap_or_else(|| "null".to_owned());
    if columns.has(Columns::METADATA) {
        event.metadata = row.try_get(at())?;
    }
    Ok(entry)
}
