//! Hostile writers on one PostgreSQL table, and who still sees every row: our ways of following it, and a naive reader
//! that asks for `seq > last` and must lose some, else the writers were too kind.
//!
//! Writers draw numbers long before they insert, nest savepoints and roll parts of them back, roll back altogether, fill in
//! numbers below those that were read, copy rows in blocks, and keep transactions open; one is always open for 4 s. Ends
//! with 1 if a row was lost, doubled or changed its place among those of its aggregate without being marked late. Times
//! are from the commit's answer to the journal, without the rows that are filled in below.
//!
//! `scripts/soak [SECONDS]`, 60 by default, a third for each way.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use postern::app::{Gateway, Options};
use postern::config::Config;
use postern::filter::{Filter, Selection};
use postern::journal::{Columns, Journal, Range};
use postern::runtime::{random_bytes, random_hex};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const WRITERS: usize = 16;
const CARTS: u64 = 40;
/// Longest pause inside a transaction, in milliseconds.
const PAUSE: u64 = 150;
const TABLE: &str = "create table events (seq bigserial primary key, id text not null unique, cart text not null, version bigint not null, \
     at timestamptz not null default clock_timestamp(), relayed boolean not null default false, unique (cart, version))";

fn main() -> anyhow::Result<()> {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(60_u64);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!(
        "{:<8} {:>9} {:>6} {:>8} {:>11} {:>6} {:>20} {:>9} {:>9} {:>9}",
        "follow", "committed", "lost", "repeated", "inversions", "late", "naive reader loses", "p50", "p99", "max"
    );
    let mut is_whole = true;
    for follow in ["probe", "xmin", "flag"] {
        is_whole &= runtime.block_on(soak(follow, Duration::from_secs(seconds.div_ceil(3))))?;
    }
    ensure!(is_whole, "a row was lost, doubled or out of place, or the writers were too kind");
    Ok(())
}

/// What the writers have committed: id, and when.
#[derive(Default)]
struct Shop {
    committed: Mutex<HashMap<String, Instant>>,
    /// Ids of rows below the first.
    filled_in: Mutex<HashSet<String>>,
    next: AtomicUsize,
    below: AtomicI64,
}

async fn soak(follow: &str, time: Duration) -> anyhow::Result<bool> {
    let server = std::env::var("POSTERN_TEST_POSTGRES_URL")
        .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
    let hint = "no PostgreSQL: scripts/test starts one, or set POSTERN_TEST_POSTGRES_URL";
    let mut admin = PgConnection::connect(&server).await.context(hint)?;
    let name = format!("postern_bench_{}", random_hex(6));
    run(&mut admin, &format!("create database {name}")).await.context(hint)?;
    let mut url = url::Url::parse(&server)?;
    url.set_path(&name);
    let result = soak_on(url.as_str(), follow, time).await;
    run(&mut admin, &format!("drop database {name} with (force)")).await?;
    result
}

