//! Traces: the steps of this gateway in the traces that requests and events are part of, for an
//! [OpenTelemetry](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/) collector (OTLP
//! over HTTP).
//!
//! The standard variables of the environment decide: `OTEL_EXPORTER_OTLP_ENDPOINT` turns it on, `OTEL_TRACES_SAMPLER`,
//! `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` and the sizes and delays of `OTEL_BSP_*` do what they do elsewhere. A call
//! takes 10 s at most, uncompressed, whatever they say. Without it a step costs a
//! look at a variable. A collector that can't keep up loses steps; nothing waits for it.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, Status, TraceContextExt as _, TraceFlags, TraceState, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, SpanId, TraceId, Value};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};

pub use opentelemetry::trace::SpanKind;
pub use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};

static EXPORT: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();
/// How long a process that ends waits for its last steps to be taken.
const LAST: Duration = Duration::from_secs(1);

/// Whether the environment names a collector.
pub fn is_wanted() -> bool {
    let is_set = |name| std::env::var(name).is_ok_and(|value| !value.is_empty());
    let says = |name, text: &str| std::env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case(text));
    let is_off = says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none");
    !is_off && (is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || is_set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
}

/// Sends steps from now on, by this client, which is called on a thread of its own.
///
/// # Errors
/// A sentence about a variable that can't be used.
pub fn start(client: impl HttpClient + 'static) -> Result<(), String> {
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
    let exporter = exporter.map_err(|cause| format!("traces (OTEL_EXPORTER_OTLP_…): {cause}"))?;
    let named = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    let own = [KeyValue::new("service.name", "postern"), KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(named.map(|name| KeyValue::new("service.name", name)))
        .build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let tracer = provider.tracer("postern");
    let _ = EXPORT.set((provider, tracer));
    Ok(())
}

/// Sends the last steps. Blocks for up to a second.
pub fn stop() {
    if let Some((provider, _)) = EXPORT.get() {
        let _ = provider.shutdown_with_timeout(LAST);
    }
}

/// Whether steps are sent at all: what would be made for them alone need not be.
pub fn are_on() -> bool {
    EXPORT.get().is_some()
}

/// A step of a trace: a "span". It ends when it is dropped.
pub struct Step(Option<Span>);

impl Step {
    /// Starts a step below `parent`, its `traceparent` (checked) and `tracestate`; without one in a trace of its own.
    pub fn start(kind: SpanKind, name: impl FnOnce() -> String, parent: Option<(&str, Option<&str>)>) -> Self {
        Self(EXPORT.get().map(|(_, tracer)| {
            let parent = parent.and_then(|(parent, state)| remote(parent, state));
            let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
            tracer.build_with_context(SpanBuilder::from_name(name()).with_kind(kind), &context)
        }))
    }

    /// One that nobody is told of.
    pub fn none() -> Self {
        Self(None)
    }

    /// Says more of it, by a name of OpenTelemetry's semantic conventions.
    pub fn note(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// It came to nothing.
    pub fn fail(&mut self, class: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new("error.type", class));
            span.set_status(Status::error(class));
        }
    }

    /// The `traceparent` of what follows from it; nothing if steps are not sent.
    pub fn traceparent(&self) -> Option<String> {
        // It is not once this process ends.
        let context = self.0.as_ref().map(Span::span_context).filter(|context| context.is_valid())?;
        Some(format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags()))
    }
}

/// What [W3C Trace Context](https://www.w3.org/TR/trace-context/) says of a step elsewhere.
fn remote(parent: &str, state: Option<&str>) -> Option<SpanContext> {
    let mut parts = parent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let state = state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}
