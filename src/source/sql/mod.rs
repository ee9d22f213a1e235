//! Reading a table, by its numbers (`numbered`) or in windows (`windowed`). What the engines share; each engine's file
//! holds what differs.
//!
//! Every cell is selected as text, or as bytes where the column is binary, so that one mapping fits all engines.

mod mysql;
mod numbered;
mod postgres;
mod sqlite;
mod table;
mod windowed;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sqlx::pool::PoolOptions;
use sqlx::{Database, Pool};

use crate::runtime::hex;

use super::mapping::{Field, Kind, Mapping, Origin};
use super::{Ask, Column, Config, Error, Evidence, Follow, Page, Swept};

pub(super) use mysql::MySql;
pub(super) use numbered::Numbered;
pub(super) use postgres::Postgres;
pub(super) use sqlite::Sqlite;
pub(super) use table::tables;
use table::{Table, find, find_table, quote};
use windowed::Window;
pub(super) use windowed::Windowed;

/// One to read, one to replace it while it is being given up, one to sweep, one to be told that something was written.
const CONNECTIONS_MAX: u32 = 4;
/// After a failure to listen.
const LISTEN_RETRY: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// We give up an answer after this time, as a cut network says nothing; servers are told to after 60 s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
/// A look may go through a large table from end to end.
const LOOK_TIMEOUT: Duration = Duration::from_secs(31 * 60);
/// A page ends once it holds so much; it has one row at least.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A database that sqlx speaks to.
pub(super) trait Engine: Send + Sync + 'static {
    type Db: Database;
    /// See [`Engine::window`].
    type Token: windowed::Token;
    /// See [`Engine::evidence`].
    type Witness: Default + Send + Sync;
    /// Starts a transaction that may write.
    const BEGIN_WRITE: &'static str;
    /// Starts a transaction whose reads see one state of the table and which can't write.
    const BEGIN: &'static str;
    /// See [`crate::source::Source::REREADS_LAST`].
    const REREADS_LAST: bool = false;
    /// Whether an open read transaction is harmless to writers, so that many pages may be read in one.
    const LONG_SNAPSHOTS: bool = true;
    /// Whether a column holds values of its declared type only.
    const TYPED: bool = true;
    const QUOTE: char = '"';
    /// What to cast to.
    const INTEGER: &'static str;
    const TEXT: &'static str;
    /// A bind that is a text.
    const TEXT_BIND: &'static str = "?";
    /// What stands before the digits of [`Engine::hex`].
    const HEX_PREFIX: &'static str = "";

    fn connect(config: &Config) -> impl Future<Output = Result<Pool<Self::Db>, sqlx::Error>> + Send;
    /// The tables that can be read, with their schema where that must be said.
    fn tables(pool: &Pool<Self::Db>) -> impl Future<Output = Result<Vec<String>, sqlx::Error>> + Send;
    /// The columns of the table with their types, or nothing if there is no such table.
    fn columns(
        pool: &Pool<Self::Db>,
        table: &Table,
    ) -> impl Future<Output = Result<Vec<(String, String)>, sqlx::Error>> + Send;
    /// For each index that starts with this column, whether it makes that column unique; and sentences on what else
    /// can't be guaranteed.
    fn examine(pool: &Pool<Self::Db>, table: &Table, column: &str) -> impl Future<Output = Examined> + Send;
    /// Runs a statement on a connection; `reads!` writes it.
    fn read(
        connection: &mut <Self::Db as Database>::Connection,
        statement: &Statement,
        fields: &[Field],
        numbers: &[i64],
    ) -> impl Future<Output = Result<Page, sqlx::Error>> + Send;
    /// The same where the binds are texts and the first column is a mark.
    fn read_marked(
        connection: &mut <Self::Db as Database>::Connection,
        statement: &Statement,
        fields: &[Field],
        marks: &[String],
        rows_max: usize,
    ) -> impl Future<Output = Result<Page, sqlx::Error>> + Send;
    /// Whether the columns are fit for a way to follow without numbers.
    fn check_window(_follow: Follow, _window: &Window) -> Result<(), String> {
        Ok(())
    }
    /// Sentences on what can't be guaranteed then.
    fn examine_window(
        pool: &Pool<Self::Db>,
        table: &Table,
        follow: Follow,
    ) -> impl Future<Output = Result<Vec<String>, sqlx::Error>> + Send;
    /// The next rows of the window that the token stands in, or of the next one; and the token after them.
    fn window(
        pool: &Pool<Self::Db>,
        window: &Window,
        token: Self::Token,
    ) -> impl Future<Output = Result<(Page, Self::Token), sqlx::Error>> + Send;
    /// For a flag of this type: the condition for rows where it is not set, and its value once it is.
    fn flag(column: &str, r#type: &str) -> Option<(String, String)>;
    /// A binary column as text.
    fn hex(column: &str) -> String {
        format!("hex({column})")
    }
    /// The n-th bind, from 1: a text that means a value of this type; digits of [`Engine::hex`] for bytes.
    fn typed_bind(_n: usize, r#type: &str) -> String {
        if Self::kind(r#type) == Kind::Bytes { "unhex(?)" } else { "?" }.to_owned()
    }
    /// Runs a statement whose binds are texts. Returns how many rows it changed.
    fn write(
        pool: &Pool<Self::Db>,
        statement: String,
        texts: &[String],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// See [`crate::source::Source::sweep`].
    fn sweep(
        _pool: Pool<Self::Db>,
        _ask: Ask,
    ) -> impl Future<Output = Result<Option<Swept>, sqlx::Error>> + Send + 'static {
        std::future::ready(Ok(None))
    }
    /// See [`crate::source::Source::evidence`]. The witness is what was learned before.
    fn evidence(
        _pool: &Pool<Self::Db>,
        _witness: &mut Self::Witness,
        _table: &str,
        _sequence: &str,
        _missing: &[(i64, i64, i64)],
    ) -> impl Future<Output = Result<Evidence, sqlx::Error>> + Send {
        std::future::ready(Ok(Evidence::default()))
    }
    /// See [`crate::source::Source::hints`].
    fn hints(_pool: Pool<Self::Db>, _config: &Config) -> BoxStream<'static, ()> {
        stream::pending().boxed()
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

/// The parts of a select, quoted.
pub(super) struct Select {
    /// What is selected: the number, then a cell for each column that is read.
    list: String,
    table: String,
    sequence: String,
}

/// The body of [`Engine::read`] and [`Engine::read_marked`], the same for each, compiled for each.
macro_rules! read {
    ($connection:expr, $statement:expr, $first:ident, $fields:expr, $binds:expr, $rows_max:expr) => {{
        use futures_util::TryStreamExt as _;
        use sqlx::Row as _;
        // Made of quoted identifiers of the live catalogue and the operator's own `where`.
        let mut query = sqlx::query(sqlx::AssertSqlSafe(std::sync::Arc::clone($statement)));
        for bind in $binds {
            query = query.bind(bind.clone());
        }
        let (mut page, mut bytes) = ($crate::source::Page::default(), 0);
        let mut rows = query.fetch($connection);
        while let Some(found) = rows.try_next().await? {
            let mut row = $crate::source::mapping::Row { $first: found.try_get_unchecked(0)?, ..Default::default() };
            for (n, field) in $fields.iter().enumerate() {
                row.cells[*field] = found.try_get_unchecked(n + 1)?;
            }
            bytes += row.bytes();
            page.rows.push(row);
            page.more = bytes >= $crate::source::sql::PAGE_BYTES_MAX || page.rows.len() >= $rows_max;
            if page.more {
                break;
            }
        }
        drop(rows);
        Ok(page)
    }};
}
use read;

/// [`Engine::read`], [`Engine::read_marked`] and [`Engine::write`] for a connection and its pool.
macro_rules! statements {
    ($connection:ty) => {
        async fn read(
            connection: &mut $connection,
            statement: &$crate::source::sql::Statement,
            fields: &[$crate::source::mapping::Field],
            numbers: &[i64],
        ) -> Result<$crate::source::Page, sqlx::Error> {
            let rows_max = numbers.last().map_or(1, |rows_max| *rows_max as usize);
            $crate::source::sql::read!(connection, statement, sequence, fields, numbers, rows_max)
        }

        async fn read_marked(
            connection: &mut $connection,
            statement: &$crate::source::sql::Statement,
            fields: &[$crate::source::mapping::Field],
            marks: &[String],
            rows_max: usize,
        ) -> Result<$crate::source::Page, sqlx::Error> {
            $crate::source::sql::read!(connection, statement, mark, fields, marks, rows_max)
        }

        async fn write(pool: &sqlx::Pool<Self::Db>, statement: String, texts: &[String]) -> Result<u64, sqlx::Error> {
            let mut transaction = pool.begin_with(Self::BEGIN_WRITE).await?;
            let query = sqlx::query(sqlx::AssertSqlSafe(statement)).persistent(false);
            let query = texts.iter().fold(query, |query, text| query.bind(text.as_str()));
            let rows = query.execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await.map(|()| rows)
        }
    };
}
use statements;

fn pool<DB: Database>() -> PoolOptions<DB> {
    PoolOptions::new().max_connections(CONNECTIONS_MAX).acquire_timeout(CONNECT_TIMEOUT)
}

/// A table that is there and fits the configuration.
struct Opened<E: Engine> {
    name: String,
    pool: Pool<E::Db>,
    table: Table,
    columns: Vec<(String, String)>,
    mapping: Mapping,
    /// The cells that are selected, and what they are.
    list: String,
    /// The same with nothing for each expression: what can be read of a row that breaks one.
    plain_list: String,
    fields: Vec<Field>,
    /// What is selected from.
    from: String,
}

impl<E: Engine> Opened<E> {
    async fn open(config: &Config) -> Result<Self, Error> {
        config.check()?;
        let name = config.name.clone();
        let pool = answer(&name, E::connect(config)).await?;
        let (table, columns) = find_table::<E>(config, &pool).await?;
        let mapping = Mapping::new(config, |column| {
            find(config, &columns, column).map(|(name, r#type)| (name, E::kind(&r#type)))
        })?;
        let (list, plain_list, fields) = cells::<E>(&table, &mapping, |_| true);
        let from = config.relation.as_deref().map_or(table.quoted::<E>(), |relation| table.fill::<E>(relation));
        Ok(Self { name, pool, table, columns, mapping, list, plain_list, fields, from })
    }

    /// A mapped column as SQL, and what it holds.
    fn expression(&self, config: &Config, column: Option<&Column>) -> Result<(String, Kind), Error> {
        match column {
            Some(Column::Name(name)) => {
                let (column, r#type) = find(config, &self.columns, name)?;
                Ok((quote::<E>(&column), E::kind(&r#type)))
            }
            Some(Column::Sql { sql }) => Ok((format!("({}\n)", self.table.fill::<E>(sql)), Kind::Text)),
            _ => Err(config.error("`columns.id` and `columns.occurred_at` must be columns: rows are ordered by them")),
        }
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

/// `, cell` for each of these columns that is read, with and without expressions, and the fields that these are.
fn cells<E: Engine>(table: &Table, mapping: &Mapping, of: impl Fn(Field) -> bool) -> (String, String, Vec<Field>) {
    let (mut list, mut plain_list, mut fields) = (String::new(), String::new(), Vec::new());
    for (field, origin) in mapping.origins().iter().enumerate().filter(|(field, _)| of(*field)) {
        let cell = match origin {
            Origin::Absent | Origin::Constant(_) => continue,
            // The line break ends a comment in it.
            Origin::Sql(sql) => format!("cast(({}\n) as {})", table.fill::<E>(sql), E::TEXT),
            Origin::Column(column, Kind::Bytes) => quote::<E>(column),
            Origin::Column(column, Kind::LargeObject) => format!("lo_get({})", quote::<E>(column)),
            Origin::Column(column, kind) => text::<E>(column, *kind),
        };
        list += &format!(", {cell} as c{field}");
        let plain = if matches!(origin, Origin::Sql(_)) { format!("cast(null as {})", E::TEXT) } else { cell };
        plain_list += &format!(", {plain} as c{field}");
        fields.push(field);
    }
    (list, plain_list, fields)
}

/// The text of a fault that one row's value causes in an expression (SQLSTATE class 22); nothing for others.
fn broken_by_row(error: &Error) -> Option<String> {
    let Error::Database { cause: sqlx::Error::Database(cause), .. } = error else { return None };
    cause.code().filter(|code| code.starts_with("22")).map(|_| cause.message().to_owned())
}

/// The rows whose column is one of so many texts, bound from the first bind on.
fn one_of<E: Engine>(column: &str, r#type: &str, texts: usize) -> String {
    let binds: Vec<_> = (1..=texts).map(|n| E::typed_bind(n, r#type)).collect();
    format!("{column} in ({})", binds.join(", "))
}

/// An id that was read from a column, as [`Engine::typed_bind`] takes it: sixteen bytes are shown as a UUID.
fn own_text<E: Engine>(kind: Kind, own_id: &str) -> String {
    if kind != Kind::Bytes {
        return own_id.to_owned();
    }
    let uuid = uuid::Uuid::try_parse(own_id).map(|uuid| uuid.simple().to_string());
    format!("{}{}", E::HEX_PREFIX, uuid.unwrap_or_else(|_| hex(own_id.as_bytes())))
}

/// A column as text.
fn text<E: Engine>(column: &str, kind: Kind) -> String {
    let plus = if kind == Kind::Bits { " + 0" } else { "" };
    format!("cast({}{plus} as {})", quote::<E>(column), E::TEXT)
}
