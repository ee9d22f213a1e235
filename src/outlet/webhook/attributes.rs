//! Reads the attributes of a webhook, each by itself. Refusals name the attribute and what it may be.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::definition::{Batch, Rate};
use super::draft::From;
use super::secrets::Auth;
use super::signature::{self, Profile};
use crate::filter::{Dialects, Filter};
use crate::runtime::parse_duration;
use crate::web::problem::{Kind, Problem};

const URL_BYTES_MAX: usize = 2048;
const DESCRIPTION_CHARS_MAX: usize = 500;
const CONCURRENCY: std::ops::RangeInclusive<usize> = 1..=64;
/// Longer schedules keep dead receivers busy for months.
const RETRIES_MAX: usize = 20;
const RETRY_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const HEADERS_MAX: usize = 20;
const HEADER_BYTES_MAX: usize = 4096;
const QUERY_BYTES_MAX: usize = 16 * 1024;
pub(super) const RATE_MAX: u32 = 100_000;
const RATE_PER: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
const BATCH_MAX: std::ops::RangeInclusive<usize> = 1..=1_000;
const BATCH_WAIT_MAX: Duration = Duration::from_secs(60);
/// A secret that is used as it is written.
const TEXT_SECRET_BYTES: std::ops::RangeInclusive<usize> = 8..=256;
/// Ours, or the connection's.
const HEADERS_REFUSED: [&str; 14] = [
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "host",
    "link",
    "access-control-request-method",
    "x-hub-signature",
    "x-hub-signature-256",
    "stripe-signature",
    "accept-encoding",
];
const HEADER_PREFIXES_REFUSED: [&str; 4] = ["proxy-", "content-", "webhook-", "ce-"];

fn unusable(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Unprocessable, detail)
}

pub(super) fn url(value: &Value) -> Result<Url, Problem> {
    let text = value.as_str().filter(|text| text.len() <= URL_BYTES_MAX);
    let url =
        text.and_then(|text| Url::parse(text).ok()).filter(|url| url.host().is_some() && url.fragment().is_none());
    url.ok_or_else(|| unusable("`url` must be an absolute https URL without fragment, at most 2048 bytes long"))
}

/// Any secret; [`standard_secret`] is stricter.
pub(super) fn secret(value: &Value) -> Result<String, Problem> {
    let usable = |text: &&str| TEXT_SECRET_BYTES.contains(&text.len()) && !text.contains('\0');
    let text = value.as_str().filter(usable);
    text.map(str::to_owned).ok_or_else(|| unusable("`secret` must be a text of 8 to 256 bytes; left out, one is made"))
}

pub(super) fn standard_secret(text: &str) -> Result<(), Problem> {
    if signature::is_secret(text) {
        return Ok(());
    }
    Err(unusable("`secret` must be whsec_ and the base64 of 24 to 64 bytes; left out, one is made"))
}

pub(super) fn description(value: &Value) -> Result<String, Problem> {
    let text = value.as_str().filter(|text| text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| unusable("`description` must be a text of at most 500 characters"))
}

pub(super) fn filter(value: &Value) -> Result<Filter, Problem> {
    let filter = Filter::deserialize(value).map_err(|cause| unusable(format!("`filter`: {cause}")))?;
    filter.check().map_err(|cause| unusable(format!("`filter`: {cause}")))?;
    Ok(filter)
}

pub(super) fn filters(value: &Value, public_url: &str) -> Result<Vec<Value>, Problem> {
    let list = value.as_array().ok_or_else(|| unusable("`filters` must be a list of filters"))?;
    Dialects::parse(list, public_url).map_err(|cause| unusable(format!("`filters`: {cause}")))?;
    Ok(list.clone())
}

/// One of a few words.
pub(super) fn word<T: DeserializeOwned>(name: &str, value: &Value) -> Result<T, Problem> {
    // The library's sentence lists the words.
    T::deserialize(value).map_err(|cause| unusable(format!("`{name}`: {cause}")))
}

pub(super) fn query(value: &Value) -> Result<String, Problem> {
    let text = value.as_str().filter(|text| text.len() <= QUERY_BYTES_MAX);
    text.map(str::to_owned).ok_or_else(|| {
        unusable("`query` must be a GraphQL selection set on Event such as \"{ id type }\", at most 16 kB")
    })
}

