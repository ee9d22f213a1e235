//! One call: a signed POST and what came of it, and when to call again.

use std::error::Error as StdError;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use chrono::DateTime;

use super::Shared;
use super::definition::Format;
use super::oauth2;
use super::receiver::Receiver;
use crate::event::TraceContext;
use crate::telemetry::traces::{self, SpanKind, Step};
use crate::web::outgoing::Refused;

/// The whole call with its answer's body: a receiver that needs longer should take the event and work later.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// More of an answer is not read: nobody looks at it, and a hostile one does not end.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// So much of an answer is kept for whoever looks for the fault.
const ANSWER_BYTES_KEPT: usize = 4 * 1024;
/// Longest wait that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// What is called for: an event at its place, with the bytes of its first attempt.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivery {
    pub(super) position: i64,
    pub(super) event_id: String,
    pub(super) r#type: String,
    /// Its aggregate; empty for a batch.
    pub(super) key: String,
    /// What waits for it: the key, everything (empty), or nothing else.
    pub(super) turn: String,
    /// What of the event stands in headers.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    pub(super) format: Format,
    pub(super) content_type: &'static str,
    /// The trace that the event is part of; none for a batch.
    pub(super) trace: Option<TraceContext>,
    /// Of a batch: the positions of its events, of which `position` is the first; its id stands for the event's.
    pub(super) batch: Vec<i64>,
}

impl Delivery {
    /// The last position that is delivered with it.
    pub(super) fn last(&self) -> i64 {
        self.batch.last().copied().unwrap_or(self.position)
    }
}

/// What came of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) started_at: i64,
    pub(super) duration_ms: i64,
    pub(super) status: Option<u16>,
    /// The class of the fault; nothing means delivered.
    pub(super) error: Option<&'static str>,
    pub(super) answer: Option<String>,
    pub(super) retry_after: Option<Duration>,
    /// The fault is the proxy's, and says nothing of the receiver.
    pub(super) is_of_proxy: bool,
}

/// Makes the call, and counts it. Every fault is an outcome. `replay` is empty in the live lane.
pub(super) async fn call(
    shared: &Shared,
    receiver: &Receiver,
    delivery: &Delivery,
    attempt: i64,
    replay: &str,
) -> Outcome {
    let outcome = match post(shared, receiver, delivery, attempt, replay).await {
        Ok(outcome) => outcome,
        Err(outcome) => return outcome,
    };
    shared.made.count(&outcome);
    if outcome.status == Some(401) {
        oauth2::forget(shared, receiver.auth.as_ref());
    }
    outcome
}

/// The signed POST.
///
/// # Errors
/// What came of the call for a token, without which there is none to the receiver.
pub(super) async fn post(
    shared: &Shared,
    receiver: &Receiver,
    delivery: &Delivery,
    attempt: i64,
    replay: &str,
) -> Result<Outcome, Outcome> {
    let started_at = shared.clock.now_micros();
    let mut step = step(receiver, delivery, attempt);
    let mut headers = receiver.headers(shared, delivery, attempt, started_at / 1_000_000, replay, step.traceparent());
    if let Err(outcome) = oauth2::authorize(shared, receiver.auth.as_ref(), &mut headers).await {
        outcome.error.inspect(|class| step.fail(class));
        return Err(outcome);
    }
    // Not by the builder, which would copy each header into its own.
    let mut request = reqwest::Request::new(Method::POST, receiver.url.clone());
    *request.headers_mut() = headers;
    *request.body_mut() = Some(delivery.body.clone().into());
    let (outcome, _) = send(shared, request).await;
    if let Some(status) = outcome.status {
        step.note("http.response.status_code", i64::from(status));
    }
    if let Some(class) = outcome.error {
        step.fail(class);
    }
    Ok(Outcome { started_at, ..outcome })
}

/// The call as a step of the event's trace, in the words of OpenTelemetry's conventions.
fn step(receiver: &Receiver, delivery: &Delivery, attempt: i64) -> Step {
    let parent = delivery.trace.as_ref().map(TraceContext::both);
    let mut step = Step::start(SpanKind::Client, || "POST webhook".to_owned(), parent);
    if traces::are_on() {
        step.note("http.request.method", "POST");
        step.note("server.address", receiver.url.host_str().unwrap_or_default().to_owned());
        step.note("http.request.resend_count", attempt - 1);
        step.note("cloudevents.event_id", delivery.event_id.clone());
        step.note("cloudevents.event_type", delivery.r#type.clone());
        step.note("postern.position", delivery.position);
    }
    step
}

/// Sends a request. Every fault is an outcome; beside it the headers of the answer.
pub(super) async fn send(shared: &Shared, request: reqwest::Request) -> (Outcome, HeaderMap) {
    let mut outcome = Outcome { started_at: shared.clock.now_micros(), ..Outcome::default() };
    let mut answered = HeaderMap::new();
    let started = tokio::time::Instant::now();
    let exchange = exchange(shared, request, &mut outcome, &mut answered);
    if tokio::time::timeout(CALL_TIMEOUT, exchange).await.is_err() {
        outcome.error = Some("timeout");
    }
    outcome.duration_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    (outcome, answered)
}

async fn exchange(shared: &Shared, request: reqwest::Request, outcome: &mut Outcome, answered: &mut HeaderMap) {
    // Behind a proxy nobody else looks.
    let checked = match shared.outgoing.has_proxy() {
        true => shared.outgoing.check(request.url()).await,
        false => Ok(()),
    };
    let client = checked.and_then(|()| shared.outgoing.client(request.url()));
    let client = match client {
        Ok(client) => client,
        Err(refused) => {
            let is_dns = matches!(refused, Refused::Unresolved { .. });
            outcome.error = Some(if is_dns { "dns" } else { "refused_address" });
            return;
        }
    };
    let is_plain = request.url().scheme() == "http";
    let mut response = match client.execute(request).await {
        Ok(response) => response,
        Err(error) => {
            outcome.error = Some(class(&error));
            outcome.is_of_proxy = shared.outgoing.has_proxy() && is_of_proxy(&error, is_plain);
            return;
        }
    };
    *answered = std::mem::take(response.headers_mut());
    let status = response.status();
    outcome.status = Some(status.as_u16());
    if !status.is_success() {
        outcome.error = Some(if status.is_redirection() { "redirect" } else { "status" });
        outcome.retry_after = retry_after(answered, outcome.started_at);
    }
    let (mut kept, mut read) = (Vec::new(), 0);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                read += chunk.len();
                kept.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_KEPT - kept.len())]);
                if read > ANSWER_BYTES_MAX {
                    outcome.error.get_or_insert("too_large");
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                outcome.error.get_or_insert(class(&error));
                break;
            }
        }
    }
    if !kept.is_empty() {
        // PostgreSQL takes no zero characters in a text.
        outcome.answer = Some(String::from_utf8_lossy(&kept).replace('\0', "\u{fffd}"));
    }
}

