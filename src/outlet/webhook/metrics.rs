//! The webhooks in `GET /metrics`.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use super::attempt::Outcome;
use super::represent::{seen_through, shown_status};
use super::shared::{CALLS_IN_FLIGHT_MAX, CALLS_OF_SUSPECTS_MAX};
use super::{Webhooks, definition_of};
use crate::journal::Error;
use crate::telemetry::Scrape;

/// Webhooks that have lines of their own: a scrape of thousands would cost more than it tells.
const LISTED_MAX: usize = 1_000;
const ROWS_AT_ONCE: i64 = 500;

/// What this process did since its start.
#[derive(Default)]
pub(super) struct Calls {
    delivered: AtomicU64,
    failed: AtomicU64,
    milliseconds: AtomicU64,
}

impl Calls {
    pub(super) fn count(&self, outcome: &Outcome) {
        let result = if outcome.error.is_none() { &self.delivered } else { &self.failed };
        result.fetch_add(1, Ordering::Relaxed);
        self.milliseconds.fetch_add(outcome.duration_ms.cast_unsigned(), Ordering::Relaxed);
    }
}

impl Webhooks {
    /// Adds the webhooks to a scrape.
    ///
    /// # Errors
    /// The journal.
    pub async fn measure(&self, scrape: &mut Scrape) -> Result<(), Error> {
        let shared = &self.shared;
        let head = shared.journal.head().await?.position;
        let undelivered: HashMap<String, i64> = shared.journal.count_exceptions().await?.into_iter().collect();
        let (mut statuses, mut lags, mut after) = (BTreeMap::<&str, u32>::new(), Vec::new(), String::new());
        loop {
            let rows = shared.journal.webhooks(None, &after, ROWS_AT_ONCE).await?;
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.id);
            for row in rows {
                *statuses.entry(shown_status(shared, &row).0).or_default() += 1;
                if lags.len() < LISTED_MAX {
                    let selection = shared.selection(&row, &definition_of(&row));
                    let reached = selection.and_then(|selection| seen_through(shared, &selection, row.cursor));
                    lags.push((row.id, (head - reached.unwrap_or(row.cursor)).max(0)));
                }
            }
        }
        let of = |id: &String| vec![("webhook", id.clone())];
        scrape.gauges(
            "postern_webhooks",
            "Webhooks by status",
            statuses.into_iter().map(|(status, count)| (vec![("status", status.to_owned())], f64::from(count))),
        );
        // Positions are far below 2⁵³.
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2⁵³")]
        scrape.gauges(
            "postern_webhook_lag",
            "Positions between what a webhook has passed and the journal's head",
            lags.iter().map(|(id, lag)| (of(id), *lag as f64)),
        );
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2⁵³")]
        scrape.gauges(
            "postern_webhook_exceptions",
            "Events of a webhook that are failing or dead",
            lags.iter().map(|(id, _)| (of(id), undelivered.get(id).copied().unwrap_or(0) as f64)),
        );
        let used = CALLS_IN_FLIGHT_MAX + CALLS_OF_SUSPECTS_MAX
            - shared.calls.available_permits()
            - shared.calls_of_suspects.available_permits();
        #[expect(clippy::cast_precision_loss, reason = "a few hundred at most")]
        scrape.gauges(
            "postern_webhook_calls_in_flight",
            "Calls that wait for their answer",
            [(Vec::new(), used as f64)],
        );
        let Calls { delivered, failed, milliseconds } = &shared.made;
        scrape.counters(
            "postern_webhook_calls",
            "Calls by what came of them",
            [("delivered", delivered), ("failed", failed)]
                .map(|(result, count)| (vec![("result", result.to_owned())], count.load(Ordering::Relaxed))),
        );
        scrape.counters(
            "postern_webhook_call_milliseconds",
            "Time that calls took, all together",
            [(Vec::new(), milliseconds.load(Ordering::Relaxed))],
        );
        Ok(())
    }
}
