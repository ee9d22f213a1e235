//! A webhook as its owner sees it.

use axum::Json;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};

use super::{Shared, definition_of, target};
use crate::event::{Cursor, Micros};
use crate::filter::Selection;
use crate::journal::replays::ReplayRow;
use crate::journal::webhooks::{Status, WebhookRow};
use crate::journal::{Columns, Error, LOOKED_AT_MAX, Range};
use crate::web::problem::{Kind, Problem};

pub(super) const STATUSES: [&str; 6] = ["pending", "active", "failing", "paused", "disabled", "selection_invalid"];

/// Changes with edits only, not with progress or status.
fn etag(row: &WebhookRow) -> String {
    format!("\"r{}\"", row.revision)
}

/// Strong comparison, as RFC 9110 asks for `If-Match`.
pub(super) fn check_precondition(headers: &HeaderMap, row: &WebhookRow) -> Result<(), Problem> {
    let mut values = headers.get_all(header::IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let etag = etag(row);
    let fits = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag == etag
    });
    if fits {
        Ok(())
    } else {
        Err(Problem::new(Kind::PreconditionFailed, format!("the webhook is at {etag}; read it again")))
    }
}

pub(super) fn entity(row: &WebhookRow, shown: Value) -> Response {
    ([(header::ETAG, etag(row))], Json(shown)).into_response()
}

/// What an owner is told: failing is active with a failure since the last success.
pub(super) fn shown_status(shared: &Shared, row: &WebhookRow) -> (&'static str, Option<String>) {
    if row.status == Status::Active && shared.auth.visibility(&row.owner).is_none() {
        let reason =
            format!("its owner `{}` is no client of this gateway any more; it goes on if it is one again", row.owner);
        return ("paused", Some(reason));
    }
    match (row.status, row.failing_since) {
        (Status::Active, Some(since)) => ("failing", Some(format!("no success since {}", Micros(since).to_text()))),
        (status, _) => (status.as_str(), row.status_reason.clone()),
    }
}

/// How far a webhook has come, though its row may say less: nothing up to here is for it.
pub(super) async fn reached(shared: &Shared, row: &WebhookRow) -> Result<i64, Error> {
    let Some(selection) = shared.selection(row, &definition_of(row)) else { return Ok(row.cursor) };
    if let Some(reached) = seen_through(shared, &selection, row.cursor) {
        return Ok(reached);
    }
    let range = Range { through: Some(row.cursor + LOOKED_AT_MAX), ..Range::after(row.cursor) };
    let page = shared.journal.read(&selection, range, 1, Columns::NONE).await?;
    Ok(page.entries.first().map_or(page.covered, |entry| entry.position - 1))
}

/// Events that stand in one turn are counted no further.
const COUNT_MAX: i64 = 10_000;
/// Turns whose followers are counted one by one; of the others one event each.
const COUNTED_MAX: usize = 20;

/// How many events up to its cursor have not arrived and were not given up by their owner, and the first position that is
/// still to come.
async fn undelivered(shared: &Shared, row: &WebhookRow) -> Result<(i64, Option<i64>), Error> {
    let failing = shared.journal.failing(&row.id, "").await?;
    let mut count = shared.journal.count_all_dead(&row.id).await?;
    let Some(selection) = shared.selection(row, &definition_of(row)) else { return Ok((count, None)) };
    for failing in failing.iter().take(COUNTED_MAX) {
        let through = row.cursor.max(failing.through.unwrap_or(failing.position));
        count += target::count_behind(shared, &selection, &failing.turn, failing.position, through, COUNT_MAX).await?;
    }
    count += i64::try_from(failing.len().saturating_sub(COUNTED_MAX)).unwrap_or(i64::MAX);
    Ok((count, failing.first().map(|row| row.position)))
}

/// The same as far as memory reaches back.
pub(super) fn seen_through(shared: &Shared, selection: &Selection, cursor: i64) -> Option<i64> {
    let seen = shared.seen(selection, cursor, 1)?;
    Some(seen.entries.first().map_or(seen.covered, |entry| entry.position - 1))
}

pub(super) async fn represent(shared: &Shared, row: &WebhookRow) -> Result<Value, Problem> {
    let head = shared.journal.head().await?;
    let reached = reached(shared, row).await?;
    let (undelivered, first_failing) = undelivered(shared, row).await?;
    let cursor = |position: i64| Cursor::new(shared.journal.id(), position).to_string();
    let (status, status_reason) = shown_status(shared, row);
    let through = first_failing.map_or(reached, |failing| reached.min(failing - 1));
    let secrets = shared.unseal(row).unwrap_or_default();
    let replay = shared.journal.replay(&row.id).await?;
    let mut shown = json!({
        "id": row.id,
        "url": row.url,
        "owner": row.owner,
        "status": status,
        "statusReason": status_reason,
        "cursor": cursor(reached),
        "lag": (head.position - reached).max(0),
        "undelivered": undelivered,
        "deliveredThrough": cursor(through),
        "replay": replay.as_ref().map(|replay| shown_replay(shared, replay)),
        "createdAt": Micros(row.created_at).to_text(),
        "updatedAt": Micros(row.updated_at).to_text(),
    });
    for (name, value) in definition_of(row).shown(&secrets) {
        shown[name] = value;
    }
    Ok(shown)
}

pub(super) fn shown_replay(shared: &Shared, replay: &ReplayRow) -> Value {
    let cursor = |position: i64| Cursor::new(shared.journal.id(), position).to_string();
    json!({
        "id": replay.id,
        "kind": replay.kind.as_str(),
        "cursor": cursor(replay.cursor),
        "to": cursor(replay.through),
        "total": replay.total,
        "createdAt": Micros(replay.created_at).to_text(),
    })
}
