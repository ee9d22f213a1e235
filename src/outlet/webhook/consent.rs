//! Nobody gets calls who did not agree: the CloudEvents handshake (HTTP webhooks 1.0, section 4), or a signed challenge
//! that must be echoed.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;
use tracing::{info, warn};

use super::attempt::{self, Delivery};
use super::receiver::Receiver;
use super::rest::Shown;
use super::{Shared, definition_of};
use crate::journal::Error;
use crate::journal::webhooks::{Notice, Status, WebhookRow};
use crate::runtime::{hex, random_hex, sha256};
use crate::web::problem::{Kind, Problem};

const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");
const REQUEST_CALLBACK: HeaderName = HeaderName::from_static("webhook-request-callback");
const KEY_BYTES: usize = 32;

/// While the receiver is being asked.
pub(super) const ASKING: &str = "the receiver is being asked whether it agrees";

/// What a receiver agreed to: calls a minute, or as many as we like.
type Agreed = Option<i64>;

/// Asks the receiver of a webhook that is pending, and writes down what came of it.
pub(super) async fn ask(shared: &Shared, mut row: WebhookRow) -> Result<WebhookRow, Error> {
    let key = random_hex(KEY_BYTES);
    // Before it is told: it may answer at once.
    row.callback_hash = Some(hex(&sha256(&key)));
    let is_pending = row.status == Status::Pending;
    if is_pending {
        row.status_reason = Some(ASKING.to_owned());
    }
    row = store(shared, row, None).await?;
    match handshake(shared, &row, &key).await {
        Ok(rate) => agree(shared, row, rate).await,
        Err(reason) => {
            info!(webhook.id = %row.id, "the receiver of webhook `{}` has not agreed: {reason}", row.id);
            if !is_pending {
                return Ok(row);
            }
            let told = WebhookRow { status_reason: Some(reason), ..row.clone() };
            match store(shared, told, None).await {
                // It agreed meanwhile, by the callback, or its owner did something with it.
                Err(Error::Stale) => Ok(shared.journal.webhook(&row.id).await?.unwrap_or(row)),
                stored => stored,
            }
        }
    }
}

/// Asks in the background.
pub(super) fn ask_later(shared: &Arc<Shared>, row: WebhookRow) {
    let (shared, id) = (Arc::clone(shared), row.id.clone());
    let tasks = shared.tasks.clone();
    tasks.spawn(&format!("consent of webhook {id}"), async move {
        let stopping = shared.tasks.stopping();
        tokio::select! {
            asked = ask(&shared, row) => if let Err(cause) = asked {
                warn!(webhook.id = %id, %cause, "can't ask the receiver of webhook `{id}`; `Command: Verify` does it again");
            },
            () = stopping.cancelled() => {}
        }
    });
}

async fn store(shared: &Shared, row: WebhookRow, notice: Option<Notice>) -> Result<WebhookRow, Error> {
    let row = shared.edit(row, false, notice).await?;
    shared.changed(&row.id);
    Ok(row)
}

async fn agree(shared: &Shared, row: WebhookRow, rate: Agreed) -> Result<WebhookRow, Error> {
    let (status, status_reason) = match row.status {
        Status::Pending => (Status::Active, None),
        other => (other, row.status_reason.clone()),
    };
    let now = shared.clock.now_micros();
    let row =
        WebhookRow { status, status_reason, consented_at: Some(now), allowed_rate: rate, callback_hash: None, ..row };
    let notice = Notice::new(&row, "postern.webhook.verified", None);
    store(shared, row, Some(notice)).await
}

async fn handshake(shared: &Shared, row: &WebhookRow, key: &str) -> Result<Agreed, String> {
    let _permit = shared.asking.acquire().await;
    let definition = definition_of(row);
    let unusable = || "its secrets can't be read".to_owned();
    let secrets = shared.unseal(row).ok_or_else(unusable)?;
    let receiver = Receiver::new(shared, row, &definition, secrets).ok_or_else(unusable)?;
    let wished = definition.rate_per_minute();
    let mut request = reqwest::Request::new(Method::OPTIONS, receiver.url.clone());
    let mut headers = receiver.headers.clone();
    let callback = format!("{}/webhooks/{}/consent?key={key}", shared.public_url, row.id);
    headers.insert(REQUEST_CALLBACK, callback.parse().map_err(|_| unusable())?);
    *request.headers_mut() = headers;
    let (options, answered) = attempt::send(shared, request).await;
    if let Some(agreed) = allowed(&shared.authority, wished.is_some(), &answered)? {
        return Ok(agreed);
    }
    let asked = options.error.map_or_else(String::new, |error| format!(" (OPTIONS: {error})"));
    challenge(shared, &receiver).await.map_err(|reason| format!("{reason}{asked}"))?;
    Ok(None)
}

