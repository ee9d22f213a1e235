//! Where events come from: tables of other people's databases, and feeds. They are only read, with the least rights.
//!
//! An adapter (`sql`) reads rows, `mapping` makes events of them, the one loop (`pump`) journals these in order and
//! remembers in `holes` which numbers are still missing. Nothing here waits at a hole: what is visible is journaled,
//! what is missing is looked for again.

mod audit;
mod check;
mod columns;
mod config;
mod feed;
mod gate;
mod holes;
mod init;
mod mapping;
mod metrics;
mod order;
mod preset;
mod probe;
mod pump;
mod push;
mod rest;
mod retry;
mod sql;
mod status;
mod time;
mod upkeep;
mod window;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tracing::error;

use crate::catalogue::Catalogue;
use crate::journal::{self, Journal};
use crate::runtime::{Backoff, Clock, Tasks};
use feed::FeedPump;
use holes::Horizon;
use mapping::{Mapping, Row};
use probe::Probe;
use pump::Setting;
use window::WindowPump;

pub use audit::{Audit, audit};
pub use check::{Report, check};
pub use columns::{Column, Columns};
pub use config::{Config, Engine, Follow, GateBy, Poll, check_names};
pub use init::{Found, discover};
pub use metrics::measure;
pub use rest::router;
pub use status::{CatchUp, State, Status, catching_up};

/// Rows of one page. A tail of fewer rows is read with one statement; a longer one page by page in one snapshot.
const ROWS_MAX: usize = 10_000;
/// Rows of the first page: how large they are is not known yet, and what is cut off a page was sent in vain.
const ROWS_FIRST: usize = 250;

/// Waits after a crash of our own. One that ran for longer than the last starts anew.
const CRASH_WAIT: Duration = Duration::from_secs(1);
const CRASH_WAIT_MAX: Duration = Duration::from_secs(60);

/// What can go wrong with a source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be used as it stands.
    #[error("source `{name}`: {problem}")]
    Config { name: String, problem: String },
    #[error("source `{name}`: there is no table `{table}`, or it can't be seen")]
    NoTable { name: String, table: String },
    #[error("source `{name}` has no column `{column}` in table `{table}`{hint}")]
    NoColumn { name: String, table: String, column: String, hint: String },
    #[error("source `{name}`: the database does not answer within {seconds}s")]
    Timeout { name: String, seconds: u64 },
    #[error("source `{name}`: {cause}")]
    Database { name: String, cause: sqlx::Error },
    /// A feed can't be read; the text says why and what to do.
    #[error("source `{name}`: {problem}")]
    Feed { name: String, problem: String },
    #[error("source `{name}`: the feed answers {status} and asks us to stay away for {}s", wait.as_secs())]
    Busy { name: String, status: u16, wait: Duration },
    #[error("source `{name}`: its checkpoint in the journal can't be read: {cause}")]
    Checkpoint { name: String, cause: serde_json::Error },
    #[error("source `{name}` can't be journaled: {cause}")]
    Journal { name: String, cause: journal::Error },
}

/// Rows in ascending sequence.
#[derive(Debug, Default)]
struct Page {
    rows: Vec<Row>,
    /// There may be rows after the last of these; otherwise all that the snapshot shows are here.
    more: bool,
}

impl Page {
    /// How many rows to ask for next after so many: fewer where they are large, so that little is sent in vain.
    fn rows_next(&self, rows_max: usize) -> usize {
        let is_cut = self.more && self.rows.len() < rows_max;
        if is_cut { self.rows.len().max(1) } else { (rows_max * 2).min(ROWS_MAX) }
    }
}

/// What a sweep looks for. `table` and `sequence` are quoted.
struct Ask {
    table: String,
    sequence: String,
    /// Nothing: only where the first sweep will start.
    since: Option<Horizon>,
    /// Numbers that may not have been read; ascending, disjoint.
    ranges: Vec<(i64, i64)>,
    now: i64,
}

/// What a sweep found.
#[derive(Debug)]
struct Swept {
    /// Ranges of their numbers, ascending, disjoint.
    ranges: Vec<(i64, i64)>,
    /// Where the next one starts, once these rows are journaled.
    horizon: Horizon,
}

