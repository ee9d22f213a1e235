//! Many rows in few statements: SQLite gets rows of `?`, PostgreSQL a column as one array.

/// Rows in one statement of SQLite. Few sizes, so that few texts are prepared.
pub(super) const SQLITE_ROWS: [usize; 3] = [100, 10, 1];
/// Rows in one statement of PostgreSQL. Bounds the message.
pub(super) const POSTGRES_ROWS_MAX: usize = 1_000;

/// One text for each size of [`SQLITE_ROWS`].
pub(super) type Texts = [String; SQLITE_ROWS.len()];

/// Inserts of so many rows. SQLite looks each `$n` up in a list, which grows with the square of the binds: hence `?`.
pub(super) fn inserts(table: &str, columns: &str) -> Texts {
    values(columns).map(|values| format!("insert into {table} ({columns}) {values}"))
}

/// The same for rows that begin with the same values, which are bound once and first.
pub(super) fn inserts_with(table: &str, same: &str, columns: &str) -> Texts {
    let binds = same.split(',').map(|name| format!("? as {name}")).collect::<Vec<_>>().join(", ");
    values(columns).map(|values| {
        format!("insert into {table} ({same}, {columns}) select * from (select {binds}), ({values}) where true")
    })
}

fn values(columns: &str) -> Texts {
    let row = format!("({})", vec!["?"; columns.split(',').count()].join(", "));
    SQLITE_ROWS.map(|rows| format!("values {}", vec![row.as_str(); rows].join(", ")))
}

/// `$from, …` for so many binds, the form that both engines read.
pub(super) fn numbered(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// The rows in pieces of the sizes that have a prepared text, each with the index of its size.
pub(super) fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = (usize, &[T])> {
    std::iter::from_fn(move || {
        let which = SQLITE_ROWS.iter().position(|size| rows.len() >= *size)?;
        let (chunk, rest) = rows.split_at(SQLITE_ROWS[which]);
        rows = rest;
        Some((which, chunk))
    })
}

/// One column of many rows, for PostgreSQL's `unnest`.
pub(super) fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}
