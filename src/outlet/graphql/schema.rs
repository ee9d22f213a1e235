//! The schema: root fields and aggregates. The rest of it stands in `event` and `connection`.

use async_graphql::{Context, ID, Object};

use super::caller::{Caller, columns};
use super::connection::{EventConnection, EventFilter, Paging, SortOrder, StartPosition};
use super::directory::{EventType, Feed, JournalState};
use super::event::{EventNode, EventsOrNull, Node};
use super::failure::Failure;
use super::scalars::Long;
use crate::event::{escape, unescape};
use crate::journal::Columns;

pub(super) const IDS_MAX: usize = 100;

fn bounded(ids: Vec<ID>) -> Result<Vec<String>, Failure> {
    if ids.len() > IDS_MAX {
        return Err(Failure::input(format!("`ids` holds {} ids, more than {IDS_MAX}; ask in parts", ids.len())));
    }
    Ok(ids.into_iter().map(|id| id.0).collect())
}

impl Caller {
    async fn aggregate(&self, r#type: String, key: String) -> Result<Option<Aggregate>, Failure> {
        let version = self.version(&r#type, &key).await?;
        Ok(version.map(|version| Aggregate { r#type, key, version: Some(version) }))
    }

    async fn nodes(&self, ids: Vec<ID>, columns: Columns) -> Result<Vec<Option<Node>>, Failure> {
        let ids: Vec<String> = bounded(ids)?;
        let mut nodes: Vec<Option<Node>> =
            self.events(&ids, columns).await?.into_iter().map(|event| event.map(Node::Event)).collect();
        for (node, id) in nodes.iter_mut().zip(&ids).filter(|(node, _)| node.is_none()) {
            *node = match Aggregate::parse_id(id) {
                Some((r#type, key)) => self.aggregate(r#type, key).await?.map(Node::Aggregate),
                None => self.listed(id).await?.map(Node::Listed),
            };
        }
        Ok(nodes)
    }
}

pub(super) struct Query;

/// Read-only: events are written by their sources, webhooks are registered over REST.
#[Object]
impl Query {
    /// The object with this id: an event, an aggregate, a type of events or a feed.
    async fn node(&self, ctx: &Context<'_>, id: ID) -> Option<Result<Node, Failure>> {
        let nodes = Caller::of(ctx).nodes(vec![id], columns(&[ctx.look_ahead()])).await;
        nodes.map(|mut nodes| nodes.pop().flatten()).transpose()
    }

    /// The objects with these ids, at most 100, in their order; null for an unknown one.
    async fn nodes(&self, ctx: &Context<'_>, ids: Vec<ID>) -> Result<Vec<Option<Node>>, Failure> {
        Caller::of(ctx).nodes(ids, columns(&[ctx.look_ahead()])).await
    }

    /// The event with this id.
    async fn event(&self, ctx: &Context<'_>, id: ID) -> Option<Result<EventNode, Failure>> {
        Caller::of(ctx).event(id.0, columns(&[ctx.look_ahead()])).await.transpose()
    }

    /// The events with these ids, at most 100, in their order; null for an unknown one. The detail after a feed page.
    async fn events_by_ids(&self, ctx: &Context<'_>, ids: Vec<ID>) -> Result<EventsOrNull, Failure> {
        Caller::of(ctx).events(&bounded(ids)?, columns(&[ctx.look_ahead()])).await.map(EventsOrNull)
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
        feed: Option<String>,
        filter: Option<EventFilter>,
        #[graphql(default_with = "Some(SortOrder::Asc)")] order: Option<SortOrder>,
    ) -> Result<EventConnection, Failure> {
        let paging = Paging { first, after, last, before, from, filter, feed, order };
        paging.page(ctx, None).await
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

    /// The types of events that were journaled or that the catalogue lists, by name.
    async fn event_types(&self, ctx: &Context<'_>) -> Result<Vec<EventType>, Failure> {
        Caller::of(ctx).event_types().await
    }

    /// The type of events with this name.
    async fn event_type(&self, ctx: &Context<'_>, name: String) -> Option<Result<EventType, Failure>> {
        Caller::of(ctx).event_type(&name).await.transpose()
    }

    async fn feeds(&self, ctx: &Context<'_>) -> Vec<Feed> {
        Caller::of(ctx).feeds()
    }

    async fn journal(&self) -> JournalState {
        JournalState
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
        let (r#type, key) = id.split_once('/').filter(|(_, key)| !id.contains(':') && !key.starts_with('/'))?;
        Some((unescape(r#type)?, unescape(key)?))
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
            None => caller.version(&self.r#type, &self.key).await.map(Option::flatten),
        };
        version.map(|version| version.map(Long)).transpose()
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
        let paging = Paging { first, after, last, before, from: None, filter, feed: None, order: None };
        paging.page(ctx, Some(self)).await
    }
}
