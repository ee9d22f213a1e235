//! The documents of a feed: its head, its numbered pages, and continuations after an event or a time.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use axum::response::Response;

use super::atom::{self, Document};
use super::reply::{About, Reply};
use super::view::ViewState;
use super::{FeedConfig, Feeds};
use crate::event::{Cursor, Entry, Micros};
use crate::journal::{Border, Head, Order, Payload, Range};
use crate::runtime::{hex, sha256};
use crate::web::auth::Client;
use crate::web::problem::{Kind, Problem};

/// The head holds at least so many entries, so that naive readers that come rarely see them all.
const HEAD_ENTRIES_MIN: usize = 50;
const LIMIT_MAX: usize = 1000;

/// Where a continuation starts.
pub(super) struct Start {
    from: From,
    limit: Option<usize>,
}

enum From {
    After(String),
    Since(Micros),
    RecordedSince(Micros),
}

impl Start {
    /// Reads the query of a feed; `None` means the head.
    pub(super) fn parse(query: &str) -> Result<Option<Self>, Problem> {
        let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
        let (mut from, mut limit) = (None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let start = match name.as_ref() {
                "after" => From::After(value.into_owned()),
                "since" => From::Since(time(&name, &value)?),
                "recorded-since" => From::RecordedSince(time(&name, &value)?),
                "limit" => {
                    let number = value.parse::<usize>().ok().filter(|n| *n >= 1);
                    limit = Some(
                        number.ok_or_else(|| bad("`limit` is a whole number from 1 on, such as limit=100".into()))?,
                    );
                    continue;
                }
                _ => {
                    return Err(bad(format!(
                        "unknown parameter `{name}`; a feed takes after, since, recorded-since and limit, \
                         such as ?after=0&limit=100"
                    )));
                }
            };
            if from.replace(start).is_some() {
                return Err(bad("give one of `after`, `since` and `recorded-since`, once".into()));
            }
        }
        match (from, limit) {
            (None, Some(_)) => Err(bad("`limit` goes with `after` or `since`, such as ?after=0&limit=100".into())),
            (None, None) => Ok(None),
            (Some(from), limit) => Ok(Some(Self { from, limit })),
        }
    }
}

fn time(name: &str, value: &str) -> Result<Micros, Problem> {
    Micros::parse_rfc3339(value).ok_or_else(|| {
        // A plus sign that was not encoded arrives as a space.
        let hint = if value.contains(' ') { "; write + as %2B, or use Z" } else { "" };
        Problem::new(Kind::BadRequest, format!("`{name}` is a time such as {name}=2026-01-31T12:00:00Z{hint}"))
    })
}

/// The newest entries, newest first: all after the last sealed page, and at least 50.
pub(super) async fn head(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let (state, head, border) = up_to_date(feeds, feed, client).await?;
    let range = Range { after: 0, through: Some(head.position), order: Order::Descending };
    let limit = HEAD_ENTRIES_MIN.max(feed.page_size);
    let mut read = feeds.inner.journal.read(&state.selection, range, limit, Payload::Without).await?;
    let sealed = border.map_or(0, |border| border.last);
    let unsealed = read.entries.partition_point(|entry| entry.position > sealed);
    read.entries.truncate(unsealed.max(HEAD_ENTRIES_MIN));
    let mut links = vec![("self", head_url(feeds, feed)), ("current", head_url(feeds, feed))];
    if let Some(border) = border {
        links.push(("prev-archive", page_url(feeds, &state, border.n)));
    }
    let newest = read.entries.first();
    let about = About {
        etag: etag(feeds, &state, &format!("{}", newest.map_or(0, |entry| entry.position))),
        immutable: false,
        public: feeds.inner.public,
        last_modified: last_modified(feeds, newest),
        position: head.position,
        head: Some(head.position),
        links: &links,
    };
    let body = render(feeds, feed, newest, &links, false, &read.entries);
    Ok(Reply::new(about, body).to_response(headers))
}