pub(super) fn signature(value: &Value) -> Result<Vec<Profile>, Problem> {
    let profiles = match value {
        Value::Array(list) => list.iter().map(|one| word("signature", one)).collect::<Result<Vec<_>, _>>()?,
        one => vec![word("signature", one)?],
    };
    let is_twice = profiles.iter().enumerate().any(|(n, profile)| profiles[..n].contains(profile));
    if profiles.is_empty() || is_twice {
        return Err(unusable(r#"`signature` must be "v1", "v1a", ["v1", "v1a"], "github" or "stripe""#));
    }
    Ok(profiles)
}

pub(super) fn from(value: &Value) -> Result<From, Problem> {
    let pair = value.as_object().filter(|object| object.len() == 1).and_then(|object| object.iter().next());
    match (value.as_str(), pair) {
        (Some("now"), _) => Ok(From::Now),
        (Some("beginning"), _) => Ok(From::Beginning),
        (_, Some((name, Value::String(text)))) if name == "after" => Ok(From::After(text.clone())),
        (_, Some((name, Value::String(text)))) if name == "since" => Ok(From::Since(text.clone())),
        _ => Err(unusable(
            r#"`from` must be "now", "beginning", {"after": "<event id or cursor>"} or {"since": "2026-01-01T00:00:00Z"}"#,
        )),
    }
}

pub(super) fn headers(value: &Value) -> Result<BTreeMap<String, String>, Problem> {
    let map = value.as_object().filter(|map| map.len() <= HEADERS_MAX);
    let map = map.ok_or_else(|| unusable("`headers` must be an object of at most 20 names and values"))?;
    let mut headers = BTreeMap::new();
    for (name, value) in map {
        let lower = name.to_ascii_lowercase();
        let is_refused = HEADERS_REFUSED.contains(&lower.as_str())
            || HEADER_PREFIXES_REFUSED.iter().any(|prefix| lower.starts_with(prefix));
        if is_refused || HeaderName::try_from(lower.as_str()).is_err() {
            return Err(unusable(format!("`headers`: `{name}` can't be set")));
        }
        let value = value.as_str().filter(|text| text.len() <= HEADER_BYTES_MAX && is_visible(text));
        let value = value.ok_or_else(|| {
            unusable(format!(
                "`headers`: the value of `{name}` must be a text of at most 4096 visible ASCII characters"
            ))
        })?;
        if headers.insert(lower, value.to_owned()).is_some() {
            return Err(unusable(format!("`headers`: `{name}` is given twice")));
        }
    }
    Ok(headers)
}

fn is_visible(text: &str) -> bool {
    HeaderValue::try_from(text).is_ok_and(|value| value.to_str().is_ok()) && text.trim() == text
}

pub(super) fn auth(value: &Value) -> Result<Auth, Problem> {
    let shape = r#"`auth` must be {"basic": {"username": …, "password": …}}, {"bearer": "…"} or {"oauth2": {"tokenUrl": …, "clientId": …, "clientSecret": …, "scope"?: …}}"#;
    let auth = Auth::deserialize(value).map_err(|cause| unusable(format!("{shape} ({cause})")))?;
    let texts: Vec<&str> = match &auth {
        Auth::Basic { username, password } => vec![username, password],
        Auth::Bearer(token) => vec![token],
        Auth::Oauth2 { token_url, client_id, client_secret, scope } => {
            url(&Value::String(token_url.clone())).map_err(|_| unusable("`auth`: `tokenUrl` must be an https URL"))?;
            vec![client_id, client_secret, scope.as_deref().unwrap_or("x")]
        }
    };
    let too_long = texts.iter().any(|text| text.len() > HEADER_BYTES_MAX);
    let unfit = match &auth {
        Auth::Basic { username, .. } => {
            username.contains(':') || texts.iter().any(|text| text.chars().any(char::is_control))
        }
        Auth::Bearer(token) => token.is_empty() || !is_visible(token),
        Auth::Oauth2 { .. } => texts.iter().any(|text| text.is_empty() || text.chars().any(char::is_control)),
    };
    if too_long || unfit { Err(unusable(format!("{shape}, without control characters"))) } else { Ok(auth) }
}

pub(super) fn rate(value: &Value) -> Result<Rate, Problem> {
    let rate = Rate::deserialize(value).ok();
    rate.filter(|rate| {
        (1..=RATE_MAX).contains(&rate.max) && parse_duration(&rate.per).is_some_and(|per| RATE_PER.contains(&per))
    })
    .ok_or_else(|| unusable(r#"`rate` must be such as {"max": 100, "per": "60s"}: 1 to 100000 calls, per at most 24h"#))
}

pub(super) fn concurrency(value: &Value) -> Result<usize, Problem> {
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|n| CONCURRENCY.contains(n));
    number.ok_or_else(|| unusable("`concurrency` must be a whole number from 1 to 64"))
}

pub(super) fn retry(value: &Value) -> Result<Vec<String>, Problem> {
    let list = value.as_array().filter(|list| list.len() <= RETRIES_MAX);
    let texts = list.and_then(|list| {
        let usable = |text: &&str| parse_duration(text).is_some_and(|wait| RETRY_WAIT.contains(&wait));
        list.iter().map(|item| item.as_str().filter(usable).map(str::to_owned)).collect()
    });
    texts
        .ok_or_else(|| unusable(r#"`retry` must be a list of at most 20 waits up to 24h, such as ["5s", "10m", "2h"]"#))
}

pub(super) fn batch(value: &Value) -> Result<Batch, Problem> {
    let batch = Batch::deserialize(value).ok();
    batch
        .filter(|batch| {
            BATCH_MAX.contains(&batch.max) && parse_duration(&batch.wait).is_some_and(|wait| wait <= BATCH_WAIT_MAX)
        })
        .ok_or_else(|| {
            unusable(r#"`batch` must be such as {"max": 100, "wait": "1s"}: 1 to 1000 events, wait at most 60s"#)
        })
}
