//! `/sources…`: how the sources are doing, and the rows that could not be mapped. For operators.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::retry::{Outcome, retry};
use super::{Running, push};
use crate::catalogue::Catalogue;
use crate::event::Micros;
use crate::journal::{Append, Journal, QuarantinedRow};
use crate::runtime::Clock;
use crate::web::auth::{Client, Scope};
use crate::web::negotiate;
use crate::web::paging::Paging;
use crate::web::problem::{Kind, Problem};

/// Rows that one request retries or discards; the next takes the next ones.
const ROWS_MAX: i64 = 500;
/// How long a request retries rows.
const RETRY_TIME: Duration = Duration::from_secs(20);
const COMMANDS: &str = "Retry, Discard";

#[derive(Clone)]
struct Sources {
    journal: Journal,
    running: Arc<Vec<Running>>,
    catalogue: Arc<Catalogue>,
    clock: Clock,
    public_url: String,
}

/// The routes. Scope `admin`: quarantined rows show what was never published.
pub fn router(
    journal: Journal,
    running: Arc<Vec<Running>>,
    catalogue: Arc<Catalogue>,
    clock: Clock,
    public_url: &str,
) -> Router {
    let push = push::router(journal.clone(), Arc::clone(&running), Arc::clone(&catalogue), clock);
    let sources = Sources { journal, running, catalogue, clock, public_url: public_url.to_owned() };
    Router::new()
        .route("/sources", get(list))
        .route("/sources/{source}", get(show))
        .route("/sources/{source}/quarantine", get(quarantine).put(put_quarantine))
        .route("/sources/{source}/quarantine/{row}", get(quarantined).put(put_quarantined))
        .with_state(sources)
        .merge(push)
}

impl Sources {
    /// The source, for a client that may look at it.
    fn running(&self, client: &Client, name: &str) -> Result<&Running, Problem> {
        client.must(&Scope::Admin)?;
        self.running.iter().find(|running| running.config.name == name).ok_or_else(|| {
            Problem::new(Kind::NotFound, format!("there is no source `{name}`; GET /sources lists them"))
        })
    }