/// Page `n` of an epoch: a sealed one never changes; the one after the last sealed is open.
pub(super) async fn page(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    epoch: &str,
    n: i64,
) -> Result<Response, Problem> {
    let state = feeds.view(feed, &client.visible);
    if state.view.epoch != epoch {
        return Err(other_epoch(feeds, feed, epoch, n).await?);
    }
    if let Some(page) = feeds.inner.pages.get(epoch, n) {
        return Ok(page.to_response(headers));
    }
    let (state, head, last) = up_to_date(feeds, feed, client).await?;
    let open = last.map_or(1, |border| border.n + 1);
    if n == open {
        return open_page(feeds, &state, headers, &head, last).await;
    }
    let border = if n < 1 || n > open { None } else { feeds.inner.journal.page_border(epoch, n).await? };
    let Some(border) = border else {
        return Err(Problem::new(Kind::NotFound, format!("feed `{}` has pages 1 to {open} at the moment", feed.name)));
    };
    let range = Range { after: border.after, through: Some(border.last), order: Order::Ascending };
    let read = feeds.inner.journal.read(&state.selection, range, feed.page_size, Payload::Without).await?;
    let links = sealed_links(feeds, &state, n);
    let about = About {
        etag: etag(feeds, &state, &format!("p{n}-{}", border.last)),
        immutable: true,
        public: feeds.inner.public,
        last_modified: last_modified(feeds, read.entries.last()),
        position: border.last,
        head: None,
        links: &links,
    };
    let body = render(feeds, feed, read.entries.last(), &links, true, &read.entries);
    let page = Arc::new(Reply::new(about, body));
    feeds.inner.pages.put(epoch, n, Arc::clone(&page));
    Ok(page.to_response(headers))
}

async fn open_page(
    feeds: &Feeds,
    state: &ViewState,
    headers: &HeaderMap,
    head: &Head,
    last: Option<Border>,
) -> Result<Response, Problem> {
    let (n, after) = last.map_or((1, 0), |border| (border.n + 1, border.last));
    let range = Range { after, through: Some(head.position), order: Order::Ascending };
    let read = feeds.inner.journal.read(&state.selection, range, state.feed.page_size, Payload::Without).await?;
    let mut links = vec![("self", page_url(feeds, state, n)), ("current", head_url(feeds, &state.feed))];
    if n > 1 {
        links.push(("prev-archive", page_url(feeds, state, n - 1)));
    }
    links.push(("next", after_url(feeds, &state.feed, read.covered, None)));
    let newest = read.entries.last();
    let about = About {
        etag: etag(feeds, state, &format!("p{n}-{}", newest.map_or(after, |entry| entry.position))),
        immutable: false,
        public: feeds.inner.public,
        last_modified: last_modified(feeds, newest),
        position: read.covered,
        head: Some(head.position),
        links: &links,
    };
    let body = render(feeds, &state.feed, newest, &links, false, &read.entries);
    Ok(Reply::new(about, body).to_response(headers))
}

/// An epoch that is not the client's present one: 410 with the same place in the present one, if it ever was one.
async fn other_epoch(feeds: &Feeds, feed: &FeedConfig, epoch: &str, n: i64) -> Result<Problem, Problem> {
    let journal = &feeds.inner.journal;
    if journal.view_feed(epoch).await?.as_deref() != Some(&feed.name) {
        return Ok(Problem::new(Kind::NotFound, format!("feed `{}` never had the epoch `{epoch}`", feed.name)));
    }
    // The open page has no border of its own, and is where a reader stands that was up to date.
    let after = match journal.page_border(epoch, n).await? {
        Some(border) => Some(border.after),
        None if n == 1 => Some(0),
        None => journal.page_border(epoch, n - 1).await?.map(|border| border.last),
    };
    let next = after.map_or_else(|| head_url(feeds, feed), |after| after_url(feeds, feed, after, None));
    let detail = format!("the pages of feed `{}` were cut anew; go on at {next}", feed.name);
    Ok(Problem::new(Kind::Gone, detail).with_header(header::LINK, &format!("<{next}>; rel=\"next\"")))
}

