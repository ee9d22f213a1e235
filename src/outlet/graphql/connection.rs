//! Connections of events: which part of the journal, which page of it, as GraphQL Cursor Connections say.

use std::sync::Arc;

use async_graphql::{Context, Enum, ID, InputObject, Object, OneofObject, SimpleObject};

use super::caller::{Caller, columns};
use super::event::{EventList, EventNode};
use super::failure::Failure;
use super::scalars::DateTime;
use super::schema::Aggregate;
use super::sieve::{DataMatch, Sieve};
use crate::filter::Filter;
use crate::journal::{Columns, Order, Range};

pub(super) const PAGE_DEFAULT: i32 = 50;
pub(super) const PAGE_MAX: usize = 200;

/// The arguments of a connection.
pub(super) struct Paging {
    pub(super) first: Option<i32>,
    pub(super) after: Option<String>,
    pub(super) last: Option<i32>,
    pub(super) before: Option<String>,
    pub(super) from: Option<StartPosition>,
    pub(super) filter: Option<EventFilter>,
    pub(super) feed: Option<String>,
    pub(super) order: Option<SortOrder>,
}

impl Paging {
    /// How many events, and whether they are the first or the last ones.
    fn size(&self) -> Result<(usize, bool), Failure> {
        let (name, given) = match (self.first, self.last) {
            (Some(_), Some(_)) => return Err(Failure::input("give `first` or `last`, not both")),
            (None, Some(last)) => ("last", last),
            (first, None) => ("first", first.unwrap_or(PAGE_DEFAULT)),
        };
        let size = usize::try_from(given).ok().filter(|size| *size <= PAGE_MAX);
        let size = size.ok_or_else(|| Failure::input(format!("`{name}` is {given}; give 0 to {PAGE_MAX}")))?;
        Ok((size, name == "last"))
    }

