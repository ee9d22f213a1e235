//! The documents of a feed that have addresses of their own: its head and its numbered pages. And what all documents share.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use axum::response::Response;

use super::format::{Document, Format, RENDERING_VERSION};
use super::query::Query;
use super::reply::{About, Reply};
use super::view::ViewState;
use super::{FeedConfig, Feeds};
use crate::event::{Cursor, Entry, Micros};
use crate::journal::{Border, Columns, Head, LOOKED_AT_MAX, Order, Range};
use crate::runtime::{hex, sha256};
use crate::web::auth::Client;
use crate::web::problem::{Kind, Problem};

/// The head holds at least so many entries, so that naive readers that come rarely see them all.
const HEAD_ENTRIES_MIN: usize = 50;

/// The head, if it is at hand and may be told.
pub(super) fn known_head(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    query: &Query,
) -> Option<Response> {
    if query.from.is_some() || !query.is_plain() {
        return None;
    }
    let journal = &feeds.inner.journal;
    // In this order: a position that is known tells of all that happened to the past before it.
    let (position, past) = (journal.known_position(), journal.known_past());
    let known = feeds.view(feed, &client.visible).head_at(position, past, query.format)?;
    // Memory may only confirm: whoever has another version may have a newer one, from another process.
    let is_enough = known.is_had(headers) || !headers.contains_key(header::IF_NONE_MATCH);
    is_enough.then(|| known.to_response(headers))
}

/// The newest entries, newest first: all after the last sealed page, and at least 50.
pub(super) async fn head(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    query: &Query,
) -> Result<Response, Problem> {
    let journal = &feeds.inner.journal;
    let (state, head, (border, is_complete)) = borders(feeds, feed, client).await?;
    if query.is_plain()
        && is_complete
        && let Some(known) = state.head_still(journal, &head, query.format).await?
    {
        return Ok(known.to_response(headers));
    }
    // A filter that nobody prepared for is not looked for in all of a long journal; `first` leads there.
    let after = if query.is_filtered() { head.position - LOOKED_AT_MAX } else { 0 };
    let range = Range { after, through: Some(head.position), order: Order::Descending };
    let limit = HEAD_ENTRIES_MIN.max(feed.page_size);
    let selection = state.selection.and(&query.filter);
    let mut read = journal.read(&selection, range, limit, query.columns()).await?;
    let mut links = vec![("self", head_url(feeds, feed, query)), ("current", head_url(feeds, feed, query))];
    if query.is_plain() {
        links.push(("hub", feeds.hub_url()));
    }
    match border {
        // Pages hold other events, too, or are being cut: the older ones follow from the beginning.
        _ if query.is_filtered() || !is_complete => {
            links.push(("first", after_url(feeds, feed, head.oldest - 1, query)));
        }
        Some(border) if query.has_pages() => {
            links.push(("prev-archive", page_url(feeds, &state, border.n, query.format)))
        }
        _ => {}
    }
    if !query.is_filtered() && is_complete {
        let sealed = border.map_or(0, |border| border.last);
        let unsealed = read.entries.partition_point(|entry| entry.position > sealed);
        read.entries.truncate(unsealed.max(HEAD_ENTRIES_MIN));
    }
    let (newest, oldest) = (read.entries.first(), read.entries.last());
    let at = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.position);
    let first = if query.is_filtered() || !is_complete { format!("f{}", head.oldest) } else { String::new() };
    let place = format!("{}-{}{first}{}{}", at(newest), at(oldest), mark(query), erased(&read.entries));
    let about = About {
        format: query.format,
        etag: etag(feeds, &state, &place, query.format),
        immutable: None,
        public: feeds.inner.public,
        last_modified: last_modified(feeds, &read.entries),
        position: head.position,
        head: Some(head.position),
        links: &links,
    };
    let body = render(feeds, feed, newest, &links, (false, query), &read.entries);
    let reply = Arc::new(Reply::new(about, body));
    if query.is_plain() && is_complete {
        state.keep_head(&head, query.format, Arc::clone(&reply));
    }
    Ok(reply.to_response(headers))
}

/// A sealed page, if it is at hand.
pub(super) fn known_page(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    (epoch, n, format): (&str, i64, Format),
) -> Option<Response> {
    let state = feeds.view(feed, &client.visible);
    let known = feeds.inner.pages.get(epoch, n, format, feeds.inner.journal.known_past());
    known.filter(|_| state.view.epoch == epoch).map(|page| page.to_response(headers))
}

