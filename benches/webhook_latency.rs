//! How soon an event is at a receiver, on both engines: from the moment at which its append is due until its call has
//! been read, which is a little later than its first byte. First one webhook at 500 events a second; then ten at 50,
//! all healthy in one run, and in the next eight of them beside a receiver that hangs and one that answers 500. The
//! floor is the append alone: before an event is durable nobody may hear of it. Then how many SQL statements a delivery
//! costs.
//!
//! PostgreSQL is the one that `POSTERN_TEST_POSTGRES_URL` names. Takes about three minutes for each engine.

#[path = "support/databases.rs"]
mod databases;
#[path = "support/events.rs"]
mod events;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/http.rs"]
mod http;
#[path = "support/listen.rs"]
mod listen;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use databases::Databases;
use gateway::{Gateway, Setting};
use http::Connection;
use listen::listen;
use postern::journal::{Append, Journal};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Metadata, Subscriber};

const CARTS: usize = 1_000;
/// With type and time around it the body has about 1 KB.
const DATA_BYTES: usize = 950;
const REPETITIONS: usize = 3;
const P50_MS_MAX: f64 = 10.0;
const P99_MS_MAX: f64 = 50.0;
/// The healthy ones beside sick ones, against all healthy.
const RATIO_MAX: f64 = 2.0;
const STATEMENTS_MAX: f64 = 0.05;
/// Of the statements that a delivery costs, so many are named.
const NAMED: usize = 6;
/// Appends that are not durable yet; the next one is late, and that counts.
const APPENDS_AT_ONCE: usize = 64;
/// Of one call.
const CALL_BYTES_MAX: usize = 16 * 1024;
/// The last checkpoint is written within 250 ms.
const CHECKPOINT: Duration = Duration::from_millis(400);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A receiver that hears nothing for so long never will.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a receiver does with a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Manner {
    #[default]
    Answers,
    Fails,
    Hangs,
}

/// Events at a rate, and a webhook for each of the manners.
#[derive(Clone, Copy)]
struct Load {
    rate: u32,
    seconds: u32,
    at_once: usize,
    manners: &'static [Manner],
}

const WARM: Load = Load { rate: 100, seconds: 1, ..HEALTHY };
const FAST: Load = Load { rate: 500, seconds: 10, manners: &[Manner::Answers], ..HEALTHY };
/// Long enough for calls that hang to time out.
const HEALTHY: Load = Load { rate: 50, seconds: 20, at_once: APPENDS_AT_ONCE, manners: &[Manner::Answers; 10] };
const SICK: Load = Load {
    manners: &[
        Manner::Hangs,
        Manner::Fails,
        Manner::Answers,
        Manner::Answers,
        Manner::Answers,
        Manner::Answers,
        Manner::Answers,
        Manner::Answers,
        Manner::Answers,
        Manner::Answers,
    ],
    ..HEALTHY
};
/// One after the other, so that each is a transaction of its own and the same load costs the same statements.
const COUNTED: Load = Load { rate: 500, seconds: 10, at_once: 1, manners: &[Manner::Answers; 4] };
const COUNTED_ALONE: Load = Load { manners: &[], ..COUNTED };

/// An event that was appended.
struct Appended {
    position: i64,
    /// When it was to be.
    due: Instant,
    durable_after: Duration,
}

/// Milliseconds of one run.
struct Latency {
    p50: f64,
    p99: f64,
    durable_p50: f64,
    durable_p99: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let statements = Statements::default();
    tracing::subscriber::set_global_default(statements.clone())?;
    let receivers = start_receivers(HEALTHY.manners.len())?;
    let gateway = Gateway::start(&Setting::default(), &[]).await?;
    measure("SQLite", &gateway, &receivers, &statements).await?;
    gateway.app.stop().await;

