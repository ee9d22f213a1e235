//! Requests as steps of the traces that they are part of.

use axum::extract::Request;
use axum::http::HeaderMap;

use crate::event::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::telemetry::traces::{self, SpanKind, Step};

/// The trace that the caller says that the request is part of.
pub(super) fn context(headers: &HeaderMap) -> Option<TraceContext> {
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    TraceContext::new(parent, headers.get(TRACESTATE).and_then(|state| state.to_str().ok()))
}

/// The request as a step of it. Names are few: what is asked for stands in an attribute.
pub(super) fn step(request: &Request, area: &str, trace: Option<&TraceContext>) -> Step {
    let name = || format!("{} {area}", request.method());
    let mut step = Step::start(SpanKind::Server, name, trace.map(TraceContext::both));
    if traces::are_on() {
        step.note("http.request.method", request.method().to_string());
        step.note("url.path", request.uri().path().to_owned());
    }
    step
}
