//! Continuations: what comes after an event or a time, and waiting for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::documents::{after_url, borders, erased, etag, feed_url, head_url, last_modified, mark, page_url, render};
use super::query::{From, Query};
use super::reply::{About, Reply};
use super::view::ViewState;
use super::{FeedConfig, Feeds};
use crate::journal::{Border, Error, Head, LOOK_EVERY, LOOKED_AT_MAX, Order, Range};
use crate::web::auth::Client;
use crate::web::problem::Problem;
use crate::web::traffic::Open;

/// Continuations that are remembered for others who waited for the same.
const REMEMBERED: usize = 16;
const REMEMBERED_BYTES_MAX: usize = 16 * 1024 * 1024;
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The entries after an event or a time, oldest first, up to the next page border; where there are none, those that come
/// while the client is willing to wait.
pub(super) async fn document(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    (query, from): (&Query, &From),
) -> Result<Response, Problem> {
    let (started, mut bell) = (Instant::now(), feeds.inner.journal.bell());
    let at = |oldest: &str| format!("{}?after={oldest}{}", feed_url(feeds, feed, query.format), query.parameters());
    let after = start(feeds, client, from).await.map_err(|cause| problem(cause, at))?;
    let (mut examined, mut has_waited) = (after, false);
    loop {
        let (state, head, (last, is_complete)) = borders(feeds, feed, client).await?;
        let is_fixed = !matches!(from, From::Oldest);
        let asked = Asked { feeds, state: &state, query, after, examined, is_complete, is_fixed };
        let found = match has_waited {
            // Whoever waited for the same gets the same: it is read once.
            true => {
                let _turn = feeds.inner.turns.lock().await;
                asked.remembered(&head, last).await?
            }
            false => asked.read(&head, last).await?,
        };
        feeds.inner.journal.check_kept(examined).map_err(|cause| problem(cause, at))?;
        let left = query.wait.map_or(Duration::ZERO, |wait| wait.saturating_sub(started.elapsed()));
        if !found.is_empty || left.is_zero() || feeds.inner.stopping.is_cancelled() {
            let mut response = found.reply.to_response(headers);
            if found.is_empty && query.wait.is_some() {
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            }
            if let (true, false, Some(wait)) = (query.is_wait_preferred, found.is_immutable, query.wait) {
                response.headers_mut().append(header::VARY, HeaderValue::from_static("prefer"));
                let applied = HeaderValue::try_from(format!("wait={}", wait.as_secs())).expect("a number is text");
                response.headers_mut().insert(PREFERENCE_APPLIED, applied);
            }
            return Ok(response);
        }
        examined = found.covered;
        has_waited = examined >= head.position;
        if !has_waited {
            // What was looked at so far has nothing, and there is more.
            continue;
        }
        drop(found);
        let _open = Open::LongPoll.count();
        tokio::select! {
            () = bell.rung(left.min(LOOK_EVERY)) => {}
            () = feeds.inner.stopping.cancelled() => {}
        }
    }
}

/// The position after which somebody wants to read.
pub(super) async fn start(feeds: &Feeds, client: &Client, from: &From) -> Result<i64, Error> {
    let journal = &feeds.inner.journal;
    Ok(match from {
        From::Oldest => journal.head().await?.oldest - 1,
        From::After(text) => journal.locate(&client.visible, text).await?,
        From::Since(time) => journal.before_time(*time).await?,
        From::RecordedSince(time) => journal.before_recorded(*time).await?,
    })
}

/// What is told of an error. Whoever stands before what is kept is led on: to where `at` says that a cursor goes on.
pub(super) fn problem(cause: Error, at: impl FnOnce(&str) -> String) -> Problem {
    let next = if let Error::Expired { oldest, .. } = &cause { Some(at(oldest)) } else { None };
    let problem = Problem::from(cause);
    match next {
        Some(next) => problem.with_header(header::LINK, &format!("<{next}>; rel=\"next\"")),
        None => problem,
    }
}

/// A continuation that is asked for.
struct Asked<'a> {
    feeds: &'a Feeds,
    state: &'a ViewState,
    query: &'a Query,
    /// Where it starts.
    after: i64,
    /// Up to here nothing was found before.
    examined: i64,
    /// All page borders are known.
    is_complete: bool,
    /// The same address always starts there.
    is_fixed: bool,
}

