//! Entries → RSS 2.0, for readers that know nothing newer. Pure.

use std::fmt::Write as _;

use super::atom::push_text;
use super::format::{Document, Format, Names, summary};
use crate::event::{Entry, atom_id, escape};

/// Renders a document. RSS has no links to what follows; these are Atom's.
pub fn render(names: &Names, document: &Document<'_>) -> String {
    let mut xml = String::with_capacity(1024 + document.entries.len() * 700);
    xml.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<rss version=\"2.0\" xmlns:atom=\"http://www.w3.org/2005/Atom\">\n<channel>\n<title>");
    push_text(&mut xml, document.title);
    xml.push_str("</title>\n<link>");
    push_text(&mut xml, &names.public_url);
    xml.push_str("/feeds</link>\n<description>");
    push_text(&mut xml, document.title);
    xml.push_str("</description>\n<lastBuildDate>");
    xml.push_str(&document.updated.to_http_date());
    xml.push_str("</lastBuildDate>\n<generator>Postern</generator>\n");
    for (relation, url) in document.links {
        let _ = match *relation {
            "hub" => write!(xml, "<atom:link rel=\"hub\" href=\""),
            _ => write!(xml, "<atom:link rel=\"{relation}\" type=\"{}\" href=\"", Format::Rss.media_type()),
        };
        push_text(&mut xml, url);
        xml.push_str("\"/>\n");
    }
    document.entries.iter().for_each(|entry| push_item(&mut xml, names, entry));
    xml.push_str("</channel>\n</rss>\n");
    xml
}

fn push_item(xml: &mut String, names: &Names, entry: &Entry) {
    let event = &entry.event;
    xml.push_str("<item>\n<title>");
    push_text(xml, &event.r#type);
    xml.push(' ');
    push_text(xml, &event.aggregate_id);
    xml.push_str("</title>\n<link>");
    push_text(xml, &names.public_url);
    let _ = write!(xml, "/events/{}</link>\n<guid isPermaLink=\"false\">", escape(&event.id));
    push_text(xml, &atom_id(&names.authority, names.year, &event.source, &event.id));
    let _ = write!(xml, "</guid>\n<pubDate>{}</pubDate>\n<category>", entry.feed_time.to_http_date());
    push_text(xml, &event.r#type);
    xml.push_str("</category>\n<description>");
    push_text(xml, summary(entry));
    xml.push_str("</description>\n</item>\n");
}
