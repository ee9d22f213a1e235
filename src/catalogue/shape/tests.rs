//! Schemas and the shapes that they are read as.

use super::*;
use serde_json::json;

/// Each attribute on a line, objects inside braces.
fn shapes(versions: &[Value]) -> String {
    let shapes = Shapes::of(versions);
    let objects = shapes.objects.iter().map(|object| {
        let attributes: Vec<String> =
            object.attributes.iter().map(|a| format!("{}: {}", a.name, text(&a.shape))).collect();
        format!("{} {{{}}}", object.place.join("."), attributes.join(", "))
    });
    format!("{} = {}", text(&shapes.root), objects.collect::<Vec<_>>().join("; "))
}

fn text(shape: &Shape) -> String {
    match shape {
        Shape::List(item) => format!("[{}]", text(item)),
        Shape::Object(index) => format!("#{index}"),
        other => format!("{other:?}"),
    }
}

fn of(properties: Value) -> String {
    shapes(&[json!({ "properties": properties })])
}

#[test]
fn scalars_follow_types_bounds_and_formats() {
    let properties = json!({
        "a": { "type": "integer", "maximum": 100 }, "b": { "type": "integer" },
        "c": { "type": ["number", "null"] }, "d": { "type": "string", "format": "date-time" },
        "e": { "enum": ["x", "y", null] }, "f": { "const": 7 }, "g": { "type": ["integer", "number"] },
        "h": { "type": ["integer", "string"] }, "i": true, "j": false, "k": { "type": "boolean" }
    });
    let expected =
        "#0 =  {a: Int, b: Long, c: Float, d: Time, e: Text, f: Long, g: Float, h: Json, i: Json, k: Boolean}";
    assert_eq!(of(properties), expected);
}

#[test]
fn what_has_no_fixed_shape_is_json() {
    let map = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let tuple = json!({ "type": "array", "items": [{ "type": "string" }, { "type": "integer" }] });
    let either = json!({ "oneOf": [{ "type": "string" }, { "type": "object", "properties": { "x": true } }] });
    let remote = json!({ "$ref": "https://elsewhere.example/x.json" });
    let list = json!({ "type": "array" });
    let properties = json!({ "a": map, "b": tuple, "c": either, "d": remote, "e": list, "f": {} });
    assert_eq!(of(properties), "#0 =  {a: Json, b: [Json], c: Json, d: Json, e: [Json], f: Json}");
    let root = json!({ "oneOf": [{ "properties": { "a": true } }, { "properties": { "b": true } }] });
    assert_eq!(shapes(&[root]), "Json = ");
}

#[test]
fn alternatives_that_say_nothing_new_do_not_mix() {
    let nullable = json!({ "anyOf": [{ "type": "null" }, { "type": "string" }] });
    assert_eq!(of(json!({ "a": nullable })), "#0 =  {a: Text}");
    let one_required = json!({
        "type": "object", "properties": { "a": { "type": "string" }, "b": { "type": "string" } },
        "oneOf": [{ "required": ["a"] }, { "required": ["b"] }]
    });
    assert_eq!(shapes(&[one_required]), "#0 =  {a: Text, b: Text}");
}

#[test]
fn references_are_followed_and_may_be_recursive() {
    let schema = json!({
        "$defs": { "Money": { "type": "object", "properties": { "amount": { "type": "number" } } } },
        "properties": {
            "total": { "$ref": "#/$defs/Money" },
            "lines": { "type": "array", "items": { "properties": { "price": { "$ref": "#/$defs/Money" } } } },
            "parent": { "$ref": "#" }
        }
    });
    let expected = "#0 =  {total: #1, lines: [#2], parent: #0}; Money {amount: Float}; lines {price: #1}";
    assert_eq!(shapes(&[schema]), expected);
    let endless = json!({ "$defs": { "A": { "$ref": "#/$defs/A" } }, "properties": { "a": { "$ref": "#/$defs/A" } } });
    assert_eq!(shapes(&[endless]), "#0 =  {a: Json}");
    let nested =
        json!({ "$defs": { "A": { "type": "array", "items": { "$ref": "#/$defs/A" } } }, "$ref": "#/$defs/A" });
    let shape = shapes(&[nested]);
    assert!(shape.starts_with("[[[[") && shape.contains("[Json]]"), "{shape}");
}

#[test]
fn all_of_and_versions_are_merged() {
    let base = json!({ "type": "object", "properties": { "id": { "type": "string" } } });
    let schema = json!({
        "$defs": { "Base": base },
        "allOf": [{ "$ref": "#/$defs/Base" }, { "properties": { "qty": { "type": "integer" } } }]
    });
    assert_eq!(shapes(&[schema]), "#0 =  {id: Text, qty: Long}");
    let old =
        json!({ "properties": { "qty": { "type": "integer", "maximum": 9 }, "to": { "properties": { "a": true } } } });
    let new = json!({ "properties": { "qty": { "type": "integer" }, "to": { "properties": { "b": true } }, "by": { "type": "string" } } });
    assert_eq!(shapes(&[old, new]), "#0 =  {qty: Long, to: #1, by: Text}; to {a: Json, b: Json}");
}
