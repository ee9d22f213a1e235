//! What every loop needs: a clock, a way to be started, named and stopped, patience, and chance.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// The wall clock. Positions and feed times use the journal database's clock instead (see `journal`).
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    pub fn system() -> Self {
        Self
    }

    pub fn steady(&self) -> Steady {
        Steady { started_at: self.now_micros(), started: tokio::time::Instant::now() }
    }

    /// Microseconds since 1970-01-01T00:00:00Z.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    pub fn now_micros(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// A clock that starts at the wall clock's time and never goes back, whoever sets that.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    started_at: i64,
    started: tokio::time::Instant,
}

impl Steady {
    /// Microseconds since 1970-01-01T00:00:00Z, as far as the wall clock was right at the start.
    pub fn now_micros(&self) -> i64 {
        self.started_at.saturating_add(i64::try_from(self.started.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

/// The background tasks of one gateway: started by name, told to stop together, waited for.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// Stops everything, also what this is a part of.
    stop_all: Option<CancellationToken>,
    failed: CancellationToken,
}

impl Tasks {
    /// Tasks that stop with these, or earlier by themselves. A crash of one of them counts as one of these.
    #[must_use]
    pub fn child(&self) -> Self {
        let stop_all = Some(self.stop_all.clone().unwrap_or_else(|| self.stop.clone()));
        Self { tracker: TaskTracker::new(), stop: self.stop.child_token(), stop_all, failed: self.failed.clone() }
    }

    /// Starts a task. It should end soon after [`Tasks::stopping`] is cancelled; one that panics stops the gateway.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        let tracked = self.tracker.track_future(future);
        self.spawn_untracked(name, tracked);
    }

    /// Like [`Tasks::spawn`], but [`Tasks::drain`] does not wait for it: for what must outlive the other tasks.
    #[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
    pub fn spawn_untracked(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) {
        let (name, tasks) = (name.to_owned(), self.clone());
        let task = tokio::spawn(future);
        tokio::spawn(async move {
            if let Err(cause) = task.await {
                error!(task.name = %name, %cause, "task `{name}` crashed, stopping");
                tasks.fail();
            }
        });
    }

    /// Cancelled when the gateway stops.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells all tasks to stop.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Tells all tasks to stop, as after a crash: whoever started the process shall start it again.
    pub fn fail(&self) {
        self.failed.cancel();
        self.stop_all.as_ref().unwrap_or(&self.stop).cancel();
    }

    /// Whether a task crashed.
    pub fn crashed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// Waits for all tasks to end, at most `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_err() {
            warn!(tasks = self.tracker.len(), "stopping without waiting for the last tasks");
        }
    }
}

/// Returns at SIGINT (Ctrl-C) or SIGTERM.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => info!("interrupted, stopping"),
                _ = terminate.recv() => info!("told to terminate, stopping"),
            }
        }
        Err(cause) => {
            warn!(%cause, "can't listen for SIGTERM");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// SIGHUP: read the configuration again.
pub struct Hangups(Option<tokio::signal::unix::Signal>);

/// Listens for SIGHUP from now on.
pub fn hangups() -> Hangups {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = signal(SignalKind::hangup());
    Hangups(signals.inspect_err(|cause| warn!(%cause, "can't listen for SIGHUP")).ok())
}

impl Hangups {
    /// Returns at the next one.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(signals) => drop(signals.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// A wake-up signal without data. Whoever hears it reads the present state itself.
#[derive(Clone, Debug)]
pub struct Bell {
    rung: watch::Sender<()>,
    heard: watch::Receiver<()>,
}

impl Default for Bell {
    fn default() -> Self {
        let (rung, heard) = watch::channel(());
        Self { rung, heard }
    }
}

impl Bell {
    /// Wakes every holder of a clone.
    pub fn ring(&self) {
        self.rung.send_replace(());
    }

    /// Returns at a ring or after `timer`. A ring since the last call returns at once, so nothing is missed by
    /// looking between two calls.
    pub async fn rung(&mut self, timer: Duration) {
        let _ = tokio::time::timeout(timer, self.heard.changed()).await;
    }
}

/// Waits for a future that may not be there; then it is gone.
pub async fn ready<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(running) = future else { return std::future::pending().await };
    let output = running.await;
    *future = None;
    output
}

/// Growing waits between attempts of one thing.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The wait before the next attempt: doubles with each call.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.max);
        wait
    }

    /// Starts again from the first wait.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A duration as users write it: `250ms`, `5s`, `10m`, `2h`, `90d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit_ms).map(Duration::from_millis)
}

/// The known name that is nearest to this one, and how far it is: so many letters differ.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    known.map(|known| (distance(name, known), known)).min()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.pop().unwrap_or_default()
}

/// So many random bytes from the operating system's generator.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator works");
    bytes
}

/// So many random bytes as lower-case hex.
pub fn random_hex(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    aws_lc_rs::rand::fill(&mut buffer).expect("the system's random generator works");
    hex(&buffer)
}

/// SHA-256 of a text.
pub fn sha256(text: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().expect("a SHA-256 digest has 32 bytes")
}

/// Bytes as lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
