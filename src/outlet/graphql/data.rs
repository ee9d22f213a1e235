//! The data of an event as its type's schema describes it: what is selected is read out of the JSON text, the rest is
//! skipped.

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::Field;
use async_graphql::{Name, PathSegment, Positioned, Value};
use serde_json::value::RawValue;

use super::plan::{Collected, Collector};
use super::scalars::{DateTime, raw};
use super::types::Types;
use crate::catalogue::shape::Shape;
use crate::event::Micros;
use crate::projection::{items, members};

/// What a value is wanted as.
pub(super) enum Want {
    /// Neither object nor list.
    Leaf(Shape),
    List(Box<Want>),
    Object(Vec<WantedField>),
}

pub(super) struct WantedField {
    key: Name,
    from: From,
}

enum From {
    /// `__typename`.
    Typename(String),
    Attribute(String, Want),
}

/// What reading came upon, besides values.
#[derive(Default)]
pub(super) struct Found {
    /// Values that did not fit: where, and what was expected.
    pub(super) mismatches: Vec<(Vec<PathSegment>, &'static str)>,
    /// Bytes that go into the answer.
    pub(super) bytes: usize,
    path: Vec<PathSegment>,
}

impl Want {
    /// Compiles the selections of all fields that have the same response key.
    pub(super) fn new(types: &Types, shape: &Shape, fields: &[&Positioned<Field>], collector: &Collector<'_>) -> Self {
        match shape {
            Shape::List(item) => Self::List(Box::new(Self::new(types, item, fields, collector))),
            Shape::Object(index) => {
                let object = &types.objects[*index];
                let sets = fields.iter().map(|field| &field.node.selection_set.node);
                let collected: Collected<'_> = collector.collect(sets, &[&object.name]);
                let wanted = collected.into_iter().filter_map(|(key, fields)| {
                    let name = fields[0].node.name.node.as_str();
                    let from = match object.fields.get(name) {
                        Some(field) => {
                            let want = Self::new(types, &field.shape, &fields, collector);
                            From::Attribute(field.attribute.clone(), want)
                        }
                        None if name == "__typename" => From::Typename(object.name.clone()),
                        // The document was validated.
                        None => return None,
                    };
                    Some(WantedField { key, from })
                });
                Self::Object(wanted.collect())
            }
            leaf => Self::Leaf(leaf.clone()),
        }
    }

    /// Reads a JSON text. What does not fit is null, and told in `found`.
    pub(super) fn read(&self, json: &str, found: &mut Found) -> Value {
        let json = json.trim_start();
        if json.starts_with("null") {
            return Value::Null;
        }
        let value = match self {
            Self::Leaf(shape) => leaf(shape, json).ok_or_else(|| expected(shape)),
            Self::List(item) => list(item, json, found).ok_or("a list"),
            Self::Object(fields) => object(fields, json, found).ok_or("an object"),
        };
        if matches!(self, Self::Leaf(_)) {
            found.bytes += json.len();
        }
        value.unwrap_or_else(|expected| {
            found.mismatches.push((found.path.clone(), expected));
            Value::Null
        })
    }
}

fn list(item: &Want, json: &str, found: &mut Found) -> Option<Value> {
    let mut values = Vec::new();
    let read = items(json, |json: &RawValue| {
        found.path.push(PathSegment::Index(values.len()));
        values.push(item.read(json.get(), found));
        found.path.pop();
    });
    read.ok().map(|()| Value::List(values))
}

/// An attribute that is there twice counts as its last: so do most readers of JSON.
fn object(fields: &[WantedField], json: &str, found: &mut Found) -> Option<Value> {
    let mut values: IndexMap<Name, Value> = fields.iter().map(|field| (field.key.clone(), field.unread())).collect();
    let read = members(json, |name, _, json| {
        for (index, field) in fields.iter().enumerate() {
            let From::Attribute(attribute, want) = &field.from else { continue };
            if attribute == name {
                found.path.push(PathSegment::Field(field.key.to_string()));
                values[index] = want.read(json.get(), found);
                found.path.pop();
            }
        }
    });
    read.ok().map(|()| Value::Object(values))
}

impl WantedField {
    fn unread(&self) -> Value {
        match &self.from {
            From::Typename(name) => Value::String(name.clone()),
            From::Attribute(..) => Value::Null,
        }
    }
}

fn expected(shape: &Shape) -> &'static str {
    match shape {
        Shape::Boolean => "a boolean",
        Shape::Int => "a whole number of 32 bits",
        Shape::Long => "a whole number",
        Shape::Float => "a number",
        Shape::Time => "a time (RFC 3339)",
        _ => "a text",
    }
}

