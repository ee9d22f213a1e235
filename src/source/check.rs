//! `postern check`: what would happen to the rows of a source, and what is promised for it. Writes nothing.

use std::fmt;

use super::config::{Config, Engine};
use super::mapping::Mapped;
use super::sql::{MySql, Postgres, SqlSource, Sqlite};
use super::{Error, Source};
use crate::catalogue::Catalogue;
use crate::journal::redacted;

/// Rows that are tried from either end of the table.
const SAMPLES: usize = 5;

/// What was found. Shown as lines for people.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Where the table is, without secrets.
    pub place: String,
    /// For each tried row its number and what would become of it.
    pub rows: Vec<(i64, String)>,
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
    match config.engine() {
        Some(Engine::Postgres) => examine::<SqlSource<Postgres>>(config, catalogue).await,
        Some(Engine::MySql) => examine::<SqlSource<MySql>>(config, catalogue).await,
        Some(Engine::Sqlite) | None => examine::<SqlSource<Sqlite>>(config, catalogue).await,
    }
}

async fn examine<S: Source>(config: &Config, catalogue: &Catalogue) -> Result<Report, Error> {
    let mut source = S::open(config).await?;
    let (first, newest) = (source.tail(i64::MIN, SAMPLES).await?, source.newest(SAMPLES).await?);
    let is_swept = source.sweep(None, Vec::new(), 0).await?.is_some();
    let mut report = Report {
        place: format!("table `{}` of {}", config.table, redacted(&config.url)),
        guarantees: guarantees(config, is_swept),
        warnings: source.warnings().await?,
        ..Report::default()
    };
    let end = first.rows.last().map_or(i64::MIN, |row| row.sequence);
    for row in first.rows.iter().chain(newest.rows.iter().rev().filter(|row| row.sequence > end)) {
        let (count, outcome) = match source.mapping().map(row, catalogue) {
            Mapped::Event(event) => {
                (&mut report.published, format!("published: {} {} {}", event.r#type, event.key(), event.id))
            }
            Mapped::Withheld => (&mut report.withheld, "withheld".to_owned()),
            Mapped::Quarantined(row) => {
                (&mut report.quarantined, format!("quarantined ({}): {}", row.reason, row.detail))
            }
        };
        *count += 1;
        report.rows.push((row.sequence, outcome));
    }
    Ok(report)
}

fn guarantees(config: &Config, is_swept: bool) -> Vec<String> {
    let sweep = config.sweep;
    let found = match config.engine() {
        Some(Engine::Postgres) if is_swept => format!(
            "found: every committed row exactly once, whatever its number: soon, or below numbers that are read by a sweep \
             every {sweep:?} (within 24 h in tables beyond 200 MB that are partitioned or whose rows are deleted)"
        ),
        Some(Engine::Postgres | Engine::MySql) => {
            "found: every committed row exactly once, also where its number becomes visible after higher ones, within 24 h \
             and 10000 missing ranges"
                .to_owned()
        }
        _ => "found: every committed row with a higher number than any before, exactly once".to_owned(),
    };
    let order = match &config.columns.aggregate_version {
        Some(_) => "order: as discovered; within one look at the table, each aggregate by its version",
        None => "order: as discovered; within one look at the table by `sequence`, as no `aggregate_version` is mapped",
    };
    let below = "rows inserted later below numbers that were never missing or were given up, ";
    let below = if is_swept { "" } else { below };
    vec![found, order.to_owned(), format!("not found: {below}rows deleted before they were read, changes of rows")]
}

impl Report {
    /// Every row that was tried can't be mapped: the configuration does not fit the table.
    pub fn is_hopeless(&self) -> bool {
        self.published == 0 && self.quarantined > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.place)?;
        for (sequence, outcome) in &self.rows {
            writeln!(f, "  {sequence}: {outcome}")?;
        }
        let Self { rows, published, withheld, quarantined, .. } = self;
        writeln!(f, "  of {} rows: {published} published, {withheld} withheld, {quarantined} quarantined", rows.len())?;
        self.guarantees.iter().try_for_each(|guarantee| writeln!(f, "  {guarantee}"))?;
        self.warnings.iter().try_for_each(|warning| writeln!(f, "  warning: {warning}"))
    }
}
