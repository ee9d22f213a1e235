//! Signed deliveries of 1 KB events from the journal to one receiver, with cursor, order per key and the log of calls,
//! against a bare keep-alive POST loop: same client, same size, as many calls in flight, nothing signed, nothing read,
//! nothing written. Only the sending side's time is counted.

#[path = "support/events.rs"]
mod events;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/http.rs"]
mod http;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use axum::http::header;
use gateway::{Gateway, Setting};
use http::Connection;
use postern::web::outgoing::Outgoing;
use support::{Comparison, LOAD, Measured, Meter};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};

const EVENTS: usize = 20_000;
const CARTS: usize = 1_000;
/// With type and time around it the body has about 1 KB.
const DATA_BYTES: usize = 950;
const IN_FLIGHT: usize = 64;
const REPETITIONS: usize = 5;
const TARGET: f64 = 0.4;
/// The last checkpoint is written within 250 ms.
const CHECKPOINT: Duration = Duration::from_millis(400);
/// A receiver that hears nothing for so long never will.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> anyhow::Result<()> {
    support::pin();
    let (gateway_side, bare_side) = (support::runtime("gateway")?, support::runtime("bare")?);
    let receiver = Receiver::start()?;
    let gateway =
        gateway_side.block_on(Gateway::start(&Setting::default(), &events::arrivals(EVENTS, CARTS, DATA_BYTES)))?;
    let mut comparison = Comparison::new("webhook, 64 in flight", TARGET);
    for turn in 0..=REPETITIONS {
        let ours = deliver(&gateway_side, gateway.app.address(), &receiver)?;
        let ceiling = post(&bare_side, &receiver)?;
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    println!("bodies of {} bytes", receiver.shared.body_bytes.load(Ordering::Relaxed));
    support::print("delivery", &[comparison]);
    gateway_side.block_on(gateway.app.stop());
    Ok(())
}

/// All events through a webhook that is made for it and removed again.
fn deliver(runtime: &tokio::runtime::Runtime, gateway: SocketAddr, receiver: &Receiver) -> anyhow::Result<Measured> {
    receiver.expect(EVENTS);
    let meter = Meter::start()?;
    let body =
        format!("{{\"url\":\"http://{}/hook\",\"from\":\"beginning\",\"concurrency\":{IN_FLIGHT}}}", receiver.address);
    let request = format!(
        "POST /webhooks HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let id = runtime.block_on(async {
        let mut connection = Connection::connect(gateway).await?;
        let answer = connection.exchange(request.as_bytes()).await?;
        let webhook: serde_json::Value = serde_json::from_slice(answer.body)?;
        webhook["id"].as_str().map(str::to_owned).context(webhook)
    })?;
    receiver.wait()?;
    let wall = meter.started.elapsed();
    thread::sleep(CHECKPOINT);
    let measured = meter.stop_after(wall, EVENTS)?;
    runtime.block_on(async {
        let mut connection = Connection::connect(gateway).await?;
        let shown = format!("GET /webhooks/{id} HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
        let shown: serde_json::Value = serde_json::from_slice(connection.exchange(shown.as_bytes()).await?.body)?;
        ensure!(shown["lag"] == 0, "not everything is checkpointed: {shown}");
        let delete = format!("DELETE /webhooks/{id} HTTP/1.1\r\nhost: {gateway}\r\n\r\n");
        ensure!(connection.exchange(delete.as_bytes()).await?.status() == 204, "the webhook is removed");
        Ok(measured)
    })
}

/// The ceiling.
fn post(runtime: &tokio::runtime::Runtime, receiver: &Receiver) -> anyhow::Result<Measured> {
    let body = Bytes::from(vec![b'x'; receiver.shared.body_bytes.load(Ordering::Relaxed)]);
    let url: url::Url = format!("http://{}/hook", receiver.address).parse()?;
    let client = Outgoing::new(&["127.0.0.1".to_owned()]).map_err(anyhow::Error::msg)?.client(&url)?.clone();
    receiver.expect(EVENTS);
    let meter = Meter::start()?;
    runtime.block_on(async {
        let left = Arc::new(AtomicUsize::new(EVENTS));
        let mut loops = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, url, body, left) = (client.clone(), url.clone(), body.clone(), Arc::clone(&left));
            loops.spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let request = client.post(url.clone()).header(header::CONTENT_TYPE, "application/json");
                    let answer = request.body(body.clone()).send().await?;
                    ensure!(answer.status() == 200, "the receiver answered {}", answer.status());
                    answer.bytes().await?;
                }
                Ok(())
            });
        }
        while let Some(ended) = loops.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    })?;
    receiver.wait()?;
    meter.stop(EVENTS)
}

/// Answers every call with 200 and nothing, on a thread whose time is not counted.
struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    done: mpsc::Receiver<()>,
}

struct Shared {
    /// Calls until it says that it is done.
    left: AtomicUsize,
    body_bytes: AtomicUsize,
    done: mpsc::Sender<()>,
}

impl Receiver {
    fn start() -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (done, waiting) = mpsc::channel();
        let shared = Arc::new(Shared { left: AtomicUsize::new(0), body_bytes: AtomicUsize::new(0), done });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(format!("{LOAD} receiver")).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, accept(listener, theirs))
        })?;
        Ok(Self { address, shared, done: waiting })
    }

    fn expect(&self, calls: usize) {
        self.shared.left.store(calls, Ordering::Relaxed);
    }

    fn wait(&self) -> anyhow::Result<()> {
        self.done.recv_timeout(PATIENCE).context("the receiver waits in vain")
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(take(stream, Arc::clone(&shared)));
    }
}

async fn take(stream: TcpStream, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut connection = Connection::new(stream);
    while let Some(call) = connection.receive().await? {
        shared.body_bytes.store(call.body.len(), Ordering::Relaxed);
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
        if shared.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            shared.done.send(())?;
        }
    }
    Ok(())
}
