//! The schema: who asks, root fields, aggregates, scalars. The rest of it stands in `event` and `connection`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_graphql::{Context, ID, InputValueError, InputValueResult, Lookahead, Object, Scalar, ScalarType, Value};

use super::connection::{EventConnection, EventFilter, Paging, SortOrder, StartPosition};
use super::event::{EventNode, Node};
use super::failure::{Failure, TOO_COMPLEX};
use crate::event::{Cursor, Micros, escape, is_uuid};
use crate::filter::{Filter, Selection};
use crate::journal::{Journal, Payload};

pub(super) const IDS_MAX: usize = 100;
/// Most bytes of `dataJson` and `metadata` in one answer: aliases can repeat them without cost.
const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Who asks, for the length of one request: every read of the journal goes through it.
pub(super) struct Caller {
    pub(super) journal: Journal,
    pub(super) selection: Selection,
    pub(super) payload_bytes: AtomicUsize,
}

impl Caller {
    pub(super) fn of<'a>(ctx: &Context<'a>) -> &'a Self {
        ctx.data_unchecked()
    }

    pub(super) fn cursor(&self, position: i64) -> String {
        Cursor::new(self.journal.id(), position).to_string()
    }

    /// Counts payload bytes that go into the answer.
    pub(super) fn spend(&self, bytes: usize) -> Result<(), Failure> {
        let before = self.payload_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > PAYLOAD_BYTES_MAX {
            let detail = format!("the answer holds more than {PAYLOAD_BYTES_MAX} bytes of data; ask for smaller pages");
            return Err(Failure::new(TOO_COMPLEX, detail));
        }
        Ok(())
    }

    /// The events with these ids, in their order; nothing for an unknown or hidden one.
    pub(super) async fn events(&self, ids: &[String], payload: Payload) -> Result<Vec<Option<EventNode>>, Failure> {
        let found = self.journal.by_ids(&self.selection, ids, payload).await?;
        let by_id: HashMap<String, EventNode> =
            found.into_iter().map(|entry| (entry.event.id.clone(), EventNode(Arc::new(entry)))).collect();
        let node = |id: &String| match by_id.get(id) {
            None if is_uuid(id) => by_id.get(&id.to_ascii_lowercase()).cloned(),
            found => found.cloned(),
        };
        Ok(ids.iter().map(node).collect())
    }

    async fn aggregate(&self, r#type: String, key: String) -> Result<Option<Aggregate>, Failure> {
        let version = self.journal.latest_version(&self.selection, &r#type, &key).await?;
        Ok(version.map(|version| Aggregate { r#type, key, version: Some(version) }))
    }

    async fn nodes(&self, ids: Vec<ID>, payload: Payload) -> Result<Vec<Option<Node>>, Failure> {
        let ids: Vec<String> = bounded(ids)?;
        let mut nodes: Vec<Option<Node>> =
            self.events(&ids, payload).await?.into_iter().map(|event| event.map(Node::Event)).collect();
        for (node, id) in nodes.iter_mut().zip(&ids) {
            if let (None, Some((r#type, key))) = (&node, Aggregate::parse_id(id)) {
                *node = self.aggregate(r#type, key).await?.map(Node::Aggregate);
            }
        }
        Ok(nodes)
    }
}

fn bounded(ids: Vec<ID>) -> Result<Vec<String>, Failure> {
    if ids.len() > IDS_MAX {
        return Err(Failure::input(format!("`ids` holds {} ids, more than {IDS_MAX}; ask in parts", ids.len())));
    }
    Ok(ids.into_iter().map(|id| id.0).collect())
}

/// Whether the events below these selections show payloads. Those that don't are read without.
pub(super) fn payload(events: &[Lookahead<'_>]) -> Payload {
    let wanted = |event: &Lookahead<'_>| event.field("dataJson").exists() || event.field("metadata").exists();
    if events.iter().any(wanted) { Payload::With } else { Payload::Without }
}

pub(super) struct Query;

/// Read-only: events are written by their sources, webhooks are registered over REST.
#[Object]
impl Query {
    /// The object with this id: an event or an aggregate.
    async fn node(&self, ctx: &Context<'_>, id: ID) -> Option<Result<Node, Failure>> {
        let nodes = Caller::of(ctx).nodes(vec![id], payload(&[ctx.look_ahead()])).await;
        nodes.map(|mut nodes| nodes.pop().flatten()).transpose()
    }

    /// The objects with these ids, at most 100, in their order; null for an unknown one.
    async fn nodes(&self, ctx: &Context<'_>, ids: Vec<ID>) -> Result<Vec<Option<Node>>, Failure> {
        Caller::of(ctx).nodes(ids, payload(&[ctx.look_ahead()])).await
    }

    /// The event with this id.
    async fn event(&self, ctx: &Context<'_>, id: ID) -> Option<Result<EventNode, Failure>> {
        let events = Caller::of(ctx).events(&[id.0], payload(&[ctx.look_ahead()])).await;
        events.map(|mut events| events.pop().flatten()).transpose()
    }

    /// The events with these ids, at most 100, in their order; null for an unknown one. The detail after a feed page.
    async fn events_by_ids(&self, ctx: &Context<'_>, ids: Vec<ID>) -> Result<Vec<Option<EventNode>>, Failure> {
        Caller::of(ctx).events(&bounded(ids)?, payload(&[ctx.look_ahead()])).await
    }

    /// The journal, in the order in which events were journaled. A page has 50 events if nothing is said, at most 200.
    #[expect(clippy::too_many_arguments, reason = "they are the arguments of the GraphQL field")]
    async fn events(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        from: Option<StartPosition>,
        filter: Option<EventFilter>,
        #[graphql(default_with = "Some(SortOrder::Asc)")] order: Option<SortOrder>,
    ) -> Result<EventConnection, Failure> {
        let paging = Paging { first, after, last, before, from, filter, order };
        paging.page(ctx, &Caller::of(ctx).selection).await
    }

    /// An aggregate: what the events of one thing are about.
    async fn aggregate(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "type")] r#type: String,
        id: String,
    ) -> Option<Result<Aggregate, Failure>> {
        Caller::of(ctx).aggregate(r#type, id).await.transpose()
    }
}

pub(super) struct Aggregate {
    pub(super) r#type: String,
    pub(super) key: String,
    /// Known already, or not asked for yet.
    pub(super) version: Option<Option<i64>>,
}

impl Aggregate {
    /// Reads the id of an aggregate. No event id has this form: it is a UUID, a ULID or has a colon.
    fn parse_id(id: &str) -> Option<(String, String)> {
        let (r#type, key) = id.split_once('/').filter(|_| !id.contains(':'))?;
        let decoded = |text| percent_encoding::percent_decode_str(text).decode_utf8().map(String::from).ok();
        Some((decoded(r#type)?, decoded(key)?))
    }
}

/// What the events of one thing are about.
#[Object]
impl Aggregate {
    async fn id(&self) -> ID {
        ID(format!("{}/{}", escape(&self.r#type), escape(&self.key)))
    }

    async fn r#type(&self) -> &str {
        &self.r#type
    }

    /// Its id in its source.
    async fn key(&self) -> &str {
        &self.key
    }

    /// The version that its newest event carries.
    async fn version(&self, ctx: &Context<'_>) -> Option<Result<Long, Failure>> {
        let caller = Caller::of(ctx);
        let version = match self.version {
            Some(version) => Ok(version),
            None => {
                caller.journal.latest_version(&caller.selection, &self.r#type, &self.key).await.map(Option::flatten)
            }
        };
        version.map(|version| version.map(Long)).map_err(Failure::from).transpose()
    }

    /// Its events, in the order in which they were journaled.
    async fn events(
        &self,
        ctx: &Context<'_>,
        first: Option<i32>,
        after: Option<String>,
        last: Option<i32>,
        before: Option<String>,
        filter: Option<EventFilter>,
    ) -> Result<EventConnection, Failure> {
        let paging = Paging { first, after, last, before, from: None, filter, order: None };
        let mine = Filter {
            aggregate_types: vec![self.r#type.clone()],
            aggregate_ids: vec![self.key.clone()],
            ..Filter::default()
        };
        paging.page(ctx, &Caller::of(ctx).selection.and(&mine)).await
    }
}

pub(super) struct DateTime(pub(super) Micros);

/// RFC 3339, in UTC.
#[Scalar(specified_by_url = "https://scalars.graphql.org/andimarek/date-time.html")]
impl ScalarType for DateTime {
    fn parse(value: Value) -> InputValueResult<Self> {
        let Value::String(text) = &value else { return Err(InputValueError::expected_type(value)) };
        let time = Micros::parse_rfc3339(text).map(Self);
        time.ok_or_else(|| InputValueError::custom("give RFC 3339, such as 2026-01-31T12:00:00Z"))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_text())
    }
}

pub(super) struct Long(pub(super) i64);

/// A whole number beyond 32 bits, sent as a string; a number or a string is accepted.
#[Scalar]
impl ScalarType for Long {
    fn parse(value: Value) -> InputValueResult<Self> {
        let number = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        number.map(Self).ok_or_else(|| InputValueError::expected_type(value))
    }

    fn to_value(&self) -> Value {
        Value::String(self.0.to_string())
    }
}
