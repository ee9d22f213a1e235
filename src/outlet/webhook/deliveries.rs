//! `/webhooks/{id}/deliveries`: what did not arrive, completely, and what did, recently.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use super::definition::Ordering;
use super::rest::{Shown, own};
use super::{Shared, commands, definition_of, target};
use crate::event::{Cursor, Entry, Micros};
use crate::journal::deliveries::{AttemptRow, DeliveryRow, Wish};
use crate::journal::replays::Kind as ReplayKind;
use crate::journal::webhooks::WebhookRow;
use crate::journal::{Columns, Error, LOOKED_AT_MAX, Range};
use crate::web::auth::Client;
use crate::web::negotiate;
use crate::web::paging::Paging;
use crate::web::problem::{Kind, Problem};

const STATUSES: [&str; 5] = ["pending", "failing", "dead", "delivered", "discarded"];
const COMMANDS: &str = "Resend, Discard";
/// Positions looked at for one answer; a page may hold fewer than asked for, and `next` goes on.
const EXAMINED_MAX: i64 = LOOKED_AT_MAX;

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    query: Query<HashMap<String, String>>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    let paging = Paging::new(query, "status", &STATUSES)?;
    let after = match paging.after() {
        Some(text) => shared.journal.locate(&client.visible.with_own(), text).await?,
        None => 0,
    };
    let look = Look { shared: &shared, client: &client, row: &row, after, limit: paging.limit };
    let (mut found, mut covered) = match paging.filter() {
        Some("delivered") => look.delivered().await?,
        Some("pending") => look.pending().await?,
        Some(status) => look.exceptions(Some(status)).await?,
        None => look.undelivered().await?,
    };
    if found.len() > paging.limit {
        found.truncate(paging.limit);
        covered = found.last().map(|row| row.position);
    }
    let next = covered.map(|position| Cursor::new(shared.journal.id(), position));
    let url = format!("{}/webhooks/{id}/deliveries", shared.public_url);
    Ok(paging.page(&url, found.iter().map(delivery_json), next).into_response())
}

/// One event for one webhook, with the calls that the log still has.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path((id, event)): Path<(String, String)>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    let delivery = find(&shared, &client, &row, event).await?;
    Ok(Json(with_log(&shared, &row, &delivery).await?).into_response())
}

/// `Command: Resend` or `Discard`.
pub(super) async fn put(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path((id, event)): Path<(String, String)>,
    headers: HeaderMap,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    let delivery = find(&shared, &client, &row, event).await?;
    let conflict = |detail: &str| Err(Problem::new(Kind::Conflict, detail));
    let journal = &shared.journal;
    match (negotiate::command(&headers), delivery.status.as_str()) {
        (Some("Resend"), "failing" | "dead" | "discarded" | "delivered") => {
            if journal.wish(&row.id, delivery.position, Wish::Resend).await? {
                shared.note_change(&row.id, false);
            } else {
                let stretch = (delivery.position - 1, delivery.position);
                commands::queue(&shared, &row, ReplayKind::Resend, stretch, 1).await?;
            }
        }
        (Some("Resend"), _) => return conflict("the event was not tried yet; it will be when its turn comes"),
        (Some("Discard"), "failing" | "dead") => {
            if !journal.wish(&row.id, delivery.position, Wish::Discard).await? {
                return conflict("the delivery changed at the same time; read it again");
            }
            shared.note_change(&row.id, false);
        }
        (Some("Discard"), status) => {
            return conflict(&format!("the delivery is {status}; only failing and dead ones can be discarded"));
        }
        (Some(other), _) => {
            return Err(Problem::new(Kind::BadRequest, format!("unknown command `{other}`; known are {COMMANDS}")));
        }
        (None, _) => {
            return Err(Problem::new(Kind::BadRequest, format!("a delivery takes a header `Command`: {COMMANDS}")));
        }
    }
    Ok(Json(with_log(&shared, &row, &delivery).await?).into_response())
}

async fn find(shared: &Shared, client: &Client, row: &WebhookRow, event: String) -> Result<DeliveryRow, Problem> {
    let unknown =
        || Problem::new(Kind::NotFound, "this webhook has no delivery of such an event, or its log has forgotten it");
    let found = shared.journal.by_ids(&client.visible.with_own(), &[event], Columns::ENVELOPE).await?;
    let position = found.first().ok_or_else(unknown)?.position;
    let look = Look { shared, client, row, after: position - 1, limit: 1 };
    let here = |(rows, _): Found| rows.into_iter().find(|row| row.position == position);
    let mut delivery = here(look.exceptions(None).await?);
    if delivery.is_none() {
        delivery = here(look.exceptions(Some("discarded")).await?);
    }
    if delivery.is_none() {
        delivery = here(look.delivered().await?);
    }
    if delivery.is_none() {
        delivery = here(look.pending().await?);
    }
    delivery.ok_or_else(unknown)
}

