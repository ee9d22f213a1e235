//! A kill between any two appends of a batch: what the checkpoint says is true at that moment.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::batch::GATE_TIMEOUT;
use super::*;
use crate::journal;
use crate::runtime::{Clock, Tasks, random_hex};
use crate::source::config::tests::cart;
use crate::source::holes::Horizon;
use crate::source::mapping::{Kind, Mapping, Row};
use crate::source::{Catalogue, Engine, Evidence, GateBy, Journal, Page, ROWS_MAX, Status, order};

/// Rows in memory.
struct Table {
    mapping: Mapping,
    rows: Vec<Row>,
}

impl Source for Table {
    const REREADS_LAST: bool = false;

    async fn open(config: &Config) -> Result<Self, Error> {
        let mapping = Mapping::new(config, |column| Ok((column.to_owned(), Kind::Text)))?;
        Ok(Self { mapping, rows: rows() })
    }

    fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    async fn begin(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn end(&mut self) -> Result<(), Error> {
        Ok(())
    }

    async fn tail(&mut self, above: i64, rows_max: usize) -> Result<Page, Error> {
        let rows: Vec<Row> = self.rows.iter().filter(|row| row.sequence > above).take(rows_max).cloned().collect();
        Ok(Page { more: rows.len() == rows_max, rows })
    }

    async fn ranges(&mut self, ranges: &[(i64, i64)], _: usize) -> Result<Page, Error> {
        let is_in = |row: &&Row| ranges.iter().any(|(from, to)| (*from..=*to).contains(&row.sequence));
        Ok(Page { more: false, rows: self.rows.iter().filter(is_in).cloned().collect() })
    }

    async fn versions(&mut self, _: &[(String, i64)]) -> Result<Vec<Row>, Error> {
        Ok(Vec::new())
    }

    async fn newest(&mut self, rows_max: usize) -> Result<Page, Error> {
        Ok(Page { more: false, rows: self.rows.iter().rev().take(rows_max).cloned().collect() })
    }

    fn sweep(
        &self,
        _: Option<Horizon>,
        _: Vec<(i64, i64)>,
        _: i64,
    ) -> BoxFuture<'static, Result<Option<Swept>, Error>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    async fn evidence(&mut self, _: &[(i64, i64, i64)]) -> Result<Evidence, Error> {
        Ok(Evidence::default())
    }

    fn hints(&self, _: &Config) -> BoxStream<'static, ()> {
        Box::pin(futures_util::stream::pending())
    }

    async fn warnings(&mut self) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }
}

/// 5 000 rows with gaps, versions that do not ascend, rows that stay inside and rows that can't be mapped.
fn rows() -> Vec<Row> {
    let row = |n: i64| {
        let (data, outbox) = (if n % 7 == 0 { "{" } else { "{}" }, if n % 11 == 0 { "0" } else { "1" });
        let (id, cart) = (n.to_string(), format!("cart-{}", n % 13));
        // Descending in stretches of 2 000, so that rows wander far.
        let version = (n / 2_000 * 2_000 + 1_999 - n % 2_000).to_string();
        let time = "2026-01-01T00:00:00Z";
        let cells =
            [&id, "Added", "", &cart, &version, time, data, "", outbox, ""].map(|cell| Some(cell.as_bytes().to_vec()));
        Row { sequence: n, cells, ..Row::default() }
    };
    (1..=5_600).filter(|n| n % 9 != 0).map(row).collect()
}

/// A pump on a journal of its own, and that journal's file.
async fn pump(config: Config) -> (Probe<Table>, std::path::PathBuf) {
    let (clock, tasks) = (Clock::system(), Tasks::default());
    let path = std::env::temp_dir().join(format!("postern-pump-{}.db", random_hex(6)));
    let kept = journal::Config { url: format!("sqlite://{}", path.display()), ..journal::Config::default() };
    let journal = Journal::open(&kept, &clock, &tasks).await.expect("a journal");
    assert_eq!(config.engine(), Some(Engine::Sqlite));
    let catalogue = Arc::new(Catalogue::default());
    let lease = journal.lease("source", &tasks.stopping(), None).await.expect("there is nobody else");
    let status = Status::new(&config);
    let setting = Arc::new(Setting { status, config, journal, catalogue, clock, lease, told: Mutex::default() });
    (Probe::<Table>::open(setting).await.expect("a pump"), path)
}

#[tokio::test]
async fn the_gate_waits_a_minute_and_not_for_ever() {
    let (mut pump, path) = pump(Config { gate: Some(GateBy::Version), ..cart("sqlite://unused") }).await;
    pump.source.rows.retain(|row| row.sequence == 2);
    pump.look().await.expect("a look");
    let state = |pump: &Probe<Table>| pump.setting.status.get().gate.map(|gate| (gate.waiting, gate.given_up));
    assert_eq!(state(&pump), Some((1, 0)));
    let now = pump.setting.clock.now_micros();
    let since = pump.checkpoint.holes.since(2).expect("it is missing");
    assert!((now - since) < GATE_TIMEOUT);
    // The same, seen a minute ago.
    pump.checkpoint = Checkpoint { column: pump.checkpoint.column.clone(), ..Checkpoint::default() };
    pump.checkpoint.advance(&[1], 2, now - GATE_TIMEOUT);
    pump.look().await.expect("a look");
    assert_eq!((state(&pump), pump.checkpoint.holes.since(2)), (Some((0, 1)), None));
    pump.setting.journal.close().await;
    let _ = std::fs::remove_file(path);
}

#[tokio::test]
async fn every_checkpoint_is_true_when_it_is_written() {
    let (mut pump, path) = pump(cart("sqlite://unused")).await;

    let mut batch = Batch::default();
    let page = pump.source.tail(i64::MIN, ROWS_MAX).await.expect("rows");
    pump.take(&mut batch, &page);
    let mut events = Vec::from(std::mem::take(&mut batch.events));
    order::by_version(&mut events, |found| {
        found.it.aggregate_version.map(|version| (("", found.it.aggregate_id.as_str()), version))
    });
    batch.events = events.into();

    let (mut journaled, mut withheld, mut appends) = (BTreeSet::new(), 0, 0);
    while !batch.events.is_empty() || !batch.others.is_empty() {
        let (append, checkpoint) = pump.next_append(&mut batch, &[]);
        withheld += append.withheld;
        let max = checkpoint.max.expect("moved");
        for arrival in &append.arrivals {
            let own_id = arrival.event.id.trim_start_matches("cart:");
            assert!(journaled.insert(own_id.parse::<i64>().expect("a number")), "twice: {own_id}");
        }
        for row in &append.quarantined {
            let sequence: i64 = row.sequence.as_deref().expect("known").parse().expect("a number");
            assert!(sequence <= max, "{sequence} would be quarantined again");
            assert!(journaled.insert(sequence), "twice: {sequence}");
        }
        let covered = (1..=max).filter(|n| n % 9 != 0);
        assert_eq!(covered.clone().filter(|n| n % 11 == 0).count() as u64, withheld, "counted once, when covered");
        assert!(covered.filter(|n| n % 11 != 0).all(|n| journaled.contains(&n)), "lost by a kill at {max}");
        let missing = usize::try_from(max / 9).expect("small");
        assert_eq!(checkpoint.holes.len(), missing, "holes up to {max}");
        pump.checkpoint = checkpoint;
        appends += 1;
    }
    assert_eq!((pump.checkpoint.max, journaled.len() as u64 + withheld), (Some(5_600), rows().len() as u64));
    assert!(appends >= 4, "{appends} appends show nothing");
    pump.setting.journal.close().await;
    let _ = std::fs::remove_file(path);
}
