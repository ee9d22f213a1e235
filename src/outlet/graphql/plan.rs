//! What is selected of an event, compiled once a request and type of event, and then written for many events as text:
//! several times faster than a future a field and a value for each.

use async_graphql::parser::types::Field;
use async_graphql::{Context, ContextSelectionSet, OutputType, Positioned, ServerError, ServerResult, Value};
use futures_util::future::try_join_all;

use super::caller::Caller;
use super::data::{Found, Place, Want};
use super::event::{EVENT, NODE};
use super::failure::{DATA_MISMATCH, Failure, INTERNAL};
use super::normal::collect;
use super::scalars::{DateTime, Long, push_text, push_time, push_value};
use super::schema::Aggregate;
use crate::event::{Entry, Event};
use crate::projection::Picks;

/// What is selected of the events of one type.
pub(super) struct Plan {
    /// Of the events' object type.
    name: String,
    steps: Vec<(String, Step)>,
}

enum Step {
    Typename,
    Leaf(fn(&Caller, &Entry, &mut String)),
    Json {
        text: fn(&Event) -> Option<&str>,
        pick: Option<Picks>,
        field: Positioned<Field>,
    },
    Data {
        want: Want,
        field: Positioned<Field>,
    },
    /// One field with the selections of all that have its key.
    Aggregate(Positioned<Field>),
    /// Its arguments can't be used. The field is nullable, so it is null and an error beside it.
    Failed(ServerError, Positioned<Field>),
}

impl Plan {
    /// Compiles the selection of `ctx` for events of the object type with this index.
    pub(super) fn new(ctx: &ContextSelectionSet<'_>, event_type: Option<usize>) -> ServerResult<Self> {
        let types = Caller::of(ctx).types.as_ref();
        let name = types.name_of(event_type).to_owned();
        let collected = collect(std::iter::once(&ctx.item.node), &[EVENT, NODE, &name]);
        let steps = collected.into_iter().map(|(key, fields)| {
            let step = match (fields[0].node.name.node.as_str(), event_type) {
                ("data", Some(index)) => {
                    let want = Want::new(types, &types.events[index].data, &fields);
                    Step::Data { want, field: fields[0].clone() }
                }
                ("aggregate", _) => Step::Aggregate(Caller::of(ctx).documents.merged("Aggregate", &fields)),
                _ => Step::of_field(&ctx.with_field(fields[0]))?,
            };
            Ok((key.to_string(), step))
        });
        Ok(Self { steps: steps.collect::<ServerResult<_>>()?, name })
    }

