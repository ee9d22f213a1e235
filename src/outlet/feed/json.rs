//! Entries → JSON Feed 1.1 and batches of CloudEvents 1.0. Pure.

use serde::Serialize;

use super::format::{Document, Names, summary};
use crate::event::{CloudEvent, Entry, EventJson, atom_id, escape};

#[derive(Serialize)]
struct Feed<'a> {
    version: &'static str,
    title: &'a str,
    home_page_url: String,
    feed_url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_url: Option<&'a str>,
    authors: [Author<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    hubs: Option<[Hub<'a>; 1]>,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Hub<'a> {
    r#type: &'static str,
    url: &'a str,
}

#[derive(Serialize)]
struct Author<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Item<'a> {
    id: String,
    url: String,
    title: String,
    content_text: &'a str,
    date_published: String,
    date_modified: String,
    tags: [&'a str; 3],
    /// The whole event, where `embed=data` asks for it.
    #[serde(rename = "_event", skip_serializing_if = "Option::is_none")]
    event: Option<EventJson<'a>>,
}

/// A JSON Feed. What follows an archived page is its `next_url`, too.
pub fn feed(names: &Names, document: &Document<'_>) -> String {
    let feed = Feed {
        version: "https://jsonfeed.org/version/1.1",
        title: document.title,
        home_page_url: format!("{}/feeds", names.public_url),
        feed_url: document.link("self"),
        next_url: document.link("next").or(document.link("next-archive")),
        authors: [Author { name: &names.authority }],
        hubs: document.link("hub").map(|url| [Hub { r#type: "WebSub", url }]),
        items: document.entries.iter().map(|entry| item(names, entry, document.embed)).collect(),
    };
    serde_json::to_string(&feed).expect("only JSON is journaled")
}

fn item<'a>(names: &'a Names, entry: &'a Entry, embed: bool) -> Item<'a> {
    let event = &entry.event;
    Item {
        id: atom_id(&names.authority, names.year, &event.source, &event.id),
        url: format!("{}/events/{}", names.public_url, escape(&event.id)),
        title: format!("{} {}", event.r#type, event.aggregate_id),
        content_text: summary(entry),
        date_published: event.occurred_at.to_millis_text(),
        date_modified: entry.erased_at.unwrap_or(entry.feed_time).to_millis_text(),
        tags: [&event.r#type, &event.aggregate_type, &event.aggregate_id],
        event: embed.then_some(EventJson { journal_id: &names.journal_id, entry }),
    }
}

/// An array; where it goes on stands in the `Link` header.
pub fn cloud_events(names: &Names, document: &Document<'_>) -> String {
    let events = document.entries.iter().map(|entry| CloudEvent {
        public_url: &names.public_url,
        entry,
        data: &entry.event.data,
    });
    serde_json::to_string(&events.collect::<Vec<_>>()).expect("only JSON is journaled")
}
