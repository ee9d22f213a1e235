//! The loop of one lane of a webhook: wait for the bell, a timer, a retry that is due or an answer; read from where it is;
//! keep its calls going; write where it is. Reading, calling and writing never wait for one another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::attempt::Delivery;
use super::lanes::Lanes;
use super::target::Target;
use super::turn::{Done, Start};
use super::{Shared, batch, calls};
use crate::journal::Error;
use crate::journal::checkpoint::Checkpoint;
use crate::journal::deliveries::{DeliveryRow, Wish};
use crate::journal::webhooks::Notice;
use crate::runtime::{Backoff, Bell, ready};

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
/// A lane that has had nothing to do for so long ends; the supervisor starts it again.
const LINGER: Duration = Duration::from_secs(5);

/// How a dispatch is told what happens outside.
#[derive(Clone)]
pub(super) struct Strings {
    /// New events of this webhook, or a wish of its owner.
    pub(super) bell: Bell,
    /// A wish of its owner.
    pub(super) has_wish: Arc<AtomicBool>,
    /// Start no more calls: it was edited, paused or removed.
    pub(super) stop: CancellationToken,
    /// The gateway stops.
    pub(super) stopping: CancellationToken,
}

/// Where a dispatch came to rest.
pub(super) struct Rest {
    pub(super) cursor: i64,
    /// It left nothing undone.
    pub(super) is_idle: bool,
    /// It ended the webhook.
    pub(super) has_ended: bool,
}

/// Delivers after `cursor` until it is told to stop, until the receiver wants no more, or until there is nothing to do.
/// Ends with everything that was answered written down, and gives how far it got; nothing if it could not start.
pub(super) async fn run(shared: Arc<Shared>, target: Arc<Target>, strings: Strings, cursor: i64) -> Option<Rest> {
    let (id, erasures) = (target.row.id.clone(), shared.journal.known_past().erasures);
    let failing = match shared.journal.failing(&id, target.replay_id()).await {
        Ok(rows) => rows,
        Err(cause) => {
            warn!(webhook.id = %id, %cause, "can't read the deliveries of webhook `{id}`, will retry in 1s");
            // The supervisor starts it again.
            tokio::select! { () = sleep(Duration::from_secs(1)) => {}, () = strings.stop.cancelled() => {} }
            return None;
        }
    };
    info!(webhook.id = %id, webhook.cursor = cursor, "webhook `{id}` delivers to {}", target.receiver.url.authority());
    let has_wishes = failing.iter().any(|row| row.wish != Wish::None);
    let lanes = Lanes::new(&target.row, cursor, failing, target.rules.clone(), shared.steady.now_micros());
    let mut dispatch = Dispatch {
        saved_cursor: cursor,
        durable_cursor: cursor,
        ask_again: false,
        erasures,
        shared,
        target,
        strings,
        lanes,
        calls: FuturesUnordered::new(),
        reading: None,
        writing: None,
        asking: None,
        has_wishes,
        snapshot: None,
        notices: Vec::new(),
        more: true,
        unsaved_since: None,
        cursor_since: Instant::now(),
        busy_at: Instant::now(),
        backoff: Backoff::new(Duration::from_millis(500), Duration::from_secs(15)),
    };
    dispatch.deliver().await;
    Some(dispatch.finish().await)
}

/// What was read, up to where, and whether there is more.
struct Stretch {
    deliveries: Vec<Delivery>,
    covered: i64,
    more: bool,
}

/// A row whose owner asks for something, and the positions of its events.
type Asked = (DeliveryRow, Vec<i64>);

struct Dispatch {
    shared: Arc<Shared>,
    target: Arc<Target>,
    strings: Strings,
    lanes: Lanes,
    calls: FuturesUnordered<BoxFuture<'static, Done>>,
    reading: Option<BoxFuture<'static, Result<Stretch, Error>>>,
    writing: Option<BoxFuture<'static, Result<(), Error>>>,
    asking: Option<BoxFuture<'static, Result<Vec<Asked>, Error>>>,
    /// The owner may ask for something.
    has_wishes: bool,
    /// What is being written, to be written again if that fails.
    snapshot: Option<Checkpoint>,
    /// What happened and is not written yet.
    notices: Vec<Notice>,
    /// The journal may have more than was read.
    more: bool,
    unsaved_since: Option<Instant>,
    saved_cursor: i64,
    /// What is written: where another dispatch may start.
    durable_cursor: i64,
    /// The owner asked for something whose call is in flight.
    ask_again: bool,
    /// Erasures before anything was read.
    erasures: i64,
    cursor_since: Instant,
    /// When there was something to do last.
    busy_at: Instant,
    backoff: Backoff,
}

