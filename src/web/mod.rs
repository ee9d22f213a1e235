//! The front door: what every request passes before a room and every answer after it. Also the one way out.

pub mod auth;
pub mod docs;
pub mod html;
pub mod negotiate;
pub mod openapi;
pub mod outgoing;
pub mod paging;
pub mod problem;
pub mod server;
mod trace;
pub mod traffic;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::Route;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Deserialize;
use tower::layer::layer_fn;
use tower::{Service, ServiceExt as _, service_fn};
use tower_http::compression::Compression;
use tracing::Instrument as _;

use crate::event::TraceContext;
use crate::telemetry::traces::Step;
use auth::{Asked, Auth, Client};
use problem::{Kind, Problem};

/// Longest time for one answer: a long poll and its reading.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(75);
/// Longest refusal of the framework that is passed on.
const REFUSAL_BYTES_MAX: usize = 4096;
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Our pages load their one style sheet and nothing else, unless they say so themselves.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// `[server]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: SocketAddr,
    /// How the outside reaches this gateway: the start of every link. Default: the address it listens on.
    pub public_url: Option<String>,
    /// The authority of Atom ids and of the gateway's name. Default: the host of `public_url`.
    pub authority: Option<String>,
    /// Certificate and key: then only https is spoken.
    pub tls: Option<server::TlsConfig>,
    /// Addresses and networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<String>,
    /// `GET /metrics` is shown here to everybody, too, and nothing else.
    pub metrics_listen: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            authority: None,
            tls: None,
            trusted_proxies: Vec::new(),
            metrics_listen: None,
        }
    }
}

/// Who is at the other end, as far as trusted proxies tell: the extension of a request that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

impl Peer {
    fn of(request: &Request) -> Self {
        // Nobody knows: then all are one.
        request.extensions().get().copied().unwrap_or(Self(Ipv4Addr::UNSPECIFIED.into()))
    }
}

/// What links and names are made of. Never from a request's `Host`.
#[derive(Clone, Debug)]
pub struct Site {
    /// Without a slash at its end.
    pub public_url: String,
    pub authority: String,
    /// The host of `public_url`, and with its port, as most requests name it.
    host: String,
    host_and_port: String,
    /// Bound to an address that only this machine reaches.
    is_loopback: bool,
}

impl Site {
    /// Checks `public_url`.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(config: &Config, bound: SocketAddr) -> Result<Self, String> {
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let public_url = config.public_url.clone().unwrap_or_else(|| format!("{scheme}://{bound}"));
        let public_url = public_url.trim_end_matches('/').to_owned();
        let wrong = || format!("`server.public_url` must be an http or https URL without query, not `{public_url}`");
        let url = url::Url::parse(&public_url).map_err(|_| wrong())?;
        // Its own text: what can't stand in a URL is escaped there, so it can stand in headers, XML and JSON.
        let public_url = url.as_str().trim_end_matches('/').to_owned();
        let host = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https") && url.query().is_none());
        let host = host.ok_or_else(wrong)?.to_owned();
        let authority = config.authority.clone().unwrap_or_else(|| host.clone());
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]@".contains(&b);
        if authority.is_empty() || !authority.bytes().all(plain) {
            return Err(format!(
                "`server.authority` must be a host name such as events.example.com, not `{authority}`"
            ));
        }
        let is_loopback = bound.ip().is_loopback();
        let host_and_port = url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        Ok(Self { public_url, authority, host, host_and_port, is_loopback })
    }

    /// Whether the request was sent to a name of this gateway. Without a token this is all that keeps a web page from
    /// reading a loopback gateway through a name of its own that it points at 127.0.0.1 (DNS rebinding).
    fn is_own_host(&self, request: &Request) -> bool {
        // HTTP/1.0 has no host; browsers never speak it.
        let Some(host) = request.headers().get(header::HOST).filter(|_| self.is_loopback) else { return true };
        if host == self.host_and_port.as_str() {
            return true;
        }
        let Ok(host) = Authority::try_from(host.as_bytes()) else { return false };
        let host = host.host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.is_ok_and(|address| address.to_canonical().is_loopback())
            || host.eq_ignore_ascii_case("localhost")
            || host.eq_ignore_ascii_case(&self.host)
    }
}

