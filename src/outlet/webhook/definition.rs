//! What is stored of what an owner wrote about a webhook.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::secrets::Secrets;
use super::signature::Profile;
use super::websub::Subscription;
use crate::filter::Filter;
use crate::runtime::parse_duration;
use crate::web::problem::{Kind, Problem};

const CONCURRENCY_DEFAULT: usize = 8;
/// 11 attempts in about 3 days.
const RETRY_DEFAULT: [&str; 10] = ["5s", "30s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"];
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

    /// As it is stored.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers are JSON")
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

    /// Whether its attributes go together.
    pub(super) fn check(&self) -> Result<(), Problem> {
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
