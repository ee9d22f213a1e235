//! Entries → Atom (RFC 4287, archives by RFC 5005). Pure: the bytes are a function of the arguments.
//!
//! Our own writer, because every byte counts on a page that is made once and read for ever: pushes into one string.
//! What real parsers stumble over decides the forms: three fraction digits, one untyped alternate link, metadata
//! before entries, no control characters.

use std::fmt::Write as _;
use std::ops::Range;

use super::format::{Document, Names};
use crate::event::{Entry, Micros, atom_id, escape as percent_encode, is_uuid};

/// A rendered entry is about this long; saves growing the string.
const ENTRY_BYTES: usize = 900;

/// Renders a document, behind what the text holds already. A text that is used again needs no new memory.
pub fn render(xml: &mut String, names: &Names, document: &Document<'_>) {
    xml.reserve(1024 + document.entries.len() * ENTRY_BYTES);
    xml.push_str("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<feed xmlns=\"http://www.w3.org/2005/Atom\"");
    if document.archive {
        xml.push_str(" xmlns:fh=\"http://purl.org/syndication/history/1.0\"");
    }
    xml.push_str(">\n<id>tag:");
    let _ = write!(xml, "{},{}:feeds/{}", names.authority, names.year, percent_encode(document.feed));
    xml.push_str("</id>\n<title>");
    push_text(xml, document.title);
    xml.push_str("</title>\n<updated>");
    document.updated.push_millis(xml);
    xml.push_str("</updated>\n<author><name>");
    push_text(xml, &names.authority);
    xml.push_str("</name></author>\n<generator>Postern</generator>\n");
    if document.archive {
        xml.push_str("<fh:archive/>\n");
    }
    for (relation, url) in document.links {
        xml.push_str("<link rel=\"");
        xml.push_str(relation);
        // A hub is no feed.
        xml.push_str(if *relation == "hub" { "\" href=\"" } else { "\" type=\"application/atom+xml\" href=\"" });
        push_text(xml, url);
        xml.push_str("\"/>\n");
    }
    let parts = Parts::new(names);
    for entry in document.entries {
        if let Some(at) = entry.erased_at {
            push_tombstone(xml, names, (&entry.event.source, &entry.event.id), at);
            continue;
        }
        if let Some(erased) = &entry.erases {
            push_tombstone(xml, names, (&entry.event.source, erased), entry.recorded_at);
        }
        xml.push_str("<entry>\n");
        push_entry(xml, names, &parts, entry);
    }
    xml.push_str("</feed>\n");
}

/// A document of one entry (RFC 4287 section 2). Outside of a feed it says itself who wrote it.
pub fn entry(names: &Names, entry: &Entry) -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<entry xmlns=\"http://www.w3.org/2005/Atom\">\n<author><name>",
    );
    push_text(&mut xml, &names.authority);
    xml.push_str("</name></author>\n");
    push_entry(&mut xml, names, &Parts::new(names), entry);
    xml
}

/// What stands behind its start tag, and its end.
fn push_entry(xml: &mut String, names: &Names, parts: &Parts, entry: &Entry) {
    let event = &entry.event;
    let is_uuid = is_uuid(&event.id);
    xml.push_str("<id>");
    match is_uuid {
        true => push_urn(xml, &event.id),
        false => push_text(xml, &atom_id(&names.authority, names.year, &event.source, &event.id)),
    }
    xml.push_str("</id>\n<title>");
    // What comes again is copied: looking through it would be dearer.
    let r#type = pushed(xml, |xml| push_text(xml, &event.r#type));
    xml.push(' ');
    let aggregate = pushed(xml, |xml| push_text(xml, &event.aggregate_id));
    xml.push_str("</title>\n<updated>");
    let updated = pushed(xml, |xml| entry.feed_time.push_millis(xml));
    xml.push_str("</updated>\n<published>");
    match event.occurred_at == entry.feed_time {
        true => xml.extend_from_within(updated),
        false => event.occurred_at.push_millis(xml),
    }
    xml.push_str("</published>\n");
    xml.push_str(&parts.categories[0]);
    xml.extend_from_within(r#type);
    xml.push_str(&parts.categories[1]);
    push_text(xml, &event.aggregate_type);
    xml.push_str(&parts.categories[2]);
    xml.extend_from_within(aggregate);
    xml.push_str(&parts.alternate);
    match is_uuid {
        true => xml.push_str(&event.id),
        false => xml.push_str(&percent_encode(&event.id)),
    }
    xml.push_str("\"/>\n<summary>");
    push_text(xml, &entry.summary);
    xml.push_str("</summary>\n</entry>\n");
}

/// Where that stands which was pushed.
fn pushed(xml: &mut String, push: impl FnOnce(&mut String)) -> Range<usize> {
    let from = xml.len();
    push(xml);
    from..xml.len()
}

/// Nothing in it is to be replaced.
fn push_urn(xml: &mut String, uuid: &str) {
    xml.push_str("urn:uuid:");
    xml.push_str(uuid);
}

/// What is the same in all entries, each with the end of what stands before it.
struct Parts {
    categories: [String; 3],
    alternate: String,
}

impl Parts {
    fn new(names: &Names) -> Self {
        let mut url = String::new();
        push_text(&mut url, &names.public_url);
        let category = |end, scheme| format!("{end}<category scheme=\"{url}/schemes/{scheme}\" term=\"");
        let end = "\"/>\n";
        Self {
            categories: [category("", "type"), category(end, "aggregate-type"), category(end, "aggregate")],
            alternate: format!("{end}<link rel=\"alternate\" href=\"{url}/events/"),
        }
    }
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
    let (bytes, mut plain, mut at) = (text.as_bytes(), 0, 0);
    while let Some(offset) = bytes[at..].iter().position(|byte| SPECIAL[usize::from(*byte)]) {
        at += offset;
        let Some(c) = text[at..].chars().next() else { break };
        let (from, until) = (at, at + c.len_utf8());
        at = until;
        let instead = match c {
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            '\r' => "&#13;",
            '\0'..='\u{1f}' => "",
            '\u{7f}'..='\u{9f}' | '\u{fffd}'..='\u{ffff}' => "␦",
            // It only begins as one of those does.
            _ => continue,
        };
        xml.push_str(&text[plain..from]);
        match instead {
            // The control pictures of Unicode: U+2400 and the code.
            "" => xml.push(char::from_u32(0x2400 + c as u32).unwrap_or('␦')),
            instead => xml.push_str(instead),
        }
        plain = until;
    }
    xml.push_str(&text[plain..]);
}

/// Bytes with which something begins that may have to be replaced.
const SPECIAL: [bool; 256] = {
    let mut special = [false; 256];
    let mut byte = 0;
    while byte < 0x20 {
        special[byte] = byte != b'\t' as usize && byte != b'\n' as usize;
        byte += 1;
    }
    special[b'&' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'"' as usize] = true;
    special[0x7f] = true;
    // U+0080 to U+00BF, and U+F000 to U+FFFF.
    special[0xc2] = true;
    special[0xef] = true;
    special
};

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