    let databases = Databases::create(["latency"]).await?;
    let measured = async {
        let setting = Setting { journal_url: Some(databases.urls[0].as_str()), ..Setting::default() };
        let gateway = Gateway::start(&setting, &[]).await?;
        let measured = measure("PostgreSQL", &gateway, &receivers, &statements).await;
        gateway.app.stop().await;
        measured
    };
    let measured = measured.await;
    databases.drop().await?;
    measured
}

async fn measure(
    engine: &str,
    gateway: &Gateway,
    receivers: &[Receiver],
    statements: &Statements,
) -> anyhow::Result<()> {
    run(gateway, receivers, &WARM).await?;
    let (mut fast, mut healthy, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        fast.push(run(gateway, receivers, &FAST).await?);
        healthy.push(run(gateway, receivers, &HEALTHY).await?);
        beside.push(run(gateway, receivers, &SICK).await?);
    }
    println!("{:<44} {:>22} {:>22}", format!("{engine}, ms"), "p50", "p99");
    print("500 events/s, 1 webhook", &fast);
    let (p50, p99) = (spread(&fast, |run| run.p50).1, spread(&fast, |run| run.p99).1);
    let mark = if p50 <= P50_MS_MAX && p99 <= P99_MS_MAX { "" } else { "  above target" };
    println!("{:<44} {:>22} {:>22}{mark}", "    target", format!("<= {P50_MS_MAX}"), format!("<= {P99_MS_MAX}"));
    print("50 events/s, 10 webhooks, all healthy", &healthy);
    print("50 events/s, 8 healthy, 1 hangs, 1 fails", &beside);
    let ratio = spread(&beside, |run| run.p99).1 / spread(&healthy, |run| run.p99).1;
    let mark = if ratio < RATIO_MAX { "" } else { "  above target" };
    println!("{:<44} {:>22} {:>22}{mark}", "    ratio, target", format!("< {RATIO_MAX}"), format!("{ratio:.2}"));
    let (costs, deliveries) = count(gateway, receivers, statements).await?;
    print_statements(costs, deliveries);
    Ok(())
}

fn print(name: &str, runs: &[Latency]) {
    let show = |(least, median, greatest): (f64, f64, f64)| format!("{median:.2} ({least:.2}-{greatest:.2})");
    let (p50, p99) = (show(spread(runs, |run| run.p50)), show(spread(runs, |run| run.p99)));
    println!("{name:<44} {p50:>22} {p99:>22}");
    let (p50, p99) = (show(spread(runs, |run| run.durable_p50)), show(spread(runs, |run| run.durable_p99)));
    println!("{:<44} {p50:>22} {p99:>22}", "    of which until durable");
}

/// Least, median and greatest.
fn spread(runs: &[Latency], value: impl Fn(&Latency) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}

/// In milliseconds. There is at least one.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100) - 1].as_secs_f64() * 1_000.0
}

/// Webhooks for a load, the load, and how soon the healthy receivers heard of each event.
async fn run(gateway: &Gateway, receivers: &[Receiver], load: &Load) -> anyhow::Result<Latency> {
    register(gateway.app.address(), receivers, load).await?;
    let (appended, times) = deliver(gateway, receivers, load).await?;
    remove(gateway.app.address(), receivers).await?;
    let durable: Vec<Duration> = appended.iter().map(|event| event.durable_after).collect();
    Ok(Latency {
        p50: percentile(&times, 50),
        p99: percentile(&times, 99),
        durable_p50: percentile(&durable, 50),
        durable_p99: percentile(&durable, 99),
    })
}

/// The load, until all healthy receivers have heard of all events.
async fn deliver(
    gateway: &Gateway,
    receivers: &[Receiver],
    load: &Load,
) -> anyhow::Result<(Vec<Appended>, Vec<Duration>)> {
    let appended = append(gateway.app.journal(), load).await?;
    let mut times = Vec::with_capacity(appended.len() * load.manners.len());
    let called = receivers.iter().zip(load.manners);
    for (receiver, _) in called.filter(|(_, manner)| **manner == Manner::Answers) {
        times.extend(receiver.wait(&appended).await?);
    }
    Ok((appended, times))
}

