//! `/webhooks`: list, show, replace, delete; and which URL is answered where. An owner sees and touches its own ones only.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use url::Url;

use super::draft::{Draft, From};
use super::represent::{STATUSES, check_precondition, entity, reached, represent, shown_status};
use super::secrets::Secrets;
use super::{Shared, commands, consent, definition_of, deliveries, preview, register, websub};
use crate::event::Micros;
use crate::filter::Selection;
use crate::journal::Error;
use crate::journal::webhooks::{Change, Edit, Notice, Status, WebhookRow};
use crate::json::Plain;
use crate::web::auth::{Client, Scope};
use crate::web::negotiate;
use crate::web::outgoing::Refused;
use crate::web::paging::Paging;
use crate::web::problem::{Kind, Problem};

const BODY_BYTES_MAX: usize = 64 * 1024;
/// Of one owner.
pub(super) const WEBHOOKS_MAX: i64 = 10_000;
/// Webhooks in one request.
const ITEMS_MAX: usize = 100;

pub(super) type Shown = Result<Response, Problem>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/webhooks", get(list).post(register::create).put(put_several).delete(delete_all))
        .route("/webhooks/preview", post(preview::preview))
        .route("/websub", post(websub::hub))
        .route("/webhooks/{id}", get(show).put(put).delete(delete))
        .route("/webhooks/{id}/key", get(key))
        .route("/webhooks/{id}/deliveries", get(deliveries::list))
        .route("/webhooks/{id}/deliveries/{event}", get(deliveries::show).put(deliveries::put))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// For receivers, which are no clients.
