//! The engine: owns the schema, the limits and the running of operations. Only this folder knows which library it is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationDefinition, OperationType};
use async_graphql::{EmptyMutation, SDLExportOptions, ServerError, ValidationMode, Value, value};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Config;
use super::caller::Caller;
use super::directory::Directory;
use super::documents::{self, Documents, Refusal, read_schema};
use super::event::with_types;
use super::failure::{BAD_INPUT, Code, Failure, TIMEOUT, VALIDATION, coded};
use super::live::Live;
use super::measure::{self, COST_MAX};
use super::scalars::push_value;
use super::schema::Query;
use super::subscription;
use super::trusted::Trusted;
use super::types::Types;
use crate::catalogue::Catalogue;
use crate::filter::Selection;
use crate::journal::Journal;
use crate::json::Plain;
use crate::web::auth::Client;

/// Longest time for one operation.
const TIME_MAX: Duration = Duration::from_secs(10);

/// What a client sends.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ask {
    pub(super) query: Option<String>,
    document_id: Option<String>,
    pub(super) operation_name: Option<String>,
    /// An object.
    pub(super) variables: Option<Members>,
    pub(super) extensions: Option<Extensions>,
}

/// A JSON object, read as [`Plain`] values are.
#[derive(Default, Deserialize)]
pub(super) struct Members(BTreeMap<String, Plain>);

/// Those that are known; others are ignored.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Extensions {
    persisted_query: Option<PersistedQuery>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PersistedQuery {
    sha256_hash: String,
}

impl Ask {
    /// The id of a trusted document: as the draft of GraphQL over HTTP has it, or as Apollo's clients do.
    pub(super) fn document_id(&self) -> Option<&str> {
        let persisted = self.extensions.as_ref().and_then(|extensions| extensions.persisted_query.as_ref());
        self.document_id.as_deref().or_else(|| persisted.map(|persisted| persisted.sha256_hash.as_str()))
    }

    pub(super) fn set_document_id(&mut self, id: String) {
        self.document_id = Some(id);
    }

