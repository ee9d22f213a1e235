//! A quarantined row is read again, as it stands in its table now, and journaled if it can be.

use super::config::{Config, Engine, Follow};
use super::mapping::{Mapped, Row};
use super::sql::{MySql, Numbered, Postgres, Sqlite, Windowed};
use super::{Error, Source, Windows};
use crate::catalogue::Catalogue;
use crate::journal::{self, Append, Arrival, Journal, QuarantinedRow};

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

pub(super) async fn retry(
    config: &Config,
    catalogue: &Catalogue,
    journal: &Journal,
    quarantined: &QuarantinedRow,
) -> Result<Outcome, Error> {
    let is_numbered = config.follow() == Follow::Probe;
    let mapped = match config.engine().unwrap_or(Engine::Sqlite) {
        Engine::Postgres if is_numbered => by_number::<Numbered<Postgres>>(config, catalogue, quarantined).await,
        Engine::MySql if is_numbered => by_number::<Numbered<MySql>>(config, catalogue, quarantined).await,
        Engine::Sqlite if is_numbered => by_number::<Numbered<Sqlite>>(config, catalogue, quarantined).await,
        Engine::Postgres => by_id::<Windowed<Postgres>>(config, catalogue, quarantined).await,
        Engine::MySql => by_id::<Windowed<MySql>>(config, catalogue, quarantined).await,
        Engine::Sqlite => by_id::<Windowed<Sqlite>>(config, catalogue, quarantined).await,
    }?;
    let mut append =
        Append { source: config.name.clone(), resolved: vec![quarantined.id.clone()], ..Append::default() };
    match mapped {
        None => return Ok(Outcome::Gone),
        Some(Mapped::Quarantined(row)) => return Ok(Outcome::StillBad(row.detail)),
        Some(Mapped::Withheld) => append.withheld = 1,
        Some(Mapped::Event(event)) => {
            let (sequence, summary) = (number(quarantined), catalogue.summary(&event));
            append.arrivals.push(Arrival { event, sequence, summary, late: true });
        }
    }
    let was_withheld = append.withheld > 0;
    let error = |cause: journal::Error| Error::Journal { name: config.name.clone(), cause };
    let appended = journal.append(append).await.map_err(error)?;
    Ok(match appended {
        _ if was_withheld => Outcome::Withheld,
        appended if appended.journaled > 0 => Outcome::Journaled,
        appended if appended.conflicts > 0 => Outcome::StillBad("its id is that of another event".to_owned()),
        _ => Outcome::Known,
    })
}

fn number(row: &QuarantinedRow) -> Option<i64> {
    row.sequence.as_ref()?.parse().ok()
}

async fn by_number<S: Source>(
    config: &Config,
    catalogue: &Catalogue,
    quarantined: &QuarantinedRow,
) -> Result<Option<Mapped>, Error> {
    let mut source = S::open(config).await?;
    let Some(number) = number(quarantined) else { return Ok(None) };
    let page = source.ranges(&[(number, number)], 2).await?;
    // Where a number was given again, the row is another one.
    let is_it = |row: &&Row| {
        let own_id = source.mapping().own_id(row);
        own_id.is_none() || quarantined.event_id.is_none() || own_id == quarantined.event_id
    };
    Ok(page.rows.iter().find(is_it).map(|row| source.mapping().map(row, catalogue)))
}

async fn by_id<S: Windows>(
    config: &Config,
    catalogue: &Catalogue,
    quarantined: &QuarantinedRow,
) -> Result<Option<Mapped>, Error> {
    let mut source = S::open(config).await?;
    let Some(own_id) = &quarantined.event_id else { return Ok(None) };
    let found = source.find(own_id).await?;
    Ok(found.map(|row| source.mapping().map(&row, catalogue)))
}
