//! Reading a table by its sequence number. What the three engines share; each engine's file holds what differs.
//!
//! Every cell is selected as text, or as bytes where the column is binary, so that one mapping fits all engines.

mod mysql;
mod postgres;
mod sqlite;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use sqlx::pool::PoolOptions;
use sqlx::{Database, Pool, Transaction};

use super::mapping::{Field, Kind, Mapping, Origin, Row};
use super::{Ask, Config, Error, Horizon, Page, Source, Swept};

pub(super) use mysql::MySql;
pub(super) use postgres::Postgres;
pub(super) use sqlite::Sqlite;

/// One to read, one to replace it while it is being given up, one to sweep.
const CONNECTIONS_MAX: u32 = 3;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// We give up an answer after this time, as a cut network says nothing; servers are told to after 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
/// A sweep may read a large table from end to end.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(31 * 60);
/// A page ends once it holds so much; it has one row at least.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Ranges that one statement looks for. Few sizes, so that few texts are prepared.
const RANGES: [usize; 3] = [1, 10, 100];
/// Pads a statement: nothing lies between 1 and 0.
const NO_RANGE: (i64, i64) = (1, 0);

/// A database that sqlx speaks to.
pub(super) trait Engine: Send + Sync + 'static {
    type Db: Database;
    /// Starts a transaction whose reads see one state of the table and which can't write.
    const BEGIN: &'static str;
    /// See [`Source::REREADS_LAST`].
    const REREADS_LAST: bool = false;
    /// Whether an open read transaction is harmless to writers, so that many pages may be read in one.
    const LONG_SNAPSHOTS: bool = true;
    /// Whether a column holds values of its declared type only.
    const TYPED: bool = true;
    const QUOTE: char = '"';
    /// What to cast to.
    const INTEGER: &'static str;
    const TEXT: &'static str;

    fn connect(config: &Config) -> impl Future<Output = Result<Pool<Self::Db>, sqlx::Error>> + Send;
    /// The columns of the table with their types, or nothing if there is no such table.
    fn columns(
        pool: &Pool<Self::Db>,
        table: &Table,
    ) -> impl Future<Output = Result<Vec<(String, String)>, sqlx::Error>> + Send;
    /// For each index that starts with this column, whether it makes that column unique; and sentences on what else
    /// can't be guaranteed.
    fn examine(pool: &Pool<Self::Db>, table: &Table, column: &str) -> impl Future<Output = Examined> + Send;
    /// Runs a statement on a connection; the body is `read!`.
    fn read(
        connection: &mut <Self::Db as Database>::Connection,
        statement: &Statement,
        fields: &[Field],
        numbers: &[i64],
    ) -> impl Future<Output = Result<Page, sqlx::Error>> + Send;
    /// See [`Source::sweep`].
    fn sweep(
        _pool: Pool<Self::Db>,
        _ask: Ask,
    ) -> impl Future<Output = Result<Option<Swept>, sqlx::Error>> + Send + 'static {
        std::future::ready(Ok(None))
    }
    fn kind(r#type: &str) -> Kind;
    /// The n-th bind, from 1.
    fn bind(_n: usize) -> String {
        "?".to_owned()
    }
    /// The rows that have a sequence number.
    fn usable(column: &str) -> String {
        format!("{column} is not null")
    }
    /// Rows that lie in one of so many ranges (two binds each), ascending, at most as many as the last bind says.
    fn ranges(select: &Select, ranges: usize) -> String;
}

type Examined = Result<(Vec<bool>, Vec<String>), sqlx::Error>;

/// A text to run. Its binds are numbers; the last is the most rows it may return.
type Statement = Arc<str>;

/// A table as it is configured.
#[derive(Clone, Debug)]
pub(super) struct Table {
    schema: Option<String>,
    name: String,
}

impl Table {
    fn parse(text: &str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.to_owned()), name: name.to_owned() },
            None => Self { schema: None, name: text.to_owned() },
        }
    }

    fn quoted<E: Engine>(&self) -> String {
        let schema = self.schema.as_deref().map(|schema| quote::<E>(schema) + ".");
        schema.unwrap_or_default() + &quote::<E>(&self.name)
    }
}

fn quote<E: Engine>(name: &str) -> String {
    let quote = E::QUOTE;
    format!("{quote}{}{quote}", name.replace(quote, &format!("{quote}{quote}")))
}

/// The parts of a select, quoted.
pub(super) struct Select {
    /// What is selected: the number, then a cell for each column that is read.
    list: String,
    table: String,
    sequence: String,
}

