//! Reading the journal as it grows.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Columns, Error, Journal, Page, Range};
use crate::filter::Selection;
use crate::runtime::Bell;

/// Positions that one look goes over: a filter that rarely matches must not hold the database.
pub const LOOKED_AT_MAX: i64 = 50_000;
/// How long the bell is waited for before the head is read anyway: another process may have written.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a follower hears of progress although nothing matched, so that it does not begin again far behind.
const BEAT: Duration = Duration::from_secs(15);

/// One reader and its place. It is as fast as whoever calls [`Follower::next`]: nothing is read ahead.
pub struct Follower {
    journal: Journal,
    selection: Selection,
    payload: Columns,
    /// Everything up to here was looked at.
    after: i64,
    limit: usize,
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
        payload: Columns,
        after: i64,
        limit: usize,
        stopping: CancellationToken,
    ) -> Self {
        let (bell, beat_at) = (journal.bell(), Instant::now() + BEAT);
        Self { journal, selection, payload, after, limit, bell, stopping, beat_at, caught_up: false }
    }

    /// The next page. It is empty where the head is reached for the first time, and every 15 s in which nothing
    /// matched. `None`: the gateway stops.
    ///
    /// # Errors
    /// The database; [`Error::Expired`] where entries were purged that had not been read.
    pub async fn next(&mut self) -> Result<Option<Page>, Error> {
        loop {
            let range = Range { through: Some(self.after + LOOKED_AT_MAX), ..Range::after(self.after) };
            let page = self.journal.read(&self.selection, range, self.limit, self.payload).await?;
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
