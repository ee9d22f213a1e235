//! The one loop: wait, read where I am, journal what is new with where I am then. It has no other memory, so a kill at
//! any point neither loses nor repeats, and an error just starts it again. What "where I am" means is the pump's: numbers
//! (`probe`) or windows (`window`).

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::config::Poll;
use super::{Config, Error, Status};
use crate::catalogue::Catalogue;
use crate::event::Event;
use crate::journal::{Append, Appended, Journal, Lease};
use crate::runtime::{Backoff, Clock};

/// Events of one append, and their bytes: what the journal's writer can do without keeping others waiting.
const APPEND_ROWS_MAX: usize = 1_000;
const APPEND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Waits after an error.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A way to follow a table or a feed.
pub(super) trait Pump: Sized + Send {
    /// The adaptive poll: after rows, and at rest.
    const POLL_FIRST: Duration = Duration::from_millis(20);
    const POLL_MAX: Duration = Duration::from_secs(1);

    fn open(setting: Arc<Setting>) -> impl Future<Output = Result<Self, Error>> + Send;
    /// Journals all that is new. Returns whether there was anything.
    fn poll(&mut self) -> impl Future<Output = Result<bool, Error>> + Send;
    /// Until the next poll, or earlier if there is a reason.
    fn rest(&mut self, until: Instant) -> impl Future<Output = ()> + Send;
    /// Reasons to look at once, as long as this is open.
    fn hints(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }
}

/// What a pump is given.
pub(super) struct Setting {
    pub config: Config,
    pub journal: Journal,
    pub catalogue: Arc<Catalogue>,
    pub status: Status,
    pub clock: Clock,
    pub lease: Lease,
    /// Types whose mismatch with their schema was told.
    pub told: Mutex<BTreeSet<String>>,
}

impl Setting {
    /// What the journal keeps of how far the source was read.
    pub(super) async fn checkpoint(&self) -> Result<Option<String>, Error> {
        let kept = self.journal.source(&self.config.name).await.map_err(|cause| self.config.journal_error(cause))?;
        Ok(kept.and_then(|row| row.checkpoint))
    }

    /// Journals a piece and says what is worth saying of it.
    pub(super) async fn append(&self, append: Append) -> Result<Appended, Error> {
        let name = &self.config.name;
        let newest = append.arrivals.iter().map(|arrival| arrival.event.occurred_at.0).max();
        self.tell_mismatches(&append);
        let (quarantined, first) = (append.quarantined.len(), append.quarantined.first().map(|row| row.detail.clone()));
        let append = Append { lease: Some(self.lease.clone()), ..append };
        let appended = self.journal.append(append).await.map_err(|cause| self.config.journal_error(cause))?;
        if let Some(first) = first {
            warn!(source.name = %name, rows = quarantined, "quarantined {quarantined} rows of `{name}`; the first: {first}");
        }
        if appended.changed + appended.conflicts > 0 {
            let (changed, conflicts) = (appended.changed, appended.conflicts);
            warn!(source.name = %name, changed, conflicts, "`{name}` shows {changed} known ids with other data (dropped) and {conflicts} ids of other events (quarantined)");
        }
        self.status.update(|state| state.last_event_at = newest.or(state.last_event_at));
        Ok(appended)
    }
}

impl Setting {
    /// Once a type: a team whose schema is behind its events knows then, and counts grow.
    fn tell_mismatches(&self, append: &Append) {
        for (r#type, cause) in append.arrivals.iter().filter_map(|it| Some((&it.event.r#type, it.mismatch.as_ref()?))) {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(r#type.clone()) {
                let name = &self.config.name;
                warn!(source.name = %name, event.type = %r#type, "`{type}` of `{name}`: {cause}; more of them are only counted");
            }
        }
    }
}

/// Reads the source as long as the lease holds.
pub(super) async fn run<P: Pump>(setting: Arc<Setting>) {
    let lost = setting.lease.lost().clone();
    // What is cut off here is read again after the next start.
    tokio::select! {
        () = lost.cancelled() => {}
        () = forever::<P>(setting) => {}
    }
}

async fn forever<P: Pump>(setting: Arc<Setting>) {
    let name = &setting.config.name;
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut trouble: Option<String> = None;
    loop {
        let Err(cause) = follow::<P>(&setting, &mut backoff, &mut trouble).await;
        let (mut wait, text) = (backoff.next_wait(), cause.to_string());
        if let Error::Busy { wait: asked, .. } = cause {
            wait = wait.max(asked);
        }
        if trouble.as_ref() != Some(&text) {
            warn!(source.name = %name, "{text}; will retry in {}s", wait.as_secs());
        }
        setting.status.update(|state| {
            state.healthy = false;
            state.last_error = Some(text.clone());
        });
        trouble = Some(text);
        sleep(wait).await;
    }
}

/// Polls until something fails.
async fn follow<P: Pump>(
    setting: &Arc<Setting>,
    backoff: &mut Backoff,
    trouble: &mut Option<String>,
) -> Result<std::convert::Infallible, Error> {
    let Config { name, poll, .. } = &setting.config;
    let mut pump = P::open(Arc::clone(setting)).await?;
    let mut hints = pump.hints();
    let (mut is_first, mut idle) = (true, P::POLL_FIRST);
    loop {
        let (started, now) = (Instant::now(), setting.clock.now_micros());
        let found_any = pump.poll().await?;
        backoff.reset();
        setting.status.update(|state| {
            state.healthy = true;
            state.last_error = None;
            state.complete_at = Some(now);
        });
        if trouble.take().is_some() {
            info!(source.name = %name, "source `{name}` is read again");
        } else if is_first {
            info!(source.name = %name, "reading {} as source `{name}`", setting.config.place());
        }
        is_first = false;
        let wait = if found_any { P::POLL_FIRST } else { idle };
        idle = (wait * 2).min(P::POLL_MAX);
        let until = match poll {
            Poll::Adaptive => Instant::now() + wait,
            Poll::FixedDelay(delay) => Instant::now() + *delay,
            Poll::FixedRate(period) => started + *period,
        };
        tokio::select! {
            () = pump.rest(until) => {}
            _ = hints.next() => {}
        }
    }
}

/// What one append may still hold. The first thing always fits.
#[derive(Default)]
pub(super) struct Budget {
    rows: usize,
    bytes: usize,
}

impl Budget {
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        let fits = self.rows == 0 || (self.rows < APPEND_ROWS_MAX && self.bytes + bytes <= APPEND_BYTES_MAX);
        if fits {
            self.rows += 1;
            self.bytes += bytes;
        }
        fits
    }
}

pub(super) fn bytes(event: &Event) -> usize {
    event.data.len() + event.metadata.as_ref().map_or(0, String::len)
}
