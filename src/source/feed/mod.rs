//! Following a feed: another Postern's, whose events are taken whole and in its order; a foreign one with archives
//! (RFC 5005 section 4) or with pages (section 3); or one that has nothing but its head. What was read is remembered in
//! the checkpoint by URL, so a kill repeats at most one document, and what is repeated is known by its id.

mod client;
mod detail;
mod document;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use reqwest::header;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use url::Url;

use super::check::Report;
use super::config::Poll;
use super::mapping::Mapped;
use super::pump::{Budget, Pump, Setting, bytes};
use super::{Config, Error};
use crate::catalogue::Catalogue;
use crate::event::Micros;
use crate::journal::{Append, Arrival, redacted};
use crate::runtime::{Clock, sha256};
use client::{ATOM, Answer, Client, DOCUMENT_BYTES_MAX, TIMEOUT};
use document::{Document, Item};

/// Details that are read at once: enough to hide the way, few enough for a small server.
const DETAILS_MAX: usize = 8;
/// How long another Postern is asked to wait for news. Most proxies cut at 60 s.
const WAIT: Duration = Duration::from_secs(20);
/// An empty answer that comes sooner did not wait.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Archives of one feed; only their URLs are kept.
const ARCHIVES_MAX: usize = 10_000;
/// Pages move while they are read, so all that are new are kept until the oldest is found.
const PAGES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Fresh starts within one poll.
const RESTARTS_MAX: usize = 2;
/// Entries that `postern check` tries.
const SAMPLES: usize = 5;

/// Kept in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Checkpoint {
    /// The URL that all this belongs to.
    feed: String,
    /// Another Postern's: where to go on.
    next: Option<String>,
    /// The last archive that was journaled.
    archive: Option<String>,
    /// What the head said of itself when it was journaled.
    etag: Option<String>,
    last_modified: Option<String>,
}

pub(super) struct FeedPump {
    setting: Arc<Setting>,
    client: Client,
    kept: Checkpoint,
    /// The head as it was journaled: one that is the same is not looked at, whether or not its server can say so.
    head: Option<[u8; 32]>,
    /// How far another Postern was read, once all of it was.
    position: Option<i64>,
    /// It takes `wait`.
    waits: bool,
    /// What the wait brought.
    news: Option<Result<Answer, Error>>,
    /// Events that this poll has journaled.
    journaled: u64,
}

impl Pump for FeedPump {
    const POLL_FIRST: Duration = Duration::from_secs(1);
    const POLL_MAX: Duration = Duration::from_secs(60);

    async fn open(setting: Arc<Setting>) -> Result<Self, Error> {
        let client = Client::new(&setting.config)?;
        let kept = setting.checkpoint().await?;
        let kept: Checkpoint = kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let fresh = Checkpoint { feed: client.feed.to_string(), ..Checkpoint::default() };
        let kept = if kept.feed == fresh.feed {
            kept
        } else {
            if !kept.feed.is_empty() {
                let (name, before) = (&setting.config.name, redacted(&kept.feed));
                warn!(source.name = %name, "source `{name}` was read from {before} before: starting at the beginning");
            }
            fresh
        };
        Ok(Self { setting, client, kept, head: None, position: None, waits: true, news: None, journaled: 0 })
    }

    async fn poll(&mut self) -> Result<bool, Error> {
        self.journaled = 0;
        self.position = None;
        match &self.kept.next {
            Some(next) => {
                let next = self.client.link(&self.client.feed, next)?;
                self.follow(next).await?;
            }
            None => self.look().await?,
        }
        Ok(self.journaled > 0)
    }

    /// Another Postern is asked to answer once there is something new.
    async fn rest(&mut self, until: Instant) {
        let next = self.kept.next.as_ref().filter(|_| self.waits && self.setting.config.poll == Poll::Adaptive);
        let (Some(next), Some(position)) = (next.and_then(|next| Url::parse(next).ok()), self.position) else {
            return sleep_until(until).await;
        };
        let mut url = next;
        url.query_pairs_mut().append_pair("wait", &WAIT.as_secs().to_string());
        let asked = Instant::now();
        let answer = self.client.get(&url, &[(header::ACCEPT, ATOM)], DOCUMENT_BYTES_MAX, WAIT + TIMEOUT).await;
        match &answer {
            Ok(answer) if answer.status == 400 => {
                // One that can't wait does not know the parameter.
                self.waits = false;
                return sleep_until(until).await;
            }
            Ok(answer) if answer.position() == Some(position) && asked.elapsed() < WAIT_MIN => sleep_until(until).await,
            _ => {}
        }
        self.news = Some(answer);
    }
}

