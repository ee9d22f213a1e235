//! Documents: parsed, bounded and validated once, then kept.
//!
//! Two libraries read each document: `apollo-compiler` says whether it is valid, as its verdicts are those of the
//! specification, and the engine's parser makes what is run.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use apollo_compiler::ExecutableDocument as Checked;
use apollo_compiler::ast::Value as Literal;
use apollo_compiler::executable::{Field as CheckedField, Operation};
use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::response::{GraphQLError, JsonMap};
use apollo_compiler::schema::{ExtendedType, Schema};
use apollo_compiler::validation::Valid;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{ExecutableDocument, Field, OperationDefinition, SelectionSet};
use async_graphql::{Pos, Positioned, ServerError, Variables};

use super::failure::{BAD_INPUT, Code, Failure, INTERNAL, PARSE, VALIDATION, coded};
use super::measure::{self, Extent};
use super::normal::Normal;
use super::trusted::Trusted;
use crate::json::Plain;

/// Bytes of text of all kept documents; what was parsed of them takes some fifty times as much.
const KEPT_BYTES_MAX: usize = 512 * 1024;
/// A longer document is validated each time.
const KEPT_DOCUMENT_BYTES_MAX: usize = 16 * 1024;
/// Errors that one document is told of.
const ERRORS_MAX: usize = 20;

/// A document that may run.
pub(super) struct Document {
    pub(super) parsed: ExecutableDocument,
    checked: Valid<Checked>,
    /// The normal form, where no variable changes it and there is one operation.
    normal: Option<ExecutableDocument>,
}

/// Why a document can't be used.
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) errors: Vec<ServerError>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, errors: vec![failure.into()] }
    }
}

#[derive(Default)]
struct Kept {
    documents: HashMap<Arc<str>, Arc<Document>>,
    /// The oldest first.
    order: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Kept {
    fn insert(&mut self, text: &str, document: &Arc<Document>) {
        if text.len() > KEPT_DOCUMENT_BYTES_MAX || self.documents.contains_key(text) {
            return;
        }
        let text: Arc<str> = text.into();
        self.bytes += text.len();
        self.order.push_back(text.clone());
        self.documents.insert(text, document.clone());
        while self.bytes > KEPT_BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.bytes -= oldest.len();
            self.documents.remove(&oldest);
        }
    }
}

/// All documents that this schema was asked with.
pub(super) struct Documents {
    schema: Valid<Schema>,
    pub(super) introspection: bool,
    pub(super) extent: Extent,
    kept: Mutex<Kept>,
}

/// The schema of an SDL.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read_schema(sdl: &str) -> Result<Valid<Schema>, String> {
    Schema::parse_and_validate(sdl, "schema.graphql").map_err(|error| error.to_string())
}

pub(super) fn parse(text: &str) -> Result<ExecutableDocument, Refusal> {
    measure::scan(text)?;
    parse_query(text).map_err(|error| Refusal { code: PARSE, errors: vec![coded(error.into(), PARSE)] })
}

impl Documents {
    pub(super) fn new(schema: Valid<Schema>, introspection: bool) -> Self {
        let fields = |kind: &ExtendedType| match kind {
            ExtendedType::Object(object) => object.fields.len(),
            ExtendedType::Interface(interface) => interface.fields.len(),
            ExtendedType::InputObject(object) => object.fields.len(),
            _ => 0,
        };
        let extent = Extent { types: schema.types.len(), fields: schema.types.values().map(fields).sum() };
        Self { schema, introspection, extent, kept: Mutex::default() }
    }

