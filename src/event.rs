//! The words: what an event is, how it is named outside, and where it stands.
//!
//! Pure: nothing here reads a clock, a database or the network.

mod trace;

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

pub use trace::{TRACEPARENT, TRACESTATE, TraceContext};

/// Longest id, type or aggregate name. Long enough for every store we know; an index row must hold it.
pub const NAME_BYTES_MAX: usize = 512;
/// Largest `data` or `metadata` text of an event that comes from a table.
pub const DATA_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The type of the record that an event was erased.
pub const ERASED: &str = "postern.erased";

/// A point in time: whole microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Micros {
    /// The representable instants: years 1 to 9999, so that every RFC 3339 reader accepts the text.
    const RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

    /// The instant, or nothing if it lies outside the years 1 to 9999.
    pub fn checked(micros: i64) -> Option<Self> {
        Self::RANGE.contains(&micros).then_some(Self(micros))
    }

    /// Reads RFC 3339 (`2026-01-01T12:00:00.5+01:00`), at microsecond precision.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let time = DateTime::parse_from_rfc3339(text).ok()?;
        Self::checked(time.timestamp_micros())
    }

    fn to_chrono(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }

    /// Exactly three fraction digits and `Z`, truncated: the only form that every feed parser reads right.
    pub fn to_millis_text(self) -> String {
        let mut text = String::with_capacity(24);
        self.push_millis(&mut text);
        text
    }

    /// Pushes [`Micros::to_millis_text`]. By hand: a feed writes two times an entry, and a library's formatter would cost
    /// more than all the rest of it.
    pub fn push_millis(self, text: &mut String) {
        let (days, micros) = (self.0.div_euclid(86_400_000_000), self.0.rem_euclid(86_400_000_000));
        let ((year, month, day), millis) = (civil(days), micros / 1_000);
        let (seconds, millis) = (millis / 1_000, millis % 1_000);
        let mut form = *b"0000-00-00T00:00:00.000Z";
        let mut put = |at: usize, two: i64| {
            // Each is below 100.
            let two = two.unsigned_abs() as u8;
            (form[at], form[at + 1]) = (b'0' + two / 10, b'0' + two % 10);
        };
        put(0, year / 100);
        put(2, year % 100);
        put(5, month);
        put(8, day);
        put(11, seconds / 3_600);
        put(14, seconds / 60 % 60);
        put(17, seconds % 60);
        put(20, millis / 10);
        form[22] = b'0' + (millis % 10).unsigned_abs() as u8;
        text.push_str(std::str::from_utf8(&form).expect("digits are UTF-8"));
    }

    /// RFC 3339 with three fraction digits, or six where the microseconds say more.
    pub fn to_text(self) -> String {
        let format = if self.0 % 1_000 == 0 { SecondsFormat::Millis } else { SecondsFormat::Micros };
        self.to_chrono().to_rfc3339_opts(format, true)
    }

    /// The form of `Last-Modified` (RFC 9110 section 5.6.7).
    pub fn to_http_date(self) -> String {
        self.to_chrono().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    }

    /// This instant and so many microseconds.
    #[must_use]
    pub fn plus(self, micros: i64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// Year, month and day of the Gregorian calendar, of a day counted from 1970-01-01. Years are counted from March here, so
/// that leap days come last, and in eras of 400 years, which all have 146 097 days.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march = days + 719_468;
    let (era, of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + next_year, month, day)
}

/// A fact of a domain, immutable, as a source gave it. `id` is the public one (see [`public_id`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub source: String,
    pub r#type: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub aggregate_version: Option<i64>,
    pub occurred_at: Micros,
    /// The JSON text as it came, digit by digit.
    pub data: String,
    /// The JSON text as it came, or nothing.
    pub metadata: Option<String>,
}

impl Event {
    /// Of data and metadata.
    pub fn payload_bytes(&self) -> usize {
        self.data.len() + self.metadata.as_ref().map_or(0, String::len)
    }
    /// See [`key`].
    pub fn key(&self) -> String {
        key(&self.aggregate_type, &self.aggregate_id)
    }
}

/// What keeps events in order: one aggregate, written so that no two aggregates share a key.
pub fn key(aggregate_type: &str, aggregate_id: &str) -> String {
    format!("{}/{}", escape(aggregate_type), escape(aggregate_id))
}

