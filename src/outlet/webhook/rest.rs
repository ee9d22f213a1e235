//! `/webhooks`: register, list, show, replace, pause, resume, delete. An owner sees and touches its own ones only.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use url::Url;

use super::definition::{Draft, From};
use super::{Shared, definition_of, deliveries, signature};
use crate::event::{Cursor, Micros};
use crate::filter::Selection;
use crate::journal::Error;
use crate::journal::webhooks::{Change, Status, WebhookRow};
use crate::web::auth::{Client, Scope};
use crate::web::negotiate;
use crate::web::outgoing::Refused;
use crate::web::paging::Paging;
use crate::web::problem::{Kind, Problem};

const BODY_BYTES_MAX: usize = 64 * 1024;
const COMMANDS: &str = "Pause, Resume";
const CONSENT_REASON: &str = "the receiver has to agree first, and this version can't ask it yet; nothing is sent, nothing is lost. \
     `[webhooks] consent = \"off\"` in the gateway's configuration sends without asking";

pub(super) type Shown = Result<Response, Problem>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/webhooks", get(list).post(create))
        .route("/webhooks/{id}", get(show).put(put).delete(delete))
        .route("/webhooks/{id}/deliveries", get(deliveries::list))
        .route("/webhooks/{id}/deliveries/{event}", get(deliveries::show))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    no_command(&headers)?;
    let draft = Draft::parse(&json_body(&headers, body)?)?;
    check_address(&shared, &draft.url).await?;
    let (id, now) = (uuid::Uuid::now_v7().to_string(), shared.clock.now_micros());
    let secret = draft.secret.clone().unwrap_or_else(signature::new_secret);
    let (status, status_reason) = first_status(&shared, &draft.url);
    let row = WebhookRow {
        owner: client.name.clone(),
        revision: 1,
        url: draft.url.to_string(),
        definition: to_json(&draft.definition),
        secrets: shared.seal_secret(&secret, &id),
        status,
        status_reason,
        cursor: start(&shared, &client.visible, &draft.from).await?,
        created_at: now,
        updated_at: now,
        failing_since: None,
        last_success_at: None,
        id,
    };
    shared.journal.change_webhook(Change::Create(Box::new(row.clone()))).await?;
    shared.changed(&row.id);
    let mut shown = represent(&shared, &row).await?;
    // The only time that it is shown.
    shown["secret"] = secret.into();
    let location = format!("{}/webhooks/{}", shared.public_url, row.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], entity(&row, shown)).into_response())
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    query: Query<HashMap<String, String>>,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    let paging = Paging::new(query, "status", &["pending", "active", "failing", "paused", "disabled"])?;
    let owner = (!client.may(&Scope::Admin)).then_some(client.name.as_str());
    let mut after = paging.after().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    // One more than asked for tells whether there is a next page.
    while found.len() <= paging.limit {
        let page = shared.journal.webhooks(owner, &after, 200).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.id);
        let wanted = |row: &WebhookRow| paging.filter().is_none_or(|wanted| shown_status(&shared, row).0 == wanted);
        found.extend(page.into_iter().filter(wanted));
    }
    let more = found.len() > paging.limit;
    found.truncate(paging.limit);
    let mut items = Vec::with_capacity(found.len());
    for row in &found {
        items.push(represent(&shared, row).await?);
    }
    let next = found.last().filter(|_| more).map(|row| &row.id);
    Ok(paging.page(&format!("{}/webhooks", shared.public_url), items, next).into_response())
}

async fn show(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    let shown = represent(&shared, &row).await?;
    Ok(entity(&row, shown))
}

/// Replaces, or does what the header `Command` says.
async fn put(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    check_precondition(&headers, &row)?;
    let row = match negotiate::command(&headers) {
        None => replace(&shared, row, &json_body(&headers, body)?).await?,
        Some("Pause") => {
            let (status, status_reason) = (Status::Paused, Some("paused by its owner".to_owned()));
            update(&shared, WebhookRow { status, status_reason, ..row }).await?
        }
        Some("Resume") if row.status == Status::Active => row,
        Some("Resume") => {
            let url = row.url.parse();
            let url =
                url.map_err(|_| Problem::new(Kind::Conflict, "the stored URL can't be used; replace it first"))?;
            let (status, status_reason) = first_status(&shared, &url);
            update(&shared, WebhookRow { status, status_reason, ..row }).await?
        }
        Some(other) => {
            return Err(Problem::new(Kind::BadRequest, format!("unknown command `{other}`; known are {COMMANDS}")));
        }
    };
    let shown = represent(&shared, &row).await?;
    Ok(entity(&row, shown))
}

async fn replace(shared: &Shared, old: WebhookRow, body: &[u8]) -> Result<WebhookRow, Problem> {
    let draft = Draft::parse(body)?;
    check_address(shared, &draft.url).await?;
    let url = draft.url.to_string();
    // Whoever paused it or was told to stop wants that to hold; else a new URL has to prove itself.
    let (status, status_reason) = match old.status {
        Status::Paused | Status::Disabled => (old.status, old.status_reason.clone()),
        Status::Active if url == old.url => (old.status, old.status_reason.clone()),
        Status::Active | Status::Pending => first_status(shared, &draft.url),
    };
    let secrets = match &draft.secret {
        Some(secret) => shared.seal_secret(secret, &old.id),
        None => old.secrets,
    };
    let (revision, definition) = (old.revision + 1, to_json(&draft.definition));
    update(shared, WebhookRow { revision, url, definition, secrets, status, status_reason, ..old }).await
}

