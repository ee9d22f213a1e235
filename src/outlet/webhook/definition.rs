//! What an owner may write about a webhook, and what of it is stored.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::attributes as read;
use super::secrets::Secrets;
use super::signature::Profile;
use super::websub::Subscription;
use crate::filter::Filter;
use crate::json::Plain;
use crate::runtime::parse_duration;
use crate::web::problem::{Kind, Problem};

const CONCURRENCY_DEFAULT: usize = 8;
/// 11 attempts in about 3 days.
const RETRY_DEFAULT: [&str; 10] = ["5s", "30s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"];
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

/// What is stored beside the URL and what is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Definition {
    pub(super) description: Option<String>,
    pub(super) filter: Filter,
    /// CloudEvents dialects, each checked.
    pub(super) filters: Vec<Value>,
    pub(super) format: Format,
    /// A GraphQL selection set on `Event`, checked.
    pub(super) query: Option<String>,
    #[serde(with = "one_or_many")]
    pub(super) signature: Vec<Profile>,
    pub(super) ordering: Ordering,
    pub(super) on_exhausted: OnExhausted,
    pub(super) rate: Option<Rate>,
    pub(super) concurrency: usize,
    /// Waits such as `5s`, each checked.
    pub(super) retry: Vec<String>,
    pub(super) batch: Option<Batch>,
    /// Written by the hub only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) websub: Option<Subscription>,
}

impl Default for Definition {
    fn default() -> Self {
        Self {
            description: None,
            filter: Filter::default(),
            filters: Vec::new(),
            format: Format::default(),
            query: None,
            signature: vec![Profile::V1],
            ordering: Ordering::default(),
            on_exhausted: OnExhausted::default(),
            rate: None,
            concurrency: CONCURRENCY_DEFAULT,
            retry: RETRY_DEFAULT.map(str::to_owned).to_vec(),
            batch: None,
            websub: None,
        }
    }
}

/// What a call carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Format {
    /// `{type, timestamp, data}` of Standard Webhooks.
    #[default]
    Standard,
    /// CloudEvents, structured.
    Cloudevents,
    /// CloudEvents, attributes in headers.
    CloudeventsBinary,
    /// CloudEvents, several in one call.
    CloudeventsBatch,
    /// Where the event can be read, and nothing of it.
    Thin,
    /// The document of a feed; of subscriptions only.
    Websub,
}

impl Format {
    /// As owners write it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Cloudevents => "cloudevents",
            Self::CloudeventsBinary => "cloudevents-binary",
            Self::CloudeventsBatch => "cloudevents-batch",
            Self::Thin => "thin",
            Self::Websub => "websub",
        }
    }

    pub(super) fn of_word(word: &str) -> Self {
        let all = [Self::Cloudevents, Self::CloudeventsBinary, Self::CloudeventsBatch, Self::Thin, Self::Websub];
        all.into_iter().find(|format| format.word() == word).unwrap_or_default()
    }

    /// Whether a call carries a list of events.
    pub(super) fn is_batched(self) -> bool {
        matches!(self, Self::CloudeventsBatch | Self::Websub)
    }
}

/// What of a webhook's events waits for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Ordering {
    /// An event for those before it of the same aggregate.
    #[default]
    Key,
    /// An event for all before it.
    Strict,
    /// Nothing for nothing.
    None,
}

/// What happens when the attempts of an event are used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnExhausted {
    /// It is dead, what waited for it goes on.
    #[default]
    Skip,
    /// It is dead, what waits for it goes on waiting until the event is resent or discarded.
    HoldKey,
    /// The webhook is paused; resumed, it tries the event again first.
    Pause,
}

/// So many calls in any stretch of this length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate {
    pub(super) max: u32,
    pub(super) per: String,
}

impl Rate {
    pub(super) fn per(&self) -> Duration {
        parse_duration(&self.per).unwrap_or(Duration::from_secs(1))
    }
}

/// So many events in one call, collected for so long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Batch {
    pub(super) max: usize,
    pub(super) wait: String,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max: 100, wait: "1s".to_owned() }
    }
}

impl Batch {
    pub(super) fn wait(&self) -> Duration {
        parse_duration(&self.wait).unwrap_or_default()
    }
}

/// A signature as owners write it: one name, or a list of them.
mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Profile;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        One(Profile),
        Many(Vec<Profile>),
    }

    pub(super) fn serialize<S: Serializer>(profiles: &[Profile], serializer: S) -> Result<S::Ok, S::Error> {
        match profiles {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Profile>, D::Error> {
        Ok(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::Many(many) => many,
        })
    }
}

impl Definition {
    pub(super) fn schedule(&self) -> Vec<Duration> {
        self.retry.iter().filter_map(|text| parse_duration(text)).collect()
    }

    /// What an owner sees of it and of what is sealed.
    pub(super) fn shown(&self, secrets: &Secrets) -> Map<String, Value> {
        let mut shown = match serde_json::to_value(self) {
            Ok(Value::Object(own)) => own,
            _ => Map::new(),
        };
        let (headers, auth) = secrets.shown();
        shown.insert("headers".to_owned(), headers);
        shown.insert("auth".to_owned(), auth);
        shown
    }

    /// The rate that a receiver is told of.
    pub(super) fn rate_per_minute(&self) -> Option<u64> {
        let rate = self.rate.as_ref()?;
        let per_minute = f64::from(rate.max) * 60.0 / rate.per().as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, cut on purpose"
        )]
        Some((per_minute as u64).max(1))
    }

    fn check(&self) -> Result<(), Problem> {
        let unusable = |detail: &str| Err(Problem::new(Kind::Unprocessable, detail));
        if self.format == Format::Websub || self.signature.contains(&Profile::Websub) {
            return unusable("`format` and `signature` \"websub\" are of subscriptions, which are made at /websub");
        }
        if self.format == Format::Thin && self.query.is_some() {
            return unusable("`query` shapes the data, and the format `thin` carries none: use another `format`");
        }
        if self.batch.is_some() && self.format != Format::CloudeventsBatch {
            return unusable("`batch` goes with `format`: \"cloudevents-batch\" only");
        }
        let standard = self.signature.iter().filter(|profile| profile.is_standard()).count();
        if standard != 0 && standard != self.signature.len() {
            return unusable(
                "`signature`: \"github\" and \"stripe\" can't be mixed with others: the key is another one",
            );
        }
        Ok(())
    }
}

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