/// What the answer to `OPTIONS` says; nothing if it does not speak of it. The header is the signal, not the status.
fn allowed(authority: &str, is_rate_wished: bool, answered: &HeaderMap) -> Result<Option<Agreed>, String> {
    let Some(origin) = answered.get(ALLOWED_ORIGIN) else { return Ok(None) };
    let origin = origin.to_str().unwrap_or_default().trim();
    // The whole text: what starts or ends alike is somebody else.
    if origin != "*" && !origin.eq_ignore_ascii_case(authority) {
        return Err(format!("the receiver allows `{}`, not {authority}", origin.chars().take(100).collect::<String>()));
    }
    match answered.get(ALLOWED_RATE).map(|rate| rate.to_str().unwrap_or_default().trim()) {
        None if is_rate_wished => {
            Err("the receiver was asked for a rate and answered none (`WebHook-Allowed-Rate`)".into())
        }
        None | Some("*") => Ok(Some(None)),
        Some(text) => match text.parse::<i64>() {
            Ok(rate) if rate > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(Some(rate))),
            _ => Err("the receiver's `WebHook-Allowed-Rate` is neither a positive whole number nor `*`".into()),
        },
    }
}

async fn challenge(shared: &Shared, receiver: &Receiver) -> Result<(), String> {
    let challenge = random_hex(24);
    let body = json!({ "type": "postern.webhook.verification", "challenge": challenge }).to_string();
    let delivery = Delivery {
        event_id: format!("verification-{}", random_hex(16)),
        body: Bytes::from(body),
        content_type: "application/json",
        ..Delivery::default()
    };
    let posted = attempt::post(shared, receiver, &delivery, 1, "").await;
    let outcome = posted.map_err(|outcome| outcome.answer.unwrap_or_default())?;
    #[derive(Deserialize)]
    struct Echo {
        challenge: String,
    }
    let answer = outcome.answer.unwrap_or_default();
    let is_echo = answer.trim() == challenge
        || serde_json::from_str::<Echo>(&answer).is_ok_and(|echo| echo.challenge == challenge);
    match (outcome.error, outcome.status) {
        (None, _) if is_echo => Ok(()),
        (None, Some(status)) => Err(format!("the receiver answered {status} without the challenge")),
        (_, Some(status)) => Err(format!("the receiver answered {status} to the challenge")),
        (error, None) => Err(format!("the receiver could not be asked: {}", error.unwrap_or("no answer"))),
    }
}

#[derive(Deserialize)]
pub(super) struct Callback {
    #[serde(default)]
    key: String,
}

/// `GET` or `POST /webhooks/{id}/consent?key=…`: whoever was given the key agrees later. A key works once.
pub(super) async fn callback(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Query(Callback { key }): Query<Callback>,
    headers: HeaderMap,
) -> Shown {
    let unknown = || Problem::new(Kind::NotFound, "this address is not, or no longer, one to agree at");
    let row = shared.journal.webhook(&id).await?.ok_or_else(unknown)?;
    let hash = row.callback_hash.clone().ok_or_else(unknown)?;
    let given = hex(&sha256(&key));
    if aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), hash.as_bytes()).is_err() {
        return Err(unknown());
    }
    let unfit = |reason: String| Problem::new(Kind::BadRequest, reason);
    // Without a rate, the one that was asked for holds.
    let rate = match headers.contains_key(ALLOWED_RATE) {
        true => {
            let mut said = HeaderMap::new();
            said.insert(ALLOWED_ORIGIN, "*".parse().expect("a value"));
            said.extend(headers.get(ALLOWED_RATE).map(|rate| (ALLOWED_RATE, rate.clone())));
            allowed(&shared.authority, false, &said).map_err(unfit)?.flatten()
        }
        false => None,
    };
    agree(&shared, row, rate).await?;
    Ok((StatusCode::OK, "agreed\n").into_response() as Response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_origin_and_a_positive_rate_agree() {
        let of = |pairs: &[(HeaderName, &str)]| {
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a value"))).collect::<HeaderMap>()
        };
        let ask =
            |is_rate_wished, pairs: &[(HeaderName, &str)]| allowed("gateway.example.com", is_rate_wished, &of(pairs));
        let origin = |text| (ALLOWED_ORIGIN, text);
        assert_eq!(ask(false, &[]), Ok(None));
        assert_eq!(ask(false, &[origin("Gateway.example.com")]), Ok(Some(None)));
        assert_eq!(ask(true, &[origin("*"), (ALLOWED_RATE, "100")]), Ok(Some(Some(100))));
        assert_eq!(ask(true, &[origin("*"), (ALLOWED_RATE, "*")]), Ok(Some(None)));
        assert!(ask(true, &[origin("*")]).is_err(), "a rate was asked for");
        for other in ["gateway.example.com.attacker.tld", "ateway.example.com", "gateway.example.com, x", ""] {
            assert!(ask(false, &[origin(other)]).is_err(), "{other}");
        }
        for rate in ["0", "-5", "abc", "1.5", "+5", ""] {
            assert!(ask(false, &[origin("*"), (ALLOWED_RATE, rate)]).is_err(), "{rate}");
        }
    }
}
