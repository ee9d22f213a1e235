//! `GET /feeds/{feed}/stream`: the events as they come, as Server-Sent Events. The `id` of each is its cursor, so a client
//! that lost its connection goes on where it was.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response, Sse};
use futures_util::stream;

use super::Feeds;
use super::continuation::{problem, start};
use super::format::Format;
use super::query::{From, Query};
use crate::event::{Cursor, Entry, EventJson};
use crate::journal::{Columns, Error, Follower};
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};
use crate::web::traffic::{Open, Opened};

/// Events that are read at a time.
const PAGE: usize = 50;
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
    let stopping = feeds.inner.stopping.clone();
    let follower = Follower::new(journal.clone(), selection, Columns::ALL, after, PAGE, stopping);
    let (journal_id, open) = (journal.id().to_owned(), Open::Stream.count());
    let stream = Stream { journal_id, follower, found: VecDeque::new(), _open: open };
    let headers = [(header::CACHE_CONTROL, "no-store"), (BUFFERING, "no")];
    Ok((headers, Sse::new(stream.events())).into_response())
}

/// One client and what is on its way to it.
struct Stream {
    journal_id: String,
    follower: Follower,
    found: VecDeque<Entry>,
    _open: Opened,
}

impl Stream {
    /// Ends when the gateway stops or its journal can't be read; the client comes again.
    fn events(self) -> impl futures_util::Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut stream| async move {
            let event = stream.next().await.ok()??;
            Some((Ok(event), stream))
        })
    }

    /// Reads no further before the client took what was read. A comment tells how far was looked where nothing matched.
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.found.is_empty() {
            let Some(page) = self.follower.next().await? else { return Ok(None) };
            if page.entries.is_empty() {
                let cursor = Cursor::new(&self.journal_id, page.covered).to_string();
                return Ok(Some(Event::default().comment("").id(cursor)));
            }
            self.found.extend(page.entries);
        }
        Ok(self.found.pop_front().and_then(|entry| event(&self.journal_id, &entry)))
    }
}

fn event(journal_id: &str, entry: &Entry) -> Option<Event> {
    let cursor = Cursor::new(journal_id, entry.position).to_string();
    Event::default().id(cursor).json_data(EventJson { journal_id, entry }).ok()
}
