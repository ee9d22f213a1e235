//! `postern audit`: is every row of a source that should have left in the journal? Reads ids only, and writes nothing but
//! what was asked for: rows to be journaled stand in quarantine until `upkeep` reads them again.

use std::time::Duration;

use super::columns::{Column, Columns};
use super::config::{Config, Follow};
use super::holes::Checkpoint;
use super::mapping::{Mapped, Mapping, Row};
use super::{Error, Page, ROWS_MAX, Source, Windows, with_adapter};
use crate::catalogue::Catalogue;
use crate::filter::Filter;
use crate::journal::{Append, Journal, Quarantined};

/// Ids that are named; more are only counted.
const NAMED_MAX: usize = 1_000;
/// When the named ones are looked for once more.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The reason of rows in quarantine that an audit wants journaled.
pub(super) const MISSING: &str = "missing";

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub journaled: u64,
    pub withheld: u64,
    pub quarantined: u64,
    /// Above the highest number that was read; they come next.
    pub not_read_yet: u64,
    pub missing: u64,
    /// Of the missing ones, those that were handed over to be journaled.
    pub requested: u64,
    /// The first of them: the number, if rows have one, and the public id.
    pub named: Vec<(Option<i64>, String)>,
}

/// Compares a source with the journal. What is missing and passes `repair` is handed over to be journaled, at the next
/// positions, by the gateway that serves the journal.
///
/// # Errors
/// A configuration that does not fit the table, the database, the journal.
pub async fn audit(
    config: &Config,
    catalogue: &Catalogue,
    journal: &Journal,
    repair: Option<&Filter>,
) -> Result<Audit, Error> {
    let max = match config.follow() {
        Follow::Probe => {
            let row = journal.source(&config.name).await.map_err(|cause| config.journal_error(cause))?;
            let checkpoint = Checkpoint::parse(&config.name, row.and_then(|row| row.checkpoint).as_deref())?;
            checkpoint.max.unwrap_or(i64::MIN)
        }
        Follow::Xmin | Follow::Overlap | Follow::Flag => i64::MAX,
    };
    let (config, catalogue) = (&ids_only(config), &catalogue.without_schemas());
    let reader = Reader { config, catalogue, journal, repair, max };
    let mut audit = with_adapter!(
        config,
        Adapter,
        numbered: reader.by_numbers::<Adapter>().await,
        windowed: reader.in_windows::<Adapter>().await
    )?;
    if !audit.named.is_empty() {
        // A gateway that runs beside may have been about to journal them.
        tokio::time::sleep(SECOND_LOOK).await;
        let ids: Vec<&str> = audit.named.iter().map(|(_, id)| id.as_str()).collect();
        let known = journal.positions(&ids).await.map_err(|cause| config.journal_error(cause))?;
        audit.named.retain(|(_, id)| !known.contains_key(id));
        audit.missing -= known.len() as u64;
        audit.journaled += known.len() as u64;
    }
    Ok(audit)
}

/// The same rows without what makes them large.
fn ids_only(config: &Config) -> Config {
    let constant = |value: &str| Some(Column::Constant { value: value.to_owned() });
    let time = match config.follow() {
        Follow::Probe => constant("1970-01-01T00:00:00Z"),
        Follow::Xmin | Follow::Overlap | Follow::Flag => config.columns.occurred_at.clone(),
    };
    let columns = Columns {
        aggregate_type: constant("a"),
        aggregate_id: constant("a"),
        aggregate_version: None,
        occurred_at: time,
        data: constant("null"),
        metadata: None,
        // What is flagged is not shown any more: without the flag all rows are.
        flag: None,
        ..config.columns.clone()
    };
    let follow = config.follow.filter(|follow| *follow != Follow::Flag);
    Config { columns, follow, ..config.clone() }
}

struct Reader<'a> {
    config: &'a Config,
    catalogue: &'a Catalogue,
    journal: &'a Journal,
    repair: Option<&'a Filter>,
    /// The highest number that was read.
    max: i64,
}

impl Reader<'_> {
    async fn by_numbers<S: Source>(&self) -> Result<Audit, Error> {
        let mut source = S::open(self.config).await?;
        let (mut audit, mut above) = (Audit::default(), i64::MIN);
        loop {
            let Page { rows, more } = source.tail(above, ROWS_MAX).await?;
            above = rows.last().map_or(above, |row| row.sequence);
            let read = rows.partition_point(|row| row.sequence <= self.max);
            audit.not_read_yet += (rows.len() - read) as u64;
            self.compare(source.mapping(), &rows[..read], true, &mut audit).await?;
            if !more {
                return Ok(audit);
            }
        }
    }

    async fn in_windows<S: Windows>(&self) -> Result<Audit, Error> {
        let mut source = S::open(self.config).await?;
        let (mut audit, mut token) = (Audit::default(), None);
        loop {
            let look = source.look(token.as_deref(), 0).await?;
            self.compare(source.mapping(), &look.rows, false, &mut audit).await?;
            token = Some(look.token);
            if !look.more {
                return Ok(audit);
            }
        }
    }

    /// Each row is one of the five.
    async fn compare(&self, mapping: &Mapping, rows: &[Row], numbered: bool, audit: &mut Audit) -> Result<(), Error> {
        let mut events: Vec<Seen> = Vec::new();
        for row in rows {
            match mapping.map(row, self.catalogue) {
                Mapped::Event(event) => events.push(Seen {
                    own_id: mapping.own_id(row).unwrap_or_default(),
                    number: numbered.then_some(row.sequence),
                    is_asked_for: self.repair.is_some_and(|filter| filter.matches(&event)),
                    id: event.id,
                }),
                Mapped::Withheld => audit.withheld += 1,
                Mapped::Quarantined(_) => audit.quarantined += 1,
            }
        }
        let error = |cause| self.config.journal_error(cause);
        let ids: Vec<&str> = events.iter().map(|seen| seen.id.as_str()).collect();
        let known = self.journal.positions(&ids).await.map_err(error)?;
        // A conflict is kept under its public id.
        let both: Vec<String> = events.iter().flat_map(|seen| [seen.id.clone(), seen.own_id.clone()]).collect();
        let quarantined = self.journal.quarantined(&self.config.name, &both).await.map_err(error)?;
        let mut requested = Vec::new();
        for Seen { id, own_id, number, is_asked_for } in events {
            let sequence = number.map(|number| number.to_string());
            let is_quarantined = |id: &String| quarantined.contains(&(id.clone(), sequence.clone()));
            if is_quarantined(&own_id) || is_quarantined(&id) {
                audit.quarantined += 1;
            } else if known.contains_key(&id) {
                audit.journaled += 1;
            } else {
                audit.missing += 1;
                if is_asked_for {
                    requested.push(Quarantined {
                        event_id: Some(own_id),
                        sequence,
                        reason: MISSING,
                        detail: "an audit did not find it in the journal; it is going to be read again".to_owned(),
                        raw: String::new(),
                    });
                }
                if audit.named.len() < NAMED_MAX {
                    audit.named.push((number, id));
                }
            }
        }
        if requested.is_empty() {
            return Ok(());
        }
        audit.requested += requested.len() as u64;
        let append = Append { source: self.config.name.clone(), quarantined: requested, ..Append::default() };
        self.journal.append(append).await.map(|_| ()).map_err(error)
    }
}

/// A row that should be in the journal.
struct Seen {
    id: String,
    own_id: String,
    number: Option<i64>,
    is_asked_for: bool,
}
