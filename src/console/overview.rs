//! `GET /console`: how everything is, and what needs somebody.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde_json::{Value, json};

use super::{Console, Shown};
use crate::event::{Micros, escape};
use crate::journal::webhooks::Status;
use crate::journal::{Error, Head};
use crate::web::auth::Client;

const MINUTE: i64 = 60_000_000;

pub(super) async fn show(State(console): State<Arc<Console>>, Extension(client): Extension<Arc<Client>>) -> Shown {
    let sources = console.doors.get(&client, "/sources").await?["items"].take();
    let list: Vec<&Value> = sources.as_array().map(|list| list.iter().collect()).unwrap_or_default();
    let journal = &console.journal;
    let head = journal.head().await?;
    let statuses = statuses(&console).await?;
    let count = |status: &str| statuses.get(status).copied().unwrap_or(0);
    let data = json!({
        "journal": { "id": journal.id(), "createdAt": journal.created_at().to_text() },
        "head": {
            "position": head.position, "oldest": head.oldest, "erasures": head.erasures,
            "recordedAt": (head.position > 0).then(|| head.recorded_at.to_text()),
        },
        "rate": rate(&console, &head).await?,
        "healthy": list.iter().filter(|source| source["healthy"] == true).count(),
        "troubles": troubles(&list, &statuses),
        "active": count("active"),
        "registered": statuses.values().sum::<i64>(),
        "statuses": statuses.iter().map(|(status, count)| json!({ "status": status, "count": count })).collect::<Value>(),
        "sources": sources,
    });
    Ok(console.page(&client, "overview", "overview.html", data))
}

/// Events a second, over the last minute.
async fn rate(console: &Console, head: &Head) -> Result<String, Error> {
    let before = match console.journal.before_recorded(Micros(console.clock.now_micros() - MINUTE)).await {
        Err(Error::Expired { .. }) => head.oldest - 1,
        before => before?,
    };
    // A minute's events are far below 2⁵³.
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2⁵³")]
    let rate = (head.position - before).max(0) as f64 / 60.0;
    Ok(if rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") })
}

/// How many webhooks there are, by the status that their owners are told.
async fn statuses(console: &Console) -> Result<BTreeMap<&'static str, i64>, Error> {
    let mut statuses = BTreeMap::new();
    for row in console.journal.count_webhooks_by_status().await? {
        let is_orphan = console.auth.visibility(&row.owner).is_none();
        let counts = match row.status {
            Status::Active if is_orphan => [("paused", row.count), ("failing", 0)],
            Status::Active => [("active", row.count - row.failing), ("failing", row.failing)],
            status => [(status.as_str(), row.count), ("failing", 0)],
        };
        for (status, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            *statuses.entry(status).or_default() += count;
        }
    }
    Ok(statuses)
}

fn troubles(sources: &[&Value], webhooks: &BTreeMap<&str, i64>) -> Vec<Value> {
    let mut troubles = Vec::new();
    let mut add = |what: String, path: String| troubles.push(json!({ "what": what, "path": path }));
    for source in sources {
        let name = source["name"].as_str().unwrap_or_default();
        let path = format!("/console/sources/{}", escape(name));
        if source["healthy"] != true {
            add(format!("source {name} can't be read"), path.clone());
        }
        if let Some(rows) = source["quarantined"].as_i64().filter(|rows| *rows > 0) {
            add(format!("source {name} has {rows} quarantined rows"), path.clone());
        }
        if let Some(missing) = source["audit"]["missing"].as_i64().filter(|missing| *missing > 0) {
            add(format!("the audit of source {name} found {missing} missing events"), path);
        }
    }
    for status in ["failing", "disabled", "selection_invalid"] {
        if let Some(count) = webhooks.get(status) {
            let are = if *count == 1 { "webhook is" } else { "webhooks are" };
            add(format!("{count} {are} {}", status.replace('_', " ")), format!("/console/webhooks?status={status}"));
        }
    }
    troubles
}
