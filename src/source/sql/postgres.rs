//! PostgreSQL, 13 or newer.

mod locks;
mod writer;

use std::str::FromStr;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::sleep;
use tracing::warn;

use super::windowed::Window;
use super::{Engine, Examined, LISTEN_RETRY, Select, Table, pool, statements};
use crate::source::mapping::Kind;
use crate::source::{Ask, Config, Evidence, Follow, Page, Swept};

/// Read only, no statement for ever, times as ISO text in UTC, tables from their beginning to their end.
const SESSION: &str = "set default_transaction_read_only = on; set statement_timeout = '60s'; \
                       set time zone 'UTC'; set datestyle = 'ISO'; set bytea_output = 'hex'; \
                       set synchronize_seqscans = off; set plan_cache_mode = force_custom_plan; set max_parallel_workers_per_gather = 0";

pub(in crate::source) struct Postgres;

impl Engine for Postgres {
    type Db = sqlx::Postgres;
    type Witness = locks::Witness;
    type Token = writer::Token;
    const BEGIN_WRITE: &'static str = "begin read write";
    const BEGIN: &'static str = "begin isolation level repeatable read, read only";
    const INTEGER: &'static str = "bigint";
    const TEXT: &'static str = "text";
    const TEXT_BIND: &'static str = "$1::text";
    const HEX_PREFIX: &'static str = "\\x";

