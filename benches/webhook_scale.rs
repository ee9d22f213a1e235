//! What webhooks cost that have nothing to do. First memory: how much a process grows by a million events that one
//! receiver does not take, because it hangs or because it is down, beyond what the same appends cost without a webhook.
//! Each is a process of its own, and measured once. Then time: events appended and delivered to 100 webhooks of 10 000,
//! against a gateway that has only those 100. Only the sending side's time is counted.
//!
//! `cargo bench --bench webhook_scale -- 1000000`

#[path = "support/events.rs"]
mod events;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/http.rs"]
mod http;
#[path = "support/listen.rs"]
mod listen;
#[path = "support/receivers.rs"]
mod receivers;
mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use gateway::{Gateway, Setting};
use http::Connection;
use postern::journal::{Append, Arrival};
use receivers::Receivers;
use support::{Comparison, Measured, Meter};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The first argument of the process that grows.
const GROW: &str = "grow";
const UNDELIVERED: usize = 1_000_000;
const BATCH: usize = 1_000;
/// Appended before anything is counted: statements are prepared, and caches have their size.
const WARM_BATCHES: usize = 5;
const SMALL_DATA_BYTES: usize = 50;
const GROWTH_MIB_MAX: f64 = 50.0;
/// The webhook may do what it does about the last events.
const SETTLE: Duration = Duration::from_secs(2);

const WEBHOOKS: usize = 10_000;
/// As many in both gateways.
const MATCHING: usize = 100;
/// What those want; all others want something else.
const TYPE: &str = "T0";
const EVENTS: usize = 200;
const DELIVERIES: usize = EVENTS * MATCHING;
const DATA_BYTES: usize = 950;
/// Addresses that are called: so many that the client keeps all connections to each.
const RECEIVERS: usize = 10;
const CONCURRENCY: usize = 2;
const REGISTRATIONS_AT_ONCE: usize = 32;
const REPETITIONS: usize = 5;
/// At most twice the time.
const TARGET: f64 = 0.5;
/// The last checkpoint is written within 250 ms.
const CHECKPOINT: Duration = Duration::from_millis(400);

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [what, events, receiver] = arguments.as_slice()
        && what == GROW
    {
        return grow(events.parse()?, receiver.parse().ok());
    }
    let undelivered = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(UNDELIVERED);
    memory(undelivered)?;
    support::pin();
    fan_out()
}

/// How much a process grew.
struct Growth {
    resident_mib: f64,
    peak_mib: f64,
    lag: i64,
}

fn memory(events: usize) -> anyhow::Result<()> {
    // Takes connections as far as the system does, and answers nothing.
    let hangs = std::net::TcpListener::bind("127.0.0.1:0")?;
    let is_down = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let without = growth(events, None)?;
    println!(
        "{:<44} {:>10} {:>10} {:>14}",
        format!("{events} undelivered events, MiB"),
        "growth",
        "peak",
        "for a webhook"
    );
    println!("{:<44} {:>10.1} {:>10.1}", "no webhook", without.resident_mib, without.peak_mib);
    for (what, receiver) in [("receiver hangs", hangs.local_addr()?), ("receiver is down", is_down)] {
        let with = growth(events, Some(receiver))?;
        let more = with.resident_mib - without.resident_mib;
        let mark = if more < GROWTH_MIB_MAX { "" } else { "  above target" };
        let what = format!("{what}, lag {}", with.lag);
        println!(
            "{what:<44} {:>10.1} {:>10.1} {more:>14.1}  < {GROWTH_MIB_MAX:.0}{mark}",
            with.resident_mib, with.peak_mib
        );
    }
    println!();
    Ok(())
}