/// Page `n` of an epoch: a sealed one never changes; the one after the last sealed is open.
pub(super) async fn page(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
    headers: &HeaderMap,
    (epoch, n, format): (&str, i64, Format),
) -> Result<Response, Problem> {
    let state = feeds.view(feed, &client.visible);
    if state.view.epoch != epoch {
        return Err(other_epoch(feeds, feed, (epoch, n, format)).await?);
    }
    let past = feeds.inner.journal.known_past();
    let (state, head, (last, is_complete)) = borders(feeds, feed, client).await?;
    let open = last.map_or(1, |border| border.n + 1);
    if n >= open && !is_complete {
        let problem = Problem::new(Kind::Unavailable, "the pages of this feed are being cut; try again in a second");
        return Err(problem.with_header(header::RETRY_AFTER, "1"));
    }
    if n == open {
        return open_page(feeds, &state, headers, (&head, last), format).await;
    }
    let border = if n < 1 || n > open { None } else { feeds.inner.journal.page_border(epoch, n).await? };
    let Some(border) = border else {
        return Err(Problem::new(Kind::NotFound, format!("feed `{}` has pages 1 to {open} at the moment", feed.name)));
    };
    let range = Range { after: border.after, through: Some(border.last), order: Order::Ascending };
    let read = feeds.inner.journal.read(&state.selection, range, feed.page_size, Columns::ENVELOPE).await?;
    if read.entries.len() < feed.page_size {
        let next = after_url(feeds, feed, read.head.oldest - 1, &Query { format, ..Query::default() });
        let detail = format!("entries of this page were purged; what is left begins at {next}");
        return Err(Problem::new(Kind::Gone, detail).with_header(header::LINK, &format!("<{next}>; rel=\"next\"")));
    }
    let links = sealed_links(feeds, &state, n, format);
    let about = About {
        format,
        etag: etag(feeds, &state, &format!("p{n}-{}{}", border.last, erased(&read.entries)), format),
        immutable: Some(feed.max_age),
        public: feeds.inner.public,
        last_modified: last_modified(feeds, &read.entries),
        position: border.last,
        head: None,
        links: &links,
    };
    let query = Query { format, ..Query::default() };
    let body = render(feeds, feed, read.entries.last(), &links, (true, &query), &read.entries);
    let page = Arc::new(Reply::new(about, body));
    feeds.inner.pages.put(epoch, n, format, Arc::clone(&page), past);
    Ok(page.to_response(headers))
}

async fn open_page(
    feeds: &Feeds,
    state: &ViewState,
    headers: &HeaderMap,
    (head, last): (&Head, Option<Border>),
    format: Format,
) -> Result<Response, Problem> {
    let query = Query { format, ..Query::default() };
    let (n, after) = last.map_or((1, 0), |border| (border.n + 1, border.last));
    let range = Range { after, through: Some(head.position), order: Order::Ascending };
    let read = feeds.inner.journal.read(&state.selection, range, state.feed.page_size, Columns::ENVELOPE).await?;
    let current = feed_url(feeds, &state.feed, format);
    let mut links = vec![("self", page_url(feeds, state, n, format)), ("current", current)];
    if n > 1 {
        links.push(("prev-archive", page_url(feeds, state, n - 1, format)));
    }
    links.push(("next", after_url(feeds, &state.feed, read.covered, &query)));
    let newest = read.entries.last();
    let about = About {
        format,
        etag: etag(
            feeds,
            state,
            &format!(
                "p{n}-{}-{}{}",
                read.entries.len(),
                newest.map_or(after, |entry| entry.position),
                erased(&read.entries)
            ),
            format,
        ),
        immutable: None,
        public: feeds.inner.public,
        last_modified: last_modified(feeds, &read.entries),
        position: read.covered,
        head: Some(head.position),
        links: &links,
    };
    let body = render(feeds, &state.feed, newest, &links, (false, &query), &read.entries);
    Ok(Reply::new(about, body).to_response(headers))
}

/// An epoch that is not the client's present one: 410 with the same place in the present one, if it ever was one.
async fn other_epoch(
    feeds: &Feeds,
    feed: &FeedConfig,
    (epoch, n, format): (&str, i64, Format),
) -> Result<Problem, Problem> {
    let (journal, query) = (&feeds.inner.journal, Query { format, ..Query::default() });
    if journal.view_feed(epoch).await?.as_deref() != Some(&feed.name) {
        return Ok(Problem::new(Kind::NotFound, format!("feed `{}` never had the epoch `{epoch}`", feed.name)));
    }
    // The open page has no border of its own, and is where a reader stands that was up to date.
    let after = match journal.page_border(epoch, n).await? {
        Some(border) => Some(border.after),
        None if n == 1 => Some(0),
        None => journal.page_border(epoch, n - 1).await?.map(|border| border.last),
    };
    let next = after.map_or_else(|| feed_url(feeds, feed, format), |after| after_url(feeds, feed, after, &query));
    let detail = format!("the pages of feed `{}` were cut anew; go on at {next}", feed.name);
    Ok(Problem::new(Kind::Gone, detail).with_header(header::LINK, &format!("<{next}>; rel=\"next\"")))
}

