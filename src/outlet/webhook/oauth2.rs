//! Tokens for receivers that want OAuth 2: client credentials (RFC 6749, section 4.4), fetched when needed, kept until they
//! expire.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use url::form_urlencoded;

use super::Shared;
use super::attempt::{Outcome, send};
use super::receiver::secret;
use super::secrets::Auth;

/// A token is fetched anew so long before it expires.
const MARGIN: Duration = Duration::from_secs(30);
const LIFETIME_DEFAULT: Duration = Duration::from_secs(5 * 60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
const TOKENS_MAX: usize = 10_000;

/// Tokens by what they were fetched with: webhooks may share one.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<[u8; 32], Token>>);

#[derive(Clone)]
struct Token {
    value: HeaderValue,
    until: i64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

/// Adds the token to what a call carries.
///
/// # Errors
/// What came of the call for it: the receiver can't be called then.
pub(super) async fn authorize(shared: &Shared, auth: Option<&Auth>, headers: &mut HeaderMap) -> Result<(), Outcome> {
    let Some(Auth::Oauth2 { token_url, client_id, client_secret, scope }) = auth else { return Ok(()) };
    let key = key(auth);
    let now = shared.steady.now_micros();
    let known = || shared.tokens.0.lock().expect("nothing panics while it holds this lock");
    if let Some(token) = known().get(&key).filter(|token| token.until > now) {
        headers.insert(header::AUTHORIZATION, token.value.clone());
        return Ok(());
    }
    let unusable = |answer: &str| Outcome {
        started_at: shared.clock.now_micros(),
        error: Some("status"),
        answer: Some(format!("token endpoint: {answer}")),
        ..Outcome::default()
    };
    let Ok(url) = token_url.parse() else { return Err(unusable("its URL can't be used")) };
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pair = STANDARD.encode(format!("{}:{}", encoded(client_id), encoded(client_secret)));
    let mut request = reqwest::Request::new(Method::POST, url);
    let sent = request.headers_mut();
    sent.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    sent.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    sent.extend(secret(&format!("Basic {pair}")).map(|value| (header::AUTHORIZATION, value)));
    *request.body_mut() = Some(form(scope.as_deref()).into());
    let (outcome, _) = send(shared, request).await;
    if outcome.error.is_some() {
        let answer = outcome.status.map_or_else(|| "no answer".to_owned(), |status| format!("status {status}"));
        return Err(Outcome { status: None, answer: Some(format!("token endpoint: {answer}")), ..outcome });
    }
    let granted = serde_json::from_str::<Granted>(outcome.answer.as_deref().unwrap_or_default());
    let granted = granted.map_err(|_| unusable("its answer holds no access_token"))?;
    let value = secret(&format!("Bearer {}", granted.access_token));
    let value = value.ok_or_else(|| unusable("its access_token can't be sent"))?;
    let lifetime = granted.expires_in.map_or(LIFETIME_DEFAULT, Duration::from_secs).min(LIFETIME_MAX);
    let until = now + i64::try_from(lifetime.saturating_sub(MARGIN).as_micros()).unwrap_or(0);
    headers.insert(header::AUTHORIZATION, value.clone());
    let mut known = known();
    if known.len() >= TOKENS_MAX {
        known.retain(|_, token| token.until > now);
    }
    known.insert(key, Token { value, until });
    Ok(())
}

fn form(scope: Option<&str>) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = scope {
        form.append_pair("scope", scope);
    }
    form.finish()
}

/// The receiver does not take its token: the next call fetches another one.
pub(super) fn forget(shared: &Shared, auth: Option<&Auth>) {
    if matches!(auth, Some(Auth::Oauth2 { .. })) {
        shared.tokens.0.lock().expect("nothing panics while it holds this lock").remove(&key(auth));
    }
}

fn key(auth: Option<&Auth>) -> [u8; 32] {
    crate::runtime::sha256(&serde_json::to_string(&auth).unwrap_or_default())
}
