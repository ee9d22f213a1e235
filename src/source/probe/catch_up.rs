//! Numbers that went back, and tables that are far ahead.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Probe;
use super::batch::Batch;
use crate::source::holes::Checkpoint;
use crate::source::status::CatchUp;
use crate::source::{Error, Page, ROWS_FIRST, Source};

/// Numbers behind from which a table is caught up with in many short snapshots: a long one keeps databases from cleaning up.
const CATCH_UP_MIN: i64 = 100_000;
const PROGRESS_LOG_EVERY: Duration = Duration::from_secs(10);

impl<S: Source> Probe<S> {
    /// A table that was truncated, or replaced by an older copy, gives numbers again that were read: then all is read
    /// again, and what is known by its id is dropped. One that is far ahead is caught up with.
    pub(super) async fn look_back(&mut self) -> Result<(), Error> {
        self.look_back_at = Instant::now() + self.setting.config.sweep;
        let newest = self.source.newest(1).await?.rows.first().map(|row| row.sequence);
        if self.checkpoint.max.is_some_and(|max| newest.is_none_or(|newest| newest < max)) {
            self.read_again("its highest number went back");
        }
        let Some(newest) = newest else { return Ok(()) };
        if self.checkpoint.max.is_some_and(|max| newest.saturating_sub(max) < CATCH_UP_MIN) {
            return Ok(());
        }
        let mut page = self.source.tail(self.above(), 1).await?;
        if !self.goes_on(&page).await? {
            page = self.source.tail(self.above(), 1).await?;
        }
        let first = page.rows.first().map(|row| row.sequence);
        match first.filter(|first| newest.saturating_sub(*first) >= CATCH_UP_MIN) {
            Some(first) => self.catch_up(first, newest).await,
            None => Ok(()),
        }
    }

    /// Before rows above the highest number are taken: its row is still the same. Else numbers were given anew, and went
    /// beyond it between two looks; then all is read again. (Where the newest number may be given again, it is read at
    /// every poll anyway, and tells nothing of the others.)
    pub(super) async fn goes_on(&mut self, above: &Page) -> Result<bool, Error> {
        let (Some(max), Some(id)) = (self.checkpoint.max, self.checkpoint.last_id.clone()) else { return Ok(true) };
        if S::REREADS_LAST || above.rows.is_empty() {
            return Ok(true);
        }
        let rows = self.source.ranges(&[(max, max)], ROWS_FIRST).await?.rows;
        let is_it = |row| self.source.mapping().own_id(row).is_some_and(|own_id| own_id == id);
        // One that was deleted tells nothing.
        let goes_on = rows.is_empty() || rows.iter().any(is_it);
        if !goes_on {
            self.read_again("its highest number is that of another row now");
        }
        Ok(goes_on)
    }

    /// Numbers may be those of other rows now.
    pub(super) fn read_again(&mut self, why: &str) {
        let name = &self.setting.config.name;
        warn!(source.name = %name, "reading `{name}` from its beginning, as {why}; what is known by its id is dropped");
        let Checkpoint { column, id_column, swept, lost, .. } = std::mem::take(&mut self.checkpoint);
        self.checkpoint = Checkpoint { column, id_column, swept, lost, ..Checkpoint::default() };
    }

    /// Reads page by page, each as it is then, up to the number that was the highest when this began. What is written
    /// meanwhile below it is missing for now and looked for afterwards.
    async fn catch_up(&mut self, first: i64, target: i64) -> Result<(), Error> {
        let name = self.setting.config.name.clone();
        info!(source.name = %name, "catching up with `{name}`: its numbers go from {first} to {target}");
        let (mut batch, mut above, mut done) = (Batch::default(), self.above(), 0_u64);
        let (started, mut logged) = (Instant::now(), Instant::now());
        loop {
            let mut page = self.source.tail(above, self.rows_max).await?;
            self.rows_max = page.rows_next(self.rows_max);
            page.rows.truncate(page.rows.partition_point(|row| row.sequence <= target));
            let is_last = !page.more || page.rows.last().is_none_or(|row| row.sequence >= target);
            above = page.rows.last().map_or(above, |row| row.sequence);
            let keep = self.take(&mut batch, &page);
            done += page.rows.len() as u64;
            let progress = CatchUp::new(done, (first, above, target), started.elapsed());
            self.checkpoint.catch_up = Some(progress).filter(|_| !is_last);
            self.journal(&mut batch, if is_last { 0 } else { keep }).await?;
            let position = self.checkpoint.max;
            self.setting.status.update(|state| {
                (state.healthy, state.last_error) = (true, None);
                state.catch_up = Some(progress);
                state.position = position;
            });
            if is_last || logged.elapsed() >= PROGRESS_LOG_EVERY {
                logged = Instant::now();
                let CatchUp { total, rate, .. } = progress;
                info!(source.name = %name, done, total, "`{name}`: read {done} of about {total} rows, {rate} a second");
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
