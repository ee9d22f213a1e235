//! The scalars of the schema.

use async_graphql::indexmap::IndexMap;
use async_graphql::{InputValueError, InputValueResult, Name, Scalar, ScalarType, Value};

use crate::event::Micros;

/// The engine writes an object whose only key this is as the JSON text under it. Only [`raw`] makes one: payloads never
/// become values, so that no source can forge it.
const RAW_TOKEN: &str = "$serde_json::private::RawValue";

/// A value that is written as this JSON text.
pub(super) fn raw(json: String) -> Value {
    Value::Object(IndexMap::from([(Name::new(RAW_TOKEN), Value::String(json))]))
}

/// Appends a text as JSON.
pub(super) fn push_text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// Appends a value as JSON. What is JSON already is copied: the engine's own writing would read it once more.
pub(super) fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => {
            if let (1, Some(Value::String(json))) = (fields.len(), fields.get(RAW_TOKEN)) {
                return out.push_str(json);
            }
            out.push('{');
            for (n, (name, value)) in fields.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                push_text(out, name);
                out.push(':');
                push_value(out, value);
            }
            out.push('}');
        }
        Value::List(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                push_value(out, item);
            }
            out.push(']');
        }
        Value::String(text) => push_text(out, text),
        Value::Enum(name) => push_text(out, name),
        Value::Boolean(true) => out.push_str("true"),
        Value::Boolean(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Null | Value::Binary(_) => out.push_str("null"),
    }
}

/// Appends a time as JSON, or null.
pub(super) fn push_time(out: &mut String, time: Option<&DateTime>) {
    match time {
        Some(time) => push_text(out, &time.text()),
        None => out.push_str("null"),
    }
}

pub(super) struct DateTime(pub(super) Micros);

impl DateTime {
    pub(super) fn text(&self) -> String {
        self.0.to_text()
    }
}

/// RFC 3339, in UTC.
#[Scalar(specified_by_url = "https://scalars.graphql.org/andimarek/date-time.html")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        let time = Micros::parse_rfc3339(text).map(Self);
        time.ok_or_else(|| InputValueError::custom("give RFC 3339, such as 2026-01-31T12:00:00Z"))
    }

    fn to_value(&self) -> Value {
        Value::String(self.text())
    }
}

pub(super) struct Long(pub(super) i64);

impl Long {
    pub(super) fn text(&self) -> String {
        self.0.to_string()
    }
}

/// A whole number beyond 32 bits, sent as a string; a number or a string is accepted.
#[Scalar]
impl ScalarType for Long {
    fn parse(value: Value) -> InputValueResult<Self> {
        let number = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number.map(Self).ok_or_else(|| InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::String(self.text())
    }
}

/// A JSON text on its way out, a value on its way in.
pub(super) enum Json {
    Text(String),
    Value(Value),
}

/// Any JSON value, without sub-selection.
#[Scalar(name = "JSON")]
impl ScalarType for Json {
    fn parse(value: Value) -> InputValueResult<Self> {
        Ok(Self::Value(value))
    }

    fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => raw(text.clone()),
            Self::Value(value) => value.clone(),
        }
    }
}
