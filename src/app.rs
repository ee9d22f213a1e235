//! The only file that knows every room: opens, wires, mounts, starts and stops them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::catalogue::Catalogue;
use crate::config::Config;
use crate::event::Micros;
use crate::journal::{self, Journal};
use crate::outlet::feed::{self, Feeds};
use crate::outlet::graphql::{self, GraphQl};
use crate::outlet::webhook::{self, Webhooks};
use crate::runtime::{Backoff, Clock, Tasks};
use crate::source;
use crate::telemetry::Scrape;
use crate::web::auth::{Auth, Client, Scope};
use crate::web::problem::Problem;
use crate::web::{self, Site, html, negotiate, openapi};

/// How long a stop waits for calls in flight and last checkpoints.
const DRAIN: Duration = Duration::from_millis(1_500);
/// How long it waits for the database after that. Nothing is lost by leaving earlier.
const CLOSE: Duration = Duration::from_millis(300);

/// What the command line decides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Serve everybody on a public address.
    pub insecure: bool,
}

/// A gateway that runs.
pub struct Gateway {
    address: SocketAddr,
    site: Site,
    journal: Journal,
    tasks: Tasks,
    _lock: journal::Lock,
}

impl Gateway {
    /// Binds the port, opens the journal (waiting for a database that can't be reached), starts all rooms.
    ///
    /// # Errors
    /// What the operator must mend: a configuration, an address in use, a journal that is served already.
    pub async fn start(config: Config, options: Options) -> anyhow::Result<Self> {
        let configuration = config.fingerprint.clone();
        let auth = Auth::new(&config.auth, &config.clients).map_err(anyhow::Error::msg)?;
        source::check_names(&config.sources).map_err(anyhow::Error::msg)?;
        let catalogue = Arc::new(config.catalogue().map_err(anyhow::Error::msg)?);
        let schema = graphql::Schema::new(&catalogue).map_err(anyhow::Error::msg)?;
        let outgoing = config.webhooks.outgoing().map_err(anyhow::Error::msg)?;
        let listener = bind(config.server.listen, auth.is_open() && !options.insecure).await?;
        let address = listener.local_addr()?;
        let site = Site::new(&config.server, address).map_err(anyhow::Error::msg)?;
        if address.ip().is_unspecified() && config.server.public_url.is_none() {
            warn!("`server.public_url` is not set: links start with {}, which nobody else can follow", site.public_url);
        }
        let (clock, tasks) = (Clock::system(), Tasks::default());
        let journal = open_journal(&config.journal, &clock, &tasks).await?;
        let lock = journal.serve(&configuration, &tasks).await?;

        let feeds = Feeds::new(journal.clone(), &config.all_feeds, config.feeds.clone(), &site, auth.is_open(), &tasks)
            .map_err(anyhow::Error::msg)?;
        let start = |source| source::start(source, journal.clone(), Arc::clone(&catalogue), &tasks);
        let running: Arc<Vec<_>> = Arc::new(config.sources.into_iter().map(start).collect());
        let directory = directory(&catalogue, &feeds, &running, &site.public_url, clock, &tasks);
        let graphql = GraphQl::new(journal.clone(), schema, directory, &config.graphql).map_err(anyhow::Error::msg)?;
        let projector = graphql.projector();
        let surroundings = webhook::Surroundings {
            catalogue: Arc::clone(&catalogue),
            outgoing,
            clock,
            auth: auth.clone(),
            tasks: tasks.clone(),
            project: Box::new(move |selection| projector.projection(selection)),
            topic: topics(&feeds),
        };
        let webhooks = Webhooks::open(&config.webhooks, journal.clone(), &site, surroundings).await?;
        feeds.run(&tasks);
        webhooks.clone().run();
        if let Some(kept) = config.journal.retention {
            let missed = webhooks.clone();
            let missed = move |through| {
                let webhooks = missed.clone();
                async move { webhooks.missed(through).await }
            };
            tasks.spawn("retention", journal.clone().keep(kept, clock, tasks.stopping(), missed));
        }
        let metrics =
            Metrics { journal: journal.clone(), running: Arc::clone(&running), webhooks: webhooks.clone(), clock };
        let guarded = Router::new()
            .route("/metrics", get(metrics_text).with_state(metrics))
            .merge(feeds.router())
            .merge(graphql.router())
            .merge(webhook::router(webhooks.clone()))
            .merge(source::router(journal.clone(), running, catalogue, clock, &site.public_url));
        let router =
            web::front(open_routes(&journal, &site).merge(webhook::open_router(webhooks)), guarded, auth, site.clone());
        let stopping = tasks.stopping();
        tasks.spawn("http", async move {
            let stopped = async move { stopping.cancelled().await };
            // Made once: a bare router is turned into its routes anew for each connection, and all of that kept with it.
            let service = router.into_make_service_with_connect_info::<SocketAddr>();
            if let Err(cause) = axum::serve(listener, service).with_graceful_shutdown(stopped).await {
                warn!(%cause, "the HTTP server ended");
            }
        });
        info!(server.url = %site.public_url, journal.id = journal.id(), "serving {} on {address}", site.public_url);
        Ok(Self { address, site, journal, tasks, _lock: lock })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the outside reaches it.
    pub fn public_url(&self) -> &str {
        &self.site.public_url
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Stops within two seconds: calls in flight end, cursors are written. Returns whether a task had crashed.
    pub async fn stop(self) -> bool {
        self.tasks.drain(DRAIN).await;
        let _ = tokio::time::timeout(CLOSE, self.journal.close()).await;
        self.tasks.crashed()
    }
}

async fn bind(listen: SocketAddr, is_open: bool) -> anyhow::Result<TcpListener> {
    if is_open && !listen.ip().is_loopback() {
        bail!(
            "`server.listen` = {listen} is a public address and no [[client]] is configured: everybody could read \
             everything. Make a token with `postern token NAME`, listen on 127.0.0.1, or pass --insecure"
        );
    }
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("can't listen on {listen}; is another program there? See `server.listen`"))
}

async fn open_journal(config: &journal::Config, clock: &Clock, tasks: &Tasks) -> anyhow::Result<Journal> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        match Journal::open(config, clock, tasks).await {
            Ok(journal) => return Ok(journal),
            Err(cause) if cause.is_transient() && !config.url.starts_with("sqlite:") => {
                let wait = backoff.next_wait();
                let url = journal::redacted(&config.url);
                warn!(journal.url = %url, %cause, "can't reach the journal at {url}, will retry in {}s", wait.as_secs());
                tokio::time::sleep(wait).await;
            }
            Err(cause) => {
                return Err(cause)
                    .with_context(|| format!("can't open the journal {}", journal::redacted(&config.url)));
            }
        }
    }
}

