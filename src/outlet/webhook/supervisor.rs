//! Follows the journal for all webhooks and starts those that have something to do. An idle webhook is an entry in the
//! index and nothing else.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::dispatch::{self, Rest, Strings};
use super::index::Index;
use super::pace::Pace;
use super::tail::ENTRIES_MAX;
use super::target::{self, Target};
use super::{Shared, consent, definition_of, websub};
use crate::filter::{Filter, Selection};
use crate::journal::webhooks::{Notice, Status, WebhookRow};
use crate::journal::{Columns, Error, Lease, Range};
use crate::runtime::{Backoff, Tasks};

/// The bells ring for what this process does; this finds what another one did.
const TIMER: Duration = Duration::from_secs(30);
/// Longer than a receiver is asked for its consent.
const ASKING_MAX_MICROS: i64 = 60 * 1_000_000;
/// After a crash of a lane.
const CRASH_WAIT: Duration = Duration::from_secs(30);
const ROWS_AT_ONCE: i64 = 200;
const ENTRIES_AT_ONCE: usize = 500;
/// Cursors of webhooks without anything to do are written so often. A crash costs reading what lies between.
const PASS_EVERY: Duration = Duration::from_secs(60);

/// An active webhook.
struct Known {
    row: WebhookRow,
    selection: Selection,
    pace: Arc<Mutex<Pace>>,
    /// Everything up to here is delivered or not for it, as far as rows tell.
    cursor: i64,
    /// It may have exceptions or something to send again.
    is_exceptional: bool,
    /// Under which it is delivered here.
    lease: Lease,
    /// Stops both lanes.
    stop: CancellationToken,
    /// How the lanes that run are told of something.
    live: Option<Strings>,
    replay: Option<Strings>,
}

/// A lane came to an end: of the webhook with this number, and how far it got.
struct Ended {
    number: usize,
    is_live: bool,
    rest: Option<Rest>,
}

struct Supervisor {
    shared: Arc<Shared>,
    tasks: Tasks,
    index: Index,
    known: HashMap<usize, Known>,
    numbers: HashMap<String, usize>,
    next_number: usize,
    /// Webhooks that changed while a lane of their former self still ends.
    waiting: HashSet<String>,
    /// Those that stand still, at which revision, so that each is told once.
    unusable: HashMap<String, i64>,
    /// Whose receivers were asked for consent, or are being asked.
    asked: HashSet<String>,
    ended: mpsc::UnboundedSender<Ended>,
    /// Everything, also our own events.
    everything: Selection,
}

pub(super) async fn supervise(shared: Arc<Shared>, tasks: Tasks) {
    let stopping = tasks.stopping();
    let (ended, mut endings) = mpsc::unbounded_channel();
    let everything = Filter { sources: vec!["*".to_owned()], ..Filter::default() };
    let mut supervisor = Supervisor {
        everything: Selection::visible(&everything),
        shared: Arc::clone(&shared),
        tasks,
        index: Index::default(),
        known: HashMap::new(),
        numbers: HashMap::new(),
        next_number: 0,
        waiting: HashSet::new(),
        unusable: HashMap::new(),
        asked: HashSet::new(),
        ended,
    };
    let (mut changed, mut bell) = (shared.changed.clone(), shared.journal.bell());
    let mut others = shared.journal.changed_webhooks();
    let mut backoff = Backoff::new(Duration::from_secs(1), TIMER);
    let (mut is_started, mut look_at, mut pass_at) = (false, Instant::now(), Instant::now() + PASS_EVERY);
    while !stopping.is_cancelled() {
        let now = Instant::now();
        let have_shards_changed = shared.shards.take_change();
        let done = if now >= look_at || !is_started || have_shards_changed {
            look_at = now + TIMER;
            supervisor.look_at_all(&mut is_started).await
        } else {
            supervisor.look_at_changed().await
        };
        let followed = match done {
            Ok(()) => supervisor.follow().await,
            failed => failed,
        };
        if now >= pass_at && followed.is_ok() {
            pass_at = now + PASS_EVERY;
            supervisor.pass().await;
        }
        let timer = match followed {
            Ok(()) => {
                backoff.reset();
                look_at.min(pass_at).saturating_duration_since(Instant::now())
            }
            Err(cause) => {
                let wait = backoff.next_wait();
                warn!(%cause, "can't read the webhooks or what is for them, will retry in {wait:?}");
                look_at = Instant::now() + wait;
                wait
            }
        };
        tokio::select! {
            () = changed.rung(timer) => {}
            () = bell.rung(timer) => {}
            heard = others.recv() => match heard {
                Ok(id) => shared.note_change(&id, false),
                Err(_) => look_at = Instant::now(),
            },
            Some(ended) = endings.recv() => {
                supervisor.end(ended);
                while let Ok(ended) = endings.try_recv() {
                    supervisor.end(ended);
                }
            }
            () = stopping.cancelled() => {}
        }
    }
}

