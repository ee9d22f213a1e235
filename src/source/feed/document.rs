//! The bytes of a feed become entries and links; an entry becomes an event. Pure.

use atom_syndication as atom;
use chrono::DateTime;
use serde_json::{Map, Value, json};

use crate::catalogue::Catalogue;
use crate::event::{Event, Micros, NAME_BYTES_MAX, is_uuid, public_id};
use crate::journal::Quarantined;
use crate::runtime::{hex, sha256};
use crate::source::mapping::{Fault, Mapped, RAW_BYTES_MAX, check_json, check_name, check_schema, cut, fault};

const ENTRIES_MAX: usize = 10_000;
/// The parsers descend into unknown elements by recursion: deeper ones would exhaust the stack.
const NESTING_MAX: usize = 100;

/// A feed document.
#[derive(Debug)]
pub(super) struct Document {
    /// Relation and href, as they stand there.
    links: Vec<(String, String)>,
    /// As they stand there.
    pub entries: Vec<Item>,
}

/// One entry of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Item {
    /// Empty: it has none.
    id: String,
    /// Its link without a type.
    pub link: Option<String>,
    published: Option<Micros>,
    updated: Option<Micros>,
    /// Scheme and term.
    categories: Vec<(String, String)>,
    data: Map<String, Value>,
}

impl Document {
    /// # Errors
    /// Why it is no feed, in words.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        if nesting(body) > NESTING_MAX {
            return Err(format!("nests deeper than {NESTING_MAX} elements"));
        }
        let document = match atom::Feed::read_from(body) {
            Ok(feed) => Self::of_atom(feed),
            Err(atom::Error::InvalidStartTag) => match rss::Channel::read_from(body) {
                Ok(channel) => Self::of_rss(channel),
                Err(rss::Error::InvalidStartTag) => return Err("is neither Atom nor RSS".to_owned()),
                Err(cause) => return Err(format!("can't be read as RSS: {cause}")),
            },
            Err(atom::Error::Eof) => return Err("ends too early, or is empty".to_owned()),
            Err(cause) => return Err(format!("can't be read as Atom: {cause}")),
        };
        if document.entries.len() > ENTRIES_MAX {
            return Err(format!("holds {} entries; at most {ENTRIES_MAX} are read", document.entries.len()));
        }
        Ok(document)
    }

    fn of_atom(feed: atom::Feed) -> Self {
        let base = feed.base.unwrap_or_default();
        // A base that is no URL itself is left to whoever joins them.
        let based = |href: String| url::Url::parse(&base).and_then(|base| base.join(&href)).map_or(href, String::from);
        let links = feed.links.into_iter().map(|link| (link.rel, based(link.href))).collect();
        Self { links, entries: feed.entries.into_iter().map(Item::of_atom).collect() }
    }

    fn of_rss(channel: rss::Channel) -> Self {
        Self { links: Vec::new(), entries: channel.items.into_iter().map(Item::of_rss).collect() }
    }

    pub(super) fn link(&self, relation: &str) -> Option<&str> {
        self.links.iter().find(|(rel, _)| rel == relation).map(|(_, href)| href.as_str())
    }

    /// The entries, oldest first. Feeds show the newest first by custom; one that is in the order of time already keeps it.
    pub(super) fn oldest_first(self) -> Vec<Item> {
        let mut entries = self.entries;
        let time = |item: &Item| item.updated.or(item.published);
        let is_timed = entries.iter().all(|item| time(item).is_some());
        if is_timed && entries.is_sorted_by_key(time) {
            return entries;
        }
        entries.reverse();
        if is_timed {
            entries.sort_by_key(time);
        }
        entries
    }
}

impl Item {
    fn of_atom(entry: atom::Entry) -> Self {
        let micros = |time: atom::FixedDateTime| Micros::checked(time.timestamp_micros());
        // What the parser says where nothing is said.
        let updated = Some(entry.updated).filter(|time| time.timestamp_micros() != 0);
        let untyped = |link: &&atom::Link| link.rel == "alternate" && link.mime_type.is_none();
        let link = entry.links.iter().find(untyped).map(|link| link.href.clone());
        let links =
            entry.links.iter().map(|link| some(json!({"rel": link.rel, "href": link.href, "type": link.mime_type})));
        let person =
            |person: &atom::Person| some(json!({"name": person.name, "email": person.email, "uri": person.uri}));
        let categories = entry.categories.iter();
        let labelled = categories.clone().map(|c| some(json!({"term": c.term, "scheme": c.scheme, "label": c.label})));
        let content = entry.content.as_ref();
        let source = content.and_then(|content| content.src.as_ref()).map(|src| json!({"rel": "content", "href": src}));
        let data = json!({
            "title": entry.title.value,
            "summary": entry.summary.map(|text| text.value),
            "content": content.and_then(|content| content.value.as_ref()),
            "links": links.chain(source).collect::<Vec<_>>(),
            "authors": entry.authors.iter().map(person).collect::<Vec<_>>(),
            "categories": labelled.collect::<Vec<_>>(),
        });
        Self {
            id: entry.id.trim().to_owned(),
            link,
            published: entry.published.and_then(micros),
            updated: updated.and_then(micros),
            categories: categories.map(|c| (c.scheme.clone().unwrap_or_default(), c.term.clone())).collect(),
            data: object(some(data)),
        }
    }

