//! The engine: owns the schema, the limits and the running of operations. Only this folder knows which library it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apollo_compiler::Schema as CheckedSchema;
use apollo_compiler::validation::Valid;
use async_graphql::parser::types::{DocumentOperations, ExecutableDocument, OperationDefinition, OperationType};
use async_graphql::{EmptyMutation, SDLExportOptions, ValidationMode};
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Config;
use super::answer::{Answer, Part, refused, told};
use super::ask::Ask;
use super::caller::Caller;
use super::directory::Directory;
use super::documents::{self, Documents, Refusal, read_schema};
use super::event::{EventNode, with_types};
use super::failure::{Failure, TIMEOUT, VALIDATION};
use super::live::Live;
use super::measure;
use super::schema::Query;
use super::subscription;
use super::trusted::Trusted;
use super::types::Types;
use crate::catalogue::Catalogue;
use crate::event::Entry;
use crate::filter::Selection;
use crate::journal::Journal;
use crate::web::auth::Client;
use crate::web::traffic::Open;

/// Longest time for one operation.
const TIME_MAX: Duration = Duration::from_secs(10);

type EngineSchema = async_graphql::Schema<Query, EmptyMutation, subscription::Root>;

/// The schema of a configuration.
pub struct Schema {
    types: Arc<Types>,
    schema: EngineSchema,
    /// The same for the validator.
    checked: Valid<CheckedSchema>,
}

impl Schema {
    /// The schema for this catalogue.
    ///
    /// # Errors
    /// A sentence on event types whose names can't both be names of types.
    pub fn new(catalogue: &Catalogue) -> Result<Self, String> {
        let without = Self::built(Arc::default())?;
        let reserved: BTreeSet<String> = without.checked.types.keys().map(ToString::to_string).collect();
        let types = Arc::new(Types::new(catalogue, &reserved)?);
        Self::built(types).map_err(|cause| format!("the catalogue makes no GraphQL schema: {cause}"))
    }

    fn built(types: Arc<Types>) -> Result<Self, String> {
        let build = || EngineSchema::build(Query, EmptyMutation, subscription::Root);
        // Documents are validated before they come here.
        let schema = with_types(&types, build).validation_mode(ValidationMode::Fast).finish();
        let checked = read_schema(&sorted(&schema))?;
        Ok(Self { types, schema, checked })
    }

    /// The trusted documents that are not valid under it, with the first of what is wrong.
    ///
    /// # Errors
    /// A manifest that can't be read.
    pub fn document_faults(&self, config: &Config) -> Result<Vec<(String, String)>, String> {
        let trusted = Trusted::read(config)?;
        Ok(Documents::new(self.checked.clone(), config.introspection).faults(&trusted))
    }

    /// The schema as text: sorted, so that equal schemas have equal texts.
    pub fn sdl(&self) -> String {
        sorted(&self.schema)
    }
}

fn sorted(schema: &EngineSchema) -> String {
    let options = SDLExportOptions::new().sorted_fields().sorted_arguments().sorted_enum_items();
    schema.sdl_with_options(options.include_specified_by().use_space_ident())
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Engine {
    schema: Arc<Schema>,
    pub(super) documents: Arc<Documents>,
    trusted: Arc<Trusted>,
    directory: Arc<Directory>,
    journal: Journal,
    pub(super) live: Live,
}

impl Engine {
    /// # Errors
    /// A manifest that can't be read.
    pub(super) fn new(journal: Journal, schema: Schema, directory: Directory, config: &Config) -> Result<Self, String> {
        let documents = Arc::new(Documents::new(schema.checked.clone(), config.introspection));
        let (live, trusted) = (Live::default(), Arc::new(Trusted::read(config)?));
        for (id, fault) in documents.faults(&trusted) {
            warn!("the trusted document `{id}` is not valid any more and will be refused: {fault}");
        }
        Ok(Self { schema: Arc::new(schema), documents, trusted, directory: Arc::new(directory), journal, live })
    }

    /// Runs one operation, with what `selection` lets through. Never fails: what goes wrong is in the answer.
    pub(super) async fn answer(&self, mut ask: Ask, selection: Selection, only_queries: bool) -> Answer {
        let prepared = match self.prepare(&mut ask) {
            Ok(prepared) => prepared,
            Err(_) if only_queries && !self.is_query(&ask) => return Answer::NoQuery,
            Err(refusal) => return refused(refusal, None),
        };
        let cost = prepared.cost;
        if prepared.is_subscription && only_queries {
            return Answer::NoQuery;
        }
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
        mut ask: Ask,
        client: &Client,
        resumed_from: Option<String>,
    ) -> Result<BoxStream<'static, Part>, Refusal> {
        let permit = self.live.open(&client.name)?;
        let prepared = self.prepare(&mut ask)?;
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
        let open = (permit, Open::Subscription.count());
        let responses = self.schema.schema.execute_stream(prepared.request.data(caller.clone()));
        Ok(responses
            .map(move |response| {
                let _open = &open;
                Part { cursor: caller.reached(), text: told(response, cost).1 }
            })
            .boxed())
    }

    /// Whether the operation of a document that was refused is a query, as far as that can be read.
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

    /// Whoever asks of one event that is given.
    pub(super) fn caller_for(&self, selection: Selection, entry: &Entry) -> Arc<Caller> {
        let (types, directory, documents) = (self.schema.types.clone(), self.directory.clone(), self.documents.clone());
        let caller = Caller::new(self.journal.clone(), types, directory, documents, selection, None);
        Arc::new(caller.with(EventNode(Arc::new(entry.clone()))))
    }

    pub(super) async fn execute(&self, request: async_graphql::Request) -> async_graphql::Response {
        self.schema.schema.execute(request).await
    }

    /// Everything before the journal is read. Takes the variables.
    fn prepare(&self, ask: &mut Ask) -> Result<Prepared, Refusal> {
        let given = ask.variables.take().unwrap_or_default().0;
        let document = self.documents.get(self.trusted.text(ask)?)?;
        let operation = operation(&document.parsed, ask.operation_name.as_deref())?;
        let variables = self.documents.variables(&document, ask.operation_name.as_deref(), given)?;
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
