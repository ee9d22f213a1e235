//! Which columns of entries are read, and how a row with them becomes an entry.
//!
//! SQLite hands over each cell as an allocation of its own, which costs more than what is in it: a row comes as one text,
//! in which each cell is closed by a colon, a text behind its length in bytes. Nothing before the colon is a null.

use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use super::db::Db;
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

    /// What to select of the alias `e`, for [`FromRow`].
    pub(super) fn sql(self, db: &Db) -> String {
        let names = NAMES.iter().filter(|(columns, _)| self.has(*columns)).flat_map(|(_, names)| *names);
        match db {
            Db::Postgres(_) => names.map(|(name, _)| format!("e.{name}")).collect::<Vec<_>>().join(", "),
            Db::Sqlite(_) => {
                let cells = names.map(|(name, cell)| match cell {
                    Cell::Number => format!("e.{name}, ':'"),
                    Cell::Text => format!("octet_length(e.{name}), ':', e.{name}"),
                });
                format!("concat({})", cells.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Cell {
    Number,
    Text,
}
use Cell::{Number, Text};

/// In the order in which [`read`] reads them.
const NAMES: [(Columns, &[(&str, Cell)]); 12] = [
    (Columns::NONE, &[("position", Number), ("type", Text)]),
    (Columns::ID, &[("event_id", Text)]),
    (Columns::SOURCE, &[("source", Text)]),
    (Columns::AGGREGATE, &[("aggregate_type", Text), ("aggregate_id", Text)]),
    (Columns::VERSION, &[("aggregate_version", Number)]),
    (Columns::OCCURRED, &[("occurred_at", Number)]),
    (Columns::RECORDED, &[("recorded_at", Number)]),
    (Columns::LATE, &[("late", Number)]),
    (Columns::ERASED, &[("erased_at", Number)]),
    (Columns::FEED, &[("feed_time", Number), ("summary", Text), ("erases", Text), ("erased_type", Text)]),
    (Columns::DATA, &[("data", Text)]),
    (Columns::METADATA, &[("metadata", Text)]),
];

/// A row of either engine that was selected by [`Columns::sql`].
pub(super) trait FromRow {
    fn entry(&self, columns: Columns) -> Result<Entry, sqlx::Error>;
}

impl FromRow for SqliteRow {
    fn entry(&self, columns: Columns) -> Result<Entry, sqlx::Error> {
        read(Packed(self.try_get(0)?), columns)
    }
}

impl FromRow for PgRow {
    fn entry(&self, columns: Columns) -> Result<Entry, sqlx::Error> {
        read(Cells { row: self, next: 0 }, columns)
    }
}

/// The cells of a row, one after the other; nothing is a null.
trait Next {
    fn number(&mut self) -> Result<Option<i64>, sqlx::Error>;
    fn flag(&mut self) -> Result<bool, sqlx::Error>;
    fn text(&mut self) -> Result<Option<String>, sqlx::Error>;
}

struct Packed<'r>(&'r str);

impl Packed<'_> {
    fn head(&mut self) -> Result<Option<i64>, sqlx::Error> {
        let (head, rest) = self.0.split_once(':').ok_or_else(torn)?;
        self.0 = rest;
        if head.is_empty() { Ok(None) } else { head.parse().map(Some).map_err(|_| torn()) }
    }
}

fn torn() -> sqlx::Error {
    sqlx::Error::Decode("a row of the journal is not as it was selected".into())
}

impl Next for Packed<'_> {
    fn number(&mut self) -> Result<Option<i64>, sqlx::Error> {
        self.head()
    }

    fn flag(&mut self) -> Result<bool, sqlx::Error> {
        Ok(self.head()?.is_some_and(|number| number != 0))
    }

    fn text(&mut self) -> Result<Option<String>, sqlx::Error> {
        let Some(length) = self.head()? else { return Ok(None) };
        let length = usize::try_from(length).map_err(|_| torn())?;
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(torn)?;
        self.0 = rest;
        Ok(Some(text.to_owned()))
    }
}

/// By index: looking the names up in each row would cost as much as reading them.
struct Cells<'r> {
    row: &'r PgRow,
    next: usize,
}

impl Cells<'_> {
    fn at(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }
}

impl Next for Cells<'_> {
    fn number(&mut self) -> Result<Option<i64>, sqlx::Error> {
        self.row.try_get(self.at())
    }

    fn flag(&mut self) -> Result<bool, sqlx::Error> {
        self.row.try_get(self.at())
    }

    fn text(&mut self) -> Result<Option<String>, sqlx::Error> {
        self.row.try_get(self.at())
    }
}

fn read(mut row: impl Next, columns: Columns) -> Result<Entry, sqlx::Error> {
    let mut entry = Entry { position: row.number()?.unwrap_or_default(), ..Entry::default() };
    let event = &mut entry.event;
    event.r#type = row.text()?.unwrap_or_default();
    if columns.has(Columns::ID) {
        event.id = row.text()?.unwrap_or_default();
    }
    if columns.has(Columns::SOURCE) {
        event.source = row.text()?.unwrap_or_default();
    }
    if columns.has(Columns::AGGREGATE) {
        event.aggregate_type = row.text()?.unwrap_or_default();
        event.aggregate_id = row.text()?.unwrap_or_default();
    }
    if columns.has(Columns::VERSION) {
        event.aggregate_version = row.number()?;
    }
    if columns.has(Columns::OCCURRED) {
        event.occurred_at = Micros(row.number()?.unwrap_or_default());
    }
    if columns.has(Columns::RECORDED) {
        entry.recorded_at = Micros(row.number()?.unwrap_or_default());
    }
    if columns.has(Columns::LATE) {
        entry.late = row.flag()?;
    }
    if columns.has(Columns::ERASED) {
        entry.erased_at = row.number()?.map(Micros);
    }
    if columns.has(Columns::FEED) {
        entry.feed_time = Micros(row.number()?.unwrap_or_default());
        entry.summary = row.text()?.unwrap_or_default();
        (entry.erases, entry.erased_type) = (row.text()?, row.text()?);
    }
    // Null in a row that was erased.
    let data = if columns.has(Columns::DATA) { row.text()? } else { None };
    event.data = data.unwrap_or_else(|| "null".to_owned());
    if columns.has(Columns::METADATA) {
        event.metadata = row.text()?;
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_row_is_taken_apart_by_lengths() {
        let mut row = Packed("7:2::é0:::-5:1:1:x");
        assert_eq!((row.number().ok(), row.text().ok()), (Some(Some(7)), None), "half a letter");
        let mut row = Packed("7:3::é0:::-5:1:1:x");
        assert_eq!(row.number().expect("a number"), Some(7));
        assert_eq!(row.text().expect("a text").as_deref(), Some(":é"));
        assert_eq!(row.text().expect("an empty text").as_deref(), Some(""));
        assert_eq!(row.text().expect("a null"), None);
        assert_eq!(row.number().expect("a null"), None);
        assert_eq!(row.number().expect("a number"), Some(-5));
        assert!(row.flag().expect("a flag"));
        assert_eq!(row.text().expect("the last one").as_deref(), Some("x"));
        assert!(row.text().is_err() && Packed("9:x").text().is_err() && Packed("-1:x").text().is_err());
    }
}
