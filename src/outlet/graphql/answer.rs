//! What a client gets: responses as text.

use async_graphql::{ServerError, Value, value};

use super::documents::Refusal;
use super::failure::{BAD_INPUT, Code, VALIDATION, coded};
use super::measure::COST_MAX;
use super::scalars::push_value;

/// The answer to one operation.
pub(super) enum Answer {
    /// It ran; `data` and `errors` say how.
    Ran(String),
    /// It did not run, or not to its end: `errors` without `data`.
    Refused(Code, String),
    /// It is no query, and only queries were allowed.
    NoQuery,
}

struct Response {
    errors: Vec<ServerError>,
    data: Option<Value>,
    extensions: Option<Value>,
}

impl Response {
    fn new(errors: Vec<ServerError>, data: Option<Value>, cost: Option<u64>) -> Self {
        let extensions = cost.map(|cost| value!({ "cost": { "requested": cost, "limit": COST_MAX } }));
        Self { errors, data, extensions }
    }

    fn text(&self) -> String {
        let mut text = String::from("{");
        if !self.errors.is_empty() {
            text.push_str("\"errors\":");
            text.push_str(&serde_json::to_string(&self.errors).expect("errors can be written"));
        }
        for (name, value) in [("\"data\":", &self.data), ("\"extensions\":", &self.extensions)] {
            if let Some(value) = value {
                text.push_str(if text.len() > 1 { "," } else { "" });
                text.push_str(name);
                push_value(&mut text, value);
            }
        }
        text.push('}');
        text
    }
}

pub(super) fn refused(refusal: Refusal, cost: Option<u64>) -> Answer {
    Answer::Refused(refusal.code, Response::new(refusal.errors, None, cost).text())
}

impl Refusal {
    /// As a response.
    pub(super) fn text(self) -> String {
        Response::new(self.errors, None, None).text()
    }
}

/// One result of an operation that has many.
pub(super) struct Part {
    /// Where the next one begins.
    pub(super) cursor: Option<String>,
    /// The response.
    pub(super) text: String,
}

/// A response as text; with a code if nothing ran.
pub(super) fn told(response: async_graphql::Response, cost: u64) -> (Option<Code>, String) {
    // What fails while it runs has a path.
    let ran = response.errors.iter().all(|error| !error.path.is_empty());
    let code = if ran { BAD_INPUT } else { VALIDATION };
    let errors = response.errors.into_iter().map(|error| coded(error, code)).collect();
    let text = Response::new(errors, ran.then_some(response.data), Some(cost)).text();
    ((!ran).then_some(code), text)
}
