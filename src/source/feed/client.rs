//! The calls to one feed: where it is, who we are, and what an answer means. Nothing is followed to another origin.

use std::time::Duration;

use axum::http::HeaderMap;
use base64::Engine as _;
use percent_encoding::percent_decode_str;
use reqwest::header::{self, HeaderName, HeaderValue};
use tokio::time::timeout;
use url::{Host, Url};

use crate::journal::redacted;
use crate::json::Plain;
use crate::source::{Config, Error};
use crate::web::outgoing::{self, Outgoing};

pub(super) const ATOM: &str = "application/atom+xml, application/rss+xml, application/xml;q=0.9, text/xml;q=0.8";
pub(super) const JSON: &str = "application/json";
/// A whole answer, besides the time that it was asked to wait.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);
/// Larger than any feed that readers accept; it is read whole.
pub(super) const DOCUMENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Whoever asks for a longer pause is asked again anyway: it may be a mistake.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
const FEED_POSITION: HeaderName = HeaderName::from_static("feed-position");
const FEED_HEAD: HeaderName = HeaderName::from_static("feed-head");

/// What came, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub url: Url,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How far the document covers another Postern's journal; nothing else has such a header.
    pub(super) fn position(&self) -> Option<i64> {
        self.header(FEED_POSITION)?.parse().ok()
    }

    /// It covers all that this Postern has.
    pub(super) fn is_at_head(&self) -> bool {
        self.position().is_some() && self.header(FEED_POSITION) == self.header(FEED_HEAD)
    }

    /// The `next` of the `Link` header.
    pub(super) fn next(&self) -> Option<Url> {
        let links = self.header(header::LINK)?.split('<').filter_map(|link| link.split_once('>'));
        let next = links.into_iter().find(|(_, parameters)| parameters.contains("rel=\"next\""))?;
        self.url.join(next.0).ok()
    }

    /// The sentence of a problem document.
    pub(super) fn detail(&self) -> String {
        let Plain(problem) = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = problem["detail"].as_str().map_or(String::new(), |detail| format!(" ({detail})"));
        detail[..detail.floor_char_boundary(500)].replace(char::is_control, " ")
    }
}

pub(super) struct Client {
    name: String,
    /// Without credentials.
    pub feed: Url,
    outgoing: Outgoing,
    authorization: Option<HeaderValue>,
}

impl Client {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        let mut feed = config.feed_url()?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let basic = feed.password().map(|password| (decoded(feed.username()), decoded(password)));
        let basic = basic.or_else(|| (!feed.username().is_empty()).then(|| (decoded(feed.username()), String::new())));
        let basic = basic.map(|(user, password)| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        });
        let authorization = basic.or_else(|| config.token.as_ref().map(|token| format!("Bearer {token}")));
        let authorization = authorization.map(HeaderValue::try_from).transpose();
        let mut authorization = authorization.map_err(|_| config.error("`token` holds a control character"))?;
        authorization.iter_mut().for_each(|value| value.set_sensitive(true));
        // These can't fail on a URL with a host.
        let _ = (feed.set_username(""), feed.set_password(None));
        feed.set_fragment(None);
        // The operator names the host, so it may be an inner one, and by http:.
        let host = match feed.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            _ => feed.host_str().unwrap_or_default().to_owned(),
        };
        let outgoing = Outgoing::new(&[host]).map_err(|problem| config.error(problem))?;
        Ok(Self { name: config.name.clone(), feed, outgoing, authorization })
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Feed { name: self.name.clone(), problem: problem.into() }
    }

    /// Where another Postern's journal is read from on: the feed's own URL with its parameters.
    pub(super) fn start(&self, after: &str) -> Url {
        let is_start = |name: &str| matches!(name, "after" | "since" | "recorded-since");
        let own: Vec<(String, String)> = self.feed.query_pairs().into_owned().collect();
        let mut url = self.feed.clone();
        if after == "0" && own.iter().any(|(name, _)| is_start(name)) {
            return url;
        }
        url.query_pairs_mut()
            .clear()
            .extend_pairs(own.iter().filter(|(name, _)| !is_start(name)))
            .append_pair("after", after);
        url
    }

    /// The URL of a link in a document.
    pub(super) fn link(&self, page: &Url, href: &str) -> Result<Url, Error> {
        let mut url = page.join(href).map_err(|_| self.error(format!("the feed holds the link `{href}`, no URL")))?;
        if url.origin() != self.feed.origin() || !url.username().is_empty() || url.password().is_some() {
            let (theirs, ours) = (url.origin().ascii_serialization(), self.feed.origin().ascii_serialization());
            return Err(self.error(format!(
                "the feed links to {theirs}, but is configured at {ours}; only links of the same origin are followed: \
                 configure the feed by the URL that it gives itself"
            )));
        }
        url.set_fragment(None);
        Ok(url)
    }

    /// Any answer that comes in time and is not too large.
    pub(super) async fn get(
        &self,
        url: &Url,
        headers: &[(HeaderName, &str)],
        bytes_max: usize,
        patience: Duration,
    ) -> Result<Answer, Error> {
        let shown = redacted(url.as_str());
        let client = self.outgoing.client(url).map_err(|cause| self.error(format!("{shown}: {cause}")))?;
        let mut request = client.get(url.clone());
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let failed = |cause: reqwest::Error| self.error(format!("can't read {shown}: {}", reason(cause)));
        let reading = async {
            let mut response = request.send().await.map_err(failed)?;
            let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
            let body = outgoing::body(&mut response, bytes_max).await.map_err(failed)?.ok_or_else(|| {
                let megabytes = bytes_max / (1024 * 1024);
                self.error(format!("{shown} is larger than {megabytes} MB, which is the most that is read"))
            })?;
            Ok(Answer { url: url.clone(), status, headers, body })
        };
        let late = || self.error(format!("{shown} does not answer within {}s", patience.as_secs()));
        timeout(patience, reading).await.unwrap_or_else(|_| Err(late()))
    }

    /// A document, or that it did not change; else an error that says what to do.
    pub(super) fn fine(&self, answer: Answer) -> Result<Answer, Error> {
        let (shown, status) = (redacted(answer.url.as_str()), answer.status);
        let location = answer.header(header::LOCATION).and_then(|place| answer.url.join(place).ok());
        match (status, location) {
            (200 | 304, _) => Ok(answer),
            (300..=399, Some(location)) => {
                let location = redacted(location.as_str());
                Err(self.error(format!("{shown} answers {status} and sends us to {location}; redirects are not followed: configure that URL")))
            }
            (429 | 503, _) if pause(&answer).is_some() => {
                let wait = pause(&answer).unwrap_or_default().min(PAUSE_MAX);
                Err(Error::Busy { name: self.name.clone(), status, wait })
            }
            _ => Err(self.error(format!("{shown} answers {status}{}", answer.detail()))),
        }
    }
}

/// How long to stay away, if the answer says so in seconds; a date needs both clocks to agree.
fn pause(answer: &Answer) -> Option<Duration> {
    answer.header(header::RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

/// The innermost cause says what happened; the URL, which may hold a secret, is left out.
fn reason(cause: reqwest::Error) -> String {
    let cause = cause.without_url();
    let mut inner: &dyn std::error::Error = &cause;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
