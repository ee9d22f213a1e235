//! A webhook receiver as a partner would write it: verifies each signature, prints a line, answers 204. It registers
//! itself over REST, like any partner, and keeps the secret that it is shown once.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::outlet::webhook::signature;
use crate::runtime::{Clock, Tasks};
use crate::web::outgoing::Outgoing;

/// How old a call may be, in seconds: the tolerance that Standard Webhooks names.
const TOLERANCE_SECONDS: i64 = 300;

#[derive(Clone)]
struct Receiver {
    secret: String,
    clock: Clock,
}

/// Starts the receiver and makes sure that the gateway calls it.
pub async fn start(gateway: &str, listen: SocketAddr, dir: &Path, tasks: &Tasks) -> anyhow::Result<()> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("the demo's receiver can't listen on {listen}; choose another port with --listen"))?;
    let url = format!("http://{}/webhook", listener.local_addr()?);
    let secret = register(gateway, &url, &dir.join("receiver.secret")).await?;
    let receiver = Receiver { secret, clock: Clock::system() };
    let router = Router::new().route("/webhook", post(receive)).with_state(receiver);
    let stopping = tasks.stopping();
    tasks.spawn("demo receiver", async move {
        let stopped = async move { stopping.cancelled().await };
        let _ = axum::serve(listener, router).with_graceful_shutdown(stopped).await;
    });
    Ok(())
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, timestamp, signature) = (text("webhook-id"), text("webhook-timestamp"), text("webhook-signature"));
    let now = receiver.clock.now_micros() / 1_000_000;
    if !signature::verify(&receiver.secret, id, timestamp, &body, signature, now, TOLERANCE_SECONDS) {
        println!("webhook  {id}  SIGNATURE WRONG, refused");
        return StatusCode::UNAUTHORIZED;
    }
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    println!(
        "webhook  {:>6}  {:<14} {}  {id}  signature verified",
        text("webhook-sequence"),
        event["type"].as_str().unwrap_or("?"),
        text("webhook-key")
    );
    StatusCode::NO_CONTENT
}

/// Registers the URL, unless it is registered and the secret is still known.
async fn register(gateway: &str, url: &str, secret_file: &Path) -> anyhow::Result<String> {
    let outgoing = Outgoing::new(&["127.0.0.0/8".to_owned(), "::1".to_owned()]).map_err(anyhow::Error::msg)?;
    let webhooks: url::Url = format!("{gateway}/webhooks").parse()?;
    let client = outgoing.client(&webhooks)?;
    let listed: Value = serde_json::from_slice(&client.get(webhooks.clone()).send().await?.bytes().await?)?;
    let secret = std::fs::read_to_string(secret_file).ok();
    let items = listed["items"].as_array().cloned().unwrap_or_default();
    for webhook in items.iter().filter(|webhook| webhook["description"] == "the demo's receiver") {
        match &secret {
            Some(secret) if webhook["url"] == url => return Ok(secret.clone()),
            _ => {
                let id = webhook["id"].as_str().unwrap_or_default();
                client.delete(format!("{webhooks}/{id}")).send().await?;
            }
        }
    }
    let draft = json!({ "url": url, "description": "the demo's receiver", "from": "beginning" });
    let request = client.post(webhooks).header("content-type", "application/json").body(draft.to_string());
    let response = request.send().await?;
    let status = response.status();
    let registered: Value = serde_json::from_slice(&response.bytes().await?)?;
    let Some(secret) = registered["secret"].as_str().filter(|_| status.is_success()) else {
        bail!("the gateway did not register the demo's webhook: {}", registered["detail"]);
    };
    write_secret(secret_file, secret).with_context(|| format!("can't write {}", secret_file.display()))?;
    Ok(secret.to_owned())
}

/// For the owner's eyes only.
fn write_secret(file: &Path, secret: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(secret.as_bytes())
}
