//! The catalogue: what an event type is called in one line, and whether it leaves the house.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::event::Event;

/// Longest summary, in characters: it is a line for people, not the event again.
const SUMMARY_CHARS_MAX: usize = 500;

/// What happens to event types that the catalogue does not list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unlisted {
    #[default]
    Publish,
    Withhold,
}

/// `[catalogue]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub default: Unlisted,
}

/// `[events."…"]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TypeConfig {
    /// Whether events of this type leave the house; nothing said means yes.
    pub publish: Option<bool>,
}

/// What is known of the event types.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    unlisted: Unlisted,
    types: BTreeMap<String, TypeConfig>,
}

impl Catalogue {
    pub fn new(config: &Config, types: BTreeMap<String, TypeConfig>) -> Self {
        Self { unlisted: config.default, types }
    }

    /// Whether events of this type enter the journal. The others are counted as withheld.
    pub fn publishes(&self, r#type: &str) -> bool {
        match self.types.get(r#type) {
            Some(config) => config.publish.unwrap_or(true),
            None => self.unlisted == Unlisted::Publish,
        }
    }

    /// The one line that feeds show: `{type} {aggregateId}`.
    pub fn summary(&self, event: &Event) -> String {
        format!("{} {}", event.r#type, event.aggregate_id).chars().take(SUMMARY_CHARS_MAX).collect()
    }
}
