//! Connections to PostgreSQL that readers hand to one another. The pool looks whether a connection lives each time that it
//! gets it back: a round trip, which costs as much as a small read.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};
use tokio::time::Instant;

/// One that nobody wanted for so long goes back to the pool.
const IDLE_MAX: Duration = Duration::from_millis(500);

/// Connections that were used a moment ago.
#[derive(Default)]
pub(super) struct Warm(Mutex<Vec<(PoolConnection<Postgres>, Instant)>>);

impl Warm {
    /// A connection to read with. It is given back only after a read that went well; else the pool gets it, and looks.
    pub(super) async fn take(&self, pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let kept = self.lock().pop();
        match kept.filter(|(_, since)| since.elapsed() < IDLE_MAX) {
            Some((connection, _)) => Ok(connection),
            None => pool.acquire().await,
        }
    }

    /// Keeps a connection for the next reader, but never so many that others find none in the pool.
    pub(super) fn give(&self, pool: &PgPool, connection: PoolConnection<Postgres>) {
        let most = pool.options().get_max_connections() as usize / 2;
        let mut kept = self.lock();
        // Those that nobody wanted lie at the bottom.
        kept.retain(|(_, since)| since.elapsed() < IDLE_MAX);
        if kept.len() < most && !pool.is_closed() {
            kept.push((connection, Instant::now()));
        }
    }

    /// Gives all of them to the pool, which is about to be closed.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(PoolConnection<Postgres>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
