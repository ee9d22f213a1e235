//! The catalogue: what an event type is called in one line, what its data looks like, and whether it leaves the house.

pub mod infer;
pub mod shape;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, context};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::event::Event;
use crate::json;

/// Longest summary, in characters: it is a line for people, not the event again.
const SUMMARY_CHARS_MAX: usize = 500;
/// Longest sentence on why data does not fit its schema, in characters.
const MISMATCH_CHARS_MAX: usize = 300;
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

/// What becomes of events whose data does not fit their schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Validate {
    /// They are journaled.
    Off,
    /// They are journaled and counted.
    #[default]
    Report,
    /// They are quarantined.
    Quarantine,
}

/// `[events."…"]` of the configuration.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TypeConfig {
    /// Whether events of this type leave the house; nothing said means yes.
    pub publish: Option<bool>,
    /// Whether a webhook that starts in the past gets those from before it was made; nothing said means yes.
    pub replay: Option<bool>,
    /// Files: the JSON Schema of the data, or one for each version of it, the newest last.
    #[serde(deserialize_with = "one_or_many")]
    pub schema: Vec<PathBuf>,
    pub validate: Validate,
    /// A minijinja template of the one line that feeds show.
    pub summary: Option<String>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a path, or a list of paths")]
    enum Paths {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match Paths::deserialize(deserializer)? {
        Paths::One(path) => vec![path],
        Paths::Many(paths) => paths,
    })
}

/// What is known of the event types.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    unlisted: Unlisted,
    types: BTreeMap<String, TypeConfig>,
    /// By type.
    schemas: Arc<BTreeMap<String, Schema>>,
    /// By type.
    summaries: Environment<'static>,
}

/// The JSON Schemas of an event type's data, by version, the newest last.
#[derive(Debug)]
pub struct Schema {
    versions: Vec<Value>,
    validators: Vec<Validator>,
}

impl Schema {
    /// # Errors
    /// A sentence on what is wrong with which of the texts.
    fn read(texts: &[String]) -> Result<Self, String> {
        let read = |text: &String| json::parse(text).map_err(|cause| format!("is no JSON: {cause}"));
        let versions: Vec<Value> = texts.iter().map(read).collect::<Result<_, _>>()?;
        let validators = versions.iter().map(validator).collect::<Result<_, _>>()?;
        Ok(Self { versions, validators })
    }

    /// The schemas as they were written.
    pub fn versions(&self) -> &[Value] {
        &self.versions
    }

    /// Why data fits no version; of several versions the newest tells it.
    fn refuse(&self, data: &Value) -> Option<String> {
        if self.validators.iter().rev().skip(1).any(|validator| validator.is_valid(data)) {
            return None;
        }
        let error = self.validators.last()?.validate(data).err()?;
        Some(format!("data{} does not fit the schema: {}", error.instance_path(), error.masked()))
    }
}

impl Catalogue {
    /// Reads the templates, and the schemas' texts by type.
    ///
    /// # Errors
    /// A sentence that names the type whose template or schema is wrong, and where.
    pub fn new(
        config: &Config,
        types: BTreeMap<String, TypeConfig>,
        schemas: &BTreeMap<String, Vec<String>>,
    ) -> Result<Self, String> {
        let schemas = schemas.iter().map(|(name, texts)| {
            let schema = Schema::read(texts).map_err(|cause| format!("[events.\"{name}\"] `schema`: {cause}"))?;
            Ok((name.clone(), schema))
        });
        let schemas = Arc::new(schemas.collect::<Result<_, String>>()?);
        let mut summaries = Environment::new();
        summaries.set_fuel(Some(FUEL));
        // Who shows the line escapes it; the library would by the name, which is the type's.
        summaries.set_auto_escape_callback(|_| AutoEscape::None);
        for (name, text) in types.iter().filter_map(|(name, config)| Some((name, config.summary.as_ref()?))) {
            let added = summaries.add_template_owned(name.clone(), text.clone());
            added.map_err(|cause| format!("[events.\"{name}\"] `summary`: {cause}"))?;
        }
        Ok(Self { unlisted: config.default, types, schemas, summaries })
    }

    /// Whether events of this type enter the journal. The others are counted as withheld.
    pub fn publishes(&self, r#type: &str) -> bool {
        match self.types.get(r#type) {
            Some(config) => config.publish.unwrap_or(true),
            None => self.unlisted == Unlisted::Publish,
        }
    }