    /// One read of the journal, narrowed to the aggregate `of` if there is one. The event under the cursor at which the page starts is read along: where it is one
    /// of the connection's, there is a page on that side.
    pub(super) async fn page(self, ctx: &Context<'_>, of: Option<&Aggregate>) -> Result<EventConnection, Failure> {
        let caller = Caller::of(ctx);
        let (size, backward) = self.size()?;
        let (filter, sieve) = self.filter.unwrap_or_default().split()?;
        let selection = caller.of_feed(self.feed.as_deref())?.and(&filter);
        let selection = of.map(|of| selection.of_aggregate(&of.r#type, &of.key)).unwrap_or(selection);
        let descending = self.order == Some(SortOrder::Desc);
        let (lower, upper) = if descending { (&self.before, &self.after) } else { (&self.after, &self.before) };
        let lower = caller.locate(lower.as_deref()).await?;
        let upper = caller.locate(upper.as_deref()).await?;
        let floor = caller.start(self.from.unwrap_or(StartPosition::Origin(Origin::Beginning))).await?;

        // The page starts below if it reads upwards: at `lower`, unless `floor` hides what lies there.
        let upwards = descending == backward;
        let edge = if upwards { lower.filter(|lower| *lower > floor) } else { upper };
        let range = Range {
            after: lower.unwrap_or(floor).max(floor) - i64::from(upwards && edge.is_some()),
            through: upper.map(|upper| upper - i64::from(upwards)),
            order: if upwards { Order::Ascending } else { Order::Descending },
        };
        let look = ctx.look_ahead();
        let columns = columns(&[look.field("nodes"), look.field("edges").field("node")]);
        let limit = size + usize::from(edge.is_some());
        let page = caller.read(&sieve, &selection, range, limit, columns).await?;

        // Where `after` lies behind `before`, the range is empty and begins before the place that was asked for.
        let (mut entries, covered) = (page.entries, page.covered.max(lower.unwrap_or(0)));
        let behind = edge.is_some() && entries.first().map(|entry| entry.position) == edge;
        if behind {
            entries.remove(0);
        }
        let ahead = page.more || entries.len() > size;
        entries.truncate(size);
        if backward {
            entries.reverse();
        }
        let nodes: Vec<EventNode> = entries.into_iter().map(|entry| EventNode(Arc::new(entry))).collect();
        let cursor = |node: &EventNode| caller.cursor(node.0.position);
        // An empty page still tells where to go on: nothing between here and there matched.
        let on = || match (upwards, ahead) {
            _ if size == 0 => None,
            (true, _) => Some(caller.cursor(covered)),
            (false, true) => Some(caller.cursor(covered + 1)),
            (false, false) => None,
        };
        let page_info = PageInfo {
            has_next_page: if backward { behind } else { ahead },
            has_previous_page: if backward { ahead } else { behind },
            start_cursor: nodes.first().map(cursor).or_else(|| if backward { on() } else { None }),
            end_cursor: nodes.last().map(cursor).or_else(|| if backward { None } else { on() }),
        };
        Ok(EventConnection { nodes: EventList(nodes), page_info })
    }
}

impl Caller {
    /// The position under a cursor.
    async fn locate(&self, cursor: Option<&str>) -> Result<Option<i64>, Failure> {
        match cursor {
            Some(cursor) => Ok(Some(self.journal.locate(&self.selection, cursor).await?)),
            None => Ok(None),
        }
    }

    /// The position after which a listing begins.
    pub(super) async fn start(&self, from: StartPosition) -> Result<i64, Failure> {
        match from {
            StartPosition::Origin(Origin::Beginning) => Ok((self.journal.known_past().oldest - 1).max(0)),
            StartPosition::Origin(Origin::Latest) => Ok(self.head().await?.position),
            StartPosition::Cursor(cursor) => Ok(self.journal.locate(&self.selection, &cursor).await?),
            StartPosition::Time(time) => Ok(self.journal.before_time(time.0).await?),
            StartPosition::EventId(id) => {
                let found = self.events(std::slice::from_ref(&id.0), Columns::NONE).await?;
                let event = found.into_iter().flatten().next();
                let unknown = || Failure::input(format!("`from.eventId`: there is no event `{}`", id.0));
                event.map(|event| event.0.position).ok_or_else(unknown)
            }
        }
    }
}

pub(super) struct EventConnection {
    nodes: EventList,
    page_info: PageInfo,
}

/// A page of events, as GraphQL Cursor Connections say.
#[Object]
impl EventConnection {
    async fn edges(&self, ctx: &Context<'_>) -> Vec<EventEdge> {
        let caller = Caller::of(ctx);
        let edge = |node: &EventNode| EventEdge { cursor: caller.cursor(node.0.position), node: node.clone() };
        self.nodes.0.iter().map(edge).collect()
    }

    /// The events without their edges.
    async fn nodes(&self) -> &EventList {
        &self.nodes
    }

    async fn page_info(&self) -> &PageInfo {
        &self.page_info
    }
}

#[derive(SimpleObject)]
pub(super) struct EventEdge {
    cursor: String,
    node: EventNode,
}

#[derive(SimpleObject)]
pub(super) struct PageInfo {
    has_next_page: bool,
    has_previous_page: bool,
    start_cursor: Option<String>,
    /// Where to go on. An empty page has one, too: up to there nothing matched.
    end_cursor: Option<String>,
}

/// Where the listed part of the journal begins, whatever the order of listing: after a cursor or an event, or with the
/// first event of a time (the feed's: it never decreases).
#[derive(OneofObject)]
pub(super) enum StartPosition {
    Cursor(String),
    EventId(ID),
    Time(DateTime),
    Origin(Origin),
}

#[derive(Clone, Copy, Enum, PartialEq, Eq)]
pub(super) enum Origin {
    Beginning,
    Latest,
}

#[derive(Clone, Copy, Enum, PartialEq, Eq)]
pub(super) enum SortOrder {
    Asc,
    Desc,
}

/// Lists are alternatives, all lists must hold. A text that ends with `*` is a prefix.
#[derive(Default, InputObject)]
pub(super) struct EventFilter {
    types: Option<Vec<String>>,
    sources: Option<Vec<String>>,
    aggregate_types: Option<Vec<String>>,
    aggregate_ids: Option<Vec<String>>,
    /// Inclusive.
    occurred_from: Option<DateTime>,
    /// Exclusive.
    occurred_before: Option<DateTime>,
    /// At most 20, which must all hold.
    data: Option<Vec<DataMatch>>,
}

impl EventFilter {
    /// What the journal answers by its indexes, and what is looked for among the rest.
    pub(super) fn split(self) -> Result<(Filter, Sieve), Failure> {
        let filter = Filter {
            types: self.types.unwrap_or_default(),
            sources: self.sources.unwrap_or_default(),
            aggregate_types: self.aggregate_types.unwrap_or_default(),
            aggregate_ids: self.aggregate_ids.unwrap_or_default(),
        };
        filter.check()?;
        Ok((filter, Sieve::new(self.occurred_from, self.occurred_before, self.data.unwrap_or_default())?))
    }
}
