//! What passes the front door, counted for `GET /metrics`. Of this process: a reload goes on counting.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::StatusCode;

use crate::telemetry::Scrape;

/// The first segment of a path; everything else is `other`, so that nobody can make labels.
const AREAS: [&str; 9] = ["feeds", "events", "graphql", "webhooks", "websub", "sources", "console", "metrics", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

struct Area {
    answered: [AtomicU64; CLASSES.len()],
    /// Answers that are being made; long polls among them.
    pending: AtomicU64,
}

static TRAFFIC: [Area; AREAS.len()] =
    [const { Area { answered: [const { AtomicU64::new(0) }; CLASSES.len()], pending: AtomicU64::new(0) } };
        AREAS.len()];
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// A request that is not answered yet.
pub(super) struct Pending {
    pub(super) area: &'static str,
    counts: &'static Area,
}

impl Pending {
    pub(super) fn of(path: &str) -> Self {
        let first = path.trim_start_matches('/').split(['/', '.']).next().unwrap_or_default();
        let place = AREAS.iter().position(|area| *area == first).unwrap_or(AREAS.len() - 1);
        let counts = &TRAFFIC[place];
        counts.pending.fetch_add(1, Ordering::Relaxed);
        Self { area: AREAS[place], counts }
    }

    pub(super) fn answered(self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.counts.answered[class].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.counts.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is open: long-lived streams and subscriptions among them.
pub(super) struct Connected;

impl Connected {
    pub(super) fn new() -> Self {
        CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        CONNECTIONS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is kept open on purpose.
#[derive(Clone, Copy)]
pub enum Open {
    LongPoll,
    Stream,
    Subscription,
}

const OPEN: [&str; 3] = ["long_poll", "stream", "subscription"];
static OPENED: [AtomicU64; OPEN.len()] = [const { AtomicU64::new(0) }; OPEN.len()];

/// One of them, until it is dropped.
pub struct Opened(Open);

impl Open {
    pub fn count(self) -> Opened {
        OPENED[self as usize].fetch_add(1, Ordering::Relaxed);
        Opened(self)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        OPENED[self.0 as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds the counts to a scrape.
#[expect(clippy::cast_precision_loss, reason = "open connections are few")]
pub fn measure(scrape: &mut Scrape) {
    let areas = || AREAS.iter().zip(&TRAFFIC);
    let answered = areas().flat_map(|(name, area)| {
        CLASSES.iter().zip(&area.answered).map(move |(class, count)| {
            let labels = vec![("area", (*name).to_owned()), ("class", (*class).to_owned())];
            (labels, count.load(Ordering::Relaxed))
        })
    });
    scrape.counters("postern_http_requests", "Requests by what was asked for and the class of the answer", answered);
    let pending =
        areas().map(|(name, area)| (vec![("area", (*name).to_owned())], area.pending.load(Ordering::Relaxed) as f64));
    scrape.gauges("postern_http_requests_in_flight", "Answers that are being made, long polls among them", pending);
    let open = OPEN.iter().zip(&OPENED);
    let open = open.map(|(kind, count)| (vec![("kind", (*kind).to_owned())], count.load(Ordering::Relaxed) as f64));
    scrape.gauges("postern_http_open", "Long polls, streams and subscriptions that wait for events", open);
    let connections = CONNECTIONS.load(Ordering::Relaxed) as f64;
    scrape.gauges("postern_http_connections", "Connections that are open", [(vec![], connections)]);
}
