//! What webhooks have not got of entries that are about to be purged.

use super::{Webhooks, definition_of, target};
use crate::journal::webhooks::WebhookRow;
use crate::journal::{Error, Missed, Order, Range};

/// Webhooks that are read at a time.
const ROWS_AT_ONCE: i64 = 100;

impl Webhooks {
    /// For each webhook that has not got all events up to a position: how many, beyond its cursor and at or behind the rows
    /// of its failing keys.
    ///
    /// # Errors
    /// The journal.
    pub async fn missed(&self, through: i64) -> Result<Vec<Missed>, Error> {
        let (mut missed, mut after) = (Vec::new(), String::new());
        loop {
            let rows = self.shared.journal.webhooks(None, &after, ROWS_AT_ONCE).await?;
            let Some(last) = rows.last() else { return Ok(missed) };
            after.clone_from(&last.id);
            for row in &rows {
                missed.extend(self.missed_by(row, through).await?);
            }
        }
    }

    async fn missed_by(&self, row: &WebhookRow, through: i64) -> Result<Option<Missed>, Error> {
        let journal = &self.shared.journal;
        let Some(selection) = self.shared.selection(row, &definition_of(row)) else { return Ok(None) };
        let first = journal.head().await?.oldest;
        let stretch = |after: i64, through: i64| Range { after, through: Some(through), order: Order::Ascending };
        let (mut from, mut count) = (row.cursor.max(first - 1) + 1, 0);
        if from <= through {
            count = journal.count(&selection, stretch(from - 1, through), i64::MAX).await?;
        }
        for failing in journal.failing(&row.id, "").await?.iter().take_while(|failing| failing.position <= through) {
            let after = failing.position.max(first) - 1;
            let through = row.cursor.min(through);
            let found =
                target::count_behind(&self.shared, &selection, &failing.turn, after + 1, through, i64::MAX).await?;
            if found > 0 {
                (from, count) = (from.min(after + 1), count + found);
            }
        }
        Ok((count > 0).then(|| Missed { webhook: row.id.clone(), owner: row.owner.clone(), from, to: through, count }))
    }
}
