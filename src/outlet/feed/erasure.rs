//! Erasing events: what `postern forget` and `DELETE /events/{id}` ask for, and telling the caches outside of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

use super::Feeds;
use super::detail::visible_event;
use super::format::Format;
use crate::journal::Error;
use crate::runtime::{Backoff, Bell, Tasks};
use crate::web::auth::{Client, Scope};
use crate::web::outgoing::Outgoing;
use crate::web::problem::Problem;

/// How often it is looked for requests of other processes.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// One cache, one page. A cache that does not answer is asked again later.
const PURGE_TIMEOUT: Duration = Duration::from_secs(10);

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
        let wrong = |text: &str| format!("`feeds.purge`: `{text}` is no URL such as http://cache:6081/");
        let mut urls = Vec::new();
        for text in purge {
            let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            urls.push(url.ok_or_else(|| wrong(text))?);
        }
        let hosts: Vec<String> =
            urls.iter().filter_map(Url::host_str).map(|host| host.trim_matches(['[', ']']).to_owned()).collect();
        let public = Url::parse(public_url).map_err(|_| wrong(public_url))?;
        let host = public[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        Ok(Self { urls, outgoing: Outgoing::new(&hosts)?, host })
    }

    /// Whether all of them forgot what stands at this path. A cache that never had it says so with 404.
    async fn purge(&self, path: &str) -> bool {
        let mut all = true;
        for cache in &self.urls {
            let Ok(url) = cache.join(path) else { continue };
            let method = Method::from_bytes(b"PURGE").expect("a method's name");
            let status = match self.outgoing.client(&url) {
                Ok(client) => {
                    let request = client.request(method, url.clone()).header("host", &self.host).timeout(PURGE_TIMEOUT);
                    request.send().await.map(|answer| answer.status()).map_err(|cause| cause.to_string())
                }
                Err(refused) => Err(refused.to_string()),
            };
            match status {
                Ok(status) if status.is_success() || status == StatusCode::NOT_FOUND => {}
                Ok(status) => {
                    warn!(cache.url = %url, %status, "the cache did not purge {url}: {status}, will ask again");
                    all = false;
                }
                Err(cause) => {
                    warn!(cache.url = %url, %cause, "can't reach the cache for {url}, will ask again: {cause}");
                    all = false;
                }
            }
        }
        all
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
    feeds.inner.journal.erase(&entry.event.id).await?;
    info!(event.id = %entry.event.id, client.name = %client.name, "erased event `{}`", entry.event.id);
    Ok(StatusCode::NO_CONTENT)
}

/// Does what is asked for, until the gateway stops.
pub(super) async fn run(feeds: Feeds, tasks: Tasks) {
    let (stopping, mut bell) = (tasks.stopping(), feeds.inner.journal.bell());
    let mut backoff = Backoff::new(LOOK_EVERY, Duration::from_secs(300));
    loop {
        let wait = match work(&feeds).await {
            Ok(true) => {
                backoff.reset();
                LOOK_EVERY
            }
            Ok(false) => backoff.next_wait(),
            Err(cause) => {
                warn!(%cause, "can't erase what is asked for, will try again: {cause}");
                backoff.next_wait()
            }
        };
        if !rest(&mut bell, wait, &stopping).await {
            return;
        }
    }
}

async fn rest(bell: &mut Bell, wait: Duration, stopping: &CancellationToken) -> bool {
    tokio::select! {
        () = stopping.cancelled() => false,
        // The record of an erasure rings it.
        () = bell.rung(wait) => true,
    }
}

/// Whether nothing is left to do.
async fn work(feeds: &Feeds) -> Result<bool, Error> {
    let journal = &feeds.inner.journal;
    let asked = journal.erasures().await?;
    if asked.is_empty() {
        return Ok(true);
    }
    let (mut done, mut paths) = (Vec::new(), BTreeSet::new());
    for (id, position) in journal.positions(&asked).await? {
        journal.erase(&id).await?;
        if !feeds.inner.caches.urls.is_empty() {
            paths.extend(paths_of(feeds, position).await?);
        }
    }
    let mut all = true;
    for path in paths {
        all &= feeds.inner.caches.purge(&path).await;
    }
    if all {
        done.extend(asked);
        journal.erasures_done(done).await?;
    }
    Ok(all)
}

/// Every page that may hold the position, and the start of every other document of its feeds: their addresses hold
/// cursors, so a cache finds them by it if it can.
async fn paths_of(feeds: &Feeds, position: i64) -> Result<Vec<String>, Error> {
    let mut paths = Vec::new();
    for holder in feeds.inner.journal.holders(position).await? {
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
