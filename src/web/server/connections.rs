//! The connections that are open, and those of them on which nothing happens any more.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tracing::debug;

use super::super::Peer;
use super::watch::Activity;

/// Without a byte in either direction, and while no answer is being made.
const IDLE: Duration = Duration::from_secs(60);
/// … while one is. Longer than the longest answer takes.
const ANSWER: Duration = Duration::from_secs(120);

#[derive(Default)]
pub(super) struct Connections {
    tasks: JoinSet<()>,
    open: HashMap<Id, Open>,
}

struct Open {
    peer: Peer,
    task: AbortHandle,
    activity: Arc<Activity>,
    /// What was seen, and since when it is so.
    moves: usize,
    since: Instant,
}

impl Connections {
    pub(super) fn start(
        &mut self,
        peer: Peer,
        activity: Arc<Activity>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = self.tasks.spawn(connection);
        let open = Open { peer, activity, moves: 0, since: Instant::now(), task: task.clone() };
        self.open.insert(task.id(), open);
    }

    /// Returns when one has ended; nothing if there is none.
    pub(super) async fn ended(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(cause) => cause.id(),
        };
        self.open.remove(&id);
        Some(())
    }

    /// Ends those on which nothing has happened for too long.
    pub(super) fn end_still(&mut self) {
        let now = Instant::now();
        for Open { peer, task, activity, moves, since } in self.open.values_mut() {
            let seen = activity.moves();
            if seen != *moves {
                (*moves, *since) = (seen, now);
            } else if now - *since >= if activity.is_at_work() { ANSWER } else { IDLE } {
                debug!(peer = %peer.0, "nothing happens on a connection");
                task.abort();
            }
        }
    }
}
