//! The sources in `GET /metrics`.

use super::{Running, State};
use crate::journal::{Error, Journal, SourceRow};
use crate::runtime::Clock;
use crate::telemetry::Scrape;

type Gauge = (&'static str, &'static str, fn(&State, i64) -> Option<f64>);
type Counter = (&'static str, &'static str, fn(&SourceRow) -> i64);

// Counts are far below 2⁵³.
const GAUGES: [Gauge; 9] = [
    ("postern_source_healthy", "Whether the last poll worked", |state, _| Some(f64::from(u8::from(state.healthy)))),
    ("postern_source_lag_seconds", "Time since all that was visible had been journaled", |state, now| {
        state.lag_seconds(now)
    }),
    ("postern_source_holes", "Ranges of missing numbers that are looked for", |state, _| {
        state.position.map(|_| state.hole_count as f64)
    }),
    ("postern_source_gate_waiting", "Events that wait for the version before theirs", |state, _| {
        state.gate.map(|gate| gate.waiting as f64)
    }),
    ("postern_source_audit_missing", "Rows that the last scheduled audit missed in the journal", |state, _| {
        state.audit.as_ref().map(|audit| audit.missing as f64)
    }),
    ("postern_source_audit_timestamp_seconds", "When that audit ended", |state, _| {
        state.audit.as_ref().map(|audit| audit.at as f64 / 1e6)
    }),
    ("postern_source_catch_up_rows", "Rows read of a table that is far ahead", |state, _| {
        state.catch_up.map(|catch_up| catch_up.done as f64)
    }),
    ("postern_source_catch_up_rows_expected", "An estimate of all its rows", |state, _| {
        state.catch_up.map(|catch_up| catch_up.total as f64)
    }),
    ("postern_source_catch_up_rows_per_second", "How fast it is read", |state, _| {
        state.catch_up.map(|catch_up| catch_up.rate as f64)
    }),
];
const COUNTERS: [Counter; 4] = [
    ("postern_source_journaled", "Events journaled", |row| row.journaled),
    ("postern_source_withheld", "Rows that stay inside", |row| row.withheld),
    ("postern_source_duplicates", "Events that were known", |row| row.duplicates),
    ("postern_source_changed", "Known events that came with other data, dropped", |row| row.changed),
];

/// Adds the sources to a scrape.
///
/// # Errors
/// The journal.
pub async fn measure(scrape: &mut Scrape, journal: &Journal, running: &[Running], clock: Clock) -> Result<(), Error> {
    let now = clock.now_micros();
    let states: Vec<State> = running.iter().map(Running::state).collect();
    let mut rows = Vec::new();
    for state in &states {
        rows.extend(journal.source(&state.name).await?);
    }
    let of = |name: &str| vec![("source", name.to_owned())];
    for (name, help, value) in GAUGES {
        scrape.gauges(name, help, states.iter().filter_map(|state| Some((of(&state.name), value(state, now)?))));
    }
    let quarantined = rows.iter().map(|row| (of(&row.name), row.quarantined as f64));
    scrape.gauges("postern_source_quarantined", "Rows in quarantine", quarantined);
    for (name, help, value) in COUNTERS {
        scrape.counters(name, help, rows.iter().map(|row| (of(&row.name), value(row).unsigned_abs())));
    }
    Ok(())
}
