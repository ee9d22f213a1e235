//! `postern audit`: compares the sources with the journal and prints what is missing. Exit 1 if anything is.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::filter::Filter;
use crate::journal::{Journal, redacted};
use crate::runtime::{Clock, Tasks};
use crate::{source, telemetry};

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: super::ConfigArgument,
    /// Only this source.
    #[arg(long)]
    source: Option<String>,
    /// Have what is missing journaled, at the next positions, by the gateway that serves the journal.
    #[arg(long)]
    repair: bool,
    /// The same for events of this type only, such as one that was withheld before (`*` at the end: all that start so).
    #[arg(long, value_name = "TYPE", conflicts_with = "repair")]
    republish: Option<String>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let config = super::load(&arguments.config.config)?;
    let only = arguments.source.as_deref();
    if let Some(only) = only.filter(|only| !config.sources.iter().any(|source| source.name == **only && !source.push)) {
        bail!("there is no source `{only}` with a table or a feed in {}", arguments.config.config.display());
    }
    let place = redacted(&config.journal.url);
    let journal =
        Journal::open_to_read(&config.journal).await.with_context(|| format!("can't open the journal {place}"))?;
    let Some(mut journal) = journal else { bail!("there is no journal {place} yet") };
    let repair = match (arguments.repair, &arguments.republish) {
        (_, Some(r#type)) => Some(Filter { types: vec![r#type.clone()], ..Filter::default() }),
        (true, None) => Some(Filter::default()),
        (false, None) => None,
    };
    if let Some(filter) = &repair {
        filter.check().map_err(|cause| anyhow::anyhow!("--republish: {cause}"))?;
        journal = Journal::open(&config.journal, &Clock::system(), &Tasks::default()).await?;
    }
    let (catalogue, mut is_whole) = (config.catalogue().map_err(anyhow::Error::msg)?, true);
    let read = config.sources.iter().filter(|source| !source.push);
    for source in read.filter(|source| only.is_none_or(|only| only == source.name)) {
        if source.feed.is_some() {
            super::print(&format!("{}: a feed, which has nothing to count against\n", source.name));
            continue;
        }
        let audit = match source::audit(source, &catalogue, &journal, repair.as_ref()).await {
            Ok(audit) => audit,
            Err(cause) => {
                super::print(&format!("{}: FAULT: {cause}\n", source.name));
                is_whole = false;
                continue;
            }
        };
        let source::Audit { journaled, withheld, quarantined, not_read_yet, missing, requested, named } = audit;
        super::print(&format!(
            "{}: {missing} missing, {journaled} journaled, {withheld} withheld, {quarantined} quarantined, \
             {not_read_yet} not read yet\n",
            source.name
        ));
        for (number, id) in &named {
            super::print(&format!("  missing: {}{id}\n", number.map_or(String::new(), |number| format!("{number} "))));
        }
        if missing > named.len() as u64 {
            super::print(&format!("  and {} more\n", missing - named.len() as u64));
        }
        if requested > 0 {
            super::print(&format!("  {requested} of them are going to be journaled by `postern serve`\n"));
        }
        is_whole &= missing <= requested;
    }
    journal.close().await;
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