impl FeedPump {
    async fn get(&self, url: &Url) -> Result<(Answer, Document), Error> {
        let answer = self.client.get(url, &[(header::ACCEPT, ATOM)], DOCUMENT_BYTES_MAX, TIMEOUT).await?;
        read(&self.client, self.client.fine(answer)?).await
    }

    /// Looks at the feed's own URL.
    async fn look(&mut self) -> Result<(), Error> {
        let Checkpoint { etag, last_modified, .. } = &self.kept;
        let mut headers = vec![(header::ACCEPT, ATOM)];
        headers.extend(etag.as_deref().map(|etag| (header::IF_NONE_MATCH, etag)));
        headers.extend(last_modified.as_deref().map(|time| (header::IF_MODIFIED_SINCE, time)));
        let answer = self.client.get(&self.client.feed, &headers, DOCUMENT_BYTES_MAX, TIMEOUT).await?;
        let answer = self.client.fine(answer)?;
        if answer.position().is_some() {
            return self.follow(self.client.start("0")).await;
        }
        let digest = sha256(&String::from_utf8_lossy(&answer.body));
        if answer.status == 304 || self.head == Some(digest) {
            return Ok(());
        }
        let said = |name| answer.header(name).map(str::to_owned);
        let validators = (said(header::ETAG), said(header::LAST_MODIFIED));
        let (answer, head) = read(&self.client, answer).await?;
        if let Some(archive) = head.link("prev-archive") {
            self.archives(self.client.link(&answer.url, archive)?).await?;
        }
        let older = if head.link("prev-archive").is_none() { self.older(&answer, &head).await? } else { Vec::new() };
        for page in older.into_iter().rev() {
            self.journal(page.oldest_first(), None, self.kept.clone()).await?;
        }
        let (etag, last_modified) = validators;
        self.journal(head.oldest_first(), None, Checkpoint { etag, last_modified, ..self.kept.clone() }).await?;
        self.head = Some(digest);
        Ok(())
    }

    /// Journals the archives after the last one that was taken, oldest first.
    async fn archives(&mut self, newest: Url) -> Result<(), Error> {
        let (mut urls, mut seen, mut next) = (Vec::new(), HashSet::new(), Some(newest));
        while let Some(url) = next.filter(|url| self.kept.archive.as_deref() != Some(url.as_str())) {
            if urls.len() >= ARCHIVES_MAX || !seen.insert(url.clone()) {
                let shown = redacted(url.as_str());
                return Err(self
                    .client
                    .error(format!("its archives go round in a circle or are more than {ARCHIVES_MAX}, at {shown}")));
            }
            let (answer, document) = self.get(&url).await?;
            next = document.link("prev-archive").map(|href| self.client.link(&answer.url, href)).transpose()?;
            urls.push(url);
        }
        for url in urls.iter().rev() {
            let (_, document) = self.get(url).await?;
            let checkpoint = Checkpoint { archive: Some(url.to_string()), ..self.kept.clone() };
            self.journal(document.oldest_first(), None, checkpoint).await?;
        }
        Ok(())
    }

    /// The pages that follow the head, to the first of which all is known.
    async fn older(&self, answer: &Answer, head: &Document) -> Result<Vec<Document>, Error> {
        let (mut pages, mut bytes, mut seen) = (Vec::<Document>::new(), answer.body.len(), HashSet::new());
        let mut at = answer.url.clone();
        loop {
            let last = pages.last().unwrap_or(head);
            let Some(next) = last.link("next") else { return Ok(pages) };
            let next = self.client.link(&at, next)?;
            if self.knows(&last.entries).await? || !seen.insert(next.clone()) {
                return Ok(pages);
            }
            let (answer, page) = self.get(&next).await?;
            bytes += answer.body.len();
            if bytes > PAGES_BYTES_MAX {
                let megabytes = PAGES_BYTES_MAX / (1024 * 1024);
                return Err(self.client.error(format!(
                    "its new pages are larger than {megabytes} MB together, which is the most that is put in order"
                )));
            }
            at = answer.url;
            pages.push(page);
        }
    }