async fn soak_on(url: &str, follow: &str, time: Duration) -> anyhow::Result<bool> {
    run(&mut PgConnection::connect(url).await?, TABLE).await?;
    let folder = tempfile::tempdir()?;
    let columns = match follow {
        "flag" => "flag = \"relayed\"",
        "xmin" => "",
        _ => "sequence = \"seq\"",
    };
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = \"sqlite://journal.db\"\n[[source]]\nname = \"shop\"\nurl = {url:?}\n\
         table = \"events\"\nfollow = {follow:?}\npoll = {{ fixed_delay = \"20ms\" }}\nsweep = \"2s\"\n[source.columns]\n{columns}\n\
         id = \"id\"\ntype = {{ value = \"Added\" }}\naggregate_type = {{ value = \"Cart\" }}\naggregate_id = \"cart\"\n\
         aggregate_version = \"version\"\noccurred_at = \"at\"\ndata = {{ value = \"{{}}\" }}\n"
    );
    let path = folder.path().join("postern.toml");
    std::fs::write(&path, text)?;
    let gateway = Gateway::start(Config::load(&path, &[])?, Options::default()).await?;
    let (shop, stop) = (Arc::new(Shop::default()), CancellationToken::new());

    let mut naive = JoinSet::new();
    naive.spawn(read_naively(PgConnection::connect(url).await?, stop.clone()));
    let mut watch = JoinSet::new();
    watch.spawn(watch_journal(gateway.journal().clone(), stop.clone()));
    let mut connections = Vec::new();
    for _ in 0..WRITERS {
        connections.push(PgConnection::connect(url).await?);
    }
    let mut writers = JoinSet::new();
    for (writer, connection) in connections.into_iter().enumerate() {
        writers.spawn(write(connection, Arc::clone(&shop), writer, stop.clone()));
    }

    tokio::time::sleep(time).await;
    stop.cancel();
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let committed = std::mem::take(&mut *shop.committed.lock().expect("nothing panics while it holds this lock"));
    let until = Instant::now() + Duration::from_secs(30);
    while gateway.journal().head().await?.position < committed.len() as i64 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let seen = watch.join_next().await.context("the watcher")???;
    let naive = naive.join_next().await.context("the naive reader")???;
    let filled_in = std::mem::take(&mut *shop.filled_in.lock().expect("nothing panics while it holds this lock"));
    let whole = judge(follow, &committed, &filled_in, &naive, &seen, gateway.journal()).await?;
    gateway.stop().await;
    Ok(whole)
}

async fn judge(
    follow: &str,
    committed: &HashMap<String, Instant>,
    filled_in: &HashSet<String>,
    naive: &HashSet<String>,
    seen: &HashMap<String, Instant>,
    journal: &Journal,
) -> anyhow::Result<bool> {
    let (mut ids, mut versions, mut repeated, mut inversions, mut late) = (HashSet::new(), HashMap::new(), 0, 0, 0);
    let (selection, mut after) = (Selection::visible(&Filter::default()), 0);
    loop {
        let page = journal.read(&selection, Range::after(after), 1_000, Columns::ENVELOPE).await?;
        for entry in page.entries {
            let version = entry.event.aggregate_version.unwrap_or_default();
            let before = versions.entry(entry.event.aggregate_id).or_insert(version);
            late += usize::from(entry.late);
            inversions += usize::from(*before > version && !entry.late);
            *before = version.max(*before);
            repeated += usize::from(!ids.insert(entry.event.id.trim_start_matches("shop:").to_owned()));
        }
        after = page.covered;
        if !page.more {
            break;
        }
    }
    let lost = committed.keys().filter(|id| !ids.contains(*id)).count()
        + ids.iter().filter(|id| !committed.contains_key(*id)).count();
    let missed = committed.keys().filter(|id| !naive.contains(*id)).count();
    let times = committed.iter().filter(|(id, _)| !filled_in.contains(*id));
    let mut times: Vec<Duration> =
        times.filter_map(|(id, at)| Some(seen.get(id)?.saturating_duration_since(*at))).collect();
    times.sort_unstable();
    let at = |part: f64| times.get(((times.len() as f64 - 1.0) * part) as usize).copied().unwrap_or_default();
    let percent = 100.0 * missed as f64 / committed.len().max(1) as f64;
    println!(
        "{follow:<8} {:>9} {lost:>6} {repeated:>8} {inversions:>11} {late:>6} {missed:>13} {percent:>4.0} % {:>6} ms {:>6} ms {:>6} ms",
        committed.len(),
        at(0.5).as_millis(),
        at(0.99).as_millis(),
        at(1.0).as_millis(),
    );
    Ok(lost == 0 && repeated == 0 && inversions == 0 && missed > 0)
}

fn chance(below: u64) -> u64 {
    u64::from_le_bytes(random_bytes::<8>()) % below
}

async fn run(connection: &mut PgConnection, text: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(connection).await.map(|_| ())
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(chance(PAUSE))).await;
}

