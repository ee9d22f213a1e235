//! `POST /webhooks`: registers, once for each `Idempotency-Key`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse as _;

use super::draft::Draft;
use super::represent::{entity, represent};
use super::rest::{Shown, WEBHOOKS_MAX, check_addresses, first_status, json_body, nothing_behind, start};
use super::secrets::Secrets;
use super::{Shared, commands, consent, signature};
use crate::journal::webhooks::{Change, Edit, Notice, WebhookRow};
use crate::runtime::{hex, sha256};
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};

const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    commands::refuse(&headers)?;
    let body = json_body(&headers, body)?;
    let (key, hash) = (idempotency_key(&headers)?, hex(&sha256(&String::from_utf8_lossy(&body))));
    if let Some(key) = &key
        && let Some(known) = shared.journal.webhook_by_key(&client.name, key).await?
    {
        return created_before(&shared, &known, &hash).await;
    }
    let draft = Draft::parse(&body, &shared.public_url)?;
    check_addresses(&shared, &draft).await?;
    shared.check_query(&draft.definition)?;
    if shared.journal.count_webhooks(&client.name).await? >= WEBHOOKS_MAX {
        let detail = format!("this client has {WEBHOOKS_MAX} webhooks, the most that one may have; delete some first");
        return Err(Problem::new(Kind::Conflict, detail));
    }
    let (id, now) = (uuid::Uuid::now_v7().to_string(), shared.clock.now_micros());
    let mut secrets = draft.secrets;
    secrets.unmask(&Secrets::default()).map_err(nothing_behind)?;
    secrets.set(draft.secret.unwrap_or_else(signature::new_secret), &draft.definition.signature);
    let mut row = WebhookRow {
        owner: client.name.clone(),
        revision: 1,
        url: draft.url.to_string(),
        definition: draft.definition.to_json(),
        secrets: secrets.seal(&shared.sealer, &id),
        cursor: start(&shared, &client.visible, &draft.from).await?,
        created_at: now,
        updated_at: now,
        idempotency_hash: key.is_some().then_some(hash),
        idempotency_key: key,
        id,
        ..WebhookRow::default()
    };
    let asks = first_status(&shared, &mut row, &draft.url);
    let notices = vec![Notice::new(&row, "postern.webhook.created", None)];
    let change = Change { edits: vec![Edit::Create(Box::new(row.clone()))], notices };
    if let Err(cause) = shared.journal.change_webhook(change).await {
        // The same request at the same time was faster.
        let known = match &row.idempotency_key {
            Some(key) => shared.journal.webhook_by_key(&row.owner, key).await?,
            None => None,
        };
        let (Some(known), Some(hash)) = (known, &row.idempotency_hash) else { return Err(cause.into()) };
        return created_before(&shared, &known, hash).await;
    }
    shared.note_change(&row.id, true);
    let shown = created(&shared, &row, &secrets).await?;
    if asks {
        consent::ask_later(&shared, row);
    }
    Ok(shown)
}

/// The answer to a registration: the only one that shows the secret.
async fn created(shared: &Shared, row: &WebhookRow, secrets: &Secrets) -> Shown {
    let mut shown = represent(shared, row).await?;
    shown["secret"] = secrets.secret().into();
    let location = format!("{}/webhooks/{}", shared.public_url, row.id);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], entity(row, shown)).into_response())
}

/// The same request again, perhaps because its answer was lost.
async fn created_before(shared: &Shared, row: &WebhookRow, hash: &str) -> Shown {
    if row.idempotency_hash.as_deref() != Some(hash) {
        let detail = "this `Idempotency-Key` stands for another registration; use a new key for a new webhook";
        return Err(Problem::new(Kind::Unprocessable, detail));
    }
    let secrets = shared.unseal(row).unwrap_or_default();
    created(shared, row, &secrets).await
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().map(|text| text.trim().trim_matches('"'));
    let text = text.filter(|text| (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&text.len()));
    let detail = "`Idempotency-Key` must be a text of 1 to 255 visible characters, such as a UUID";
    text.map(|text| Some(text.to_owned())).ok_or_else(|| Problem::new(Kind::BadRequest, detail))
}