/// The value, if it fits.
fn leaf(shape: &Shape, json: &str) -> Option<Value> {
    Some(match shape {
        Shape::Json => raw(json.to_owned()),
        Shape::Boolean => Value::Boolean(serde_json::from_str(json).ok()?),
        Shape::Int => Value::Number(whole(json)?.parse::<i32>().ok()?.into()),
        Shape::Long => Value::String(whole(json)?),
        Shape::Float => Value::Number(serde_json::Number::from_f64(number(json)?.parse().ok()?)?),
        Shape::Time => {
            let text = text(json)?;
            let time = Micros::parse_rfc3339(&text)?;
            // In UTC it stays as it came, with all its digits.
            Value::String(if text.ends_with('Z') { text } else { DateTime(time).text() })
        }
        _ => Value::String(text(json)?),
    })
}

fn text(json: &str) -> Option<String> {
    let body = json.trim_end().strip_prefix('"')?.strip_suffix('"')?;
    if body.contains('\\') { serde_json::from_str(json).ok() } else { Some(body.to_owned()) }
}

fn number(json: &str) -> Option<&str> {
    json.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then(|| json.trim_end())
}

/// The digits of a whole number, whatever its length; also of one that is written as `1.0` or `1e3`.
fn whole(json: &str) -> Option<String> {
    /// Beyond, not every whole number is one of floating point.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let json = number(json)?;
    if !json.contains(['.', 'e', 'E']) {
        return Some(json.to_owned());
    }
    let number: f64 = json.parse().ok()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| format!("{number:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_fit_keep_their_digits() {
        let long = |json| leaf(&Shape::Long, json);
        assert_eq!(long("12345678901234567890123"), Some(Value::String("12345678901234567890123".into())));
        assert_eq!(long("1.0"), Some(Value::String("1".into())));
        assert_eq!(long("-2e3"), Some(Value::String("-2000".into())));
        assert_eq!(leaf(&Shape::Int, "2147483647"), Some(Value::from(2_147_483_647)));
        assert_eq!(leaf(&Shape::Text, r#""a\u00e9\n""#), Some(Value::String("aé\n".into())));
        assert_eq!(leaf(&Shape::Float, "0.1"), Some(Value::from(0.1)));
        let time = |json| leaf(&Shape::Time, json);
        assert_eq!(time("\"2026-01-31T12:00:00.123456789Z\""), Some(Value::from("2026-01-31T12:00:00.123456789Z")));
        assert_eq!(time("\"2026-01-31T13:00:00+01:00\""), Some(Value::from("2026-01-31T12:00:00.000Z")));
    }

    #[test]
    fn values_that_do_not_fit_are_none() {
        for (shape, json) in [
            (Shape::Int, "2147483648"),
            (Shape::Int, "1.5"),
            (Shape::Int, "\"1\""),
            (Shape::Long, "1e300"),
            (Shape::Float, "1e999"),
            (Shape::Float, "true"),
            (Shape::Boolean, "1"),
            (Shape::Text, "{}"),
            (Shape::Text, r#""\ud800""#),
            (Shape::Time, "\"yesterday\""),
        ] {
            assert_eq!(leaf(&shape, json), None, "{shape:?} {json}");
        }
    }
}