    fn of_rss(item: rss::Item) -> Self {
        let dublin = item.dublin_core_ext.unwrap_or_default();
        let guid = item.guid.map(|guid| guid.value.trim().to_owned()).filter(|guid| !guid.is_empty());
        let time = |text: &String| {
            let rfc_2822 = || Micros::checked(DateTime::parse_from_rfc2822(text.trim()).ok()?.timestamp_micros());
            Micros::parse_rfc3339(text.trim()).or_else(rfc_2822)
        };
        let published = item.pub_date.as_ref().and_then(time).or_else(|| dublin.dates.first().and_then(time));
        let link = item.link.as_ref().map(|href| json!({"rel": "alternate", "href": href}));
        let enclosure = item.enclosure.as_ref();
        let enclosure = enclosure.map(|it| some(json!({"rel": "enclosure", "href": it.url, "type": it.mime_type})));
        let categories = item.categories.iter();
        let data = json!({
            "title": item.title,
            "summary": item.description,
            "content": item.content,
            "links": link.into_iter().chain(enclosure).collect::<Vec<_>>(),
            "authors": item.author.iter().chain(&dublin.creators).map(|name| json!({"name": name})).collect::<Vec<_>>(),
            "categories": categories.clone().map(|c| some(json!({"term": c.name, "scheme": c.domain}))).collect::<Vec<_>>(),
        });
        Self {
            id: guid.or_else(|| item.link.as_ref().map(|link| link.trim().to_owned())).unwrap_or_default(),
            link: item.link,
            published,
            updated: None,
            categories: categories.map(|c| (c.domain.clone().unwrap_or_default(), c.name.clone())).collect(),
            data: object(some(data)),
        }
    }

    /// Its own id. A UUID is one without its prefix, too.
    fn own_id(&self) -> &str {
        self.id.strip_prefix("urn:uuid:").filter(|uuid| is_uuid(uuid)).unwrap_or(&self.id)
    }

    /// The id that its event has.
    pub(super) fn public_id(&self, source: &str) -> String {
        public_id(source, self.own_id())
    }

    /// When it happened, if it says so.
    pub(super) fn time(&self) -> Option<Micros> {
        self.published.or(self.updated)
    }

    /// The term of the category whose scheme ends like this.
    fn term(&self, ending: &str) -> Option<&str> {
        let found = self.categories.iter().find(|(scheme, term)| scheme.ends_with(ending) && !term.is_empty());
        found.map(|(_, term)| term.as_str())
    }

    fn r#type(&self) -> &str {
        let is_free = |scheme: &str| !scheme.ends_with("/aggregate-type") && !scheme.ends_with("/aggregate");
        let first = || self.categories.iter().find(|(scheme, term)| is_free(scheme) && !term.is_empty());
        self.term("/type").or_else(|| first().map(|(_, term)| term.as_str())).unwrap_or("Entry")
    }

    /// The event that it is, as it happened at this time.
    pub(super) fn map(&self, source: &str, catalogue: &Catalogue, time: Micros) -> Mapped {
        let event = Event {
            id: self.public_id(source),
            source: source.to_owned(),
            r#type: self.r#type().to_owned(),
            aggregate_type: self.term("/aggregate-type").unwrap_or(source).to_owned(),
            aggregate_id: self.term("/aggregate").unwrap_or(self.own_id()).to_owned(),
            aggregate_version: None,
            occurred_at: time,
            data: Value::Object(self.data.clone()).to_string(),
            metadata: None,
        };
        let has_id = if self.id.is_empty() { Err(fault("missing-id", "the entry has no id")) } else { Ok(()) };
        self.outcome(has_id.map(|()| event), catalogue)
    }

    /// What becomes of an event that was made of this entry.
    pub(super) fn outcome(&self, event: Result<Event, Fault>, catalogue: &Catalogue) -> Mapped {
        match event {
            Ok(event) if !catalogue.publishes(&event.r#type) => Mapped::Withheld,
            Ok(event) => check(&event)
                .and_then(|()| check_schema(catalogue, &event))
                .map_or_else(|fault| self.quarantined(fault), |()| Mapped::Event(event)),
            Err(fault) => self.quarantined(fault),
        }
    }

    fn quarantined(&self, fault: Fault) -> Mapped {
        let mut raw = self.data.clone();
        raw.insert("id".to_owned(), cut(&self.id, 4 * NAME_BYTES_MAX).into());
        let raw = Value::Object(raw).to_string();
        // What has no id that can be kept is known again by all that it says.
        let is_known = (1..=NAME_BYTES_MAX).contains(&self.own_id().len()) && !self.id.contains('\0');
        Mapped::Quarantined(Quarantined {
            event_id: is_known.then(|| self.own_id().to_owned()),
            sequence: (!is_known).then(|| format!("sha256:{}", hex(&sha256(&raw)))),
            reason: fault.reason,
            detail: fault.detail.replace('\0', "\u{fffd}"),
            raw: cut(&raw, RAW_BYTES_MAX).to_owned(),
        })
    }
}

