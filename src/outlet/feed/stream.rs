//! `GET /feeds/{feed}/stream`: the events as they come, as Server-Sent Events. The `id` of each is its cursor, so a client
//! that lost its connection goes on where it was.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream::{self, Stream};
use tokio::time::Instant;

use super::Feeds;
use super::continuation::{WAIT_LOOK, problem, start};
use super::documents::LOOKED_AT_MAX;
use super::format::Format;
use super::query::{From, Query};
use crate::event::{Cursor, Entry, EventJson};
use crate::filter::Selection;
use crate::journal::{Error, Payload, Range};
use crate::runtime::Bell;
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};

/// Events that are read at a time.
const PAGE: usize = 50;
/// How often something is sent although nothing happens: proxies cut what is silent. It tells how far was looked, so that a
/// filtered client does not begin again far behind.
const BEAT: Duration = Duration::from_secs(15);
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn events(
    State(feeds): State<Feeds>,
    Extension(client): Extension<Arc<Client>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    client.must(&Scope::Read)?;
    let feed = feeds.feed(&name)?;
    let mut query = Query::parse(query.as_deref().unwrap_or_default(), &HeaderMap::new(), Format::Atom)?;
    if query.limit.is_some() || query.wait.is_some() {
        let detail = "a stream has no end: it takes after, since, recorded-since, type and aggregate";
        return Err(Problem::new(Kind::BadRequest, detail));
    }
    if let Some(last) = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|id| !id.is_empty()) {
        query.from = Some(From::After(last.to_owned()));
    }
    let journal = &feeds.inner.journal;
    let (url, filter) = (&feeds.inner.names.public_url, query.filter_parameters());
    let at = |oldest: &str| format!("{url}/feeds/{}/stream?after={oldest}{filter}", feed.name);
    let after = match &query.from {
        Some(from) => start(&feeds, &client, from).await.map_err(|cause| problem(cause, at))?,
        None => journal.head().await?.position,
    };
    let selection = feeds.view(feed, &client.visible).selection.and(&query.filter);
    let bell = journal.bell();
    let follower =
        Follower { feeds: feeds.clone(), selection, bell, after, found: VecDeque::new(), beat_at: Instant::now() };
    let headers = [(header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    Ok((headers, Sse::new(follower.stream())).into_response())
}

/// One client and what is on its way to it.
struct Follower {
    feeds: Feeds,
    selection: Selection,
    bell: Bell,
    /// Everything up to here was looked at.
    after: i64,
    found: VecDeque<Entry>,
    beat_at: Instant,
}

impl Follower {
    /// Ends when the gateway stops or its journal can't be read; the client comes again.
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut follower| async move {
            let event = follower.next().await.ok()??;
            Some((Ok(event), follower))
        })
    }

    /// Reads no further before the client took what was read.
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        let inner = Arc::clone(&self.feeds.inner);
        loop {
            if let Some(entry) = self.found.pop_front() {
                self.beat_at = Instant::now() + BEAT;
                return Ok(event(inner.journal.id(), &entry));
            }
            let range = Range { through: Some(self.after + LOOKED_AT_MAX), ..Range::after(self.after) };
            let page = inner.journal.read(&self.selection, range, PAGE, Payload::With).await?;
            // What was purged under way is told to whoever comes again.
            inner.journal.check_kept(self.after)?;
            self.after = page.covered;
            self.found.extend(page.entries);
            if !self.found.is_empty() || page.covered < page.head.position {
                continue;
            }
            if Instant::now() >= self.beat_at {
                self.beat_at = Instant::now() + BEAT;
                let cursor = Cursor::new(inner.journal.id(), self.after).to_string();
                return Ok(Some(Event::default().comment("").id(cursor)));
            }
            tokio::select! {
                () = self.bell.rung(WAIT_LOOK) => {}
                () = inner.stopping.cancelled() => return Ok(None),
            }
        }
    }
}

fn event(journal_id: &str, entry: &Entry) -> Option<Event> {
    let cursor = Cursor::new(journal_id, entry.position).to_string();
    Event::default().id(cursor).json_data(EventJson { journal_id, entry }).ok()
}
