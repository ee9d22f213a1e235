//! Requests as steps of the traces that they are part of.

use axum::extract::Request;
use axum::http::HeaderMap;

use crate::event::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::telemetry::traces::{self, SpanKind, Step};

/// More of what a caller says is not kept.
const TEXT_BYTES_MAX: usize = 256;

/// The trace that the caller says that the request is part of.
pub(super) fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    TraceContext::new(parent, headers.get(TRACESTATE).and_then(|state| state.to_str().ok()))
}

/// The request as a step of it. Names are few: what is asked for stands in an attribute.
pub(super) fn step(request: &Request, area: &str, trace: Option<&TraceContext>) -> Step {
    let name = || match request.method().as_str() {
        method @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => format!("{method} {area}"),
        _ => format!("HTTP {area}"),
    };
    let mut step = Step::start(SpanKind::Server, name, trace.map(TraceContext::both));
    if traces::are_on() {
        // Thousands may wait to be sent, and strangers make them.
        let cut = |text: &str| text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned();
        step.note("http.request.method", cut(request.method().as_str()));
        step.note("url.path", cut(request.uri().path()));
    }
    step
}