/// Who may still fill missing ranges.
#[derive(Debug, Default)]
struct Evidence {
    /// Ranges that nobody can fill any more who ran when they were seen first, ascending.
    settled: Vec<(i64, i64)>,
    /// For ranges that are missing since a time, the server's processes that may fill them.
    held_by: Vec<(i64, Vec<i32>)>,
}

/// Some rows of a table without numbers.
#[derive(Debug)]
struct Look {
    rows: Vec<Row>,
    /// Where the next look goes on, as JSON.
    token: String,
    /// It goes on at once.
    more: bool,
}

/// A way to read a table without numbers.
trait Windows: Sized + Send + Sync {
    /// Connects and checks the table against the configuration.
    fn open(config: &Config) -> impl Future<Output = Result<Self, Error>> + Send;
    fn mapping(&self) -> &Mapping;
    /// Rows come again in later looks; otherwise only after a crash.
    fn repeats(&self) -> bool;
    /// Rows come in no useful order.
    fn is_unordered(&self) -> bool;
    /// The next rows after a token, or the first ones.
    fn look(&mut self, token: Option<&str>, now: i64) -> impl Future<Output = Result<Look, Error>> + Send;
    /// The row with this id of its own.
    fn find(&mut self, own_id: &str) -> impl Future<Output = Result<Option<Row>, Error>> + Send;
    /// The rows with these marks are journaled, known, withheld or quarantined.
    fn taken(&mut self, marks: &[String]) -> impl Future<Output = Result<(), Error>> + Send;
    /// What can't be guaranteed on this table and why, in sentences.
    fn warnings(&mut self) -> impl Future<Output = Result<Vec<String>, Error>> + Send;
    /// See [`Source::hints`].
    fn hints(&self, config: &Config) -> BoxStream<'static, ()>;
}

/// A way to read a table by its numbers. Nothing is ever written to it.
trait Source: Sized + Send {
    /// The database may give the number of a deleted newest row again, so the newest row is read at every poll.
    const REREADS_LAST: bool;

    /// Connects and checks the table against the configuration.
    fn open(config: &Config) -> impl Future<Output = Result<Self, Error>> + Send;
    fn mapping(&self) -> &Mapping;
    /// From here to [`Source::end`], all reads see one state of the table. Before, each sees its own.
    fn begin(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
    fn end(&mut self) -> impl Future<Output = Result<(), Error>> + Send;
    /// Rows above a number, at most so many.
    fn tail(&mut self, above: i64, rows_max: usize) -> impl Future<Output = Result<Page, Error>> + Send;
    /// Rows whose number lies in one of the ranges (both ends included, ascending, disjoint), at most so many.
    fn ranges(&mut self, ranges: &[(i64, i64)], rows_max: usize) -> impl Future<Output = Result<Page, Error>> + Send;
    /// What tells the versions of rows with these aggregate ids, these versions among them. Nothing else of the rows is read.
    fn versions(&mut self, wanted: &[(String, i64)]) -> impl Future<Output = Result<Vec<Row>, Error>> + Send;
    /// The last rows, newest first.
    fn newest(&mut self, rows_max: usize) -> impl Future<Output = Result<Page, Error>> + Send;
    /// Of missing ranges (from, to, since; ascending), those that nobody fills any more. Nothing where that can't be known:
    /// then they only age.
    fn evidence(&mut self, missing: &[(i64, i64, i64)]) -> impl Future<Output = Result<Evidence, Error>> + Send;
    /// Looks for rows in these ranges that were written since the horizon, beside other reads. Nothing where the database
    /// can't tell; then all numbers that were not read are looked for.
    fn sweep(
        &self,
        since: Option<Horizon>,
        ranges: Vec<(i64, i64)>,
        now: i64,
    ) -> BoxFuture<'static, Result<Option<Swept>, Error>>;
    /// What can't be guaranteed on this table and why, in sentences.
    fn warnings(&mut self) -> impl Future<Output = Result<Vec<String>, Error>> + Send;
    /// Something may have been written. Never ends; nothing but speed depends on it.
    fn hints(&self, config: &Config) -> BoxStream<'static, ()>;
}

/// Runs one of two bodies with the adapter that is for the source, each compiled for each database. A URL that names none
/// is refused by the adapter.
macro_rules! with_adapter {
    ($config:expr, $adapter:ident, numbered: $numbered:expr, windowed: $windowed:expr) => {{
        use $crate::source::{Engine, Follow, sql};
        let is_numbered = $config.follow() == Follow::Probe;
        macro_rules! of {
            ($engine:ty) => {
                if is_numbered {
                    type $adapter = sql::Numbered<$engine>;
                    $numbered
                } else {
                    type $adapter = sql::Windowed<$engine>;
                    $windowed
                }
            };
        }
        match $config.engine().unwrap_or(Engine::Sqlite) {
            Engine::Postgres => of!(sql::Postgres),
            Engine::MySql => of!(sql::MySql),
            Engine::Sqlite => of!(sql::Sqlite),
        }
    }};
}
use with_adapter;

/// A source, and how it is doing: here, or in the process that reads it.
pub struct Running {
    pub config: Config,
    pub status: Status,
    journal: Journal,
}

impl Running {
    /// A source that is not read yet.
    pub fn new(config: Config, journal: Journal) -> Self {
        Self { status: Status::new(&config), config, journal }
    }