    /// Whether there is anything to answer.
    pub(super) fn asks(&self) -> bool {
        self.query.is_some() || self.document_id().is_some()
    }
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

fn refused(refusal: Refusal, cost: Option<u64>) -> Answer {
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

type EngineSchema = async_graphql::Schema<Query, EmptyMutation, subscription::Root>;

/// The schema of a configuration.
pub struct Schema {
    types: Arc<Types>,
    schema: EngineSchema,
}

impl Schema {
    /// The schema for this catalogue.
    ///
    /// # Errors
    /// A sentence on event types whose names can't both be names of types.
    pub fn new(catalogue: &Catalogue) -> Result<Self, String> {
        let without = Self::built(Arc::default());
        let reserved: BTreeSet<String> = read_schema(&without.sdl())?.types.keys().map(ToString::to_string).collect();
        let schema = Self::built(Arc::new(Types::new(catalogue, &reserved)?));
        read_schema(&schema.sdl()).map_err(|cause| format!("the catalogue makes no GraphQL schema: {cause}"))?;
        Ok(schema)
    }

    fn built(types: Arc<Types>) -> Self {
        let build = || EngineSchema::build(Query, EmptyMutation, subscription::Root);
        // Documents are validated before they come here.
        let schema = with_types(&types, build).validation_mode(ValidationMode::Fast).finish();
        Self { types, schema }
    }

    /// The trusted documents that are not valid under it, with the first of what is wrong.
    ///
    /// # Errors
    /// A manifest that can't be read.
    pub fn document_faults(&self, config: &Config) -> Result<Vec<(String, String)>, String> {
        let trusted = Trusted::read(config)?;
        Ok(Documents::new(read_schema(&self.sdl())?, config.introspection).faults(&trusted))
    }

    /// The schema as text: sorted, so that equal schemas have equal texts.
    pub fn sdl(&self) -> String {
        let options = SDLExportOptions::new().sorted_fields().sorted_arguments().sorted_enum_items();
        self.schema.sdl_with_options(options.include_specified_by().use_space_ident())
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine {
    schema: Arc<Schema>,
    documents: Arc<Documents>,
    trusted: Arc<Trusted>,
    directory: Arc<Directory>,
    journal: Journal,
    pub(super) live: Live,
}

impl Engine {
    /// # Errors
    /// A schema that can't be used.
    pub(super) fn new(journal: Journal, schema: Schema, directory: Directory, config: &Config) -> Result<Self, String> {
        let documents = Arc::new(Documents::new(read_schema(&schema.sdl())?, config.introspection));
        let (live, trusted) = (Live::default(), Arc::new(Trusted::read(config)?));
        for (id, fault) in documents.faults(&trusted) {
            warn!("the trusted document `{id}` is not valid any more and will be refused: {fault}");
        }
        Ok(Self { schema: Arc::new(schema), documents, trusted, directory: Arc::new(directory), journal, live })
    }

    /// Runs one operation, with what `selection` lets through. Never fails: what goes wrong is in the answer.
    pub(super) async fn answer(&self, ask: Ask, selection: Selection, only_queries: bool) -> Answer {
        if only_queries && !self.is_query(&ask) {
            return Answer::NoQuery;
        }
        let prepared = match self.prepare(ask) {
            Ok(prepared) => prepared,
            Err(refusal) => return refused(refusal, None),
        };
        let cost = prepared.cost;
        if prepared.is_subscription {
            let detail = "a subscription is answered as text/event-stream or over a WebSocket (graphql-transport-ws)";
            return refused(Failure::input(detail).into(), Some(cost));
        }
        self.run(prepared.request.data(self.caller(selection, None)), cost).await
    }

    async fn run(&self, request: async_graphql::Request, cost: u64) -> Answer {
        let Ok(response) = tokio::time::timeout(TIME_MAX, self.schema.schema.execute(request)).await else {
            let detail = format!("gave up after {} seconds; ask for less", TIME_MAX.as_secs());
            return refused(Failure::new(TIMEOUT, detail).into(), Some(cost));
        };
        match told(response, cost) {
            (None, text) => Answer::Ran(text),
            (Some(code), text) => Answer::Refused(code, text),
        }
    }

    /// Runs one operation of any kind; a subscription goes on after `resumed_from`, whatever it says itself.
    ///
    /// # Errors
    /// What keeps it from running.
    pub(super) fn stream(
        &self,
        ask: Ask,
        client: &Client,
        resumed_from: Option<String>,
    ) -> Result<BoxStream<'static, Part>, Refusal> {
        let permit = self.live.open(&client.name)?;
        let prepared = self.prepare(ask)?;
        let (engine, cost) = (self.clone(), prepared.cost);
        let caller = self.caller(client.visible.clone(), resumed_from);
        if !prepared.is_subscription {
            let answer = async move {
                let _open = permit;
                let text = match engine.run(prepared.request.data(caller), cost).await {
                    Answer::Ran(text) | Answer::Refused(_, text) => text,
                    Answer::NoQuery => String::new(),
                };
                Part { cursor: None, text }
            };
            return Ok(stream::once(answer).boxed());
        }
        let responses = self.schema.schema.execute_stream(prepared.request.data(caller.clone()));
        Ok(responses
            .map(move |response| {
                let _open = &permit;
                Part { cursor: caller.reached(), text: told(response, cost).1 }
            })
            .boxed())
    }

    /// Whether the operation is a query, as far as that can be read.
    fn is_query(&self, ask: &Ask) -> bool {
        let document = self.trusted.text(ask).ok().and_then(|text| documents::parse(text).ok());
        let operation = document.as_ref().and_then(|document| operation(document, ask.operation_name.as_deref()).ok());
        operation.is_none_or(|operation| operation.ty == OperationType::Query)
    }

    /// Whether anybody may ask for the schema.
    pub(super) fn shows_schema(&self) -> bool {
        self.documents.introspection && !self.trusted.only
    }

    pub(super) fn types(&self) -> &Types {
        &self.schema.types
    }

    pub(super) fn public_url(&self) -> &str {
        &self.directory.public_url
    }

    /// Resolves when the gateway stops.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.directory.stopping.clone()
    }

    fn caller(&self, selection: Selection, resumed_from: Option<String>) -> Arc<Caller> {
        let (types, directory, documents) = (self.schema.types.clone(), self.directory.clone(), self.documents.clone());
        Arc::new(Caller::new(self.journal.clone(), types, directory, documents, selection, resumed_from))
    }

    /// Everything before the journal is read.
    fn prepare(&self, ask: Ask) -> Result<Prepared, Refusal> {
        let document = self.documents.get(self.trusted.text(&ask)?)?;
        let operation = operation(&document.parsed, ask.operation_name.as_deref())?;
        let variables =
            self.documents.variables(&document, ask.operation_name.as_deref(), ask.variables.unwrap_or_default().0)?;
        let cost = measure::cost(&document.parsed, operation, &variables, &self.documents.extent)?;
        let is_subscription = operation.ty == OperationType::Subscription;
        let normal = self.documents.normal(&document, operation, &variables);
        let mut request = async_graphql::Request::new(String::new()).variables(variables);
        request.set_parsed_query(normal);
        Ok(Prepared { request, is_subscription, cost })
    }
}

/// An operation that may run.
struct Prepared {
    request: async_graphql::Request,
    is_subscription: bool,
    cost: u64,
}

/// A response as text; with a code if nothing ran.
fn told(response: async_graphql::Response, cost: u64) -> (Option<Code>, String) {
    // What fails while it runs has a path.
    let ran = response.errors.iter().all(|error| !error.path.is_empty());
    let code = if ran { BAD_INPUT } else { VALIDATION };
    let errors = response.errors.into_iter().map(|error| coded(error, code)).collect();
    let text = Response::new(errors, ran.then_some(response.data), Some(cost)).text();
    ((!ran).then_some(code), text)
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
