//! Whom a webhook calls: where, and what its calls carry beside the body.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use url::Url;

use super::Shared;
use super::attempt::Delivery;
use super::definition::Definition;
use super::secrets::{Auth, Secrets, is_secret_header};
use super::signature::Signer;
use crate::event::{Cursor, TRACEPARENT, TRACESTATE};
use crate::journal::webhooks::WebhookRow;
use crate::runtime::random_hex;

/// Of CloudEvents: who asks for consent, and on whose behalf calls are made.
const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const REQUEST_RATE: HeaderName = HeaderName::from_static("webhook-request-rate");
/// Of Standard Webhooks.
const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Postern's own.
const SEQUENCE: HeaderName = HeaderName::from_static("webhook-sequence");
const ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");
const KEY: HeaderName = HeaderName::from_static("webhook-key");
const REPLAY: HeaderName = HeaderName::from_static("webhook-replay");
/// As a rule the values of a call's headers have no more.
const VALUES_BYTES: usize = 512;
const USER_AGENT: &str = concat!("Postern/", env!("CARGO_PKG_VERSION"));

/// Where calls go, how they are signed, and what all of them carry.
pub(super) struct Receiver {
    pub(super) url: Url,
    signer: Signer,
    /// Of a subscription: its hub and its topic.
    links: Option<HeaderValue>,
    /// What all of its calls carry.
    pub(super) headers: HeaderMap,
    pub(super) auth: Option<Auth>,
}

impl Receiver {
    /// Nothing if what is stored can't be used.
    pub(super) fn new(shared: &Shared, row: &WebhookRow, definition: &Definition, secrets: Secrets) -> Option<Self> {
        let signer = secrets.signer(&definition.signature)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        for (name, value) in &secrets.headers {
            let mut shown = HeaderValue::try_from(value).ok()?;
            shown.set_sensitive(is_secret_header(name));
            headers.insert(HeaderName::try_from(name.as_str()).ok()?, shown);
        }
        match &secrets.auth {
            Some(Auth::Basic { username, password }) => {
                let pair = STANDARD.encode(format!("{username}:{password}"));
                headers.insert(header::AUTHORIZATION, secret(&format!("Basic {pair}"))?);
            }
            Some(Auth::Bearer(token)) => {
                headers.insert(header::AUTHORIZATION, secret(&format!("Bearer {token}"))?);
            }
            Some(Auth::Oauth2 { .. }) | None => {}
        }
        headers.insert(REQUEST_ORIGIN, HeaderValue::try_from(&shared.authority).ok()?);
        if let Some(rate) = definition.rate_per_minute() {
            headers.insert(REQUEST_RATE, rate.into());
        }
        let links = definition.websub.as_ref().map(|subscription| {
            let (hub, topic) = (&shared.public_url, &subscription.topic);
            HeaderValue::try_from(format!("<{hub}/websub>; rel=\"hub\", <{topic}>; rel=\"self\""))
        });
        Some(Self { url: row.url.parse().ok()?, signer, headers, links: links.transpose().ok()?, auth: secrets.auth })
    }

    /// Everything that a call carries but its body. `traceparent` names the call's step if traces are sent; else the call has
    /// an id in the event's trace that nobody else knows.
    pub(super) fn headers(
        &self,
        shared: &Shared,
        delivery: &Delivery,
        attempt: i64,
        timestamp: i64,
        replay: &str,
        traceparent: Option<String>,
    ) -> HeaderMap {
        let id = webhook_id(&delivery.event_id);
        let mut headers = HeaderMap::with_capacity(self.headers.len() + delivery.headers.len() + 12);
        headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(delivery.content_type));
        headers.extend(delivery.headers.iter().cloned());
        let mut values = Values { text: String::with_capacity(VALUES_BYTES), ends: Vec::with_capacity(12) };
        for (name, signature) in self.signer.headers(&id, timestamp, &delivery.body) {
            values.push(name, format_args!("{signature}"));
        }
        values.push(ID, format_args!("{id}"));
        values.push(TIMESTAMP, format_args!("{timestamp}"));
        values.push(SEQUENCE, format_args!("{}", delivery.last()));
        values.push(ATTEMPT, format_args!("{attempt}"));
        match &self.links {
            Some(links) => drop(headers.insert(header::LINK, links.clone())),
            None => {
                let cursor = Cursor::new(shared.journal.id(), delivery.last());
                let public_url = &shared.public_url;
                values.push(header::LINK, format_args!("<{public_url}/feeds/all.atom?after={cursor}>; rel=\"via\""));
            }
        }
        if !delivery.key.is_empty() {
            values.push(KEY, format_args!("{}", delivery.key));
        }
        if !replay.is_empty() {
            values.push(REPLAY, format_args!("{replay}"));
        }
        let trace = delivery.trace.as_ref();
        if let Some(parent) = traceparent.or_else(|| trace.map(|trace| trace.child(&random_hex(8)))) {
            values.push(HeaderName::from_static(TRACEPARENT), format_args!("{parent}"));
        }
        if let Some(state) = trace.and_then(|trace| trace.state.as_deref()) {
            values.push(HeaderName::from_static(TRACESTATE), format_args!("{state}"));
        }
        values.insert_into(&mut headers);
        headers
    }
}

/// Values of one call's headers, one behind the other: they share one allocation.
struct Values {
    text: String,
    /// Where each ends.
    ends: Vec<(HeaderName, usize)>,
}

impl Values {
    fn push(&mut self, name: HeaderName, value: fmt::Arguments) {
        self.text.write_fmt(value).expect("memory can be written to");
        self.ends.push((name, self.text.len()));
    }

    fn insert_into(self, headers: &mut HeaderMap) {
        let (text, mut start) = (Bytes::from(self.text), 0);
        for (name, end) in self.ends {
            let value = HeaderValue::from_maybe_shared(text.slice(start..end));
            headers.insert(name, value.expect("ids and keys are percent-encoded, the rest is checked at start"));
            start = end;
        }
    }
}

/// A value that no log shows.
pub(super) fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The event id without `%` and `.` (the signature's separator), and with nothing that a header can't carry.
fn webhook_id(event_id: &str) -> Cow<'_, str> {
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%').add(b'.').add(b' ');
    utf8_percent_encode(event_id, ENCODED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_no_dot_and_can_stand_in_a_header() {
        assert_eq!(webhook_id("cart:1.5%\n ä"), "cart:1%2E5%25%0A%20%C3%A4");
        assert_eq!(webhook_id("0b6f-1"), "0b6f-1");
    }
}