/// The continuations that were read last for those who waited.
pub(super) type Latest = Mutex<VecDeque<(String, Continuation)>>;

/// What is there for it.
#[derive(Clone)]
pub(super) struct Continuation {
    reply: Arc<Reply>,
    is_empty: bool,
    is_immutable: bool,
    covered: i64,
}

impl Asked<'_> {
    async fn remembered(&self, head: &Head, last: Option<Border>) -> Result<Continuation, Problem> {
        let Self { feeds, state, query, after, examined, .. } = self;
        let (epoch, extension) = (&state.view.epoch, query.format.extension());
        let key = format!("{epoch}.{extension}?{after}-{examined}{}@{}", query.parameters(), head.position);
        let mut latest = feeds.inner.latest.lock().await;
        if let Some(found) = latest.iter().find(|(known, _)| *known == key) {
            return Ok(found.1.clone());
        }
        let found = self.read(head, last).await?;
        latest.push_back((key, found.clone()));
        let bytes = |latest: &VecDeque<(String, Continuation)>| {
            latest.iter().map(|(_, it)| it.reply.bytes_max()).sum::<usize>()
        };
        while latest.len() > REMEMBERED || (latest.len() > 1 && bytes(&latest) > REMEMBERED_BYTES_MAX) {
            latest.pop_front();
        }
        Ok(found)
    }

    async fn read(&self, head: &Head, last: Option<Border>) -> Result<Continuation, Problem> {
        let Self { feeds, state, query, after, examined, is_complete, is_fixed } = self;
        let (journal, feed) = (&feeds.inner.journal, &state.feed);
        let limit = query.limit.unwrap_or(feed.page_size);
        let sealed = last.map_or(0, |border| border.last);
        let border = match *examined < sealed && !query.is_filtered() {
            true => journal.page_after(&state.view.epoch, *examined).await?,
            false => None,
        };
        // Those that ask for few of many are led on from time to time.
        let looked_at = examined + LOOKED_AT_MAX;
        let border = border.filter(|border| border.last <= looked_at);
        let through = border.map_or(head.position, |border| border.last).min(looked_at);
        let range = Range { after: *examined, through: Some(through), order: Order::Ascending };
        let selection = state.selection.and(&query.filter);
        let read = journal.read_under(*head, &selection, range, limit, query.columns()).await?;
        // The shared page is linked once it has entries: before that, this answer may still change.
        let shared = match border.filter(|_| query.has_pages()) {
            Some(border)
                if !read.more && (border.last < sealed || has_entries(feeds, state, border.last, head).await?) =>
            {
                Some(page_url(feeds, state, border.n + 1, query.format))
            }
            _ => None,
        };
        // Where borders are still being found, the same address will end earlier.
        let is_cut = *is_complete || border.is_some() || query.is_filtered();
        let is_full = read.more || read.covered == looked_at;
        let ends_at_border = shared.is_some() || (border.is_some() && !query.has_pages());
        let immutable = *is_fixed && ((is_full && is_cut) || ends_at_border);
        let next = shared.unwrap_or_else(|| after_url(feeds, feed, read.covered, query));
        let own = after_url(feeds, feed, *after, query);
        let links = [("self", own), ("current", head_url(feeds, feed, query)), ("next", next)];
        let newest = read.entries.last();
        let open = if immutable { "" } else { "o" };
        let place = format!("{after}-{}-{limit}{open}{}{}", read.covered, mark(query), erased(&read.entries));
        let about = About {
            format: query.format,
            // Its link changes once the next page has entries.
            etag: etag(feeds, state, &place, query.format),
            immutable: immutable.then_some(feed.max_age),
            public: feeds.inner.public,
            last_modified: last_modified(feeds, &read.entries),
            position: read.covered,
            head: (!immutable).then_some(head.position),
            links: &links,
        };
        let body = render(feeds, feed, newest, &links, (false, query), &read.entries);
        let reply = Arc::new(Reply::new(about, body));
        let is_empty = read.entries.is_empty();
        Ok(Continuation { reply, is_empty, is_immutable: immutable, covered: read.covered })
    }
}

async fn has_entries(feeds: &Feeds, state: &ViewState, after: i64, head: &Head) -> Result<bool, Problem> {
    let range = Range { after, through: Some(head.position), order: Order::Ascending };
    Ok(feeds.inner.journal.count(&state.selection, range, 1).await? > 0)
}
