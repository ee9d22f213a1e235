//! What there is besides events: types of events, feeds, the journal and its sources. Each client is told only of what it
//! may see.

use std::sync::Arc;

use async_graphql::{Context, ID, Object, SimpleObject};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::failure::Failure;
use super::scalars::{DateTime, Json, Long};
use crate::catalogue::Catalogue;
use crate::event::{Micros, escape, unescape};
use crate::filter::{Filter, Selection};
use crate::journal;

/// What the schema shows of other rooms.
pub struct Directory {
    pub catalogue: Arc<Catalogue>,
    pub feeds: Vec<FeedInfo>,
    /// How the sources are doing, when asked.
    pub sources: Box<dyn Fn() -> Vec<SourceInfo> + Send + Sync>,
    /// How the outside reaches the gateway.
    pub public_url: String,
    /// Ends subscriptions.
    pub stopping: CancellationToken,
}

/// A feed, and what it lets through.
#[derive(Clone)]
pub struct FeedInfo {
    pub name: String,
    pub title: String,
    pub url: String,
    pub filter: Filter,
}

/// How a source is doing.
pub struct SourceInfo {
    pub name: String,
    pub kind: String,
    pub healthy: bool,
    pub lag_seconds: Option<f64>,
    pub last_event_at: Option<Micros>,
}

/// In front of the ids of what is no event and no aggregate. No id of those holds two slashes in a row.
const EVENT_TYPE_ID: &str = "event-type//";
const FEED_ID: &str = "feed//";

impl Caller {
    /// The types that the client may see, by name: those that were journaled and those that the catalogue lists.
    pub(super) async fn event_types(&self) -> Result<Vec<EventType>, Failure> {
        let counted = self.counted.get_or_try_init(|| self.journal.event_types(&self.selection)).await?;
        let mut counted = counted.clone();
        for name in self.directory.catalogue.listed().filter(|name| self.selection.lets_type_through(name)) {
            counted.entry(name.to_owned()).or_default();
        }
        Ok(counted.into_iter().map(|(name, counted)| EventType { name, counted }).collect())
    }

    pub(super) async fn event_type(&self, name: &str) -> Result<Option<EventType>, Failure> {
        Ok(self.event_types().await?.into_iter().find(|known| known.name == name))
    }

    pub(super) fn feeds(&self) -> Vec<Feed> {
        self.shown_feeds().cloned().map(Feed).collect()
    }

    fn shown_feeds(&self) -> impl Iterator<Item = &FeedInfo> {
        self.directory.feeds.iter().filter(|feed| self.selection.may_meet(&feed.filter))
    }

    /// The event type or feed with this id.
    pub(super) async fn listed(&self, id: &str) -> Result<Option<Listed>, Failure> {
        if let Some(name) = id.strip_prefix(EVENT_TYPE_ID).and_then(unescape) {
            return Ok(self.event_type(&name).await?.map(Listed::EventType));
        }
        let name = id.strip_prefix(FEED_ID).and_then(unescape);
        let feed = self.shown_feeds().find(|feed| Some(&feed.name) == name.as_ref());
        Ok(feed.cloned().map(|feed| Listed::Feed(Feed(feed))))
    }

    /// The events of a feed that the client may see.
    pub(super) fn of_feed(&self, name: Option<&str>) -> Result<Selection, Failure> {
        let Some(name) = name else { return Ok(self.selection.clone()) };
        let feed = self.shown_feeds().find(|feed| feed.name == name);
        let unknown = || Failure::input(format!("`feed`: there is no feed `{name}`; `feeds` lists them"));
        Ok(self.selection.and(&feed.ok_or_else(unknown)?.filter))
    }
}

pub(super) enum Listed {
    EventType(EventType),
    Feed(Feed),
}

/// A type of events that was journaled, or that the catalogue lists.
pub(super) struct EventType {
    name: String,
    counted: journal::EventType,
}

/// A type of events that was journaled, or that the catalogue lists.
#[Object]
impl EventType {
    async fn id(&self) -> ID {
        ID(format!("{EVENT_TYPE_ID}{}", escape(&self.name)))
    }

    async fn name(&self) -> &str {
        &self.name
    }

