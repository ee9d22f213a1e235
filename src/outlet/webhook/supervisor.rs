//! Keeps one dispatch running for each active webhook. Takes no input: it looks at the rows and makes it so.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::attempt::Receiver;
use super::dispatch::{self, Target};
use super::signature::Signer;
use super::{Shared, definition_of};
use crate::journal::webhooks::{Status, WebhookRow};
use crate::journal::{self, Journal};
use crate::runtime::{Backoff, Tasks};

/// Changes ring the bell; this finds what another way of changing rows did.
const TIMER: Duration = Duration::from_secs(30);
const ROWS_AT_ONCE: i64 = 200;

struct Running {
    revision: i64,
    stop: CancellationToken,
    ended: CancellationToken,
}

pub(super) async fn supervise(shared: Arc<Shared>, tasks: Tasks) {
    let stopping = tasks.stopping();
    let mut changed = shared.changed.clone();
    let mut running: HashMap<String, Running> = HashMap::new();
    let mut unusable = HashSet::new();
    let mut backoff = Backoff::new(Duration::from_secs(1), TIMER);
    while !stopping.is_cancelled() {
        // Before the rows are read: a dispatch that ends meanwhile has written a newer cursor than the row read here.
        running.retain(|_, dispatch| !dispatch.ended.is_cancelled());
        let timer = match active(&shared.journal).await {
            Ok(rows) => {
                backoff.reset();
                settle(&shared, &tasks, rows, &mut running, &mut unusable);
                TIMER
            }
            Err(cause) => {
                let wait = backoff.next_wait();
                warn!(%cause, "can't read the webhooks, will retry in {wait:?}");
                wait
            }
        };
        tokio::select! {
            () = changed.rung(timer) => {}
            () = stopping.cancelled() => {}
        }
    }
}

async fn active(journal: &Journal) -> Result<Vec<WebhookRow>, journal::Error> {
    let (mut rows, mut after) = (Vec::new(), String::new());
    loop {
        let page = journal.webhooks(None, &after, ROWS_AT_ONCE).await?;
        let Some(last) = page.last() else { return Ok(rows) };
        after.clone_from(&last.id);
        rows.extend(page.into_iter().filter(|row| row.status == Status::Active));
    }
}

/// Stops what should not run any more or runs an old revision, and starts what should run and does not. An edited
/// webhook starts again once its old dispatch has finished its calls and rung the bell.
fn settle(
    shared: &Arc<Shared>,
    tasks: &Tasks,
    rows: Vec<WebhookRow>,
    running: &mut HashMap<String, Running>,
    unusable: &mut HashSet<(String, i64)>,
) {
    let mut stops = shared.stops.lock().expect("nothing panics while it holds this lock");
    stops.retain(|id, _| running.contains_key(id));
    let wanted: HashMap<&str, i64> = rows.iter().map(|row| (row.id.as_str(), row.revision)).collect();
    for (id, dispatch) in running.iter() {
        if wanted.get(id.as_str()) != Some(&dispatch.revision) {
            dispatch.stop.cancel();
        }
    }
    for row in rows {
        if running.contains_key(&row.id) {
            continue;
        }
        let (id, revision) = (row.id.clone(), row.revision);
        let Some(target) = target(shared, row) else {
            if unusable.insert((id.clone(), revision)) {
                error!(webhook.id = %id, "webhook `{id}` stands still: its owner is not configured or its secret can't be read");
            }
            continue;
        };
        let (stop, ended) = (tasks.stopping().child_token(), CancellationToken::new());
        let (own_shared, own_stop, own_ended) = (Arc::clone(shared), stop.clone(), ended.clone());
        let stopping = tasks.stopping();
        tasks.spawn(&format!("webhook {id}"), async move {
            let changed = own_shared.changed.clone();
            dispatch::run(own_shared, target, own_stop, stopping).await;
            own_ended.cancel();
            changed.ring();
        });
        stops.insert(id.clone(), stop.clone());
        running.insert(id, Running { revision, stop, ended });
    }
}

fn target(shared: &Shared, row: WebhookRow) -> Option<Target> {
    let definition = definition_of(&row);
    Some(Target {
        selection: shared.selection(&row, &definition)?,
        receiver: Receiver { url: row.url.parse().ok()?, signer: Signer::of(&shared.unseal_secret(&row)?)? },
        schedule: definition.schedule(),
        concurrency: definition.concurrency,
        row,
    })
}
