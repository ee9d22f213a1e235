//! The one writer of a process: what waits is grouped into one transaction, because the disk's flush is the
//! scarce thing. Appending locks the head row first, so positions are dense and in commit order.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::warn;

use super::append::{Append, Appended, apply_append};
use super::db::{Conn, Db, LOCK_HEAD_POSTGRES, LOCK_HEAD_SQLITE, execute, silent};
use super::leases::{self, Lease};
use super::{Error, Known, Past, checkpoint, deliveries, erasure, pages, replays, retention, webhooks};
use crate::event::Micros;
use crate::runtime::{Bell, Tasks};

/// Jobs that may wait for the writer. Their senders wait for the answer anyway, so a longer queue only hides delay.
const JOBS_MAX: usize = 256;
/// Jobs in one transaction: bounds how long a reader of the SQLite file may wait for its checkpoint.
const GROUP_MAX: usize = 64;
/// How long a server may take for them. What became of them is unknown then.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// An event dated later than this after its recording counts as recorded + 5 min for feed time.
const FUTURE_MAX_MICROS: i64 = 5 * 60 * 1_000_000;

/// What the writer does. Each must be repeatable: a group that fails is rolled back and run again one by one.
pub(super) enum Write {
    Append(Append),
    View(pages::View),
    Pages {
        epoch: String,
        after: i64,
        borders: Vec<(i64, i64)>,
    },
    Webhook(webhooks::Change),
    Checkpoint(checkpoint::Checkpoint),
    Pass {
        ids: Vec<String>,
        position: i64,
        leases: Vec<Lease>,
    },
    Replay(replays::ReplayRow),
    CancelReplays(String),
    Wish(deliveries::Wished),
    Erase(String),
    Purge(retention::Purge),
    RequestErasure(String),
    ErasuresDone(Vec<String>),
    /// Nothing is written after it.
    Close,
}

impl Write {
    /// What it may be written under only.
    fn leases(&self) -> &[Lease] {
        match self {
            Self::Append(append) => append.lease.as_slice(),
            Self::Checkpoint(checkpoint) => checkpoint.lease.as_slice(),
            Self::Pass { leases, .. } => leases,
            _ => &[],
        }
    }

    /// The webhook that its holder has to look at.
    fn webhook(&self) -> Vec<&str> {
        match self {
            Self::Webhook(change) => change.ids().collect(),
            Self::Replay(row) => vec![&row.webhook],
            Self::CancelReplays(webhook) => vec![webhook],
            Self::Wish(wished) => vec![&wished.webhook],
            _ => Vec::new(),
        }
    }

    fn needs_head(&self) -> bool {
        match self {
            Self::Append(_) | Self::Erase(_) | Self::Purge(_) | Self::RequestErasure(_) => true,
            Self::Webhook(change) => !change.notices.is_empty(),
            Self::Checkpoint(checkpoint) => !checkpoint.notices.is_empty(),
            _ => false,
        }
    }
}

struct Job {
    write: Write,
    reply: oneshot::Sender<Result<Appended, Error>>,
}

impl Job {
    /// Nobody may be waiting any more.
    fn answer(self, result: Result<Appended, Error>) {
        let _ = self.reply.send(result);
    }
}

/// The door to the writer task.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Job>,
}

/// What the writer works with.
struct Desk {
    db: Db,
    bell: Bell,
    known: Known,
    /// What other processes know this one as.
    process: String,
}

impl Writer {
    pub(super) fn start(db: &Db, bell: Bell, known: Known, process: &str, tasks: &Tasks) -> Self {
        let (jobs, waiting) = mpsc::channel(JOBS_MAX);
        let desk = Desk { db: db.for_writer(), bell, known, process: process.to_owned() };
        // Not stopped with the other tasks, whose last checkpoints it writes: it ends when the last sender is gone.
        tasks.spawn_untracked("journal writer", desk.run(waiting));
        Self { jobs }
    }