    async fn connect(config: &Config) -> Result<PgPool, sqlx::Error> {
        let options = PgConnectOptions::from_str(&config.url)?.application_name("postern");
        // The pool would go on trying and then only say that it took too long; this says why at once.
        options.connect().await?.close().await?;
        let prepare = pool().after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
        });
        prepare.connect_with(options).await
    }

    async fn tables(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
        let sql = "select case when n.nspname = current_schema() then c.relname::text else n.nspname || '.' || c.relname end \
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace \
                   where c.relkind in ('r', 'p') and not c.relispartition and n.nspname !~ '^(pg_|information_schema$)' \
                   and has_table_privilege(c.oid, 'select') order by 1";
        sqlx::query_scalar(sql).fetch_all(pool).await
    }

    async fn columns(pool: &PgPool, table: &Table) -> Result<Vec<(String, String)>, sqlx::Error> {
        // A domain counts as what it is made of.
        let sql = "select a.attname::text, coalesce(b.typname, t.typname)::text from pg_attribute a \
                   join pg_type t on t.oid = a.atttypid left join pg_type b on b.oid = nullif(t.typbasetype, 0) \
                   where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped order by a.attnum";
        sqlx::query_as(sql).bind(table.quoted::<Self>()).fetch_all(pool).await
    }

    async fn examine(pool: &PgPool, table: &Table, column: &str) -> Examined {
        let indexes = "select i.indisunique and i.indnkeyatts = 1 and i.indpred is null from pg_index i \
                       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] \
                       where i.indrelid = to_regclass($1) and a.attname = $2 and i.indisvalid";
        let unique = sqlx::query_scalar(indexes).bind(table.quoted::<Self>()).bind(column).fetch_all(pool).await?;
        let sequence = "select seqcache > 1, seqincrement <> 1, seqcycle from pg_sequence \
                        where seqrelid = pg_get_serial_sequence($1, $2)::regclass";
        let sequence = sqlx::query_as(sequence).bind(table.quoted::<Self>()).bind(column).fetch_optional(pool).await?;
        let (caches, steps, cycles): (bool, bool, bool) = sequence.unwrap_or_default();
        let is_replica: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(pool).await?;
        let warnings = [
            (
                caches,
                "the sequence caches numbers: a row may become visible long after higher ones; it is found for 24 h",
            ),
            (steps, "the sequence steps by more than 1: the numbers between are looked for in vain"),
            (cycles, "the sequence cycles: rows after a wrap-around are not found"),
            (is_replica, "the server is a replica: rows appear as late as it lags"),
        ];
        Ok((unique, warnings.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text.to_owned()).collect()))
    }

    statements!(PgConnection);

    async fn examine_window(pool: &PgPool, table: &Table, follow: Follow) -> Result<Vec<String>, sqlx::Error> {
        let is_replica: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(pool).await?;
        let mut warnings = Vec::new();
        if is_replica {
            warnings.push("the server is a replica: rows appear as late as it lags".to_owned());
        }
        let may_update = "select has_any_column_privilege(to_regclass($1), 'update')";
        let may_update: bool = sqlx::query_scalar(may_update).bind(table.quoted::<Self>()).fetch_one(pool).await?;
        if follow == Follow::Flag && !may_update {
            warnings.push(
                "the user has no right to update the table: the same rows will be read again and again".to_owned(),
            );
        }
        if follow == Follow::Xmin {
            let pages = "select pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint";
            let pages: i64 = sqlx::query_scalar(pages).bind(table.quoted::<Self>()).fetch_one(pool).await?;
            let text = "a write transaction anywhere on the server, however idle, holds back all rows until it ends";
            warnings.push(text.to_owned());
            if pages > writer::SMALL_PAGES {
                warnings.push(
                    "the table is larger than 200 MB: rows in the room of deleted ones are found once a `sweep`"
                        .to_owned(),
                );
            }
        }
        Ok(warnings)
    }

    async fn window(
        pool: &PgPool,
        window: &Window,
        token: writer::Token,
    ) -> Result<(Page, writer::Token), sqlx::Error> {
        writer::window(pool, window, token).await
    }

    fn flag(column: &str, r#type: &str) -> Option<(String, String)> {
        match (Self::kind(r#type), r#type) {
            (_, "bool") => Some((format!("{column} is not true"), "true".to_owned())),
            (Kind::Integer, _) => Some((format!("coalesce({column}, 0) = 0"), "1".to_owned())),
            (Kind::Instant | Kind::Naive, _) => Some((format!("{column} is null"), "now()".to_owned())),
            _ => None,
        }
    }

    fn hex(column: &str) -> String {
        format!("cast({column} as text)")
    }

    fn typed_bind(n: usize, r#type: &str) -> String {
        format!("${n}::text::\"{}\"", r#type.replace('"', "\"\""))
    }

    async fn evidence(
        pool: &PgPool,
        witness: &mut locks::Witness,
        table: &str,
        _: &str,
        missing: &[(i64, i64, i64)],
    ) -> Result<Evidence, sqlx::Error> {
        witness.evidence(pool, table, missing).await
    }

    async fn sweep(pool: PgPool, ask: Ask) -> Result<Option<Swept>, sqlx::Error> {
        writer::sweep(pool, ask).await
    }

    fn hints(pool: PgPool, config: &Config) -> BoxStream<'static, ()> {
        let Some(channel) = config.listen.clone() else { return stream::pending().boxed() };
        let name = config.name.clone();
        let listen = move |listener: Option<PgListener>| {
            let (pool, channel, name) = (pool.clone(), channel.clone(), name.clone());
            async move {
                match notified(&pool, &channel, listener).await {
                    Ok(listener) => Some(((), Some(listener))),
                    Err(cause) => {
                        warn!(source.name = %name, "can't listen on `{channel}`, will try again in {LISTEN_RETRY:?}: {cause}");
                        sleep(LISTEN_RETRY).await;
                        Some(((), None))
                    }
                }
            }
        };
        stream::unfold(None, listen).boxed()
    }

    fn kind(r#type: &str) -> Kind {
        match r#type {
            "int2" | "int4" | "int8" => Kind::Integer,
            "timestamptz" => Kind::Instant,
            "timestamp" | "date" => Kind::Naive,
            "bytea" => Kind::Bytes,
            "oid" => Kind::LargeObject,
            _ => Kind::Text,
        }
    }

    fn bind(n: usize) -> String {
        format!("${n}::bigint")
    }

    /// A lateral join looks into the index once a range; a chain of `or` might read the whole index in its order.
    fn ranges(Select { list, table, sequence }: &Select, ranges: usize) -> String {
        let range = |n: usize| format!("({}, {})", Self::bind(2 * n + 1), Self::bind(2 * n + 2));
        let (values, limit) = ((0..ranges).map(range).collect::<Vec<_>>().join(", "), Self::bind(2 * ranges + 1));
        format!(
            "select found.* from (values {values}) as postern_range (postern_from, postern_to) cross join lateral (\
             select {list} from {table} where {sequence} between postern_from and postern_to \
             order by {sequence} limit {limit}) as found order by 1 limit {limit}"
        )
    }
}

/// Waits for a notification; the first look after a connection counts as one.
async fn notified(pool: &PgPool, channel: &str, listener: Option<PgListener>) -> Result<PgListener, sqlx::Error> {
    let Some(mut listener) = listener else {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(channel).await?;
        return Ok(listener);
    };
    listener.recv().await?;
    Ok(listener)
}
