//! `PUT /webhooks/{id}` with a header `Command`: what an owner does with a webhook beside editing it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse as _;
use serde_json::{Map, Value, json};

use super::attempt;
use super::represent::{check_precondition, entity, represent, shown_replay};
use super::rest::{Shown, first_status, json_body, own, start, update};
use super::target::{self, Target};
use super::{Shared, attributes, consent, definition_of, signature};
use crate::event::{Cursor, Entry, Event, Micros};
use crate::filter::OWN_SOURCE;
use crate::journal::replays::{Kind as ReplayKind, ReplayRow};
use crate::journal::webhooks::{AGGREGATE_TYPE, Status, WebhookRow};
use crate::journal::{Order, Range};
use crate::json::Plain;
use crate::runtime::parse_duration;
use crate::web::auth::Client;
use crate::web::negotiate;
use crate::web::problem::{Kind, Problem};

const COMMANDS: &str = "Pause, Resume, Verify, RotateSecret, Test, Replay, Recover, CancelReplay";
/// How long a secret that is being replaced goes on signing.
const GRACE_DEFAULT: Duration = Duration::from_secs(24 * 3600);
const GRACE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Where no command is known.
pub(super) fn refuse(headers: &HeaderMap) -> Result<(), Problem> {
    match negotiate::command(headers) {
        Some(_) => {
            Err(Problem::new(Kind::BadRequest, format!("commands go with PUT /webhooks/{{id}}; known are {COMMANDS}")))
        }
        None => Ok(()),
    }
}

/// How often a command is tried again that met another change: whoever named no version wants it in any case.
const TRIES_MAX: usize = 5;

pub(super) async fn put(
    shared: &Arc<Shared>,
    client: &Client,
    id: &str,
    command: &str,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    let body = body.map_err(|cause| json_body(headers, Err(cause)).err());
    let mut tries = 1;
    loop {
        let row = own(shared, client, id).await?;
        check_precondition(headers, &row)?;
        let body = match &body {
            Ok(body) => body.clone(),
            Err(problem) => return Err(problem.clone().unwrap_or_else(|| Problem::new(Kind::BadRequest, "no body"))),
        };
        match run(shared, client, row, command, headers, body).await {
            Err(problem)
                if problem.kind == Kind::PreconditionFailed
                    && !headers.contains_key(header::IF_MATCH)
                    && tries < TRIES_MAX =>
            {
                tries += 1;
            }
            done => return done,
        }
    }
}

async fn run(
    shared: &Arc<Shared>,
    client: &Client,
    row: WebhookRow,
    command: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Shown {
    let arguments = |names: &[&str]| arguments(command, names, headers, body);
    let row = match command {
        "Pause" => {
            let (status, status_reason) = (Status::Paused, Some("paused by its owner".to_owned()));
            update(shared, WebhookRow { status, status_reason, ..row }, true, Some("postern.webhook.paused")).await?
        }
        "Resume" if row.status == Status::Active => row,
        "Resume" => resume(shared, row).await?,
        // Also a receiver that agreed before; waits for what it says.
        "Verify" => consent::ask(shared, row).await?,
        "RotateSecret" => return rotate(shared, row, &arguments(&["secret", "grace"])?).await,
        "Test" => return test(shared, row).await,
        "Replay" => return replay(shared, client, row, &arguments(&["from", "to"])?).await,
        "Recover" => return recover(shared, row, &arguments(&["since"])?).await,
        "CancelReplay" => {
            shared.journal.cancel_replays(&row.id).await?;
            // An edit of nothing: the lanes end and begin anew.
            update(shared, row, false, None).await?
        }
        other => {
            return Err(Problem::new(Kind::BadRequest, format!("unknown command `{other}`; known are {COMMANDS}")));
        }
    };
    let shown = represent(shared, &row).await?;
    Ok(entity(&row, shown))
}

/// The JSON object that goes with a command; nothing is an empty one.
fn arguments(command: &str, names: &[&str], headers: &HeaderMap, body: Bytes) -> Result<Map<String, Value>, Problem> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    let body = json_body(headers, Ok(body))?;
    let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
    let Ok(Plain(Value::Object(arguments))) = serde_json::from_slice(&body) else {
        return Err(bad(format!("`Command: {command}` takes a JSON object with {}", names.join(", "))));
    };
    if let Some(name) = arguments.keys().find(|name| !names.contains(&name.as_str())) {
        return Err(bad(format!("`{name}` is no argument of `{command}`; known are {}", names.join(", "))));
    }
    Ok(arguments)
}

