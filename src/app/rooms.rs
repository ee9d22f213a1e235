//! All rooms of one configuration, wired: made ready, opened, and closed for those of the next one.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;

use super::Base;
use super::pages::{self, Metrics};
use crate::catalogue::Catalogue;
use crate::config::Config;
use crate::console;
use crate::event::Micros;
use crate::outlet::feed::{self, Feeds};
use crate::outlet::graphql::{self, GraphQl};
use crate::outlet::webhook::{self, Webhooks};
use crate::runtime::{Clock, Tasks};
use crate::source;
use crate::web;
use crate::web::auth::Auth;

/// Ready to be opened.
pub(super) struct Rooms {
    pub(super) fingerprint: String,
    /// What `server.metrics_listen` shows.
    metrics: Router,
    router: Router,
    tasks: Tasks,
    feeds: Feeds,
    webhooks: Webhooks,
    sources: Arc<Vec<source::Running>>,
    catalogue: Arc<Catalogue>,
    retention: Option<Duration>,
}

/// Checks a configuration as far as it can be without the journal.
///
/// # Errors
/// A sentence that names the key and what is wrong.
pub(super) fn check(config: &Config) -> Result<(), String> {
    Auth::new(&config.auth, &config.clients)?;
    source::check_names(&config.sources)?;
    graphql::Schema::new(&Arc::new(config.catalogue()?))?;
    config.webhooks.outgoing()?;
    Ok(())
}

impl Rooms {
    /// Wires the rooms. Nothing is read, sent or answered yet.
    ///
    /// # Errors
    /// What the operator must mend.
    pub(super) async fn prepare(config: Config, base: &Arc<Base>) -> anyhow::Result<Self> {
        let Base { journal, site, clock, .. } = base.as_ref();
        let (tasks, clock) = (base.tasks.child(), *clock);
        let auth = base.auth.clone();
        let catalogue = Arc::new(config.catalogue().map_err(anyhow::Error::msg)?);
        let schema = graphql::Schema::new(&catalogue).map_err(anyhow::Error::msg)?;
        let feeds = Feeds::new(journal.clone(), &config.all_feeds, config.feeds.clone(), site, auth.is_open(), &tasks)
            .map_err(anyhow::Error::msg)?;
        let running = |source| source::Running::new(source, journal.clone());
        let sources: Arc<Vec<_>> = Arc::new(config.sources.into_iter().map(running).collect());
        let directory = directory(&catalogue, &feeds, &sources, &site.public_url, clock, &tasks);
        let graphql = GraphQl::new(journal.clone(), schema, directory, &config.graphql).map_err(anyhow::Error::msg)?;
        let projector = graphql.projector();
        let surroundings = webhook::Surroundings {
            catalogue: Arc::clone(&catalogue),
            outgoing: config.webhooks.outgoing().map_err(anyhow::Error::msg)?,
            clock,
            auth: auth.clone(),
            tasks: tasks.clone(),
            project: Box::new(move |selection| projector.projection(selection)),
            topic: topics(&feeds),
        };
        let webhooks = Webhooks::open(&config.webhooks, journal.clone(), site, surroundings).await?;
        let metrics = Metrics {
            journal: journal.clone(),
            feeds: feeds.clone(),
            sources: Arc::clone(&sources),
            webhooks: webhooks.clone(),
            clock,
        };
        let open = pages::open(base, &sources).merge(webhook::open_router(webhooks.clone()));
        let guarded = Router::new()
            .route("/metrics", get(pages::metrics_for_admins).with_state(metrics.clone()))
            .merge(pages::guarded(base))
            .merge(feeds.router())
            .merge(graphql.router())
            .merge(webhook::router(webhooks.clone()))
            .merge(source::router(
                journal.clone(),
                Arc::clone(&sources),
                Arc::clone(&catalogue),
                clock,
                &site.public_url,
            ));
        let console = console::router(guarded.clone(), journal.clone(), auth.clone(), site, clock, tasks.stopping());
        let guarded = guarded.merge(console);
        Ok(Self {
            fingerprint: config.fingerprint,
            metrics: Router::new().route("/metrics", get(pages::metrics).with_state(metrics)),
            router: web::front(open, guarded, auth, site.clone()),
            tasks,
            feeds,
            webhooks,
            sources,
            catalogue,
            retention: config.journal.retention,
        })
    }

    /// Starts reading and sending, and lets requests in.
    pub(super) fn open(&self, base: &Base) {
        let tasks = &self.tasks;
        for source in self.sources.iter() {
            source::start(source, Arc::clone(&self.catalogue), tasks);
        }
        self.feeds.run(tasks);
        self.webhooks.clone().run();
        if let Some(kept) = self.retention {
            let missed = self.webhooks.clone();
            let missed = move |through| {
                let webhooks = missed.clone();
                async move { webhooks.missed(through).await }
            };
            tasks.spawn("retention", base.journal.clone().keep(kept, base.clock, tasks.stopping(), missed));
        }
        base.doors.change(self.router.clone());
        base.metrics.change(self.metrics.clone());
    }

    /// Ends what they do. Requests are still answered.
    pub(super) async fn close(self, patience: Duration) {
        self.tasks.drain(patience).await;
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