    /// The values of the aggregates that are selected of an event, in the order of the steps.
    pub(super) async fn aggregates(&self, ctx: &ContextSelectionSet<'_>, event: &Event) -> ServerResult<Vec<Value>> {
        let fields = self.steps.iter().filter_map(|(_, step)| match step {
            Step::Aggregate(field) => Some(field),
            _ => None,
        });
        let resolve = async |field: &Positioned<Field>| {
            let ctx = ctx.with_field(field);
            let (r#type, key) = (event.aggregate_type.clone(), event.aggregate_id.clone());
            let aggregate = Aggregate { r#type, key, version: None };
            aggregate.resolve(&ctx.with_selection_set(&field.node.selection_set), field).await
        };
        try_join_all(fields.map(resolve)).await
    }

    pub(super) fn has_aggregates(&self) -> bool {
        self.steps.iter().any(|(_, step)| matches!(step, Step::Aggregate(_)))
    }

    /// Appends what is selected of an event, as JSON.
    pub(super) fn write(
        &self,
        ctx: &ContextSelectionSet<'_>,
        entry: &Entry,
        aggregates: Vec<Value>,
        out: &mut String,
    ) -> ServerResult<()> {
        let caller = Caller::of(ctx);
        let mut aggregates = aggregates.into_iter();
        out.push('{');
        for (n, (key, step)) in self.steps.iter().enumerate() {
            push_key(out, n, key);
            match step {
                Step::Typename => push_text(out, &self.name),
                Step::Leaf(write) => write(caller, entry, out),
                Step::Json { text, pick, field } => {
                    if let Err(failure) = json(text(&entry.event), pick.as_ref(), out) {
                        nulled(&ctx.with_field(field), failure.at(field.pos), out);
                    }
                }
                Step::Data { want, field } => data(&ctx.with_field(field), want, entry, out)?,
                Step::Aggregate(_) => {
                    let value = aggregates.next().unwrap_or_default();
                    push_value(out, &value);
                }
                Step::Failed(error, field) => nulled(&ctx.with_field(field), error.clone(), out),
            }
        }
        out.push('}');
        Ok(())
    }
}

/// Appends the name of the `n`th attribute of an object. Names of GraphQL need no escape.
pub(super) fn push_key(out: &mut String, n: usize, key: &str) {
    out.push_str(if n > 0 { ",\"" } else { "\"" });
    out.push_str(key);
    out.push_str("\":");
}

impl Step {
    /// A field that every event has.
    fn of_field(ctx: &Context<'_>) -> ServerResult<Self> {
        let leaf: fn(&Caller, &Entry, &mut String) = match ctx.item.node.name.node.as_str() {
            "__typename" => return Ok(Self::Typename),
            "id" => |_, entry, out| push_text(out, &entry.event.id),
            "cursor" => |caller, entry, out| push_text(out, &caller.cursor(entry.position)),
            "position" => |_, entry, out| push_text(out, &Long(entry.position).text()),
            "type" => |_, entry, out| push_text(out, &entry.event.r#type),
            "source" => |_, entry, out| push_text(out, &entry.event.source),
            "aggregateVersion" => |_, entry, out| match entry.event.aggregate_version {
                Some(version) => push_text(out, &Long(version).text()),
                None => out.push_str("null"),
            },
            "occurredAt" => |_, entry, out| push_time(out, Some(&DateTime(entry.event.occurred_at))),
            "recordedAt" => |_, entry, out| push_time(out, Some(&DateTime(entry.recorded_at))),
            "late" => |_, entry, out| out.push_str(if entry.late { "true" } else { "false" }),
            "erasedAt" => |_, entry, out| push_time(out, entry.erased_at.map(DateTime).as_ref()),
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

fn json(json: Option<&str>, pick: Option<&Picks>, out: &mut String) -> Result<(), Failure> {
    match (json, pick) {
        (None, _) => out.push_str("null"),
        (Some(json), None) => out.push_str(json),
        (Some(json), Some(picks)) => {
            let picked = picks.apply(json).map_err(|_| Failure::new(INTERNAL, "the journaled text is not JSON"))?;
            out.push_str(&picked);
        }
    }
    Ok(())
}

/// What is selected of the data, with an error for what does not fit.
fn data(ctx: &Context<'_>, want: &Want, entry: &Entry, out: &mut String) -> ServerResult<()> {
    let caller = Caller::of(ctx);
    let start = out.len();
    let mut found = Found::new(start.saturating_add(caller.bytes_left()));
    want.write(&entry.event.data, out, &mut found, Place::Data);
    if out.len() > found.bytes_max {
        caller.spend(out.len() - start)?;
    }
    for (path, expected) in found.mismatches {
        let detail = format!("this is not {expected}, as the schema of `{}` asks for", entry.event.r#type);
        let mut error = ctx.set_error_path(Failure::new(DATA_MISMATCH, detail).at(ctx.item.pos));
        error.path.extend(path);
        caller.tell(ctx, error);
    }
    Ok(())
}

/// A nullable field that failed.
fn nulled(ctx: &Context<'_>, error: ServerError, out: &mut String) {
    Caller::of(ctx).tell(ctx, ctx.set_error_path(error));
    out.push_str("null");
}
