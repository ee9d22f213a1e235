//! Operations in a normal form: no response key stands twice in one selection set, fragments are unfolded, what `@skip` and
//! `@include` leave out is gone. The engine would resolve a field once for each time that it is selected, and mix what it
//! got.

use std::collections::HashMap;

use apollo_compiler::schema::{ExtendedType, Schema};
use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::{
    Directive, ExecutableDocument, Field, FragmentDefinition, InlineFragment, OperationDefinition, OperationType,
    Selection, SelectionSet, TypeCondition,
};
use async_graphql::{Name, Pos, Positioned, Value, Variables};

use super::event::{EVENT, NODE, NODES};

/// Selected fields by response key, in the order of the document. Fields under one key are the same field.
pub(super) type Collected<'a> = IndexMap<Name, Vec<&'a Positioned<Field>>>;

/// The fields that these sets select of an object that is all of `types`; fragments were unfolded already.
pub(super) fn collect<'a>(sets: impl Iterator<Item = &'a SelectionSet>, types: &[&str]) -> Collected<'a> {
    let mut collected = Collected::new();
    for set in sets {
        add(set, types, &mut collected);
    }
    collected
}

fn add<'a>(set: &'a SelectionSet, types: &[&str], into: &mut Collected<'a>) {
    for selection in &set.items {
        match &selection.node {
            Selection::Field(field) => into.entry(field.node.response_key().node.clone()).or_default().push(field),
            Selection::InlineFragment(fragment) => {
                let condition = fragment.node.type_condition.as_ref();
                if condition.is_none_or(|condition| types.contains(&condition.node.on.node.as_str())) {
                    add(&fragment.node.selection_set.node, types, into);
                }
            }
            Selection::FragmentSpread(_) => {}
        }
    }
}

/// Brings valid operations of one document into their normal form.
pub(super) struct Normal<'a> {
    pub(super) schema: &'a Schema,
    pub(super) fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    /// Coerced, with their defaults.
    pub(super) variables: &'a Variables,
}

impl Normal<'_> {
    /// The document of this operation alone.
    pub(super) fn document(&self, operation: &OperationDefinition) -> ExecutableDocument {
        let root = match operation.ty {
            OperationType::Subscription => "Subscription",
            _ => "Query",
        };
        let set = self.merged(root, &[&self.unfolded(&operation.selection_set.node)]);
        let operation = OperationDefinition {
            ty: operation.ty,
            variable_definitions: operation.variable_definitions.clone(),
            directives: Vec::new(),
            selection_set: placed(set),
        };
        ExecutableDocument {
            operations: async_graphql::parser::types::DocumentOperations::Single(placed(operation)),
            fragments: HashMap::new(),
        }
    }

    /// The same selections with fragments in their places, without those that are skipped.
    fn unfolded(&self, set: &SelectionSet) -> SelectionSet {
        let items = set.items.iter().filter(|selection| !self.is_skipped(selection.node.directives()));
        let unfolded = items.filter_map(|selection| {
            let unfolded = match &selection.node {
                Selection::Field(field) => {
                    let mut field = field.clone();
                    field.node.directives.clear();
                    field.node.selection_set.node = self.unfolded(&field.node.selection_set.node);
                    Selection::Field(field)
                }
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.clone();
                    self.inlined(condition, &fragment.node.selection_set.node)
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = self.fragments.get(&spread.node.fragment_name.node)?;
                    self.inlined(Some(fragment.node.type_condition.clone()), &fragment.node.selection_set.node)
                }
            };
            Some(Positioned::new(unfolded, selection.pos))
        });
        SelectionSet { items: unfolded.collect() }
    }

    fn inlined(&self, type_condition: Option<Positioned<TypeCondition>>, set: &SelectionSet) -> Selection {
        let selection_set = placed(self.unfolded(set));
        Selection::InlineFragment(placed(InlineFragment { type_condition, directives: Vec::new(), selection_set }))
    }

    fn is_skipped(&self, directives: &[Positioned<Directive>]) -> bool {
        directives.iter().any(|directive| {
            let wanted = match directive.node.name.node.as_str() {
                "skip" => false,
                "include" => true,
                _ => return false,
            };
            let given = directive.node.get_argument("if").map(|given| given.node.clone());
            let value = given.map(|given| given.into_const_with(|name| self.variables.get(&name).cloned().ok_or(())));
            matches!(value, Some(Ok(Value::Boolean(value))) if value != wanted)
        })
    }

    /// One set that selects what all of these do, of a value of type `parent`.
    pub(super) fn merged(&self, parent: &str, sets: &[&SelectionSet]) -> SelectionSet {
        match self.schema.types.get(parent) {
            // A plan takes what it needs for each type of event.
            Some(ExtendedType::Interface(_)) if parent == EVENT => together(sets),
            Some(ExtendedType::Interface(_)) => {
                let objects = NODES.into_iter().map(|name| fragment(name, self.object(name, sets, &[NODE, name])));
                let events = fragment(EVENT, together(sets));
                SelectionSet { items: std::iter::once(events).chain(objects).collect() }
            }
            // Whatever is selected of an object applies to it, or the document would not be valid.
            Some(ExtendedType::Object(object)) => {
                let interfaces = object.implements_interfaces.iter().map(|interface| interface.name.as_str());
                let types: Vec<&str> = interfaces.chain([parent]).collect();
                self.object(parent, sets, &types)
            }
            _ => together(sets),
        }
    }

    fn object(&self, parent: &str, sets: &[&SelectionSet], types: &[&str]) -> SelectionSet {
        let collected = collect(sets.iter().copied(), types);
        let items = collected.into_values().map(|fields| {
            let mut field = fields[0].node.clone();
            let sets: Vec<&SelectionSet> = fields.iter().map(|field| &field.node.selection_set.node).collect();
            field.selection_set.node = match self.type_of(parent, field.name.node.as_str()) {
                Some(name) => self.merged(name, &sets),
                None => together(&sets),
            };
            let pos = fields[0].pos;
            Positioned::new(Selection::Field(Positioned::new(field, pos)), pos)
        });
        SelectionSet { items: items.collect() }
    }

    fn type_of(&self, parent: &str, field: &str) -> Option<&str> {
        match field {
            "__schema" => Some("__Schema"),
            "__type" => Some("__Type"),
            _ => Some(self.schema.type_field(parent, field).ok()?.ty.inner_named_type().as_str()),
        }
    }
}

fn together(sets: &[&SelectionSet]) -> SelectionSet {
    SelectionSet { items: sets.iter().flat_map(|set| set.items.iter().cloned()).collect() }
}

fn fragment(on: &str, set: SelectionSet) -> Positioned<Selection> {
    let type_condition = Some(placed(TypeCondition { on: placed(Name::new(on)) }));
    let fragment = InlineFragment { type_condition, directives: Vec::new(), selection_set: placed(set) };
    placed(Selection::InlineFragment(placed(fragment)))
}

/// What stands nowhere in the document.
fn placed<T>(node: T) -> Positioned<T> {
    Positioned::new(node, Pos::default())
}