/// The entries after an event or a time, oldest first, up to the next page border.
pub(super) async fn continuation(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    start: &Start,
) -> Result<Response, Problem> {
    let (state, head, last) = up_to_date(feeds, feed, client).await?;
    let journal = &feeds.inner.journal;
    let after = match &start.from {
        From::After(text) => journal.locate(&client.visible, text).await?,
        From::Since(time) => journal.before_time(*time).await?,
        From::RecordedSince(time) => journal.before_recorded(*time).await?,
    };
    let limit = start.limit.unwrap_or(feed.page_size).min(LIMIT_MAX);
    let sealed = last.map_or(0, |border| border.last);
    let border = if after < sealed { journal.page_after(&state.view.epoch, after).await? } else { None };
    let through = border.map_or(head.position, |border| border.last);
    let range = Range { after, through: Some(through), order: Order::Ascending };
    let read = journal.read(&state.selection, range, limit, Payload::Without).await?;
    // The shared page is linked once it has entries: before that, this answer may still change.
    let shared = match border {
        Some(border)
            if !read.more && (border.last < sealed || has_entries(feeds, &state, border.last, &head).await?) =>
        {
            Some(page_url(feeds, &state, border.n + 1))
        }
        _ => None,
    };
    let immutable = read.more || shared.is_some();
    let next = shared.unwrap_or_else(|| after_url(feeds, feed, read.covered, start.limit));
    let own = after_url(feeds, feed, after, start.limit);
    let links = [("self", own), ("current", head_url(feeds, feed)), ("next", next)];
    let newest = read.entries.last();
    let about = About {
        // Its link changes once the next page has entries.
        etag: etag(feeds, &state, &format!("{after}-{}-{limit}{}", read.covered, if immutable { "" } else { "o" })),
        immutable,
        public: feeds.inner.public,
        last_modified: last_modified(feeds, newest),
        position: read.covered,
        head: (!immutable).then_some(head.position),
        links: &links,
    };
    let body = render(feeds, feed, newest, &links, false, &read.entries);
    Ok(Reply::new(about, body).to_response(headers))
}

async fn has_entries(feeds: &Feeds, state: &ViewState, after: i64, head: &Head) -> Result<bool, Problem> {
    let range = Range { after, through: Some(head.position), order: Order::Ascending };
    let read = feeds.inner.journal.read(&state.selection, range, 1, Payload::Without).await?;
    Ok(!read.entries.is_empty())
}

async fn up_to_date(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
) -> Result<(Arc<ViewState>, Head, Option<Border>), Problem> {
    let state = feeds.view(feed, &client.visible);
    let head = feeds.inner.journal.head().await?;
    match state.last_border(&feeds.inner.journal, &head).await? {
        Some(border) => Ok((state, head, border)),
        None => Err(Problem::new(Kind::Unavailable, "the pages of this feed are being cut; try again in a second")
            .with_header(header::RETRY_AFTER, "1")),
    }
}

fn render(
    feeds: &Feeds,
    feed: &FeedConfig,
    newest: Option<&Entry>,
    links: &[(&'static str, String)],
    archive: bool,
    entries: &[Entry],
) -> Bytes {
    let updated = newest.map_or(feeds.inner.journal.created_at(), |entry| entry.feed_time);
    let document = Document { feed: &feed.name, title: feed.title(), updated, links, archive, entries };
    atom::render(&feeds.inner.names, &document).into()
}

fn last_modified(feeds: &Feeds, newest: Option<&Entry>) -> Micros {
    newest.map_or(feeds.inner.journal.created_at(), |entry| entry.recorded_at)
}

/// Weak, and the same on every process with this configuration: (epoch, place, what the rendering depends on).
fn etag(feeds: &Feeds, state: &ViewState, place: &str) -> String {
    let names = &feeds.inner.names;
    let title = state.feed.title();
    let rendering =
        format!("{}|{}|{}|{}|{title}", atom::RENDERING_VERSION, names.public_url, names.authority, names.year);
    format!("W/\"{}:{place}:{}\"", state.view.epoch, hex(&sha256(&rendering)[..3]))
}

fn sealed_links(feeds: &Feeds, state: &ViewState, n: i64) -> Vec<(&'static str, String)> {
    let mut links = vec![("self", page_url(feeds, state, n)), ("current", head_url(feeds, &state.feed))];
    if n > 1 {
        links.push(("prev-archive", page_url(feeds, state, n - 1)));
    }
    links.push(("next-archive", page_url(feeds, state, n + 1)));
    links
}

fn head_url(feeds: &Feeds, feed: &FeedConfig) -> String {
    format!("{}/feeds/{}.atom", feeds.inner.names.public_url, feed.name)
}

fn page_url(feeds: &Feeds, state: &ViewState, n: i64) -> String {
    format!("{}/feeds/{}/{}/{n}.atom", feeds.inner.names.public_url, state.feed.name, state.view.epoch)
}

fn after_url(feeds: &Feeds, feed: &FeedConfig, position: i64, limit: Option<usize>) -> String {
    let cursor = Cursor::new(feeds.inner.journal.id(), position);
    let limit = limit.map_or(String::new(), |limit| format!("&limit={limit}"));
    format!("{}?after={cursor}{limit}", head_url(feeds, feed))
}