    /// The document of this text.
    pub(super) fn get(&self, text: &str) -> Result<Arc<Document>, Refusal> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(document) = kept().documents.get(text) {
            return Ok(document.clone());
        }
        let document = Arc::new(self.read(text)?);
        kept().insert(text, &document);
        Ok(document)
    }

    /// The trusted documents that are not valid, by id, with the first of what is wrong.
    pub(super) fn faults(&self, trusted: &Trusted) -> Vec<(String, String)> {
        let fault = |(id, text): (&str, &str)| {
            let refusal = self.get(text).err()?;
            let message = refusal.errors.into_iter().next().map(|error| error.message);
            Some((id.to_owned(), message.unwrap_or_default()))
        };
        let mut faults: Vec<_> = trusted.iter().filter_map(fault).collect();
        faults.sort();
        faults
    }

    fn read(&self, text: &str) -> Result<Document, Refusal> {
        let parsed = parse(text)?;
        measure::check(&parsed, self.introspection)?;
        let checked = Checked::parse_and_validate(&self.schema, text, "document.graphql").map_err(|invalid| {
            let errors = invalid.errors.iter().take(ERRORS_MAX).map(|error| told(error.to_json(), VALIDATION));
            Refusal { code: VALIDATION, errors: errors.collect() }
        })?;
        let wrong: Vec<ServerError> =
            checked.operations.iter().flat_map(|operation| self.one_of(&checked, operation)).take(ERRORS_MAX).collect();
        if !wrong.is_empty() {
            return Err(Refusal { code: VALIDATION, errors: wrong });
        }
        // Nothing is skipped where there is no directive.
        let mut operations = parsed.operations.iter();
        let normal = match (operations.next(), operations.next()) {
            (Some((_, only)), None) if !text.contains('@') => {
                Some(self.normalised(&parsed, &only.node, &Variables::default()))
            }
            _ => None,
        };
        Ok(Document { parsed, checked, normal })
    }

    /// The variables of the operation with this name, coerced to their types, with their defaults.
    pub(super) fn variables(
        &self,
        document: &Document,
        operation: Option<&str>,
        given: BTreeMap<String, Plain>,
    ) -> Result<Variables, Refusal> {
        let Ok(operation) = document.checked.operations.get(operation) else {
            return Err(Failure::new(INTERNAL, "the document's operations are not those that were parsed").into());
        };
        if operation.variables.is_empty() {
            return Ok(Variables::default());
        }
        let given: JsonMap = given.into_iter().map(|(name, value)| (name.into(), value.0.into())).collect();
        let coerced = coerce_variable_values(&self.schema, operation, &given).map_err(|error| {
            let error = told(error.to_graphql_error(&document.checked.sources), BAD_INPUT);
            Refusal { code: BAD_INPUT, errors: vec![error] }
        })?;
        for definition in &operation.variables {
            let value = coerced.get(definition.name.as_str()).and_then(|value| value.as_object());
            if let Some(value) = value.filter(|_| self.is_one_of(definition.ty.inner_named_type()))
                && (value.len() != 1 || value.values().any(|value| value.is_null()))
            {
                return Err(Failure::input(exactly_one(&format!("the variable `${}`", definition.name))).into());
            }
        }
        let coerced = serde_json::to_value(&*coerced).unwrap_or_default();
        Ok(Variables::from_json(coerced))
    }

    /// The document of an operation alone, in its normal form.
    pub(super) fn normal(
        &self,
        document: &Document,
        operation: &OperationDefinition,
        variables: &Variables,
    ) -> ExecutableDocument {
        match &document.normal {
            Some(normal) => normal.clone(),
            None => self.normalised(&document.parsed, operation, variables),
        }
    }

    fn normalised(
        &self,
        parsed: &ExecutableDocument,
        operation: &OperationDefinition,
        variables: &Variables,
    ) -> ExecutableDocument {
        Normal { schema: &self.schema, fragments: &parsed.fragments, variables }.document(operation)
    }

    /// One field of an object of this type that selects what all of them do. They are in their normal form.
    pub(super) fn merged(&self, r#type: &str, fields: &[&Positioned<Field>]) -> Positioned<Field> {
        let (fragments, variables) = Default::default();
        let normal = Normal { schema: &self.schema, fragments: &fragments, variables: &variables };
        let sets: Vec<&SelectionSet> = fields.iter().map(|field| &field.node.selection_set.node).collect();
        let mut field = fields[0].clone();
        field.node.selection_set.node = normal.merged(r#type, &sets);
        field
    }

    fn is_one_of(&self, r#type: &str) -> bool {
        matches!(self.schema.types.get(r#type), Some(ExtendedType::InputObject(object)) if object.directives.has("oneOf"))
    }

    /// Arguments that are a `@oneOf` object and do not have exactly one field: `apollo-compiler` does not know it.
    fn one_of(&self, document: &Checked, operation: &Operation) -> Vec<ServerError> {
        let mut errors = Vec::new();
        for field in operation.all_fields(document) {
            for argument in &field.arguments {
                let definition = field.definition.argument_by_name(&argument.name);
                let is_one_of = definition.is_some_and(|definition| self.is_one_of(definition.ty.inner_named_type()));
                if is_one_of && !is_exactly_one(&argument.value, operation) {
                    errors.push(wrong_argument(document, field, &argument.name));
                }
            }
        }
        errors
    }
}

fn is_exactly_one(value: &Literal, operation: &Operation) -> bool {
    let Literal::Object(fields) = value else { return true };
    let [(_, value)] = fields.as_slice() else { return false };
    match &**value {
        Literal::Null => false,
        Literal::Variable(name) => {
            operation.variables.iter().any(|definition| definition.name == *name && definition.ty.is_non_null())
        }
        _ => true,
    }
}

fn exactly_one(what: &str) -> String {
    format!("{what} must have exactly one field, which is not null")
}

fn wrong_argument(document: &Checked, field: &CheckedField, argument: &str) -> ServerError {
    let detail = exactly_one(&format!("the argument `{argument}` of `{}`", field.name));
    let place = field.name.location().and_then(|span| span.line_column(&document.sources));
    let failure = Failure::new(VALIDATION, detail);
    match place {
        Some(place) => failure.at(Pos { line: place.line, column: place.column }),
        None => failure.into(),
    }
}

/// An error of the validator, as ours.
fn told(error: GraphQLError, code: Code) -> ServerError {
    let mut told = ServerError::new(error.message, None);
    told.locations = error.locations.iter().map(|place| Pos { line: place.line, column: place.column }).collect();
    coded(told, code)
}
