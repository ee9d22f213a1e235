//! Retention: entries that are older than they are kept for go, the oldest first, and their positions with them.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::append::{Appended, Record, apply_records, new_id};
use super::db::{Conn, execute};
use super::webhooks::AGGREGATE_TYPE;
use super::writer::{HeadRow, Write};
use super::{Error, Journal, pages};
use crate::event::Micros;
use crate::filter::OWN_SOURCE;
use crate::runtime::{Clock, parse_duration};

/// Entries that go in one transaction: others who write wait for it.
const ENTRIES_AT_ONCE: i64 = 2_000;
/// How often it is looked for what is too old, at least and at most.
const LOOK_EVERY: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// What a webhook did not get before it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    pub webhook: String,
    pub owner: String,
    pub from: i64,
    pub to: i64,
    pub count: i64,
}

/// Entries up to a position that go.
pub(super) struct Purge {
    pub(super) through: i64,
    pub(super) missed: Vec<Missed>,
    /// Pages that are open and lose entries up to here end here.
    pub(super) closes: Option<i64>,
}

/// `"forever"`, or for how long entries are kept.
pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "forever" {
        return Ok(None);
    }
    let kept = parse_duration(&text).filter(|kept| *kept >= Duration::from_secs(1));
    kept.map(Some).ok_or_else(|| D::Error::custom(format!("`{text}`: give \"forever\", or a duration such as \"90d\"")))
}

impl Journal {
    /// Lets go what was recorded longer ago than it is kept for, until the gateway stops. `missed` tells what webhooks
    /// have not got of the entries up to a position; that is journaled with the first of them that goes.
    pub async fn keep<F: Future<Output = Result<Vec<Missed>, Error>> + Send>(
        self,
        kept: Duration,
        clock: Clock,
        stopping: CancellationToken,
        missed: impl Fn(i64) -> F + Send,
    ) {
        let wait = (kept / 50).clamp(*LOOK_EVERY.start(), *LOOK_EVERY.end());
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        // One process at a time, so that what is missed is told once.
        while let Some(lease) = self.lease("retention", &stopping, None).await {
            while !lease.lost().is_cancelled() {
                let before = Micros(clock.now_micros().saturating_sub(kept));
                if let Err(cause) = self.purge(before, &missed).await {
                    warn!(%cause, "can't purge what is older than it is kept for, will try again: {cause}");
                }
                let _ = tokio::time::timeout(wait, lease.lost().cancelled()).await;
            }
        }
    }

    async fn purge<F: Future<Output = Result<Vec<Missed>, Error>>>(
        &self,
        before: Micros,
        missed: impl Fn(i64) -> F,
    ) -> Result<(), Error> {
        let (head, last) = (self.head().await?, self.last_recorded_before(before).await?);
        if last < head.oldest {
            return Ok(());
        }
        let (mut missed, mut from, mut closes) = (missed(last).await?, head.oldest, Some(last));
        while from <= last {
            let through = last.min(from + ENTRIES_AT_ONCE - 1);
            let purge = Purge { through, missed: std::mem::take(&mut missed), closes: closes.take() };
            self.inner.writer.write(Write::Purge(purge)).await?;
            from = through + 1;
        }
        info!(from = head.oldest, to = last, "purged positions {} to {last}, as `journal.retention` says", head.oldest);
        Ok(())
    }
}

/// Runs in the writer's transaction, under the head's lock.
pub(super) async fn apply(conn: &mut Conn, head: &mut HeadRow, purge: &Purge) -> Result<Appended, Error> {
    // Done already: the answer to an earlier try was lost.
    if head.oldest > purge.through {
        return Ok(Appended::default());
    }
    let appended = apply_records(conn, head, purge.missed.iter().map(record)).await?;
    if let Some(last) = purge.closes {
        pages::close(conn, last).await?;
    }
    let through = purge.through;
    execute!(conn, "delete from entries where position <= $1", through);
    let sql = "delete from attempts where webhook in (select id from webhooks) and position <= $1";
    execute!(conn, sql, through);
    execute!(conn, "delete from deliveries where position <= $1 and status in ('dead', 'discarded')", through);
    // Its key stays parked until its turn, which goes on with what is left.
    execute!(conn, "update deliveries set body = null where position <= $1 and body is not null", through);
    head.oldest = head.oldest.max(through + 1);
    Ok(appended)
}

fn record(missed: &Missed) -> Record {
    let Missed { webhook, owner, from, to, count } = missed;
    Record {
        id: new_id(),
        source: OWN_SOURCE.to_owned(),
        r#type: "postern.webhook.missed",
        aggregate_type: AGGREGATE_TYPE.to_owned(),
        aggregate_id: webhook.clone(),
        data: serde_json::json!({ "webhook": webhook, "owner": owner, "from": from, "to": to, "count": count }),
        summary: format!("webhook {webhook} has not got {count} events that were purged, positions {from} to {to}"),
    }
}