/// An event with its place in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub position: i64,
    pub event: Event,
    pub recorded_at: Micros,
    /// J of this position: never decreases along the journal.
    pub feed_time: Micros,
    /// Found below what was already read, or released from quarantine.
    pub late: bool,
    pub erased_at: Option<Micros>,
    /// The public id of the event whose erasure this one records.
    pub erases: Option<String>,
    /// Its type.
    pub erased_type: Option<String>,
    /// One line for people, made when the event was journaled.
    pub summary: String,
}

/// The event JSON of every door: detail, SSE, `embed=data`. `data` and `metadata` pass through as they came.
pub struct EventJson<'a> {
    pub journal_id: &'a str,
    pub entry: &'a Entry,
}

impl serde::Serialize for EventJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (entry, event) = (self.entry, &self.entry.event);
        let raw = |text: &str| RawValue::from_string(text.to_owned()).map_err(serde::ser::Error::custom);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &event.id)?;
        map.serialize_entry("cursor", &Cursor::new(self.journal_id, entry.position).to_string())?;
        map.serialize_entry("position", &entry.position)?;
        map.serialize_entry("type", &event.r#type)?;
        map.serialize_entry("source", &event.source)?;
        map.serialize_entry("aggregateType", &event.aggregate_type)?;
        map.serialize_entry("aggregateId", &event.aggregate_id)?;
        map.serialize_entry("aggregateVersion", &event.aggregate_version)?;
        map.serialize_entry("occurredAt", &event.occurred_at.to_text())?;
        map.serialize_entry("recordedAt", &entry.recorded_at.to_text())?;
        if let Some(at) = entry.erased_at {
            map.serialize_entry("erasedAt", &at.to_text())?;
        }
        map.serialize_entry("data", &raw(&event.data)?)?;
        map.serialize_entry("metadata", &event.metadata.as_deref().map(raw).transpose()?)?;
        map.end()
    }
}

/// The CloudEvents 1.0 form of an event. `data` passes through as it came.
pub struct CloudEvent<'a> {
    pub public_url: &'a str,
    pub entry: &'a Entry,
    /// The event's own, or what was selected of it.
    pub data: &'a str,
}

impl CloudEvent<'_> {
    /// All but the data, in the order in which they are written.
    pub fn attributes(&self) -> Vec<(&'static str, String)> {
        let (entry, event) = (self.entry, &self.entry.event);
        let mut attributes = vec![
            ("specversion", "1.0".to_owned()),
            ("id", event.id.clone()),
            ("source", format!("{}/sources/{}", self.public_url, event.source)),
            ("type", event.r#type.clone()),
            ("subject", event.aggregate_id.clone()),
            ("time", event.occurred_at.to_text()),
        ];
        if entry.erased_at.is_none() {
            attributes.push(("datacontenttype", "application/json".to_owned()));
        }
        // A text that sorts as the number does.
        attributes.push(("sequence", format!("{:020}", entry.position)));
        attributes.push(("partitionkey", event.aggregate_id.clone()));
        attributes.push(("aggregatetype", event.aggregate_type.clone()));
        // An attribute's integer has 32 bits.
        attributes.extend(event.aggregate_version.map(|version| ("aggregateversion", version.to_string())));
        attributes.extend(entry.erased_at.map(|at| ("erasedat", at.to_text())));
        if let Some(trace) = event.trace_context() {
            attributes.push((TRACEPARENT, trace.parent().to_owned()));
            attributes.extend(trace.state.map(|state| (TRACESTATE, state)));
        }
        attributes
    }
}

impl serde::Serialize for CloudEvent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.attributes() {
            map.serialize_entry(name, &value)?;
        }
        if self.entry.erased_at.is_none() {
            let data = RawValue::from_string(self.data.to_owned()).map_err(serde::ser::Error::custom)?;
            map.serialize_entry("data", &data)?;
        }
        map.end()
    }
}

/// A place in a journal that survives its restore: `{journal id, 8 hex}-{position}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub journal_id: String,
    pub position: i64,
}

impl Cursor {
    pub fn new(journal_id: &str, position: i64) -> Self {
        Self { journal_id: journal_id.to_owned(), position }
    }

