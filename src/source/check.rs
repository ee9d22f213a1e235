//! `postern check`: what would happen to the rows of a source, and what is promised for it. Writes nothing.

use std::fmt;

use super::config::{Config, Follow};
use super::mapping::{Mapped, Mapping, Row};
use super::{Error, Source, Windows, feed, with_adapter};
use crate::catalogue::Catalogue;

/// Rows that are tried from either end of the table.
const SAMPLES: usize = 5;

/// What was found. Shown as lines for people.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where the table is, without secrets.
    pub place: String,
    /// For each tried row its number or its id, and what would become of it.
    pub rows: Vec<(String, String)>,
    pub published: usize,
    pub withheld: usize,
    /// Rows that can't be mapped: faults.
    pub quarantined: usize,
    pub guarantees: Vec<String>,
    pub warnings: Vec<String>,
}

/// Connects, compares the table with the configuration and maps its first and last rows.
///
/// # Errors
/// A configuration that does not fit the database, or a database that does not answer.
pub async fn check(config: &Config, catalogue: &Catalogue) -> Result<Report, Error> {
    config.check()?;
    if config.push {
        return Ok(Report { place: "takes events at POST /sources/…/events".to_owned(), ..Report::default() });
    }
    let mut report = match &config.feed {
        Some(_) => feed::check(config, catalogue).await?,
        None => with_adapter!(
            config,
            Adapter,
            numbered: by_numbers::<Adapter>(config, catalogue).await,
            windowed: in_windows::<Adapter>(config, catalogue).await
        )?,
    };
    report.place = config.place();
    report.warnings.extend(config.notes.iter().cloned());
    Ok(report)
}

async fn by_numbers<S: Source>(config: &Config, catalogue: &Catalogue) -> Result<Report, Error> {
    let mut source = S::open(config).await?;
    let (first, newest) = (source.tail(i64::MIN, SAMPLES).await?, source.newest(SAMPLES).await?);
    let is_swept = source.sweep(None, Vec::new(), 0).await?.is_some();
    let mut report = Report { warnings: source.warnings().await?, ..Report::default() };
    report.guarantees = guarantees(config, is_swept);
    let end = first.rows.last().map_or(i64::MIN, |row| row.sequence);
    for row in first.rows.iter().chain(newest.rows.iter().rev().filter(|row| row.sequence > end)) {
        report.try_row(row.sequence.to_string(), row, source.mapping(), catalogue);
    }
    Ok(report)
}

async fn in_windows<S: Windows>(config: &Config, catalogue: &Catalogue) -> Result<Report, Error> {
    let mut source = S::open(config).await?;
    let look = source.look(None, 0).await?;
    let mut report = Report { warnings: source.warnings().await?, ..Report::default() };
    report.guarantees = guarantees(config, false);
    for row in look.rows.iter().take(SAMPLES) {
        report.try_row(source.mapping().own_id(row).unwrap_or_default(), row, source.mapping(), catalogue);
    }
    Ok(report)
}

/// What is found, in which order, and what is not.
fn guarantees(config: &Config, is_swept: bool) -> Vec<String> {
    let sweep = config.sweep;
    let (found, below) = match config.follow() {
        Follow::Probe => {
            let bound = if is_swept { "in tables beyond 200 MB within 24 h" } else { "1000 missing ranges each" };
            let text = "every committed row exactly once, whatever its number: soon, or below numbers that are read by a sweep";
            (format!("{text} every {sweep:?} ({bound})"), "")
        }
        Follow::Xmin => {
            ("every committed row exactly once, as soon as no older transaction writes any more".to_owned(), "")
        }
        Follow::Overlap => (
            "every committed row exactly once whose time is not before the oldest open transaction".to_owned(),
            "rows that are dated back, ",
        ),
        Follow::Flag => ("every committed row exactly once; its flag is set once it is journaled".to_owned(), ""),
    };
    let order = match (&config.columns.aggregate_version, &config.columns.sequence) {
        _ if config.gate.is_some() => {
            "each aggregate by its version; one that is missing is waited for up to 60s, then it comes late"
        }
        (Some(_), _) => "as discovered; within one look at the table, each aggregate by its version",
        (None, Some(_)) => {
            "as discovered; within one look at the table by `sequence`, as no `aggregate_version` is mapped"
        }
        (None, None) => "as discovered; within one look at the table by time, as no `aggregate_version` is mapped",
    };
    vec![
        format!("found: {found}"),
        format!("order: {order}"),
        format!("not found: {below}rows deleted before they were read, changes of rows"),
    ]
}

impl Report {
    fn try_row(&mut self, place: String, row: &Row, mapping: &Mapping, catalogue: &Catalogue) {
        self.add(place, mapping.map(row, catalogue));
    }

    pub(super) fn add(&mut self, place: String, mapped: Mapped) {
        let (count, outcome) = match mapped {
            Mapped::Event(event) => {
                (&mut self.published, format!("published: {} {} {}", event.r#type, event.key(), event.id))
            }
            Mapped::Withheld => (&mut self.withheld, "withheld".to_owned()),
            Mapped::Quarantined(row) => {
                (&mut self.quarantined, format!("quarantined ({}): {}", row.reason, row.detail))
            }
        };
        *count += 1;
        self.rows.push((place, outcome));
    }

    /// Every row that was tried can't be mapped: the configuration does not fit the table.
    pub fn is_hopeless(&self) -> bool {
        self.published == 0 && self.quarantined > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.place)?;
        for (place, outcome) in &self.rows {
            writeln!(f, "  {place}: {outcome}")?;
        }
        let Self { rows, published, withheld, quarantined, .. } = self;
        writeln!(f, "  of {} rows: {published} published, {withheld} withheld, {quarantined} quarantined", rows.len())?;
        self.guarantees.iter().try_for_each(|guarantee| writeln!(f, "  {guarantee}"))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {warning}"))
    }
}
