//! The engine: owns the schema, the limits and the running of operations. Only this folder knows which library it is.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationDefinition, OperationType};
use async_graphql::{EmptyMutation, EmptySubscription, SDLExportOptions, Schema, ServerError, Value, Variables, value};
use serde::{Deserialize, Serialize};

use super::Config;
use super::failure::{BAD_INPUT, Code, Failure, PARSE, TIMEOUT, VALIDATION, coded};
use super::measure::{COST_MAX, measure, scan};
use super::schema::{Caller, Query};
use crate::filter::Selection;
use crate::journal::Journal;

/// Longest time for one operation.
const TIME_MAX: Duration = Duration::from_secs(10);

/// What a client sends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ask {
    pub(super) query: String,
    pub(super) operation_name: Option<String>,
    #[serde(default)]
    pub(super) variables: Variables,
    /// Read and ignored, but it must be an object.
    pub(super) extensions: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

/// The answer to one operation.
pub(super) enum Answer {
    /// It ran; `data` and `errors` say how.
    Ran(String),
    /// It did not run, or not to its end: `errors` without `data`.
    Refused(Code, String),
    /// It is no query, and only queries were allowed.
    NoQuery,
}

#[derive(Serialize)]
struct Document {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ServerError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<Value>,
}

impl Document {
    fn new(errors: Vec<ServerError>, data: Option<Value>, cost: Option<u64>) -> Self {
        let extensions = cost.map(|cost| value!({ "cost": { "requested": cost, "limit": COST_MAX } }));
        Self { errors, data, extensions }
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("keys are strings and numbers are finite")
    }
}

fn refused(failure: Failure, cost: Option<u64>) -> Answer {
    let code = failure.code;
    Answer::Refused(code, Document::new(vec![failure.into()], None, cost).text())
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine {
    schema: Schema<Query, EmptyMutation, EmptySubscription>,
    journal: Journal,
    introspection: bool,
}

fn schema() -> Schema<Query, EmptyMutation, EmptySubscription> {
    Schema::build(Query, EmptyMutation, EmptySubscription).finish()
}

/// The schema as text: sorted, so that equal schemas have equal texts.
pub(super) fn sdl() -> String {
    let options = SDLExportOptions::new().sorted_fields().sorted_arguments().sorted_enum_items();
    schema().sdl_with_options(options.include_specified_by().use_space_ident())
}

impl Engine {
    pub(super) fn new(journal: Journal, config: &Config) -> Self {
        Self { schema: schema(), journal, introspection: config.introspection }
    }

    /// Runs one operation, with what `selection` lets through. Never fails: what goes wrong is in the answer.
    pub(super) async fn answer(&self, ask: Ask, selection: Selection, only_queries: bool) -> Answer {
        let document = match parse(&ask.query) {
            Ok(document) => document,
            Err(error) => return Answer::Refused(PARSE, Document::new(vec![error], None, None).text()),
        };
        let operation = match operation(&document, ask.operation_name.as_deref()) {
            Ok(operation) => operation,
            Err(failure) => return refused(failure, None),
        };
        if only_queries && operation.ty != OperationType::Query {
            return Answer::NoQuery;
        }
        let measured = measure(&document, operation, &ask.variables, self.introspection);
        let cost = match measured.and_then(|cost| required(operation, &ask.variables).map(|()| cost)) {
            Ok(cost) => cost,
            Err(failure) => return refused(failure, None),
        };
        let caller = Caller { journal: self.journal.clone(), selection, payload_bytes: AtomicUsize::new(0) };
        let mut request = async_graphql::Request::new(ask.query).variables(ask.variables).data(caller);
        request.operation_name = ask.operation_name;
        request.set_parsed_query(document);
        let Ok(response) = tokio::time::timeout(TIME_MAX, self.schema.execute(request)).await else {
            let detail = format!("gave up after {} seconds; ask for less", TIME_MAX.as_secs());
            return refused(Failure::new(TIMEOUT, detail), Some(cost));
        };
        // What fails while it runs has a path.
        let ran = response.errors.iter().all(|error| !error.path.is_empty());
        let code = if ran { BAD_INPUT } else { VALIDATION };
        let errors = response.errors.into_iter().map(|error| coded(error, code)).collect();
        let text = Document::new(errors, ran.then_some(response.data), Some(cost)).text();
        if ran { Answer::Ran(text) } else { Answer::Refused(code, text) }
    }
}

fn parse(text: &str) -> Result<ExecutableDocument, ServerError> {
    scan(text)?;
    parse_query(text).map_err(|error| coded(error.into(), PARSE))
}

/// The operation that is meant.
fn operation<'a>(document: &'a ExecutableDocument, name: Option<&str>) -> Result<&'a OperationDefinition, Failure> {
    let found = match (&document.operations, name) {
        (DocumentOperations::Single(operation), None) => Some(operation),
        (DocumentOperations::Multiple(operations), Some(name)) => operations.get(name),
        (DocumentOperations::Multiple(operations), None) if operations.len() == 1 => operations.values().next(),
        _ => None,
    };
    let unknown = || match name {
        Some(name) => Failure::new(VALIDATION, format!("the document has no operation `{name}`")),
        None => Failure::new(VALIDATION, "the document has several operations; name one in `operationName`"),
    };
    found.map(|operation| &operation.node).ok_or_else(unknown)
}

/// Refuses a required variable that is missing or null: the engine would read it as null.
fn required(operation: &OperationDefinition, variables: &Variables) -> Result<(), Failure> {
    for definition in operation.variable_definitions.iter().map(|definition| &definition.node) {
        let given = variables.get(&definition.name.node);
        let is_given = given.map_or(definition.default_value.is_some(), |value| *value != Value::Null);
        if !definition.var_type.node.nullable && !is_given {
            let (name, kind) = (&definition.name, &definition.var_type);
            return Err(Failure::input(format!("the variable `${name}` must have a value of type {kind}")));
        }
    }
    Ok(())
}