pub(super) fn open_router(shared: Arc<Shared>) -> Router {
    Router::new().route("/webhooks/{id}/consent", get(consent::callback).post(consent::callback)).with_state(shared)
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    query: Query<HashMap<String, String>>,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    let paging = Paging::new(query, "status", &STATUSES)?;
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

/// `GET /webhooks/{id}/key`: what a receiver checks `v1a` signatures with.
async fn key(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    let keys = shared.unseal(&row).unwrap_or_default().public_keys(shared.clock.now_micros());
    let Some(newest) = keys.first() else {
        let detail = "this webhook has no public key; `signature`: \"v1a\" gives it one";
        return Err(Problem::new(Kind::NotFound, detail));
    };
    Ok(Json(json!({ "key": newest, "keys": keys })).into_response())
}

/// Replaces, or does what the header `Command` says.
async fn put(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    if let Some(command) = negotiate::command(&headers) {
        return commands::put(&shared, &client, &id, command, &headers, body).await;
    }
    let row = own(&shared, &client, &id).await?;
    check_precondition(&headers, &row)?;
    check_is_no_subscription(&row)?;
    let draft = Draft::parse(&json_body(&headers, body)?, &shared.public_url)?;
    let (edit, asks) = replace(&shared, row, draft).await?;
    let row = update(&shared, edit, true, Some("postern.webhook.updated")).await?;
    let shown = represent(&shared, &row).await?;
    let response = entity(&row, shown);
    if asks {
        consent::ask_later(&shared, row);
    }
    Ok(response)
}

/// `PUT /webhooks`: replaces several, all or none.
async fn put_several(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    commands::refuse(&headers)?;
    let example = r#"send {"items": [{"id": "…", "url": "…", …}]}, at most 100"#;
    let bad = || Problem::new(Kind::BadRequest, example);
    let Plain(body) = serde_json::from_slice(&json_body(&headers, body)?).map_err(|_| bad())?;
    let items = body["items"].as_array().filter(|items| items.len() <= ITEMS_MAX).ok_or_else(bad)?;
    let (mut edits, mut asking) = (Vec::new(), Vec::new());
    for item in items {
        let attributes = item.as_object().ok_or_else(bad)?;
        let id = item["id"].as_str().ok_or_else(bad)?;
        if edits.iter().any(|row: &WebhookRow| row.id == id) {
            return Err(Problem::new(Kind::BadRequest, format!("webhook {id} is given twice")));
        }
        let row = own(&shared, &client, id).await?;
        check_is_no_subscription(&row)?;
        let (edit, asks) = replace(&shared, row, Draft::of(attributes, &shared.public_url, example)?).await?;
        asking.push(asks);
        edits.push(edit);
    }
    let notices = edits.iter().filter_map(|row| notice_of(&shared, row, "postern.webhook.updated")).collect();
    shared.edit_all(&mut edits, true, notices).await?;
    edits.iter().for_each(|row| shared.changed(&row.id));
    let mut items = Vec::with_capacity(edits.len());
    for (row, asks) in edits.into_iter().zip(asking) {
        items.push(represent(&shared, &row).await?);
        if asks {
            consent::ask_later(&shared, row);
        }
    }
    Ok(Json(json!({ "items": items, "next": Value::Null })).into_response())
}

fn check_is_no_subscription(row: &WebhookRow) -> Result<(), Problem> {
    match definition_of(row).websub {
        Some(_) => {
            let detail = "it is a subscription of WebSub; whoever made it can renew it at /websub";
            Err(Problem::new(Kind::Conflict, detail))
        }
        None => Ok(()),
    }
}

/// What a webhook becomes, and whether its receiver has to be asked.
async fn replace(shared: &Shared, old: WebhookRow, draft: Draft) -> Result<(WebhookRow, bool), Problem> {
    check_addresses(shared, &draft).await?;
    shared.check_query(&draft.definition)?;
    settle(shared, &old).await?;
    let kept = shared.unseal(&old).unwrap_or_default();
    let mut secrets = Secrets { keys: kept.keys.clone(), ..draft.secrets };
    secrets.unmask(&kept).map_err(nothing_behind)?;
    match draft.secret {
        Some(secret) if secret != kept.secret() => secrets.set(secret, &draft.definition.signature),
        _ => secrets.complete(&draft.definition.signature),
    }
    if secrets.signer(&draft.definition.signature).is_none() {
        let detail = "`signature`: its present secret does not fit this profile; give a new `secret` with it";
        return Err(Problem::new(Kind::Unprocessable, detail));
    }
    let is_moved = draft.url.as_str() != old.url;
    let mut row = WebhookRow {
        revision: old.revision + 1,
        url: draft.url.to_string(),
        definition: draft.definition.to_json(),
        secrets: secrets.seal(&shared.sealer, &old.id),
        consented_at: old.consented_at.filter(|_| !is_moved),
        allowed_rate: old.allowed_rate.filter(|_| !is_moved),
        ..old
    };
    // Whoever paused it or was told to stop wants that to hold; else a new URL has to prove itself.
    let asks = match row.status {
        Status::Paused | Status::Disabled => false,
        Status::Active if !is_moved => false,
        Status::Active | Status::Pending | Status::SelectionInvalid => first_status(shared, &mut row, &draft.url),
    };
    Ok((row, asks))
}

/// What its present filter has passed stays passed, though the row may not say so yet.
async fn settle(shared: &Shared, row: &WebhookRow) -> Result<(), Problem> {
    let reached = reached(shared, row).await?;
    if row.status == Status::Active && reached > row.cursor {
        shared.journal.pass_webhooks(vec![row.id.clone()], reached, Vec::new()).await?;
    }
    Ok(())
}

/// Stores an edit by an owner.
pub(super) async fn update(
    shared: &Shared,
    row: WebhookRow,
    is_new_start: bool,
    notice: Option<&'static str>,
) -> Result<WebhookRow, Problem> {
    let notice = notice.and_then(|what| notice_of(shared, &row, what));
    let row = shared.edit(row, is_new_start, notice).await?;
    shared.changed(&row.id);
    Ok(row)
}

/// What is journaled about an edit, unless the like was just told.
fn notice_of(shared: &Shared, row: &WebhookRow, what: &'static str) -> Option<Notice> {
    let reason = row.status_reason.clone().filter(|_| row.status != Status::Active);
    shared.may_tell(&row.id, what).then(|| Notice::new(row, what, reason))
}

async fn delete(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Shown {
    let row = own(&shared, &client, &id).await?;
    commands::refuse(&headers)?;
    check_precondition(&headers, &row)?;
    remove(&shared, vec![row]).await
}

/// `DELETE /webhooks`: all that the client owns.
async fn delete_all(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    commands::refuse(&headers)?;
    let rows = shared.journal.webhooks(Some(&client.name), "", WEBHOOKS_MAX).await?;
    remove(&shared, rows).await
}

async fn remove(shared: &Shared, rows: Vec<WebhookRow>) -> Shown {
    let edit = |row: &WebhookRow| Edit::Delete { id: row.id.clone(), revision: row.revision };
    let notice = |row: &WebhookRow| Notice::new(row, "postern.webhook.deleted", None);
    let change = Change { edits: rows.iter().map(edit).collect(), notices: rows.iter().map(notice).collect() };
    shared.journal.change_webhook(change).await?;
    rows.iter().for_each(|row| shared.changed(&row.id));
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The webhook, if there is one that the client may touch. Somebody else's is answered like an unknown one.
pub(super) async fn own(shared: &Shared, client: &Client, id: &str) -> Result<WebhookRow, Problem> {
    client.must(&Scope::Webhooks)?;
    let row = shared.journal.webhook(id).await?;
    row.filter(|row| row.owner == client.name || client.may(&Scope::Admin))
        .ok_or_else(|| Problem::new(Kind::NotFound, "there is no such webhook of yours; GET /webhooks lists them"))
}

pub(super) fn json_body(headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "send `Content-Type: application/json`"));
    }
    body.map_err(|cause| match cause.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Kind::TooLarge, "a request about webhooks may have 64 kB at most")
        }
        _ => Problem::new(Kind::BadRequest, "the body could not be read; send it again"),
    })
}

