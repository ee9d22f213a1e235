//! Several events in one call: put together when their turn comes, stored, then sent, one batch after the other. A stored
//! batch keeps its id, its events and its bytes, whatever happens.

use super::Shared;
use super::attempt::Delivery;
use super::calls::Found;
use super::definition::Format;
use super::target::Target;
use super::turn::Retry;
use crate::event::Entry;
use crate::journal::deliveries::DeliveryRow;
use crate::journal::{Columns, Error, Order, Range};

/// Data of one batch, before the event that goes beyond.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
const ENTRIES_AT_ONCE: usize = 200;

/// What the next batch from a row's position on is: the stored one, or a new one.
pub(super) async fn find(shared: &Shared, target: &Target, retry: &Retry) -> Result<Found, Error> {
    if let Some((id, last)) = &retry.batch {
        let frozen = shared.journal.frozen(&target.row.id, target.replay_id(), retry.position, true).await?;
        // Without bytes something in it was erased: it is put together anew, under a new id.
        if let Some((body, format)) = frozen {
            let format = Format::of_word(&format);
            return Ok(Found::Delivery(Delivery {
                position: retry.position,
                event_id: id.clone(),
                body: body.into(),
                format,
                content_type: target.renderer.with(format).content_type(),
                batch: positions(shared, target, retry.position, *last).await?,
                ..Delivery::default()
            }));
        }
    }
    let batch = target.batch.clone().unwrap_or_default();
    let entries = read(shared, target, retry.position, retry.through, batch.max, Columns::ALL).await?;
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Found::None) };
    let now = shared.steady.now_micros();
    let wait = i64::try_from(batch.wait().as_micros()).unwrap_or(i64::MAX);
    // The journal's clock may be another one.
    let grows_until = first.recorded_at.0.min(now).saturating_add(wait);
    let bytes: usize = entries.iter().map(|entry| entry.event.payload_bytes()).sum();
    if bytes < BATCH_BYTES_MAX / 2 && entries.len() < batch.max && now < grows_until && target.replay.is_none() {
        return Ok(Found::Later(grows_until));
    }
    // Of a webhook that was a batched one before an edit.
    let format = if target.renderer.format.is_batched() { target.renderer.format } else { Format::CloudeventsBatch };
    Ok(Found::Formed(DeliveryRow {
        position: first.position,
        batch: Some(format!("batch-{}", uuid::Uuid::now_v7())),
        through: Some(last.position),
        events: i64::try_from(entries.len()).ok(),
        body: Some(target.renderer.with(format).batch(&entries).to_vec()),
        format: Some(format.word().to_owned()),
        ..DeliveryRow::default()
    }))
}

/// The positions of the events of a batch that was formed.
pub(super) async fn positions(shared: &Shared, target: &Target, from: i64, last: i64) -> Result<Vec<i64>, Error> {
    let entries = read(shared, target, from, last, usize::MAX, Columns::ENVELOPE).await?;
    let mut positions: Vec<i64> = entries.iter().map(|entry| entry.position).collect();
    // Whatever an edit has taken away: it begins and ends where it did.
    if positions.first() != Some(&from) {
        positions.insert(0, from);
    }
    if positions.last() != Some(&last) {
        positions.push(last);
    }
    Ok(positions)
}

/// The events of the lane from a position on, at most so many.
async fn read(
    shared: &Shared,
    target: &Target,
    from: i64,
    through: i64,
    limit: usize,
    columns: Columns,
) -> Result<Vec<Entry>, Error> {
    let (mut found, mut after, mut bytes) = (Vec::new(), from - 1, 0);
    let (selection, through) = target.of_turn("", from, through);
    loop {
        let range = Range { after, through: Some(through), order: Order::Ascending };
        let page = target.read_of(shared, &selection, range, limit.min(ENTRIES_AT_ONCE), columns).await?;
        for entry in page.entries.into_iter().filter(|entry| target.owes(shared, entry)) {
            bytes += entry.event.payload_bytes();
            if found.len() >= limit || (bytes > BATCH_BYTES_MAX && !found.is_empty()) {
                return Ok(found);
            }
            found.push(entry);
        }
        after = page.covered;
        if !page.more {
            return Ok(found);
        }
    }
}
