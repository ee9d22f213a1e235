//! Signed deliveries of 1 KB events from the journal to one receiver, with cursor, order per key and the log of calls,
//! against a bare keep-alive loop of signed POSTs: same client, same size, as many calls in flight, nothing read, nothing
//! ordered, nothing written. Only the sending side's time is counted.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aws_lc_rs::hmac;
use axum::body::Bytes;
use axum::http::header;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gateway::{Gateway, Setting};
use http::Connection;
use postern::runtime::Clock;
use postern::web::outgoing::Outgoing;
use receivers::Receivers;
use support::{Comparison, Measured, Meter};
use tokio::task::JoinSet;

const EVENTS: usize = 20_000;
const CARTS: usize = 1_000;
/// With type and time around it the body has about 1 KB.
const DATA_BYTES: usize = 950;
const IN_FLIGHT: usize = 64;
const REPETITIONS: usize = 5;
const TARGET: f64 = 0.6;
/// The last checkpoint is written within 250 ms.
const CHECKPOINT: Duration = Duration::from_millis(400);

fn main() -> anyhow::Result<()> {
    support::pin();
    let (gateway_side, bare_side) = (support::runtime("gateway")?, support::runtime("bare")?);
    let receivers = Receivers::start(1)?;
    let gateway =
        gateway_side.block_on(Gateway::start(&Setting::default(), &events::arrivals(EVENTS, CARTS, DATA_BYTES)))?;
    let mut comparison = Comparison::new("webhook, 64 in flight", TARGET);
    for turn in 0..=REPETITIONS {
        let ours = deliver(&gateway_side, gateway.app.address(), &receivers)?;
        let ceiling = post(&bare_side, &receivers)?;
        if turn > 0 {
            comparison.add(ours, ceiling);
        }
    }
    println!("bodies of {} bytes", receivers.body_bytes());
    support::print("delivery", &[comparison]);
    gateway_side.block_on(gateway.app.stop());
    Ok(())
}

/// All events through a webhook that is made for it and removed again.
fn deliver(runtime: &tokio::runtime::Runtime, gateway: SocketAddr, receivers: &Receivers) -> anyhow::Result<Measured> {
    receivers.expect(EVENTS);
    let meter = Meter::start()?;
    let body = format!(
        "{{\"url\":\"http://{}/hook\",\"from\":\"beginning\",\"concurrency\":{IN_FLIGHT}}}",
        receivers.addresses[0]
    );
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
    receivers.wait()?;
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

/// The ceiling: what a sender of Standard Webhooks can't leave out.
fn post(runtime: &tokio::runtime::Runtime, receivers: &Receivers) -> anyhow::Result<Measured> {
    let body = Bytes::from(vec![b'x'; receivers.body_bytes()]);
    let url: url::Url = format!("http://{}/hook", receivers.addresses[0]).parse()?;
    let client = Outgoing::new(&["127.0.0.1".to_owned()]).map_err(anyhow::Error::msg)?.client(&url)?.clone();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 24]);
    receivers.expect(EVENTS);
    let meter = Meter::start()?;
    runtime.block_on(async {
        let left = Arc::new(AtomicUsize::new(EVENTS));
        let mut loops = JoinSet::new();
        for _ in 0..IN_FLIGHT {
            let (client, url, body, left) = (client.clone(), url.clone(), body.clone(), Arc::clone(&left));
            let (key, clock) = (key.clone(), Clock::system());
            loops.spawn(async move {
                while let Ok(n) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)) {
                    let (id, time) = (format!("shop:{n}"), clock.now_micros() / 1_000_000);
                    let request = client
                        .post(url.clone())
                        .header(header::CONTENT_TYPE, "application/json")
                        .header("webhook-signature", signature(&key, &id, time, &body))
                        .header("webhook-timestamp", time)
                        .header("webhook-id", id);
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
    receivers.wait()?;
    meter.stop(EVENTS)
}

fn signature(key: &hmac::Key, id: &str, time: i64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(format!("{id}.{time}.").as_bytes());
    context.update(body);
    format!("v1,{}", STANDARD.encode(context.sign()))
}
