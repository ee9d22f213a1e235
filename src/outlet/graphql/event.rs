//! `Event`: an interface with one object type an event type, and `UntypedEvent` for those without a schema.
//!
//! Written by hand where the rest of the schema is derived: the object types are data, and a page of events is resolved
//! by walking the selection over each entry, which is several times faster than a future a field. The meta types stand
//! in a hidden module of the engine: its version is pinned, `schema.graphql` and the tests notice a change.

use std::borrow::Cow;
use std::sync::Arc;

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::{Field, Selection, SelectionSet};
use async_graphql::registry::{MetaField, MetaInputValue, MetaType, MetaTypeId, ObjectBuilder, Registry};
use async_graphql::{
    Context, ContextSelectionSet, InputValueError, InputValueResult, Name, OutputType, Positioned, Scalar, ScalarType,
    ServerResult, Value,
};

use super::failure::{Failure, INTERNAL, VALIDATION};
use super::schema::{Aggregate, Caller, DateTime, Long};
use crate::event::{Entry, Micros};
use crate::projection::Picks;

const EVENT: &str = "Event";
const NODE: &str = "Node";
const AGGREGATE: &str = "Aggregate";
/// The type of events without a schema.
const UNTYPED: &str = "UntypedEvent";
/// The engine writes an object whose only key this is as the JSON text under it. Only [`raw`] makes one: payloads never
/// become values, so that no source can forge it.
const RAW_TOKEN: &str = "$serde_json::private::RawValue";

/// An event with its place in the journal.
#[derive(Clone)]
pub(super) struct EventNode(pub(super) Arc<Entry>);

impl OutputType for EventNode {
    fn type_name() -> Cow<'static, str> {
        EVENT.into()
    }

    fn introspection_type_name(&self) -> Cow<'static, str> {
        self.object_type().into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_output_type::<Self, _>(MetaTypeId::Interface, |registry| {
            Node::create_type_info(registry);
            let fields = fields(registry);
            let untyped = ObjectBuilder::new(UNTYPED, fields.clone())
                .description(Some("An event whose type has no schema in the catalogue.".to_owned()))
                .rust_typename("UntypedEvent");
            registry.types.insert(UNTYPED.to_owned(), untyped.build());
            registry.add_implements(EVENT, NODE);
            registry.add_implements(UNTYPED, EVENT);
            registry.add_implements(UNTYPED, NODE);
            let about = "A fact of a domain, immutable, with its place in the journal.";
            interface::<Self>(EVENT, about, fields, &[UNTYPED])
        })
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        let mut selected = Vec::new();
        self.collect(ctx, &ctx.item.node, &mut selected);
        let mut values = IndexMap::with_capacity(selected.len());
        for field in selected {
            let ctx = ctx.with_field(field);
            let value = if field.node.name.node == "aggregate" {
                let event = &self.0.event;
                let (r#type, key) = (event.aggregate_type.clone(), event.aggregate_id.clone());
                let aggregate = Aggregate { r#type, key, version: None };
                aggregate.resolve(&ctx.with_selection_set(&field.node.selection_set), field).await?
            } else {
                self.leaf(&ctx)?
            };
            merge(&mut values, field.node.response_key().node.clone(), value);
        }
        Ok(Value::Object(values))
    }
}

impl EventNode {
    /// The object type of this event.
    fn object_type(&self) -> &'static str {
        UNTYPED
    }

    /// The fields that apply to this event, with fragments unfolded. What `@skip` and `@include` leave out is gone
    /// before anything is resolved.
    fn collect<'a>(&self, ctx: &ContextSelectionSet<'a>, set: &'a SelectionSet, into: &mut Vec<&'a Positioned<Field>>) {
        let applies = |condition: &Name| [EVENT, NODE, self.object_type()].contains(&condition.as_str());
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => into.push(field),
                Selection::InlineFragment(fragment) => {
                    if fragment.node.type_condition.as_ref().is_none_or(|on| applies(&on.node.on.node)) {
                        self.collect(ctx, &fragment.node.selection_set.node, into);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = ctx.query_env.fragments.get(&spread.node.fragment_name.node);
                    if let Some(fragment) = fragment.filter(|f| applies(&f.node.type_condition.node.on.node)) {
                        self.collect(ctx, &fragment.node.selection_set.node, into);
                    }
                }
            }
        }
    }

    /// The value of a field without sub-selection.
    fn leaf(&self, ctx: &Context<'_>) -> ServerResult<Value> {
        let (entry, event) = (&*self.0, &self.0.event);
        let text = |text: &str| Value::String(text.to_owned());
        let long = |number: i64| Long(number).to_value();
        let time = |time: Micros| DateTime(time).to_value();
        Ok(match ctx.item.node.name.node.as_str() {
            "__typename" => text(self.object_type()),
            "id" => text(&event.id),
            "cursor" => Value::String(Caller::of(ctx).cursor(entry.position)),
            "position" => long(entry.position),
            "type" => text(&event.r#type),
            "source" => text(&event.source),
            "aggregateVersion" => event.aggregate_version.map_or(Value::Null, long),
            "occurredAt" => time(event.occurred_at),
            "recordedAt" => time(entry.recorded_at),
            "late" => Value::Boolean(entry.late),
            "erasedAt" => entry.erased_at.map_or(Value::Null, time),
            "dataJson" => json(ctx, Some(&event.data)),
            "metadata" => json(ctx, event.metadata.as_deref()),
            other => return Err(Failure::new(VALIDATION, format!("`{EVENT}` has no field `{other}`")).into()),
        })
    }
}

