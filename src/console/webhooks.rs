//! `/console/webhooks…`: how they are doing, what did not arrive, and the commands of their owners.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use serde_json::{Value, json};

use super::doors::next_of;
use super::form::Form;
use super::{Console, ROWS_MAX, Shown};
use crate::event::{Micros, escape};
use crate::journal::deliveries::CallRow;
use crate::web::auth::Client;

/// Deliveries and calls on the page of a webhook.
const DELIVERIES_MAX: usize = 20;
/// Commands, and what the page says that it leads back to.
const COMMANDS: [(&str, &str); 8] = [
    ("Pause", "The webhook is paused: its cursor stands still, nothing is lost."),
    ("Resume", "The webhook goes on."),
    ("Verify", "The receiver was asked whether it wants these calls."),
    ("Replay", "The events are being sent again."),
    ("Recover", "Dead deliveries are being sent again."),
    ("CancelReplay", "The replay is cancelled."),
    ("Test", ""),
    ("RotateSecret", ""),
];
const DELIVERY_COMMANDS: [(&str, &str); 2] =
    [("Resend", "It will be sent again when its turn comes."), ("Discard", "It is given up for this webhook.")];

/// What the page says that it was sent back to after a command.
fn done(query: &HashMap<String, String>, commands: &[(&str, &'static str)]) -> Option<&'static str> {
    let command = query.get("done")?;
    commands.iter().find(|(name, _)| name == command).map(|(_, done)| *done)
}

/// A parameter to pass on, as far as it is there.
fn passed(query: &HashMap<String, String>, name: &str, to: &str) -> String {
    let value = query.get(name).filter(|value| !value.is_empty());
    value.map_or(String::new(), |value| format!("&{to}={}", escape(value)))
}

pub(super) async fn list(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    let status = passed(&query, "status", "status");
    let path = format!("/webhooks?limit={ROWS_MAX}{status}{}", passed(&query, "after", "after"));
    let mut webhooks = console.doors.get(&client, &path).await?;
    let next = next_of(&webhooks).map(|after| format!("/console/webhooks?after={}{status}", escape(&after)));
    let data = json!({ "webhooks": webhooks["items"].take(), "next": next, "wanted": query.get("status") });
    Ok(console.page(&client, "webhooks", "webhooks.html", data))
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    let path = format!("/webhooks/{}", escape(&id));
    let webhook = console.doors.get(&client, &path).await?;
    let (status, after) = (passed(&query, "show", "status"), passed(&query, "after", "after"));
    let deliveries = format!("{path}/deliveries?limit={DELIVERIES_MAX}{status}{after}");
    let mut deliveries = console.doors.get(&client, &deliveries).await?;
    let next = next_of(&deliveries);
    let next = next.map(|after| format!("/console{path}?after={}{}", escape(&after), passed(&query, "show", "show")));
    let calls = console.journal.recent_calls(&client.visible.with_own(), &id, DELIVERIES_MAX as i64).await?;
    let data = json!({
        "done": done(&query, &COMMANDS),
        "deliveries": deliveries["items"].take(),
        "next": next,
        "wanted": query.get("show"),
        "calls_made": calls.iter().map(call).collect::<Value>(),
        "whole": serde_json::to_string_pretty(&webhook).unwrap_or_default(),
        "webhook": webhook,
    });
    Ok(console.page(&client, "webhooks", "webhook.html", data))
}

fn call(row: &CallRow) -> Value {
    let CallRow { call, event_id, r#type } = row;
    json!({
        "eventId": event_id, "type": r#type, "attempt": call.attempt, "replay": !call.replay.is_empty(),
        "startedAt": Micros(call.started_at).to_text(), "durationMs": call.duration_ms, "status": call.status,
        "error": call.error, "answer": call.answer,
    })
}

/// A command for a webhook. What it answers that is told nowhere else stands on a page of its own.
pub(super) async fn command(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    body: Bytes,
) -> Shown {
    let (path, form) = (format!("/webhooks/{}", escape(&id)), Form::parse(&body));
    let command = form.command(&COMMANDS.map(|(name, _)| name))?;
    let arguments = match command {
        "Replay" => json!({ "from": form.start()? }),
        "Recover" => json!({ "since": form.time("since")?.to_text() }),
        _ => Value::Null,
    };
    let answer = console.doors.command(&client, &path, command, &arguments).await?;
    let back = format!("/console{path}");
    let data = match command {
        "Test" => json!({ "title": "A test call", "back": back, "test": answer }),
        "RotateSecret" => {
            let (secret, until) = (&answer["secret"], &answer["oldSecretUntil"]);
            json!({ "title": "The new secret", "back": back, "secret": secret, "oldSecretUntil": until })
        }
        _ => return Ok(Redirect::to(&format!("{back}?done={command}")).into_response()),
    };
    Ok(console.page(&client, "webhooks", "answer.html", data))
}

/// One event for one webhook, with its calls.
pub(super) async fn delivery(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path((id, event)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    let path = format!("/webhooks/{}/deliveries/{}", escape(&id), escape(&event));
    let delivery = console.doors.get(&client, &path).await?;
    let data = json!({ "done": done(&query, &DELIVERY_COMMANDS), "id": id, "delivery": delivery });
    Ok(console.page(&client, "webhooks", "delivery.html", data))
}

/// `Resend` or `Discard`.
pub(super) async fn command_delivery(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path((id, event)): Path<(String, String)>,
    body: Bytes,
) -> Shown {
    let path = format!("/webhooks/{}/deliveries/{}", escape(&id), escape(&event));
    let command = Form::parse(&body).command(&DELIVERY_COMMANDS.map(|(name, _)| name))?;
    console.doors.command(&client, &path, command, &Value::Null).await?;
    Ok(Redirect::to(&format!("/console{path}?done={command}")).into_response())
}
