//! The data of an event as its type's schema describes it: what is selected is copied out of the JSON text, the rest is
//! skipped.

use async_graphql::parser::types::Field;
use async_graphql::{PathSegment, Positioned};

use super::normal::collect;
use super::plan::push_key;
use super::scalars::{DateTime, push_text};
use super::types::Types;
use crate::catalogue::shape::Shape;
use crate::event::Micros;
use crate::json::{items, members};

/// Values that do not fit, of which one event tells.
const MISMATCHES_MAX: usize = 100;

/// What a value is wanted as.
pub(super) enum Want {
    /// Neither object nor list.
    Leaf(Shape),
    List(Box<Want>),
    Object(WantedObject),
}

pub(super) struct WantedObject {
    /// The attributes that are wanted, each once.
    attributes: Vec<String>,
    fields: Vec<WantedField>,
}

struct WantedField {
    key: String,
    from: From,
}

enum From {
    /// `__typename`.
    Typename(String),
    /// The attribute with this index.
    Attribute(usize, Want),
}

/// What reading came upon, besides text.
pub(super) struct Found {
    /// Values that did not fit: where, and what was expected.
    pub(super) mismatches: Vec<(Vec<PathSegment>, &'static str)>,
    /// Longest text; beyond it, reading ends early.
    pub(super) bytes_max: usize,
}

/// Where a value stands in the data. Made a path only for what does not fit.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Data,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn path(self) -> Vec<PathSegment> {
        let (parent, segment) = match self {
            Self::Data => return Vec::new(),
            Self::Field(parent, key) => (parent, PathSegment::Field(key.to_owned())),
            Self::Item(parent, index) => (parent, PathSegment::Index(index)),
        };
        let mut path = parent.path();
        path.push(segment);
        path
    }
}

impl Found {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { mismatches: Vec::new(), bytes_max }
    }
}

impl Want {
    /// Compiles the selections of all fields that have the same response key.
    pub(super) fn new(types: &Types, shape: &Shape, fields: &[&Positioned<Field>]) -> Self {
        match shape {
            Shape::List(item) => Self::List(Box::new(Self::new(types, item, fields))),
            Shape::Object(index) => {
                let object = &types.objects[*index];
                let sets = fields.iter().map(|field| &field.node.selection_set.node);
                let mut wanted = WantedObject { attributes: Vec::new(), fields: Vec::new() };
                for (key, fields) in collect(sets, &[&object.name]) {
                    let name = fields[0].node.name.node.as_str();
                    let from = match object.fields.get(name) {
                        Some(field) => {
                            let want = Self::new(types, &field.shape, &fields);
                            From::Attribute(wanted.attribute(&field.attribute), want)
                        }
                        None => From::Typename(object.name.clone()),
                    };
                    wanted.fields.push(WantedField { key: key.to_string(), from });
                }
                Self::Object(wanted)
            }
            leaf => Self::Leaf(leaf.clone()),
        }
    }

    /// Appends what is wanted of a JSON text. What does not fit is null, and told in `found`.
    pub(super) fn write(&self, json: &str, out: &mut String, found: &mut Found, place: Place<'_>) {
        let json = json.trim_ascii();
        if json == "null" {
            return out.push_str("null");
        }
        let start = out.len();
        let (fits, expected) = match self {
            Self::Leaf(shape) => (leaf(shape, json, out).is_some(), expected(shape)),
            Self::List(item) => (list(item, json, out, found, place), "a list"),
            Self::Object(object) => (object.write(json, out, found, place), "an object"),
        };
        if !fits {
            out.truncate(start);
            out.push_str("null");
            if found.mismatches.len() < MISMATCHES_MAX {
                found.mismatches.push((place.path(), expected));
            }
        }
    }
}

/// Whether it was one.
fn list(item: &Want, json: &str, out: &mut String, found: &mut Found, place: Place<'_>) -> bool {
    let mut count = 0;
    out.push('[');
    let read = items(json, |json| {
        if out.len() > found.bytes_max {
            return;
        }
        out.push_str(if count > 0 { "," } else { "" });
        item.write(json, out, found, Place::Item(&place, count));
        count += 1;
    });
    out.push(']');
    read.is_ok()
}