    /// Whether all of these that can be events are journaled.
    async fn knows(&self, items: &[Item]) -> Result<bool, Error> {
        let Setting { config, catalogue, journal, .. } = &*self.setting;
        let ids = items.iter().filter_map(|item| match item.map(&config.name, catalogue, Micros(0)) {
            Mapped::Event(event) => Some(event.id),
            Mapped::Withheld | Mapped::Quarantined(_) => None,
        });
        let ids: Vec<String> = ids.collect();
        let known = journal.positions(&ids).await.map_err(|cause| config.journal_error(cause))?;
        Ok(!ids.is_empty() && ids.iter().all(|id| known.contains_key(id)))
    }

    /// Reads another Postern's journal from here to its end.
    async fn follow(&mut self, start: Url) -> Result<(), Error> {
        let (mut url, mut restarts) = (start, 0);
        loop {
            let answer = match self.news.take() {
                Some(news) => news?,
                None => self.client.get(&url, &[(header::ACCEPT, ATOM)], DOCUMENT_BYTES_MAX, TIMEOUT).await?,
            };
            if matches!(answer.status, 404 | 410) && restarts < RESTARTS_MAX {
                restarts += 1;
                url = self.restart(&answer);
                continue;
            }
            let (answer, document) = read(&self.client, self.client.fine(answer)?).await?;
            let next = document.link("next-archive").or(document.link("next"));
            let next = next.ok_or_else(|| {
                let shown = redacted(answer.url.as_str());
                self.client.error(format!("{shown} has no link to what follows: is it another Postern's feed?"))
            })?;
            let next = without_wait(self.client.link(&answer.url, next)?);
            let is_sealed = document.link("next-archive").is_some();
            let is_last = answer.is_at_head() || (!is_sealed && document.entries.is_empty()) || next == url;
            if !document.entries.is_empty() || self.kept.next.as_deref() != Some(next.as_str()) {
                let checkpoint = Checkpoint { next: Some(next.to_string()), ..self.kept.clone() };
                self.journal(document.entries, Some(&answer.url), checkpoint).await?;
            }
            if is_last && !is_sealed {
                self.position = answer.position();
                return Ok(());
            }
            url = next;
        }
    }

    /// Where to go on if the place where we were is there no longer: where the answer says, else at the beginning.
    fn restart(&self, answer: &Answer) -> Url {
        let after = answer.next().and_then(|next| {
            let after = next.query_pairs().find(|(name, _)| name == "after");
            after.map(|(_, after)| after.into_owned())
        });
        let (name, shown) = (&self.setting.config.name, redacted(answer.url.as_str()));
        let place = after.as_ref().map_or("at its beginning".to_owned(), |after| format!("after {after}"));
        warn!(source.name = %name, "`{name}`: {shown} answers {}{}: going on {place}; what is known already is dropped", answer.status, answer.detail());
        self.client.start(after.as_deref().unwrap_or("0"))
    }

    /// Journals entries in this order, in pieces; the last one carries the checkpoint. With a page, the entries are those of
    /// another Postern.
    async fn journal(&mut self, items: Vec<Item>, page: Option<&Url>, kept: Checkpoint) -> Result<(), Error> {
        let piece = Append { source: self.setting.config.name.clone(), ..Append::default() };
        let (mut append, mut budget) = (piece.clone(), Budget::default());
        for items in items.chunks(if page.is_some() { DETAILS_MAX } else { items.len().max(1) }) {
            for mapped in self.map(items, page).await? {
                let bytes = match &mapped {
                    Mapped::Event(event) => bytes(event),
                    Mapped::Withheld => 0,
                    Mapped::Quarantined(row) => row.raw.len(),
                };
                if !budget.takes(bytes) {
                    let full = std::mem::replace(&mut append, piece.clone());
                    self.journaled += self.setting.append(full).await?.journaled;
                    budget = Budget::default();
                    budget.takes(bytes);
                }
                match mapped {
                    Mapped::Event(event) => {
                        append.arrivals.push(Arrival::new(&self.setting.catalogue, event, None, false));
                    }
                    Mapped::Withheld => append.withheld += 1,
                    Mapped::Quarantined(row) => append.quarantined.push(row),
                }
            }
        }
        append.checkpoint = Some(serde_json::to_string(&kept).expect("texts are JSON"));
        self.journaled += self.setting.append(append).await?.journaled;
        self.kept = kept;
        Ok(())
    }