    /// Hands in a write and waits until it is durable.
    pub(super) async fn write(&self, write: Write) -> Result<Appended, Error> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { write, reply }).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    pub(super) async fn webhook(&self, change: webhooks::Change) -> Result<(), Error> {
        self.write(Write::Webhook(change)).await.map(|_| ())
    }

    pub(super) async fn checkpoint(&self, checkpoint: checkpoint::Checkpoint) -> Result<(), Error> {
        self.write(Write::Checkpoint(checkpoint)).await.map(|_| ())
    }

    /// Returns once everything handed in before is written; nothing is written after it.
    pub(super) async fn finish(&self) {
        let _ = self.write(Write::Close).await;
    }
}

/// What became of each, and the head if it moved.
type Outcome = (Vec<Appended>, Option<HeadRow>);

impl Desk {
    async fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        while waiting.recv_many(&mut group, GROUP_MAX).await > 0 {
            let is_last = |job: &Job| matches!(job.write, Write::Close);
            let (last, jobs): (Vec<Job>, Vec<Job>) = group.drain(..).partition(is_last);
            self.write(jobs).await;
            if !last.is_empty() {
                self.db.close().await;
                last.into_iter().for_each(|job| job.answer(Ok(Appended::default())));
                return;
            }
        }
    }

    async fn write(&mut self, mut jobs: Vec<Job>) {
        // Whoever gave up waiting was told that nothing happened.
        jobs.retain(|job| !job.reply.is_closed());
        let writes: Vec<&Write> = jobs.iter().map(|job| &job.write).collect();
        if writes.is_empty() {
            return;
        }
        match self.transaction(&writes).await {
            Ok((results, head)) => {
                self.ring(head);
                jobs.into_iter().zip(results).for_each(|(job, result)| job.answer(Ok(result)));
            }
            Err(cause) if jobs.len() == 1 => {
                if let Some(job) = jobs.pop() {
                    job.answer(Err(cause));
                }
            }
            // It may have been written: whoever asked for it knows what to do about that.
            Err(cause) if is_silence(&cause) => {
                warn!(%cause, "{} writes have no answer of the journal's database: {cause}", jobs.len());
                jobs.into_iter().for_each(|job| job.answer(Err(silent().into())));
            }
            // One of them is at fault: each on its own, so that the others don't suffer.
            Err(_) => {
                for job in jobs.into_iter().filter(|job| !job.reply.is_closed()) {
                    let result = self.transaction(&[&job.write]).await;
                    self.ring(result.as_ref().ok().and_then(|(_, head)| *head));
                    job.answer(result.map(|(results, _)| results[0]));
                }
            }
        }
    }

    /// Checkpoints ring nothing: their writers would wake one another for ever.
    fn ring(&self, head: Option<HeadRow>) {
        if let Some(head) = head {
            self.known.wrote(head.position, Past { oldest: head.oldest, erasures: head.erasures });
            self.bell.ring();
        }
    }

    async fn transaction(&mut self, writes: &[&Write]) -> Result<Outcome, Error> {
        // What a file does not answer is no matter of waiting.
        if matches!(self.db, Db::Sqlite(_)) {
            return self.commit(writes).await;
        }
        let outcome = match timeout(SILENCE_MAX, self.commit(writes)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(silent().into()),
        };
        // A connection that went silent while the library looked at it keeps the pool's one place.
        if let Err(Error::Database(sqlx::Error::PoolTimedOut)) = &outcome {
            self.db = self.db.for_writer();
        }
        outcome
    }

    async fn commit(&self, writes: &[&Write]) -> Result<Outcome, Error> {
        let mut conn = self.db.begin().await?;
        match self.apply_all(&mut conn, writes).await {
            Ok(outcome) => {
                conn.commit().await?;
                Ok(outcome)
            }
            Err(cause) => {
                let _ = conn.rollback().await;
                Err(cause)
            }
        }
    }

    async fn apply_all(&self, conn: &mut Conn, writes: &[&Write]) -> Result<Outcome, Error> {
        // Before anything else: whoever locks the head first can't wait for a lock that another holder of it waits for.
        let mut head = match writes.iter().any(|write| write.needs_head()) {
            true => Some(HeadRow::lock(conn).await?),
            false => None,
        };
        let before = head;
        leases::verify(conn, writes.iter().flat_map(|write| write.leases()).collect()).await?;
        let mut results = Vec::with_capacity(writes.len());
        for write in writes {
            let mut result = Appended::default();
            match (write, &mut head) {
                (Write::Append(append), Some(head)) => result = apply_append(conn, head, append).await?,
                (Write::Erase(id), Some(head)) => result = erasure::apply(conn, head, id).await?,
                (Write::RequestErasure(id), Some(head)) => erasure::request(conn, id, head.now, false).await?,
                (Write::Purge(purge), Some(head)) => result = retention::apply(conn, head, purge).await?,
                (Write::Append(_) | Write::Erase(_) | Write::Purge(_) | Write::RequestErasure(_), None) => {
                    unreachable!("the head is locked for them")
                }
                (Write::ErasuresDone(ids), _) => erasure::done(conn, ids).await?,
                (Write::Close, _) => {}
                (Write::View(view), _) => pages::insert_view(conn, view).await?,
                (Write::Pages { epoch, after, borders }, _) => {
                    pages::insert_borders(conn, epoch, *after, borders).await?
                }
                (Write::Webhook(change), head) => webhooks::apply(conn, head.as_mut(), change).await?,
                (Write::Checkpoint(checkpoint), head) => checkpoint::apply(conn, head.as_mut(), checkpoint).await?,
                (Write::Pass { ids, position, .. }, _) => webhooks::pass(conn, ids, *position).await?,
                (Write::Replay(row), _) => replays::insert(conn, row).await?,
                (Write::CancelReplays(webhook), _) => replays::cancel(conn, webhook).await?,
                (Write::Wish(wished), _) => result.journaled = deliveries::wish(conn, wished).await?,
            }
            results.push(result);
        }
        for webhook in writes.iter().flat_map(|write| write.webhook()) {
            conn.notify(&format!("{} webhook {webhook}", self.process)).await?;
        }
        let moved = head.filter(|_| head != before);
        if let Some(head) = moved {
            head.store(conn).await?;
            conn.notify(&format!("{} journal", self.process)).await?;
        }
        Ok((results, moved))
    }
}

