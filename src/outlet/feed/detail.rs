//! `GET /events/{id}`: one event whole, as JSON, as a CloudEvent, for people; or its entry of a feed.

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::{Feeds, atom};
use crate::event::{CloudEvent, Entry, EventJson, event_id_of_atom_id};
use crate::journal::Columns;
use crate::json::indented;
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};
use crate::web::{html, negotiate};

const JSON: &str = "application/json";
const CLOUD_EVENT: &str = "application/cloudevents+json";
const ATOM: &str = "application/atom+xml";
const HTML: &str = "text/html";

pub(super) async fn event(
    State(feeds): State<Feeds>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    client.must(&Scope::Read)?;
    let journal = &feeds.inner.journal;
    let entry = visible_event(&feeds, &client, &id).await?;
    if let Some(at) = entry.erased_at {
        let detail = format!("event `{}` was erased at {}", entry.event.id, at.to_text());
        return Err(Problem::new(Kind::Gone, detail));
    }
    let names = &feeds.inner.names;
    let (media_type, body) = match negotiate::accept(&headers, &[JSON, HTML, CLOUD_EVENT, ATOM]) {
        Some(HTML) => return Ok(page(&feeds, &entry)),
        Some(ATOM) => ("application/atom+xml; type=entry; charset=utf-8", Ok(atom::entry(names, &entry))),
        Some(CLOUD_EVENT) => (
            CLOUD_EVENT,
            serde_json::to_string(&CloudEvent {
                public_url: &names.public_url,
                entry: &entry,
                data: &entry.event.data,
            }),
        ),
        Some(_) => (JSON, serde_json::to_string(&EventJson { journal_id: journal.id(), entry: &entry })),
        None => {
            let detail = format!("events are served as {JSON}, {HTML}, {CLOUD_EVENT} and {ATOM}");
            return Err(Problem::new(Kind::NotAcceptable, detail));
        }
    };
    let body = body.map_err(|cause| {
        tracing::error!(event.id = %entry.event.id, %cause, "journaled data is not JSON");
        Problem::new(Kind::Internal, "this event's data can't be shown")
    })?;
    let scope = if feeds.inner.public { "public, no-cache" } else { "private, no-cache" };
    let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, scope), (header::VARY, "accept")];
    Ok((headers, body).into_response())
}

/// The event with this id or Atom id; one that the client may not see is unknown to it.
pub(super) async fn visible_event(feeds: &Feeds, client: &Client, id: &str) -> Result<Entry, Problem> {
    let public = event_id_of_atom_id(id).unwrap_or_else(|| id.to_owned());
    let found = feeds.inner.journal.by_ids(&client.visible.with_own(), &[public], Columns::ALL).await?;
    found.into_iter().next().ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no event `{id}`")))
}

fn page(feeds: &Feeds, entry: &Entry) -> Response {
    let event = &entry.event;
    let version = event.aggregate_version.map_or(String::new(), |version| format!(", version {version}"));
    let rows = [
        ("id", event.id.clone()),
        ("type", event.r#type.clone()),
        ("aggregate", format!("{} {}{version}", event.aggregate_type, event.aggregate_id)),
        ("source", event.source.clone()),
        ("position", entry.position.to_string()),
        ("occurred", event.occurred_at.to_text()),
        ("recorded", entry.recorded_at.to_text()),
    ];
    let rows: Vec<String> =
        rows.iter().map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>", html::escape(value))).collect();
    let metadata = event
        .metadata
        .as_deref()
        .map_or(String::new(), |metadata| format!("<h2>metadata</h2><pre>{}</pre>", html::escape(&indented(metadata))));
    let body = format!(
        "<p>{}</p><table>{}</table><h2>data</h2><pre>{}</pre>{metadata}<p><a href=\"{}/feeds\">feeds</a></p>",
        html::escape(&entry.summary),
        rows.concat(),
        html::escape(&indented(&event.data)),
        html::escape(&feeds.inner.names.public_url)
    );
    html::page(&format!("{} {}", event.r#type, event.aggregate_id), &body)
}