impl Site {
    /// Whether a browser sends it for a page of another site, with what it adds by itself: a password, or that it is on
    /// this machine. Reading is kept from such pages by the browser.
    fn is_sent_by_foreign_page(&self, request: &Request) -> bool {
        let headers = request.headers();
        let is_bearer =
            |value: &HeaderValue| value.as_bytes().get(..7).is_some_and(|s| s.eq_ignore_ascii_case(b"bearer "));
        if request.method().is_safe() || headers.get(header::AUTHORIZATION).is_some_and(is_bearer) {
            return false;
        }
        if let Some(site) = headers.get("sec-fetch-site") {
            return !matches!(site.as_bytes(), b"same-origin" | b"none");
        }
        let Some(origin) = headers.get(header::ORIGIN) else { return false };
        let origin = origin.to_str().ok().and_then(|text| url::Url::parse(text).ok());
        let host = origin.as_ref().map(|origin| &origin[url::Position::BeforeHost..url::Position::AfterPort]);
        let asked = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        host.is_none_or(|host| host != self.host_and_port && Some(host) != asked)
    }
}

/// No cache shows one client what another one was shown, neither a shared one nor a browser's when its user changes.
fn keep_private(headers: &mut HeaderMap) {
    let caching = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if caching.contains("no-store") {
        return;
    }
    if !caching.contains("private") {
        let kept: Vec<&str> = caching.split(',').map(str::trim).filter(|word| *word != "public").collect();
        let caching = format!("private, {}", kept.join(", "));
        headers.insert(header::CACHE_CONTROL, HeaderValue::try_from(caching).expect("made of a header value"));
    }
    let varies = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.contains("authorization"));
    if !headers.get_all(header::VARY).iter().any(varies) {
        headers.append(header::VARY, HeaderValue::from_static("authorization"));
    }
}

/// What the door in front of every route knows.
struct Front {
    auth: Auth,
    site: Site,
    /// Request ids: a random part for the process, and a number.
    process: String,
    requests: AtomicU64,
}

/// Puts the front door before the rooms: `open` routes answer everybody, `guarded` ones only known clients.
pub fn front(open: Router, guarded: Router, auth: Auth, site: Site) -> Router {
    let (process, requests) = (crate::runtime::random_hex(4), AtomicU64::new(1));
    let front = Arc::new(Front { auth, site, process, requests });
    let behind_door = |router: Router, is_guarded: bool| {
        let front = Arc::clone(&front);
        let door = layer_fn(move |route| Door { front: Arc::clone(&front), is_guarded, route });
        let refuse = || async { Problem::new(Kind::MethodNotAllowed, "not with this method; see Allow") };
        router.method_not_allowed_fallback(refuse).layer(door)
    };
    let nothing = || async { Problem::new(Kind::NotFound, "there is nothing at this URL; GET / lists what there is") };
    behind_door(open.fallback(nothing), false).merge(behind_door(guarded, true))
}

/// Who asks, when that took time: an extension of the request for the way back to the door.
#[derive(Clone)]
struct Answered(Result<Arc<Client>, Problem>);

/// The layer around a route. One for everything, and by hand: each layer costs its own boxes and clones a request.
#[derive(Clone)]
struct Door {
    front: Arc<Front>,
    is_guarded: bool,
    route: Route,
}

impl Service<Request> for Door {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.route, context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let front = Arc::clone(&self.front);
        let asked = match self.is_guarded.then(|| front.ask(&mut request)) {
            None => None,
            Some(Asked::Now(asked)) => Some(asked),
            Some(Asked::Later(asked)) => {
                // Rare: it comes back with the answer.
                let mut door = self.clone();
                return Box::pin(async move {
                    request.extensions_mut().insert(Answered(asked.await));
                    door.call(request).await
                });
            }
        };
        let is_private = asked.is_some() && !front.auth.is_open();
        let id = front.request_id(&request);
        let (uri, is_head) = (request.uri().clone(), request.method() == Method::HEAD);
        let pending = traffic::Pending::of(uri.path());
        let encodings = request.headers().get(header::ACCEPT_ENCODING).cloned();
        let trace = trace::context(request.headers());
        // Whoever asks how it is asks often, and is part of no trace.
        let is_of_interest = self.is_guarded && pending.area != "metrics";
        let mut step = if is_of_interest { trace::step(&request, pending.area, trace.as_ref()) } else { Step::none() };
        let admitted = asked.map_or(Ok(None), |asked| front.admit(asked?, &mut request).map(Some));
        let answer = admitted.map(|client| {
            let trace = trace.as_ref().map(TraceContext::trace_id);
            let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), trace.id = trace);
            (bounded(self.route.call(request)).instrument(span), client)
        });
        Box::pin(async move {
            let mut response = match answer {
                Ok((answer, client)) => match (answer.await, client) {
                    (stream, Some(client)) if is_stream(&stream) => ended_with(stream, &client),
                    (answer, _) => answer,
                },
                Err(problem) => problem.into_response(),
            };
            // What is rare is boxed, to keep what is made for each request small.
            if !response.status().is_success() && response.status() != StatusCode::NOT_MODIFIED {
                Box::pin(front.explain(&mut response, uri.path(), is_head)).await;
            }
            Front::finish(&mut response, id);
            pending.answered(response.status());
            step.note("http.response.status_code", i64::from(response.status().as_u16()));
            if response.status().is_server_error() {
                step.fail("5xx");
            }
            if is_private {
                keep_private(response.headers_mut());
            }
            // Last: what a room says of an error is read before it. Rooms compress what they keep.
            match encodings.filter(|_| !response.headers().contains_key(header::CONTENT_ENCODING)) {
                Some(encodings) => Ok(Box::pin(compressed(response, encodings)).await),
                None => Ok(response),
            }
        })
    }
}