    /// The object type of its events, where it has a schema.
    async fn graphql_type(&self, ctx: &Context<'_>) -> Option<String> {
        let types = &Caller::of(ctx).types;
        types.of(&self.name).map(|index| types.name_of(Some(index)).to_owned())
    }

    /// The JSON Schema of its data; of several versions `anyOf` them.
    async fn schema(&self, ctx: &Context<'_>) -> Option<Result<Json, Failure>> {
        let caller = Caller::of(ctx);
        let text = match caller.directory.catalogue.schemas().get(&self.name)?.versions() {
            [only] => only.to_string(),
            versions => json!({ "anyOf": versions }).to_string(),
        };
        Some(caller.spend(text.len()).map(|()| Json::Text(text)))
    }

    /// Whether its events leave the house.
    async fn published(&self, ctx: &Context<'_>) -> bool {
        Caller::of(ctx).directory.catalogue.publishes(&self.name)
    }

    /// How many were journaled.
    async fn count(&self) -> Long {
        Long(self.counted.count)
    }

    /// Of how many the data did not fit the schema when they were journaled.
    async fn mismatch_count(&self) -> Long {
        Long(self.counted.mismatch_count)
    }

    async fn first_seen_at(&self) -> Option<DateTime> {
        self.counted.first_seen_at.map(DateTime)
    }

    async fn last_seen_at(&self) -> Option<DateTime> {
        self.counted.last_seen_at.map(DateTime)
    }
}

pub(super) struct Feed(FeedInfo);

/// A feed: a filtered view of the journal, for those who poll.
#[Object]
impl Feed {
    async fn id(&self) -> ID {
        ID(format!("{FEED_ID}{}", escape(&self.0.name)))
    }

    async fn name(&self) -> &str {
        &self.0.name
    }

    async fn title(&self) -> &str {
        &self.0.title
    }

    /// Of its Atom document.
    async fn url(&self) -> &str {
        &self.0.url
    }

    /// How far the feed has been filled: what is after it is still to come.
    async fn head_cursor(&self, ctx: &Context<'_>) -> Option<Result<String, Failure>> {
        head_cursor(Caller::of(ctx)).await
    }
}

async fn head_cursor(caller: &Caller) -> Option<Result<String, Failure>> {
    Some(caller.head().await.map(|head| caller.cursor(head.position)))
}

/// The journal: all events, in the order in which they were journaled.
pub(super) struct JournalState;

/// The journal: all events, in the order in which they were journaled.
#[Object(name = "Journal")]
impl JournalState {
    /// Of the newest position.
    async fn head_cursor(&self, ctx: &Context<'_>) -> Option<Result<String, Failure>> {
        head_cursor(Caller::of(ctx)).await
    }

    /// What is after it is kept.
    async fn tail_cursor(&self, ctx: &Context<'_>) -> Option<Result<String, Failure>> {
        let caller = Caller::of(ctx);
        Some(caller.head().await.map(|head| caller.cursor(head.oldest - 1)))
    }

    /// The sources whose events you may all see.
    async fn sources(&self, ctx: &Context<'_>) -> Result<Vec<Source>, Failure> {
        let caller = Caller::of(ctx);
        let mut sources = Vec::new();
        for source in (caller.directory.sources)() {
            if !caller.selection.lets_source_through(&source.name) {
                continue;
            }
            let kept = caller.journal.source(&source.name).await?;
            sources.push(Source {
                quarantined: Long(kept.map_or(0, |row| row.quarantined)),
                kind: source.kind.clone(),
                healthy: source.healthy,
                lag_seconds: source.lag_seconds,
                last_event_at: source.last_event_at.map(DateTime),
                name: source.name,
            });
        }
        Ok(sources)
    }
}

/// Where events come from.
#[derive(SimpleObject)]
pub(super) struct Source {
    name: String,
    /// The database, `push` or `feed`.
    kind: String,
    /// It was reached at the last try.
    healthy: bool,
    /// Since everything that was visible in it was journaled.
    lag_seconds: Option<f64>,
    /// When the newest of its events occurred.
    last_event_at: Option<DateTime>,
    /// Rows that can't be published as they are.
    quarantined: Long,
}
