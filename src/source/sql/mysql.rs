//! MySQL and MariaDB with InnoDB.

mod locks;
mod overlap;

use std::str::FromStr;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool};
use sqlx::{ConnectOptions as _, Connection as _};

use super::windowed::Window;
use super::{Engine, Examined, Select, Table, pool, statements};
use crate::source::mapping::Kind;
use crate::source::{Config, Evidence, Follow, Page, ROWS_MAX};

pub(in crate::source) struct MySql;

impl Engine for MySql {
    type Db = sqlx::MySql;
    type Witness = Option<i64>;
    type Token = overlap::Token;
    const BEGIN_WRITE: &'static str = "start transaction read write";
    const BEGIN: &'static str = "start transaction with consistent snapshot, read only";
    const QUOTE: char = '`';
    const INTEGER: &'static str = "signed";
    const TEXT: &'static str = "char";

    async fn connect(config: &Config) -> Result<MySqlPool, sqlx::Error> {
        // sqlx sets the session's time zone to UTC and its character set to utf8mb4.
        let options = MySqlConnectOptions::from_str(&config.url)?;
        // The pool would go on trying and then only say that it took too long; this says why at once.
        options.connect().await?.close().await?;
        pool().after_connect(|connection, _| Box::pin(prepare(connection))).connect_with(options).await
    }

    async fn tables(pool: &MySqlPool) -> Result<Vec<String>, sqlx::Error> {
        let database: Option<String> = sqlx::query_scalar("select cast(database() as char)").fetch_one(pool).await?;
        if database.is_none() {
            return Err(sqlx::Error::Configuration("the URL names no database".into()));
        }
        let sql = "select cast(table_name as char) from information_schema.tables \
                   where table_schema = database() and table_type = 'BASE TABLE' order by 1";
        sqlx::query_scalar(sql).fetch_all(pool).await
    }

    async fn columns(pool: &MySqlPool, table: &Table) -> Result<Vec<(String, String)>, sqlx::Error> {
        let sql = "select cast(column_name as char), cast(data_type as char) from information_schema.columns \
                   where table_schema = coalesce(?, database()) and table_name = ? order by ordinal_position";
        sqlx::query_as(sql).bind(table.schema.as_deref()).bind(&table.name).fetch_all(pool).await
    }

    async fn examine(pool: &MySqlPool, table: &Table, column: &str) -> Examined {
        let (schema, name) = (table.schema.as_deref(), &table.name);
        let indexes = "select cast(min(non_unique) = 0 and count(*) = 1 as signed) from information_schema.statistics \
                       where table_schema = coalesce(?, database()) and table_name = ? group by index_name \
                       having max(case when seq_in_index = 1 then lower(column_name) end) = lower(?)";
        let unique: Vec<i64> = sqlx::query_scalar(indexes).bind(schema).bind(name).bind(column).fetch_all(pool).await?;
        let engine = "select cast(coalesce(engine, '') not in ('', 'InnoDB') as signed) from information_schema.tables \
                      where table_schema = coalesce(?, database()) and table_name = ?";
        let engine: Option<i64> = sqlx::query_scalar(engine).bind(schema).bind(name).fetch_optional(pool).await?;
        let server = "select cast(@@auto_increment_increment as signed), cast(@@global.read_only as signed)";
        let (increment, read_only): (i64, i64) = sqlx::query_as(server).fetch_one(pool).await?;
        let warnings = [
            (
                engine == Some(1),
                "the table is not InnoDB: without snapshots, the order within an aggregate may be wrong",
            ),
            (
                increment > 1,
                "the server numbers rows in steps of more than 1: the numbers between are looked for in vain",
            ),
            (read_only != 0, "the server is read-only, perhaps a replica: rows appear as late as it lags"),
        ];
        let warnings = warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text.to_owned());
        Ok((unique.into_iter().map(|unique| unique == 1).collect(), warnings.collect()))
    }

    statements!(MySqlConnection);

    fn check_window(follow: Follow, window: &Window) -> Result<(), String> {
        match (follow, window.time.1) {
            (Follow::Overlap, _) if window.is_day => {
                Err("`follow` = \"overlap\" needs times as `columns.occurred_at`, not days".to_owned())
            }
            (Follow::Overlap, Kind::Instant | Kind::Naive) | (Follow::Probe | Follow::Xmin | Follow::Flag, _) => Ok(()),
            _ => {
                Err("`follow` = \"overlap\" needs a `timestamp` or `datetime` column as `columns.occurred_at`"
                    .to_owned())
            }
        }
    }

    async fn examine_window(pool: &MySqlPool, table: &Table, follow: Follow) -> Result<Vec<String>, sqlx::Error> {
        if follow == Follow::Overlap { overlap::examine(pool, table).await } else { Ok(Vec::new()) }
    }

    async fn window(
        pool: &MySqlPool,
        window: &Window,
        token: overlap::Token,
    ) -> Result<(Page, overlap::Token), sqlx::Error> {
        overlap::window(pool, window, token).await
    }

    async fn evidence(
        pool: &MySqlPool,
        asked: &mut Option<i64>,
        table: &str,
        sequence: &str,
        missing: &[(i64, i64, i64)],
    ) -> Result<Evidence, sqlx::Error> {
        locks::evidence(pool, asked, table, sequence, missing).await
    }

    /// What is beyond 63 bits can't be told from a negative number.
    fn usable(column: &str) -> String {
        format!("{column} <= 9223372036854775807")
    }

    fn flag(column: &str, r#type: &str) -> Option<(String, String)> {
        match Self::kind(r#type) {
            Kind::Integer | Kind::Bits => Some((format!("coalesce({column}, 0) = 0"), "1".to_owned())),
            Kind::Instant | Kind::Naive => Some((format!("{column} is null"), "now(6)".to_owned())),
            _ => None,
        }
    }

    fn kind(r#type: &str) -> Kind {
        match r#type {
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => Kind::Integer,
            "timestamp" => Kind::Instant,
            "datetime" | "date" => Kind::Naive,
            "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Kind::Bytes,
            "bit" => Kind::Bits,
            _ => Kind::Text,
        }
    }

    /// A union plans each range for itself; a chain of `or` might read the whole index in its order.
    fn ranges(Select { list, table, sequence }: &Select, ranges: usize) -> String {
        let part = format!(
            "(select {list} from {table} where {sequence} between ? and ? order by {sequence} limit {ROWS_MAX})"
        );
        vec![part; ranges].join(" union all ") + " order by 1 limit ?"
    }
}

/// Read only, each statement or transaction with one view of the table, and none for ever.
async fn prepare(connection: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let version: String = sqlx::query_scalar("select cast(version() as char)").fetch_one(&mut *connection).await?;
    let is_mariadb = version.to_ascii_lowercase().contains("mariadb");
    let timeout = if is_mariadb { "set max_statement_time = 60" } else { "set max_execution_time = 60000" };
    sqlx::raw_sql(timeout).execute(&mut *connection).await?;
    let transaction = "set session transaction isolation level repeatable read, read only";
    sqlx::raw_sql(transaction).execute(connection).await.map(|_| ())
}
