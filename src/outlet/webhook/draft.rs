//! What an owner wrote about a webhook, read attribute by attribute.

use serde_json::{Map, Value};
use url::Url;

use super::attributes as read;
use super::definition::{Definition, Format};
use super::secrets::Secrets;
use crate::json::Plain;
use crate::web::problem::{Kind, Problem};

/// Assigned by the server: accepted and ignored, so that what was read can be edited and sent back.
const READ_ONLY: [&str; 12] = [
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
    "replay",
    "websub",
];
const WRITABLE: &str = "url, description, filter, filters, format, query, signature, secret, ordering, onExhausted, from, \
                        headers, auth, rate, concurrency, retry, batch";

/// Where a new webhook, or a replay, starts.
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
    /// Headers and auth, perhaps masked.
    pub(super) secrets: Secrets,
}

impl Draft {
    /// Reads the JSON of a request.
    pub(super) fn parse(body: &[u8], public_url: &str) -> Result<Self, Problem> {
        let example =
            r#"send a JSON object such as {"url": "https://example.com/hook", "filter": {"types": ["Order*"]}}"#;
        let Plain(value) = serde_json::from_slice(body)
            .map_err(|cause| Problem::new(Kind::BadRequest, format!("the body is not JSON ({cause}); {example}")))?;
        let Value::Object(attributes) = value else { return Err(Problem::new(Kind::BadRequest, example)) };
        Self::of(&attributes, public_url, example)
    }