/// Whether the journal can hold it.
fn check(event: &Event) -> Result<(), Fault> {
    check_name(&event.id, "id", "missing-id")?;
    check_name(&event.r#type, "type", "missing-type")?;
    check_name(&event.aggregate_type, "aggregate_type", "missing-aggregate-type")?;
    check_name(&event.aggregate_id, "aggregate_id", "missing-aggregate-id")?;
    check_json(&event.data, "data")?;
    event.metadata.as_ref().map_or(Ok(()), |metadata| check_json(metadata, "metadata"))
}

/// Without what is absent.
fn some(value: Value) -> Value {
    let is_absent = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    Value::Object(object(value).into_iter().filter(|(_, value)| !is_absent(value)).collect())
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// How deep the elements of an XML text nest, or deeper: what is no XML is the parser's business.
fn nesting(xml: &[u8]) -> usize {
    let after = |from: usize, end: &[u8]| {
        xml[from..].windows(end.len()).position(|window| window == end).map_or(xml.len(), |at| from + at + end.len())
    };
    let (mut at, mut depth, mut deepest) = (0_usize, 0_usize, 0);
    while let Some(open) = xml[at..].iter().position(|byte| *byte == b'<').map(|found| at + found) {
        let rest = &xml[open..];
        at = match rest {
            [b'<', b'!', b'-', b'-', ..] => after(open + 4, b"-->"),
            [b'<', b'!', b'[', ..] => after(open, b"]]>"),
            [b'<', b'?', ..] => after(open, b"?>"),
            [b'<', b'!', ..] => after(open, b">"),
            _ => {
                let end = tag_end(rest).map_or(xml.len(), |end| open + end);
                if rest.starts_with(b"</") {
                    depth = depth.saturating_sub(1);
                } else if xml[..end].last() != Some(&b'/') {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                (end + 1).min(xml.len())
            }
        };
    }
    deepest
}

/// Where a tag's `>` is: not in the quotes of an attribute.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    tag.iter().position(|byte| {
        match (quote, byte) {
            (Some(open), byte) if open == *byte => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            _ => return quote.is_none() && *byte == b'>',
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_as_the_parser_descends() {
        for (xml, depth) in [
            ("<a><b/><c x='>/'><d></d></c></a>", 3),
            ("<?xml v='<a>'?><!-- <a><a> --><a><![CDATA[<b><b>]]></a>", 1),
            ("<a", 1),
            ("<", 1),
            ("", 0),
        ] {
            assert_eq!(nesting(xml.as_bytes()), depth, "{xml}");
        }
    }

    #[test]
    fn what_is_in_the_order_of_time_keeps_it_and_all_else_is_turned_round() {
        let order = |times: &[Option<i64>]| {
            let item = |(n, time): (usize, &Option<i64>)| Item {
                id: n.to_string(),
                updated: time.map(Micros),
                ..Item::default()
            };
            let document = Document { links: Vec::new(), entries: times.iter().enumerate().map(item).collect() };
            document.oldest_first().into_iter().map(|item| item.id).collect::<String>()
        };
        assert_eq!(order(&[Some(1), Some(2), Some(2)]), "012");
        assert_eq!(order(&[Some(3), Some(2), Some(2), Some(1)]), "3210");
        assert_eq!(order(&[Some(2), Some(3), Some(1)]), "201");
        assert_eq!(order(&[Some(1), None, Some(2)]), "210");
    }
}