async fn write(
    mut connection: PgConnection,
    shop: Arc<Shop>,
    writer: usize,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        run(&mut connection, "begin").await?;
        let ids = transaction(&mut connection, &shop, writer).await;
        let ids = match ids {
            Ok(ids) if chance(100) >= 15 => ids,
            // Two writers of one cart, or a change of mind.
            _ => {
                run(&mut connection, "rollback").await?;
                continue;
            }
        };
        run(&mut connection, "commit").await?;
        let now = Instant::now();
        let mut committed = shop.committed.lock().expect("nothing panics while it holds this lock");
        committed.extend(ids.into_iter().map(|id| (id, now)));
    }
    Ok(())
}

/// One transaction's rows. Each follows what its cart had before, as a shop that reads before it writes makes them.
async fn transaction(connection: &mut PgConnection, shop: &Shop, writer: usize) -> anyhow::Result<Vec<String>> {
    let mut ids = Vec::new();
    if writer == 0 {
        ids.push(insert(connection, shop, "nextval('events_seq_seq')").await?);
        tokio::time::sleep(Duration::from_secs(4)).await;
        return Ok(ids);
    }
    match chance(6) {
        0 => {
            let number: i64 =
                sqlx::query_scalar("select nextval('events_seq_seq')").fetch_one(&mut *connection).await?;
            pause().await;
            ids.push(insert(connection, shop, &number.to_string()).await?);
        }
        1 => {
            run(connection, "savepoint a").await?;
            ids.push(insert(connection, shop, "nextval('events_seq_seq')").await?);
            run(connection, "savepoint b").await?;
            insert(connection, shop, "nextval('events_seq_seq')").await?;
            pause().await;
            run(connection, "rollback to savepoint b; release savepoint a").await?;
        }
        2 => {
            let number = shop.below.fetch_sub(1, Ordering::Relaxed) - 1;
            let id = insert(connection, shop, &number.to_string()).await?;
            shop.filled_in.lock().expect("nothing panics while it holds this lock").insert(id.clone());
            ids.push(id);
        }
        _ => {
            for _ in 0..=chance(4) {
                ids.push(insert(connection, shop, "nextval('events_seq_seq')").await?);
                pause().await;
            }
        }
    }
    Ok(ids)
}

async fn insert(connection: &mut PgConnection, shop: &Shop, number: &str) -> anyhow::Result<String> {
    let id = format!("e{}", shop.next.fetch_add(1, Ordering::Relaxed));
    let cart = format!("cart-{}", chance(CARTS));
    let version = "select coalesce(max(version), 0) + 1 from events where cart = $1";
    let version: i64 = sqlx::query_scalar(version).bind(&cart).fetch_one(&mut *connection).await?;
    let text = format!("insert into events (seq, id, cart, version) values ({number}, '{id}', '{cart}', {version})");
    run(connection, &text).await?;
    Ok(id)
}

/// What everybody writes first.
async fn read_naively(mut connection: PgConnection, stop: CancellationToken) -> anyhow::Result<HashSet<String>> {
    let (mut seen, mut last) = (HashSet::new(), 0_i64);
    while !stop.is_cancelled() {
        let sql = "select seq, id from events where seq > $1 order by seq";
        let rows: Vec<(i64, String)> = sqlx::query_as(sql).bind(last).fetch_all(&mut connection).await?;
        for (number, id) in rows {
            last = number;
            seen.insert(id);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(seen)
}

/// When each event was in the journal.
async fn watch_journal(journal: Journal, stop: CancellationToken) -> anyhow::Result<HashMap<String, Instant>> {
    let (mut seen, mut after, mut bell) = (HashMap::new(), 0, journal.bell());
    let selection = Selection::visible(&Filter::default());
    while !stop.is_cancelled() {
        bell.rung(Duration::from_millis(200)).await;
        let now = Instant::now();
        let page = journal.read(&selection, Range::after(after), 10_000, Columns::ENVELOPE).await?;
        after = page.covered;
        seen.extend(page.entries.into_iter().map(|entry| (entry.event.id.trim_start_matches("shop:").to_owned(), now)));
    }
    Ok(seen)
}
