//! A document on its way out: its headers, and 304 for whoever has it already.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::format::Format;
use crate::event::Micros;
use crate::runtime::Clock;
use crate::web::negotiate;

const FEED_POSITION: HeaderName = HeaderName::from_static("feed-position");
const FEED_HEAD: HeaderName = HeaderName::from_static("feed-head");

/// What the headers say of a document.
pub struct About<'a> {
    pub format: Format,
    pub etag: String,
    /// It never changes but by an erasure, and may be kept so long.
    pub immutable: Option<Duration>,
    /// Nobody needs a token: shared caches may keep it.
    pub public: bool,
    pub last_modified: Micros,
    /// Where a reader stands that has read it.
    pub position: i64,
    /// The journal's head, on answers that are not kept.
    pub head: Option<i64>,
    /// The links of the document, for the `Link` header (RFC 8288).
    pub links: &'a [(&'static str, String)],
}

/// A document that can be sent any number of times.
pub struct Reply {
    etag: String,
    headers: HeaderMap,
    last_modified: Micros,
    body: Bytes,
}

/// After this time nothing more is journaled in the same second, whatever the clocks of database and process say.
const SECOND_IS_OVER: i64 = 3_000_000;

impl Reply {
    pub fn new(about: About<'_>, body: Bytes) -> Self {
        let scope = if about.public { "public" } else { "private" };
        let caching = match about.immutable {
            Some(max_age) => format!("max-age={}, immutable", max_age.as_secs()),
            None => "no-cache".to_owned(),
        };
        let links: Vec<String> = about.links.iter().map(|(rel, url)| format!("<{url}>; rel=\"{rel}\"")).collect();
        let mut headers = HeaderMap::new();
        let mut put = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        put(header::CONTENT_TYPE, about.format.content_type());
        put(header::ETAG, &about.etag);
        put(header::CACHE_CONTROL, &format!("{scope}, {caching}"));
        put(header::LINK, &links.join(", "));
        put(FEED_POSITION, &about.position.to_string());
        if let Some(head) = about.head {
            put(FEED_HEAD, &head.to_string());
        }
        if !about.public {
            // A cache in front of two clients must not give one what the other may see.
            put(header::VARY, "authorization");
        }
        Self { etag: about.etag, headers, last_modified: about.last_modified, body }
    }

    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Whether the request names this version as the one it has.
    pub fn is_had(&self, request: &HeaderMap) -> bool {
        negotiate::has_already(request, &self.etag, None)
    }

    /// The answer to a request with these headers. A time is told only once no other document can have the same one.
    pub fn to_response(&self, request: &HeaderMap) -> Response {
        let is_over = Clock::system().now_micros() - self.last_modified.0 > SECOND_IS_OVER;
        let time = Some(self.last_modified).filter(|_| is_over);
        let mut response = if negotiate::has_already(request, &self.etag, time) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            Response::new(Body::from(self.body.clone()))
        };
        *response.headers_mut() = self.headers.clone();
        if let Some(value) = time.and_then(|time| HeaderValue::from_str(&time.to_http_date()).ok()) {
            response.headers_mut().insert(header::LAST_MODIFIED, value);
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        response
    }
}
