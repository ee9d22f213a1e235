//! A document on its way out: its headers, and 304 for whoever has it already.

use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;

use super::format::Format;
use crate::event::Micros;
use crate::runtime::Clock;
use crate::web::negotiate::{self, Encoding};

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
#[derive(Clone)]
pub struct Reply {
    etag: String,
    headers: HeaderMap,
    /// Of a 304: what a cache needs to go on with what it has (RFC 9110 section 15.4.5), and how far the journal is.
    short_headers: HeaderMap,
    last_modified: Micros,
    last_modified_text: Option<HeaderValue>,
    body: Bytes,
    /// Made when they are first asked for; nothing where they are no shorter.
    gzip: OnceLock<Option<Bytes>>,
    brotli: OnceLock<Option<Bytes>>,
}

/// Larger bodies would keep a thread for long.
const COMPRESSED_AT_ONCE_MAX: usize = 256 * 1024;
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
        // A cache in front of two clients must not give one what the other may see.
        put(header::VARY, if about.public { "accept-encoding" } else { "accept-encoding, authorization" });
        Self {
            etag: about.etag,
            short_headers: without(&headers, &[header::CONTENT_TYPE, header::LINK]),
            headers,
            last_modified: about.last_modified,
            last_modified_text: HeaderValue::try_from(about.last_modified.to_http_date()).ok(),
            body,
            gzip: OnceLock::new(),
            brotli: OnceLock::new(),
        }
    }

    /// The same document when the journal has gone on without it.
    #[must_use]
    pub fn at(&self, position: i64) -> Self {
        let mut reply = self.clone();
        for headers in [&mut reply.headers, &mut reply.short_headers] {
            for name in [FEED_POSITION, FEED_HEAD] {
                headers.insert(name, HeaderValue::from(position));
            }
        }
        reply
    }

    /// So much memory it may take: the compressed forms are a tenth of a document or less, each.
    pub fn bytes_max(&self) -> usize {
        self.body.len() / 4 * 5
    }

    /// Whether the request names this version as the one it has.
    pub fn is_had(&self, request: &HeaderMap) -> bool {
        negotiate::has_already(request, &self.etag, None)
    }

    /// The answer to a request with these headers. A time is told only once no other document can have the same one.
    pub fn to_response(&self, request: &HeaderMap) -> Response {
        let is_over = Clock::system().now_micros() - self.last_modified.0 > SECOND_IS_OVER;
        let time = Some(self.last_modified).filter(|_| is_over);
        let mut response = Response::new(Body::empty());
        if negotiate::has_already(request, &self.etag, time) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.headers_mut() = self.short_headers.clone();
        } else {
            *response.headers_mut() = self.headers.clone();
            self.put_body(request, &mut response);
        }
        if let Some(text) = self.last_modified_text.as_ref().filter(|_| is_over) {
            response.headers_mut().insert(header::LAST_MODIFIED, text.clone());
        }
        response
    }

    fn put_body(&self, request: &HeaderMap, response: &mut Response) {
        // What is large is compressed in pieces, by the layer around all of it.
        let encoding = negotiate::encoding(request).filter(|_| self.body.len() <= COMPRESSED_AT_ONCE_MAX);
        let compressed = match encoding {
            Some(Encoding::Gzip) => self.gzip.get_or_init(|| shorter(&self.body, gzip)).clone(),
            Some(Encoding::Brotli) => self.brotli.get_or_init(|| shorter(&self.body, brotli)).clone(),
            None => None,
        };
        if let (Some(encoding), true) = (encoding, compressed.is_some()) {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        }
        *response.body_mut() = Body::from(compressed.unwrap_or_else(|| self.body.clone()));
    }
}

fn without(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    headers
        .iter()
        .filter(|(name, _)| !names.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn shorter(body: &[u8], compress: impl Fn(&[u8]) -> io::Result<Vec<u8>>) -> Option<Bytes> {
    compress(body).ok().filter(|compressed| compressed.len() < body.len()).map(Bytes::from)
}

fn gzip(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    writer.write_all(body)?;
    writer.finish()
}

fn brotli(body: &[u8]) -> io::Result<Vec<u8>> {
    // As good as gzip's best at gzip's usual price; the window (2^20) holds any page.
    let parameters = brotli::enc::BrotliEncoderParams { quality: 5, lgwin: 20, ..Default::default() };
    let mut compressed = Vec::new();
    brotli::BrotliCompress(&mut &body[..], &mut compressed, &parameters)?;
    Ok(compressed)
}