/// The server said nothing.
fn is_silence(cause: &Error) -> bool {
    matches!(cause, Error::Database(sqlx::Error::PoolTimedOut | sqlx::Error::Io(_)))
}

#[derive(Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct HeadRow {
    pub(super) position: i64,
    pub(super) recorded_at: i64,
    pub(super) feed_time: i64,
    pub(super) oldest: i64,
    pub(super) erasures: i64,
    pub(super) now: i64,
}

impl HeadRow {
    async fn lock(conn: &mut Conn) -> Result<Self, Error> {
        Ok(match conn {
            Conn::Sqlite(transaction) => sqlx::query_as(LOCK_HEAD_SQLITE).fetch_one(&mut **transaction).await?,
            Conn::Postgres(transaction) => sqlx::query_as(LOCK_HEAD_POSTGRES).fetch_one(&mut **transaction).await?,
        })
    }

    /// Gives the next position to an event of this time.
    pub(super) fn advance(&mut self, occurred_at: Micros) -> Self {
        self.position += 1;
        self.recorded_at = self.recorded_at.max(self.now);
        self.feed_time = self.feed_time.max(occurred_at.0.min(self.recorded_at.saturating_add(FUTURE_MAX_MICROS)));
        *self
    }

    async fn store(&self, conn: &mut Conn) -> Result<(), Error> {
        let sql = "update journal set position = $1, recorded_at = $2, feed_time = $3, oldest = $4, \
                   erasures = $5 where singleton = 1";
        execute!(conn, sql, self.position, self.recorded_at, self.feed_time, self.oldest, self.erasures);
        Ok(())
    }
}
