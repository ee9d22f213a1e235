//! The feed: summaries of the journal's entries for those who poll. `DESIGN` of the documents: `atom`; what clients of
//! different visibility see, and where pages end: `view`; single events: `detail`.

pub mod atom;
mod continuation;
mod detail;
mod documents;
mod erasure;
pub mod format;
mod html;
mod json;
mod list;
mod query;
mod reply;
mod rss;
mod stream;
mod topic;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Uri, header};
use axum::response::Response;
use axum::routing::get;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::filter::{Filter, OWN_SOURCE, Selection};
use crate::journal::Journal;
use crate::runtime::{Bell, Tasks, parse_duration};
use crate::telemetry::Scrape;
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};
use crate::web::{Site, negotiate};
use continuation::Latest;
use erasure::Caches;
use format::{Format, Names};
use query::Query;
use view::{PageCache, ViewState, Views};

/// How long a sealed page may be kept: for ever, as HTTP caches count (RFC 9111 knows no longer one).
const MAX_AGE: Duration = Duration::from_secs(365 * 86_400);
/// How often views are sealed although no bell rang: another process may have appended.
const SEAL_INTERVAL: Duration = Duration::from_secs(2);

/// `[feeds]` of the configuration: what holds for all of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Caches that are told when an event was erased: `PURGE` below each of these URLs.
    pub purge: Vec<String>,
}

/// `[[feed]]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedConfig {
    pub name: String,
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub filter: Filter,
    #[serde(default = "default_page_size")]
    pub page_size: usize,
    /// How long others may keep a sealed page: what is erased is gone from their caches after it.
    #[serde(default = "default_max_age", deserialize_with = "max_age")]
    pub max_age: Duration,
}

fn default_max_age() -> Duration {
    MAX_AGE
}

fn max_age<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let usable = |wait: &Duration| (Duration::from_secs(1)..=MAX_AGE).contains(wait);
    parse_duration(&text).filter(usable).ok_or_else(|| {
        D::Error::custom(format!(
            "`max_age` = `{text}` is no duration up to a year; give one such as \"1h\" or \"30d\""
        ))
    })
}

fn default_page_size() -> usize {
    100
}

impl FeedConfig {
    /// The feed that always exists.
    fn all() -> Self {
        let (name, filter, page_size) = ("all".to_owned(), Filter::default(), default_page_size());
        Self { name, title: None, filter, page_size, max_age: MAX_AGE }
    }

    /// Our own operational events, to each client those about what it owns.
    fn own() -> Self {
        let filter = Filter { sources: vec![OWN_SOURCE.to_owned()], ..Filter::default() };
        Self { name: OWN_SOURCE.to_owned(), title: Some("Operational events".to_owned()), filter, ..Self::all() }
    }

    /// What people see.
    pub fn title(&self) -> &str {
        self.title.as_deref().unwrap_or(&self.name)
    }

    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b));
        if name.is_empty() || name.len() > 64 || !plain {
            return Err(format!("`feed.name`: `{name}` must be 1 to 64 of a-z, 0-9, - and _"));
        }
        if !(1..=1000).contains(&self.page_size) {
            return Err(format!("feed `{name}`: `page_size` must be 1 to 1000"));
        }
        self.filter.check().map_err(|cause| format!("feed `{name}`: `filter`: {cause}"))
    }
}

/// Checks what can be checked without a journal.
///
/// # Errors
/// A sentence that names the feed and what is wrong with it.
pub fn check(config: &Config, feeds: &[FeedConfig]) -> Result<(), String> {
    Caches::new(&config.purge, "http://localhost")?;
    for (n, feed) in feeds.iter().enumerate() {
        feed.check()?;
        if feeds[..n].iter().any(|other| other.name == feed.name) {
            return Err(format!("feed `{}` is configured twice", feed.name));
        }
    }
    Ok(())
}

