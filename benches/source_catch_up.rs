//! Catching up with a table that was there before, on both engines, against a raw loop in the same process: read a page,
//! insert it into the journal's tables with the journal's own statements, commit.
//!
//! PostgreSQL is the one that `POSTERN_TEST_POSTGRES_URL` names; only the client's side is counted.

#[path = "support/databases.rs"]
mod databases;
#[path = "support/raw.rs"]
mod raw;
mod support;

use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use databases::Databases;
use postern::catalogue::Catalogue;
use postern::event::{Event, Micros};
use postern::journal::{self, Arrival, Journal};
use postern::runtime::{Clock, Tasks};
use postern::source;
use raw::Raw;
use sqlx::{Connection as _, Executor as _, PgConnection, SqliteConnection};
use support::{Comparison, Measured, Meter};

/// More than what a source reads as its tail.
const ROWS: usize = 200_000;
const PAGE: usize = 1_000;
const REPETITIONS: usize = 3;
const TARGET: f64 = 0.7;
/// On both engines.
const PAGE_OF_ROWS: &str =
    "select seq, id, type, cart_id, version, data from shop where seq > $1 order by seq limit $2";

/// The ceiling, on a connection of either engine.
macro_rules! raw_loop {
    ($shop:expr, $journal:expr) => {{
        open($journal, &Tasks::default()).await?.close().await;
        let mut raw = Raw::open($journal).await?;
        let (meter, mut position) = (Meter::start()?, 0);
        loop {
            let rows: Vec<(i64, String, String, String, i64, String)> =
                sqlx::query_as(PAGE_OF_ROWS).bind(position).bind(PAGE as i64).fetch_all(&mut $shop).await?;
            let page: Vec<Arrival> = rows.into_iter().map(arrival).collect();
            if page.is_empty() {
                break;
            }
            raw.append(&page, position).await?;
            position += page.len() as i64;
        }
        ensure!(position == ROWS as i64, "the raw loop reads all");
        meter.stop(ROWS)?
    }};
}

fn main() -> anyhow::Result<()> {
    support::pin();
    support::runtime("catch up")?.block_on(async {
        let comparisons = [sqlite().await?, postgres().await?];
        support::print("row", &comparisons);
        Ok(())
    })
}

async fn sqlite() -> anyhow::Result<Comparison> {
    let folder = tempfile::tempdir()?;
    let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    let mut shop = SqliteConnection::connect(&format!("{}?mode=rwc", url("shop.db"))).await?;
    let fill = format!(
        "pragma journal_mode = wal; create table shop (seq integer primary key, id text, type text, cart_id text, version int, \
         data text); with recursive n(n) as (select 1 union all select n + 1 from n where n < {ROWS}) insert into shop \
         select n, lower(hex(randomblob(16))), case n % 5 when 0 then 'CheckedOut' else 'ItemAdded' end, \
         'cart-' || (n % 1000), n / 1000, '{{\"sku\":\"TEA-' || n || '\",\"note\":\"' || hex(randomblob(230)) || '\"}}' from n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut shop).await?;
    let mut comparison = Comparison::new("catch-up SQLite to SQLite", TARGET);
    for turn in 0..=REPETITIONS {
        let (ours, raw) = (url(&format!("ours{turn}.db")), url(&format!("raw{turn}.db")));
        let ours = catch_up(&url("shop.db"), &ours).await?;
        let ceiling = raw_loop!(shop, &raw);
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    Ok(comparison)
}

async fn postgres() -> anyhow::Result<Comparison> {
    let shops = Databases::create(["shop"]).await?;
    let compared = async {
        let mut shop = PgConnection::connect(&shops.urls[0]).await?;
        let fill = format!(
            "create table shop (seq bigint primary key, id text, type text, cart_id text, version bigint, data text); \
             insert into shop select n, md5(n::text), case n % 5 when 0 then 'CheckedOut' else 'ItemAdded' end, \
             'cart-' || (n % 1000), n / 1000, '{{\"sku\":\"TEA-' || n || '\",\"note\":\"' || repeat(md5(random()::text), 14) || \
             '\"}}' from generate_series(1, {ROWS}) n"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&mut shop).await?;
        shop.execute("analyze shop").await?;
        let mut comparison = Comparison::new("catch-up PostgreSQL to PostgreSQL", TARGET);
        for turn in 0..=REPETITIONS {
            let journals = Databases::create(["ours", "raw"]).await?;
            let measured = turn_on_postgres(&mut shop, &shops.urls[0], &journals.urls).await;
            journals.drop().await?;
            let (ours, ceiling) = measured?;
            if turn > 0 {
                comparison.add(ours, ceiling);
            }
        }
        anyhow::Ok(comparison)
    };
    let compared = compared.await;
    shops.drop().await?;
    compared
}

async fn turn_on_postgres(
    shop: &mut PgConnection,
    url: &str,
    [ours, raw]: &[String; 2],
) -> anyhow::Result<(Measured, Measured)> {
    let ours = catch_up(url, ours).await?;
    Ok((ours, raw_loop!(*shop, raw)))
}

/// Makes the tables, too.
async fn open(url: &str, tasks: &Tasks) -> anyhow::Result<Journal> {
    Ok(Journal::open(&journal::Config { url: url.to_owned(), ..journal::Config::default() }, &Clock::system(), tasks)
        .await?)
}

/// From the start of the source until the journal has all.
async fn catch_up(shop: &str, journal: &str) -> anyhow::Result<Measured> {
    let config = format!(
        "name = \"shop\"\nurl = {shop:?}\ntable = \"shop\"\n[columns]\nsequence = \"seq\"\nid = \"id\"\ntype = \"type\"\n\
         aggregate_type = {{ value = \"Cart\" }}\naggregate_id = \"cart_id\"\naggregate_version = \"version\"\n\
         occurred_at = {{ value = \"2026-01-01T00:00:00Z\" }}\ndata = \"data\"\n"
    );
    let tasks = Tasks::default();
    let journal = open(journal, &tasks).await?;
    let meter = Meter::start()?;
    let source = source::Running::new(toml::from_str(&config)?, journal.clone());
    source::start(&source, Arc::new(Catalogue::default()), &tasks);
    while journal.head().await?.position < ROWS as i64 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let measured = meter.stop(ROWS)?;
    tasks.drain(Duration::from_secs(5)).await;
    journal.close().await;
    Ok(measured)
}

fn arrival(row: (i64, String, String, String, i64, String)) -> Arrival {
    let (sequence, id, r#type, aggregate_id, version, data) = row;
    let summary = format!("{type} {aggregate_id}");
    let event = Event {
        id,
        source: "shop".to_owned(),
        r#type,
        aggregate_type: "Cart".to_owned(),
        aggregate_id,
        aggregate_version: Some(version),
        occurred_at: Micros(1_767_225_600_000_000),
        data,
        metadata: None,
    };
    Arrival { event, sequence: Some(sequence), summary, mismatch: None, late: false }
}
