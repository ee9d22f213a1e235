//! `GET /feeds`: which feeds there are, as JSON, as a service document (RFC 5023) or for people.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::json;

use super::atom::push_text;
use super::format::Format;
use super::{FeedConfig, Feeds};
use crate::event::Cursor;
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};
use crate::web::{html, negotiate};

const JSON: &str = "application/json";
const HTML: &str = "text/html";
const SERVICE: &str = "application/atomsvc+xml";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Item<'a> {
    name: &'a str,
    title: &'a str,
    url: String,
    formats: [&'static str; Format::ALL.len()],
    page_size: usize,
    epoch: String,
    head: String,
    oldest: String,
    updated: Option<String>,
}

pub(super) async fn feeds(
    State(feeds): State<Feeds>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    client.must(&Scope::Read)?;
    let mut items = Vec::new();
    // A client is not told of feeds that have nothing for it.
    for feed in feeds.inner.feeds.iter().filter(|feed| client.visible.may_meet(&feed.filter)) {
        items.push(item(&feeds, feed, &client).await?);
    }
    let headers_of = |media_type| {
        [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept")]
    };
    match negotiate::accept(&headers, &[JSON, HTML, SERVICE]) {
        Some(HTML) => Ok(html::page("Feeds", &table(&items))),
        Some(SERVICE) => Ok((headers_of(SERVICE), service(&feeds.inner.names.authority, &items)).into_response()),
        Some(_) => Ok((headers_of(JSON), Json(json!({ "feeds": items }))).into_response()),
        None => {
            let detail = format!("the list of feeds is served as {JSON}, {HTML} and {SERVICE}");
            Err(Problem::new(Kind::NotAcceptable, detail))
        }
    }
}

async fn item<'a>(feeds: &Feeds, feed: &'a FeedConfig, client: &Client) -> Result<Item<'a>, Problem> {
    let journal = &feeds.inner.journal;
    let state = feeds.view(feed, &client.visible);
    let head = journal.head().await?;
    let cursor = |position| Cursor::new(journal.id(), position).to_string();
    Ok(Item {
        name: &feed.name,
        title: feed.title(),
        url: format!("{}/feeds/{}.atom", feeds.inner.names.public_url, feed.name),
        formats: Format::ALL.map(Format::extension),
        page_size: feed.page_size,
        epoch: state.view.epoch.clone(),
        head: cursor(head.position),
        oldest: cursor(head.oldest - 1),
        updated: state.newest(journal, &head).await?.map(|time| time.to_millis_text()),
    })
}

fn table(items: &[Item<'_>]) -> String {
    let row = |item: &Item<'_>| {
        let link = |extension: &str| {
            let url = html::escape(&format!("{}{extension}", item.url.trim_end_matches("atom")));
            format!("<a href=\"{url}\">{extension}</a>")
        };
        let links: Vec<String> = item.formats.iter().map(|extension| link(extension)).collect();
        let updated = item.updated.as_deref().unwrap_or("nothing yet");
        format!("<tr><td>{}</td><td>{updated}</td><td>{}</td></tr>", html::escape(item.title), links.join(" "))
    };
    let rows: Vec<String> = items.iter().map(row).collect();
    format!("<table><tr><th>feed</th><th>updated</th><th>as</th></tr>{}</table>", rows.concat())
}

/// A collection a feed. They take nothing: an empty `accept` (RFC 5023 section 8.3.4).
fn service(authority: &str, items: &[Item<'_>]) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<service xmlns=\"http://www.w3.org/2007/app\" \
         xmlns:atom=\"http://www.w3.org/2005/Atom\">\n<workspace>\n<atom:title>",
    );
    push_text(&mut xml, authority);
    xml.push_str("</atom:title>\n");
    for item in items {
        xml.push_str("<collection href=\"");
        push_text(&mut xml, &item.url);
        xml.push_str("\">\n<atom:title>");
        push_text(&mut xml, item.title);
        xml.push_str("</atom:title>\n<accept/>\n</collection>\n");
    }
    xml.push_str("</workspace>\n</service>\n");
    xml
}