/// A JSON text or what is picked of it. Both fields are nullable, so a failure is null and an error beside it.
fn json(ctx: &Context<'_>, json: Option<&str>) -> Value {
    let Some(json) = json else { return Value::Null };
    let value = ctx.param_value::<Option<Vec<String>>>("pick", None).and_then(|(_, pick)| {
        raw(Caller::of(ctx), json, pick).map_err(|failure| {
            let error: async_graphql::Error = failure.into();
            error.into_server_error(ctx.item.pos)
        })
    });
    value.unwrap_or_else(|error| {
        ctx.add_error(ctx.set_error_path(error));
        Value::Null
    })
}

/// A value that is written as the JSON text it holds.
fn raw(caller: &Caller, json: &str, pick: Option<Vec<String>>) -> Result<Value, Failure> {
    let text = match pick {
        Some(paths) => {
            let broken = |_| Failure::new(INTERNAL, "the journaled text is not JSON");
            Picks::parse(&paths)?.apply(json).map_err(broken)?
        }
        None => json.to_owned(),
    };
    caller.spend(text.len())?;
    Ok(Value::Object(IndexMap::from([(Name::new(RAW_TOKEN), Value::String(text))])))
}

/// Adds a value under its response key. What is selected twice is merged if it is an object, else it is equal.
fn merge(into: &mut IndexMap<Name, Value>, key: Name, value: Value) {
    match into.get_mut(&key) {
        Some(known) => merge_values(known, value),
        None => _ = into.insert(key, value),
    }
}

fn merge_values(known: &mut Value, more: Value) {
    match (known, more) {
        (Value::Object(known), Value::Object(more)) => more.into_iter().for_each(|(k, value)| merge(known, k, value)),
        (Value::List(known), Value::List(more)) => {
            known.iter_mut().zip(more).for_each(|(k, more)| merge_values(k, more))
        }
        _ => {}
    }
}

/// The fields that every event has.
fn fields(registry: &mut Registry) -> IndexMap<String, MetaField> {
    let long = <Option<Long> as OutputType>::create_type_info(registry);
    let time = <DateTime as OutputType>::create_type_info(registry);
    let json = <Option<Json> as OutputType>::create_type_info(registry);
    let aggregate = <Aggregate as OutputType>::create_type_info(registry);
    let erased_at = time.trim_end_matches('!');
    let position = format!("{long}!");
    let described = [
        ("id", "ID!", "The same id as in feeds and webhooks; unique in the journal."),
        ("cursor", "String!", "Its place, the same text in every door: goes into `after` here and in feeds."),
        ("position", &position, "1, 2, 3 … without gap, in the order of journaling."),
        ("type", "String!", ""),
        ("source", "String!", ""),
        ("aggregate", &aggregate, ""),
        ("aggregateVersion", &long, ""),
        ("occurredAt", &time, "When it happened, as its source says."),
        ("recordedAt", &time, "When the journal took it."),
        ("late", "Boolean!", "Found below what was already read, or released from quarantine."),
        ("erasedAt", erased_at, "When its data was erased."),
        ("metadata", &json, "What its source tells about it, whole or only the picked paths."),
        ("dataJson", &json, "Its data, digit by digit, whole or only the picked paths."),
    ];
    let field = |(name, r#type, about): (&str, &str, &str)| {
        let mut field = MetaField::new(name, r#type);
        field.description = (!about.is_empty()).then(|| about.to_owned());
        if r#type == json {
            let mut pick = MetaInputValue::new("pick", "[String!]");
            pick.description = Some("At most 50 dotted paths, such as `lines.sku`; lists are walked.".to_owned());
            field.args.insert("pick".to_owned(), pick);
        }
        (name.to_owned(), field)
    };
    described.into_iter().map(field).collect()
}

fn interface<T>(name: &str, about: &str, fields: IndexMap<String, MetaField>, objects: &[&str]) -> MetaType {
    MetaType::Interface {
        name: name.to_owned(),
        description: Some(about.to_owned()),
        fields,
        possible_types: objects.iter().map(|object| (*object).to_owned()).collect(),
        extends: false,
        keys: None,
        visible: None,
        inaccessible: false,
        tags: Vec::new(),
        rust_typename: Some(std::any::type_name::<T>()),
        directive_invocations: Vec::new(),
        requires_scopes: Vec::new(),
    }
}

/// Whatever has an id of its own.
pub(super) enum Node {
    Event(EventNode),
    Aggregate(Aggregate),
}

impl OutputType for Node {
    fn type_name() -> Cow<'static, str> {
        NODE.into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_output_type::<Self, _>(MetaTypeId::Interface, |registry| {
            EventNode::create_type_info(registry);
            Aggregate::create_type_info(registry);
            registry.add_implements(AGGREGATE, NODE);
            let id = ("id".to_owned(), MetaField::new("id", "ID!"));
            interface::<Self>(NODE, "Whatever has an id of its own.", IndexMap::from([id]), &[UNTYPED, AGGREGATE])
        })
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        match self {
            Self::Event(event) => event.resolve(ctx, field).await,
            Self::Aggregate(aggregate) => aggregate.resolve(ctx, field).await,
        }
    }
}

/// Only its name is used: payloads pass through as text.
struct Json;

/// Any JSON value, without sub-selection.
#[Scalar(name = "JSON")]
impl ScalarType for Json {
    fn parse(value: Value) -> InputValueResult<Self> {
        Err(InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::Null
    }
}
