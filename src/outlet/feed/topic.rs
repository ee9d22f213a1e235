//! A feed as a topic of WebSub: who subscribed gets its new entries as a document of it, instead of polling for them.

use axum::body::Bytes;

use super::format::{Document, Format};
use super::{FeedConfig, Feeds};
use crate::event::Entry;
use crate::filter::Filter;

/// A head that can be subscribed to.
#[derive(Clone)]
pub struct Topic {
    feeds: Feeds,
    feed: FeedConfig,
    format: Format,
}

impl Feeds {
    /// The feed's head at this URL.
    pub fn topic(&self, url: &str) -> Option<Topic> {
        let path = url.strip_prefix(&self.inner.names.public_url)?.strip_prefix("/feeds/")?;
        let (name, format) = Format::split(path).filter(|(_, format)| *format != Format::Html)?;
        let feed = self.inner.feeds.iter().find(|feed| feed.name == name)?.clone();
        Some(Topic { feeds: self.clone(), feed, format })
    }

    /// Where one subscribes.
    pub(super) fn hub_url(&self) -> String {
        format!("{}/websub", self.inner.names.public_url)
    }
}

impl Topic {
    /// What of the journal the feed shows.
    pub fn filter(&self) -> &Filter {
        &self.feed.filter
    }

    pub fn content_type(&self) -> &'static str {
        self.format.content_type()
    }

    /// The document of these entries, the newest first, as in the head.
    pub fn document(&self, entries: &[Entry]) -> Bytes {
        let feeds = &self.feeds.inner;
        let newest_first: Vec<Entry> = entries.iter().rev().cloned().collect();
        let url = super::documents::feed_url(&self.feeds, &self.feed, self.format);
        let links = [("self", url.clone()), ("current", url), ("hub", self.feeds.hub_url())];
        let updated = newest_first.first().map_or(feeds.journal.created_at(), |entry| entry.feed_time);
        let (feed, title) = (self.feed.name.as_str(), self.feed.title());
        let document =
            Document { feed, title, updated, links: &links, archive: false, embed: false, entries: &newest_first };
        self.format.render(&feeds.names, &document)
    }
}