    /// Whether a webhook gets events of this type that are older than itself.
    pub fn replays(&self, r#type: &str) -> bool {
        self.types.get(r#type).and_then(|config| config.replay).unwrap_or(true)
    }

    /// The types with schemas, by name.
    pub fn schemas(&self) -> &BTreeMap<String, Schema> {
        &self.schemas
    }

    /// The types that the configuration names.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.types.keys().map(String::as_str)
    }

    /// The same without schemas, for whoever has no data.
    pub fn without_schemas(&self) -> Self {
        Self { schemas: Arc::default(), ..self.clone() }
    }

    /// Why the data of the event does not fit, where such an event must be quarantined.
    pub fn refuses(&self, event: &Event) -> Option<String> {
        self.mismatch(event, Validate::Quarantine)
    }

    /// Why the data of the event does not fit, where that is counted.
    pub fn reports(&self, event: &Event) -> Option<String> {
        self.mismatch(event, Validate::Report)
    }

    /// Names the place and the rule, not the value: it may be a secret.
    fn mismatch(&self, event: &Event, validate: Validate) -> Option<String> {
        self.types.get(&event.r#type).filter(|config| config.validate == validate)?;
        let schema = self.schemas.get(&event.r#type)?;
        // What came was checked to be JSON; a number that is none for us fits no schema.
        let data = match json::parse(&event.data) {
            Ok(data) => data,
            Err(cause) => return Some(format!("data can't be validated: {cause}")),
        };
        Some(schema.refuse(&data)?.chars().take(MISMATCH_CHARS_MAX).collect())
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
        let json = |text: &str| minijinja::Value::from(Serde(json::parse(text).unwrap_or_default()));
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

/// Patterns take linear time, whatever the data; a schema that needs more is refused.
fn validator(schema: &Value) -> Result<Validator, String> {
    let options = jsonschema::options().with_pattern_options(PatternOptions::regex());
    options.build(schema).map_err(|cause| format!("can't be used, at `{}`: {cause}", cause.instance_path()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Micros;

    fn summary(template: &str, data: &str) -> Result<String, String> {
        let placed = TypeConfig { summary: Some(template.to_owned()), ..TypeConfig::default() };
        let types = BTreeMap::from([("OrderPlaced".to_owned(), placed)]);
        let catalogue = Catalogue::new(&Config::default(), types, &BTreeMap::new())?;
        Ok(catalogue.summary(&placed_with(data)))
    }

    fn placed_with(data: &str) -> Event {
        Event {
            id: "e-1".into(),
            source: "shop".into(),
            r#type: "OrderPlaced".into(),
            aggregate_type: "Order".into(),
            aggregate_id: "o-1".into(),
            aggregate_version: Some(1),
            occurred_at: Micros(0),
            data: data.into(),
            metadata: None,
        }
    }

    #[test]
    fn data_that_does_not_fit_is_told_by_its_place_and_not_by_its_value() {
        let read = |schema: &str, validate| {
            let types = BTreeMap::from([("OrderPlaced".to_owned(), TypeConfig { validate, ..TypeConfig::default() })]);
            let schemas = BTreeMap::from([("OrderPlaced".to_owned(), vec![schema.to_owned()])]);
            Catalogue::new(&Config::default(), types, &schemas)
        };
        let schema = r#"{"properties": {"lines": {"items": {"properties": {"qty": {"type": "integer"}}}}}}"#;
        let catalogue = read(schema, Validate::Report).expect("a schema");
        let (good, bad) = (placed_with(r#"{"lines": [{"qty": 1}]}"#), placed_with(r#"{"lines": [{"qty": "secret"}]}"#));
        assert_eq!((catalogue.reports(&good), catalogue.refuses(&bad)), (None, None));
        let told = catalogue.reports(&bad).expect("it does not fit");
        assert!(told.starts_with("data/lines/0/qty does not fit the schema:") && !told.contains("secret"), "{told}");
        assert!(read(schema, Validate::Quarantine).expect("a schema").refuses(&bad).is_some());
        assert_eq!(read(schema, Validate::Off).expect("a schema").reports(&bad), None);
        assert!(catalogue.without_schemas().reports(&bad).is_none());
        for (wrong, part) in [
            (r#"{"type": "intger"}"#, "intger"),
            (r#"{"$ref": "https://elsewhere.example/s.json"}"#, "elsewhere.example"),
            (r#"{"pattern": "(?=a)b"}"#, "pattern"),
            ("{", "is no JSON"),
        ] {
            let cause = read(wrong, Validate::Report).expect_err(wrong);
            assert!(cause.starts_with("[events.\"OrderPlaced\"] `schema`") && cause.contains(part), "{cause}");
        }
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
