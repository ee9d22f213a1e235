//! `POST /sources/{source}/events`: whoever has no table hands its events in, as CloudEvents over HTTP (binary,
//! structured or a batch). 202 is said once the journal has them; a batch is taken whole or not at all.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;

use super::Running;
use super::mapping::{NAME_FAULT, check_json};
use crate::catalogue::Catalogue;
use crate::event::{Event, Micros, NAME_BYTES_MAX, public_id};
use crate::journal::{Append, Arrival, Journal};
use crate::json;
use crate::runtime::Clock;
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};

const EVENT_BYTES_MAX: usize = 1024 * 1024;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
const BATCH_EVENTS_MAX: usize = 1_000;
/// Requests whose events wait for the journal; whoever comes beyond is asked to come again.
const WAITING_MAX: usize = 32;
const EXAMPLE: &str = r#"such as {"specversion": "1.0", "id": "1", "source": "/billing", "type": "InvoiceSent", "subject": "i-7", "data": {}}"#;

#[derive(Clone)]
pub(super) struct Push {
    journal: Journal,
    running: Arc<Vec<Running>>,
    catalogue: Arc<Catalogue>,
    clock: Clock,
    waiting: Arc<Semaphore>,
}

pub(super) fn router(journal: Journal, running: Arc<Vec<Running>>, catalogue: Arc<Catalogue>, clock: Clock) -> Router {
    let push = Push { journal, running, catalogue, clock, waiting: Arc::new(Semaphore::new(WAITING_MAX)) };
    Router::new()
        .route("/sources/{source}/events", post(take))
        .layer(DefaultBodyLimit::max(BATCH_BYTES_MAX))
        .with_state(push)
}

async fn take(
    State(push): State<Push>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    if !client.may(&Scope::Admin) {
        client.must(&Scope::Push(name.clone()))?;
    }
    let running = push.running.iter().find(|running| running.config.name == name && running.config.push);
    let running = running.ok_or_else(|| {
        Problem::new(Kind::NotFound, format!("there is no source `{name}` that takes events; `push = true` makes one"))
    })?;
    let body = body.map_err(|cause| match cause.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large("a request may have 4 MB at most"),
        _ => bad("the body could not be read; send it again"),
    })?;
    let Ok(_permit) = push.waiting.try_acquire() else {
        let detail = "too many requests wait for the journal; send it again in a second";
        return Err(Problem::new(Kind::Unavailable, detail).with_header(header::RETRY_AFTER, "1"));
    };
    let mut events = Vec::new();
    for (n, attributes) in read(&headers, &body)?.into_iter().enumerate() {
        let event = attributes.and_then(|attributes| attributes.event(&name));
        events.push(event.map_err(|problem| Problem::new(problem.kind, format!("event {n}: {}", problem.detail)))?);
    }
    let newest = events.iter().filter_map(|event| event.time).max();
    let answer = push.journal_all(&name, events).await?;
    let now = push.clock.now_micros();
    running.status.update(|state| {
        state.complete_at = Some(now);
        state.last_event_at = newest.map(|time| time.0).or(state.last_event_at).or(Some(now));
    });
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

