//! Logs: one line an event on standard error, fields that can be searched for. Metrics: what a scrape shows. And `traces`.

pub mod traces;

use std::sync::atomic::AtomicU64;

use axum::http::{HeaderName, header};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// `[telemetry]` of the configuration.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub log: Format,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

/// Starts logging for people. `RUST_LOG` chooses what is shown; the default is our own news and others' warnings.
/// A second call does nothing.
pub fn start(default: &str) {
    start_as(Format::Text, default);
}

/// The same in a format.
pub fn start_as(format: Format, default: &str) {
    let chosen = std::env::var("RUST_LOG").ok().and_then(|text| text.parse().ok());
    // By target and level alone: what also looks at spans is asked each time that one is entered, many times a request.
    let filter: Targets = chosen.unwrap_or_else(|| default.parse().unwrap_or_default());
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match format {
        Format::Auto if is_terminal => registry.with(lines.with_ansi(true).with_target(false)).try_init(),
        Format::Text => registry.with(lines.with_ansi(is_terminal).with_target(false)).try_init(),
        // One object a line; its fields stand beside time, level and message.
        Format::Auto | Format::Json => registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init(),
    };
}

/// What `GET /metrics` answers: made anew for each scrape from what is known anyway, so nothing is counted twice.
#[derive(Default)]
pub struct Scrape {
    registry: Registry,
}

/// Adds what is known of this process to a scrape.
pub fn measure(scrape: &mut Scrape) {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    scrape.gauges("postern_build_info", "The version that runs", [(version, 1.0)]);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let resident = resident.map(|kilobytes: f64| (vec![], kilobytes * 1024.0));
    scrape.gauges("process_resident_memory_bytes", "Memory that is in use", resident);
    #[expect(clippy::cast_precision_loss, reason = "a system has fewer files")]
    let files = std::fs::read_dir("/proc/self/fd").ok().map(|files| (vec![], files.count() as f64));
    scrape.gauges("process_open_fds", "Files and sockets that are open", files);
}

/// Label names with their values.
type Labels = Vec<(&'static str, String)>;

impl Scrape {
    /// Values that go up and down. A time is in seconds.
    pub fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let family = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).set(value);
        }
        self.registry.register(name, help, family);
    }

    /// Values that only grow; `_total` is added to the name.
    pub fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let family = Family::<Labels, Counter>::default();
        for (labels, value) in values {
            family.get_or_create(&labels).inc_by(value);
        }
        self.registry.register(name, help, family);
    }

    /// The answer, as [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) text.
    pub fn into_response(self) -> ([(HeaderName, &'static str); 1], String) {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a text takes all");
        ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
    }
}
