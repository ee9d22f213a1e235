//! `postern forget`: has one event erased by the gateway that serves the journal.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::time::{Instant, sleep};

use crate::filter::{Filter, Selection};
use crate::journal::{Columns, Journal, redacted};
use crate::runtime::{Clock, Tasks};
use crate::{event, telemetry};

/// How long it is waited for the gateway to do it.
const WAIT: Duration = Duration::from_secs(12);

#[derive(clap::Args)]
pub struct Arguments {
    /// The event's id, as feeds and GraphQL show it.
    id: String,
    #[command(flatten)]
    config: super::ConfigArgument,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let config = super::load(&arguments.config.config)?;
    let place = redacted(&config.journal.url);
    let journal =
        Journal::open_to_read(&config.journal).await.with_context(|| format!("can't open the journal {place}"))?;
    if journal.is_none() {
        bail!("there is no journal {place} yet");
    }
    let journal = Journal::open(&config.journal, &Clock::system(), &Tasks::default()).await?;
    let id = event::event_id_of_atom_id(&arguments.id).unwrap_or_else(|| arguments.id.clone());
    let id = if event::is_uuid(&id) { id.to_ascii_lowercase() } else { id };
    let erased = is_erased(&journal, &id).await?;
    let answer = match erased {
        None => bail!("there is no event `{id}` in the journal {place}"),
        Some(true) => format!("`{id}` is erased already\n"),
        Some(false) => {
            journal.request_erasure(&id).await?;
            let until = Instant::now() + WAIT;
            loop {
                if is_erased(&journal, &id).await? == Some(true) {
                    break format!("erased `{id}`\n");
                }
                if Instant::now() >= until {
                    break format!("`{id}` will be erased as soon as `postern serve` runs on this journal\n");
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
    };
    super::print(&answer);
    journal.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Nothing for an event that is not there.
async fn is_erased(journal: &Journal, id: &str) -> anyhow::Result<Option<bool>> {
    let everything = Selection::visible(&Filter { sources: vec!["*".to_owned()], ..Filter::default() });
    let found = journal.by_ids(&everything, &[id.to_owned()], Columns::ENVELOPE).await?;
    Ok(found.first().map(|entry| entry.erased_at.is_some()))
}