impl Push {
    async fn journal_all(&self, source: &str, events: Vec<Undated>) -> Result<Value, Problem> {
        let ids: Vec<String> = events.iter().map(|undated| undated.event.id.clone()).collect();
        // One that does not say its time keeps the one that it got when it came first, so that it may come again.
        let untimed = events.iter().filter(|undated| undated.time.is_none());
        let times = self.journal.times(&untimed.map(|undated| undated.event.id.clone()).collect::<Vec<_>>()).await?;
        let now = Micros(self.clock.now_micros());
        let mut append = Append { source: source.to_owned(), is_strict: true, ..Append::default() };
        for (n, Undated { mut event, time }) in events.into_iter().enumerate() {
            event.occurred_at = time.or(times.get(&event.id).copied()).unwrap_or(now);
            if !self.catalogue.publishes(&event.r#type) {
                append.withheld += 1;
                continue;
            }
            if let Some(mismatch) = self.catalogue.refuses(&event) {
                return Err(Problem::new(Kind::Unprocessable, format!("event {n}: {mismatch}; nothing was taken")));
            }
            append.arrivals.push(Arrival::new(&self.catalogue, event, None, false));
        }
        let offered: HashSet<String> = append.arrivals.iter().map(|arrival| arrival.event.id.clone()).collect();
        let appended = self.journal.append(append).await?;
        let positions = self.journal.positions(&offered.iter().collect::<Vec<_>>()).await?;
        let mut seen = HashSet::new();
        let items = ids.iter().map(|id| {
            let position = positions.get(id);
            let is_new = position.is_some_and(|position| appended.first.is_some_and(|first| *position >= first));
            json!({ "id": id, "position": position, "duplicate": position.is_some() && !(is_new && seen.insert(id)) })
        });
        Ok(json!({ "items": items.collect::<Vec<_>>() }))
    }
}

/// An event, and the time that it says, if it does.
struct Undated {
    event: Event,
    time: Option<Micros>,
}

/// The attributes of a CloudEvent, each as JSON, and its data as it came.
struct Attributes {
    attributes: BTreeMap<String, Value>,
    data: Option<String>,
}

/// Each event on its own, or what is wrong with all.
fn read(headers: &HeaderMap, body: &[u8]) -> Result<Vec<Result<Attributes, Problem>>, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/cloudevents-batch+json" => {
            let events: Vec<&RawValue> =
                serde_json::from_slice(body).map_err(|cause| bad(format!("the batch is no JSON array: {cause}")))?;
            if events.len() > BATCH_EVENTS_MAX {
                return Err(too_large("a batch may have 1000 events at most"));
            }
            Ok(events.into_iter().map(|event| structured(event.get().as_bytes())).collect())
        }
        "application/cloudevents+json" => Ok(vec![structured(body)]),
        kind if headers.contains_key("ce-specversion") => Ok(vec![binary(headers, kind, body)]),
        _ => Err(Problem::new(
            Kind::UnsupportedMediaType,
            "send a CloudEvent: `Content-Type: application/cloudevents+json`, `application/cloudevents-batch+json`, or \
             `ce-…` headers with JSON",
        )),
    }
}

fn structured(body: &[u8]) -> Result<Attributes, Problem> {
    if body.len() > EVENT_BYTES_MAX {
        return Err(too_large("an event may have 1 MB at most"));
    }
    let mut raw: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
        .map_err(|cause| bad(format!("the event is no JSON object ({cause}); send one {EXAMPLE}")))?;
    let data = raw.remove("data").map(|data| data.get().to_owned());
    let mut attributes = BTreeMap::new();
    for (name, raw) in raw {
        match json::parse(raw.get()) {
            Ok(Value::Array(_) | Value::Object(_)) | Err(_) => {
                return Err(bad(format!("the attribute `{name}` must be a text, a number or a boolean")));
            }
            Ok(value) => _ = attributes.insert(name, value),
        }
    }
    let data = match (data, attributes.remove("data_base64")) {
        (Some(_), Some(_)) => return Err(bad("`data` and `data_base64` exclude each other")),
        (None, Some(text)) => {
            let bytes = text.as_str().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
            let bytes = bytes.ok_or_else(|| bad("`data_base64` is no base64"))?;
            Some(String::from_utf8(bytes).map_err(|_| not_json("`data_base64` holds no UTF-8"))?)
        }
        (data, None) => data,
    };
    Ok(Attributes { attributes, data })
}

