//! `/console/sources…`: how the sources are doing, and what becomes of quarantined rows.

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
use crate::event::escape;
use crate::web::auth::Client;

/// Quarantined rows on one page: each may be 64 kB.
const QUARANTINED_MAX: usize = 20;
const COMMANDS: [&str; 2] = ["Retry", "Discard"];

pub(super) async fn list(State(console): State<Arc<Console>>, Extension(client): Extension<Arc<Client>>) -> Shown {
    let sources = console.doors.get(&client, "/sources").await?["items"].take();
    Ok(console.page(&client, "sources", "sources.html", json!({ "sources": sources })))
}

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    let name = escape(&name);
    let source = console.doors.get(&client, &format!("/sources/{name}")).await?;
    let reason = query.get("reason").map(|reason| reason.trim()).filter(|reason| !reason.is_empty());
    let by_reason = reason.map_or(String::new(), |reason| format!("&reason={}", escape(reason)));
    let after = query.get("after").map_or(String::new(), |after| format!("&after={}", escape(after)));
    let path = format!("/sources/{name}/quarantine?limit={QUARANTINED_MAX}{by_reason}{after}");
    let mut quarantine = console.doors.get(&client, &path).await?;
    let next = next_of(&quarantine);
    let holes = source["holes"].as_array().map(|holes| &holes[..holes.len().min(ROWS_MAX)]).unwrap_or_default();
    let data = json!({
        "done": done(&query),
        "holes": holes,
        "reason": reason,
        "rows": quarantine["items"].take(),
        "next": next.map(|after| format!("/console/sources/{name}?after={}{by_reason}", escape(&after))),
        "source": source,
    });
    Ok(console.page(&client, "sources", "source.html", data))
}

/// What the page says that it was sent back to after a command.
fn done(query: &HashMap<String, String>) -> Option<String> {
    let number = |name: &str| query.get(name).and_then(|text| text.parse::<u64>().ok());
    match (query.get("done")?.as_str(), number("resolved"), number("stay")) {
        (_, Some(resolved), Some(0)) => Some(format!("Rows that left the quarantine: {resolved}.")),
        (_, Some(resolved), Some(stay)) => {
            Some(format!("Rows that left the quarantine: {resolved}. Rows that stay: {stay}."))
        }
        ("journaled", ..) => Some("The row is in the journal.".to_owned()),
        ("known", ..) => Some("The row's event was in the journal already.".to_owned()),
        ("withheld", ..) => Some("The row does not leave: it is withheld.".to_owned()),
        ("discarded", ..) => Some("The row is given up.".to_owned()),
        _ => None,
    }
}

/// `Retry` or `Discard` for one row.
pub(super) async fn command(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path((name, row)): Path<(String, String)>,
    body: Bytes,
) -> Shown {
    let (name, row) = (escape(&name), escape(&row));
    let command = Form::parse(&body).command(&COMMANDS)?;
    let path = format!("/sources/{name}/quarantine/{row}");
    let answer = console.doors.command(&client, &path, command, &Value::Null).await?;
    let outcome = answer["outcome"].as_str().unwrap_or_default();
    Ok(Redirect::to(&format!("/console/sources/{name}?done={}", escape(outcome))).into_response())
}

/// The same for all rows, or for those of one reason.
pub(super) async fn command_all(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Shown {
    let (name, form) = (escape(&name), Form::parse(&body));
    let command = form.command(&COMMANDS)?;
    let by_reason = form.field("reason").map(|reason| format!("reason={}", escape(reason)));
    let path = format!("/sources/{name}/quarantine?{}", by_reason.as_deref().unwrap_or_default());
    let answer = console.doors.command(&client, &path, command, &Value::Null).await?;
    let (resolved, stay) = (&answer["resolved"], &answer["stay"]);
    let by_reason = by_reason.map_or(String::new(), |reason| format!("&{reason}"));
    let back = format!("/console/sources/{name}?done={command}&resolved={resolved}&stay={stay}{by_reason}");
    Ok(Redirect::to(&back).into_response())
}
