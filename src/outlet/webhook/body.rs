//! What a call carries: an event in the format of its webhook. A function of the event and the webhook alone, so equal
//! events give equal bytes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::json;

use super::definition::Format;
use super::websub::Topic;
use crate::event::{CloudEvent, Cursor, Entry};
use crate::journal::Columns;

/// What is not written as it is in the header of a CloudEvents attribute (HTTP binding, section 3.1.3.2).
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// What a call needs of an event: all but what only feeds and queries show.
const CALLED: Columns = Columns::ID
    .with(Columns::SOURCE)
    .with(Columns::AGGREGATE)
    .with(Columns::VERSION)
    .with(Columns::OCCURRED)
    .with(Columns::RECORDED)
    .with(Columns::ERASED)
    .with(Columns::DATA)
    .with(Columns::METADATA);

/// The selected data of an event, as JSON; nothing if the selection does not fit any more.
pub type Projection = Arc<dyn Fn(&Entry) -> String + Send + Sync>;

/// Renders for one webhook.
#[derive(Clone)]
pub(super) struct Renderer {
    pub(super) format: Format,
    pub(super) public_url: String,
    pub(super) journal_id: String,
    pub(super) projection: Option<Projection>,
    /// Of a subscription.
    pub(super) topic: Option<Topic>,
}

impl Renderer {
    pub(super) fn content_type(&self) -> &'static str {
        match self.format {
            Format::Standard | Format::CloudeventsBinary | Format::Thin => "application/json",
            Format::Cloudevents => "application/cloudevents+json",
            Format::CloudeventsBatch => "application/cloudevents-batch+json",
            Format::Websub => self.topic.as_ref().map_or("application/atom+xml", |topic| topic.content_type),
        }
    }

    /// What has to be read of an event.
    pub(super) fn columns(&self) -> Columns {
        match self.format {
            _ if self.projection.is_some() => Columns::ALL,
            Format::Websub => Columns::ALL,
            _ => CALLED,
        }
    }

    /// The same in another format.
    pub(super) fn with(&self, format: Format) -> Self {
        Self { format, ..self.clone() }
    }

    /// The body for one event, or its part of a batch.
    pub(super) fn body(&self, entry: &Entry) -> Bytes {
        let event = &entry.event;
        let selected = self.projection.as_ref().map(|projection| projection(entry));
        let data = selected.as_deref().unwrap_or(&event.data);
        match self.format {
            Format::CloudeventsBinary => data.to_owned().into(),
            Format::Cloudevents | Format::CloudeventsBatch => {
                let event = CloudEvent { public_url: &self.public_url, entry, data };
                serde_json::to_vec(&event).expect("journaled data is JSON").into()
            }
            Format::Standard => standard(entry, data),
            Format::Websub => self.batch(std::slice::from_ref(entry)),
            Format::Thin => {
                let cursor = Cursor::new(&self.journal_id, entry.position - 1);
                let links = json!({
                    "self": format!("{}/events/{}", self.public_url, crate::event::escape(&event.id)),
                    "feed": format!("{}/feeds/all.atom?after={cursor}", self.public_url),
                });
                standard(entry, &json!({"id": event.id, "position": entry.position, "links": links}).to_string())
            }
        }
    }

    /// The body for several events.
    pub(super) fn batch(&self, entries: &[Entry]) -> Bytes {
        if let Some(topic) = &self.topic {
            return (topic.document)(entries);
        }
        let mut body = b"[".to_vec();
        for (n, entry) in entries.iter().enumerate() {
            if n > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&self.body(entry));
        }
        body.push(b']');
        body.into()
    }

    /// What of the event stands in headers.
    pub(super) fn headers(&self, entry: &Entry) -> Vec<(HeaderName, HeaderValue)> {
        if self.format != Format::CloudeventsBinary {
            return Vec::new();
        }
        let event = CloudEvent { public_url: &self.public_url, entry, data: "" };
        let header = |(name, value): (&str, String)| {
            let name = if name == "datacontenttype" { return None } else { format!("ce-{name}") };
            let value = utf8_percent_encode(&value, ENCODED).to_string();
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        event.attributes().into_iter().filter_map(header).collect()
    }
}

/// The Standard Webhooks body. `data` passes through as it came.
fn standard(entry: &Entry, data: &str) -> Bytes {
    let event = &entry.event;
    let mut body = Vec::with_capacity(data.len() + event.r#type.len() + 80);
    body.extend_from_slice(b"{\"type\":");
    serde_json::to_writer(&mut body, &event.r#type).expect("a text is JSON, and memory can be written to");
    body.extend_from_slice(b",\"timestamp\":\"");
    body.extend_from_slice(event.occurred_at.to_text().as_bytes());
    body.extend_from_slice(b"\",\"data\":");
    body.extend_from_slice(data.as_bytes());
    body.push(b'}');
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, Micros};
    use serde_json::Value;

    fn rendered(format: Format) -> (Value, Vec<String>) {
        let event = Event {
            id: "cart:1".into(),
            source: "cart".into(),
            r#type: "T".into(),
            aggregate_type: "Cart".into(),
            aggregate_id: "ä 1%".into(),
            aggregate_version: Some(2),
            occurred_at: Micros(0),
            data: r#"{"a":1}"#.into(),
            metadata: None,
        };
        let entry = Entry { position: 7, event, ..Entry::default() };
        let (public_url, journal_id) = ("https://g.example".to_owned(), "00000000".to_owned());
        let renderer = Renderer { format, public_url, journal_id, projection: None, topic: None };
        let headers = renderer.headers(&entry).into_iter();
        let headers = headers.map(|(name, value)| format!("{name}: {}", value.to_str().expect("ASCII")));
        (serde_json::from_slice(&renderer.body(&entry)).expect("JSON"), headers.collect())
    }

    #[test]
    fn each_format_has_its_form() {
        let (standard, none) = rendered(Format::Standard);
        assert_eq!(standard, json!({"type": "T", "timestamp": "1970-01-01T00:00:00.000Z", "data": {"a": 1}}));
        assert!(none.is_empty());
        let (structured, _) = rendered(Format::Cloudevents);
        assert_eq!(
            (&structured["source"], &structured["data"]),
            (&json!("https://g.example/sources/cart"), &json!({"a": 1}))
        );
        assert_eq!(structured["sequence"], "00000000000000000007");
        let (binary, headers) = rendered(Format::CloudeventsBinary);
        assert_eq!(binary, json!({"a": 1}));
        for header in ["ce-specversion: 1.0", "ce-id: cart:1", "ce-subject: %C3%A4%201%25", "ce-aggregateversion: 2"] {
            assert!(headers.iter().any(|sent| sent == header), "{header} in {headers:?}");
        }
        assert!(!headers.iter().any(|sent| sent.contains("datacontenttype")));
        let (thin, _) = rendered(Format::Thin);
        assert_eq!(
            thin["data"],
            json!({"id": "cart:1", "position": 7, "links": {
                "self": "https://g.example/events/cart%3A1", "feed": "https://g.example/feeds/all.atom?after=00000000-6"
            }})
        );
    }
}
