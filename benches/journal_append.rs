//! Appending to the journal in batches of 1 000, on both engines, against raw inserts of the same rows into the same
//! tables: same statements, same transactions, same durability, but no look whether an event is known already, no
//! hashes, no head.
//!
//! PostgreSQL is the one that `POSTERN_TEST_POSTGRES_URL` names; only the client's side is counted.

#[path = "support/databases.rs"]
mod databases;
#[path = "support/events.rs"]
mod events;
#[path = "support/raw.rs"]
mod raw;
mod support;

use anyhow::ensure;
use databases::Databases;
use postern::journal::{Append, Arrival, Config, Journal};
use postern::runtime::{Clock, Tasks};
use raw::Raw;
use support::{Comparison, Meter};

const BATCH: usize = 1_000;
const BATCHES: usize = 10;
const REPETITIONS: usize = 7;
const CARTS: usize = 1_000;
const DATA_BYTES: usize = 500;
const TARGET: f64 = 0.6;

fn main() -> anyhow::Result<()> {
    support::pin();
    support::runtime("append")?.block_on(async {
        let comparisons = [sqlite().await?, postgres().await?];
        support::print("row", &comparisons);
        Ok(())
    })
}

async fn sqlite() -> anyhow::Result<Comparison> {
    let folder = tempfile::tempdir()?;
    let url = |name: &str| format!("sqlite://{}", folder.path().join(name).display());
    let journal = open(&url("ours.db")).await?;
    open(&url("raw.db")).await?.close().await;
    compare("append to SQLite", journal, Raw::open(&url("raw.db")).await?).await
}

async fn postgres() -> anyhow::Result<Comparison> {
    let databases = Databases::create(["ours", "raw"]).await?;
    let compared = async {
        let journal = open(&databases.urls[0]).await?;
        open(&databases.urls[1]).await?.close().await;
        compare("append to PostgreSQL", journal, Raw::open(&databases.urls[1]).await?).await
    };
    let compared = compared.await;
    databases.drop().await?;
    compared
}

/// Makes the tables, too.
async fn open(url: &str) -> anyhow::Result<Journal> {
    Ok(Journal::open(&Config { url: url.to_owned(), ..Config::default() }, &Clock::system(), &Tasks::default()).await?)
}

/// In turns, so that both tables have the same size; the first turn only warms up.
async fn compare(name: &'static str, journal: Journal, mut raw: Raw) -> anyhow::Result<Comparison> {
    let mut comparison = Comparison::new(name, TARGET);
    let mut position = 0;
    for turn in 0..=REPETITIONS {
        let arrivals = events::arrivals(BATCH * BATCHES, CARTS, DATA_BYTES);
        let batches: Vec<Vec<Arrival>> = arrivals.chunks(BATCH).map(<[Arrival]>::to_vec).collect();
        drop(arrivals);
        let copy = batches.clone();

        let meter = Meter::start()?;
        for arrivals in batches {
            let checkpoint = Some("{\"after\":1}".to_owned());
            let append = Append { source: "shop".to_owned(), arrivals, checkpoint, ..Append::default() };
            let appended = journal.append(append).await?;
            ensure!(appended.journaled == BATCH as u64, "only {} events were new", appended.journaled);
        }
        let ours = meter.stop(BATCH * BATCHES)?;

        let meter = Meter::start()?;
        for arrivals in copy {
            raw.append(&arrivals, position).await?;
            position += i64::try_from(BATCH)?;
        }
        let ceiling = meter.stop(BATCH * BATCHES)?;
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    ensure!(journal.head().await?.position == position, "both sides wrote the same number of rows");
    journal.close().await;
    Ok(comparison)
}
