//! What an owner may write about a webhook, attribute by attribute, and what of it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::signature::Signer;
use crate::filter::Filter;
use crate::json::Plain;
use crate::runtime::parse_duration;
use crate::web::problem::{Kind, Problem};

const URL_BYTES_MAX: usize = 2048;
const DESCRIPTION_CHARS_MAX: usize = 500;
const CONCURRENCY: std::ops::RangeInclusive<usize> = 1..=64;
const CONCURRENCY_DEFAULT: usize = 8;
/// Longer schedules keep dead receivers busy for months.
const RETRIES_MAX: usize = 20;
const RETRY_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
/// 11 attempts in about 3 days.
const RETRY_DEFAULT: [&str; 10] = ["5s", "30s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"];
/// Assigned by the server: accepted and ignored, so that what was read can be edited and sent back.
const READ_ONLY: [&str; 10] = [
    "id",
    "status",
    "statusReason",
    "createdAt",
    "updatedAt",
    "cursor",
    "lag",
    "undelivered",
    "deliveredThrough",
    "owner",
];
/// Attributes of the contract that have one value in this version.
const FIXED: [(&str, &str); 4] =
    [("format", "standard"), ("signature", "v1"), ("ordering", "key"), ("onExhausted", "skip")];
/// Attributes of the contract that this version does not have.
const LATER: [&str; 6] = ["filters", "query", "headers", "auth", "rate", "batch"];

/// What is stored beside the URL and the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Definition {
    pub(super) description: Option<String>,
    pub(super) filter: Filter,
    pub(super) concurrency: usize,
    /// Waits such as `5s`, each checked.
    pub(super) retry: Vec<String>,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            description: None,
            filter: Filter::default(),
            concurrency: CONCURRENCY_DEFAULT,
            retry: RETRY_DEFAULT.map(str::to_owned).to_vec(),
        }
    }
}

impl Definition {
    pub(super) fn schedule(&self) -> Vec<Duration> {
        self.retry.iter().filter_map(|text| parse_duration(text)).collect()
    }

    /// What an owner sees of it.
    pub(super) fn shown(&self) -> Map<String, Value> {
        let mut shown = match serde_json::to_value(self) {
            Ok(Value::Object(own)) => own,
            _ => Map::new(),
        };
        shown.extend(FIXED.map(|(name, value)| (name.to_owned(), value.into())));
        shown
    }
}

/// Where a new webhook starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum From {
    Now,
    Beginning,
    After(String),
    Since(String),
}

/// What an owner wrote, checked as far as it can be without looking around.
pub(super) struct Draft {
    pub(super) url: Url,
    pub(super) definition: Definition,
    pub(super) from: From,
    pub(super) secret: Option<String>,
}

impl Draft {
    /// Reads the JSON of a request.
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let example =
            r#"send a JSON object such as {"url": "https://example.com/hook", "filter": {"types": ["Order*"]}}"#;
        let Plain(value) = serde_json::from_slice(body)
            .map_err(|cause| Problem::new(Kind::BadRequest, format!("the body is not JSON ({cause}); {example}")))?;
        let Value::Object(attributes) = value else { return Err(Problem::new(Kind::BadRequest, example)) };
        let (mut url, mut from, mut secret, mut definition) = (None, From::Now, None, Definition::default());
        for (name, value) in &attributes {
            match name.as_str() {
                "url" => url = Some(read_url(value)?),
                "secret" if !value.is_null() => secret = Some(read_secret(value)?),
                "description" if !value.is_null() => definition.description = Some(read_description(value)?),
                "filter" if !value.is_null() => definition.filter = read_filter(value)?,
                "from" if !value.is_null() => from = read_from(value)?,
                "concurrency" if !value.is_null() => definition.concurrency = read_concurrency(value)?,
                "retry" if !value.is_null() => definition.retry = read_retry(value)?,
                "secret" | "description" | "filter" | "from" | "concurrency" | "retry" => {}
                other => check_other(other, value)?,
            }
        }
        let url = url.ok_or_else(|| Problem::new(Kind::BadRequest, format!("`url` is missing; {example}")))?;
        Ok(Self { url, definition, from, secret })
    }
}

fn unusable(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Unprocessable, detail)
}

fn check_other(name: &str, value: &Value) -> Result<(), Problem> {
    if READ_ONLY.contains(&name) {
        return Ok(());
    }
    if let Some((_, only)) = FIXED.iter().find(|(fixed, _)| *fixed == name) {
        let fits = value.is_null()
            || value == only
            || matches!(value.as_array().map(Vec::as_slice), Some([one]) if one == only);
        return if fits { Ok(()) } else { Err(unusable(format!("`{name}` can only be \"{only}\" in this version"))) };
    }
    if LATER.contains(&name) {
        let says_nothing = value.is_null()
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        return if says_nothing {
            Ok(())
        } else {
            Err(unusable(format!("`{name}` is not known to this version; leave it out")))
        };
    }
    Err(unusable(format!(
        "`{name}` is no attribute of a webhook; known are url, description, filter, from, secret, concurrency, retry, \
         format, signature, ordering, onExhausted"
    )))
}