fn is_stream(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// A stream that a client has no more when it is none any more.
fn ended_with(response: Response, client: &Client) -> Response {
    let ended = client.ended();
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(ended)))
}

/// The answer as the client likes it compressed.
async fn compressed(response: Response, encodings: HeaderValue) -> Response {
    let mut request = Request::new(Body::empty());
    request.headers_mut().insert(header::ACCEPT_ENCODING, encodings);
    let mut response = Some(response);
    let answer =
        service_fn(move |_: Request| std::future::ready(Ok::<_, Infallible>(response.take().unwrap_or_default())));
    match Compression::new(answer).oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// A route's answer, or a problem when it panics or takes too long.
async fn bounded(answer: impl Future<Output = Result<Response, Infallible>>) -> Response {
    match tokio::time::timeout(ANSWER_TIMEOUT, AssertUnwindSafe(answer).catch_unwind()).await {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(_)) => {
            tracing::error!("a handler panicked, answering 500");
            Problem::new(Kind::Internal, "the cause is in the gateway's log").into_response()
        }
        Err(_) => Problem::new(Kind::Timeout, "the gateway gave up on this request; try again").into_response(),
    }
}

impl Front {
    /// Makes problems whole.
    async fn explain(&self, response: &mut Response, instance: &str, is_head: bool) {
        if let Some(problem) = problem(response).await {
            let document = problem.document(&self.site.public_url, instance);
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            headers.remove(header::CACHE_CONTROL);
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(document.len()));
            *response.body_mut() = if is_head { Body::empty() } else { Body::from(document) };
        }
    }

    /// Gives the headers that every answer carries.
    fn finish(response: &mut Response, id: HeaderValue) {
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID.clone(), id);
        // What a room does not say to be kept is not.
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) {
            let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
            headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
            headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        }
    }

    fn ask(&self, request: &mut Request) -> Asked {
        match request.extensions_mut().remove::<Answered>() {
            Some(Answered(asked)) => Asked::Now(asked),
            None => self.auth.client(request.headers(), Peer::of(request)),
        }
    }

    /// Tells the rooms who asks.
    fn admit(&self, client: Arc<Client>, request: &mut Request) -> Result<Arc<Client>, Problem> {
        if self.auth.is_open() && !self.site.is_own_host(request) {
            let detail =
                "an open gateway answers only under its own name; set `server.public_url`, or configure a [[client]]";
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        if self.site.is_sent_by_foreign_page(request) {
            let detail =
                "a page of another site may not do that with a log-in that a browser keeps; send a Bearer token";
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        client.take_turn()?;
        request.extensions_mut().insert(Arc::clone(&client));
        Ok(client)
    }

    /// The caller's id if it is one that can stand in a log line, else a new one.
    fn request_id(&self, request: &Request) -> HeaderValue {
        let plain = |value: &&HeaderValue| {
            let bytes = value.as_bytes();
            !bytes.is_empty()
                && bytes.len() <= 64
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        };
        request.headers().get(&REQUEST_ID).filter(plain).cloned().unwrap_or_else(|| {
            let id = format!("{}-{}", self.process, self.requests.fetch_add(1, Ordering::Relaxed));
            HeaderValue::try_from(id).expect("hex digits and a number can be a header value")
        })
    }
}

/// What is to be told of an error: our own problems, and the framework's refusals, which come as plain text.
async fn problem(response: &mut Response) -> Option<Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    let is_text = |value: &HeaderValue| value.as_bytes().starts_with(b"text/plain");
    let kind = Kind::of_status(response.status())?;
    response.headers().get(header::CONTENT_TYPE).filter(|value| is_text(value))?;
    let body = axum::body::to_bytes(std::mem::take(response.body_mut()), REFUSAL_BYTES_MAX).await.unwrap_or_default();
    Some(Problem::new(kind, String::from_utf8_lossy(&body)))
}
