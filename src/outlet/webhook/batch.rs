//! Several events in one call: put together when their turn comes, stored, then sent, one batch after the other. A stored
//! batch keeps its id, its events and its bytes, whatever happens.

use axum::body::Bytes;

use super::Shared;
use super::attempt::Delivery;
use super::calls::Found;
use super::definition::Batch;
use super::target::Target;
use super::turn::Retry;
use crate::event::Entry;
use crate::journal::deliveries::DeliveryRow;
use crate::journal::{Columns, Error, Order, Range};

/// What the next batch from a row's position on is: the stored one, or a new one.
pub(super) async fn find(shared: &Shared, target: &Target, batch: &Batch, retry: &Retry) -> Result<Found, Error> {
    if let Some((id, last)) = &retry.batch {
        let body = shared.journal.batch_body(&target.row.id, target.replay_id(), retry.position).await?;
        // Without bytes something in it was erased: it is put together anew, under a new id.
        if let Some(body) = body {
            let entries = read(shared, target, retry.position, *last, usize::MAX, Columns::ENVELOPE).await?;
            let mut positions: Vec<i64> = entries.iter().map(|entry| entry.position).collect();
            if positions.last() != Some(last) {
                positions.push(*last);
            }
            return Ok(Found::Delivery(Delivery {
                position: retry.position,
                event_id: id.clone(),
                body: Bytes::from(body),
                batch: positions,
                ..Delivery::default()
            }));
        }
    }
    form(shared, target, batch, retry).await
}

async fn form(shared: &Shared, target: &Target, batch: &Batch, retry: &Retry) -> Result<Found, Error> {
    let entries = read(shared, target, retry.position, retry.through, batch.max, Columns::ALL).await?;
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(Found::None) };
    let grows_until = first.recorded_at.0.saturating_add(i64::try_from(batch.wait().as_micros()).unwrap_or(i64::MAX));
    let now = shared.steady.now_micros();
    if entries.len() < batch.max && now < grows_until && target.replay.is_none() {
        return Ok(Found::Later(grows_until));
    }
    Ok(Found::Formed(DeliveryRow {
        position: first.position,
        batch: Some(format!("batch-{}", uuid::Uuid::now_v7())),
        through: Some(last.position),
        events: i64::try_from(entries.len()).ok(),
        body: Some(target.renderer.batch(&entries).to_vec()),
        ..DeliveryRow::default()
    }))
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
    let (mut found, mut after) = (Vec::new(), from - 1);
    let (selection, through) = target.of_turn("", from, through);
    loop {
        let range = Range { after, through: Some(through), order: Order::Ascending };
        let page = shared.journal.read(&selection, range, limit.min(1_000), columns).await?;
        found.extend(page.entries.into_iter().filter(|entry| target.owes(shared, entry)));
        after = page.covered;
        if !page.more || found.len() >= limit {
            found.truncate(limit);
            return Ok(found);
        }
    }
}
