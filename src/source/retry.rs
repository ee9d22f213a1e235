//! A quarantined row is read again, as it stands in its table now, and journaled if it can be.

use tokio::time::Instant;

use super::config::Config;
use super::mapping::{Mapped, Row};
use super::{Error, Source, Windows, with_adapter};
use crate::catalogue::Catalogue;
use crate::event::public_id;
use crate::journal::{Append, Appended, Arrival, Journal, QuarantinedRow};

/// What became of it. All but the last two end the quarantine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Journaled,
    /// The journal has this event.
    Known,
    /// Stays inside: `outbox`, `where` or the catalogue says so.
    Withheld,
    /// Why it still can't be an event.
    StillBad(String),
    /// The table has no such row any more.
    Gone,
}

/// Retries the rows in this order, one at least and no more once the time is over.
pub(super) async fn retry(
    config: &Config,
    catalogue: &Catalogue,
    journal: &Journal,
    rows: &[QuarantinedRow],
    until: Instant,
) -> Result<Vec<Outcome>, Error> {
    let retry = Retry { config, catalogue, journal, rows, until };
    with_adapter!(
        config,
        Adapter,
        numbered: retry.by_numbers::<Adapter>().await,
        windowed: retry.by_ids::<Adapter>().await
    )
}

struct Retry<'a> {
    config: &'a Config,
    catalogue: &'a Catalogue,
    journal: &'a Journal,
    rows: &'a [QuarantinedRow],
    until: Instant,
}

impl Retry<'_> {
    async fn by_numbers<S: Source>(&self) -> Result<Vec<Outcome>, Error> {
        let mut source = S::open(self.config).await?;
        let mut outcomes = Vec::new();
        for row in self.rows {
            let found = match number(row) {
                Some(number) => source.ranges(&[(number, number)], 2).await?.rows,
                None => Vec::new(),
            };
            // Where a number was given again, the row is another one.
            let is_it = |found: &&Row| match (source.mapping().own_id(found), &row.event_id) {
                (Some(own_id), Some(id)) => own_id == *id || public_id(&self.config.name, &own_id) == *id,
                _ => true,
            };
            let mapped = found.iter().find(is_it).map(|found| source.mapping().map(found, self.catalogue));
            outcomes.push(self.apply(row, mapped).await?);
            if Instant::now() >= self.until {
                break;
            }
        }
        Ok(outcomes)
    }

    async fn by_ids<S: Windows>(&self) -> Result<Vec<Outcome>, Error> {
        let mut source = S::open(self.config).await?;
        let mut outcomes = Vec::new();
        for row in self.rows {
            let found = match &row.event_id {
                Some(own_id) => source.find(own_id).await?,
                None => None,
            };
            let mapped = found.map(|found| source.mapping().map(&found, self.catalogue));
            outcomes.push(self.apply(row, mapped).await?);
            if Instant::now() >= self.until {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Ends the quarantine only once the row is an event or stays inside.
    async fn apply(&self, row: &QuarantinedRow, mapped: Option<Mapped>) -> Result<Outcome, Error> {
        let mut append = Append { source: self.config.name.clone(), ..Append::default() };
        let mut resolved = Append { resolved: vec![row.id.clone()], ..append.clone() };
        let outcome = match mapped {
            None => return Ok(Outcome::Gone),
            Some(Mapped::Quarantined(still)) => return Ok(Outcome::StillBad(still.detail)),
            Some(Mapped::Withheld) => {
                resolved.withheld = 1;
                Outcome::Withheld
            }
            Some(Mapped::Event(event)) => {
                append.arrivals.push(Arrival::new(self.catalogue, event, number(row), true));
                let appended = self.append(append).await?;
                match appended {
                    appended if appended.conflicts > 0 => {
                        return Ok(Outcome::StillBad("its id is that of another event".to_owned()));
                    }
                    appended if appended.journaled > 0 => Outcome::Journaled,
                    _ => Outcome::Known,
                }
            }
        };
        self.append(resolved).await.map(|_| outcome)
    }

    async fn append(&self, append: Append) -> Result<Appended, Error> {
        self.journal.append(append).await.map_err(|cause| self.config.journal_error(cause))
    }
}

fn number(row: &QuarantinedRow) -> Option<i64> {
    row.sequence.as_ref()?.parse().ok()
}