/// The feeds that webhooks may be subscriptions to.
fn topics(feeds: &Feeds) -> webhook::Topics {
    let feeds = feeds.clone();
    Box::new(move |url| {
        let topic = feeds.topic(url)?;
        Some(webhook::Topic {
            filter: topic.filter().clone(),
            content_type: topic.content_type(),
            document: Arc::new(move |entries| topic.document(entries)),
        })
    })
}

/// What GraphQL shows of the other rooms.
fn directory(
    catalogue: &Arc<Catalogue>,
    feeds: &Feeds,
    running: &Arc<Vec<source::Running>>,
    public_url: &str,
    clock: Clock,
    tasks: &Tasks,
) -> graphql::Directory {
    let info = |(feed, url): (&feed::FeedConfig, String)| graphql::FeedInfo {
        name: feed.name.clone(),
        title: feed.title().to_owned(),
        url,
        filter: feed.filter.clone(),
    };
    let running = Arc::clone(running);
    let state = move |running: &source::Running| {
        let state = running.state();
        graphql::SourceInfo {
            healthy: state.healthy,
            lag_seconds: state.lag_seconds(clock.now_micros()),
            kind: state.kind,
            last_event_at: state.last_event_at.map(Micros),
            name: state.name,
        }
    };
    graphql::Directory {
        catalogue: Arc::clone(catalogue),
        feeds: feeds.list().map(info).collect(),
        sources: Box::new(move || running.iter().map(state).collect()),
        public_url: public_url.to_owned(),
        stopping: tasks.stopping(),
    }
}

fn open_routes(journal: &Journal, site: &Site) -> Router {
    let document = openapi::document(&site.public_url);
    let site = site.clone();
    Router::new()
        .route("/", get(move |headers: HeaderMap| async move { index(&site, &headers) }))
        .route("/style.css", get(html::style))
        .route("/healthz", get(|| async { Json(json!({ "status": "alive" })) }))
        .route("/readyz", get(ready))
        .route(
            "/openapi.json",
            get(|| async { ([(header::CONTENT_TYPE, "application/openapi+json;version=3.1")], document) }),
        )
        .with_state(journal.clone())
}

#[derive(Clone)]
struct Metrics {
    journal: Journal,
    running: Arc<Vec<source::Running>>,
    webhooks: Webhooks,
    clock: Clock,
}

/// `GET /metrics`
async fn metrics_text(
    State(metrics): State<Metrics>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<impl IntoResponse, Problem> {
    client.must(&Scope::Admin)?;
    let Metrics { journal, running, webhooks, clock } = metrics;
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
    source::measure(&mut scrape, &journal, &running, clock).await?;
    webhooks.measure(&mut scrape).await?;
    Ok(scrape.into_response())
}

/// `GET /readyz`
async fn ready(State(journal): State<Journal>) -> Result<Response, Problem> {
    let head = journal.head().await?;
    Ok(Json(json!({ "status": "ready", "journal": { "id": journal.id(), "position": head.position } })).into_response())
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
        ("openapi", format!("{url}/openapi.json"), "the description of all of it"),
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
