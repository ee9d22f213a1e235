//! A selection on `Event` for who needs one event's attributes without asking: validated and made ready once, then applied
//! to one event at a time, without reading anything.

use std::sync::Arc;

use async_graphql::Value;
use async_graphql::parser::types::{ExecutableDocument, Selection as Selected, SelectionSet};
use futures_util::FutureExt as _;

use super::documents::Refusal;
use super::engine::Engine;
use super::scalars::push_value;
use crate::event::Entry;
use crate::filter::{Filter, Selection};

/// What of an aggregate is the same whenever it is asked for.
const OF_AGGREGATE: [&str; 4] = ["id", "type", "key", "__typename"];

/// Makes projections. Cheap to clone.
#[derive(Clone)]
pub struct Projector(pub(super) Engine);

/// A selection that was made ready: gives what it selects of an event, as JSON; `null` if that is not possible.
pub type Projection = Arc<dyn Fn(&Entry) -> String + Send + Sync>;

impl Projector {
    /// Makes a selection set such as `{ id ... on OrderPlaced { data { total } } }` ready.
    ///
    /// # Errors
    /// A sentence on what is wrong with it under this schema.
    pub fn projection(&self, selection: &str) -> Result<Projection, String> {
        let engine = self.0.clone();
        let text = format!("{{ event(id: \"\") {selection} }}");
        let document = engine.documents.get(&text).map_err(first)?;
        let mut operations = document.parsed.operations.iter();
        let (Some((_, operation)), None) = (operations.next(), operations.next()) else {
            return Err("give one selection set, and nothing beside it".to_owned());
        };
        let is_alone = operation.node.selection_set.node.items.len() == 1 && document.parsed.fragments.is_empty();
        if !is_alone || !selection.trim_start().starts_with('{') {
            return Err("give one selection set with braces, such as { id type }, and nothing beside it".to_owned());
        }
        let normal = engine.documents.normal(&document, &operation.node, &Default::default());
        check_aggregates(&normal)?;
        Ok(Arc::new(move |entry| engine.project(&normal, entry)))
    }
}

impl Engine {
    fn project(&self, document: &ExecutableDocument, entry: &Entry) -> String {
        let mut request = async_graphql::Request::new(String::new());
        request.set_parsed_query(document.clone());
        let caller = self.caller_for(Selection::visible(&Filter::default()), entry);
        // Nothing in it waits: the event is given, and what would have to be read is refused.
        let response = self.execute(request.data(caller)).now_or_never();
        let mut selected = String::new();
        match response.as_ref().map(|response| &response.data) {
            Some(Value::Object(data)) => push_value(&mut selected, data.get("event").unwrap_or(&Value::Null)),
            _ => selected.push_str("null"),
        }
        selected
    }
}

fn first(refusal: Refusal) -> String {
    refusal.errors.into_iter().next().map_or_else(|| "it is not valid".to_owned(), |error| error.message)
}

fn check_aggregates(document: &ExecutableDocument) -> Result<(), String> {
    fn check(set: &SelectionSet) -> Result<(), String> {
        for item in &set.items {
            match &item.node {
                Selected::Field(field) if field.node.name.node == "aggregate" => {
                    for inner in &field.node.selection_set.node.items {
                        if let Selected::Field(field) = &inner.node
                            && !OF_AGGREGATE.contains(&field.node.name.node.as_str())
                        {
                            let name = &field.node.name.node;
                            return Err(format!(
                                "`aggregate` {{ {name} }} changes with time: only id, type and key can be selected"
                            ));
                        }
                    }
                }
                Selected::Field(field) => check(&field.node.selection_set.node)?,
                Selected::InlineFragment(fragment) => check(&fragment.node.selection_set.node)?,
                Selected::FragmentSpread(_) => {}
            }
        }
        Ok(())
    }
    document.operations.iter().try_for_each(|(_, operation)| check(&operation.node.selection_set.node))
}
