//! Data → JSON Schema: a draft for people to look over. What was seen is a sample, so nothing is required.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::event::Micros;

/// Values inside one another, and attributes of one object, that are told apart.
const LEVELS_MAX: usize = 32;
const ATTRIBUTES_MAX: usize = 500;
/// An object with more attributes than this, of which each single object has few, is a map.
const MAP_ATTRIBUTES: usize = 30;
/// Whole numbers that never went beyond are taken for small ones: quantities rather than serial numbers.
const SMALL: u64 = 1_000_000;

/// What was seen at one place of the data.
#[derive(Debug, Default)]
pub struct Inference {
    boolean: bool,
    integer: bool,
    number: bool,
    /// All whole numbers so far were small.
    large: bool,
    text: bool,
    /// Not all texts were times.
    not_time: bool,
    items: Option<Box<Inference>>,
    /// Nothing: no object was seen.
    attributes: Option<BTreeMap<String, Inference>>,
    /// Of the attributes that one object had.
    most_attributes: usize,
}

impl Inference {
    /// Looks at one more value.
    pub fn add(&mut self, value: &Value) {
        self.add_at(value, 0);
    }

    fn add_at(&mut self, value: &Value, level: usize) {
        if level > LEVELS_MAX {
            return;
        }
        match value {
            Value::Null => {}
            Value::Bool(_) => self.boolean = true,
            Value::Number(number) if number.is_f64() => self.number = true,
            Value::Number(number) => {
                self.integer = true;
                self.large |= number.as_i64().is_none_or(|number| number.unsigned_abs() > SMALL);
            }
            Value::String(text) => {
                self.text = true;
                self.not_time |= Micros::parse_rfc3339(text).is_none();
            }
            Value::Array(items) => {
                let known = self.items.get_or_insert_default();
                items.iter().for_each(|item| known.add_at(item, level + 1));
            }
            Value::Object(object) => {
                let known = self.attributes.get_or_insert_default();
                self.most_attributes = self.most_attributes.max(object.len());
                for (name, value) in object {
                    if known.contains_key(name) || known.len() < ATTRIBUTES_MAX {
                        known.entry(name.clone()).or_default().add_at(value, level + 1);
                    }
                }
            }
        }
    }

    /// The schema of all that was seen; `{}` where it was nothing but null.
    pub fn schema(&self) -> Value {
        let mut types = Vec::new();
        let mut schema = Map::new();
        if self.boolean {
            types.push("boolean");
        }
        match (self.integer, self.number) {
            (_, true) => types.push("number"),
            (true, false) => {
                types.push("integer");
                if !self.large {
                    schema.insert("minimum".to_owned(), i32::MIN.into());
                    schema.insert("maximum".to_owned(), i32::MAX.into());
                }
            }
            (false, false) => {}
        }
        if self.text {
            types.push("string");
            if !self.not_time {
                schema.insert("format".to_owned(), "date-time".into());
            }
        }
        if let Some(items) = &self.items {
            types.push("array");
            schema.insert("items".to_owned(), items.schema());
        }
        if let Some(attributes) = &self.attributes {
            types.push("object");
            self.describe(attributes, &mut schema);
        }
        match types.as_slice() {
            [] => return json!({}),
            [only] => schema.insert("type".to_owned(), (*only).into()),
            several => schema.insert("type".to_owned(), several.into()),
        };
        Value::Object(schema)
    }

    fn describe(&self, attributes: &BTreeMap<String, Self>, schema: &mut Map<String, Value>) {
        let is_map = attributes.len() > MAP_ATTRIBUTES && attributes.len() > 3 * self.most_attributes;
        if is_map {
            schema.insert("additionalProperties".to_owned(), json!({}));
        } else {
            let properties = attributes.iter().map(|(name, seen)| (name.clone(), seen.schema()));
            schema.insert("properties".to_owned(), properties.collect::<Map<_, _>>().into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::shape::Shapes;

    fn infer(values: &[Value]) -> Value {
        let mut inference = Inference::default();
        values.iter().for_each(|value| inference.add(value));
        inference.schema()
    }

    #[test]
    fn what_was_seen_is_described() {
        let schema = infer(&[
            json!({ "id": "o-1", "at": "2026-01-31T12:00:00Z", "qty": 3, "serial": 9_000_000_000_i64, "lines": [] }),
            json!({ "id": "o-2", "at": null, "qty": 4, "price": 1.5, "lines": [{ "sku": "a" }], "mixed": 1 }),
            json!({ "mixed": "x", "price": 2, "nothing": null }),
        ]);
        let small = json!({ "type": "integer", "minimum": i32::MIN, "maximum": i32::MAX });
        let line = json!({ "type": "object", "properties": { "sku": { "type": "string" } } });
        let expected = json!({ "type": "object", "properties": {
            "id": { "type": "string" }, "at": { "type": "string", "format": "date-time" }, "qty": small,
            "serial": { "type": "integer" }, "price": { "type": "number" }, "nothing": {},
            "lines": { "type": "array", "items": line },
            "mixed": { "type": ["integer", "string"], "minimum": i32::MIN, "maximum": i32::MAX }
        } });
        assert_eq!(schema, expected);
        assert_eq!(Shapes::of(&[schema]).objects.len(), 2);
    }

    #[test]
    fn objects_whose_attributes_are_values_are_maps() {
        let values: Vec<Value> = (0..40).map(|n| json!({ "byCustomer": { format!("c-{n}"): n } })).collect();
        let map = json!({ "type": "object", "additionalProperties": {} });
        assert_eq!(infer(&values)["properties"]["byCustomer"], map);
        let mut deep = json!(1);
        for _ in 0..200 {
            deep = json!([deep]);
        }
        assert_eq!(infer(&[json!(i64::MIN)]), json!({ "type": "integer" }));
        assert!(infer(&[deep]).to_string().len() < 2_000);
    }
}