    pub fn state(&self) -> State {
        let elsewhere = self.journal.work_of_others(&lease_name(&self.config.name));
        // A newer gateway may say more, an older one less: then nothing is known.
        elsewhere.and_then(|state| serde_json::from_str(&state).ok()).unwrap_or_else(|| self.status.get())
    }
}

fn lease_name(source: &str) -> String {
    format!("source:{source}")
}

/// Starts reading a source whenever this process holds its lease; that goes on until the tasks are told to stop, whatever
/// happens to its database.
pub fn start(source: &Running, catalogue: Arc<Catalogue>, tasks: &Tasks) {
    let (Running { config, status, journal }, stop) = (source, tasks.stopping());
    if config.push {
        return;
    }
    let (config, status, journal) = (config.clone(), status.clone(), journal.clone());
    tasks.spawn(&format!("source {}", config.name), async move {
        let (name, mut backoff) = (lease_name(&config.name), Backoff::new(CRASH_WAIT, CRASH_WAIT_MAX));
        let report = || -> journal::Report {
            let status = status.clone();
            Box::new(move || serde_json::to_string(&status.get()).expect("a state is JSON"))
        };
        while let Some(lease) = journal.lease(&name, &stop, Some(report())).await {
            let (config, journal, catalogue, status) =
                (config.clone(), journal.clone(), Arc::clone(&catalogue), status.clone());
            let clock = Clock::system();
            let setting =
                Arc::new(Setting { config, journal, catalogue, status, clock, lease, told: Mutex::default() });
            let started = tokio::time::Instant::now();
            if AssertUnwindSafe(read(Arc::clone(&setting))).catch_unwind().await.is_ok() {
                continue;
            }
            if started.elapsed() > CRASH_WAIT_MAX {
                backoff.reset();
            }
            let wait = backoff.next_wait();
            let name = &setting.config.name;
            error!(source.name = %name, "reading `{name}` crashed, will start again in {}s", wait.as_secs());
            setting.status.update(|state| {
                (state.healthy, state.last_error) = (false, Some("reading it crashed; see the log".to_owned()));
            });
            // The lease is given back meanwhile: another gateway may do better.
            drop(setting);
            let _ = tokio::time::timeout(wait, stop.cancelled()).await;
        }
    });
}

/// Reads as long as the lease holds.
async fn read(setting: Arc<Setting>) {
    let upkeep = async {
        if setting.config.has_table() {
            upkeep::run(&setting, setting.lease.lost().clone()).await;
        }
    };
    let pump = async {
        let setting = Arc::clone(&setting);
        if setting.config.feed.is_some() {
            return pump::run::<FeedPump>(setting).await;
        }
        with_adapter!(
            setting.config,
            Adapter,
            numbered: pump::run::<Probe<Adapter>>(setting).await,
            windowed: pump::run::<WindowPump<Adapter>>(setting).await
        );
    };
    tokio::join!(pump, upkeep);
}
