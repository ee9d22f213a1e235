//! `/webhooks/{id}/deliveries`: what did not arrive, completely, and what did, recently.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use serde_json::{Value, json};

use super::rest::{Shown, known_parameters, limit, no_store, own};
use super::{Shared, definition_of};
use crate::event::{Cursor, Entry, Micros};
use crate::filter::Selection;
use crate::journal::deliveries::{AttemptRow, Delivered, DeliveryRow};
use crate::journal::webhooks::WebhookRow;
use crate::journal::{Error, Payload, Range};
use crate::web::auth::Client;
use crate::web::problem::{Kind, Problem};

const STATUSES: [&str; 4] = ["pending", "failing", "dead", "delivered"];
/// Events looked at for one answer; a page may hold fewer than asked for, and `next` goes on.
const EXAMINED_MAX: usize = 2_000;

/// One line of an answer, in the order of positions.
struct Item {
    position: i64,
    json: Value,
}

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    known_parameters(&query, &["status", "after", "limit"])?;
    let limit = limit(&query)?;
    let status = query.get("status").map(String::as_str);
    if let Some(status) = status.filter(|status| !STATUSES.contains(status)) {
        let detail =
            format!("`status={status}` is unknown; known are {}; without it all undelivered ones", STATUSES.join(", "));
        return Err(Problem::new(Kind::BadRequest, detail));
    }
    let after = match query.get("after") {
        Some(text) => shared.journal.locate(&client.visible, text).await?,
        None => 0,
    };
    let (mut items, mut covered) = match status {
        Some("delivered") => delivered(&shared, &client, &row, after, limit).await?,
        Some(status @ ("failing" | "dead")) => exceptions(&shared, &client, &row, status, after, limit).await?,
        Some(_) => pending(&shared, &client, &row, after, limit).await?,
        None => undelivered(&shared, &client, &row, after, limit).await?,
    };
    if items.len() > limit {
        items.truncate(limit);
        covered = items.last().map(|item| item.position);
    }
    let next = covered.map(|position| {
        let (base, cursor) = (&shared.public_url, Cursor::new(shared.journal.id(), position));
        let status = status.map_or(String::new(), |status| format!("&status={status}"));
        format!("{base}/webhooks/{id}/deliveries?after={cursor}&limit={limit}{status}")
    });
    let items: Vec<Value> = items.into_iter().map(|item| item.json).collect();
    Ok(no_store(Json(json!({ "items": items, "next": next }))))
}

/// The items found, and where to go on if there may be more. Each list shows only what the client may see now, which may
/// be less than what the webhook's owner could see when the event failed.
type Found = (Vec<Item>, Option<i64>);

async fn exceptions(
    shared: &Shared,
    client: &Client,
    row: &WebhookRow,
    status: &str,
    after: i64,
    limit: usize,
) -> Result<Found, Error> {
    let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
    let mut rows = shared.journal.exceptions(&row.id, status, after, most).await?;
    let more = rows.get(limit).and(rows.get(limit - 1)).map(|last| last.position);
    rows.truncate(limit);
    let ids: Vec<String> = rows.iter().filter_map(|row| row.event_id.clone()).collect();
    let visible = shared.journal.by_ids(&client.visible, &ids, Payload::Without).await?;
    let visible: HashSet<i64> = visible.iter().map(|entry| entry.position).collect();
    let items = rows.iter().filter(|row| visible.contains(&row.position)).map(|row| item_of_row(row, status));
    Ok((items.collect(), more))
}

async fn delivered(
    shared: &Shared,
    client: &Client,
    row: &WebhookRow,
    after: i64,
    limit: usize,
) -> Result<Found, Error> {
    let log = shared.journal.delivered(&row.id, after, i64::try_from(limit + 1).unwrap_or(i64::MAX)).await?;
    let more = log.get(limit).and(log.get(limit - 1)).map(|last| last.position);
    let items =
        log.iter().take(limit).filter(|line| client.visible.matches(&line.event)).map(item_of_delivered).collect();
    Ok((items, more))
}

/// Events that were not tried: beyond the cursor, or behind the row of their key.
async fn pending(shared: &Shared, client: &Client, row: &WebhookRow, after: i64, limit: usize) -> Result<Found, Error> {
    let failing = shared.journal.failing(&row.id).await?;
    let cursor = row.cursor;
    let by_key: HashMap<&str, &DeliveryRow> = failing.iter().map(|row| (row.key.as_str(), row)).collect();
    let Some(selection) = selection(shared, row) else { return Ok((Vec::new(), None)) };
    let first = failing.iter().map(|row| row.position - 1).min().map_or(row.cursor, |first| first.min(row.cursor));
    let mut after = after.max(first);
    let (mut items, mut examined) = (Vec::new(), 0);
    loop {
        let page = shared.journal.read(&selection, Range::after(after), 200, Payload::Without).await?;
        examined += page.entries.len();
        let waiting = |entry: &&Entry| match by_key.get(entry.event.key().as_str()) {
            Some(row) if row.attempts == 0 => entry.position >= row.position,
            Some(row) => entry.position > row.position,
            None => entry.position > cursor,
        };
        let visible = |entry: &&Entry| client.visible.matches(&entry.event);
        items.extend(page.entries.iter().filter(waiting).filter(visible).map(item_of_pending));
        after = page.covered;
        if !page.more {
            return Ok((items, None));
        }
        if items.len() > limit || examined >= EXAMINED_MAX {
            return Ok((items, Some(after)));
        }
    }
}

