//! What is selected of an event, compiled once a request and type of event, and then run over many events: several
//! times faster than a future a field.

use std::collections::HashMap;

use async_graphql::indexmap::IndexMap;
use async_graphql::parser::types::{Field, FragmentDefinition, Selection, SelectionSet};
use async_graphql::{
    Context, ContextSelectionSet, Name, OutputType, PathSegment, Positioned, ServerError, ServerResult, Value,
};

use super::caller::Caller;
use super::data::{Found, Want};
use super::event::{EVENT, NODE};
use super::failure::{DATA_MISMATCH, Failure, INTERNAL};
use super::scalars::{DateTime, Long, raw};
use super::schema::Aggregate;
use crate::event::{Entry, Event, Micros};
use crate::projection::Picks;

/// Selected fields by response key, in the order of the document. Fields under one key are the same field; what they
/// select is merged.
pub(super) type Collected<'a> = IndexMap<Name, Vec<&'a Positioned<Field>>>;

/// Unfolds fragments. What `@skip` and `@include` leave out is gone before anything is resolved.
pub(super) struct Collector<'a> {
    pub(super) fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
}

impl<'a> Collector<'a> {
    /// The fields for an object that is all of `types`.
    pub(super) fn collect(&self, sets: impl Iterator<Item = &'a SelectionSet>, types: &[&str]) -> Collected<'a> {
        let mut collected = Collected::new();
        sets.for_each(|set| self.add(set, types, &mut collected));
        collected
    }

    fn add(&self, set: &'a SelectionSet, types: &[&str], into: &mut Collected<'a>) {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => into.entry(field.node.response_key().node.clone()).or_default().push(field),
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref();
                    if condition.is_none_or(|condition| types.contains(&condition.node.on.node.as_str())) {
                        self.add(&fragment.node.selection_set.node, types, into);
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let fragment = self.fragments.get(&spread.node.fragment_name.node);
                    if let Some(fragment) = fragment.map(|fragment| &fragment.node)
                        && types.contains(&fragment.type_condition.node.on.node.as_str())
                    {
                        self.add(&fragment.selection_set.node, types, into);
                    }
                }
            }
        }
    }
}

/// What is selected of the events of one type.
pub(super) struct Plan {
    /// Of the events' object type.
    name: String,
    steps: Vec<(Name, Step)>,
}

enum Step {
    Typename,
    Leaf(fn(&Caller, &Entry) -> Value),
    Json {
        text: fn(&Event) -> Option<&str>,
        pick: Option<Picks>,
        field: Positioned<Field>,
    },
    Data {
        want: Want,
        field: Positioned<Field>,
    },
    Aggregate(Vec<Positioned<Field>>),
    /// Its arguments can't be used. The field is nullable, so it is null and an error beside it.
    Failed(ServerError, Positioned<Field>),
}

impl Plan {
    /// Compiles the selection of `ctx` for events of the object type with this index.
    pub(super) fn new(ctx: &ContextSelectionSet<'_>, event_type: Option<usize>) -> ServerResult<Self> {
        let types = Caller::of(ctx).types.as_ref();
        let collector = Collector { fragments: &ctx.query_env.fragments };
        let name = types.name_of(event_type).to_owned();
        let collected = collector.collect(std::iter::once(&ctx.item.node), &[EVENT, NODE, &name]);
        let steps = collected.into_iter().map(|(key, fields)| {
            let step = match (fields[0].node.name.node.as_str(), event_type) {
                ("data", Some(index)) => {
                    let want = Want::new(types, &types.events[index].data, &fields, &collector);
                    Step::Data { want, field: fields[0].clone() }
                }
                ("aggregate", _) => Step::Aggregate(fields.into_iter().cloned().collect()),
                _ => Step::of_field(&ctx.with_field(fields[0]))?,
            };
            Ok((key, step))
        });
        Ok(Self { steps: steps.collect::<ServerResult<_>>()?, name })
    }

    pub(super) async fn run(&self, ctx: &ContextSelectionSet<'_>, entry: &Entry) -> ServerResult<Value> {
        let caller = Caller::of(ctx);
        let mut values = IndexMap::with_capacity(self.steps.len());
        for (key, step) in &self.steps {
            let value = match step {
                Step::Typename => Value::String(self.name.clone()),
                Step::Leaf(leaf) => leaf(caller, entry),
                Step::Json { text, pick, field } => {
                    let value = text(&entry.event).map(|text| json(caller, text, pick.as_ref()));
                    value.unwrap_or(Ok(Value::Null)).or_else(|failure| nulled(&ctx.with_field(field), failure))?
                }
                Step::Data { want, field } => data(&ctx.with_field(field), want, entry)?,
                Step::Aggregate(fields) => aggregate(ctx, fields, &entry.event).await?,
                Step::Failed(error, field) => nulled(&ctx.with_field(field), error.clone())?,
            };
            values.insert(key.clone(), value);
        }
        Ok(Value::Object(values))
    }
}

