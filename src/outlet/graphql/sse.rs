//! GraphQL over Server-Sent Events, in the protocol's mode of distinct connections: the same requests, `next` for each
//! result, `complete` at the end. The `id` of each result of a subscription is its cursor, so that a client which lost its
//! connection goes on where it was (`Last-Event-ID`).

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::stream;

use super::answer::Part;
use super::ask::Ask;
use super::engine::Engine;
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
    // By hand: the framework leaves out empty data, and events without data are not dispatched. JSON has no line breaks.
    let next = |Part { cursor, text }| {
        let id = cursor.map(|cursor| format!("id: {cursor}\n")).unwrap_or_default();
        format!("event: next\n{id}data: {text}\n\n")
    };
    let complete = stream::iter(["event: complete\ndata:\n\n".to_owned()]);
    let events = parts.map(next).chain(complete).map(Ok::<_, Infallible>);
    let headers = [(header::CONTENT_TYPE, MEDIA_TYPE), (header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    (headers, Body::from_stream(events)).into_response()
}