/// All three kinds, as far as each of them was looked for.
async fn undelivered(
    shared: &Shared,
    client: &Client,
    row: &WebhookRow,
    after: i64,
    limit: usize,
) -> Result<Found, Error> {
    let (mut items, mut covered) = pending(shared, client, row, after, limit).await?;
    for status in ["failing", "dead"] {
        let (found, more) = exceptions(shared, client, row, status, after, limit).await?;
        items.extend(found);
        covered = [covered, more].into_iter().flatten().min();
    }
    items.retain(|item| covered.is_none_or(|through| item.position <= through));
    items.sort_by_key(|item| item.position);
    Ok((items, covered))
}

fn selection(shared: &Shared, row: &WebhookRow) -> Option<Selection> {
    shared.selection(row, &definition_of(row))
}

/// One event for one webhook, with the calls that the log still has.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path((id, event)): Path<(String, String)>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    let unknown =
        || Problem::new(Kind::NotFound, "this webhook has no delivery of such an event, or its log has forgotten it");
    let found = shared.journal.by_ids(&client.visible, &[event], Payload::Without).await?;
    let entry = found.first().ok_or_else(unknown)?;
    let attempts = shared.journal.attempts(&row.id, entry.position).await?;
    let mut json = state_of(&shared, &client, &row, entry, &attempts).await?.ok_or_else(unknown)?;
    json["log"] = attempts.iter().map(attempt_json).collect();
    Ok(no_store(Json(json)))
}

async fn state_of(
    shared: &Shared,
    client: &Client,
    row: &WebhookRow,
    entry: &Entry,
    attempts: &[AttemptRow],
) -> Result<Option<Value>, Error> {
    let key = entry.event.key();
    for status in ["failing", "dead"] {
        let rows = shared.journal.exceptions(&row.id, status, entry.position - 1, 1).await?;
        let here = rows.iter().find(|row| row.position == entry.position && row.key == key);
        if let Some(row) = here {
            return Ok(Some(item_of_row(row, status).json));
        }
    }
    if let Some(last) = attempts.iter().rfind(|attempt| attempt.error.is_none()) {
        let line = Delivered {
            event: entry.event.clone(),
            position: entry.position,
            attempt: last.attempt,
            started_at: last.started_at,
            status: last.status,
        };
        return Ok(Some(item_of_delivered(&line).json));
    }
    let (items, _) = pending(shared, client, row, entry.position - 1, 1).await?;
    Ok(items.into_iter().find(|item| item.position == entry.position).map(|item| item.json))
}

fn delivery_json(id: &str, position: i64, r#type: &str, key: &str, status: &str, attempts: i64) -> Value {
    json!({
        "eventId": id, "position": position, "type": r#type, "key": key, "status": status, "attempts": attempts,
        "nextAttemptAt": null, "lastAttemptAt": null, "lastStatus": null, "lastError": null,
    })
}

fn item_of_row(row: &DeliveryRow, status: &str) -> Item {
    let (id, r#type) = (row.event_id.as_deref().unwrap_or_default(), row.r#type.as_deref().unwrap_or_default());
    let mut json = delivery_json(id, row.position, r#type, &row.key, status, row.attempts);
    json["nextAttemptAt"] = row.next_attempt_at.map(|at| Micros(at).to_text()).into();
    json["lastAttemptAt"] = row.last_attempt_at.map(|at| Micros(at).to_text()).into();
    json["lastStatus"] = row.last_status.into();
    json["lastError"] = row.last_error.clone().into();
    Item { position: row.position, json }
}

fn item_of_pending(entry: &Entry) -> Item {
    let event = &entry.event;
    Item {
        position: entry.position,
        json: delivery_json(&event.id, entry.position, &event.r#type, &event.key(), "pending", 0),
    }
}

fn item_of_delivered(line: &Delivered) -> Item {
    let event = &line.event;
    let mut json = delivery_json(&event.id, line.position, &event.r#type, &event.key(), "delivered", line.attempt);
    json["lastAttemptAt"] = Micros(line.started_at).to_text().into();
    json["lastStatus"] = line.status.into();
    Item { position: line.position, json }
}

fn attempt_json(attempt: &AttemptRow) -> Value {
    json!({
        "attempt": attempt.attempt,
        "startedAt": Micros(attempt.started_at).to_text(),
        "durationMs": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer,
    })
}