impl Step {
    /// A field that every event has.
    fn of_field(ctx: &Context<'_>) -> ServerResult<Self> {
        let leaf: fn(&Caller, &Entry) -> Value = match ctx.item.node.name.node.as_str() {
            "__typename" => return Ok(Self::Typename),
            "id" => |_, entry| text(&entry.event.id),
            "cursor" => |caller, entry| Value::String(caller.cursor(entry.position)),
            "position" => |_, entry| long(entry.position),
            "type" => |_, entry| text(&entry.event.r#type),
            "source" => |_, entry| text(&entry.event.source),
            "aggregateVersion" => |_, entry| entry.event.aggregate_version.map_or(Value::Null, long),
            "occurredAt" => |_, entry| time(entry.event.occurred_at),
            "recordedAt" => |_, entry| time(entry.recorded_at),
            "late" => |_, entry| Value::Boolean(entry.late),
            "erasedAt" => |_, entry| entry.erased_at.map_or(Value::Null, time),
            "dataJson" => return Ok(Self::json(ctx, |event| Some(&event.data))),
            "metadata" => return Ok(Self::json(ctx, |event| event.metadata.as_deref())),
            other => return Err(Failure::new(INTERNAL, format!("`{EVENT}` has no field `{other}`")).into()),
        };
        Ok(Self::Leaf(leaf))
    }

    /// A JSON text or what is picked of it.
    fn json(ctx: &Context<'_>, text: fn(&Event) -> Option<&str>) -> Self {
        let field = ctx.item.clone();
        let pick = ctx.param_value::<Option<Vec<String>>>("pick", None).and_then(|(_, paths)| {
            let picks = paths.map(|paths| Picks::parse(&paths)).transpose();
            picks.map_err(|error| Failure::from(error).at(field.pos))
        });
        match pick {
            Ok(pick) => Self::Json { text, pick, field },
            Err(error) => Self::Failed(error, field),
        }
    }
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn long(number: i64) -> Value {
    Value::String(Long(number).text())
}

fn time(time: Micros) -> Value {
    Value::String(DateTime(time).text())
}

fn json(caller: &Caller, json: &str, pick: Option<&Picks>) -> Result<Value, ServerError> {
    let text = match pick {
        Some(picks) => picks.apply(json).map_err(|_| Failure::new(INTERNAL, "the journaled text is not JSON"))?,
        None => json.to_owned(),
    };
    caller.spend(text.len())?;
    Ok(raw(text))
}

/// What is selected of the data, with an error for what does not fit.
fn data(ctx: &Context<'_>, want: &Want, entry: &Entry) -> ServerResult<Value> {
    let caller = Caller::of(ctx);
    let mut found = Found::default();
    let value = want.read(&entry.event.data, &mut found);
    if let Err(failure) = caller.spend(found.bytes) {
        return nulled(ctx, failure.into());
    }
    for (path, expected) in found.mismatches {
        if caller.may_tell_mismatch() {
            let detail = format!("this is not {expected}, as the schema of `{}` asks for", entry.event.r#type);
            let mut error = ctx.set_error_path(Failure::new(DATA_MISMATCH, detail).at(ctx.item.pos));
            error.path.extend::<Vec<PathSegment>>(path);
            ctx.add_error(error);
        }
    }
    Ok(value)
}

async fn aggregate(ctx: &ContextSelectionSet<'_>, fields: &[Positioned<Field>], event: &Event) -> ServerResult<Value> {
    let mut merged = Value::Null;
    for field in fields {
        let ctx = ctx.with_field(field);
        let (r#type, key) = (event.aggregate_type.clone(), event.aggregate_id.clone());
        let aggregate = Aggregate { r#type, key, version: None };
        let value = aggregate.resolve(&ctx.with_selection_set(&field.node.selection_set), field).await?;
        merge(&mut merged, value);
    }
    Ok(merged)
}

/// Values of one field that was selected twice: objects are merged, everything else is equal.
fn merge(known: &mut Value, more: Value) {
    match (known, more) {
        (known @ Value::Null, more) => *known = more,
        (Value::Object(known), Value::Object(more)) => {
            for (key, value) in more {
                merge(known.entry(key).or_insert(Value::Null), value);
            }
        }
        (Value::List(known), Value::List(more)) => {
            known.iter_mut().zip(more).for_each(|(known, more)| merge(known, more))
        }
        _ => {}
    }
}

/// The value of a nullable field that failed.
fn nulled(ctx: &Context<'_>, error: ServerError) -> ServerResult<Value> {
    ctx.add_error(ctx.set_error_path(error));
    Ok(Value::Null)
}
