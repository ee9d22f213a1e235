//! `GET /sources…`: how the sources are doing, and the rows that could not be mapped. For operators.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};

use super::Status;
use crate::event::Micros;
use crate::journal::Journal;
use crate::runtime::Clock;
use crate::web::auth::{Client, Scope};
use crate::web::paging::Paging;
use crate::web::problem::{Kind, Problem};

#[derive(Clone)]
struct Sources {
    journal: Journal,
    statuses: Arc<Vec<Status>>,
    clock: Clock,
    public_url: String,
}

/// The routes. Scope `admin`: quarantined rows show what was never published.
pub fn router(journal: Journal, statuses: Vec<Status>, clock: Clock, public_url: &str) -> Router {
    let sources = Sources { journal, statuses: Arc::new(statuses), clock, public_url: public_url.to_owned() };
    Router::new()
        .route("/sources", get(list))
        .route("/sources/{source}", get(show))
        .route("/sources/{source}/quarantine", get(quarantine))
        .with_state(sources)
}

impl Sources {
    fn status(&self, name: &str) -> Result<&Status, Problem> {
        self.statuses.iter().find(|status| status.get().name == name).ok_or_else(|| {
            Problem::new(Kind::NotFound, format!("there is no source `{name}`; GET /sources lists them"))
        })
    }

    async fn state(&self, status: &Status) -> Result<Value, Problem> {
        let state = status.get();
        let kept = self.journal.source(&state.name).await?;
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
            "holes": state.holes.iter().map(|(from, to, since)| json!({
                "from": from, "to": to, "since": Micros(*since).to_text(),
            })).collect::<Vec<_>>(),
            "holeCount": state.hole_count,
            "sweptAt": state.swept_at.map(|at| Micros(at).to_text()),
            "journaled": count(|row| row.journaled),
            "withheld": count(|row| row.withheld),
            "duplicates": count(|row| row.duplicates),
            "changed": count(|row| row.changed),
            "quarantined": count(|row| row.quarantined),
        }))
    }
}

async fn list(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<Json<Value>, Problem> {
    client.must(&Scope::Admin)?;
    let mut items = Vec::new();
    for status in sources.statuses.iter() {
        items.push(sources.state(status).await?);
    }
    Ok(Json(json!({ "items": items, "next": null })))
}

async fn show(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    client.must(&Scope::Admin)?;
    Ok(Json(sources.state(sources.status(&name)?).await?))
}

async fn quarantine(
    State(sources): State<Sources>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    query: Query<HashMap<String, String>>,
) -> Result<Json<Value>, Problem> {
    client.must(&Scope::Admin)?;
    sources.status(&name)?;
    let paging = Paging::new(query, &[])?;
    let rows = sources.journal.quarantine(&name, paging.after().unwrap_or_default(), paging.limit as i64).await?;
    let next = rows.last().filter(|_| rows.len() == paging.limit).map(|last| last.id.clone());
    let items = rows.into_iter().map(|row| {
        json!({
            "id": row.id, "eventId": row.event_id, "sequence": row.sequence, "reason": row.reason,
            "detail": row.detail, "receivedAt": Micros(row.received_at).to_text(), "raw": row.raw,
        })
    });
    Ok(paging.page(&format!("{}/sources/{name}/quarantine", sources.public_url), items, next))
}
