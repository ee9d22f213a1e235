//! GraphQL over WebSocket: the protocol `graphql-transport-ws`, with its close codes.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use futures_util::stream::{self, AbortHandle, Abortable, BoxStream, SelectAll};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::Part;
use super::ask::Ask;
use super::engine::Engine;
use super::live::Permit;
use crate::json::Plain;
use crate::web::auth::Client;
use crate::web::problem::{Kind, Problem};

const PROTOCOL: &str = "graphql-transport-ws";
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// The client has so long to say `connection_init`.
const INIT_TIME: Duration = Duration::from_secs(10);
/// How often a silent client is pinged; one that stays silent for two of them is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a client may leave a message untaken.
const SEND_TIME: Duration = Duration::from_secs(30);

/// Why the server closes: a code of the protocol or of RFC 6455, and a text of at most 123 bytes.
type Close = (u16, &'static str);

const GOING_AWAY: Close = (1001, "the gateway stops");
const TOO_LARGE: Close = (1009, "a message may have 256 kB");
const BAD_REQUEST: Close = (4400, "this is no message of graphql-transport-ws");
/// Its token has expired, or the client was changed or removed.
const FORBIDDEN: Close = (4403, "Forbidden");
const UNAUTHORIZED: Close = (4401, "Unauthorized");
const INIT_TIMEOUT: Close = (4408, "Connection initialisation timeout");
const TOO_MANY_INITS: Close = (4429, "Too many initialisation requests");

/// What clients say.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    ConnectionInit {},
    Ping { payload: Option<Plain> },
    Pong {},
    Subscribe { id: String, payload: Plain },
    Complete { id: String },
}

/// Takes the connection over.
///
/// # Errors
/// A client that does not speak the protocol, a foreign web page, or too many connections.
pub(super) fn upgrade(
    engine: Engine,
    client: Client,
    headers: &HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Problem> {
    if !is_own_page(headers, engine.public_url()) {
        let detail = "a page of another origin may not open a WebSocket here";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX).protocols([PROTOCOL]);
    if upgrade.selected_protocol().is_none() {
        return Err(Problem::new(Kind::BadRequest, format!("the WebSocket protocol must be {PROTOCOL}")));
    }
    let permit = engine.live.open(&client.name).map_err(|failure| Problem::new(Kind::TooMany, failure.message))?;
    Ok(upgrade.on_upgrade(move |socket| Connection::new(engine, client, socket, permit).run()))
}

/// Browsers say which page opens the connection, and let any do so: what a page may not read otherwise it must not read
/// here.
fn is_own_page(headers: &HeaderMap, public_url: &str) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let host = headers.get(header::HOST).map(|host| host.as_bytes()).unwrap_or_default();
    let origin = origin.as_bytes();
    let own = public_url.as_bytes();
    let is_public = own.strip_prefix(origin).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')));
    is_public || ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme.as_bytes()) == Some(host))
}

/// A message of the server about an operation, or the end of one.
enum Out {
    Next(Part),
    Errors(Value),
    Complete,
}

struct Connection {
    engine: Engine,
    client: Client,
    socket: WebSocket,
    _permit: Permit,
    is_acknowledged: bool,
    /// Operations that run.
    running: HashMap<String, AbortHandle>,
    results: SelectAll<BoxStream<'static, (String, Out)>>,
}

impl Connection {
    fn new(engine: Engine, client: Client, socket: WebSocket, permit: Permit) -> Self {
        let (running, results) = (HashMap::new(), SelectAll::new());
        Self { engine, client, socket, _permit: permit, is_acknowledged: false, running, results }
    }

    async fn run(mut self) {
        let Err(close) = self.converse().await else { return };
        let (code, reason) = close;
        let frame = CloseFrame { code, reason: reason.into() };
        let _ = timeout(SEND_TIME, self.socket.send(Message::Close(Some(frame)))).await;
    }

