//! The filter dialects of the CloudEvents Subscriptions API: `exact`, `prefix`, `suffix`, `all`, `any`, `not`, over the
//! attributes of an event's CloudEvents form, and as an extension over `data.` paths. Pure.

use serde_json::{Map, Value};

use super::OWN_SOURCE;
use crate::event::Event;
use crate::json;

/// Most dialects in one list, nested ones included.
const NODES_MAX: usize = 100;
const DEPTH_MAX: usize = 8;
const TEXT_BYTES_MAX: usize = 1024;
const LEVELS_MAX: usize = 32;

/// A list of filters that must all hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dialects {
    all: Vec<Dialect>,
    /// What comes before a source's name in its CloudEvents form.
    sources: String,
    reads_data: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Dialect {
    Test(Test, Vec<(Attribute, String)>),
    All(Vec<Dialect>),
    Any(Vec<Dialect>),
    Not(Box<Dialect>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Test {
    Exact,
    Prefix,
    Suffix,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Attribute {
    Id,
    Source,
    Type,
    Subject,
    Time,
    DataContentType,
    SpecVersion,
    AggregateType,
    AggregateVersion,
    Data(Vec<String>),
    /// One that our events never carry: it is missing, and what is missing matches nothing.
    Other,
}

impl Dialects {
    /// Reads what a user wrote; `public_url` is the gateway's.
    ///
    /// # Errors
    /// A sentence that names what is wrong: a dialect that is not known, an empty name, value or list, or too many.
    pub fn parse(list: &[Value], public_url: &str) -> Result<Self, String> {
        let mut reader = Reader { nodes: 0, reads_data: false };
        let all = list.iter().map(|value| reader.dialect(value, 0)).collect::<Result<_, _>>()?;
        Ok(Self { all, sources: format!("{public_url}/sources/"), reads_data: reader.reads_data })
    }

    /// Whether the data of an event must be there to tell.
    pub fn reads_data(&self) -> bool {
        self.reads_data
    }

    /// Whether it can be about our own operational events only, which must be named.
    pub(super) fn names_own_source(&self) -> bool {
        let names = |dialect: &Dialect| match dialect {
            Dialect::Test(test, pairs) => pairs.iter().any(|(attribute, wanted)| {
                *attribute == Attribute::Source && *test != Test::Suffix && self.source(*test, wanted, OWN_SOURCE)
            }),
            Dialect::All(_) | Dialect::Any(_) | Dialect::Not(_) => false,
        };
        self.all.iter().any(names)
    }

    /// Whether all of them hold.
    pub fn matches(&self, event: &Event) -> bool {
        self.all.iter().all(|dialect| self.holds(dialect, event))
    }

    fn holds(&self, dialect: &Dialect, event: &Event) -> bool {
        match dialect {
            Dialect::Test(test, pairs) => {
                pairs.iter().all(|(attribute, wanted)| self.test(*test, attribute, wanted, event))
            }
            Dialect::All(all) => all.iter().all(|one| self.holds(one, event)),
            Dialect::Any(any) => any.iter().any(|one| self.holds(one, event)),
            Dialect::Not(not) => !self.holds(not, event),
        }
    }

    fn test(&self, test: Test, attribute: &Attribute, wanted: &str, event: &Event) -> bool {
        let is = |text: &str| test.holds(text, wanted);
        match attribute {
            Attribute::Id => is(&event.id),
            Attribute::Source => self.source(test, wanted, &event.source),
            Attribute::Type => is(&event.r#type),
            Attribute::Subject => is(&event.aggregate_id),
            Attribute::Time => is(&event.occurred_at.to_text()),
            Attribute::DataContentType => is("application/json"),
            Attribute::SpecVersion => is("1.0"),
            Attribute::AggregateType => is(&event.aggregate_type),
            Attribute::AggregateVersion => event.aggregate_version.is_some_and(|version| is(&version.to_string())),
            Attribute::Data(path) => scalar(&event.data, path).is_some_and(|text| is(&text)),
            Attribute::Other => false,
        }
    }

    /// By its name, or by the URL that CloudEvents show.
    fn source(&self, test: Test, wanted: &str, name: &str) -> bool {
        test.holds(name, wanted) || test.holds(&format!("{}{name}", self.sources), wanted)
    }
}

impl Test {
    fn holds(self, text: &str, wanted: &str) -> bool {
        match self {
            Self::Exact => text == wanted,
            Self::Prefix => text.starts_with(wanted),
            Self::Suffix => text.ends_with(wanted),
        }
    }
}

/// The text, number or truth value at a path; lists and objects are none.
fn scalar(data: &str, path: &[String]) -> Option<String> {
    let mut at = data.trim_start();
    for name in path {
        let mut found = None;
        if !at.starts_with('{') {
            return None;
        }
        json::members(at, |key, _, value| {
            if key == name {
                found = Some(value);
            }
        })
        .ok()?;
        at = found?.trim();
    }
    match at.as_bytes().first()? {
        b'"' => serde_json::from_str(at).ok(),
        b'{' | b'[' | b'n' => None,
        _ => Some(at.to_owned()),
    }
}

struct Reader {
    nodes: usize,
    reads_data: bool,
}

impl Reader {
    fn dialect(&mut self, value: &Value, depth: usize) -> Result<Dialect, String> {
        self.nodes += 1;
        if self.nodes > NODES_MAX || depth > DEPTH_MAX {
            return Err(format!("more than {NODES_MAX} filters, or more than {DEPTH_MAX} inside one another"));
        }
        let pair = value.as_object().filter(|object| object.len() == 1).and_then(|object| object.iter().next());
        let Some((name, value)) = pair else {
            return Err(
                r#"each filter is an object with one dialect, such as {"exact": {"type": "OrderPlaced"}}"#.to_owned()
            );
        };
        match (name.as_str(), value) {
            ("exact", Value::Object(pairs)) => self.test(Test::Exact, name, pairs),
            ("prefix", Value::Object(pairs)) => self.test(Test::Prefix, name, pairs),
            ("suffix", Value::Object(pairs)) => self.test(Test::Suffix, name, pairs),
            ("all", Value::Array(list)) if !list.is_empty() => Ok(Dialect::All(self.list(list, depth)?)),
            ("any", Value::Array(list)) if !list.is_empty() => Ok(Dialect::Any(self.list(list, depth)?)),
            ("not", Value::Object(_)) => Ok(Dialect::Not(Box::new(self.dialect(value, depth + 1)?))),
            ("exact" | "prefix" | "suffix", _) => {
                Err(format!("`{name}` holds attributes and texts: {{\"{name}\": {{\"type\": \"…\"}}}}"))
            }
            ("all" | "any", _) => Err(format!("`{name}` holds a list of one filter or more")),
            ("not", _) => Err("`not` holds one filter".to_owned()),
            _ => Err(format!("the dialect `{name}` is not known; known are exact, prefix, suffix, all, any, not")),
        }
    }

    fn list(&mut self, list: &[Value], depth: usize) -> Result<Vec<Dialect>, String> {
        list.iter().map(|value| self.dialect(value, depth + 1)).collect()
    }

    fn test(&mut self, test: Test, name: &str, pairs: &Map<String, Value>) -> Result<Dialect, String> {
        if pairs.is_empty() {
            return Err(format!("`{name}` names no attribute"));
        }
        let pairs = pairs.iter().map(|(attribute, value)| {
            let text = value.as_str().filter(|text| !text.is_empty() && text.len() <= TEXT_BYTES_MAX);
            let text = text.ok_or_else(|| {
                format!("`{name}`: the value of `{attribute}` must be a text of 1 to {TEXT_BYTES_MAX} bytes")
            })?;
            Ok((self.attribute(attribute)?, text.to_owned()))
        });
        Ok(Dialect::Test(test, pairs.collect::<Result<_, String>>()?))
    }

    fn attribute(&mut self, name: &str) -> Result<Attribute, String> {
        if let Some(path) = name.strip_prefix("data.") {
            self.reads_data = true;
            let names: Vec<String> = path.split('.').map(str::to_owned).collect();
            if names.iter().any(String::is_empty) || names.len() > LEVELS_MAX {
                return Err(format!("`{name}` is no path such as data.order.id"));
            }
            return Ok(Attribute::Data(names));
        }
        Ok(match name {
            "id" => Attribute::Id,
            "source" => Attribute::Source,
            "type" => Attribute::Type,
            "subject" | "partitionkey" => Attribute::Subject,
            "time" => Attribute::Time,
            "datacontenttype" => Attribute::DataContentType,
            "specversion" => Attribute::SpecVersion,
            "aggregatetype" => Attribute::AggregateType,
            "aggregateversion" => Attribute::AggregateVersion,
            "sequence" => {
                return Err(
                    "`sequence` tells where an event stands, not what it is: it can't be filtered by".to_owned()
                );
            }
            other if !other.is_empty() && other.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) => {
                Attribute::Other
            }
            other => return Err(format!("`{other}` is no name of a CloudEvents attribute")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event() -> Event {
        Event {
            id: "cart:1".into(),
            source: "cart".into(),
            r#type: "OrderPlaced".into(),
            aggregate_type: "Order".into(),
            aggregate_id: "42".into(),
            aggregate_version: Some(3),
            data: r#" {"order": {"id": 7, "state": "n\u0065w", "lines": [1]}, "paid": true, "none": null}"#.into(),
            ..Event::default()
        }
    }

    fn holds(list: &Value) -> bool {
        Dialects::parse(list.as_array().expect("a list"), "https://x.example").expect("usable").matches(&event())
    }

    #[test]
    fn each_dialect_holds_as_the_specification_says() {
        for yes in [
            json!([]),
            json!([{"exact": {"type": "OrderPlaced", "subject": "42"}}]),
            json!([{"prefix": {"type": "Order"}}, {"suffix": {"type": "Placed"}}]),
            json!([{"exact": {"source": "https://x.example/sources/cart"}}]),
            json!([{"exact": {"source": "cart"}}]),
            json!([{"prefix": {"source": "https://x.example/"}}]),
            json!([{"not": {"any": [{"exact": {"type": "A"}}, {"exact": {"type": "B"}}]}}]),
            json!([{"all": [{"exact": {"aggregateversion": "3"}}, {"exact": {"aggregatetype": "Order"}}]}]),
            json!([{"exact": {"data.order.id": "7", "data.order.state": "new", "data.paid": "true"}}]),
            json!([{"not": {"exact": {"colour": "red"}}}]),
        ] {
            assert!(holds(&yes), "{yes}");
        }
        for no in [
            json!([{"exact": {"type": "orderplaced"}}]),
            json!([{"exact": {"type": "OrderPlaced", "subject": "43"}}]),
            json!([{"prefix": {"type": "Order"}}, {"suffix": {"type": "Order"}}]),
            json!([{"exact": {"colour": "red"}}]),
            json!([{"exact": {"data.order": "7"}}]),
            json!([{"exact": {"data.none": "null"}}]),
            json!([{"exact": {"data.order.lines.0": "1"}}]),
        ] {
            assert!(!holds(&no), "{no}");
        }
    }

    #[test]
    fn what_can_not_be_understood_is_refused() {
        let deep = (0..9).fold(json!({"exact": {"type": "A"}}), |inner, _| json!({"not": inner}));
        let many: Vec<Value> = (0..101).map(|_| json!({"exact": {"type": "A"}})).collect();
        for bad in [
            json!([{"sql": "type = 'A'"}]),
            json!([{}]),
            json!(["exact"]),
            json!([{"exact": {}}]),
            json!([{"exact": {"type": ""}}]),
            json!([{"exact": {"": "A"}}]),
            json!([{"exact": {"type": 1}}]),
            json!([{"exact": {"data.": "A"}}]),
            json!([{"exact": {"sequence": "1"}}]),
            json!([{"all": []}]),
            json!([{"any": []}]),
            json!([{"not": []}]),
            json!([{"exact": {"type": "A"}, "prefix": {"type": "A"}}]),
            json!([deep]),
            json!(many),
        ] {
            assert!(Dialects::parse(bad.as_array().expect("a list"), "").is_err(), "{bad}");
        }
    }
}