impl Supervisor {
    /// Takes in which webhooks there are: at the start, and what another process changed.
    async fn look_at_all(&mut self, is_started: &mut bool) -> Result<(), Error> {
        let (mut gone, mut after): (HashSet<String>, _) = (self.numbers.keys().cloned().collect(), String::new());
        let mut rows = Vec::new();
        loop {
            let page = self.shared.journal.webhooks(None, &after, ROWS_AT_ONCE).await?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.id);
            for row in page {
                if self.shared.shards.lease(&row.id).is_none() {
                    continue;
                }
                if websub::is_over(&row, self.shared.clock.now_micros()) {
                    websub::end(&self.shared, &row).await?;
                    continue;
                }
                gone.remove(&row.id);
                let is_same = |it: &Known| it.row.updated_at == row.updated_at && !it.stop.is_cancelled();
                let is_known = self.numbers.get(&row.id).is_some_and(|number| is_same(&self.known[number]));
                if !is_known {
                    rows.push(row);
                }
            }
        }
        let is_alone = !*is_started && self.shared.journal.members().len() <= 1;
        let busy: HashSet<String> = self.shared.journal.busy_webhooks().await?.into_iter().collect();
        if !*is_started {
            let head = self.shared.journal.head().await?;
            let reach = head.position - i64::try_from(ENTRIES_MAX).unwrap_or(0);
            let cursors = rows.iter().filter(|row| row.status == Status::Active).map(|row| row.cursor);
            self.shared
                .tail
                .start(cursors.filter(|cursor| *cursor >= reach).min().unwrap_or(head.position), head.past());
            *is_started = true;
        }
        for id in gone {
            self.forget(&id);
        }
        // Another process may have asked for something.
        for id in &busy {
            let Some(number) = self.numbers.get(id).copied() else { continue };
            if let Some(known) =
                self.known.get_mut(&number).filter(|known| known.live.is_none() || known.replay.is_none())
            {
                known.is_exceptional = true;
                self.consider(number);
            }
        }
        for row in rows {
            let is_exceptional = busy.contains(&row.id);
            let row = self.judge(row).await?;
            if row.status == Status::Pending
                && row.status_reason.as_deref() == Some(consent::ASKING)
                && (is_alone || row.updated_at + ASKING_MAX_MICROS < self.shared.clock.now_micros())
                && self.asked.insert(row.id.clone())
            {
                // Nobody is asking any more: that was another process, or this one before it was stopped.
                consent::ask_later(&self.shared, row.clone());
            }
            self.take(row, is_exceptional);
        }
        Ok(())
    }

    /// A selection that the catalogue broke holds its webhook, and one that fits again lets it go on.
    async fn judge(&self, row: WebhookRow) -> Result<WebhookRow, Error> {
        if !matches!(row.status, Status::Active | Status::SelectionInvalid) {
            return Ok(row);
        }
        let fault = self.shared.check_query(&definition_of(&row)).err().map(|problem| problem.detail);
        let (status, what) = match (&fault, row.status) {
            (Some(_), Status::Active) => (Status::SelectionInvalid, "postern.webhook.selection_invalid"),
            (None, Status::SelectionInvalid) => (Status::Active, "postern.webhook.resumed"),
            _ => return Ok(row),
        };
        if let Some(fault) = &fault {
            error!(webhook.id = %row.id, "webhook `{}` is held, nothing is lost: {fault}", row.id);
        }
        let row = WebhookRow { status, status_reason: fault, ..row };
        let notice = Notice::new(&row, what, row.status_reason.clone());
        match self.shared.edit(row.clone(), false, Some(notice)).await {
            // Another process was faster: it is looked at again soon.
            Err(Error::Stale) => Ok(row),
            edited => edited,
        }
    }

    /// Takes in what this process changed.
    async fn look_at_changed(&mut self) -> Result<(), Error> {
        let mut changes = self.shared.take_changes().into_iter();
        while let Some((id, is_new)) = changes.next() {
            self.asked.remove(&id);
            match self.shared.journal.webhook(&id).await {
                Ok(Some(row)) => self.take(row, !is_new),
                Ok(None) => {
                    self.forget(&id);
                    self.unusable.remove(&id);
                }
                Err(cause) => {
                    self.shared.note_change(&id, is_new);
                    changes.for_each(|(id, is_new)| self.shared.note_change(&id, is_new));
                    return Err(cause);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, row: WebhookRow, is_exceptional: bool) {
        let id = row.id.clone();
        let Some(lease) = self.shared.shards.lease(&id) else {
            return self.forget(&id);
        };
        if let Some(number) = self.numbers.get(&id) {
            let known = self.known.get_mut(number).expect("numbered ones are known");
            if known.row.updated_at == row.updated_at && !known.stop.is_cancelled() {
                // A wish, or something to send again.
                known.is_exceptional |= is_exceptional;
                for lane in [&known.live, &known.replay].into_iter().flatten() {
                    lane.has_wish.store(true, Ordering::Release);
                    lane.bell.ring();
                }
                return self.consider(*number);
            }
            self.forget(&id);
            if self.numbers.contains_key(&id) {
                return;
            }
        }
        if row.status != Status::Active {
            return;
        }
        let definition = definition_of(&row);
        let Some(selection) = self.shared.selection(&row, &definition) else {
            return self.tell_unusable(&row);
        };
        let number = self.next_number;
        self.next_number += 1;
        let (pace, cursor, stop) = (target::pace(&row, &definition), row.cursor, lease.lost().child_token());
        self.shared.stops.lock().expect("nothing panics while it holds this lock").insert(id.clone(), stop.clone());
        self.numbers.insert(id, number);
        self.index.insert(number, selection.clone());
        let known = Known { row, selection, pace, cursor, is_exceptional, lease, stop, live: None, replay: None };
        self.known.insert(number, known);
        self.consider(number);
    }

    fn tell_unusable(&mut self, row: &WebhookRow) {
        if self.unusable.insert(row.id.clone(), row.revision) != Some(row.revision) {
            let id = &row.id;
            error!(webhook.id = %id, "webhook `{id}` stands still: its owner is not configured, or its secret or query can't be used");
        }
    }

    /// Once its lanes have ended, it is read anew.
    fn forget(&mut self, id: &str) {
        let Some(number) = self.numbers.get(id).copied() else { return };
        let known = &self.known[&number];
        known.stop.cancel();
        if known.live.is_some() || known.replay.is_some() {
            self.waiting.insert(id.to_owned());
        } else {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: usize) {
        let Some(known) = self.known.remove(&number) else { return };
        self.numbers.remove(&known.row.id);
        self.shared.stops.lock().expect("nothing panics while it holds this lock").remove(&known.row.id);
        self.index.remove(number);
    }

    /// Starts the lanes of a webhook that have something to do.
    fn consider(&mut self, number: usize) {
        let Some(known) = self.known.get_mut(&number).filter(|known| !known.stop.is_cancelled()) else { return };
        if known.live.is_none() {
            let seen = self.shared.seen(&known.selection, known.cursor, 1);
            match seen.filter(|seen| seen.entries.is_empty()) {
                Some(seen) if !known.is_exceptional => known.cursor = seen.covered,
                _ => {
                    let cursor = known.cursor;
                    self.start(number, cursor);
                }
            }
        }
        self.start_replay(number);
    }

    /// A replay is looked for whenever something may have changed.
    fn start_replay(&mut self, number: usize) {
        let Some(known) = self.known.get_mut(&number) else { return };
        if known.replay.is_some() || !std::mem::take(&mut known.is_exceptional) {
            return;
        }
        let strings = strings(&self.tasks, known);
        known.replay = Some(strings.clone());
        let (shared, ended) = (Arc::clone(&self.shared), self.ended.clone());
        let (row, pace, lease) = (known.row.clone(), Arc::clone(&known.pace), known.lease.clone());
        self.tasks.spawn(&format!("replays of webhook {}", row.id), async move {
            let id = row.id.clone();
            let rest = outlive(&id, &strings.stop, replay(&shared, row, pace, lease, &strings)).await;
            let _ = ended.send(Ended { number, is_live: false, rest });
        });
    }

    fn start(&mut self, number: usize, cursor: i64) {
        let Some(known) = self.known.get_mut(&number) else { return };
        let row = known.row.clone();
        let Some(target) = Target::new(&self.shared, row.clone(), None, Arc::clone(&known.pace)) else {
            self.remove(number);
            return self.tell_unusable(&row);
        };
        let target = Target { lease: Some(known.lease.clone()), ..target };
        let strings = strings(&self.tasks, known);
        known.live = Some(strings.clone());
        let (shared, ended) = (Arc::clone(&self.shared), self.ended.clone());
        self.tasks.spawn(&format!("webhook {}", row.id), async move {
            let stop = strings.stop.clone();
            let rest = outlive(&row.id, &stop, dispatch::run(shared, Arc::new(target), strings, cursor)).await;
            let _ = ended.send(Ended { number, is_live: true, rest });
        });
    }

    fn end(&mut self, ended: Ended) {
        let Some(known) = self.known.get_mut(&ended.number) else { return };
        if ended.is_live {
            known.live = None;
            known.cursor = ended.rest.as_ref().map_or(known.cursor, |rest| rest.cursor);
            known.is_exceptional |= ended.rest.as_ref().is_none_or(|rest| !rest.is_idle);
        } else {
            known.replay = None;
        }
        let id = known.row.id.clone();
        if ended.rest.is_some_and(|rest| rest.has_ended) {
            // Nothing more is called before its row says what it is now.
            known.stop.cancel();
            self.waiting.insert(id.clone());
        }
        let Some(known) = self.known.get(&ended.number) else { return };
        if known.live.is_none() && known.replay.is_none() && self.waiting.remove(&id) {
            self.remove(ended.number);
            self.shared.note_change(&id, false);
            return;
        }
        if ended.is_live {
            // Something may have been erased.
            self.shared.note_change(&id, true);
        }
        self.consider(ended.number);
    }

    /// Reads on, and wakes whom it is for.
    async fn follow(&mut self) -> Result<(), Error> {
        loop {
            let (journal, tail) = (&self.shared.journal, &self.shared.tail);
            let page = journal.read(&self.everything, Range::after(tail.to()), ENTRIES_AT_ONCE, Columns::ALL).await?;
            let more = page.more;
            for entry in tail.push(page) {
                for number in self.index.matching(&entry) {
                    self.wake(number, entry.position);
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn wake(&mut self, number: usize, position: i64) {
        let Some(known) = self.known.get(&number).filter(|known| known.cursor < position) else { return };
        match &known.live {
            Some(lane) => lane.bell.ring(),
            None if known.stop.is_cancelled() => {}
            // Nothing before was for it.
            None => self.start(number, position - 1),
        }
    }

    /// Writes how far the idle ones have come.
    async fn pass(&mut self) {
        let to = self.shared.tail.to();
        let idle = |known: &&mut Known| known.live.is_none() && !known.stop.is_cancelled() && known.cursor < to;
        let mut ids = Vec::new();
        for known in self.known.values_mut().filter(idle) {
            known.cursor = to;
            ids.push(known.row.id.clone());
        }
        if !ids.is_empty()
            && let Err(cause) = self.shared.journal.pass_webhooks(ids, to, self.shared.shards.leases()).await
        {
            warn!(%cause, "can't write the cursors of idle webhooks, will do so later");
        }
    }
}

/// A lane that crashes is one webhook's trouble: it is started again a while later, where its last checkpoint says.
async fn outlive(id: &str, stop: &CancellationToken, lane: impl Future<Output = Option<Rest>>) -> Option<Rest> {
    match AssertUnwindSafe(lane).catch_unwind().await {
        Ok(rest) => rest,
        Err(_) => {
            error!(webhook.id = %id, "webhook `{id}` crashed, will start again in {}s", CRASH_WAIT.as_secs());
            let _ = tokio::time::timeout(CRASH_WAIT, stop.cancelled()).await;
            None
        }
    }
}

fn strings(tasks: &Tasks, known: &Known) -> Strings {
    let (bell, has_wish) = Default::default();
    Strings { bell, has_wish, stop: known.stop.child_token(), stopping: tasks.stopping() }
}

/// Sends again what a webhook has to, one after the other. Gives where it ended the webhook.
async fn replay(
    shared: &Arc<Shared>,
    row: WebhookRow,
    pace: Arc<Mutex<Pace>>,
    lease: Lease,
    strings: &Strings,
) -> Option<Rest> {
    while !strings.stop.is_cancelled() {
        let next = match shared.journal.replay(&row.id).await {
            Ok(Some(next)) => next,
            Ok(None) => return None,
            Err(cause) => {
                let id = &row.id;
                warn!(webhook.id = %id, %cause, "can't read the replays of webhook `{id}`, will retry in 1s");
                let _ = tokio::time::timeout(Duration::from_secs(1), strings.stop.cancelled()).await;
                continue;
            }
        };
        let cursor = next.cursor;
        let target = Target::new(shared, row.clone(), Some(next), Arc::clone(&pace))?;
        let target = Target { lease: Some(lease.clone()), ..target };
        // Of its own: a dispatch ends its strings with itself.
        let strings = Strings { stop: strings.stop.child_token(), ..strings.clone() };
        let rest = dispatch::run(Arc::clone(shared), Arc::new(target), strings, cursor).await;
        if rest.as_ref().is_some_and(|rest| rest.has_ended) {
            return rest;
        }
    }
    None
}
