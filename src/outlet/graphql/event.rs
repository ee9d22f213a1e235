//! `Event`: an interface with one object type an event type, and `UntypedEvent` for those without a schema.
//!
//! Written by hand where the rest of the schema is derived: the object types are data. The meta types stand in a hidden
//! module of the engine: its version is pinned, `schema.graphql` and the tests notice a change.

use std::borrow::Cow;
use std::cell::RefCell;
use std::sync::Arc;

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::Field;
use async_graphql::registry::{MetaField, MetaInputValue, MetaType, MetaTypeId, ObjectBuilder, Registry};
use async_graphql::{ContextSelectionSet, OutputType, Positioned, ServerResult, Value};
use futures_util::future::try_join_all;

use super::caller::Caller;
use super::directory::{EventType, Feed, Listed};
use super::plan::Plan;
use super::scalars::{DateTime, Json, Long, raw};
use super::schema::Aggregate;
use super::types::{Types, UNTYPED};
use crate::event::Entry;

pub(super) const EVENT: &str = "Event";
pub(super) const NODE: &str = "Node";
/// The other types that have an id.
pub(super) const NODES: [&str; 3] = ["Aggregate", "EventType", "Feed"];

thread_local! {
    /// The generated types, while a schema is being built: the engine asks for types without saying for which schema.
    static TYPES: RefCell<Arc<Types>> = RefCell::default();
}

/// Builds a schema in which events have these types.
pub(super) fn with_types<T>(types: &Arc<Types>, build: impl FnOnce() -> T) -> T {
    let before = TYPES.replace(types.clone());
    let built = build();
    TYPES.replace(before);
    built
}

/// An event with its place in the journal.
#[derive(Clone)]
pub(super) struct EventNode(pub(super) Arc<Entry>);

impl OutputType for EventNode {
    fn type_name() -> Cow<'static, str> {
        EVENT.into()
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
            let types = TYPES.with_borrow(Arc::clone);
            types.register(registry, &fields);
            let objects = object_names(&types);
            for name in &objects {
                registry.add_implements(name, EVENT);
                registry.add_implements(name, NODE);
            }
            let about = "A fact of a domain, immutable, with its place in the journal.";
            interface::<Self>(EVENT, about, fields, objects)
        })
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        let mut out = String::new();
        let caller = Caller::of(ctx);
        let plan = caller.plan(ctx, caller.types.of(&self.0.event.r#type))?;
        let aggregates = plan.aggregates(ctx, &self.0.event).await?;
        plan.write(ctx, &self.0, aggregates, &mut out)?;
        caller.spend(out.len())?;
        Ok(raw(out))
    }
}

/// A list of events, written at once.
pub(super) struct EventList(pub(super) Vec<EventNode>);

impl OutputType for EventList {
    fn type_name() -> Cow<'static, str> {
        Vec::<EventNode>::type_name()
    }

    fn qualified_type_name() -> String {
        Vec::<EventNode>::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        Vec::<EventNode>::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        write_list(ctx, self.0.iter().map(Some)).await
    }
}

/// The same, with null for what is not there.
pub(super) struct EventsOrNull(pub(super) Vec<Option<EventNode>>);

impl OutputType for EventsOrNull {
    fn type_name() -> Cow<'static, str> {
        Vec::<Option<EventNode>>::type_name()
    }

    fn qualified_type_name() -> String {
        Vec::<Option<EventNode>>::qualified_type_name()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        Vec::<Option<EventNode>>::create_type_info(registry)
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, _: &Positioned<Field>) -> ServerResult<Value> {
        write_list(ctx, self.0.iter().map(Option::as_ref)).await
    }
}

/// What is selected of each event. The aggregates of all of them are resolved first and at once.
async fn write_list(
    ctx: &ContextSelectionSet<'_>,
    events: impl Iterator<Item = Option<&EventNode>>,
) -> ServerResult<Value> {
    let caller = Caller::of(ctx);
    let mut planned: Vec<Option<(&EventNode, Arc<Plan>)>> = Vec::new();
    for event in events {
        // Most lists hold few types.
        let plan = match (event, planned.last()) {
            (Some(event), Some(Some((last, plan)))) if last.0.event.r#type == event.0.event.r#type => {
                Some(plan.clone())
            }
            (Some(event), _) => Some(caller.plan(ctx, caller.types.of(&event.0.event.r#type))?),
            (None, _) => None,
        };
        planned.push(event.zip(plan));
    }
    let mut aggregates = vec![Vec::new(); planned.len()];
    if planned.iter().flatten().any(|(_, plan)| plan.has_aggregates()) {
        let resolve = async |(n, planned): (usize, &Option<(&EventNode, Arc<Plan>)>)| match planned {
            Some((event, plan)) => plan.aggregates(&ctx.with_index(n), &event.0.event).await,
            None => Ok(Vec::new()),
        };
        aggregates = try_join_all(planned.iter().enumerate().map(resolve)).await?;
    }
    let mut out = String::from("[");
    for (n, (planned, aggregates)) in planned.into_iter().zip(aggregates).enumerate() {
        let start = out.len();
        out.push_str(if n > 0 { "," } else { "" });
        match planned {
            Some((event, plan)) => plan.write(&ctx.with_index(n), &event.0, aggregates, &mut out)?,
            None => out.push_str("null"),
        }
        caller.spend(out.len() - start)?;
    }
    out.push(']');
    Ok(raw(out))
}

/// The object types of events.
fn object_names(types: &Types) -> Vec<String> {
    let typed = types.events.iter().map(|event| event.name.clone());
    std::iter::once(UNTYPED.to_owned()).chain(typed).collect()
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

fn interface<T>(name: &str, about: &str, fields: IndexMap<String, MetaField>, objects: Vec<String>) -> MetaType {
    MetaType::Interface {
        name: name.to_owned(),
        description: Some(about.to_owned()),
        fields,
        possible_types: objects.into_iter().collect(),
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
    Listed(Listed),
}

impl OutputType for Node {
    fn type_name() -> Cow<'static, str> {
        NODE.into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_output_type::<Self, _>(MetaTypeId::Interface, |registry| {
            EventNode::create_type_info(registry);
            Aggregate::create_type_info(registry);
            EventType::create_type_info(registry);
            Feed::create_type_info(registry);
            NODES.iter().for_each(|name| registry.add_implements(name, NODE));
            let id = ("id".to_owned(), MetaField::new("id", "ID!"));
            let mut objects = TYPES.with_borrow(|types| object_names(types));
            objects.extend(NODES.map(str::to_owned));
            interface::<Self>(NODE, "Whatever has an id of its own.", IndexMap::from([id]), objects)
        })
    }

    async fn resolve(&self, ctx: &ContextSelectionSet<'_>, field: &Positioned<Field>) -> ServerResult<Value> {
        match self {
            Self::Event(event) => event.resolve(ctx, field).await,
            Self::Aggregate(aggregate) => aggregate.resolve(ctx, field).await,
            Self::Listed(Listed::EventType(event_type)) => event_type.resolve(ctx, field).await,
            Self::Listed(Listed::Feed(feed)) => feed.resolve(ctx, field).await,
        }
    }
}
