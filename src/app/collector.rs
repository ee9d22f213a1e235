//! Where the steps of traces go: OpenTelemetry's exporter calls by the one client that this gateway calls by.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::telemetry::traces::{self, Bytes, HttpClient, HttpError, Request, Response};
use crate::web::outgoing::{self, OWN_NETWORKS, Outgoing, Refused};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Nothing of an answer is needed but its status.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

struct Collector {
    outgoing: Outgoing,
    runtime: Handle,
    is_away: AtomicBool,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

/// Sends traces if the environment names a collector.
///
/// # Errors
/// A sentence about a variable that can't be used.
pub(super) fn start() -> Result<(), String> {
    if traces::are_on() || !traces::is_wanted() {
        return Ok(());
    }
    let outgoing = Outgoing::new(&OWN_NETWORKS.map(str::to_owned))?;
    traces::start(Collector { outgoing, runtime: Handle::current(), is_away: AtomicBool::new(false) })
}

impl HttpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        // The exporter's thread is not one of the runtime's, and has nothing else to do.
        Box::pin(async move {
            let answer = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, self.send(request)).await });
            let answer = answer.unwrap_or_else(|_| Err("it took longer than 10 s".into()));
            self.tell(&answer);
            answer
        })
    }
}

/// Why a call came to nothing, from its causes.
fn reason(cause: impl std::error::Error + Send + Sync + 'static) -> HttpError {
    let cause = anyhow::Error::new(cause);
    match cause.chain().any(|cause| cause.is::<Refused>()) {
        // Its words name what only webhooks may be allowed.
        true => "it is called by https, or at an address of an inner network".into(),
        false => format!("{cause:#}").into(),
    }
}

impl Collector {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let client = self.outgoing.client(request.url()).map_err(reason)?;
        let called = async {
            let mut answer = client.execute(request).await?;
            Ok((outgoing::body(&mut answer, ANSWER_BYTES_MAX).await?, answer))
        };
        let (body, answer) = called.await.map_err(|cause: reqwest::Error| reason(cause.without_url()))?;
        let mut whole = Response::new(Bytes::from(body.ok_or("its answer is too long")?));
        *whole.status_mut() = answer.status();
        Ok(whole)
    }

    /// Once when it goes wrong, and once when it goes well again.
    fn tell(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let problem = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(cause) => Some(cause.to_string()),
        };
        let was_away = self.is_away.swap(problem.is_some(), Ordering::Relaxed);
        match problem {
            Some(problem) if !was_away => warn!("the collector takes no traces, they are lost: {problem}"),
            None if was_away => info!("the collector takes traces again"),
            _ => {}
        }
    }
}
