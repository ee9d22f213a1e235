//! PostgreSQL, 13 or newer.

mod sweep;

use std::str::FromStr;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use sqlx::{ConnectOptions as _, Connection as _};

use super::{Engine, Examined, Field, Select, Statement, Table, pool, read};
use crate::source::mapping::Kind;
use crate::source::{Ask, Config, Page, Swept};

/// Read only, no statement for ever, times as ISO text in UTC.
const SESSION: &str = "set default_transaction_read_only = on; set statement_timeout = '60s'; \
                       set time zone 'UTC'; set datestyle = 'ISO'";

pub(in crate::source) struct Postgres;

impl Engine for Postgres {
    type Db = sqlx::Postgres;
    const BEGIN: &'static str = "begin isolation level repeatable read, read only";
    const INTEGER: &'static str = "bigint";
    const TEXT: &'static str = "text";

    async fn connect(config: &Config) -> Result<PgPool, sqlx::Error> {
        let options = PgConnectOptions::from_str(&config.url)?.application_name("postern");
        // The pool would go on trying and then only say that it took too long; this says why at once.
        options.connect().await?.close().await?;
        let prepare = pool().after_connect(|connection, _| {
            Box::pin(async move { sqlx::raw_sql(SESSION).execute(connection).await.map(|_| ()) })
        });
        prepare.connect_with(options).await
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

    async fn read(
        connection: &mut PgConnection,
        statement: &Statement,
        fields: &[Field],
        numbers: &[i64],
    ) -> Result<Page, sqlx::Error> {
        read!(connection, statement, fields, numbers)
    }

    async fn sweep(pool: PgPool, ask: Ask) -> Result<Option<Swept>, sqlx::Error> {
        sweep::sweep(pool, ask).await
    }

    fn kind(r#type: &str) -> Kind {
        match r#type {
            "int2" | "int4" | "int8" => Kind::Integer,
            "timestamptz" => Kind::Instant,
            "timestamp" | "date" => Kind::Naive,
            "bytea" => Kind::Bytes,
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