/// The body of [`Engine::read`], the same for each, compiled for each.
macro_rules! read {
    ($connection:expr, $statement:expr, $fields:expr, $numbers:expr) => {{
        use futures_util::TryStreamExt as _;
        use sqlx::Row as _;
        // Made of quoted identifiers of the live catalogue and the operator's own `where`.
        let mut query = sqlx::query(sqlx::AssertSqlSafe(std::sync::Arc::clone($statement)));
        for number in $numbers {
            query = query.bind(*number);
        }
        let (mut page, mut bytes) = ($crate::source::Page::default(), 0);
        let rows_max = $numbers.last().map_or(1, |rows_max| *rows_max as usize);
        let mut rows = query.fetch($connection);
        while let Some(found) = rows.try_next().await? {
            let mut row = $crate::source::mapping::Row { sequence: found.try_get_unchecked(0)?, ..Default::default() };
            for (n, field) in $fields.iter().enumerate() {
                row.cells[*field] = found.try_get_unchecked(n + 1)?;
            }
            bytes += row.bytes();
            page.rows.push(row);
            page.more = bytes >= $crate::source::sql::PAGE_BYTES_MAX || page.rows.len() >= rows_max;
            if page.more {
                break;
            }
        }
        drop(rows);
        Ok(page)
    }};
}
use read;

fn pool<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(CONNECT_TIMEOUT)
}

/// A table of a database.
pub(super) struct SqlSource<E: Engine> {
    name: String,
    pool: Pool<E::Db>,
    /// What is being read in one snapshot: nothing, or a transaction once it has begun.
    snapshot: Option<Option<Transaction<'static, E::Db>>>,
    table: Table,
    sequence: String,
    mapping: Mapping,
    fields: Vec<Field>,
    tail: Statement,
    ranges: [Statement; 3],
    newest: Statement,
}

impl<E: Engine> Source for SqlSource<E> {
    const REREADS_LAST: bool = E::REREADS_LAST;

    async fn open(config: &Config) -> Result<Self, Error> {
        config.check()?;
        let name = config.name.clone();
        let pool = answer(&name, E::connect(config)).await?;
        let table = Table::parse(&config.table);
        let columns = answer(&name, E::columns(&pool, &table)).await?;
        if columns.is_empty() {
            return Err(Error::NoTable { name, table: config.table.clone() });
        }
        let find = |column: &str| find::<E>(config, &columns, column);
        let (sequence, kind) = find(&config.columns.sequence)?;
        if E::TYPED && kind != Kind::Integer {
            return Err(config.error(format!("column `{sequence}` can't be the `sequence`: it is no integer column")));
        }
        let mapping = Mapping::new(config, find)?;
        let (select, fields) = select::<E>(&table, &sequence, &mapping);
        let Select { list, table: from, sequence: by } = &select;
        let (one, two, usable) = (E::bind(1), E::bind(2), E::usable(by));
        let tail = format!("select {list} from {from} where {by} > {one} and {usable} order by {by} limit {two}");
        let newest = format!("select {list} from {from} where {usable} order by {by} desc limit {one}");
        let ranges = RANGES.map(|ranges| E::ranges(&select, ranges).into());
        let (tail, newest) = (tail.into(), newest.into());
        Ok(Self { name, pool, snapshot: None, table, sequence, mapping, fields, tail, ranges, newest })
    }

    fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.snapshot = Some(None);
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        match self.snapshot.take().flatten() {
            Some(transaction) => answer(&self.name, transaction.commit()).await,
            None => Ok(()),
        }
    }

    async fn tail(&mut self, above: i64, rows_max: usize) -> Result<Page, Error> {
        let statement = Arc::clone(&self.tail);
        self.read(&statement, &[above, rows_max as i64]).await
    }

    async fn ranges(&mut self, ranges: &[(i64, i64)], rows_max: usize) -> Result<Page, Error> {
        let (mut page, mut rest, mut bytes) = (Page::default(), ranges, 0);
        while !rest.is_empty() && !page.more {
            let which = RANGES.iter().position(|size| *size >= rest.len()).unwrap_or(RANGES.len() - 1);
            let (now, later) = rest.split_at(rest.len().min(RANGES[which]));
            rest = later;
            let padded = now.iter().copied().chain(std::iter::repeat(NO_RANGE)).take(RANGES[which]);
            let mut numbers: Vec<i64> = padded.flat_map(|(from, to)| [from, to]).collect();
            numbers.push((rows_max - page.rows.len()) as i64);
            let statement = Arc::clone(&self.ranges[which]);
            let found = self.read(&statement, &numbers).await?;
            bytes += found.rows.iter().map(Row::bytes).sum::<usize>();
            page.rows.extend(found.rows);
            page.more = found.more || (bytes >= PAGE_BYTES_MAX && !rest.is_empty());
        }
        Ok(page)
    }

    async fn newest(&mut self, rows_max: usize) -> Result<Page, Error> {
        let statement = Arc::clone(&self.newest);
        self.read(&statement, &[rows_max as i64]).await
    }

    fn sweep(
        &self,
        since: Option<Horizon>,
        ranges: Vec<(i64, i64)>,
        now: i64,
    ) -> BoxFuture<'static, Result<Option<Swept>, Error>> {
        let (table, sequence) = (self.table.quoted::<E>(), quote::<E>(&self.sequence));
        let (name, pool) = (self.name.clone(), self.pool.clone());
        let ask = Ask { table, sequence, since, ranges, now };
        async move { within(SWEEP_TIMEOUT, &name, E::sweep(pool, ask)).await }.boxed()
    }

    async fn warnings(&mut self) -> Result<Vec<String>, Error> {
        let column = &self.sequence;
        let (unique, mut warnings) = answer(&self.name, E::examine(&self.pool, &self.table, column)).await?;
        if unique.is_empty() {
            warnings.push(format!("no index starts with column `{column}`: every poll reads the whole table"));
        } else if !unique.contains(&true) {
            warnings.push(format!("column `{column}` is not unique: of rows that share a number, some may be missed"));
        }
        Ok(warnings)
    }
}

