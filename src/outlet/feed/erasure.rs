//! Erasing events: what `postern forget` and `DELETE /events/{id}` ask for, and telling the caches outside of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::detail::visible_event;
use super::format::Format;
use super::{Feeds, Inner};
use crate::event::escape;
use crate::journal::Error;
use crate::runtime::Backoff;
use crate::web::auth::{Client, Scope};
use crate::web::outgoing::Outgoing;
use crate::web::problem::{Kind, Problem};

/// How often it is looked for requests of other processes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_AT_MOST: Duration = Duration::from_secs(300);
/// One cache, one page. A cache that does not answer is asked again later.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);
/// A page that was made before an erasure may still be on its way to a cache for so long: then it is purged once more.
const STRAGGLE: Duration = Duration::from_secs(80);

/// The caches in front of the feeds.
#[derive(Clone)]
pub(super) struct Caches {
    urls: Vec<Url>,
    outgoing: Outgoing,
    /// What they know the gateway as.
    host: String,
}

impl Caches {
    /// They are the operator's own: the guard lets them pass.
    ///
    /// # Errors
    /// A sentence that names what is no URL.
    pub(super) fn new(purge: &[String], public_url: &str) -> Result<Self, String> {
        let wrong =
            |text: &str| format!("`feeds.purge`: `{text}` is no URL such as http://cache:6081/ (without a user)");
        let mut urls = Vec::new();
        for text in purge {
            let is_plain = |url: &Url| url.has_host() && url.username().is_empty() && url.password().is_none();
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && is_plain(url));
            urls.push(url.ok_or_else(|| wrong(text))?);
        }
        let hosts: Vec<String> =
            urls.iter().filter_map(Url::host_str).map(|host| host.trim_matches(['[', ']']).to_owned()).collect();
        let public = Url::parse(public_url).map_err(|_| wrong(public_url))?;
        let host = public[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        Ok(Self { urls, outgoing: Outgoing::new(&hosts)?, host })
    }

    /// Whether all of them forgot what stands at these paths. One that fails is not asked for the rest.
    async fn purge(&self, paths: &BTreeSet<String>) -> bool {
        let mut all = true;
        for cache in &self.urls {
            for path in paths {
                let url = format!("{}{path}", cache.as_str().trim_end_matches('/'));
                if let Err(cause) = self.purge_one(&url).await {
                    warn!(cache.url = %url, %cause, "the cache did not purge {url}, will ask again: {cause}");
                    all = false;
                    break;
                }
            }
        }
        all
    }

    /// A cache that never had it says so with 404.
    async fn purge_one(&self, url: &str) -> Result<(), String> {
        let url = Url::parse(url).map_err(|cause| cause.to_string())?;
        let method = Method::from_bytes(b"PURGE").expect("a method's name");
        let client = self.outgoing.client(&url).map_err(|refused| refused.to_string())?;
        let request = client.request(method, url).header(header::HOST, &self.host).timeout(PURGE_TIMEOUT);
        match request.send().await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() || status == StatusCode::NOT_FOUND => Ok(()),
            Ok(status) => Err(status.to_string()),
            Err(cause) => Err(cause.to_string()),
        }
    }
}

/// `DELETE /events/{id}`
pub(super) async fn delete(
    State(feeds): State<Feeds>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    client.must(&Scope::Admin)?;
    let entry = visible_event(&feeds, &client, &id).await?;
    if entry.erases.is_some() {
        return Err(Problem::new(
            Kind::Unprocessable,
            "this is the record of an erasure, which holds nothing to erase",
        ));
    }
    feeds.inner.journal.erase(&entry.event.id).await?;
    info!(event.id = %entry.event.id, client.name = %client.name, "erased event `{}`", entry.event.id);
    Ok(StatusCode::NO_CONTENT)
}

/// Erases what is asked for, until the gateway stops.
pub(super) async fn erase(feeds: Feeds, stopping: CancellationToken) {
    let (journal, mut bell) = (feeds.inner.journal.clone(), feeds.inner.journal.bell());
    loop {
        let erased = async {
            for id in journal.erasures(false).await? {
                journal.erase(&id).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(cause) = erased.await {
            warn!(%cause, "can't erase what is asked for, will try again: {cause}");
        }
        tokio::select! {
            () = stopping.cancelled() => return,
            () = bell.rung(LOOK_EVERY) => {}
        }
    }
}

/// Overwrites what was erased, and tells the caches, until the gateway stops.
pub(super) async fn follow_up(feeds: Feeds, stopping: CancellationToken) {
    let mut bell = feeds.inner.journal.bell();
    let mut backoff = Backoff::new(LOOK_EVERY, LOOK_AT_MOST);
    let mut told = HashMap::new();
    loop {
        let is_done = follow_up_once(&feeds, &mut told).await.unwrap_or_else(|cause| {
            warn!(%cause, "can't see to what was erased, will try again: {cause}");
            false
        });
        let wait = if is_done { LOOK_EVERY } else { backoff.next_wait() };
        let next = async {
            match is_done {
                // The record of an erasure rings it.
                true => bell.rung(wait).await,
                // Not at every append: it would fail again.
                false => tokio::time::sleep(wait).await,
            }
        };
        tokio::select! {
            () = stopping.cancelled() => return,
            () = next => {}
        }
        if is_done {
            backoff.reset();
        }
    }
}

/// Whether all went well. `told` holds when the caches were told first.
async fn follow_up_once(feeds: &Feeds, told: &mut HashMap<String, Instant>) -> Result<bool, Error> {
    let Inner { journal, caches, .. } = &*feeds.inner;
    let erased = journal.erasures(true).await?;
    told.retain(|id, _| erased.contains(id));
    let is_due = |id: &&String| told.get(*id).is_none_or(|at| at.elapsed() >= STRAGGLE);
    let due: Vec<String> = erased.iter().filter(is_due).cloned().collect();
    if due.is_empty() {
        return Ok(true);
    }
    if !journal.shred().await? {
        return Ok(false);
    }
    let mut paths = BTreeSet::new();
    if !caches.urls.is_empty() {
        for (id, position) in journal.positions(&due).await? {
            paths.extend(paths_of(feeds, &id, position).await?);
        }
        if !caches.purge(&paths).await {
            return Ok(false);
        }
    }
    let (again, done): (Vec<String>, Vec<String>) =
        due.into_iter().partition(|id| !caches.urls.is_empty() && !told.contains_key(id));
    told.extend(again.into_iter().map(|id| (id, Instant::now())));
    journal.erasures_done(done).await?;
    Ok(true)
}

/// Where the event itself and every page that may hold it are, and the start of every other document of its feeds: their
/// addresses hold cursors, so a cache finds them by it if it can.
async fn paths_of(feeds: &Feeds, id: &str, position: i64) -> Result<Vec<String>, Error> {
    let mut paths = vec![format!("/events/{}", escape(id))];
    for holder in feeds.inner.journal.holders(position).await? {
        paths.push(format!("/feeds/{}", holder.feed));
        for format in Format::ALL {
            let extension = format.extension();
            paths.push(format!("/feeds/{}.{extension}", holder.feed));
            if let Some(n) = holder.n {
                paths.push(format!("/feeds/{}/{}/{n}.{extension}", holder.feed, holder.epoch));
            }
        }
    }
    Ok(paths)
}