/// Of a process of its own, which has memory of nobody else.
fn growth(events: usize, receiver: Option<SocketAddr>) -> anyhow::Result<Growth> {
    let receiver = receiver.map_or("none".to_owned(), |address| address.to_string());
    let mut command = Command::new(std::env::current_exe()?);
    command.args([GROW, &events.to_string(), &receiver]).stderr(Stdio::inherit());
    let output = command.output()?;
    ensure!(output.status.success(), "the process that was to grow ended with {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace();
    let mut next = || numbers.next().with_context(|| format!("three numbers, not `{text}`"));
    Ok(Growth { resident_mib: next()?.parse()?, peak_mib: next()?.parse()?, lag: next()?.parse()? })
}

/// What that process does: appends, and tells by how much it grew.
fn grow(events: usize, receiver: Option<SocketAddr>) -> anyhow::Result<()> {
    support::runtime("gateway")?.block_on(async {
        let gateway = Gateway::start(&Setting::default(), &[]).await?;
        let address = gateway.app.address();
        let mut webhook = None;
        if let Some(receiver) = receiver {
            let body = format!("{{\"url\":\"http://{receiver}/hook\"}}");
            let created = register_one(&mut Connection::connect(address).await?, address, &body).await?;
            webhook = Some(created["id"].as_str().map(str::to_owned).context("an id")?);
        }
        for batch in 0..WARM_BATCHES {
            append(&gateway, batch).await?;
        }
        let before = status_mib("VmRSS:")?;
        for batch in WARM_BATCHES..events.div_ceil(BATCH) {
            append(&gateway, batch).await?;
        }
        tokio::time::sleep(SETTLE).await;
        let (grown, peak) = (status_mib("VmRSS:")? - before, status_mib("VmHWM:")? - before);
        let lag = match webhook {
            Some(id) => lag(address, &id).await?,
            None => 0,
        };
        println!("{grown} {peak} {lag}");
        gateway.app.stop().await;
        Ok(())
    })
}

/// Small events, each of a cart of its own: what is kept for a cart would show.
async fn append(gateway: &Gateway, batch: usize) -> anyhow::Result<()> {
    let mut arrivals = events::arrivals(BATCH, BATCH, SMALL_DATA_BYTES);
    for (n, arrival) in arrivals.iter_mut().enumerate() {
        arrival.event.aggregate_id = format!("cart-{}", batch * BATCH + n);
    }
    let append = Append { source: "shop".to_owned(), arrivals, ..Append::default() };
    let appended = gateway.app.journal().append(append).await?;
    ensure!(appended.journaled == BATCH as u64, "only {} events were new", appended.journaled);
    Ok(())
}

async fn lag(gateway: SocketAddr, id: &str) -> anyhow::Result<i64> {
    let mut connection = Connection::connect(gateway).await?;
    let request = format!("GET /webhooks/{id} HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
    let shown: serde_json::Value = serde_json::from_slice(connection.exchange(request.as_bytes()).await?.body)?;
    shown["lag"].as_i64().with_context(|| format!("a webhook with a lag, not {shown}"))
}

/// A line of this process's status.
fn status_mib(name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("memory is read from /proc")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1_024.0)
}

fn fan_out() -> anyhow::Result<()> {
    let (many_side, few_side) = (support::runtime("many")?, support::runtime("few")?);
    let receivers = Receivers::start(RECEIVERS)?;
    let many = many_side.block_on(Gateway::start(&Setting::default(), &[]))?;
    let few = few_side.block_on(Gateway::start(&Setting::default(), &[]))?;
    few_side.block_on(register(few.app.address(), webhooks(&receivers, MATCHING)))?;
    let (before, started) = (status_mib("VmRSS:")?, Instant::now());
    many_side.block_on(register(many.app.address(), webhooks(&receivers, WEBHOOKS)))?;
    let (took, each) = (started.elapsed(), (status_mib("VmRSS:")? - before) * 1_024.0 / WEBHOOKS as f64);
    println!("{WEBHOOKS} webhooks registered in {took:.1?}, {each:.1} KiB each");

    let mut comparison = Comparison::new("10 000 webhooks, 100 of them match", TARGET);
    for turn in 0..=REPETITIONS {
        let arrivals = arrivals();
        let ours = deliver(&many_side, &many, &receivers, &arrivals)?;
        let ceiling = deliver(&few_side, &few, &receivers, &arrivals)?;
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    println!("the ceiling: {MATCHING} webhooks, all of them match; a ratio of {TARGET} is twice its time");
    support::print("delivery", &[comparison]);
    println!("bodies of {} bytes", receivers.body_bytes());
    many_side.block_on(many.app.stop());
    few_side.block_on(few.app.stop());
    Ok(())
}

fn arrivals() -> Vec<Arrival> {
    let mut arrivals = events::arrivals(EVENTS, EVENTS, DATA_BYTES);
    for arrival in &mut arrivals {
        arrival.event.r#type = TYPE.to_owned();
    }
    arrivals
}

/// From the first append to the last call, and to the checkpoints behind it.
fn deliver(side: &Runtime, gateway: &Gateway, receivers: &Receivers, arrivals: &[Arrival]) -> anyhow::Result<Measured> {
    let arrivals = arrivals.to_vec();
    receivers.expect(DELIVERIES);
    let meter = Meter::start()?;
    side.block_on(async {
        for arrival in arrivals {
            let append = Append { source: "shop".to_owned(), arrivals: vec![arrival], ..Append::default() };
            let appended = gateway.app.journal().append(append).await?;
            ensure!(appended.journaled == 1, "an event was known already");
        }
        anyhow::Ok(())
    })?;
    receivers.wait()?;
    thread::sleep(CHECKPOINT);
    meter.stop(DELIVERIES)
}

async fn register(gateway: SocketAddr, webhooks: Vec<String>) -> anyhow::Result<()> {
    let mut loops = JoinSet::new();
    for share in webhooks.chunks(webhooks.len().div_ceil(REGISTRATIONS_AT_ONCE)) {
        let share = share.to_vec();
        loops.spawn(async move {
            let mut connection = Connection::connect(gateway).await?;
            for body in share {
                register_one(&mut connection, gateway, &body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    Ok(())
}

async fn register_one(
    connection: &mut Connection,
    gateway: SocketAddr,
    body: &str,
) -> anyhow::Result<serde_json::Value> {
    let request = format!(
        "POST /webhooks HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = connection.exchange(request.as_bytes()).await?;
    ensure!(answer.status() == 201, "not registered: {}", String::from_utf8_lossy(answer.body));
    Ok(serde_json::from_slice(answer.body)?)
}

/// So many, of which the first ones match.
fn webhooks(receivers: &Receivers, count: usize) -> Vec<String> {
    let webhook = |(n, receiver): (usize, &SocketAddr)| {
        let wanted = match n {
            n if n < MATCHING => TYPE.to_owned(),
            n if n.is_multiple_of(10) => format!("T{}-*", n % 99 + 1),
            n => format!("T{}", n % 99 + 1),
        };
        format!(
            "{{\"url\":\"http://{receiver}/hook\",\"concurrency\":{CONCURRENCY},\
             \"filter\":{{\"types\":[\"{wanted}\"]}}}}"
        )
    };
    (0..count).zip(receivers.addresses.iter().cycle()).map(webhook).collect()
}
