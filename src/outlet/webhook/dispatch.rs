//! The loop of one webhook: wait for the bell, a timer, a retry that is due or an answer; read from where it is;
//! keep its calls going; write where it is. Reading, calling and writing never wait for one another.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use percent_encoding::percent_decode_str;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Shared;
use super::attempt::{self, Delivery, Receiver};
use super::lanes::Lanes;
use super::turn::{Done, Retry, Start, attempt_of};
use crate::filter::{Filter, Selection};
use crate::journal::deliveries::Checkpoint;
use crate::journal::webhooks::WebhookRow;
use crate::journal::{Columns, Error, Order, Page, Range};
use crate::runtime::{Backoff, ready};

/// The bell rings for everything in this process; the timer finds what another one wrote.
const TIMER: Duration = Duration::from_secs(5);
/// A crash repeats at most what was delivered in this time …
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// … or so many deliveries.
const CHECKPOINT_DELIVERIES: usize = 100;
/// A cursor that only passed events of others is written rarely: a crash costs nothing but reading them again.
const CURSOR_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for calls in flight when the webhook was edited or paused: a whole call.
const DRAIN_MAX: Duration = Duration::from_secs(16);
/// … and when the gateway stops.
/// Less than the gateway waits, so that the last checkpoint is still written.
const DRAIN_AT_STOP_MAX: Duration = Duration::from_millis(900);
const RETRY_READ_MICROS: i64 = 1_000_000;

/// What a dispatch works for.
pub(super) struct Target {
    pub(super) row: WebhookRow,
    pub(super) selection: Selection,
    pub(super) receiver: Receiver,
    pub(super) schedule: Vec<Duration>,
    pub(super) concurrency: usize,
}

/// Delivers until `stop`, or until the receiver wants no more. Ends with everything that was answered written down.
pub(super) async fn run(shared: Arc<Shared>, target: Target, stop: CancellationToken, stopping: CancellationToken) {
    let (id, erasures) = (target.row.id.clone(), shared.journal.known_past().erasures);
    let failing = match shared.journal.failing(&id).await {
        Ok(rows) => rows,
        Err(cause) => {
            warn!(webhook.id = %id, %cause, "can't read the deliveries of webhook `{id}`, will retry in 1s");
            // The supervisor starts it again.
            tokio::select! { () = sleep(Duration::from_secs(1)) => {}, () = stop.cancelled() => {} }
            return;
        }
    };
    info!(webhook.id = %id, webhook.cursor = target.row.cursor, "webhook `{id}` delivers to {}", target.receiver.url.authority());
    let lanes = Lanes::new(&target.row, failing, target.schedule.clone(), target.concurrency);
    let mut dispatch = Dispatch {
        saved_cursor: target.row.cursor,
        erasures,
        shared,
        target: Arc::new(target),
        stop,
        lanes,
        calls: FuturesUnordered::new(),
        reading: None,
        writing: None,
        snapshot: None,
        more: true,
        unsaved_since: None,
        cursor_since: Instant::now(),
        backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(15)),
    };
    dispatch.deliver().await;
    dispatch.finish(stopping).await;
}

struct Dispatch {
    shared: Arc<Shared>,
    target: Arc<Target>,
    stop: CancellationToken,
    lanes: Lanes,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    reading: Option<BoxFuture<'static, Result<Page, Error>>>,
    writing: Option<BoxFuture<'static, Result<(), Error>>>,
    /// What is being written, to be written again if that fails.
    snapshot: Option<Checkpoint>,
    /// The journal may have more than was read.
    more: bool,
    unsaved_since: Option<Instant>,
    saved_cursor: i64,
    /// Erasures before anything was read.
    erasures: i64,
    cursor_since: Instant,
    backoff: Backoff,
}