    async fn map(&self, items: &[Item], page: Option<&Url>) -> Result<Vec<Mapped>, Error> {
        let Setting { config, catalogue, journal, clock, .. } = &*self.setting;
        if let Some(page) = page {
            return try_join_all(
                items.iter().map(|item| detail::whole(&self.client, &config.name, catalogue, page, item)),
            )
            .await;
        }
        // One that does not say its time keeps the one that it got when it was read first, so that it may come again.
        let untimed = items.iter().filter(|item| item.time().is_none()).map(|item| item.public_id(&config.name));
        let times = journal.times(&untimed.collect::<Vec<_>>()).await.map_err(|cause| config.journal_error(cause))?;
        let now = Micros(clock.now_micros());
        let mapped = items.iter().map(|item| {
            let known = || times.get(&item.public_id(&config.name)).copied();
            item.map(&config.name, catalogue, item.time().or_else(known).unwrap_or(now))
        });
        Ok(mapped.collect())
    }
}

/// Parses a document beside the other tasks: a large one takes its time.
async fn read(client: &Client, answer: Answer) -> Result<(Answer, Document), Error> {
    let parsing = tokio::task::spawn_blocking(move || (Document::parse(&answer.body), answer));
    let (document, answer) = parsing.await.map_err(|_| client.error("its document breaks the parser"))?;
    let document = document.map_err(|cause| client.error(format!("{} {cause}", redacted(answer.url.as_str()))))?;
    Ok((answer, document))
}

/// Reads one document and tries its first entries.
pub(super) async fn check(config: &Config, catalogue: &Catalogue) -> Result<Report, Error> {
    let client = Client::new(config)?;
    let answer = client.get(&client.feed, &[(header::ACCEPT, ATOM)], DOCUMENT_BYTES_MAX, TIMEOUT).await?;
    let (answer, document) = read(&client, client.fine(answer)?).await?;
    let kind = match (answer.position(), document.link("prev-archive"), document.link("next")) {
        (Some(_), ..) => Kind::Postern,
        (None, Some(_), _) => Kind::Archived,
        (None, None, Some(_)) => Kind::Paged,
        (None, None, None) => Kind::Head,
    };
    let mut report = Report { guarantees: kind.guarantees(), ..Report::default() };
    let now = Micros(Clock::system().now_micros());
    for item in document.entries.iter().take(SAMPLES) {
        let mapped = match kind {
            Kind::Postern => detail::whole(&client, &config.name, catalogue, &answer.url, item).await?,
            _ => item.map(&config.name, catalogue, item.time().unwrap_or(now)),
        };
        report.add(item.public_id(&config.name), mapped);
    }
    Ok(report)
}

/// What a feed offers to those who come late.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postern,
    Archived,
    Paged,
    Head,
}

impl Kind {
    fn guarantees(self) -> Vec<String> {
        let (found, order, missed) = match self {
            Self::Postern => ("every event of another Postern's feed exactly once", "that of its journal", ""),
            Self::Archived => (
                "every entry exactly once, in the archives (RFC 5005) and on the head",
                "archive by archive; within one, by time",
                "",
            ),
            Self::Paged => (
                "every entry exactly once, page by page to one of which all is known",
                "page by page; within one, by time",
                "entries that are put behind known ones, ",
            ),
            Self::Head => (
                "only what is on the head at a poll is found; poll often enough",
                "as found; within one look, by time",
                "entries that leave the head between two polls, ",
            ),
        };
        vec![
            format!("found: {found}"),
            format!("order: {order}"),
            format!("not found: {missed}entries removed before they were read, changes of entries"),
        ]
    }
}

/// What follows is asked for with the link of an answer that was waited for, which says so; only a rest waits.
fn without_wait(mut url: Url) -> Url {
    let others: Vec<(String, String)> =
        url.query_pairs().filter(|(name, _)| name != "wait").map(|(name, value)| (name.into(), value.into())).collect();
    if url.query().is_some() {
        url.query_pairs_mut().clear().extend_pairs(others);
    }
    url
}