/// Everything that the feed's handlers share.
#[derive(Clone)]
pub struct Feeds {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Journal,
    feeds: Vec<FeedConfig>,
    names: Names,
    /// Answers may be kept by shared caches: nobody needs a token.
    public: bool,
    views: Views,
    pages: PageCache,
    /// Those outside, which are told of erasures.
    caches: Caches,
    /// Of those who waited, one reads at a time; the others find what it read.
    turns: Mutex<()>,
    latest: Latest,
    /// Nobody waits any longer.
    stopping: CancellationToken,
}

impl Feeds {
    /// Checks the configuration. `all` is added if it is not configured.
    ///
    /// # Errors
    /// A sentence that names the feed and what is wrong with it.
    pub fn new(
        journal: Journal,
        config: &Config,
        mut feeds: Vec<FeedConfig>,
        site: &Site,
        public: bool,
        tasks: &Tasks,
    ) -> Result<Self, String> {
        check(config, &feeds)?;
        if !feeds.iter().any(|feed| feed.name == OWN_SOURCE) {
            feeds.push(FeedConfig::own());
        }
        if !feeds.iter().any(|feed| feed.name == "all") {
            feeds.insert(0, FeedConfig::all());
        }
        let year = journal.created_at().to_text()[..4].parse().unwrap_or(1970);
        let caches = Caches::new(&config.purge, &site.public_url)?;
        let (public_url, authority) = (site.public_url.clone(), site.authority.clone());
        let names = Names { public_url, authority, year, journal_id: journal.id().to_owned() };
        let inner = Inner {
            journal,
            feeds,
            names,
            public,
            views: Views::default(),
            pages: PageCache::default(),
            caches,
            turns: Mutex::default(),
            latest: Latest::default(),
            stopping: tasks.stopping(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// All feeds and the URLs of their Atom documents.
    pub fn list(&self) -> impl Iterator<Item = (&FeedConfig, String)> {
        let url = |feed: &FeedConfig| format!("{}/feeds/{}.atom", self.inner.names.public_url, feed.name);
        self.inner.feeds.iter().map(move |feed| (feed, url(feed)))
    }

    /// `/feeds…` and `/events/{id}`.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/feeds", get(list::feeds))
            .route("/feeds/{feed}", get(document))
            .route("/feeds/{feed}/stream", get(stream::events))
            .route("/feeds/{feed}/{epoch}/{page}", get(page))
            .route("/events/{id}", get(detail::event).delete(erasure::delete))
            .with_state(self.clone())
    }

    /// Keeps the page borders of the views that are in use up to date, so that no request has to, and erases what is asked
    /// to be erased.
    pub fn run(&self, tasks: &Tasks) {
        tasks.spawn("erasures", erasure::erase(self.clone(), tasks.stopping()));
        tasks.spawn("erasures' follow-up", erasure::follow_up(self.clone(), tasks.stopping()));
        let (feeds, stopping, mut bell) = (self.clone(), tasks.stopping(), self.inner.journal.bell());
        tasks.spawn("feed sealer", async move {
            while wait(&mut bell, &stopping).await {
                for state in feeds.inner.views.all() {
                    if let Err(cause) = feeds.seal(&state).await {
                        warn!(feed.name = %state.feed.name, %cause, "can't seal pages, will try again at the next bell");
                    }
                }
            }
        });
    }

    /// Adds the page cache to a scrape.
    pub fn measure(&self, scrape: &mut Scrape) {
        self.inner.pages.measure(scrape);
    }

    async fn seal(&self, state: &ViewState) -> Result<(), crate::journal::Error> {
        let head = self.inner.journal.head().await?;
        while !state.seal(&self.inner.journal, &head).await?.1 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn feed(&self, name: &str) -> Result<&FeedConfig, Problem> {
        self.inner
            .feeds
            .iter()
            .find(|feed| feed.name == name)
            .ok_or_else(|| Problem::new(Kind::NotFound, format!("there is no feed `{name}`; GET /feeds lists them")))
    }

    fn view(&self, feed: &FeedConfig, visible: &Selection) -> Arc<ViewState> {
        self.inner.views.get(&self.inner.journal, feed, visible)
    }
}

async fn wait(bell: &mut Bell, stopping: &CancellationToken) -> bool {
    tokio::select! {
        () = stopping.cancelled() => false,
        () = bell.rung(SEAL_INTERVAL) => true,
    }
}

/// The parts of a path behind `/feeds/`, as they are written: documents are kept by caches under their address, so each has
/// one spelling, and no name of ours has a character to be escaped.
fn parts(uri: &Uri) -> impl Iterator<Item = &str> {
    uri.path().split('/').skip(2)
}

/// `GET /feeds/{feed}` and `/feeds/{feed}.atom`, `.rss`, `.json`, `.cloudevents`: the head, or a continuation.
async fn document(
    State(feeds): State<Feeds>,
    Extension(client): Extension<Arc<Client>>,
    request: Request,
) -> Result<Response, Problem> {
    client.must(&Scope::Read)?;
    let (uri, headers) = (request.uri(), request.headers());
    let name = parts(uri).next().unwrap_or_default();
    let (feed, named) = Format::split(name).map_or((name, None), |(feed, format)| (feed, Some(format)));
    let feed = feeds.feed(feed)?;
    let format = named.or_else(|| negotiated(headers));
    let format = format.ok_or_else(|| {
        let known: Vec<&str> = Format::ALL.iter().map(|format| format.media_type()).collect();
        Problem::new(Kind::NotAcceptable, format!("this feed is served as {}", known.join(", ")))
    })?;
    let text = uri.query().unwrap_or_default();
    let query = Query::parse(text, headers, format)?;
    let known = documents::known_head(&feeds, feed, &client, headers, &query);
    // What is not at hand takes long anyway, and a large future.
    let mut response = match (known, &query.from) {
        (Some(known), _) => known,
        (None, None) => Box::pin(documents::head(&feeds, feed, &client, headers, &query)).await?,
        (None, Some(from)) => Box::pin(continuation::document(&feeds, feed, &client, headers, (&query, from))).await?,
    };
    if named.is_none() {
        let mark = if text.is_empty() { "" } else { "?" };
        let location = format!("{}{mark}{text}", documents::feed_url(&feeds, feed, format));
        response.headers_mut().append(header::VARY, header::HeaderValue::from_static("accept"));
        if let Ok(value) = location.parse() {
            response.headers_mut().insert(header::CONTENT_LOCATION, value);
        }
    }
    Ok(response)
}

/// The format that the client likes best.
fn negotiated(headers: &HeaderMap) -> Option<Format> {
    let types = Format::OFFERED.map(|(media_type, _)| media_type);
    let liked = negotiate::accept(headers, &types)?;
    Format::OFFERED.iter().find(|(media_type, _)| *media_type == liked).map(|(_, format)| *format)
}

/// `GET /feeds/{feed}/{epoch}/{n}.atom`
async fn page(
    State(feeds): State<Feeds>,
    Extension(client): Extension<Arc<Client>>,
    request: Request,
) -> Result<Response, Problem> {
    client.must(&Scope::Read)?;
    let (uri, mut parts) = (request.uri(), parts(request.uri()));
    let [feed, epoch, page] = [(); 3].map(|()| parts.next().unwrap_or_default());
    if uri.query().is_some_and(|query| !query.is_empty()) {
        return Err(Problem::new(Kind::BadRequest, "a page takes no parameters: it always holds the same entries"));
    }
    let feed = feeds.feed(feed)?;
    let unknown = || Problem::new(Kind::NotFound, format!("`{page}` is no page; pages are 1.atom, 2.atom and so on"));
    let (n, format) = Format::split(page).ok_or_else(unknown)?;
    let n = n.parse::<i64>().ok().filter(|number| *number >= 1 && number.to_string() == n).ok_or_else(unknown)?;
    if format == Format::CloudEvents {
        let detail = "batches of CloudEvents have no numbered pages: they end where their data gets large; use ?after=";
        return Err(Problem::new(Kind::NotFound, detail));
    }
    let (place, headers) = ((epoch, n, format), request.headers());
    match documents::known_page(&feeds, feed, &client, headers, place) {
        Some(known) => Ok(known),
        None => Box::pin(documents::page(&feeds, feed, &client, headers, place)).await,
    }
}