    /// Ends well when the client leaves, or with what the server closes for.
    async fn converse(&mut self) -> Result<(), Close> {
        let (stopping, mut ended) = (self.engine.stopping(), Box::pin(self.client.ended()));
        let init_by = Instant::now() + INIT_TIME;
        let (mut ping_at, mut pings) = (Instant::now() + PING_EVERY, 0);
        loop {
            tokio::select! {
                said = self.socket.recv() => {
                    (ping_at, pings) = (Instant::now() + PING_EVERY, 0);
                    match said {
                        Some(Ok(Message::Text(text))) => self.hear(text.as_str()).await?,
                        Some(Ok(Message::Binary(_))) => return Err(BAD_REQUEST),
                        // A close is answered by whoever reads on.
                        Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
                        None => return Ok(()),
                        Some(Err(cause)) if is_too_large(&cause) => return Err(TOO_LARGE),
                        Some(Err(_)) => return Ok(()),
                    }
                }
                Some((id, out)) = self.results.next(), if !self.results.is_empty() => {
                    if !self.tell(id, out).await {
                        return Ok(());
                    }
                }
                () = sleep_until(init_by), if !self.is_acknowledged => return Err(INIT_TIMEOUT),
                () = sleep_until(ping_at) => {
                    if pings >= 2 || !self.send(Message::Ping(Default::default())).await {
                        return Ok(());
                    }
                    (ping_at, pings) = (Instant::now() + PING_EVERY, pings + 1);
                }
                () = &mut ended => return Err(FORBIDDEN),
                () = stopping.cancelled() => return Err(GOING_AWAY),
            }
        }
    }

    async fn hear(&mut self, text: &str) -> Result<(), Close> {
        // A list would be read as the attributes in their order.
        let said = Some(text).filter(|text| text.trim_ascii_start().starts_with('{'));
        match said.and_then(|said| serde_json::from_str(said).ok()).ok_or(BAD_REQUEST)? {
            Said::ConnectionInit {} if self.is_acknowledged => return Err(TOO_MANY_INITS),
            Said::ConnectionInit {} => {
                self.is_acknowledged = true;
                self.send_json(&json!({ "type": "connection_ack" })).await;
            }
            Said::Ping { payload } => {
                let mut pong = json!({ "type": "pong" });
                if let Some(payload) = payload {
                    pong["payload"] = payload.0;
                }
                self.send_json(&pong).await;
            }
            Said::Pong {} => {}
            Said::Subscribe { .. } if !self.is_acknowledged => return Err(UNAUTHORIZED),
            Said::Subscribe { id, .. } if self.running.contains_key(&id) => {
                return Err((4409, "Subscriber for this id already exists"));
            }
            Said::Subscribe { id, payload } => {
                // A list would be read as the attributes in their order.
                let ask = Some(payload.0).filter(|payload| payload.is_object() && !id.is_empty());
                let ask = ask.and_then(|payload| serde_json::from_value(payload).ok());
                self.start(id, ask.ok_or(BAD_REQUEST)?);
            }
            Said::Complete { id } => {
                if let Some(running) = self.running.remove(&id) {
                    running.abort();
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, id: String, ask: Ask) {
        let results = match self.engine.stream(ask, &self.client, None) {
            Ok(parts) => parts.map(Out::Next).chain(stream::iter([Out::Complete])).boxed(),
            Err(refusal) => {
                let errors = serde_json::to_value(&refusal.errors).unwrap_or_default();
                stream::iter([Out::Errors(errors)]).boxed()
            }
        };
        let (handle, registration) = AbortHandle::new_pair();
        self.running.insert(id.clone(), handle);
        let results = results.map(move |out| (id.clone(), out));
        self.results.push(Abortable::new(results, registration).boxed());
    }

    /// Whether the client still takes messages.
    async fn tell(&mut self, id: String, out: Out) -> bool {
        match out {
            Out::Next(part) => {
                // The result is JSON already.
                let id = Value::String(id);
                let text = format!("{{\"id\":{id},\"type\":\"next\",\"payload\":{}}}", part.text);
                self.send(Message::text(text)).await
            }
            Out::Errors(errors) => {
                self.running.remove(&id);
                self.send_json(&json!({ "id": id, "type": "error", "payload": errors })).await
            }
            Out::Complete => {
                self.running.remove(&id);
                self.send_json(&json!({ "id": id, "type": "complete" })).await
            }
        }
    }

    async fn send_json(&mut self, message: &Value) -> bool {
        self.send(Message::text(message.to_string())).await
    }

    async fn send(&mut self, message: Message) -> bool {
        matches!(timeout(SEND_TIME, self.socket.send(message)).await, Ok(Ok(())))
    }
}

fn is_too_large(cause: &axum::Error) -> bool {
    cause.to_string().contains("too long") || cause.to_string().contains("too big")
}
