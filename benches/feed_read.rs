//! Continuations that nobody asked for before, at three depths of a journal of a million events, against the raw SQL read
//! of the same rows; and a page's rendering against atom_syndication writing the same one.

#[path = "support/events.rs"]
mod events;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/http.rs"]
mod http;
mod support;

use std::net::SocketAddr;
use std::thread;

use anyhow::ensure;
use gateway::{Gateway, Setting};
use http::Connection;
use postern::event::{Entry, Micros};
use postern::filter::{Filter, Selection};
use postern::journal::{Columns, Range};
use postern::outlet::feed::atom;
use postern::outlet::feed::format::{Document, Names};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use support::{Comparison, LOAD, Measured, Meter};

const EVENTS: usize = 1_000_000;
const DEPTHS: [(&str, i64); 3] = [("after 979 900", 979_900), ("after 1 000", 1_000), ("after 500 000", 500_000)];
/// Pages a turn, one after the other, and how often.
const PAGES: usize = 200;
const ROUNDS: usize = 4;
const REPETITIONS: usize = 7;
const RENDERINGS: usize = 8_000;

fn main() -> anyhow::Result<()> {
    support::pin();
    let (gateway_side, raw_side) = (support::runtime("gateway")?, support::runtime("raw")?);
    let gateway = gateway_side.block_on(Gateway::start(&Setting::default(), &events::arrivals(EVENTS, 1_000, 100)))?;
    let url = gateway.app.journal().url().to_owned();
    let mut raw = raw_side.block_on(SqliteConnection::connect(&url))?;
    let mut comparisons = Vec::new();
    for (name, depth) in DEPTHS {
        let mut comparison = Comparison::new(name, 0.5);
        for turn in 0..=REPETITIONS {
            let ours = load(gateway.app.address(), depth)?;
            let ceiling = raw_side.block_on(read(&mut raw, depth))?;
            if turn > 0 {
                comparison.add(ours, ceiling);
            }
        }
        comparisons.push(comparison);
    }
    support::print("page", &comparisons);

    let everything = Selection::visible(&Filter::default());
    let page = gateway.app.journal().read(&everything, Range::after(0), 100, Columns::ENVELOPE);
    let entries = gateway_side.block_on(page)?.entries;
    support::print("page", &[rendering(&entries)?]);
    gateway_side.block_on(gateway.app.stop());
    Ok(())
}

/// Asks from a thread of its own, whose time is not counted. 100 entries a page; continuations are not kept.
fn load(address: SocketAddr, after: i64) -> anyhow::Result<Measured> {
    let meter = Meter::start()?;
    let asking = thread::Builder::new().name(LOAD.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = Connection::connect(address).await?;
            for n in (0..PAGES as i64 * ROUNDS as i64).map(|n| n % PAGES as i64) {
                let after = after + n * 100;
                let request = format!("GET /feeds/all.atom?after={after} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
                let answer = connection.exchange(request.as_bytes()).await?;
                ensure!(answer.status() == 200 && answer.body.len() > 50_000, "a short page: {}", answer.head);
            }
            anyhow::Ok(())
        })
    })?;
    asking.join().expect("the load generator does not panic")?;
    meter.stop(PAGES * ROUNDS)
}

/// The ceiling: the rows that make such a page.
async fn read(connection: &mut SqliteConnection, after: i64) -> anyhow::Result<Measured> {
    let sql = "select position, event_id, source, type, aggregate_type, aggregate_id, aggregate_version, occurred_at, \
               recorded_at, feed_time, late, erased_at, erases, summary from entries where position > $1 \
               order by position limit 100";
    let (meter, mut bytes) = (Meter::start()?, 0);
    for n in (0..PAGES as i64 * ROUNDS as i64).map(|n| n % PAGES as i64) {
        for row in sqlx::query(sql).bind(after + n * 100).fetch_all(&mut *connection).await? {
            bytes += (1..6).map(|column| row.get::<String, _>(column).len()).sum::<usize>();
            bytes += row.get::<String, _>(13).len();
            bytes += (6..10).filter(|column| row.get::<Option<i64>, _>(*column).is_some()).count();
        }
    }
    ensure!(bytes > 0, "nothing was read");
    meter.stop(PAGES * ROUNDS)
}

fn rendering(entries: &[Entry]) -> anyhow::Result<Comparison> {
    let names = Names {
        public_url: "https://events.example.com".to_owned(),
        authority: "events.example.com".to_owned(),
        year: 2026,
        journal_id: "0a1b2c3d".to_owned(),
    };
    let links = [("self", "https://events.example.com/feeds/all.atom".to_owned())];
    let (feed, title, updated) = ("all", "All", Micros(1_767_225_600_000_000));
    let document = Document { feed, title, updated, links: &links, archive: true, embed: false, entries };
    // The same page as a model of theirs, made before anything is measured.
    let mut text = String::new();
    atom::render(&mut text, &names, &document);
    let theirs: atom_syndication::Feed = text.parse()?;
    let mut comparison = Comparison::new("rendering 100 entries", 8.0);
    for turn in 0..=REPETITIONS {
        let ours = measure(|| {
            text.clear();
            atom::render(&mut text, &names, &document);
            text.len()
        })?;
        let ceiling = measure(|| theirs.to_string().len())?;
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    Ok(comparison)
}

fn measure(mut render: impl FnMut() -> usize) -> anyhow::Result<Measured> {
    let (meter, mut bytes) = (Meter::start()?, 0);
    for _ in 0..RENDERINGS {
        bytes += std::hint::black_box(render());
    }
    ensure!(bytes > RENDERINGS * 50_000, "short pages");
    meter.stop(RENDERINGS)
}