    pub(super) fn of(attributes: &Map<String, Value>, public_url: &str, example: &str) -> Result<Self, Problem> {
        let (mut url, mut from, mut secret) = (None, From::Now, None);
        let (mut definition, mut secrets) = (Definition::default(), Secrets::default());
        for (name, value) in attributes {
            match name.as_str() {
                "url" => url = Some(read::url(value)?),
                // Said nothing: the default.
                name if value.is_null() && WRITABLE.split(", ").any(|known| known == name) => {}
                "secret" => secret = Some(read::secret(value)?),
                "description" => definition.description = Some(read::description(value)?),
                "filter" => definition.filter = read::filter(value)?,
                "filters" => definition.filters = read::filters(value, public_url)?,
                "format" => definition.format = read::word(name, value)?,
                "query" => definition.query = Some(read::query(value)?),
                "signature" => definition.signature = read::signature(value)?,
                "ordering" => definition.ordering = read::word(name, value)?,
                "onExhausted" => definition.on_exhausted = read::word(name, value)?,
                "from" => from = read::from(value)?,
                "headers" => secrets.headers = read::headers(value)?,
                "auth" => secrets.auth = Some(read::auth(value)?),
                "rate" => definition.rate = Some(read::rate(value)?),
                "concurrency" => definition.concurrency = read::concurrency(value)?,
                "retry" => definition.retry = read::retry(value)?,
                "batch" => definition.batch = Some(read::batch(value)?),
                name if READ_ONLY.contains(&name) => {}
                name => {
                    let detail = format!("`{name}` is no attribute of a webhook; known are {WRITABLE}");
                    return Err(Problem::new(Kind::Unprocessable, detail));
                }
            }
        }
        if definition.format == Format::CloudeventsBatch {
            definition.batch.get_or_insert_default();
        }
        definition.check()?;
        let is_standard = definition.signature.iter().all(|profile| profile.is_standard());
        if let Some(text) = secret.as_deref().filter(|_| is_standard) {
            read::standard_secret(text)?;
        }
        let has_authorization = secrets.headers.contains_key("authorization");
        if has_authorization && secrets.auth.is_some() {
            return Err(Problem::new(Kind::Unprocessable, "give `auth` or a header `authorization`, not both"));
        }
        let url = url.ok_or_else(|| Problem::new(Kind::BadRequest, format!("`url` is missing; {example}")))?;
        Ok(Self { url, definition, from, secret, secrets })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use serde_json::json;

    fn parse(value: &Value) -> Result<Draft, Problem> {
        Draft::parse(value.to_string().as_bytes(), "https://gateway.example")
    }

    #[test]
    fn what_is_left_out_has_its_default_and_read_only_is_ignored() {
        let draft = parse(&json!({"url": "https://example.com/", "id": "x", "status": "paused"})).expect("usable");
        assert!(draft.secret.is_none() && draft.from == From::Now && draft.definition == Definition::default());
        let shown = draft.definition.shown(&draft.secrets);
        for (name, value) in [("format", "standard"), ("signature", "v1"), ("ordering", "key"), ("onExhausted", "skip")]
        {
            assert_eq!(shown[name], value);
        }
        assert_eq!((&shown["concurrency"], shown["retry"].as_array().map(Vec::len)), (&json!(8), Some(10)));
        let again: Definition = serde_json::from_value(Value::Object(shown)).expect("as it was written");
        assert_eq!(again, draft.definition);
        assert_eq!(draft.definition.schedule()[2], Duration::from_secs(300));
    }

    #[test]
    fn every_attribute_is_taken_as_it_is_written() {
        let written = json!({
            "url": "https://example.com/", "description": "d", "filter": {"types": ["Order*"]},
            "filters": [{"exact": {"type": "OrderPlaced"}}], "format": "cloudevents-batch", "query": "{ id }",
            "signature": ["v1", "v1a"], "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "ordering": "strict",
            "onExhausted": "hold_key", "from": {"since": "2026-01-01T00:00:00Z"}, "headers": {"X-Tenant": "a"},
            "auth": {"basic": {"username": "u", "password": "p"}}, "rate": {"max": 100, "per": "60s"},
            "concurrency": 2, "retry": ["1s"], "batch": {"max": 10, "wait": "250ms"},
        });
        let draft = parse(&written).expect("usable");
        let shown = draft.definition.shown(&draft.secrets);
        for (name, value) in written.as_object().expect("an object") {
            match name.as_str() {
                "url" | "secret" | "from" => {}
                "headers" => assert_eq!(shown[name], json!({"x-tenant": "a"})),
                "auth" => assert_eq!(shown[name], json!({"basic": {"username": "u", "password": "***"}})),
                name => assert_eq!(shown[name], *value, "{name}"),
            }
        }
    }

    #[test]
    fn what_can_not_be_used_is_refused_by_name() {
        for (name, value) in [
            ("format", json!("xml")),
            ("signature", json!("v9")),
            ("signature", json!(["v1", "github"])),
            ("signature", json!([])),
            ("ordering", json!("random")),
            ("headers", json!({"webhook-id": "b"})),
            ("headers", json!({"host": "b"})),
            ("headers", json!({"x": "a\nb"})),
            ("auth", json!({"digest": {}})),
            ("rate", json!({"max": 0, "per": "1s"})),
            ("batch", json!({"max": 10})),
            ("filters", json!([{"sql": "x"}])),
            ("colour", json!("red")),
            ("filter", json!({"types": ["a*b"]})),
            ("filter", json!({"kinds": []})),
            ("from", json!({"after": 1})),
            ("from", json!("yesterday")),
            ("concurrency", json!(65)),
            ("retry", json!(["25h"])),
            ("retry", json!(["5"])),
            ("secret", json!("whsec_short")),
            ("url", json!("/hook")),
        ] {
            let mut body = json!({"url": "https://example.com/"});
            body[name] = value;
            let problem = parse(&body).err().expect(name);
            assert!(problem.kind == Kind::Unprocessable && problem.detail.contains(name), "{body} {problem}");
        }
        assert_eq!(parse(&json!({})).err().expect("no url").kind, Kind::BadRequest);
        assert_eq!(Draft::parse(b"{", "").err().expect("no JSON").kind, Kind::BadRequest);
        assert!(
            parse(&json!({"url": "https://example.com/", "signature": ["v1"], "headers": {}, "query": null})).is_ok()
        );
    }
}