async fn resume(shared: &Arc<Shared>, mut row: WebhookRow) -> Result<WebhookRow, Problem> {
    let url = row.url.parse();
    let url = url.map_err(|_| Problem::new(Kind::Conflict, "the stored URL can't be used; replace it first"))?;
    shared.check_query(&definition_of(&row))?;
    let asks = first_status(shared, &mut row, &url);
    let row = update(shared, row, true, Some("postern.webhook.resumed")).await?;
    if asks {
        consent::ask_later(shared, row.clone());
    }
    Ok(row)
}

async fn rotate(shared: &Shared, row: WebhookRow, arguments: &Map<String, Value>) -> Shown {
    let unusable = |detail: &str| Problem::new(Kind::Unprocessable, detail);
    let profiles = definition_of(&row).signature;
    let secret = match arguments.get("secret") {
        None | Some(Value::Null) => signature::new_secret(),
        Some(value) => attributes::secret(value)?,
    };
    if profiles.iter().all(|profile| profile.is_standard()) {
        attributes::standard_secret(&secret)?;
    }
    let grace = match arguments.get("grace") {
        None | Some(Value::Null) => Some(GRACE_DEFAULT),
        Some(Value::String(text)) => parse_duration(text).filter(|grace| *grace <= GRACE_MAX),
        Some(_) => None,
    };
    let grace = grace.ok_or_else(|| unusable("`grace` must be a duration of at most 7d, such as \"24h\" or \"0s\""))?;
    let now = shared.clock.now_micros();
    let until = now.saturating_add(i64::try_from(grace.as_micros()).unwrap_or(i64::MAX));
    let mut secrets = shared.unseal(&row).ok_or_else(|| unusable("its present secrets can't be read"))?;
    secrets.rotate(secret, &profiles, now, until);
    let sealed = secrets.seal(&shared.sealer, &row.id);
    let row = WebhookRow { revision: row.revision + 1, secrets: sealed, ..row };
    let row = update(shared, row, false, Some("postern.webhook.secret_rotated")).await?;
    Ok(entity(&row, json!({ "secret": secrets.secret(), "oldSecretUntil": Micros(until).to_text() })))
}

/// One call with an event that never happened, whatever the filter says.
async fn test(shared: &Shared, row: WebhookRow) -> Shown {
    let needs_consent = row.url.parse().is_ok_and(|url| shared.needs_consent(&url));
    if row.status == Status::Pending || (needs_consent && row.consented_at.is_none()) {
        return Err(Problem::new(Kind::Conflict, "the receiver has not agreed yet; `Command: Verify` asks it"));
    }
    let definition = definition_of(&row);
    let unusable = || Problem::new(Kind::Conflict, "its owner is gone, or its secrets can't be read");
    let target = Target::new(shared, row.clone(), None, target::pace(&row, &definition)).ok_or_else(unusable)?;
    let now = Micros(shared.clock.now_micros());
    let event = Event {
        id: format!("test-{}", uuid::Uuid::now_v7()),
        source: OWN_SOURCE.to_owned(),
        r#type: "postern.webhook.test".to_owned(),
        aggregate_type: AGGREGATE_TYPE.to_owned(),
        aggregate_id: row.id.clone(),
        aggregate_version: None,
        occurred_at: now,
        data: json!({ "webhook": row.id }).to_string(),
        metadata: None,
    };
    let position = shared.journal.head().await?.position;
    let entry = Entry { position, event, recorded_at: now, feed_time: now, ..Entry::default() };
    let delivery = target.alone(&entry);
    let _permit = shared.asking.acquire().await;
    let outcome = attempt::call(shared, &target.receiver, &delivery, 1, "test").await;
    let shown = json!({
        "eventId": delivery.event_id, "delivered": outcome.error.is_none(), "status": outcome.status,
        "error": outcome.error, "durationMs": outcome.duration_ms, "answer": outcome.answer,
    });
    Ok(Json(shown).into_response())
}

