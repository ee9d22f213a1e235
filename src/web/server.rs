//! Serves connections: HTTP/1.1 and HTTP/2, plain or by TLS, each bounded in what it may send and how long it may take.
//!
//! Headers: 32 KiB and 10 s. A body: 30 s. A connection on which nothing happens: 60 s, or two minutes while an answer is
//! being made (a long poll). Lengths that contradict each other are refused, and the connection ends: what follows could
//! be read as another request than the proxy in front saw (request smuggling, RFC 9112 section 6.3).

mod body;
mod connections;
mod peer;
mod tls;
mod watch;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::Peer;
use super::problem::{Kind, Problem};
use super::traffic::Connected;
use body::Timed;
use connections::Connections;
use watch::{Activity, Watched};

pub use peer::Proxies;
pub use tls::{Tls, TlsConfig};

const HEADERS_BYTES_MAX: usize = 32 * 1024;
const HEADERS_TIME: Duration = Duration::from_secs(10);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How often connections are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a peer may leave unacknowledged what is sent to it.
const UNHEARD_MAX: Duration = Duration::from_secs(60);
/// Streams of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 128;
/// Connections at a time, or what the system's limit of open files leaves.
const CONNECTIONS_MAX: usize = 10_000;
/// Files that are open for other things: databases, calls.
const OTHER_FILES: usize = 400;
/// After a connection that can't be taken: too many open files, as a rule.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// The routes behind the connections, which can be changed while these last.
#[derive(Clone, Default)]
pub struct Doors(Arc<RwLock<Router>>);

impl Doors {
    /// Requests from now on go to these routes.
    pub fn change(&self, router: Router) {
        // With its state: a bare one is turned into its routes anew for each request.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router.with_state(());
    }

    fn present(&self) -> Router {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What all connections share.
struct Serving {
    doors: Doors,
    proxies: Proxies,
    http: auto::Builder<TokioExecutor>,
    stopping: CancellationToken,
}

/// Serves a listener until told to stop, and then until the answers in flight are sent.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    proxies: Proxies,
    doors: Doors,
    stopping: CancellationToken,
) {
    let serving = Arc::new(Serving { doors, proxies, http: http(), stopping });
    let places = Arc::new(Semaphore::new(connections_max()));
    let mut connections = Connections::default();
    let mut look = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = serving.stopping.cancelled() => break,
            Some(()) = connections.ended() => {}
            _ = look.tick() => connections.end_still(),
            (place, accepted) = accept(&listener, &places) => match accepted {
                Ok((stream, address)) => {
                    let (serving, tls, activity) = (Arc::clone(&serving), tls.clone(), Arc::<Activity>::default());
                    let (peer, watched) = (Peer(address.ip().to_canonical()), Arc::clone(&activity));
                    connections.start(peer, watched, async move {
                        let _connected = Connected::new();
                        connection(&serving, tls, stream, peer, activity).await;
                        drop(place);
                    });
                }
                Err(cause) => {
                    warn!(%cause, "can't take a connection: {cause}");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
    drop(listener);
    loop {
        tokio::select! {
            ended = connections.ended() => if ended.is_none() { return },
            _ = look.tick() => connections.end_still(),
        }
    }
}

/// What comes next, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, std::io::Result<(TcpStream, std::net::SocketAddr)>) {
    let place = Arc::clone(places).acquire_owned().await.expect("places are never closed");
    (place, listener.accept().await)
}

fn http() -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_TIME).max_buf_size(HEADERS_BYTES_MAX);
    http.http2()
        .max_header_list_size(u32::try_from(HEADERS_BYTES_MAX).expect("it is small"))
        .max_concurrent_streams(STREAMS_MAX);
    http
}

/// Of the soft limit of open files, what other things leave.
fn connections_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    files.map_or(CONNECTIONS_MAX, |files| files.saturating_sub(OTHER_FILES).clamp(64, CONNECTIONS_MAX))
}

async fn connection(serving: &Arc<Serving>, tls: Option<Tls>, stream: TcpStream, peer: Peer, activity: Arc<Activity>) {
    let _ = stream.set_nodelay(true);
    // What is sent to a peer that is gone without a word fills the system's buffers for a quarter of an hour.
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(UNHEARD_MAX));
    let Some(tls) = tls else { return speak(serving, stream, peer, activity).await };
    tokio::select! {
        () = serving.stopping.cancelled() => {}
        shaken = timeout(HANDSHAKE_TIME, tls.accept(stream)) => match shaken {
            Ok(Ok(stream)) => speak(serving, stream, peer, activity).await,
            Ok(Err(cause)) => debug!(peer = %peer.0, %cause, "a TLS handshake failed"),
            Err(_) => debug!(peer = %peer.0, "a TLS handshake took too long"),
        },
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    serving: &Arc<Serving>,
    stream: S,
    peer: Peer,
    activity: Arc<Activity>,
) {
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (serving, at_work) = (Arc::clone(serving), Activity::begin(&activity));
        async move {
            let response = answer(&serving, peer, request).await;
            drop(at_work);
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut connection = std::pin::pin!(serving.http.serve_connection_with_upgrades(io, service));
    let mut stopping = std::pin::pin!(serving.stopping.cancelled());
    let (mut is_listening, mut is_ending) = (false, false);
    let ended = std::future::poll_fn(|context| {
        // Once it was polled whoever stops wakes this task, so that each poll costs no more than a look.
        let is_due = !is_listening || (!is_ending && serving.stopping.is_cancelled());
        if is_due && stopping.as_mut().poll(context).is_ready() {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
        }
        is_listening = true;
        connection.as_mut().poll(context)
    });
    if let Err(cause) = ended.await {
        debug!(peer = %peer.0, %cause, "a connection ended");
    }
}

async fn answer(serving: &Serving, peer: Peer, request: Request<Incoming>) -> Response {
    if are_lengths_at_odds(request.headers()) {
        let problem = Problem::new(Kind::BadRequest, "the length of the body is told twice, and not the same");
        let mut response = problem.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    let peer = serving.proxies.client(peer, request.headers());
    let mut request =
        request.map(|body| if body.is_end_stream() { Body::empty() } else { Body::new(Timed::new(body)) });
    request.extensions_mut().insert(peer);
    match serving.doors.present().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Whoever reads the other one takes the rest of the body for a request.
fn are_lengths_at_odds(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    (first.is_some() && headers.contains_key(header::TRANSFER_ENCODING)) || lengths.any(|other| Some(other) != first)
}
