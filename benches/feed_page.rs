//! A sealed feed page from the gateway's memory, its 304, and the head's 304, against a bare axum handler that answers the
//! same bytes under the same headers. Sixteen keep-alive connections ask for nothing else.

#[path = "support/events.rs"]
mod events;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/http.rs"]
mod http;
mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, bail, ensure};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use gateway::{Gateway, Setting};
use http::Connection;
use support::{Comparison, LOAD, Measured, Meter};

const EVENTS: usize = 1_000;
const PAGE: usize = 5;
const HEAD: &str = "/feeds/all.atom";
const CONNECTIONS: usize = 16;
const REQUESTS: usize = 40_000;
const REPETITIONS: usize = 9;
const TARGET: f64 = 0.85;

fn main() -> anyhow::Result<()> {
    support::pin();
    let (gateway_side, bare_side) = (support::runtime("gateway")?, support::runtime("bare")?);
    let gateway = gateway_side.block_on(Gateway::start(&Setting::default(), &events::arrivals(EVENTS, 100, 500)))?;
    let address = gateway.app.address();
    let (path, mut page) = gateway_side.block_on(sealed_page(address))?;
    let mut head = gateway_side.block_on(document(address, HEAD, None))?;
    let etag = page.headers[header::ETAG].to_str()?.to_owned();
    let head_etag = head.headers[header::ETAG].to_str()?.to_owned();
    page.short_headers = gateway_side.block_on(document(address, &path, Some(&etag)))?.headers;
    head.short_headers = gateway_side.block_on(document(address, HEAD, Some(&head_etag)))?.headers;
    println!("a page of {} bytes under {} headers", page.body.len(), page.headers.len() + 2);
    let bare = bare_side.block_on(serve([(&path, page), (HEAD, head)]))?;

    let plain = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\n\r\n");
    let conditional = |path: &str, etag: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\nif-none-match: {etag}\r\n\r\n")
    };
    let requests = [
        ("cached page", plain, 200),
        ("cached page, 304", conditional(&path, &etag), 304),
        ("head, 304", conditional(HEAD, &head_etag), 304),
    ];
    let mut comparisons = Vec::new();
    for (name, request, status) in requests {
        let mut comparison = Comparison::new(name, TARGET);
        for turn in 0..=REPETITIONS {
            let ours = load(gateway.app.address(), &request, status)?;
            let ceiling = load(bare, &request, status)?;
            if turn > 0 {
                comparison.add(ours, ceiling);
            }
        }
        comparisons.push(comparison);
    }
    support::print("request", &comparisons);
    gateway_side.block_on(gateway.app.stop());
    Ok(())
}

/// What the bare handler answers.
struct Page {
    /// All but those that the server adds to every answer.
    headers: HeaderMap,
    /// Those of its 304.
    short_headers: HeaderMap,
    body: Bytes,
}

/// Asks the gateway for its page once it is sealed.
async fn sealed_page(address: SocketAddr) -> anyhow::Result<(String, Page)> {
    let mut connection = Connection::connect(address).await?;
    let list = connection.exchange(b"GET /feeds HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await?;
    let list: serde_json::Value = serde_json::from_slice(list.body)?;
    let epoch = list["feeds"][0]["epoch"].as_str().context("the list of feeds names an epoch")?;
    let path = format!("/feeds/all/{epoch}/{PAGE}.atom");
    for _ in 0..100 {
        match document(address, &path, None).await {
            Ok(page) if page.headers[header::CACHE_CONTROL].to_str()?.contains("immutable") => return Ok((path, page)),
            // Its borders are still being cut.
            _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    }
    bail!("page {PAGE} of {EVENTS} events was never sealed")
}

async fn document(address: SocketAddr, path: &str, has: Option<&str>) -> anyhow::Result<Page> {
    let mut connection = Connection::connect(address).await?;
    let condition = has.map_or(String::new(), |etag| format!("if-none-match: {etag}\r\n"));
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{condition}\r\n");
    let answer = connection.exchange(request.as_bytes()).await?;
    ensure!(answer.status() == if has.is_some() { 304 } else { 200 }, "{path} is not there: {}", answer.head);
    let mut headers = HeaderMap::new();
    for line in answer.head.lines().skip(1) {
        let Some((name, value)) = line.split_once(": ") else { continue };
        if !["date", "content-length"].contains(&name) {
            headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
    }
    Ok(Page { headers, short_headers: HeaderMap::new(), body: Bytes::copy_from_slice(answer.body) })
}

/// Starts the ceiling.
async fn serve(pages: [(&str, Page); 2]) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let route = |router: Router, (path, page): (&str, Page)| router.route(path, get(answer).with_state(Arc::new(page)));
    // As the gateway does: a bare router is made anew for each connection.
    let service = pages.into_iter().fold(Router::new(), route).into_make_service();
    postern::runtime::Tasks::default().spawn("bare", async move {
        axum::serve(listener, service).await.expect("a listener that works goes on working");
    });
    Ok(address)
}

async fn answer(State(page): State<Arc<Page>>, request: Request) -> Response {
    let has_already = request.headers().get(header::IF_NONE_MATCH) == page.headers.get(header::ETAG);
    let mut response = Response::new(if has_already { Body::empty() } else { Body::from(page.body.clone()) });
    if has_already {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    *response.headers_mut() = if has_already { page.short_headers.clone() } else { page.headers.clone() };
    response
}

/// Asks from a thread of its own, whose time is not counted.
fn load(address: SocketAddr, request: &str, status: u16) -> anyhow::Result<Measured> {
    let meter = Meter::start()?;
    let request: Arc<[u8]> = request.as_bytes().into();
    let asking = thread::Builder::new().name(LOAD.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ask = |_| ask(address, Arc::clone(&request), status);
        runtime.block_on(futures_util::future::try_join_all((0..CONNECTIONS).map(ask)))
    })?;
    asking.join().expect("the load generator does not panic")?;
    meter.stop(REQUESTS)
}

async fn ask(address: SocketAddr, request: Arc<[u8]>, status: u16) -> anyhow::Result<()> {
    let mut connection = Connection::connect(address).await?;
    for _ in 0..REQUESTS / CONNECTIONS {
        let answer = connection.exchange(&request).await?;
        ensure!(answer.status() == status, "an answer was not {status}: {}", answer.head);
    }
    Ok(())
}