impl Dispatch {
    async fn deliver(&mut self) {
        let (stop, mut bell) = (self.strings.stop.clone(), self.strings.bell.clone());
        let mut look_at = Instant::now() + TIMER;
        // After an erasure what was read may hold what is gone: another dispatch reads it anew.
        let erasures = self.erasures;
        let is_erased = |it: &Self| it.shared.journal.known_past().erasures != erasures;
        while !stop.is_cancelled() && !self.lanes.has_ended() && !is_erased(self) && !self.has_nothing_to_do() {
            self.start_calls();
            self.start_reading(Duration::ZERO);
            self.start_asking();
            self.start_writing();
            let wake_at = self.wake_at();
            tokio::select! {
                Some(done) = self.calls.next(), if !self.calls.is_empty() => {
                    // First the connections that have an answer at this moment: one turn of the loop settles them all.
                    yield_now().await;
                    self.settle(done);
                }
                stretch = ready(&mut self.reading) => self.take(stretch),
                written = ready(&mut self.writing) => self.written(written),
                asked = ready(&mut self.asking) => self.asked(asked),
                () = bell.rung(look_at.saturating_duration_since(Instant::now())) => {
                    // At a timer nobody says what there is: another process may have written it.
                    let is_timer = Instant::now() >= look_at;
                    self.has_wishes |= self.strings.has_wish.swap(false, Ordering::AcqRel) || is_timer;
                    self.more = true;
                    look_at = Instant::now() + TIMER;
                }
                () = sleep_until(wake_at) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// A replay has come to its end, or the live lane has been idle for a while.
    fn has_nothing_to_do(&mut self) -> bool {
        if !self.lanes.is_idle() || self.reading.is_some() || self.writing.is_some() || self.lanes.unsaved() > 0 {
            self.busy_at = Instant::now();
            return false;
        }
        match &self.target.replay {
            Some(replay) => self.lanes.cursor() >= replay.through,
            None => self.busy_at.elapsed() >= LINGER,
        }
    }

    /// No new calls; waits for those in flight, then writes the last checkpoint.
    async fn finish(mut self) -> Rest {
        self.strings.stop.cancel();
        let stopping = self.strings.stopping.clone();
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
                () = &mut give_up => {
                    self.lanes.abandon(self.shared.steady.now_micros());
                    break;
                }
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
        let id = self.target.row.id.clone();
        let mut is_written = self.snapshot.is_none();
        if is_written {
            let checkpoint = self.checkpoint();
            let cursor = checkpoint.cursor;
            let is_needed = checkpoint.cursor != self.saved_cursor
                || checkpoint.is_done
                || checkpoint.ends.is_some()
                || !(checkpoint.rows.is_empty() && checkpoint.dead.is_empty() && checkpoint.attempts.is_empty());
            if is_needed && let Err(cause) = self.shared.journal.checkpoint(checkpoint).await {
                is_written = false;
                warn!(webhook.id = %id, %cause, "webhook `{id}` ends without its last checkpoint; its last deliveries will be repeated");
            }
            if is_written {
                self.durable_cursor = cursor;
            }
        }
        let is_idle = is_written && self.lanes.is_idle();
        Rest { cursor: self.durable_cursor, is_idle, has_ended: self.lanes.has_ended() }
    }

    fn checkpoint(&mut self) -> Checkpoint {
        self.notice();
        let checkpoint = self.lanes.snapshot(&self.target.row.id);
        let is_done = self.target.replay.as_ref().is_some_and(|replay| {
            checkpoint.cursor >= replay.through && self.lanes.is_idle() && !self.lanes.has_ended()
        });
        Checkpoint {
            replay: self.target.replay_id().to_owned(),
            lease: self.target.lease.clone(),
            erasures: self.erasures,
            updated_at: self.target.row.updated_at,
            notices: std::mem::take(&mut self.notices),
            is_done,
            ..checkpoint
        }
    }

    /// Keeps what happened for the next checkpoint. A replay tells only that it ended the webhook: its receiver is the live
    /// lane's.
    fn notice(&mut self) {
        for (what, reason) in self.lanes.happened() {
            let is_told = self.target.replay.is_none() || what == "postern.webhook.disabled";
            if is_told && self.shared.may_tell(&self.target.row.id, what) {
                self.notices.push(Notice::new(&self.target.row, what, reason));
            }
        }
    }

    fn start_calls(&mut self) {
        while let Some(start) = self.lanes.start(self.shared.steady.now_micros()) {
            let (shared, target, stop) =
                (Arc::clone(&self.shared), Arc::clone(&self.target), self.strings.stop.clone());
            self.calls.push(match start {
                Start::First { delivery, started } => {
                    Box::pin(async move { calls::first(&shared, &target, &stop, delivery, started).await })
                }
                Start::Retry(retry) => Box::pin(async move { calls::again(&shared, &target, &stop, retry).await }),
            });
        }
    }

    fn settle(&mut self, done: Done) {
        let now = self.shared.steady.now_micros();
        self.has_wishes |= std::mem::take(&mut self.ask_again);
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
        let now = self.shared.steady.now_micros();
        let Some((after, limit)) = self.lanes.room(now).filter(|_| self.more && self.reading.is_none()) else { return };
        if self.target.replay.as_ref().is_some_and(|replay| after >= replay.through) {
            return;
        }
        self.more = false;
        // From memory, as a rule: then it costs no turn of the loop.
        if self.target.replay.is_none()
            && let Some(seen) = self.shared.seen(&self.target.selection, after, limit)
        {
            let owed = seen.entries.iter().filter(|entry| self.target.owes(&self.shared, entry));
            let deliveries: Vec<Delivery> = owed.map(|entry| self.target.delivery(entry)).collect();
            let stretch = Stretch { deliveries, covered: seen.covered, more: seen.more };
            self.take(Ok(stretch));
            self.start_calls();
            return;
        }
        let (shared, target) = (Arc::clone(&self.shared), Arc::clone(&self.target));
        self.reading = Some(Box::pin(async move {
            sleep(delay).await;
            let page = target.read(&shared, after, limit).await?;
            let mut deliveries = Vec::with_capacity(page.entries.len());
            for entry in page.entries.iter().filter(|entry| target.owes(&shared, entry)) {
                deliveries.push(calls::delivery_of(&shared, &target, entry).await?);
            }
            Ok(Stretch { deliveries, covered: page.covered, more: page.more })
        }));
    }

    /// What its owner asks for is read when the bell was rung.
    fn start_asking(&mut self) {
        if !self.has_wishes || self.asking.is_some() {
            return;
        }
        self.has_wishes = false;
        if self.lanes.is_idle() {
            return;
        }
        let (shared, target) = (Arc::clone(&self.shared), Arc::clone(&self.target));
        self.asking = Some(Box::pin(async move {
            let mut asked = Vec::new();
            for row in shared.journal.wishes(&target.row.id, target.replay_id()).await? {
                let positions = match row.through {
                    Some(last) => batch::positions(&shared, &target, row.position, last).await?,
                    None => vec![row.position],
                };
                asked.push((row, positions));
            }
            Ok(asked)
        }));
    }

    fn asked(&mut self, asked: Result<Vec<Asked>, Error>) {
        let now = self.shared.steady.now_micros();
        match asked {
            Ok(rows) => {
                for (row, positions) in rows {
                    // Asked again once the call is answered.
                    self.ask_again |= !self.lanes.wish(&row, &positions, now);
                }
            }
            Err(cause) => {
                let id = &self.target.row.id;
                warn!(webhook.id = %id, %cause, "webhook `{id}` can't read what its owner asks for");
            }
        }
    }

    fn take(&mut self, stretch: Result<Stretch, Error>) {
        match stretch {
            Ok(stretch) => {
                self.more |= stretch.more;
                self.lanes.take(stretch.deliveries, stretch.covered);
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
        let checkpoint = self.checkpoint();
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
                self.durable_cursor = checkpoint.cursor;
                for row in &checkpoint.dead {
                    let (id, event) = (&checkpoint.webhook, row.event_id.as_deref().unwrap_or_default());
                    warn!(webhook.id = %id, event.id = %event, "webhook `{id}` gave up on event `{event}`, its key goes on");
                }
            }
            // Another process delivers what this one has not written down.
            Err(Error::LeaseLost { .. }) => {
                self.strings.stop.cancel();
                self.snapshot = Some(checkpoint);
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
        let now = self.shared.steady.now_micros();
        let until = |at: i64| Duration::from_micros(u64::try_from(at - now).unwrap_or(0));
        let retry = self.lanes.next_due(now).map_or(TIMER, until).min(TIMER);
        let checkpoint = self.unsaved_since.filter(|_| self.writing.is_none()).map(|since| since + CHECKPOINT_EVERY);
        checkpoint.map_or(Instant::now() + retry, |at| at.min(Instant::now() + retry))
    }
}