pub(super) fn nothing_behind(attribute: &str) -> Problem {
    let detail = format!("`{attribute}`: \"***\" keeps a secret that is there, and there is none; write it out");
    Problem::new(Kind::Unprocessable, detail)
}

/// Of everything that would be called.
pub(super) async fn check_addresses(shared: &Shared, draft: &Draft) -> Result<(), Problem> {
    check_address(shared, "url", &draft.url).await?;
    match &draft.secrets.auth {
        Some(super::secrets::Auth::Oauth2 { token_url, .. }) => match token_url.parse() {
            Ok(url) => check_address(shared, "auth", &url).await,
            Err(_) => Err(Problem::new(Kind::Unprocessable, "`auth`: `tokenUrl` must be a URL")),
        },
        _ => Ok(()),
    }
}

pub(super) async fn check_address(shared: &Shared, attribute: &str, url: &Url) -> Result<(), Problem> {
    shared.outgoing.check(url).await.map_err(|refused| {
        let kind = match refused {
            Refused::Url(_) | Refused::Credentials | Refused::Unresolved { .. } => Kind::Unprocessable,
            Refused::Plain | Refused::Address { .. } | Refused::Denied { .. } => Kind::ForbiddenAddress,
        };
        Problem::new(kind, format!("`{attribute}`: {refused}"))
    })
}

/// Where a webhook starts that is not paused: active, or pending until its receiver agrees. `true`: it has to be asked.
pub(super) fn first_status(shared: &Shared, row: &mut WebhookRow, url: &Url) -> bool {
    let asks = shared.needs_consent(url) && row.consented_at.is_none();
    (row.status, row.status_reason) =
        if asks { (Status::Pending, Some(consent::ASKING.to_owned())) } else { (Status::Active, None) };
    asks
}

/// The position after which a new webhook, or a replay, starts.
pub(super) async fn start(shared: &Shared, selection: &Selection, from: &From) -> Result<i64, Problem> {
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