async fn replay(shared: &Shared, client: &Client, row: WebhookRow, arguments: &Map<String, Value>) -> Shown {
    let missing = || Problem::new(Kind::BadRequest, "`Replay` needs `from`, such as {\"from\": \"beginning\"}");
    let from = attributes::from(arguments.get("from").ok_or_else(missing)?)?;
    let selection = owned(shared, &row)?;
    // Any event that the client may see tells a place.
    let cursor = start(shared, &client.visible, &from).await?;
    let through = match arguments.get("to").filter(|to| !to.is_null()) {
        None => shared.journal.head().await?.position,
        Some(to) => start(shared, &client.visible, &attributes::from(to)?).await?,
    };
    let range = Range { after: cursor, through: Some(through), order: Order::Ascending };
    let total = if cursor < through { shared.journal.count(&selection, range, i64::MAX).await? } else { 0 };
    begin(shared, row, ReplayKind::Replay, (cursor, through), total).await
}

async fn recover(shared: &Shared, row: WebhookRow, arguments: &Map<String, Value>) -> Shown {
    let missing =
        || Problem::new(Kind::BadRequest, "`Recover` needs `since`, such as {\"since\": \"2026-01-01T00:00:00Z\"}");
    let since = arguments.get("since").ok_or_else(missing)?;
    let from = attributes::from(&json!({ "since": since }))
        .map_err(|_| Problem::new(Kind::Unprocessable, "`since` must be a time such as 2026-01-01T00:00:00Z"))?;
    let selection = owned(shared, &row)?;
    let (cursor, through) = (start(shared, &selection, &from).await?, shared.journal.head().await?.position);
    let range = Range { after: cursor, through: Some(through), order: Order::Ascending };
    check_active(&row)?;
    // Those that hold their turns go first in the live lane.
    let held = shared.journal.resend_held(&row.id, range).await?;
    if held > 0 {
        shared.note_change(&row.id, false);
    }
    let total = shared.journal.count_dead(&row.id, range).await?;
    begin(shared, row, ReplayKind::Recover, (cursor, through), total).await
}

fn owned(shared: &Shared, row: &WebhookRow) -> Result<crate::filter::Selection, Problem> {
    let gone =
        || Problem::new(Kind::Conflict, format!("its owner `{}` is no client of this gateway any more", row.owner));
    shared.selection(row, &definition_of(row)).ok_or_else(gone)
}

/// Queues what is sent again, and tells how much it is.
async fn begin(shared: &Shared, row: WebhookRow, kind: ReplayKind, (cursor, through): (i64, i64), total: i64) -> Shown {
    let replay = queue(shared, &row, kind, (cursor, through), total).await?;
    let mut shown = represent(shared, &row).await?;
    shown["replay"] = shown_replay(shared, &replay);
    shown["replay"]["from"] = Cursor::new(shared.journal.id(), cursor).to_string().into();
    if total == 0 {
        // There is nothing to send, and so nothing was begun.
        shown["replay"]["id"] = Value::Null;
    }
    Ok(entity(&row, shown))
}

/// Queues what is sent again, if that is anything.
pub(super) async fn queue(
    shared: &Shared,
    row: &WebhookRow,
    kind: ReplayKind,
    (cursor, through): (i64, i64),
    total: i64,
) -> Result<ReplayRow, Problem> {
    check_active(row)?;
    let replay = ReplayRow {
        webhook: row.id.clone(),
        id: uuid::Uuid::now_v7().to_string(),
        kind,
        cursor,
        through,
        total,
        created_at: shared.clock.now_micros(),
    };
    if total > 0 {
        shared.journal.start_replay(replay.clone()).await?;
        shared.note_change(&row.id, false);
    }
    Ok(replay)
}

fn check_active(row: &WebhookRow) -> Result<(), Problem> {
    if row.status == Status::Active {
        return Ok(());
    }
    let detail = format!("the webhook is {}; nothing is sent before it is active", row.status.as_str());
    Err(Problem::new(Kind::Conflict, detail))
}
