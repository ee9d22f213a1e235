//! Reading the journal as it grows.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Columns, Error, Journal, Page, Range};
use crate::event::Entry;
use crate::filter::Selection;
use crate::runtime::Bell;

/// Positions that one look goes over: a filter that rarely matches must not hold the database.
pub const LOOKED_AT_MAX: i64 = 50_000;
/// How long the bell is waited for before the head is read anyway: another process may have written.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a follower hears of progress although nothing matched, so that it does not begin again far behind.
const BEAT: Duration = Duration::from_secs(15);

/// Entries that are read at a time where not all of them are wanted.
const CHUNK: usize = 200;

/// Which of the entries that a selection lets through are wanted.
pub type Wanted = Box<dyn Fn(&Entry) -> bool + Send + Sync>;

/// One reader and its place. It is as fast as whoever calls [`Follower::next`]: nothing is read ahead.
pub struct Follower {
    journal: Journal,
    selection: Selection,
    columns: Columns,
    /// Everything up to here was looked at.
    after: i64,
    limit: usize,
    /// Nothing: all.
    wanted: Option<Wanted>,
    bell: Bell,
    stopping: CancellationToken,
    beat_at: Instant,
    /// The last page reached the head.
    caught_up: bool,
}

impl Follower {
    /// Follows what `selection` lets through after a position, at most `limit` entries a page.
    pub fn new(
        journal: Journal,
        selection: Selection,
        columns: Columns,
        after: i64,
        limit: usize,
        stopping: CancellationToken,
    ) -> Self {
        let (bell, beat_at) = (journal.bell(), Instant::now() + BEAT);
        Self { journal, selection, columns, after, limit, wanted: None, bell, stopping, beat_at, caught_up: false }
    }

    /// Follows only some of them.
    #[must_use]
    pub fn only(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(wanted);
        self
    }

    /// The next entries that are wanted, or how far there are none.
    async fn look(&self) -> Result<Page, Error> {
        let range = Range { through: Some(self.after + LOOKED_AT_MAX), ..Range::after(self.after) };
        let Some(wanted) = &self.wanted else {
            return self.journal.read(&self.selection, range, self.limit, self.columns).await;
        };
        let mut page = self.journal.read(&self.selection, range, self.limit.max(CHUNK), self.columns).await?;
        page.entries.retain(|entry| wanted(entry));
        if page.entries.len() > self.limit {
            page.entries.truncate(self.limit);
            page.more = true;
            page.covered = page.entries.last().map_or(page.covered, |last| last.position);
        }
        Ok(page)
    }

    /// The next page. It is empty where the head is reached for the first time, and every 15 s in which nothing
    /// matched. `None`: the gateway stops.
    ///
    /// # Errors
    /// The database; [`Error::Expired`] where entries were purged that had not been read.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        loop {
            if self.stopping.is_cancelled() {
                return Ok(None);
            }
            let page = self.look().await?;
            self.journal.check_kept(self.after)?;
            self.after = page.covered;
            let was_caught_up = std::mem::replace(&mut self.caught_up, page.is_last());
            let beat = Instant::now() >= self.beat_at;
            if !page.entries.is_empty() || beat || (self.caught_up && !was_caught_up) {
                self.beat_at = Instant::now() + BEAT;
                return Ok(Some(page));
            }
            if self.caught_up {
                let left = self.beat_at.saturating_duration_since(Instant::now());
                tokio::select! {
                    () = self.bell.rung(left.min(LOOK_EVERY)) => {}
                    () = self.stopping.cancelled() => return Ok(None),
                }
            }
        }
    }
}
