//! SQLite: one writer at a time, so numbers become visible in their order.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool};
use tokio::time::sleep;

use super::windowed::Window;
use super::{Engine, Examined, LISTEN_RETRY, Select, Table, pool, statements};
use crate::journal;
use crate::source::mapping::Kind;
use crate::source::{Config, Follow, Page, Poll};

/// How long a read waits for a writer's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is asked whether the file was written: about a quarter of a percent of a core.
const WRITTEN_EVERY: Duration = Duration::from_millis(200);

pub(in crate::source) struct Sqlite;

impl Engine for Sqlite {
    type Db = sqlx::Sqlite;
    type Witness = ();
    /// All without numbers is by a flag, which needs no memory.
    type Token = ();
    const BEGIN_WRITE: &'static str = "begin immediate";
    const BEGIN: &'static str = "begin deferred";
    /// Without `autoincrement`, the number of a deleted newest row is given again.
    const REREADS_LAST: bool = true;
    /// With a rollback journal, an open read makes the application's commit fail.
    const LONG_SNAPSHOTS: bool = false;
    const TYPED: bool = false;
    const INTEGER: &'static str = "integer";
    const TEXT: &'static str = "text";

    async fn connect(config: &Config) -> Result<SqlitePool, sqlx::Error> {
        let path = journal::sqlite_path(&config.url).unwrap_or_default();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(config.follow() != Follow::Flag)
            .busy_timeout(BUSY_TIMEOUT);
        pool().connect_with(options).await
    }

    /// Asking whether the file was written is much cheaper than a poll. Whoever chose when to poll is not disturbed.
    fn hints(pool: SqlitePool, config: &Config) -> BoxStream<'static, ()> {
        if config.poll != Poll::Adaptive {
            return stream::pending().boxed();
        }
        stream::unfold(None, move |seen| {
            let pool = pool.clone();
            async move { Some(((), written(&pool, seen).await)) }
        })
        .boxed()
    }

    async fn tables(pool: &SqlitePool) -> Result<Vec<String>, sqlx::Error> {
        let sql = "select name from sqlite_schema where type = 'table' and name not like 'sqlite_%' order by 1";
        sqlx::query_scalar(sql).fetch_all(pool).await
    }

    async fn columns(pool: &SqlitePool, table: &Table) -> Result<Vec<(String, String)>, sqlx::Error> {
        let sql = "select name, type from pragma_table_xinfo(?, coalesce(?, 'main'))";
        sqlx::query_as(sql).bind(&table.name).bind(table.schema.as_deref()).fetch_all(pool).await
    }

    async fn examine(pool: &SqlitePool, table: &Table, column: &str) -> Examined {
        // A single integer primary key is the row's place in the file, without an index of its own.
        let keys =
            "select lower(name) = lower(?2) and lower(type) = 'integer' from pragma_table_xinfo(?1) where pk > 0";
        let keys: Vec<bool> = sqlx::query_scalar(keys).bind(&table.name).bind(column).fetch_all(pool).await?;
        let indexes = "select l.\"unique\" and not l.partial and (select count(*) from pragma_index_info(l.name)) = 1 \
                       from pragma_index_list(?1) l join pragma_index_info(l.name) i on i.seqno = 0 \
                       where lower(i.name) = lower(?2)";
        let mut unique: Vec<bool> = sqlx::query_scalar(indexes).bind(&table.name).bind(column).fetch_all(pool).await?;
        unique.extend((keys == [true]).then_some(true));
        let increments = "select coalesce(max(sql like '%autoincrement%'), 0) from sqlite_schema where name = ?";
        let increments: bool = sqlx::query_scalar(increments).bind(&table.name).fetch_one(pool).await?;
        let mode: String = sqlx::query_scalar("pragma journal_mode").fetch_one(pool).await?;
        let mut warnings = Vec::new();
        if keys == [true] && !increments {
            warnings.push("the key has no `autoincrement`: where several newest rows are deleted at once and their numbers given again, rows may be missed".to_owned());
        }
        if mode != "wal" {
            warnings.push(format!("the journal mode is `{mode}`: while the table is read, a commit may have to wait"));
        }
        Ok((unique, warnings))
    }

    statements!(SqliteConnection);

    async fn examine_window(_: &SqlitePool, _: &Table, _: Follow) -> Result<Vec<String>, sqlx::Error> {
        Ok(Vec::new())
    }

    async fn window(_: &SqlitePool, _: &Window, token: ()) -> Result<(Page, ()), sqlx::Error> {
        Ok((Page::default(), token))
    }

    fn flag(column: &str, r#type: &str) -> Option<(String, String)> {
        if r#type.contains("int") || r#type.contains("bool") {
            Some((format!("coalesce({column}, 0) = 0"), "1".to_owned()))
        } else if r#type.contains("time") || r#type.contains("date") {
            Some((format!("{column} is null"), "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')".to_owned()))
        } else {
            None
        }
    }

    /// Declared types say little here: any column may hold any value.
    fn kind(r#type: &str) -> Kind {
        match r#type {
            _ if r#type.contains("int") => Kind::Integer,
            _ if r#type.contains("blob") => Kind::Bytes,
            _ => Kind::Text,
        }
    }

    /// A text is greater than every number.
    fn usable(column: &str) -> String {
        format!("typeof({column}) = 'integer'")
    }

    /// `cross join` keeps the order: one look into the index a range.
    fn ranges(Select { list, table, sequence }: &Select, ranges: usize) -> String {
        let (values, usable) = (vec!["(?, ?)"; ranges].join(", "), Self::usable(sequence));
        format!(
            "with postern_range (postern_from, postern_to) as (values {values}) \
             select {list} from postern_range cross join {table} \
             where {sequence} between postern_from and postern_to and {usable} order by 1 limit ?"
        )
    }
}

/// A connection, and the version of the file that it saw last: versions of different connections can't be compared.
type Seen = (PoolConnection<sqlx::Sqlite>, i64);

/// Waits until another connection has written. Without a connection, makes one.
async fn written(pool: &SqlitePool, seen: Option<Seen>) -> Option<Seen> {
    let watching = async {
        let (mut connection, before) = match seen {
            Some((connection, before)) => (connection, Some(before)),
            None => (pool.acquire().await?, None),
        };
        loop {
            let now = sqlx::query_scalar("pragma data_version").fetch_one(&mut *connection).await?;
            if before != Some(now) {
                return Ok::<Seen, sqlx::Error>((connection, now));
            }
            sleep(WRITTEN_EVERY).await;
        }
    };
    let Ok(seen) = watching.await else {
        sleep(LISTEN_RETRY).await;
        return None;
    };
    Some(seen)
}
