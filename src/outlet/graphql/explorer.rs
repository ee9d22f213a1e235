//! The page at `GET /graphql`: a field for queries, examples made from the catalogue, the schema. Everything on it comes
//! from this gateway.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;

use super::types::Types;
use crate::catalogue::shape::Shape;
use crate::filter::Selection;
use crate::web::html::{self, escape};

const SCRIPT: &str = include_str!("explorer.js");
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// Event types that an example is made for.
const EXAMPLES_MAX: usize = 50;
/// Attributes of one object, and objects inside one another, that an example selects.
const ATTRIBUTES_MAX: usize = 12;
const LEVELS_MAX: usize = 3;

/// The newest events of any type: what stands in the field at first.
const NEWEST: &str =
    "{\n  events(last: 5) {\n    nodes { id type occurredAt dataJson }\n    pageInfo { startCursor }\n  }\n}";

/// `GET /graphql`, for people.
///
/// The types of events stand there as far as the caller sees them, and where it may ask for the schema.
pub(super) fn page(types: &Types, visible: Option<&Selection>) -> Response {
    let general = [
        ("the newest events", NEWEST.to_owned()),
        ("types of events", "{\n  eventTypes { name graphqlType count mismatchCount lastSeenAt }\n}".to_owned()),
        (
            "the journal and its sources",
            "{\n  journal { headCursor sources { name healthy lagSeconds } }\n}".to_owned(),
        ),
        (
            "events as they come",
            "subscription {\n  events(from: { origin: LATEST }) { cursor caughtUp events { id type } }\n}".to_owned(),
        ),
    ];
    let shows = |index: &usize| {
        let name = &types.events[*index].event_type;
        visible.is_some_and(|visible| visible.lets_type_through(name))
    };
    let typed = (0..types.events.len())
        .filter(shows)
        .take(EXAMPLES_MAX)
        .map(|index| (types.events[index].event_type.as_str(), example(types, index)));
    let items = general.into_iter().chain(typed).map(|(title, query)| {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        format!("<li><a href=\"?query={encoded}\">{}</a></li>", escape(title))
    });
    let body = format!(
        "<p>Point any GraphQL client at this URL, or ask here. Read-only.</p>\n\
         <form id=\"ask\" method=\"get\" action=\"/graphql\"><textarea name=\"query\" rows=\"14\" spellcheck=\"false\" \
         aria-label=\"query\">{}</textarea>\n<p><button>Run</button> or Ctrl-Enter</p></form>\n\
         <pre id=\"answer\" aria-live=\"polite\"></pre>\n<h2>Examples</h2><ul id=\"examples\">{}</ul>\n\
         <h2>Schema</h2><div id=\"schema\"></div>\n<script src=\"/graphql/explorer.js\" defer></script>",
        escape(NEWEST),
        items.collect::<String>()
    );
    let mut response = html::page("GraphQL", &body);
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    response
}

/// `GET /graphql/explorer.js`
pub(super) async fn script() -> Response {
    let kind = "text/javascript; charset=utf-8";
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "private, max-age=3600")], SCRIPT).into_response()
}

/// The newest events of one type with their data.
fn example(types: &Types, index: usize) -> String {
    let event = &types.events[index];
    let filter = serde_json::Value::from(event.event_type.as_str());
    let data = selection(types, &event.data, 0);
    let on = format!("... on {} {{ data{data} }}", event.name);
    format!("{{\n  events(last: 5, filter: {{ types: [{filter}] }}) {{\n    nodes {{ id occurredAt {on} }}\n  }}\n}}")
}

/// What an example selects of a value: nothing of what has no attributes.
fn selection(types: &Types, shape: &Shape, level: usize) -> String {
    match shape {
        Shape::List(item) => selection(types, item, level),
        Shape::Object(_) if level > LEVELS_MAX => " { __typename }".to_owned(),
        Shape::Object(index) => {
            let fields = types.objects[*index].fields.iter().take(2 * ATTRIBUTES_MAX).filter_map(|(name, field)| {
                let inner = selection(types, &field.shape, level + 1);
                let is_too_deep = level + 1 >= LEVELS_MAX && !inner.is_empty();
                (!is_too_deep).then(|| format!("{name}{inner}"))
            });
            let fields: Vec<String> = fields.take(ATTRIBUTES_MAX).collect();
            // Something must be selected.
            format!(" {{ {} }}", if fields.is_empty() { "__typename".to_owned() } else { fields.join(" ") })
        }
        _ => String::new(),
    }
}