impl<E: Engine> SqlSource<E> {
    async fn read(&mut self, statement: &Statement, numbers: &[i64]) -> Result<Page, Error> {
        let Self { name, pool, snapshot, fields, .. } = self;
        let page = answer(name, async {
            match snapshot {
                None => E::read(&mut *pool.acquire().await?, statement, fields, numbers).await,
                Some(Some(transaction)) => E::read(transaction, statement, fields, numbers).await,
                Some(none) => E::read(none.insert(pool.begin_with(E::BEGIN).await?), statement, fields, numbers).await,
            }
        });
        let page = page.await?;
        if page.more && !E::LONG_SNAPSHOTS && self.snapshot.is_some() {
            self.end().await?;
            self.begin().await?;
        }
        Ok(page)
    }
}

/// Waits for the database, but not for ever.
async fn answer<T>(name: &str, future: impl Future<Output = Result<T, sqlx::Error>> + Send) -> Result<T, Error> {
    within(ANSWER_TIMEOUT, name, future).await
}

async fn within<T>(
    timeout: Duration,
    name: &str,
    future: impl Future<Output = Result<T, sqlx::Error>> + Send,
) -> Result<T, Error> {
    let (name, seconds) = (name.to_owned(), timeout.as_secs());
    match tokio::time::timeout(timeout, future).await {
        Ok(answer) => answer.map_err(|cause| Error::Database { name, cause }),
        Err(_) => Err(Error::Timeout { name, seconds }),
    }
}

/// The column's name as the database writes it.
fn find<E: Engine>(config: &Config, columns: &[(String, String)], column: &str) -> Result<(String, Kind), Error> {
    let exact = columns.iter().find(|(found, _)| found == column);
    match exact.or_else(|| columns.iter().find(|(found, _)| found.eq_ignore_ascii_case(column))) {
        Some((found, r#type)) => Ok((found.clone(), E::kind(&r#type.to_ascii_lowercase()))),
        None => {
            let hint = nearest(column, columns.iter().map(|(name, _)| name.as_str()));
            let (name, table) = (config.name.clone(), config.table.clone());
            Err(Error::NoColumn { name, table, column: column.to_owned(), hint })
        }
    }
}

fn select<E: Engine>(table: &Table, sequence: &str, mapping: &Mapping) -> (Select, Vec<Field>) {
    let (sequence, text) = (quote::<E>(sequence), E::TEXT);
    let mut list = format!("cast({sequence} as {})", E::INTEGER);
    let mut fields = Vec::new();
    for (field, origin) in mapping.origins().iter().enumerate() {
        let cell = match origin {
            Origin::Absent | Origin::Constant(_) => continue,
            Origin::Column(column, Kind::Bytes) => quote::<E>(column),
            Origin::Column(column, Kind::Bits) => format!("cast({} + 0 as {text})", quote::<E>(column)),
            Origin::Column(column, _) => format!("cast({} as {text})", quote::<E>(column)),
            // The line break ends a comment in it.
            Origin::Condition(condition) => format!("cast(({condition}\n) as {text})"),
        };
        list += &format!(", {cell} as c{field}");
        fields.push(field);
    }
    (Select { list, table: table.quoted::<E>(), sequence }, fields)
}

/// `; did you mean …?`, if one of the known names is near.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|known| (distance(name, known), known)).min();
    let near = near.filter(|(distance, _)| *distance <= 2.max(name.len() / 3));
    near.map_or_else(String::new, |(_, known)| format!("; did you mean `{known}`?"))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.pop().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered_if_it_is_near() {
        let columns = ["version", "event_id", "Payload"];
        assert_eq!(nearest("versoin", columns.into_iter()), "; did you mean `version`?");
        assert_eq!(nearest("payload", columns.into_iter()), "; did you mean `Payload`?");
        assert_eq!(nearest("customer", columns.into_iter()), "");
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(Table::parse("shop.or\"der").quoted::<Postgres>(), "\"shop\".\"or\"\"der\"");
        assert_eq!(Table::parse("a`b").quoted::<MySql>(), "`a``b`");
    }
}