/// The class of a call that got no whole answer.
fn class(error: &reqwest::Error) -> &'static str {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = cause {
        if inner.is::<Refused>() {
            return "refused_address";
        }
        if is_tls(inner) {
            return "tls";
        }
        // The connector's and the parser's error types are private; their texts are all there is.
        match inner.to_string().as_str() {
            "dns error" => return "dns",
            "message head is too large" => return "too_large",
            _ => cause = inner.source(),
        }
    }
    match error {
        _ if error.is_timeout() => "timeout",
        _ if error.is_connect() => "connect",
        _ => "protocol",
    }
}

/// The proxy itself could not be reached. What it says about a receiver is about that. Its error types are private, too.
fn is_of_proxy(error: &reqwest::Error, is_plain: bool) -> bool {
    if !error.is_connect() {
        return false;
    }
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut is_of_tunnel = false;
    while let Some(inner) = cause {
        let text = inner.to_string();
        if text.ends_with("failed to create underlying connection") {
            return true;
        }
        is_of_tunnel |= text.contains("tunnel") || text.to_ascii_lowercase().contains("socks");
        cause = inner.source();
    }
    // Of a call by http: nobody but the proxy is connected to.
    is_plain && !is_of_tunnel
}

/// TLS faults travel inside `io::Error`s, which name the cause of what they hold as their source instead of it.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let held = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || held.is_some_and(|held| is_tls(held))
}

/// The longest of the waits that the answer asks for, in seconds or until a date; others are ignored.
fn retry_after(headers: &HeaderMap, now_micros: i64) -> Option<Duration> {
    let values = headers.get_all(header::RETRY_AFTER).iter().filter_map(|value| value.to_str().ok());
    let waits = values.filter_map(|text| {
        let text = text.trim();
        let seconds = match text.parse::<f64>() {
            Ok(seconds) => seconds,
            Err(_) => {
                let until = DateTime::parse_from_rfc2822(text).ok()?;
                #[expect(clippy::cast_precision_loss, reason = "a wait of a day at most needs no more digits")]
                let micros = (until.timestamp_micros() - now_micros) as f64;
                micros / 1e6
            }
        };
        // A date that has passed is no wish; neither is a negative number.
        (seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX).min(RETRY_AFTER_MAX))
    });
    waits.max()
}

/// How long to wait after so many failed attempts; nothing if the schedule is used up. Never less than the schedule
/// or the receiver says; up to a tenth is added, so that what failed together does not come back together.
pub(super) fn wait_after(schedule: &[Duration], attempts: i64, retry_after: Option<Duration>) -> Option<Duration> {
    let planned = usize::try_from(attempts - 1).ok().and_then(|n| schedule.get(n))?;
    let wait = (*planned).max(retry_after.unwrap_or_default());
    let [chance] = crate::runtime::random_bytes::<1>();
    Some(wait + wait.mul_f64(0.1) * u32::from(chance) / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let at = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::RETRY_AFTER, value.parse().expect("a header"));
            }
            retry_after(&headers, 784_111_777_000_000).map(|wait| wait.as_millis())
        };
        assert_eq!(at(&["120"]), Some(120_000));
        assert_eq!(at(&["120.5"]), Some(120_500));
        assert_eq!(at(&["Sun, 06 Nov 1994 08:50:37 GMT"]), Some(60_000));
        assert_eq!(at(&["999999999"]), Some(86_400_000));
        assert_eq!(at(&["3", "7"]), Some(7_000));
        for ignored in [&["-1"][..], &[""], &["soon"], &["Sun, 06 Nov 1994 08:48:37 GMT"], &["NaN"], &[]] {
            assert_eq!(at(ignored), None, "{ignored:?}");
        }
    }

    #[test]
    fn a_wait_is_never_shorter_than_the_schedule_or_the_wish() {
        let schedule = [Duration::from_secs(5), Duration::from_secs(30)];
        for _ in 0..100 {
            let wait = wait_after(&schedule, 1, None).expect("one more");
            assert!(wait >= schedule[0] && wait <= schedule[0].mul_f64(1.1), "{wait:?}");
            let asked = wait_after(&schedule, 2, Some(Duration::from_secs(60))).expect("one more");
            assert!(asked >= Duration::from_secs(60));
        }
        assert_eq!(wait_after(&schedule, 3, Some(Duration::from_secs(1))), None);
    }
}
