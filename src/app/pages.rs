//! The pages that belong to no room: the index, health, metrics, the configuration.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Extension, Json, Router};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Base;
use crate::journal::Journal;
use crate::outlet::feed::Feeds;
use crate::outlet::webhook::Webhooks;
use crate::runtime::Clock;
use crate::source;
use crate::telemetry::{self, Scrape};
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};
use crate::web::{Site, docs, html, negotiate, openapi, traffic};

/// What anybody may see.
pub(super) fn open(base: &Base, sources: &Arc<Vec<source::Running>>) -> Router {
    let (document, docs) = (openapi::document(&base.site.public_url), docs::page(&base.site.public_url));
    let site = base.site.clone();
    let (journal, leaving, clock) = (base.journal.clone(), base.leaving.clone(), base.clock);
    let health = Health { journal, leaving, clock, sources: Arc::clone(sources) };
    Router::new()
        .route("/", get(move |headers: HeaderMap| async move { index(&site, &headers) }))
        .route("/style.css", get(html::style))
        .route("/docs", get(|| async { Html(docs) }))
        .route("/healthz", get(|| async { Json(json!({ "status": "alive" })) }))
        .route("/readyz", get(ready))
        .route(
            "/openapi.json",
            get(|| async { ([(header::CONTENT_TYPE, "application/openapi+json;version=3.1")], document) }),
        )
        .with_state(health)
}

/// For known clients only.
pub(super) fn guarded(base: &Arc<Base>) -> Router {
    Router::new().route("/config", put(reload)).with_state(Arc::clone(base))
}

#[derive(Clone)]
struct Health {
    journal: Journal,
    leaving: CancellationToken,
    clock: Clock,
    sources: Arc<Vec<source::Running>>,
}

/// `GET /readyz`. Sources that can't be read are told, and are no reason to send requests elsewhere: what is journaled can
/// be read, and the other gateways read the same sources.
async fn ready(State(health): State<Health>) -> Result<Response, Problem> {
    if health.leaving.is_cancelled() {
        return Err(Problem::new(Kind::Unavailable, "this gateway stops"));
    }
    let head = health.journal.head().await?;
    let id = health.journal.id();
    let states: Vec<_> = health.sources.iter().map(source::Running::state).collect();
    let (now, unhealthy) = (health.clock.now_micros(), states.iter().filter(|state| !state.healthy).count());
    let lag = states.iter().filter_map(|state| state.lag_seconds(now)).reduce(f64::max);
    Ok(Json(json!({
        "status": "ready",
        "journal": { "id": id, "position": head.position },
        "sources": { "count": states.len(), "unhealthy": unhealthy, "lagSeconds": lag },
    }))
    .into_response())
}

/// `PUT /config`: the configuration file is read again, as at SIGHUP. What is wrong with it is told.
async fn reload(
    State(base): State<Arc<Base>>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<(StatusCode, Json<serde_json::Value>), Problem> {
    client.must(&Scope::Admin)?;
    let config = base.read_config().map_err(|cause| Problem::new(Kind::Unprocessable, format!("{cause:#}")))?;
    info!(client.name = %client.name, "asked to read the configuration again");
    base.reload.ring();
    Ok((StatusCode::ACCEPTED, Json(json!({ "configuration": config.fingerprint }))))
}

#[derive(Clone)]
pub(super) struct Metrics {
    pub(super) journal: Journal,
    pub(super) feeds: Feeds,
    pub(super) sources: Arc<Vec<source::Running>>,
    pub(super) webhooks: Webhooks,
    pub(super) clock: Clock,
}

/// `GET /metrics` among the other routes.
pub(super) async fn metrics_for_admins(
    metrics: State<Metrics>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<impl IntoResponse, Problem> {
    client.must(&Scope::Admin)?;
    self::metrics(metrics).await
}

/// `GET /metrics`
pub(super) async fn metrics(State(metrics): State<Metrics>) -> Result<impl IntoResponse, Problem> {
    let Metrics { journal, feeds, sources, webhooks, clock } = metrics;
    let (mut scrape, head) = (Scrape::default(), journal.head().await?);
    scrape.gauges(
        "postern_journal_position",
        "The last position",
        [(vec![("journal", journal.id().to_owned())], head.position as f64)],
    );
    let held = journal.leases_held().into_iter().map(|(work, count)| (vec![("work", work)], count as f64));
    scrape.gauges("postern_leases", "Leases that this gateway holds", held);
    let members = journal.members().len().max(1) as f64;
    scrape.gauges("postern_gateways", "Gateways that serve this journal", [(vec![], members)]);
    telemetry::measure(&mut scrape);
    traffic::measure(&mut scrape);
    feeds.measure(&mut scrape);
    source::measure(&mut scrape, &journal, &sources, clock).await?;
    webhooks.measure(&mut scrape).await?;
    Ok(scrape.into_response())
}

/// `GET /`
fn index(site: &Site, headers: &HeaderMap) -> Response {
    let url = &site.public_url;
    let doors = [
        ("feeds", format!("{url}/feeds"), "event feeds, Atom"),
        ("feed", format!("{url}/feeds/all.atom"), "the feed of all events"),
        ("graphql", format!("{url}/graphql"), "GraphQL: just the attributes you ask for"),
        ("webhooks", format!("{url}/webhooks"), "signed calls to your URL"),
        ("sources", format!("{url}/sources"), "how the sources are doing"),
        ("console", format!("{url}/console"), "for operators: how it is doing, and what to do about it"),
        ("docs", format!("{url}/docs"), "the description of all of it"),
        ("openapi", format!("{url}/openapi.json"), "the same for programs"),
        ("health", format!("{url}/healthz"), "whether the process lives"),
        ("metrics", format!("{url}/metrics"), "numbers for Prometheus"),
        ("readiness", format!("{url}/readyz"), "whether it can answer"),
    ];
    if negotiate::accept(headers, &["application/json", "text/html"]) == Some("text/html") {
        let rows = doors.map(|(_, url, what)| {
            format!("<tr><td><a href=\"{0}\">{0}</a></td><td>{what}</td></tr>", html::escape(&url))
        });
        return html::page("Postern", &format!("<table>{}</table>", rows.concat()));
    }
    let links: serde_json::Map<String, serde_json::Value> =
        doors.into_iter().map(|(name, url, _)| (name.to_owned(), url.into())).collect();
    (
        [(header::VARY, "accept")],
        Json(json!({ "name": "Postern", "version": env!("CARGO_PKG_VERSION"), "links": links })),
    )
        .into_response()
}