/// Stores an edit, unless there was another one meanwhile.
async fn update(shared: &Shared, mut row: WebhookRow) -> Result<WebhookRow, Problem> {
    let read_at = row.updated_at;
    // Later than the last change: its time tells whether there was another one.
    row.updated_at = shared.clock.now_micros().max(read_at + 1);
    row.failing_since = None;
    shared.journal.change_webhook(Change::Update { row: Box::new(row.clone()), read_at }).await?;
    shared.changed(&row.id);
    Ok(row)
}

async fn delete(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    no_command(&headers)?;
    check_precondition(&headers, &row)?;
    shared.journal.change_webhook(Change::Delete { id: id.clone(), revision: row.revision }).await?;
    shared.changed(&id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The webhook, if there is one that the client may touch. Somebody else's is answered like an unknown one.
pub(super) async fn own(shared: &Shared, client: &Client, id: &str) -> Result<WebhookRow, Problem> {
    client.must(&Scope::Webhooks)?;
    let row = shared.journal.webhook(id).await?;
    row.filter(|row| row.owner == client.name || client.may(&Scope::Admin))
        .ok_or_else(|| Problem::new(Kind::NotFound, "there is no such webhook of yours; GET /webhooks lists them"))
}

fn no_command(headers: &HeaderMap) -> Result<(), Problem> {
    match negotiate::command(headers) {
        Some(_) => {
            Err(Problem::new(Kind::BadRequest, format!("commands go with PUT /webhooks/{{id}}; known are {COMMANDS}")))
        }
        None => Ok(()),
    }
}

fn json_body(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "send `Content-Type: application/json`"));
    }
    body.map_err(|cause| match cause.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Kind::TooLarge, "a webhook may have 64 kB at most"),
        _ => Problem::new(Kind::BadRequest, "the body could not be read; send it again"),
    })
}

async fn check_address(shared: &Shared, url: &Url) -> Result<(), Problem> {
    shared.outgoing.check(url).await.map_err(|refused| {
        let kind = match refused {
            Refused::Url(_) | Refused::Credentials => Kind::Unprocessable,
            Refused::Plain | Refused::Address { .. } => Kind::ForbiddenAddress,
        };
        Problem::new(kind, format!("`url`: {refused}"))
    })
}

fn first_status(shared: &Shared, url: &Url) -> (Status, Option<String>) {
    if shared.needs_consent(url) { (Status::Pending, Some(CONSENT_REASON.to_owned())) } else { (Status::Active, None) }
}

/// The position after which a new webhook starts.
async fn start(shared: &Shared, selection: &Selection, from: &From) -> Result<i64, Problem> {
    let unusable = |detail: String| Problem::new(Kind::Unprocessable, format!("`from`: {detail}"));
    let found = |position| match position {
        Err(cause @ (Error::Malformed { .. } | Error::UnknownPosition { .. } | Error::Expired { .. })) => {
            Err(unusable(cause.to_string()))
        }
        position => Ok(position?),
    };
    match from {
        From::Now => Ok(shared.journal.head().await?.position),
        From::Beginning => Ok(shared.journal.head().await?.oldest - 1),
        From::After(text) => found(shared.journal.locate(selection, text).await),
        From::Since(text) => {
            let time = Micros::parse_rfc3339(text)
                .ok_or_else(|| unusable(format!("`{text}` is no time such as 2026-01-01T00:00:00Z")))?;
            found(shared.journal.before_time(time).await)
        }
    }
}

fn to_json(definition: &super::definition::Definition) -> String {
    serde_json::to_string(definition).expect("texts and numbers are JSON")
}

fn etag(row: &WebhookRow) -> String {
    format!("\"r{}\"", row.revision)
}

/// Strong comparison, as RFC 9110 asks for `If-Match`.
fn check_precondition(headers: &HeaderMap, row: &WebhookRow) -> Result<(), Problem> {
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

fn entity(row: &WebhookRow, shown: Value) -> Response {
    ([(header::ETAG, etag(row))], Json(shown)).into_response()
}

/// What an owner is told: failing is active with a failure since the last success.
fn shown_status(shared: &Shared, row: &WebhookRow) -> (&'static str, Option<String>) {
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

async fn represent(shared: &Shared, row: &WebhookRow) -> Result<Value, Problem> {
    let head = shared.journal.head().await?;
    let (undelivered, first_failing) = shared.journal.exceptions_summary(&row.id).await?;
    let cursor = |position: i64| Cursor::new(shared.journal.id(), position).to_string();
    let (status, status_reason) = shown_status(shared, row);
    let through = first_failing.map_or(row.cursor, |failing| row.cursor.min(failing - 1));
    let mut shown = json!({
        "id": row.id,
        "url": row.url,
        "owner": row.owner,
        "status": status,
        "statusReason": status_reason,
        "cursor": cursor(row.cursor),
        "lag": (head.position - row.cursor).max(0),
        "undelivered": undelivered,
        "deliveredThrough": cursor(through),
        "createdAt": Micros(row.created_at).to_text(),
        "updatedAt": Micros(row.updated_at).to_text(),
    });
    for (name, value) in definition_of(row).shown() {
        shown[name] = value;
    }
    Ok(shown)
}