    /// The cursor that this text is, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (journal_id, position) = text.split_once('-')?;
        let is_id = journal_id.len() == 8 && journal_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let is_number = !position.is_empty() && position.bytes().all(|b| b.is_ascii_digit());
        if !is_id || !is_number {
            return None;
        }
        Some(Self { journal_id: journal_id.to_owned(), position: position.parse().ok()? })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.journal_id, self.position)
    }
}

/// The public id: the source's own id if it is a UUID (then in lower case) or a ULID, else `{source}:{id}`.
pub fn public_id(source: &str, own_id: &str) -> String {
    if is_uuid(own_id) {
        own_id.to_ascii_lowercase()
    } else if is_ulid(own_id) {
        own_id.to_owned()
    } else {
        format!("{source}:{own_id}")
    }
}

/// The Atom id (RFC 4287 section 4.2.6): permanent, and never made from the request's host.
pub fn atom_id(authority: &str, year: i32, source: &str, id: &str) -> String {
    if is_uuid(id) {
        return format!("urn:uuid:{id}");
    }
    let own = id.strip_prefix(source).and_then(|own| own.strip_prefix(':')).unwrap_or(id);
    format!("tag:{authority},{year}:{source}/{}", escape(own))
}

/// The public id that an Atom id of ours stands for.
pub fn event_id_of_atom_id(atom_id: &str) -> Option<String> {
    if let Some(uuid) = atom_id.strip_prefix("urn:uuid:") {
        return is_uuid(uuid).then(|| uuid.to_ascii_lowercase());
    }
    let (_, path) = atom_id.strip_prefix("tag:")?.split_once(':')?;
    let (source, own) = path.split_once('/')?;
    Some(public_id(source, &unescape(own)?))
}

/// Percent-encodes all but letters, digits, `-`, `_`, `~` and `.`.
pub fn escape(text: &str) -> String {
    const KEEP: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(text, KEEP).to_string()
}

/// What was escaped; nothing if it is no UTF-8.
pub fn unescape(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().map(String::from).ok()
}

/// Whether the text is a UUID in its hyphenated form.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36 && uuid::Uuid::try_parse(text).is_ok()
}

fn is_ulid(text: &str) -> bool {
    text.len() == 26
        && text.as_bytes()[0] <= b'7'
        && text.bytes().all(|b| b.is_ascii_digit() || (b.is_ascii_uppercase() && !b"ILOU".contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_id_keeps_uuids_and_ulids_and_prefixes_the_rest() {
        let uuid = "5C43B933-6535-5279-8E48-CA8706E94C1B";
        assert_eq!(public_id("cart", uuid), uuid.to_lowercase());
        assert_eq!(public_id("cart", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
        assert_eq!(public_id("cart", "17"), "cart:17");
    }

    #[test]
    fn an_atom_id_leads_back_to_its_event() {
        for own in ["5c43b933-6535-5279-8e48-ca8706e94c1b", "a b/c:ä", "17"] {
            let id = public_id("cart", own);
            let atom = atom_id("example.com", 2026, "cart", &id);
            assert_eq!(event_id_of_atom_id(&atom), Some(id), "{atom}");
        }
    }

    #[test]
    fn a_cursor_is_read_strictly() {
        assert_eq!(Cursor::parse("0a1b2c3d-42"), Some(Cursor::new("0a1b2c3d", 42)));
        for bad in ["0a1b2c3d-", "0A1B2C3D-1", "0a1b2c3-1", "0a1b2c3d--1", "0a1b2c3d-+1", "42"] {
            assert_eq!(Cursor::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_are_written_as_a_library_writes_them() {
        let step = 86_400_000_000 * 97 + 3_723_456_789;
        let mut micros = *Micros::RANGE.start();
        while micros <= *Micros::RANGE.end() {
            let time = Micros(micros);
            assert_eq!(time.to_millis_text(), time.to_chrono().to_rfc3339_opts(SecondsFormat::Millis, true));
            micros += step;
        }
    }

    #[test]
    fn feed_times_have_three_digits_and_are_cut_not_rounded() {
        let time = Micros::parse_rfc3339("2026-01-01T00:04:20.999999+00:00").expect("a time");
        assert_eq!(time.to_millis_text(), "2026-01-01T00:04:20.999Z");
        assert_eq!(time.to_text(), "2026-01-01T00:04:20.999999Z");
    }
}