impl WantedObject {
    fn attribute(&mut self, name: &str) -> usize {
        let known = self.attributes.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.attributes.push(name.to_owned());
            self.attributes.len() - 1
        })
    }

    /// Whether it was one. An attribute that is there twice counts as its last: so do most readers of JSON.
    fn write(&self, json: &str, out: &mut String, found: &mut Found, place: Place<'_>) -> bool {
        let mut values: Vec<Option<&str>> = vec![None; self.attributes.len()];
        // Most data has its attributes in one order, and most queries ask in the same.
        let mut next = 0;
        let read = members(json, |name, _, value| {
            let wanted = &self.attributes;
            let index = match wanted.get(next) {
                Some(attribute) if attribute == name => Some(next),
                _ => wanted.iter().position(|attribute| attribute == name),
            };
            if let Some(index) = index {
                values[index] = Some(value);
                next = index + 1;
            }
        });
        if read.is_err() {
            return false;
        }
        out.push('{');
        for (n, field) in self.fields.iter().enumerate() {
            if out.len() > found.bytes_max {
                break;
            }
            push_key(out, n, &field.key);
            match &field.from {
                From::Typename(name) => push_text(out, name),
                From::Attribute(index, want) => match values[*index] {
                    Some(value) => want.write(value, out, found, Place::Field(&place, &field.key)),
                    None => out.push_str("null"),
                },
            }
        }
        out.push('}');
        true
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

/// Appends the value, if it fits. Texts and numbers keep their digits and escapes.
fn leaf(shape: &Shape, json: &str, out: &mut String) -> Option<()> {
    match shape {
        Shape::Json => out.push_str(json),
        Shape::Boolean => out.push_str(Some(json).filter(|json| matches!(*json, "true" | "false"))?),
        Shape::Int => out.push_str(&whole(json)?.parse::<i32>().ok()?.to_string()),
        Shape::Long => push_text(out, &whole(json)?),
        Shape::Float => out.push_str(Some(json).filter(|json| number(json).is_some())?),
        Shape::Time => {
            let body = text(json)?;
            // In UTC it stays as it came, with all its digits.
            if is_plain_time(body) {
                out.push_str(json);
                return Some(());
            }
            let time = Micros::parse_rfc3339(body)?;
            if body.ends_with('Z') { out.push_str(json) } else { push_text(out, &DateTime(time).text()) }
        }
        _ => {
            text(json)?;
            out.push_str(json);
        }
    }
    Some(())
}

/// Whether this is a time in UTC as most are written, on a day that every month has. Takes much less than reading it.
fn is_plain_time(text: &str) -> bool {
    let Some((time, fraction)) = text.strip_suffix('Z').and_then(|text| text.split_at_checked(19)) else {
        return false;
    };
    let form = b"0000-00-00T00:00:00";
    let fits = |(byte, form): (u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == *form };
    let digits = fraction.strip_prefix('.').unwrap_or("0");
    let within = |at: usize, least: &str, most: &str| (least..=most).contains(&&time[at..at + 2]);
    time.bytes().zip(form).all(fits)
        && (fraction.is_empty() || fraction.starts_with('.'))
        && (1..=9).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && within(5, "01", "12")
        && within(8, "01", "28")
        && within(11, "00", "23")
        && within(14, "00", "59")
        && within(17, "00", "59")
}

/// Between the quotes, as written.
fn text(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

fn number(json: &str) -> Option<f64> {
    let is_number = json.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    json.parse().ok().filter(|number: &f64| is_number && number.is_finite())
}

/// The digits of a whole number, whatever its length; also of one that is written as `1.0` or `1e3`.
fn whole(json: &str) -> Option<String> {
    /// Beyond, not every whole number is one of floating point.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let digits = json.strip_prefix('-').unwrap_or(json);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(json.to_owned());
    }
    let number = number(json)?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then(|| format!("{number:.0}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(shape: &Shape, json: &str) -> Option<String> {
        let mut out = String::new();
        super::leaf(shape, json, &mut out).map(|()| out)
    }

    #[test]
    fn values_that_fit_keep_their_digits() {
        for (shape, json, expected) in [
            (Shape::Long, "12345678901234567890123", "\"12345678901234567890123\""),
            (Shape::Long, "1.0", "\"1\""),
            (Shape::Long, "-2e3", "\"-2000\""),
            (Shape::Int, "2147483647", "2147483647"),
            (Shape::Text, r#""a\u00e9\n""#, r#""a\u00e9\n""#),
            (Shape::Float, "0.10", "0.10"),
            (Shape::Time, "\"2026-01-31T12:00:00.123456789Z\"", "\"2026-01-31T12:00:00.123456789Z\""),
            (Shape::Time, "\"2026-01-31T13:00:00+01:00\"", "\"2026-01-31T12:00:00.000Z\""),
            (Shape::Json, "1e999", "1e999"),
        ] {
            assert_eq!(leaf(&shape, json).as_deref(), Some(expected), "{shape:?} {json}");
        }
    }

    #[test]
    fn values_that_do_not_fit_are_none() {
        for (shape, json) in [
            (Shape::Int, "2147483648"),
            (Shape::Int, "1.5"),
            (Shape::Int, "\"1\""),
            (Shape::Long, "1e300"),
            (Shape::Long, "-"),
            (Shape::Float, "1e999"),
            (Shape::Float, "true"),
            (Shape::Boolean, "1"),
            (Shape::Text, "{}"),
            (Shape::Time, "\"yesterday\""),
            (Shape::Time, "\"2026-13-01T12:00:00Z\""),
            (Shape::Time, "\"2026-02-30T12:00:00Z\""),
            (Shape::Time, "\"2026-01-01T24:00:00Z\""),
            (Shape::Time, "\"2026-01-01T12:00:00.Z\""),
            (Shape::Time, "\"2026-01-01é12:00:00Z\""),
        ] {
            assert_eq!(leaf(&shape, json), None, "{shape:?} {json}");
        }
    }
}
