//! GraphQL over Server-Sent Events, in the protocol's mode of distinct connections: the same requests, `next` for each
//! result, `complete` at the end. The `id` of each result of a subscription is its cursor, so that a client which lost its
//! connection goes on where it was (`Last-Event-ID`).

use std::convert::Infallible;

use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response, Sse};
use futures_util::StreamExt as _;
use futures_util::stream;

use super::engine::{Ask, Engine, Part};
use crate::web::auth::Client;

pub(super) const MEDIA_TYPE: &str = "text/event-stream";
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Answers an operation as a stream. What is wrong with it is its only result: clients of this protocol take a status
/// other than 200 for a broken network.
pub(super) fn respond(engine: &Engine, client: &Client, headers: &HeaderMap, ask: Ask) -> Response {
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty());
    let parts = match engine.stream(ask, client, resumed.map(str::to_owned)) {
        Ok(parts) => parts,
        Err(refusal) => stream::iter([Part { cursor: None, text: refusal.text() }]).boxed(),
    };
    let next = |part: Part| {
        let event = Event::default().event("next").data(part.text);
        match part.cursor {
            Some(cursor) => event.id(cursor),
            None => event,
        }
    };
    let complete = stream::iter([Event::default().event("complete").data("")]);
    let events = parts.map(next).chain(complete).map(Ok::<_, Infallible>);
    let headers = [(header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    (headers, Sse::new(events)).into_response()
}