fn binary(headers: &HeaderMap, kind: &str, body: &[u8]) -> Result<Attributes, Problem> {
    if body.len() > EVENT_BYTES_MAX {
        return Err(too_large("an event may have 1 MB at most"));
    }
    let mut attributes = BTreeMap::new();
    for (name, value) in headers {
        let Some(name) = name.as_str().strip_prefix("ce-") else { continue };
        let text = value.to_str().ok().and_then(|text| percent_decode_str(text).decode_utf8().ok());
        let text = text.ok_or_else(|| bad(format!("percent-encode what is not ASCII in the header `ce-{name}`")))?;
        if attributes.insert(name.to_owned(), Value::from(text)).is_some() {
            return Err(bad(format!("the header `ce-{name}` is there twice")));
        }
    }
    if !kind.is_empty() {
        attributes.insert("datacontenttype".to_owned(), kind.into());
    }
    let data = std::str::from_utf8(body).map_err(|_| not_json("the body is no UTF-8"))?;
    Ok(Attributes { attributes, data: (!data.is_empty()).then(|| data.to_owned()) })
}

impl Attributes {
    fn text(&self, name: &str) -> Result<Option<&str>, Problem> {
        match self.attributes.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text.len() > NAME_BYTES_MAX || text.contains('\0') => {
                Err(bad(format!("`{name}` {NAME_FAULT}")))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(format!("`{name}` must be a text"))),
        }
    }

    fn required(&self, name: &str) -> Result<&str, Problem> {
        self.text(name)?.ok_or_else(|| bad(format!("`{name}` is missing; send an event {EXAMPLE}")))
    }

    /// The key that keeps events in order is the `partitionkey`, else the `subject`, else the event is alone.
    fn event(mut self, source: &str) -> Result<Undated, Problem> {
        if self.required("specversion")? != "1.0" {
            return Err(bad("`specversion` must be \"1.0\""));
        }
        if let Some(kind) = self.text("datacontenttype")? {
            let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if kind != "application/json" && kind != "text/json" && !kind.ends_with("+json") {
                return Err(not_json(&format!("`datacontenttype` is {kind}")));
            }
        }
        let data = self.data.take().unwrap_or_else(|| "null".to_owned());
        check_json(&data, "data").map_err(|fault| not_json(&fault.detail))?;
        let own_id = self.required("id")?.to_owned();
        let id = public_id(source, &own_id);
        if id.len() > NAME_BYTES_MAX {
            return Err(bad(format!("`id` {NAME_FAULT}, with the source's name before it")));
        }
        let wrong = |text| bad(format!("`time` must be a time such as 2026-01-01T00:00:00Z, not `{text}`"));
        let time = self.text("time")?.map(|text| Micros::parse_rfc3339(text).ok_or_else(|| wrong(text))).transpose()?;
        let key = self.text("partitionkey")?.or(self.text("subject")?).unwrap_or(&own_id).to_owned();
        let event = Event {
            id,
            source: source.to_owned(),
            r#type: self.required("type")?.to_owned(),
            aggregate_type: self.text("aggregatetype")?.unwrap_or(source).to_owned(),
            aggregate_id: key,
            aggregate_version: None,
            occurred_at: Micros(0),
            data,
            metadata: None,
        };
        self.required("source")?;
        Ok(Undated { event: Event { metadata: Some(self.metadata()), ..event }, time })
    }

    /// What has no place of its own in an event; the sender's `source` as `cesource`.
    fn metadata(self) -> String {
        const OWN: [&str; 7] =
            ["specversion", "id", "type", "time", "partitionkey", "aggregatetype", "datacontenttype"];
        let others = self.attributes.into_iter().filter(|(name, _)| !OWN.contains(&name.as_str()));
        let named =
            others.map(|(name, value)| if name == "source" { ("cesource".to_owned(), value) } else { (name, value) });
        Value::Object(named.collect::<Map<_, _>>()).to_string()
    }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::BadRequest, detail)
}

fn too_large(detail: &str) -> Problem {
    Problem::new(Kind::TooLarge, detail)
}

fn not_json(detail: &str) -> Problem {
    Problem::new(Kind::UnsupportedMediaType, format!("an event's data must be JSON: {detail}"))
}
