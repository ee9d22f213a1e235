//! The catalogue: what an event type is called in one line, and whether it leaves the house.

use std::collections::BTreeMap;

use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::Deserialize;
use serde_json::Value;

use crate::event::Event;

/// Longest summary, in characters: it is a line for people, not the event again.
const SUMMARY_CHARS_MAX: usize = 500;
/// Steps of a template; one that loops for ever ends here.
const FUEL: u64 = 20_000;

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
    /// A minijinja template of the one line that feeds show.
    pub summary: Option<String>,
}

/// What is known of the event types.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    unlisted: Unlisted,
    types: BTreeMap<String, TypeConfig>,
    /// By type.
    summaries: Environment<'static>,
}

impl Catalogue {
    /// Reads the templates.
    ///
    /// # Errors
    /// A sentence that names the type whose template is wrong, and where.
    pub fn new(config: &Config, types: BTreeMap<String, TypeConfig>) -> Result<Self, String> {
        let mut summaries = Environment::new();
        summaries.set_fuel(Some(FUEL));
        // Who shows the line escapes it; the library would by the name, which is the type's.
        summaries.set_auto_escape_callback(|_| AutoEscape::None);
        for (name, text) in types.iter().filter_map(|(name, config)| Some((name, config.summary.as_ref()?))) {
            let added = summaries.add_template_owned(name.clone(), text.clone());
            added.map_err(|cause| format!("[events.\"{name}\"] `summary`: {cause}"))?;
        }
        Ok(Self { unlisted: config.default, types, summaries })
    }

    /// Whether events of this type enter the journal. The others are counted as withheld.
    pub fn publishes(&self, r#type: &str) -> bool {
        match self.types.get(r#type) {
            Some(config) => config.publish.unwrap_or(true),
            None => self.unlisted == Unlisted::Publish,
        }
    }

    /// The one line that feeds show: what the type's template makes of the event, or `{type} {aggregateId}`.
    pub fn summary(&self, event: &Event) -> String {
        let rendered = self.render(event).unwrap_or_default();
        let line = match rendered.split_whitespace().collect::<Vec<_>>().join(" ") {
            empty if empty.is_empty() => format!("{} {}", event.r#type, event.aggregate_id),
            line => line,
        };
        line.chars().take(SUMMARY_CHARS_MAX).collect()
    }

    /// Nothing if there is no template, or it fails on this event.
    fn render(&self, event: &Event) -> Option<String> {
        let template = self.summaries.get_template(&event.r#type).ok()?;
        let json = |text: &str| minijinja::Value::from(Serde(serde_json::from_str::<Value>(text).unwrap_or_default()));
        let context = context! {
            id => event.id.as_str(),
            type => event.r#type.as_str(),
            source => event.source.as_str(),
            aggregateType => event.aggregate_type.as_str(),
            aggregateId => event.aggregate_id.as_str(),
            aggregateVersion => event.aggregate_version,
            occurredAt => event.occurred_at.to_text(),
            data => json(&event.data),
            metadata => event.metadata.as_deref().map(json),
        };
        template.render(context).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Micros;

    fn summary(template: &str, data: &str) -> Result<String, String> {
        let placed = TypeConfig { publish: None, summary: Some(template.to_owned()) };
        let catalogue = Catalogue::new(&Config::default(), BTreeMap::from([("OrderPlaced".to_owned(), placed)]))?;
        let event = Event {
            id: "e-1".into(),
            source: "shop".into(),
            r#type: "OrderPlaced".into(),
            aggregate_type: "Order".into(),
            aggregate_id: "o-1".into(),
            aggregate_version: Some(1),
            occurred_at: Micros(0),
            data: data.into(),
            metadata: None,
        };
        Ok(catalogue.summary(&event))
    }

    #[test]
    fn a_template_makes_a_line_of_an_event() {
        let template = "{{ type }} {{ data.orderId }} of {{ aggregateId }},\n {{ data.lines | length }} lines";
        let line = summary(template, r#"{"orderId": 7, "lines": [1, 2]}"#);
        assert_eq!(line.as_deref(), Ok("OrderPlaced 7 of o-1, 2 lines"));
    }

    #[test]
    fn what_fails_on_an_event_or_says_nothing_falls_back() {
        for template in [
            "{{ data.missing }}",
            "{{ data.a.b.c }}",
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
        ] {
            assert_eq!(summary(template, "{}").as_deref(), Ok("OrderPlaced o-1"), "{template}");
        }
        assert_eq!(summary("{{ data }}", &format!("\"{}\"", "x".repeat(900))).map(|line| line.len()), Ok(500));
        assert!(summary("{{ data.", "{}").is_err_and(|cause| cause.contains("[events.\"OrderPlaced\"] `summary`")));
    }
}