pub(super) async fn borders(
    feeds: &Feeds,
    feed: &FeedConfig,
    client: &Client,
) -> Result<(Arc<ViewState>, Head, (Option<Border>, bool)), Problem> {
    let state = feeds.view(feed, &client.visible);
    let head = feeds.inner.journal.head().await?;
    let known = state.last_border(&feeds.inner.journal, &head).await?;
    Ok((state, head, known))
}

pub(super) fn render(
    feeds: &Feeds,
    feed: &FeedConfig,
    newest: Option<&Entry>,
    links: &[(&'static str, String)],
    (archive, query): (bool, &Query),
    entries: &[Entry],
) -> Bytes {
    let updated = newest.map_or(feeds.inner.journal.created_at(), |entry| entry.feed_time);
    let (title, embed) = (feed.title(), query.embed);
    let document = Document { feed: &feed.name, title, updated, links, archive, embed, entries };
    query.format.render(&feeds.inner.names, &document)
}

/// When the last of them was recorded, or erased.
pub(super) fn last_modified(feeds: &Feeds, entries: &[Entry]) -> Micros {
    let times = entries.iter().map(|entry| entry.erased_at.map_or(entry.recorded_at, |at| at.max(entry.recorded_at)));
    times.max().unwrap_or(feeds.inner.journal.created_at())
}

/// Weak, and the same on every process with this configuration: (epoch, place, what the rendering depends on).
pub(super) fn etag(feeds: &Feeds, state: &ViewState, place: &str, format: Format) -> String {
    let names = &feeds.inner.names;
    let title = state.feed.title();
    let rendering = format!(
        "{RENDERING_VERSION}|{}|{}|{}|{}|{title}",
        format.extension(),
        names.public_url,
        names.authority,
        names.year
    );
    format!("W/\"{}:{place}:{}\"", state.view.epoch, hex(&sha256(&rendering)[..3]))
}

/// Only erasures change what stands at a place: how many there were.
pub(super) fn erased(entries: &[Entry]) -> String {
    match entries.iter().filter(|entry| entry.erased_at.is_some()).count() {
        0 => String::new(),
        count => format!("-e{count}"),
    }
}

fn sealed_links(feeds: &Feeds, state: &ViewState, n: i64, format: Format) -> Vec<(&'static str, String)> {
    let current = feed_url(feeds, &state.feed, format);
    let mut links = vec![("self", page_url(feeds, state, n, format)), ("current", current)];
    if n > 1 {
        links.push(("prev-archive", page_url(feeds, state, n - 1, format)));
    }
    links.push(("next-archive", page_url(feeds, state, n + 1, format)));
    links
}

pub(super) fn head_url(feeds: &Feeds, feed: &FeedConfig, query: &Query) -> String {
    let parameters = query.filter_parameters();
    let mark = if parameters.is_empty() { "" } else { "?" };
    format!("{}{mark}{}", feed_url(feeds, feed, query.format), parameters.trim_start_matches('&'))
}

pub(super) fn feed_url(feeds: &Feeds, feed: &FeedConfig, format: Format) -> String {
    format!("{}/feeds/{}.{}", feeds.inner.names.public_url, feed.name, format.extension())
}

/// Tells documents of different filters apart, and those with data from those without.
pub(super) fn mark(query: &Query) -> String {
    let embed = if query.embed { "-d" } else { "" };
    match query.filter_parameters() {
        none if none.is_empty() => embed.to_owned(),
        parameters => format!("{embed}-{}", hex(&sha256(&parameters)[..4])),
    }
}

pub(super) fn page_url(feeds: &Feeds, state: &ViewState, n: i64, format: Format) -> String {
    let (public_url, feed, epoch) = (&feeds.inner.names.public_url, &state.feed.name, &state.view.epoch);
    format!("{public_url}/feeds/{feed}/{epoch}/{n}.{}", format.extension())
}

pub(super) fn after_url(feeds: &Feeds, feed: &FeedConfig, position: i64, query: &Query) -> String {
    let cursor = Cursor::new(feeds.inner.journal.id(), position);
    format!("{}?after={cursor}{}", feed_url(feeds, feed, query.format), query.parameters())
}