fn read_url(value: &Value) -> Result<Url, Problem> {
    let text = value.as_str().filter(|text| text.len() <= URL_BYTES_MAX);
    let url =
        text.and_then(|text| Url::parse(text).ok()).filter(|url| url.host().is_some() && url.fragment().is_none());
    url.ok_or_else(|| unusable("`url` must be an absolute https URL without fragment, at most 2048 bytes long"))
}

fn read_secret(value: &Value) -> Result<String, Problem> {
    let text = value.as_str().filter(|text| Signer::of(text).is_some());
    text.map(str::to_owned)
        .ok_or_else(|| unusable("`secret` must be whsec_ and the base64 of 24 to 64 bytes; left out, one is made"))
}

fn read_description(value: &Value) -> Result<String, Problem> {
    let text = value.as_str().filter(|text| text.chars().count() <= DESCRIPTION_CHARS_MAX && !text.contains('\0'));
    text.map(str::to_owned).ok_or_else(|| unusable("`description` must be a text of at most 500 characters"))
}

fn read_filter(value: &Value) -> Result<Filter, Problem> {
    let filter = Filter::deserialize(value).map_err(|cause| unusable(format!("`filter`: {cause}")))?;
    filter.check().map_err(|cause| unusable(format!("`filter`: {cause}")))?;
    Ok(filter)
}

fn read_from(value: &Value) -> Result<From, Problem> {
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

fn read_concurrency(value: &Value) -> Result<usize, Problem> {
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|n| CONCURRENCY.contains(n));
    number.ok_or_else(|| unusable("`concurrency` must be a whole number from 1 to 64"))
}

fn read_retry(value: &Value) -> Result<Vec<String>, Problem> {
    let list = value.as_array().filter(|list| list.len() <= RETRIES_MAX);
    let texts = list.and_then(|list| {
        let usable = |text: &&str| parse_duration(text).is_some_and(|wait| RETRY_WAIT.contains(&wait));
        list.iter().map(|item| item.as_str().filter(usable).map(str::to_owned)).collect()
    });
    texts
        .ok_or_else(|| unusable(r#"`retry` must be a list of at most 20 waits up to 24h, such as ["5s", "10m", "2h"]"#))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Draft, Problem> {
        Draft::parse(value.to_string().as_bytes())
    }

    #[test]
    fn what_is_shown_can_be_sent_back() {
        let draft =
            parse(&json!({"url": "https://example.com/x", "filter": {"aggregateTypes": ["Cart"]}, "retry": ["250ms"]}));
        let draft = draft.expect("usable");
        let mut shown = draft.definition.shown();
        for (name, value) in [("url", json!("https://example.com/x")), ("status", json!("active")), ("lag", json!(0))] {
            shown.insert(name.to_owned(), value);
        }
        let again = parse(&Value::Object(shown)).expect("usable");
        assert_eq!(again.definition, draft.definition);
        assert_eq!(again.definition.schedule(), [Duration::from_millis(250)]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (name, value, kind) in [
            ("format", json!("thin"), Kind::Unprocessable),
            ("signature", json!(["v1", "v1a"]), Kind::Unprocessable),
            ("ordering", json!("none"), Kind::Unprocessable),
            ("query", json!("{ id }"), Kind::Unprocessable),
            ("headers", json!({"a": "b"}), Kind::Unprocessable),
            ("colour", json!("red"), Kind::Unprocessable),
            ("filter", json!({"types": ["a*b"]}), Kind::Unprocessable),
            ("filter", json!({"kinds": []}), Kind::Unprocessable),
            ("from", json!({"after": 1}), Kind::Unprocessable),
            ("from", json!("yesterday"), Kind::Unprocessable),
            ("concurrency", json!(65), Kind::Unprocessable),
            ("retry", json!(["25h"]), Kind::Unprocessable),
            ("retry", json!(["5"]), Kind::Unprocessable),
            ("secret", json!("whsec_short"), Kind::Unprocessable),
            ("url", json!("/hook"), Kind::Unprocessable),
        ] {
            let mut body = json!({"url": "https://example.com/"});
            body[name] = value;
            let problem = parse(&body).err().expect(name);
            assert!(problem.kind == kind && problem.detail.contains(name), "{body} {problem}");
        }
        assert_eq!(parse(&json!({})).err().expect("no url").kind, Kind::BadRequest);
        assert_eq!(Draft::parse(b"{").err().expect("no JSON").kind, Kind::BadRequest);
        assert!(
            parse(&json!({"url": "https://example.com/", "signature": ["v1"], "headers": {}, "query": null})).is_ok()
        );
    }
}
