//! Entries → HTML, for a person who came to a feed with a browser. Pure.

use super::format::{Document, Names, summary};
use crate::event::{Entry, escape as percent_encode};
use crate::web::html::{document as frame, escape};

/// Where the links of a document lead, in a reader's words.
const WAYS: [(&str, &str); 6] = [
    ("current", "newest"),
    ("first", "from the beginning"),
    ("prev-archive", "older"),
    ("next-archive", "newer"),
    ("next", "next"),
    ("self", "this page"),
];

/// Renders a document.
pub fn render(names: &Names, document: &Document<'_>) -> String {
    let way = |(relation, text): (&str, &str)| {
        let url = document.link(relation)?;
        Some(format!("<a href=\"{}\">{text}</a>", escape(url)))
    };
    let ways: Vec<String> = WAYS.into_iter().filter_map(way).collect();
    let rows: Vec<String> = document.entries.iter().map(|entry| row(names, entry)).collect();
    let none = if rows.is_empty() { "<p>Nothing here yet.</p>" } else { "" };
    let body = format!(
        "<p>{} · <a href=\"{}/feeds\">all feeds</a></p>\n\
         <table><tr><th>time</th><th>event</th><th>summary</th></tr>\n{}</table>{none}",
        ways.join(" · "),
        escape(&names.public_url),
        rows.concat()
    );
    frame(document.title, &body)
}

fn row(names: &Names, entry: &Entry) -> String {
    let event = &entry.event;
    format!(
        "<tr><td>{}</td><td><a href=\"{}/events/{}\">{} {}</a></td><td>{}</td></tr>\n",
        event.occurred_at.to_text(),
        escape(&names.public_url),
        percent_encode(&event.id),
        escape(&event.r#type),
        escape(&event.aggregate_id),
        escape(summary(entry))
    )
}