    async fn state(&self, running: &Running) -> Result<Value, Problem> {
        let state = running.state();
        let kept = self.journal.source(&state.name).await?;
        let mismatches = self.journal.mismatches(&state.name).await?;
        let count = |of: fn(&crate::journal::SourceRow) -> i64| kept.as_ref().map_or(0, of);
        Ok(json!({
            "name": state.name,
            "kind": state.kind,
            "follow": state.follow,
            "healthy": state.healthy,
            "lastError": state.last_error,
            "lagSeconds": state.lag_seconds(self.clock.now_micros()),
            "lastEventAt": state.last_event_at.map(|at| Micros(at).to_text()),
            "position": state.position,
            "holes": state.holes,
            "holeCount": state.hole_count,
            "gate": state.gate,
            "sweptAt": state.swept_at.map(|at| Micros(at).to_text()),
            "audit": state.audit,
            "catchUp": state.catch_up,
            "journaled": count(|row| row.journaled),
            "withheld": count(|row| row.withheld),
            "duplicates": count(|row| row.duplicates),
            "changed": count(|row| row.changed),
            "quarantined": count(|row| row.quarantined),
            "mismatches": mismatches.into_iter().map(|(r#type, count)| (r#type, count.into())).collect::<Map<_, _>>(),
        }))
    }
}

async fn list(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<Json<Value>, Problem> {
    client.must(&Scope::Admin)?;
    let mut items = Vec::new();
    for running in sources.running.iter() {
        items.push(sources.state(running).await?);
    }
    Ok(Json(json!({ "items": items, "next": null })))
}

async fn show(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(sources.state(sources.running(&client, &name)?).await?))
}

async fn quarantine(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    query: Query<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    sources.running(&client, &name)?;
    let paging = Paging::new(query, "reason", &[])?;
    let (after, limit) = (paging.after().unwrap_or_default(), paging.limit as i64);
    let rows = sources.journal.quarantine(&name, paging.filter(), after, limit).await?;
    let next = rows.last().filter(|_| rows.len() == paging.limit).map(|last| last.id.clone());
    Ok(paging.page(&format!("{}/sources/{name}/quarantine", sources.public_url), rows.iter().map(row_json), next))
}

async fn quarantined(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<Value>, Problem> {
    sources.running(&client, &name)?;
    Ok(Json(row_json(&sources.row(&name, &id).await?)))
}

/// `Retry` or `Discard` for one row. One that still can't be an event stays.
async fn put_quarantined(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path((name, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let running = sources.running(&client, &name)?;
    let command = command(&headers)?;
    let row = sources.row(&name, &id).await?;
    match sources.apply(running, command, &[row]).await?.pop() {
        Some(Applied::Resolved(outcome)) => Ok(Json(json!({ "outcome": outcome }))),
        Some(Applied::Stays(detail)) => Err(Problem::new(Kind::Unprocessable, detail)),
        None => Err(Problem::new(Kind::Timeout, "the source takes too long; try again")),
    }
}

/// `Retry` or `Discard` for all rows, or for those of one reason.
async fn put_quarantine(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    query: Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let running = sources.running(&client, &name)?;
    let command = command(&headers)?;
    let paging = Paging::new(query, "reason", &[])?;
    let after = paging.after().unwrap_or_default();
    let rows = sources.journal.quarantine(&name, paging.filter(), after, ROWS_MAX).await?;
    let applied = sources.apply(running, command, &rows).await?;
    let resolved = applied.iter().filter(|applied| matches!(applied, Applied::Resolved(_))).count();
    let more = applied.len() < rows.len() || rows.len() as i64 == ROWS_MAX;
    let next = applied.len().checked_sub(1).and_then(|last| rows.get(last)).filter(|_| more);
    let next = paging.next(&format!("{}/sources/{name}/quarantine", sources.public_url), next.map(|row| &row.id));
    Ok(Json(json!({ "resolved": resolved, "stay": applied.len() - resolved, "next": next })))
}

#[derive(Clone, Copy)]
enum Command {
    Retry,
    Discard,
}

fn command(headers: &HeaderMap) -> Result<Command, Problem> {
    match negotiate::command(headers) {
        Some("Retry") => Ok(Command::Retry),
        Some("Discard") => Ok(Command::Discard),
        Some(other) => Err(Problem::new(Kind::BadRequest, format!("unknown command `{other}`; known are {COMMANDS}"))),
        None => Err(Problem::new(Kind::BadRequest, format!("send a header `Command`; known are {COMMANDS}"))),
    }
}

enum Applied {
    Resolved(&'static str),
    Stays(String),
}

impl Sources {
    async fn row(&self, name: &str, id: &str) -> Result<QuarantinedRow, Problem> {
        let row = self.journal.quarantined_row(name, id).await?;
        row.ok_or_else(|| Problem::new(Kind::NotFound, "there is no such row in this quarantine"))
    }

    /// What became of the rows, in their order; of fewer if it takes too long.
    async fn apply(
        &self,
        running: &Running,
        command: Command,
        rows: &[QuarantinedRow],
    ) -> Result<Vec<Applied>, Problem> {
        let config = &running.config;
        if matches!(command, Command::Discard) {
            let discarded = rows.iter().map(|row| row.id.clone()).collect();
            self.journal.append(Append { source: config.name.clone(), discarded, ..Append::default() }).await?;
            return Ok(rows.iter().map(|_| Applied::Resolved("discarded")).collect());
        }
        if !config.has_table() {
            let detail = match config.push {
                true => "a push source has no rows to read again",
                false => "what a feed showed once can't be read again; Discard drops it",
            };
            return Ok(rows.iter().map(|_| Applied::Stays(detail.to_owned())).collect());
        }
        let until = Instant::now() + RETRY_TIME;
        let outcomes = retry(config, &self.catalogue, &self.journal, rows, until).await.map_err(|cause| {
            warn!(source.name = %config.name, "can't retry a quarantined row: {cause}");
            Problem::new(Kind::Unavailable, "the source can't be read; its state says why")
        })?;
        let applied = outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Journaled => Applied::Resolved("journaled"),
            Outcome::Known => Applied::Resolved("known"),
            Outcome::Withheld => Applied::Resolved("withheld"),
            Outcome::StillBad(detail) => Applied::Stays(format!("the row is still bad: {detail}")),
            Outcome::Gone => Applied::Stays("the table has no such row any more; Discard drops it".to_owned()),
        });
        Ok(applied.collect())
    }
}

fn row_json(row: &QuarantinedRow) -> Value {
    json!({
        "id": row.id, "eventId": row.event_id, "sequence": row.sequence, "reason": row.reason,
        "detail": row.detail, "receivedAt": Micros(row.received_at).to_text(), "raw": row.raw,
    })
}
