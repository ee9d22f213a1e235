//! `GET /docs`: the OpenAPI document as a page. Made from `openapi.json` alone, with nothing from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

use super::html::{self, escape};
use super::openapi;

/// In the order in which a page lists what one URL answers to.
const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

/// The page of a gateway that is reached at this URL.
pub fn page(public_url: &str) -> String {
    let document: Value = serde_json::from_str(&openapi::document(public_url)).expect("a test reads openapi.json");
    let info = &document["info"];
    let mut body = format!(
        "<p>{}</p>\n<p>{}</p>\n<p>Version {}. For programs: <a href=\"/openapi.json\">openapi.json</a>.</p>\n<nav aria-label=\"Contents\"><ul>",
        inline(&info["summary"]),
        inline(&info["description"]),
        text(&info["version"])
    );
    let tags = list(&document["tags"]);
    for tag in tags {
        let _ = write!(body, "<li><a href=\"#{0}\">{0}</a>: {1}</li>", text(&tag["name"]), inline(&tag["description"]));
    }
    body.push_str("<li><a href=\"#schemas\">schemas</a>: what is sent and answered.</li></ul></nav>\n");
    for tag in tags {
        let _ = write!(body, "<h2 id=\"{0}\">{0}</h2>\n<p>{1}</p>\n", text(&tag["name"]), inline(&tag["description"]));
        push_operations(&mut body, &document, &tag["name"]);
    }
    body.push_str("<h2 id=\"schemas\">schemas</h2>\n");
    for (name, schema) in members(&document["components"]["schemas"]) {
        push_schema(&mut body, name, schema);
    }
    html::document("API of this gateway", &body)
}

fn push_operations(body: &mut String, document: &Value, tag: &Value) {
    for (path, item) in members(&document["paths"]).chain(members(&document["webhooks"])) {
        for method in METHODS {
            let operation = &item[method];
            if operation["tags"].as_array().is_some_and(|tags| tags.contains(tag)) {
                push_operation(body, document, (method, path), item, operation);
            }
        }
    }
}

fn push_operation(body: &mut String, document: &Value, (method, path): (&str, &str), item: &Value, operation: &Value) {
    let id = text(&operation["operationId"]);
    // A call that the gateway makes has a name instead of a path.
    let line = if path.starts_with('/') { format!("{} {path}", method.to_uppercase()) } else { path.to_owned() };
    let _ = write!(
        body,
        "<h3 id=\"{id}\"><code>{}</code></h3>\n<p>{}. {}</p>\n",
        escape(&line),
        inline(&operation["summary"]),
        inline(&operation["description"])
    );
    let parameters: Vec<&Value> = list(&item["parameters"]).iter().chain(list(&operation["parameters"])).collect();
    if !parameters.is_empty() {
        body.push_str(
            "<table><tr><th scope=\"col\">parameter</th><th scope=\"col\">in</th><th scope=\"col\">is</th></tr>",
        );
        for parameter in parameters {
            let parameter = followed(document, parameter);
            let required = if parameter["required"] == true { ", required" } else { "" };
            let _ = write!(
                body,
                "<tr><td><code>{}</code></td><td>{}{required}</td><td>{} {}</td></tr>",
                text(&parameter["name"]),
                text(&parameter["in"]),
                kind(&parameter["schema"]),
                inline(&parameter["description"])
            );
        }
        body.push_str("</table>\n");
    }
    let request = followed(document, &operation["requestBody"]);
    if request.is_object() {
        let _ = writeln!(body, "<p>Body: {} {}</p>", content(request), inline(&request["description"]));
    }
    body.push_str("<table><tr><th scope=\"col\">answer</th><th scope=\"col\">means</th></tr>");
    for (status, response) in members(&operation["responses"]) {
        let whole = followed(document, response);
        let described = [&response["description"], &whole["description"]].into_iter().find(|text| text.is_string());
        let described = described.map_or(String::new(), inline);
        let _ = write!(body, "<tr><td>{}</td><td>{described} {}</td></tr>", escape(status), content(whole));
    }
    body.push_str("</table>\n");
}

fn push_schema(body: &mut String, name: &str, schema: &Value) {
    let name = escape(name);
    let _ = write!(body, "<h3 id=\"schema-{name}\">{name}</h3>\n<p>{}</p>\n", inline(&schema["description"]));
    if members(&schema["properties"]).next().is_some() {
        body.push_str("<table><tr><th scope=\"col\">attribute</th><th scope=\"col\">is</th></tr>");
        for (attribute, of) in members(&schema["properties"]) {
            let is_required = list(&schema["required"]).iter().any(|required| required == attribute);
            let mut about = kind(of);
            for (holds, word) in [(is_required, "always there"), (of["readOnly"] == true, "read-only")] {
                if holds {
                    let _ = write!(about, ", {word}");
                }
            }
            let _ = write!(
                body,
                "<tr><td><code>{}</code></td><td>{about}. {}</td></tr>",
                escape(attribute),
                inline(&of["description"])
            );
        }
        body.push_str("</table>\n");
    } else {
        let _ = writeln!(body, "<p>{}</p>", kind(schema));
    }
    let whole = serde_json::to_string_pretty(schema).unwrap_or_default();
    let _ = writeln!(body, "<details><summary>as JSON Schema</summary><pre>{}</pre></details>", escape(&whole));
}

/// The media types of a body, each with what it holds.
fn content(of: &Value) -> String {
    let each = |(name, media): (&str, &Value)| {
        let is_known = media["schema"]["$ref"].is_string();
        let holds = if is_known { format!(": {}", kind(&media["schema"])) } else { String::new() };
        format!("<code>{}</code>{holds}", escape(name))
    };
    members(&of["content"]).map(each).collect::<Vec<_>>().join(", ")
}

/// What a schema allows, in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        return format!("<a href=\"#schema-{0}\">{0}</a>", escape(name));
    }
    let alternatives = [&schema["oneOf"], &schema["anyOf"]].into_iter().flat_map(list).map(kind);
    let values = list(&schema["enum"]).iter().chain((!schema["const"].is_null()).then_some(&schema["const"]));
    let values = values.map(|value| format!("<code>{}</code>", escape(&value.to_string())));
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect(),
        Value::String(name) if name == "array" => vec![format!("list of {}", kind(&schema["items"]))],
        Value::String(name) => vec![escape(name)],
        _ => Vec::new(),
    };
    let said: Vec<String> = alternatives.chain(values).collect();
    let said = if said.is_empty() { types } else { said };
    let format = schema["format"].as_str().map_or(String::new(), |format| format!(" ({})", escape(format)));
    if said.is_empty() { "any JSON".to_owned() } else { format!("{}{format}", said.join(" or ")) }
}

/// Where a reference leads, else the value itself.
fn followed<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let target = value["$ref"].as_str().and_then(|target| target.strip_prefix('#'));
    target.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or_default())
}

/// Text whose backticks mark code.
fn inline(value: &Value) -> String {
    let parts = value.as_str().unwrap_or_default().split('`').enumerate();
    let part = |(n, text): (usize, &str)| {
        if n % 2 == 1 { format!("<code>{}</code>", escape(text)) } else { escape(text) }
    };
    parts.map(part).collect()
}