async fn with_log(shared: &Shared, row: &WebhookRow, delivery: &DeliveryRow) -> Result<Value, Problem> {
    let mut json = delivery_json(delivery);
    json["log"] = shared.journal.attempts(&row.id, delivery.position).await?.iter().map(attempt_json).collect();
    Ok(json)
}

/// What was found, by position, and through which position the list is complete if there may be more.
type Found = (Vec<DeliveryRow>, Option<i64>);

/// A look at the deliveries of a webhook after a position: at least so many and one more if there are. Shows only what
/// the client may see now, which may be less than what the webhook's owner could see when the event failed.
#[derive(Clone, Copy)]
struct Look<'a> {
    shared: &'a Shared,
    client: &'a Client,
    row: &'a WebhookRow,
    after: i64,
    limit: usize,
}

impl Look<'_> {
    fn rows_max(&self) -> i64 {
        i64::try_from(self.limit + 1).unwrap_or(i64::MAX)
    }

    fn complete(&self, rows: Vec<DeliveryRow>) -> Found {
        let through = rows.last().map(|row| row.position).filter(|_| rows.len() > self.limit);
        (rows, through)
    }

    async fn exceptions(&self, status: Option<&str>) -> Result<Found, Error> {
        let (journal, visible) = (&self.shared.journal, self.client.visible.with_own());
        Ok(self.complete(journal.exceptions(&visible, &self.row.id, status, self.after, self.rows_max()).await?))
    }

    async fn delivered(&self) -> Result<Found, Error> {
        let (journal, visible) = (&self.shared.journal, self.client.visible.with_own());
        Ok(self.complete(journal.delivered(&visible, &self.row.id, self.after, self.rows_max()).await?))
    }

    /// Events that were not tried: beyond the cursor, or behind the row of their key.
    async fn pending(&self) -> Result<Found, Error> {
        let Self { shared, client, row, .. } = self;
        let failing = shared.journal.failing(&row.id, "").await?;
        let by_turn: HashMap<&str, &DeliveryRow> = failing.iter().map(|row| (row.turn.as_str(), row)).collect();
        let Some(selection) = shared.selection(row, &definition_of(row)) else { return Ok((Vec::new(), None)) };
        let first = failing.iter().map(|row| row.position - 1).min().map_or(row.cursor, |first| first.min(row.cursor));
        let of = |entry: &Entry| {
            // Rows from before an edit have turns of another ordering.
            let orderings = [Ordering::Key, Ordering::Strict, Ordering::None];
            orderings.into_iter().find_map(|ordering| by_turn.get(ordering.turn(entry).as_str()))
        };
        let waiting = |entry: &&Entry| match of(entry) {
            Some(row) if row.attempts == 0 => entry.position >= row.position,
            Some(row) => entry.position > row.position,
            None => entry.position > row.cursor,
        };
        let shown = client.visible.with_own();
        let visible = |entry: &&Entry| shown.matches(&entry.event);
        let owed = |entry: &&Entry| target::owes(shared, row, None, entry);
        let (mut found, mut examined, mut after) = (Vec::new(), 0, self.after.max(first));
        loop {
            let page = shared.journal.read(&selection, Range::after(after), 200, Columns::ENVELOPE).await?;
            examined += page.covered - after;
            found.extend(page.entries.iter().filter(waiting).filter(visible).filter(owed).map(untried));
            after = page.covered;
            if !page.more {
                return Ok((found, None));
            }
            if found.len() > self.limit || examined >= EXAMINED_MAX {
                return Ok((found, Some(after)));
            }
        }
    }

    /// All three kinds, as far as each of them was looked for.
    async fn undelivered(&self) -> Result<Found, Error> {
        let ((mut found, pending_through), (exceptions, exceptions_through)) =
            (self.pending().await?, self.exceptions(None).await?);
        let through = [pending_through, exceptions_through].into_iter().flatten().min();
        found.extend(exceptions);
        found.retain(|row| through.is_none_or(|through| row.position <= through));
        found.sort_by_key(|row| row.position);
        Ok((found, through))
    }
}

fn untried(entry: &Entry) -> DeliveryRow {
    let event = &entry.event;
    DeliveryRow {
        position: entry.position,
        key: event.key(),
        status: "pending".to_owned(),
        event_id: Some(event.id.clone()),
        r#type: Some(event.r#type.clone()),
        ..DeliveryRow::default()
    }
}

fn delivery_json(row: &DeliveryRow) -> Value {
    let time = |at: Option<i64>| at.map(|at| Micros(at).to_text());
    json!({
        "eventId": row.event_id, "position": row.position, "type": row.r#type, "key": row.key, "status": row.status,
        "attempts": row.attempts, "nextAttemptAt": time(row.next_attempt_at),
        "lastAttemptAt": time(row.last_attempt_at), "lastStatus": row.last_status, "lastError": row.last_error,
    })
}

fn attempt_json(attempt: &AttemptRow) -> Value {
    json!({
        "attempt": attempt.attempt,
        "replay": attempt.replay,
        "startedAt": Micros(attempt.started_at).to_text(),
        "durationMs": attempt.duration_ms,
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer,
    })
}
