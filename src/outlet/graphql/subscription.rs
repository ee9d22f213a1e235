//! The subscription: the journal from any place on, as it grows.

use std::sync::Arc;

use async_graphql::{Context, SimpleObject, Subscription};
use futures_util::stream::{self, Stream};

use super::caller::{Caller, columns};
use super::connection::{EventFilter, Origin, PAGE_MAX, StartPosition};
use super::event::{EventList, EventNode};
use super::failure::Failure;
use crate::journal::{Follower, Page};

pub(super) struct Root;

/// Events as they are journaled, each at least once and in order. To go on after an interruption, start from the cursor of
/// the last batch.
#[Subscription(name = "Subscription")]
impl Root {
    /// The events after a place, up to `batch` (200 at most) at a time. An empty batch tells how far was looked.
    async fn events<'ctx>(
        &self,
        ctx: &Context<'ctx>,
        #[graphql(default_with = "Some(StartPosition::Origin(Origin::Latest))")] from: Option<StartPosition>,
        feed: Option<String>,
        filter: Option<EventFilter>,
        #[graphql(default_with = "Some(1)")] batch: Option<i32>,
    ) -> Result<impl Stream<Item = Result<EventBatch, Failure>> + 'ctx, Failure> {
        let caller = Caller::of(ctx);
        let batch = batch.unwrap_or(1);
        let size = usize::try_from(batch).ok().filter(|size| (1..=PAGE_MAX).contains(size));
        let size = size.ok_or_else(|| Failure::input(format!("`batch` is {batch}; give 1 to {PAGE_MAX}")))?;
        let (filter, sieve) = filter.unwrap_or_default().split()?;
        let selection = caller.of_feed(feed.as_deref())?.and(&filter);
        let from = caller.resumed_from.clone().map(StartPosition::Cursor).or(from);
        let after = caller.start(from.unwrap_or(StartPosition::Origin(Origin::Latest))).await?;
        let columns = sieve.columns(columns(&[ctx.look_ahead().field("events")]));
        let stopping = caller.directory.stopping.clone();
        let follower = Follower::new(caller.journal.clone(), selection, columns, after, size, stopping);
        let follower = match sieve.is_open() {
            true => follower,
            false => follower.only(Box::new(move |entry| sieve.lets_through(entry))),
        };
        // Ends after an error.
        Ok(stream::unfold(Some(follower), move |follower| async move {
            let mut follower = follower?;
            match follower.next().await {
                Ok(page) => Some((Ok(EventBatch::new(caller, page?)), Some(follower))),
                Err(cause) => Some((Err(Failure::from(cause)), None)),
            }
        }))
    }
}

/// Events that follow one another, and the place after them.
#[derive(SimpleObject)]
pub(super) struct EventBatch {
    /// Everything up to here was looked at. Moves even where nothing matches.
    cursor: String,
    events: EventList,
    /// All that was journaled has been sent: the next event is a new one.
    caught_up: bool,
}

impl EventBatch {
    fn new(caller: &Caller, page: Page) -> Self {
        let caught_up = page.is_last();
        caller.new_batch(page.covered);
        let events = page.entries.into_iter().map(|entry| EventNode(Arc::new(entry)));
        Self { cursor: caller.cursor(page.covered), events: EventList(events.collect()), caught_up }
    }
}
