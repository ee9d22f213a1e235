//! Who does what only one process may do: sources, shards of webhooks, retention. With a SQLite journal, this process does
//! all of it. On PostgreSQL each piece of work is a row with its holder, a fence that grows with each holder, and an end
//! by the database's clock; processes share the work evenly, and take over what a dead one leaves.
//!
//! A holder that can't renew stops by its own clock before others may start ([`Lease::holds`], [`Lease::lost`]), and what
//! it writes verifies the row in the same transaction ([`verify`]), whatever clocks say.

mod rounds;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::db::Conn;
use super::{Error, Journal};
use crate::runtime::{Bell, random_hex};

/// How long a lease is good for without being renewed. A dead process's work is taken up after this and one round.
const TERM: Duration = Duration::from_secs(6);
/// How often leases are renewed and looked for.
const ROUND: Duration = Duration::from_millis(1_500);
/// Nothing is started so soon before the end of a lease.
const MARGIN: Duration = Duration::from_secs(2);

/// The right to do a piece of work. Cheap to clone; given back when the last clone is dropped.
#[derive(Clone)]
pub struct Lease(Arc<Grant>);

struct Grant {
    name: String,
    /// Nothing: no other process can hold it.
    fence: Option<i64>,
    leases: Leases,
    /// Milliseconds of [`Inner::started`] until which work may be started.
    until: AtomicU64,
    lost: CancellationToken,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, {:?})", self.0.name, self.0.fence)
    }
}

impl Lease {
    /// Whether something may be started under it now. By this process's own clock: others may hold the lease later.
    pub fn holds(&self) -> bool {
        !self.0.lost.is_cancelled() && self.0.leases.elapsed() < self.0.until.load(Ordering::Acquire)
    }

    /// Cancelled when the work has to end: the lease is lost, another process shall have it, or this one stops.
    pub fn lost(&self) -> &CancellationToken {
        &self.0.lost
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.leases.give_back(&self.name);
    }
}

/// A process that serves a journal, as the others see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Member {
    /// 8 hex digits, new at each start.
    pub process: String,
    /// How many leases it holds.
    pub leases: usize,
}

/// The leases of this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Leases(Arc<Inner>);

struct Inner {
    process: String,
    started: Instant,
    /// Whether other processes may do the same work.
    is_shared: bool,
    /// The work that this process would do, by name.
    wanted: Mutex<BTreeMap<String, Wanted>>,
    /// What others say of the work they do, and who they are.
    others: Mutex<Others>,
    /// Rung when a round may find something to do.
    bell: Bell,
    has_left: AtomicBool,
}

#[derive(Default)]
struct Others {
    states: BTreeMap<String, String>,
    members: Vec<Member>,
}

/// Why there are no more rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Left,
    /// The journal is another incarnation than the one that this process knows.
    OtherJournal,
}

/// Tells how the work is doing, as JSON.
pub type Report = Box<dyn Fn() -> String + Send + Sync>;

#[derive(Default)]
struct Wanted {
    /// Who waits for it, until when.
    waiting: Option<(oneshot::Sender<Lease>, CancellationToken)>,
    held: Option<Held>,
    /// The fence of one whose work has ended; the row still names this process.
    returned: Option<i64>,
    report: Option<Report>,
}

/// What is needed to renew a grant, which its users own.
struct Held {
    fence: i64,
    grant: Weak<Grant>,
    lost: CancellationToken,
}

impl Leases {
    pub(super) fn new(is_shared: bool) -> Self {
        Self(Arc::new(Inner {
            process: random_hex(4),
            started: Instant::now(),
            is_shared,
            wanted: Mutex::default(),
            others: Mutex::default(),
            bell: Bell::default(),
            has_left: AtomicBool::new(false),
        }))
    }

    pub(super) fn process(&self) -> &str {
        &self.0.process
    }

    pub(super) fn ring(&self) {
        self.0.bell.ring();
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wanted(&self) -> MutexGuard<'_, BTreeMap<String, Wanted>> {
        self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn others(&self) -> MutexGuard<'_, Others> {
        self.0.others.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, name: &str, fence: Option<i64>, until: u64, stop: &CancellationToken) -> Lease {
        let (leases, lost) = (self.clone(), stop.child_token());
        Lease(Arc::new(Grant { name: name.to_owned(), fence, leases, until: AtomicU64::new(until), lost }))
    }

    fn give_back(&self, name: &str) {
        if let Some(wanted) = self.wanted().get_mut(name) {
            wanted.returned = wanted.held.take().map(|held| held.fence);
        }
        self.0.bell.ring();
    }
}

impl Journal {
    /// Waits until this process may do the work with this name; nothing once `stop` is cancelled. One at a time may ask for
    /// a name. What `report` tells is shown by the other processes.
    pub async fn lease(&self, name: &str, stop: &CancellationToken, report: Option<Report>) -> Option<Lease> {
        let leases = &self.inner.leases;
        if !leases.0.is_shared {
            return Some(leases.grant(name, None, u64::MAX, stop)).filter(|_| !stop.is_cancelled());
        }
        let (sender, granted) = oneshot::channel();
        {
            let mut wanted = leases.wanted();
            let wanted = wanted.entry(name.to_owned()).or_default();
            (wanted.waiting, wanted.report) = (Some((sender, stop.clone())), report);
        }
        leases.0.bell.ring();
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            granted = granted => granted.ok(),
        }
    }

    /// What the process that does this work says of it, if that is another one.
    pub fn work_of_others(&self, name: &str) -> Option<String> {
        self.inner.leases.others().states.get(name).cloned()
    }

    /// How many leases this process holds, by the kind of work: what stands before the colon of a name. Nothing where no
    /// other process can hold any.
    pub fn leases_held(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, wanted) in self.inner.leases.wanted().iter() {
            let kind = name.split(':').next().unwrap_or(name);
            *counts.entry(kind.to_owned()).or_default() += usize::from(wanted.held.is_some());
        }
        counts
    }

    /// The processes that serve this journal, as far as they share its work.
    pub fn members(&self) -> Vec<Member> {
        self.inner.leases.others().members.clone()
    }
}

/// Locks the rows of these leases until the transaction ends, so that nobody takes them over before.
///
/// # Errors
/// [`Error::LeaseLost`] for one that another process holds, or the database.
pub(super) async fn verify(conn: &mut Conn, mut leases: Vec<&Lease>) -> Result<(), Error> {
    leases.retain(|lease| lease.0.fence.is_some());
    let (Conn::Postgres(transaction), Some(first)) = (conn, leases.first()) else { return Ok(()) };
    let process = first.0.leases.process().to_owned();
    let names: Vec<&str> = leases.iter().map(|lease| lease.0.name.as_str()).collect();
    // In the order of names, as renewing does: whoever waits holds none that the other waits for.
    let sql = "select name, fence from leases where name = any($1) and holder = $2 order by name for share";
    let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(names).bind(process).fetch_all(&mut **transaction).await?;
    let holds = |lease: &&&Lease| rows.iter().any(|row| row.0 == lease.0.name && Some(row.1) == lease.0.fence);
    match leases.iter().find(|lease| !holds(lease)) {
        Some(lost) => Err(Error::LeaseLost { name: lost.0.name.clone() }),
        None => Ok(()),
    }
}