impl Dispatch {
    async fn deliver(&mut self) {
        let stop = self.stop.clone();
        let mut bell = self.shared.journal.bell();
        let mut look_at = Instant::now() + TIMER;
        // After an erasure what was read may hold what is gone: another dispatch reads it anew.
        let erasures = self.erasures;
        let is_erased = |it: &Self| it.shared.journal.known_past().erasures != erasures;
        while !stop.is_cancelled() && !self.lanes.is_disabled() && !is_erased(self) {
            self.start_calls();
            self.start_reading(Duration::ZERO);
            self.start_writing();
            let wake_at = self.wake_at();
            tokio::select! {
                Some(done) = self.calls.next(), if !self.calls.is_empty() => self.settle(done),
                page = ready(&mut self.reading) => self.take(page),
                written = ready(&mut self.writing) => self.written(written),
                () = bell.rung(look_at.saturating_duration_since(Instant::now())) => {
                    self.more = true;
                    look_at = Instant::now() + TIMER;
                }
                () = sleep_until(wake_at) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// No new calls; waits for those in flight, then writes the last checkpoint.
    async fn finish(mut self, stopping: CancellationToken) {
        self.stop.cancel();
        let give_up = async {
            tokio::select! {
                () = sleep(DRAIN_MAX) => {}
                () = async { stopping.cancelled().await; sleep(DRAIN_AT_STOP_MAX).await } => {}
            }
        };
        tokio::pin!(give_up);
        while !self.calls.is_empty() {
            tokio::select! {
                Some(done) = self.calls.next() => self.settle(done),
                () = &mut give_up => break,
            }
        }
        if let Some(writing) = self.writing.take() {
            let result = writing.await;
            self.written(result);
        }
        // One more failure is one too many: what is not written is delivered again.
        if let Some(again) = self.writing.take() {
            let result = again.await;
            self.written(result);
        }
        let id = &self.target.row.id;
        let checkpoint = Checkpoint { erasures: self.erasures, ..self.lanes.snapshot(id) };
        if self.snapshot.is_none()
            && let Err(cause) = self.shared.journal.checkpoint(checkpoint).await
        {
            warn!(webhook.id = %id, %cause, "webhook `{id}` ends without its last checkpoint; its last deliveries will be repeated");
        }
    }

    fn start_calls(&mut self) {
        while let Some(start) = self.lanes.start(self.shared.clock.now_micros()) {
            let (shared, target, stop) = (Arc::clone(&self.shared), Arc::clone(&self.target), self.stop.clone());
            self.calls.push(match start {
                Start::First(delivery) => Box::pin(async move {
                    let Some(_permit) = permit(&shared, &stop).await else { return Done::NotStarted };
                    let outcome = attempt::call(&shared, &target.receiver, &delivery, 1).await;
                    Done::First { delivery, outcome }
                }),
                Start::Retry(retry) => Box::pin(async move { call_again(&shared, &target, &stop, retry).await }),
            });
        }
    }

    fn settle(&mut self, done: Done) {
        let now = self.shared.clock.now_micros();
        let mut next = Some(done);
        while let Some(done) = next {
            self.lanes.settle(done, now);
            // What is answered already costs no turn of the loop.
            next = self.calls.next().now_or_never().flatten();
        }
        if self.lanes.unsaved() > 0 {
            self.unsaved_since.get_or_insert_with(Instant::now);
        }
    }

    fn start_reading(&mut self, delay: Duration) {
        let Some((after, limit)) = self.lanes.room().filter(|_| self.more && self.reading.is_none()) else { return };
        let (journal, target) = (self.shared.journal.clone(), Arc::clone(&self.target));
        self.more = false;
        self.reading = Some(Box::pin(async move {
            sleep(delay).await;
            journal.read(&target.selection, Range::after(after), limit, Columns::ALL).await
        }));
    }

    fn take(&mut self, page: Result<Page, Error>) {
        match page {
            Ok(mut page) => {
                self.more |= page.more;
                page.entries.retain(|entry| self.shared.owes(&self.target.row, entry));
                self.lanes.take(page.entries, page.covered);
            }
            Err(cause) => {
                let wait = self.backoff.next_wait();
                let id = &self.target.row.id;
                warn!(webhook.id = %id, %cause, "webhook `{id}` can't read the journal, will retry in {wait:?}");
                self.more = true;
                self.start_reading(wait);
            }
        }
    }

    fn start_writing(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let unsaved = self.lanes.unsaved();
        let cursor_moved = self.lanes.cursor() != self.saved_cursor;
        let due = unsaved >= CHECKPOINT_DELIVERIES
            || self.lanes.wants_save()
            || self.unsaved_since.is_some_and(|since| since.elapsed() >= CHECKPOINT_EVERY)
            || (cursor_moved && self.cursor_since.elapsed() >= CURSOR_EVERY);
        if !due {
            return;
        }
        let checkpoint = Checkpoint { erasures: self.erasures, ..self.lanes.snapshot(&self.target.row.id) };
        self.saved_cursor = checkpoint.cursor;
        self.unsaved_since = None;
        self.cursor_since = Instant::now();
        self.write(checkpoint, Duration::ZERO);
    }

    fn write(&mut self, checkpoint: Checkpoint, delay: Duration) {
        let journal = self.shared.journal.clone();
        self.snapshot = Some(checkpoint.clone());
        self.writing = Some(Box::pin(async move {
            sleep(delay).await;
            journal.checkpoint(checkpoint).await
        }));
    }

    fn written(&mut self, result: Result<(), Error>) {
        let Some(checkpoint) = self.snapshot.take() else { return };
        match result {
            Ok(()) => {
                self.backoff.reset();
                self.lanes.saved();
                for row in &checkpoint.dead {
                    let (id, event) = (&checkpoint.webhook, row.event_id.as_deref().unwrap_or_default());
                    warn!(webhook.id = %id, event.id = %event, "webhook `{id}` gave up on event `{event}`, its key goes on");
                }
            }
            Err(cause) => {
                let (id, wait) = (&checkpoint.webhook, self.backoff.next_wait());
                warn!(webhook.id = %id, %cause, "webhook `{id}` can't write its checkpoint, will retry in {wait:?}");
                self.write(checkpoint, wait);
            }
        }
    }

    /// When something has to be done although nothing happens.
    fn wake_at(&self) -> Instant {
        let now = self.shared.clock.now_micros();
        let until = |at: i64| Duration::from_micros(u64::try_from(at - now).unwrap_or(0));
        let retry = self.lanes.next_due(now).map_or(TIMER, until).min(TIMER);
        let checkpoint = self.unsaved_since.filter(|_| self.writing.is_none()).map(|since| since + CHECKPOINT_EVERY);
        checkpoint.map_or(Instant::now() + retry, |at| at.min(Instant::now() + retry))
    }
}

async fn permit<'a>(shared: &'a Shared, stop: &CancellationToken) -> Option<tokio::sync::SemaphorePermit<'a>> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        permit = shared.calls.acquire() => permit.ok(),
    }
}

