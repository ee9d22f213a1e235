//! The bell across processes: who writes to a PostgreSQL journal notifies the others in the same transaction. Nothing but
//! speed depends on it: the head is read every second anyway, as a connection pooler may keep notifications away.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Journal, Past, db};

/// The one channel. What is said on it is `{process} {what}`.
pub(super) const CHANNEL: &str = "postern";
/// The head is read so often although nobody rings.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the database may take to answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Changed webhooks that may wait to be looked at; whoever is slower looks at all.
pub(super) const CHANGES_MAX: usize = 1_024;

/// What another process has done.
enum What<'a> {
    Journal,
    Leases,
    Webhook(&'a str),
}

impl<'a> What<'a> {
    /// Nothing for this process's own words and for what a newer one may say.
    fn parse(payload: &'a str, process: &str) -> Option<Self> {
        let (who, what) = payload.split_once(' ').filter(|(who, _)| *who != process)?;
        debug_assert!(!who.is_empty());
        match what {
            "journal" => Some(Self::Journal),
            "leases" => Some(Self::Leases),
            _ => what.strip_prefix("webhook ").map(Self::Webhook),
        }
    }
}

impl Journal {
    /// Webhooks that other processes changed, by id.
    pub fn changed_webhooks(&self) -> broadcast::Receiver<String> {
        self.inner.changed_webhooks.subscribe()
    }

    /// Rings this process's bells for what others do.
    pub(super) async fn listen(self, pool: PgPool, stop: CancellationToken) {
        let mut listener: Option<PgListener> = None;
        let mut connected_at = Instant::now();
        let mut seen = (self.known_position(), self.known_past());
        while !stop.is_cancelled() {
            if listener.is_none() {
                listener = timeout(SILENCE_MAX, connect(&pool)).await.ok().and_then(Result::ok);
                connected_at = Instant::now();
            }
            let heard = async {
                match &mut listener {
                    Some(listener) => listener.try_recv().await.ok().flatten(),
                    None => std::future::pending().await,
                }
            };
            let heard = tokio::select! {
                () = stop.cancelled() => return,
                heard = timeout(LOOK_EVERY, heard) => heard,
            };
            let nobody_spoke = heard.is_err();
            let mut has_grown = nobody_spoke;
            match heard {
                Ok(Some(notification)) => has_grown |= self.hear(notification.payload()),
                // The connection was lost: it is made again, and what was said meanwhile is looked for.
                Ok(None) => (listener, has_grown) = (None, true),
                Err(_) => {}
            }
            while let Some(notification) = listener.as_mut().and_then(PgListener::next_buffered) {
                has_grown |= self.hear(notification.payload());
            }
            let has_moved = has_grown && timeout(SILENCE_MAX, self.look(&mut seen)).await.unwrap_or_default();
            // A connection that is dead without a word says nothing for ever.
            if has_moved && nobody_spoke && connected_at.elapsed() > SILENCE_MAX {
                listener = None;
            }
        }
    }

    /// Whether the journal may have grown.
    fn hear(&self, payload: &str) -> bool {
        match What::parse(payload, self.inner.leases.process()) {
            Some(What::Journal) => return true,
            Some(What::Leases) => self.inner.leases.ring(),
            Some(What::Webhook(id)) => {
                // Nobody listens: nobody delivers here.
                let _ = self.inner.changed_webhooks.send(id.to_owned());
            }
            None => {}
        }
        false
    }

    /// Rings if another process has moved the head since it was `seen` here, and tells whether one has.
    async fn look(&self, seen: &mut (i64, Past)) -> bool {
        match self.head().await {
            Ok(head) => {
                let now = (head.position, head.past());
                let is_new = std::mem::replace(seen, now) != now;
                let has_moved = is_new && !self.inner.known.has_written(now.0, now.1);
                if has_moved {
                    self.inner.bell.ring();
                }
                has_moved
            }
            Err(cause) => {
                debug!(%cause, "can't look whether the journal has grown");
                false
            }
        }
    }
}

/// With a connection that is no reader's: whoever drops a listener waits for an answer on it.
async fn connect(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(&db::apart(pool)).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}
