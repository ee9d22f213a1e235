//! The formats of a feed: the same entries, written for different readers.

use std::cell::RefCell;

use axum::body::Bytes;

use super::{atom, html, json, rss};
use crate::event::{Entry, Micros};

/// Changes with every change of the bytes that this folder makes of the same entries.
pub const RENDERING_VERSION: u32 = 4;

/// What is kept of the place where pages are written: most need no more.
const SCRATCH_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    /// Where pages are written, once a thread.
    static SCRATCH: RefCell<String> = const { RefCell::new(String::new()) };
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// RFC 4287.
    #[default]
    Atom,
    /// RSS 2.0.
    Rss,
    /// JSON Feed 1.1.
    Json,
    /// A batch of CloudEvents 1.0, as http-feeds.org has it.
    CloudEvents,
    /// For people.
    Html,
}

impl Format {
    pub const ALL: [Self; 5] = [Self::Atom, Self::Rss, Self::Json, Self::CloudEvents, Self::Html];

    /// What stands behind the dot of a URL.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Atom => "atom",
            Self::Rss => "rss",
            Self::Json => "json",
            Self::CloudEvents => "cloudevents",
            Self::Html => "html",
        }
    }

    /// Without parameters.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Atom => "application/atom+xml",
            Self::Rss => "application/rss+xml",
            Self::Json => "application/feed+json",
            Self::CloudEvents => "application/cloudevents-batch+json",
            Self::Html => "text/html",
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Atom => "application/atom+xml; charset=utf-8",
            Self::Rss => "application/rss+xml; charset=utf-8",
            Self::Json => "application/feed+json; charset=utf-8",
            Self::CloudEvents => "application/cloudevents-batch+json; charset=utf-8",
            Self::Html => "text/html; charset=utf-8",
        }
    }

    /// `orders.atom` is `orders` in this format.
    pub fn split(name: &str) -> Option<(&str, Self)> {
        let (name, extension) = name.rsplit_once('.')?;
        Self::ALL.into_iter().find(|format| format.extension() == extension).map(|format| (name, format))
    }

    /// What a client that names no format likes: media types with their format, the default first.
    pub const OFFERED: [(&str, Self); 8] = [
        ("application/atom+xml", Self::Atom),
        ("application/xml", Self::Atom),
        ("text/xml", Self::Atom),
        ("text/html", Self::Html),
        ("application/rss+xml", Self::Rss),
        ("application/feed+json", Self::Json),
        ("application/json", Self::Json),
        ("application/cloudevents-batch+json", Self::CloudEvents),
    ];

    pub fn render(self, names: &Names, document: &Document<'_>) -> Bytes {
        match self {
            Self::Atom => SCRATCH.with_borrow_mut(|xml| {
                xml.clear();
                xml.shrink_to(SCRATCH_BYTES_MAX);
                atom::render(xml, names, document);
                // As long as it is: it may be kept.
                Bytes::copy_from_slice(xml.as_bytes())
            }),
            Self::Rss => rss::render(names, document).into(),
            Self::Json => json::feed(names, document).into(),
            Self::CloudEvents => json::cloud_events(names, document).into(),
            Self::Html => html::render(names, document).into(),
        }
    }
}

/// The line that a format without tombstones shows of an entry: those that stored an erased one replace it.
pub fn summary(entry: &Entry) -> &str {
    if entry.erased_at.is_some() { "erased" } else { &entry.summary }
}

/// What is the same for all documents of a gateway.
#[derive(Clone, Debug)]
pub struct Names {
    pub public_url: String,
    pub authority: String,
    /// The journal's creation year, part of every `tag:` id.
    pub year: i32,
    pub journal_id: String,
}

/// One document.
#[derive(Debug)]
pub struct Document<'a> {
    pub feed: &'a str,
    pub title: &'a str,
    pub updated: Micros,
    /// (relation, absolute URL), in the order in which they are written.
    pub links: &'a [(&'static str, String)],
    /// A sealed page (RFC 5005 section 4).
    pub archive: bool,
    /// The events stand whole in a JSON Feed.
    pub embed: bool,
    pub entries: &'a [Entry],
}

impl Document<'_> {
    pub fn link(&self, relation: &str) -> Option<&str> {
        self.links.iter().find(|(known, _)| *known == relation).map(|(_, url)| url.as_str())
    }
}