async fn call_again(shared: &Shared, target: &Target, stop: &CancellationToken, retry: Retry) -> Done {
    let later = |shared: &Shared| shared.clock.now_micros() + RETRY_READ_MICROS;
    let delivery = match find(shared, target, &retry).await {
        Ok(Some(delivery)) => delivery,
        Ok(None) => return Done::NoneLeft { key: retry.key, through: retry.through },
        Err(cause) => {
            let id = &target.row.id;
            warn!(webhook.id = %id, %cause, "webhook `{id}` can't read what it has to retry, will retry in 1s");
            return Done::Put { again_at: later(shared), key: retry.key };
        }
    };
    let Some(_permit) = permit(shared, stop).await else {
        return Done::Put { again_at: later(shared), key: retry.key };
    };
    let attempt = attempt_of(&delivery, retry.position, retry.attempts);
    let outcome = attempt::call(shared, &target.receiver, &delivery, attempt).await;
    Done::Retry { delivery, outcome }
}

/// What a key's turn is about: its first event from its row's position on, with the frozen bytes if it is the one that
/// was tried. It may be a later one: an edit or a narrower visibility may have taken the event away that was tried.
async fn find(shared: &Shared, target: &Target, retry: &Retry) -> Result<Option<Delivery>, Error> {
    let Retry { key, position, attempts, through } = retry;
    let was_tried = *attempts > 0;
    let through = if was_tried { (*through).max(*position) } else { *through };
    let selection = target.selection.and(&aggregate_of(key));
    let mut after = position - 1;
    loop {
        let range = Range { after, through: Some(through), order: Order::Ascending };
        let page = shared.journal.read(&selection, range, 1, Columns::ALL).await?;
        let Some(entry) = page.entries.first() else { return Ok(None) };
        after = entry.position;
        let mut delivery = Delivery::of(entry);
        if delivery.key != *key || !shared.owes(&target.row, entry) {
            continue;
        }
        if was_tried
            && entry.position == *position
            && let Some(body) = shared.journal.frozen_body(&target.row.id, key).await?
        {
            delivery.body = Bytes::from(body);
        }
        return Ok(Some(delivery));
    }
}

/// A filter for the events of a key; an id that ends with `*` makes it let more through.
pub(super) fn aggregate_of(key: &str) -> Filter {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (aggregate_type, aggregate_id) = key.split_once('/').unwrap_or((key, ""));
    Filter {
        aggregate_types: vec![plain(aggregate_type)],
        aggregate_ids: vec![plain(aggregate_id)],
        ..Filter::default()
    }
}