/// Each event when it is due, though those before it may not be durable yet.
async fn append(journal: &Journal, load: &Load) -> anyhow::Result<Vec<Appended>> {
    let count = usize::try_from(load.rate * load.seconds)?;
    let arrivals = events::arrivals(count, CARTS, DATA_BYTES);
    let mut appending: JoinSet<anyhow::Result<Appended>> = JoinSet::new();
    let mut appended = Vec::with_capacity(count);
    let mut ticks = interval(Duration::from_secs(1) / load.rate);
    for arrival in arrivals {
        let due = ticks.tick().await.into_std();
        while appending.len() >= load.at_once
            && let Some(ended) = appending.join_next().await
        {
            appended.push(ended??);
        }
        let journal = journal.clone();
        appending.spawn(async move {
            let append = Append { source: "shop".to_owned(), arrivals: vec![arrival], ..Append::default() };
            let position = journal.append(append).await?.first.context("the event was known already")?;
            anyhow::Ok(Appended { position, due, durable_after: due.elapsed() })
        });
    }
    while let Some(ended) = appending.join_next().await {
        appended.push(ended??);
    }
    Ok(appended)
}

async fn register(gateway: SocketAddr, receivers: &[Receiver], load: &Load) -> anyhow::Result<()> {
    for (receiver, manner) in receivers.iter().zip(load.manners) {
        receiver.prepare(*manner);
        let body = format!("{{\"url\":\"http://{}/hook\"}}", receiver.address);
        let request = format!(
            "POST /webhooks HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut connection = Connection::connect(gateway).await?;
        let answer = connection.exchange(request.as_bytes()).await?;
        ensure!(answer.status() == 201, "not registered: {}", String::from_utf8_lossy(answer.body));
    }
    Ok(())
}

/// All webhooks; calls that hang end.
async fn remove(gateway: SocketAddr, receivers: &[Receiver]) -> anyhow::Result<()> {
    let mut connection = Connection::connect(gateway).await?;
    let request = format!("DELETE /webhooks HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
    ensure!(connection.exchange(request.as_bytes()).await?.status() == 204, "the webhooks are removed");
    receivers.iter().for_each(|receiver| receiver.shared.released.notify_waiters());
    Ok(())
}

/// The statements that the deliveries of a load cost, by their first words, beyond those of the same load without any
/// webhook; and how many deliveries there were.
async fn count(
    gateway: &Gateway,
    receivers: &[Receiver],
    statements: &Statements,
) -> anyhow::Result<(BTreeMap<String, i64>, usize)> {
    let (mut costs, mut deliveries) = (BTreeMap::new(), 0);
    for (load, sign) in [(&COUNTED, 1), (&COUNTED_ALONE, -1)] {
        register(gateway.app.address(), receivers, load).await?;
        statements.start();
        deliveries += deliver(gateway, receivers, load).await?.1.len();
        sleep(CHECKPOINT).await;
        for (words, times) in statements.stop() {
            *costs.entry(words).or_default() += sign * times;
        }
        remove(gateway.app.address(), receivers).await?;
    }
    Ok((costs, deliveries))
}

/// What begins and ends a transaction is left out: SQLite's are not logged at all, of PostgreSQL's the ends are.
fn print_statements(mut costs: BTreeMap<String, i64>, deliveries: usize) {
    let each = |times: i64| times as f64 / deliveries as f64;
    let commits = costs.remove("COMMIT");
    let all = each(costs.values().sum());
    let mark = if all < STATEMENTS_MAX { "" } else { "  above target" };
    println!("{:<44} {all:>22.4} {:>22}{mark}", "statements per delivery, target", format!("< {STATEMENTS_MAX}"));
    if let Some(commits) = commits {
        println!("{:<44} {:>22.4}", "    transactions", each(commits));
    }
    let mut costs: Vec<(String, i64)> = costs.into_iter().filter(|(_, times)| *times != 0).collect();
    costs.sort_by_key(|(_, times)| -times.abs());
    for (words, times) in costs.iter().take(NAMED) {
        println!("{:<44} {:>22.4}", format!("    {words}"), each(*times));
    }
    println!();
}

/// Counts what sqlx logs, which is each statement, while it is asked to.
#[derive(Clone, Default)]
struct Statements {
    counted: Arc<Counted>,
}

#[derive(Default)]
struct Counted {
    is_on: AtomicBool,
    by_words: Mutex<BTreeMap<String, i64>>,
}

/// Where sqlx logs statements.
const TARGET: &str = "sqlx::query";
const LOCKED: &str = "nothing panics while it holds this lock";

impl Statements {
    fn start(&self) {
        self.counted.by_words.lock().expect(LOCKED).clear();
        self.counted.is_on.store(true, Ordering::Relaxed);
    }

    fn stop(&self) -> BTreeMap<String, i64> {
        self.counted.is_on.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.counted.by_words.lock().expect(LOCKED))
    }
}

impl Subscriber for Statements {
    /// Asked each time: what is counted changes.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if metadata.target() == TARGET { Interest::sometimes() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET && self.counted.is_on.load(Ordering::Relaxed)
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        *self.counted.by_words.lock().expect(LOCKED).entry(words.0).or_default() += 1;
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The first words of a statement.
#[derive(Default)]
struct Words(String);

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "summary" {
            value.trim_end_matches(" …").clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Keeps when it heard of which event first.
struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    manner: Mutex<Manner>,
    /// By position.
    heard: Mutex<HashMap<i64, Instant>>,
    /// Ends calls that hang.
    released: Notify,
}

impl Receiver {
    fn prepare(&self, manner: Manner) {
        *self.shared.manner.lock().expect(LOCKED) = manner;
        self.shared.heard.lock().expect(LOCKED).clear();
    }

    /// How long each event took, once all are here.
    async fn wait(&self, appended: &[Appended]) -> anyhow::Result<Vec<Duration>> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(times) = self.times(appended) {
                return Ok(times);
            }
            ensure!(Instant::now() < until, "the receiver waits in vain");
            sleep(LOOK_EVERY).await;
        }
    }

    fn times(&self, appended: &[Appended]) -> Option<Vec<Duration>> {
        let heard = self.shared.heard.lock().expect(LOCKED);
        let time = |event: &Appended| Some(heard.get(&event.position)?.saturating_duration_since(event.due));
        appended.iter().map(time).collect()
    }
}

impl Shared {
    fn hear(&self, position: i64, at: Instant) -> Manner {
        self.heard.lock().expect(LOCKED).entry(position).or_insert(at);
        *self.manner.lock().expect(LOCKED)
    }
}

fn start_receivers(count: usize) -> anyhow::Result<Vec<Receiver>> {
    let shared: Vec<Arc<Shared>> = (0..count).map(|_| Arc::default()).collect();
    let theirs = shared.clone();
    let addresses = listen("receivers", count, move |n, stream| take(stream, Arc::clone(&theirs[n])))?;
    Ok(addresses.into_iter().zip(shared).map(|(address, shared)| Receiver { address, shared }).collect())
}

async fn take(stream: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut connection = Connection::with_buffer(stream, CALL_BYTES_MAX);
    while let Some(call) = connection.receive().await? {
        let at = Instant::now();
        let position = call.head.lines().find_map(|line| line.strip_prefix("webhook-sequence: "));
        let position: i64 = position.context("a call names its position")?.parse()?;
        match shared.hear(position, at) {
            Manner::Answers => connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?,
            Manner::Fails => {
                connection.send(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await?;
            }
            Manner::Hangs => {
                shared.released.notified().await;
                return Ok(());
            }
        }
    }
    Ok(())
}
