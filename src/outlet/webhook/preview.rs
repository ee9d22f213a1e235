//! `POST /webhooks/preview`: what a draft would get, and the request that would be made. Connects to nobody.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use serde_json::{Map, Value, json};

use super::draft::Draft;
use super::rest::{Shown, json_body};
use super::secrets::Secrets;
use super::target::{self, Target};
use super::{Shared, signature};
use crate::journal::webhooks::WebhookRow;
use crate::journal::{Columns, Order, Range};
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};

/// The newest events that are looked at.
const EXAMINED_MAX: i64 = 1_000;

pub(super) async fn preview(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    client.must(&Scope::Webhooks)?;
    let draft = Draft::parse(&json_body(&headers, body)?, &shared.public_url)?;
    shared.check_query(&draft.definition)?;
    let mut secrets = draft.secrets;
    secrets.unmask(&Secrets::default()).map_err(|attribute| {
        Problem::new(Kind::Unprocessable, format!("`{attribute}`: write the secret out, or leave it out"))
    })?;
    secrets.set(draft.secret.unwrap_or_else(signature::new_secret), &draft.definition.signature);
    let row = WebhookRow {
        id: "preview".to_owned(),
        owner: client.name.clone(),
        url: draft.url.to_string(),
        definition: draft.definition.to_json(),
        secrets: secrets.seal(&shared.sealer, "preview"),
        ..WebhookRow::default()
    };
    let unusable = || Problem::new(Kind::Unprocessable, "`signature`: the secret does not fit it");
    let pace = target::pace(&row, &draft.definition);
    let target = Target::new(&shared, row, None, pace).ok_or_else(unusable)?;
    let head = shared.journal.head().await?;
    let after = (head.position - EXAMINED_MAX).max(head.oldest - 1);
    let range = Range { after, through: Some(head.position), order: Order::Descending };
    let limit = usize::try_from(EXAMINED_MAX).unwrap_or(usize::MAX);
    // Data only of the one that is shown.
    let page = shared.journal.read(&target.selection, range, limit, Columns::ENVELOPE).await?;
    let matching: Vec<i64> =
        page.entries.iter().filter(|entry| target.owes(&shared, entry)).map(|entry| entry.position).collect();
    let request = match matching.first() {
        Some(newest) => {
            let one = Range { after: newest - 1, through: Some(*newest), order: Order::Ascending };
            let page = shared.journal.read(&target.selection, one, 1, Columns::ALL).await?;
            page.entries.first().map(|entry| request(&shared, &target, entry))
        }
        None => None,
    };
    let examined = head.position - after;
    Ok(Json(json!({ "examined": examined, "matched": matching.len(), "request": request })).into_response())
}

fn request(shared: &Shared, target: &Target, entry: &crate::event::Entry) -> Value {
    let delivery = target.alone(entry);
    let headers = target.receiver.headers(shared, &delivery, 1, shared.clock.now_micros() / 1_000_000, "", None);
    let shown = headers.iter().map(|(name, value)| {
        let value = if value.is_sensitive() { "***" } else { value.to_str().unwrap_or_default() };
        (name.to_string(), value.into())
    });
    json!({
        "method": "POST",
        "url": target.receiver.url.as_str(),
        "headers": shown.collect::<Map<String, Value>>(),
        "body": String::from_utf8_lossy(&delivery.body),
    })
}
