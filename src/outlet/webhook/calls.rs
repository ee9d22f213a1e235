//! What a dispatch starts: finds what a turn is about, takes a place among all calls, calls, and says what came of it.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::attempt::{self, Delivery, Outcome};
use super::definition::Ordering;
use super::target::Target;
use super::turn::{Done, Retry, attempt_of};
use super::{Shared, batch};
use crate::event::Entry;
use crate::journal::deliveries::DeliveryRow;
use crate::journal::{Error, Order, Range};
use crate::runtime::Backoff;

const RETRY_READ_MICROS: i64 = 1_000_000;
/// Events that are read to find the next one of a turn: not all of them may be part of it.
const FOUND_AT_ONCE: usize = 10;

/// The first attempt of an event.
pub(super) async fn first(
    shared: &Shared,
    target: &Target,
    stop: &CancellationToken,
    delivery: Box<Delivery>,
    started: i64,
) -> Done {
    match call(shared, target, stop, &delivery, 1).await {
        Some(outcome) => Done::First { delivery, started, outcome },
        None => Done::NotStarted,
    }
}

/// An event on its way; in a replay with the bytes that it was first sent with, where they are kept.
pub(super) async fn delivery_of(shared: &Shared, target: &Target, entry: &Entry) -> Result<Delivery, Error> {
    if target.replay.is_some() && target.batch.is_none() {
        let frozen = shared.journal.frozen(&target.row.id, target.replay_id(), entry.position, false).await?;
        if let Some((body, format)) = frozen {
            return Ok(target.frozen(entry, body, &format));
        }
    }
    Ok(target.delivery(entry))
}

/// A place among all calls in flight. A receiver that failed last has to do with a part of them, so that dead ones leave
/// the rest to the others.
async fn permit<'a>(
    shared: &'a Shared,
    target: &Target,
    stop: &CancellationToken,
) -> Option<tokio::sync::SemaphorePermit<'a>> {
    let is_suspect = target.rules.pace.lock().expect("nothing panics while it holds this lock").is_suspect();
    let places = if is_suspect { &shared.calls_of_suspects } else { &shared.calls };
    // As a rule there is one.
    if let Ok(permit) = places.try_acquire() {
        return Some(permit).filter(|_| !stop.is_cancelled());
    }
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        permit = places.acquire() => permit.ok(),
    }
}

/// The next step of a turn.
pub(super) async fn again(shared: &Shared, target: &Target, stop: &CancellationToken, retry: Retry) -> Done {
    let later = |shared: &Shared| shared.steady.now_micros() + RETRY_READ_MICROS;
    // What was formed before an edit goes as it was, and so does what waits from before it became a batched one.
    let found = match (&target.batch, retry.turn.is_empty()) {
        _ if retry.batch.is_some() => batch::find(shared, target, &retry).await,
        (Some(_), true) if retry.attempts == 0 => batch::find(shared, target, &retry).await,
        _ => find(shared, target, stop, &retry).await,
    };
    let delivery = match found {
        Ok(Found::Delivery(delivery)) => delivery,
        Ok(Found::None) => return Done::NoneLeft { turn: retry.turn, through: retry.through },
        Ok(Found::Formed(row)) => return Done::Formed { row },
        Ok(Found::Later(again_at)) => return Done::Put { again_at, turn: retry.turn },
        Err(cause) => {
            let id = &target.row.id;
            warn!(webhook.id = %id, %cause, "webhook `{id}` can't read what it has to retry, will retry in 1s");
            return Done::Put { again_at: later(shared), turn: retry.turn };
        }
    };
    let attempt = attempt_of(&delivery, retry.position, retry.attempts);
    match call(shared, target, stop, &delivery, attempt).await {
        Some(outcome) => Done::Retry { delivery, started: retry.started, outcome },
        None => Done::Put { again_at: later(shared), turn: retry.turn },
    }
}

/// One attempt. A proxy that can't be used is waited for: that is no fault of the receiver. Nothing: it was stopped before.
async fn call(
    shared: &Shared,
    target: &Target,
    stop: &CancellationToken,
    delivery: &Delivery,
    attempt: i64,
) -> Option<Outcome> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let permit = permit(shared, target, stop).await?;
        if target.lease.as_ref().is_some_and(|lease| !lease.holds()) {
            return None;
        }
        let outcome = attempt::call(shared, &target.receiver, delivery, attempt, target.replay_id()).await;
        if !outcome.is_of_proxy {
            return Some(outcome);
        }
        drop(permit);
        let (id, wait) = (&target.row.id, backoff.next_wait());
        warn!(webhook.id = %id, "webhook `{id}`: the proxy can't be used, will retry in {wait:?}; see `webhooks.proxy`");
        if tokio::time::timeout(wait, stop.cancelled()).await.is_ok() {
            return None;
        }
    }
}

/// What a turn has to do.
pub(super) enum Found {
    Delivery(Delivery),
    /// Nothing is left of it.
    None,
    /// A batch, to be stored first.
    Formed(DeliveryRow),
    /// A batch may still grow until then.
    Later(i64),
}

/// What a turn is about: its first event from its row's position on, with the frozen bytes if it is the one that was
/// tried. It may be a later one: an edit or a narrower visibility may have taken the event away that was tried.
async fn find(shared: &Shared, target: &Target, stop: &CancellationToken, retry: &Retry) -> Result<Found, Error> {
    let Retry { turn, position, attempts, through, .. } = retry;
    let was_tried = *attempts > 0;
    let through = if was_tried { (*through).max(*position) } else { *through };
    let (selection, through) = target.of_turn(turn, *position, through);
    let mut after = position - 1;
    let is_part = |entry: &&Entry| Ordering::of_turn(turn).turn(entry) == *turn && target.owes(shared, entry);
    loop {
        let range = Range { after, through: Some(through), order: Order::Ascending };
        let page = target.read_of(shared, &selection, range, FOUND_AT_ONCE, target.renderer.columns()).await?;
        after = page.covered;
        let Some(entry) = page.entries.iter().find(is_part) else {
            if page.more && !stop.is_cancelled() {
                continue;
            }
            return Ok(if page.more { Found::Later(shared.steady.now_micros()) } else { Found::None });
        };
        let mut frozen = None;
        if (was_tried && entry.position == *position) || target.replay.is_some() {
            frozen = shared.journal.frozen(&target.row.id, target.replay_id(), entry.position, false).await?;
        }
        let delivery = match frozen {
            Some((body, format)) => target.frozen(entry, body, &format),
            None => target.alone(entry),
        };
        return Ok(Found::Delivery(Delivery { turn: turn.clone(), ..delivery }));
    }
}
