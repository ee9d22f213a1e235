//! Entries → Atom (RFC 4287, archives by RFC 5005). Pure: the bytes are a function of the arguments.
//!
//! Our own writer, because every byte counts on a page that is made once and read for ever: pushes into one string.
//! What real parsers stumble over decides the forms: three fraction digits, one untyped alternate link, metadata
//! before entries, no control characters.

use std::fmt::Write as _;

use super::format::{Document, Names};
use crate::event::{Entry, Micros, atom_id, escape as percent_encode};

/// A rendered entry is about this long; saves growing the string.
const ENTRY_BYTES: usize = 900;

/// Renders a document.
pub fn render(names: &Names, document: &Document<'_>) -> String {
    let mut xml = String::with_capacity(1024 + document.entries.len() * ENTRY_BYTES);
    xml.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\"");
    if document.archive {
        xml.push_str(" xmlns:fh=\"http://purl.org/syndication/history/1.0\"");
    }
    xml.push_str(">\n<id>tag:");
    let _ = write!(xml, "{},{}:feeds/{}", names.authority, names.year, percent_encode(document.feed));
    xml.push_str("</id>\n<title>");
    push_text(&mut xml, document.title);
    xml.push_str("</title>\n<updated>");
    xml.push_str(&document.updated.to_millis_text());
    xml.push_str("</updated>\n<author><name>");
    push_text(&mut xml, &names.authority);
    xml.push_str("</name></author>\n<generator>Postern</generator>\n");
    if document.archive {
        xml.push_str("<fh:archive/>\n");
    }
    for (relation, url) in document.links {
        xml.push_str("<link rel=\"");
        xml.push_str(relation);
        xml.push_str("\" type=\"application/atom+xml\" href=\"");
        push_text(&mut xml, url);
        xml.push_str("\"/>\n");
    }
    for entry in document.entries {
        if let Some(at) = entry.erased_at {
            push_tombstone(&mut xml, names, (&entry.event.source, &entry.event.id), at);
            continue;
        }
        if let Some(erased) = &entry.erases {
            push_tombstone(&mut xml, names, (&entry.event.source, erased), entry.recorded_at);
        }
        xml.push_str("<entry>\n");
        push_entry(&mut xml, names, entry);
    }
    xml.push_str("</feed>\n");
    xml
}

/// A document of one entry (RFC 4287 section 2). Outside of a feed it says itself who wrote it.
pub fn entry(names: &Names, entry: &Entry) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<entry xmlns=\"http://www.w3.org/2005/Atom\">\n<author><name>",
    );
    push_text(&mut xml, &names.authority);
    xml.push_str("</name></author>\n");
    push_entry(&mut xml, names, entry);
    xml
}

/// What stands behind its start tag, and its end.
fn push_entry(xml: &mut String, names: &Names, entry: &Entry) {
    let event = &entry.event;
    xml.push_str("<id>");
    push_text(xml, &atom_id(&names.authority, names.year, &event.source, &event.id));
    xml.push_str("</id>\n<title>");
    push_text(xml, &event.r#type);
    xml.push(' ');
    push_text(xml, &event.aggregate_id);
    xml.push_str("</title>\n<updated>");
    xml.push_str(&entry.feed_time.to_millis_text());
    xml.push_str("</updated>\n<published>");
    xml.push_str(&event.occurred_at.to_millis_text());
    xml.push_str("</published>\n");
    for (scheme, term) in
        [("type", &event.r#type), ("aggregate-type", &event.aggregate_type), ("aggregate", &event.aggregate_id)]
    {
        xml.push_str("<category scheme=\"");
        push_text(xml, &names.public_url);
        xml.push_str("/schemes/");
        xml.push_str(scheme);
        xml.push_str("\" term=\"");
        push_text(xml, term);
        xml.push_str("\"/>\n");
    }
    xml.push_str("<link rel=\"alternate\" href=\"");
    push_text(xml, &names.public_url);
    xml.push_str("/events/");
    xml.push_str(&percent_encode(&event.id));
    xml.push_str("\"/>\n<summary>");
    push_text(xml, &entry.summary);
    xml.push_str("</summary>\n</entry>\n");
}

/// RFC 6721. Stands where the erased entry stood, and where its erasure was recorded.
fn push_tombstone(xml: &mut String, names: &Names, (source, id): (&str, &str), at: Micros) {
    xml.push_str("<at:deleted-entry xmlns:at=\"http://purl.org/atompub/tombstones/1.0\" ref=\"");
    push_text(xml, &atom_id(&names.authority, names.year, source, id));
    let _ = writeln!(xml, "\" when=\"{}\"/>", at.to_millis_text());
}

/// Text for element content and quoted attributes. What XML 1.0 can't carry is replaced by a visible sign: one such
/// character would make a page unreadable, and caches would keep it for a year.
pub fn push_text(xml: &mut String, text: &str) {
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let instead = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            '\r' => "&#13;",
            '\t' | '\n' | ' '..='~' => continue,
            '\0'..='\u{1f}' => {
                xml.push_str(&text[plain..at]);
                // The control pictures of Unicode: U+2400 and the code.
                xml.push(char::from_u32(0x2400 + c as u32).unwrap_or('␦'));
                plain = at + c.len_utf8();
                continue;
            }
            '\u{7f}'..='\u{9f}' | '\u{fffd}'..='\u{ffff}' => "␦",
            _ => continue,
        };
        xml.push_str(&text[plain..at]);
        xml.push_str(instead);
        plain = at + c.len_utf8();
    }
    xml.push_str(&text[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_xml_forbids_gets_through() {
        let mut xml = String::new();
        push_text(&mut xml, "a\u{8}b\0c]]>&\"<\r\n\u{fffe}\u{85}ü𝄞");
        assert_eq!(xml, "a␈b␀c]]&gt;&amp;&quot;&lt;&#13;\n␦␦ü𝄞");
    }
}
