//! Beside the loop of a source: rows that an audit wants journaled are read again, and audits run on time.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::audit::{MISSING, audit};
use super::pump::Setting;
use super::retry::{Outcome, retry};
use super::status::Audited;
use super::{Audit, Error};

/// How often it is looked for requests.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Rows that are read again at a time, and how long that may take.
const ROWS_MAX: i64 = 1_000;
const RETRY_TIME: Duration = Duration::from_secs(20);
/// The first audit comes at least so soon: a gateway may be restarted every day.
const FIRST_AUDIT: Duration = Duration::from_secs(600);
/// Ids of an audit that are shown.
const NAMED_MAX: usize = 20;

pub(super) async fn run(setting: &Setting, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = forever(setting) => {}
    }
}

async fn forever(setting: &Setting) {
    let name = &setting.config.name;
    let (mut after, started) = (String::new(), Instant::now());
    let mut audit_at = setting.config.audit.map(|every| started + every.min(FIRST_AUDIT));
    loop {
        let until_audit = audit_at.map(|at| at.saturating_duration_since(Instant::now()));
        sleep(until_audit.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)).await;
        if let Err(cause) = repair(setting, &mut after).await {
            warn!(source.name = %name, "can't read again what an audit missed, will try again: {cause}");
        }
        if audit_at.is_some_and(|at| Instant::now() >= at) {
            match audit(&setting.config, &setting.catalogue, &setting.journal, None).await {
                Ok(found) => tell(setting, &found),
                Err(cause) => warn!(source.name = %name, "can't audit `{name}`: {cause}"),
            }
            audit_at = setting.config.audit.map(|every| Instant::now() + every);
        }
    }
}

/// Each requested row is tried once a start; one that can't be an event stays in quarantine.
async fn repair(setting: &Setting, after: &mut String) -> Result<(), Error> {
    let Setting { config, journal, catalogue, .. } = setting;
    loop {
        let rows = journal.quarantine(&config.name, Some(MISSING), after, ROWS_MAX).await;
        let rows = rows.map_err(|cause| config.journal_error(cause))?;
        if rows.is_empty() {
            return Ok(());
        }
        let outcomes = retry(config, catalogue, journal, &rows, Instant::now() + RETRY_TIME).await?;
        if let Some(last) = outcomes.len().checked_sub(1).and_then(|last| rows.get(last)) {
            after.clone_from(&last.id);
        }
        let journaled = outcomes.iter().filter(|outcome| **outcome == Outcome::Journaled).count();
        let (name, tried) = (&config.name, outcomes.len());
        info!(source.name = %name, tried, journaled, "read again {tried} rows of `{name}` that an audit missed: journaled {journaled}");
    }
}

fn tell(setting: &Setting, audit: &Audit) {
    let Audit { journaled, withheld, quarantined, not_read_yet, missing, .. } = *audit;
    let ids = audit.named.iter().take(NAMED_MAX).map(|(_, id)| id.clone()).collect();
    let at = setting.clock.now_micros();
    let name = &setting.config.name;
    if missing > 0 {
        warn!(source.name = %name, missing, "an audit of `{name}` misses {missing} rows in the journal; `postern audit --repair --source {name}` journals them");
    } else {
        info!(source.name = %name, journaled, "an audit of `{name}` found all {journaled} rows in the journal");
    }
    let audited = Audited { at, journaled, withheld, quarantined, not_read_yet, missing, missing_ids: ids };
    setting.status.update(|state| state.audit = Some(audited));
}
