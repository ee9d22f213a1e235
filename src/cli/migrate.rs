//! `postern migrate`: brings the journal's schema up to date, and changes what all gateways on it agree on.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::journal::{Agreed, Journal, redacted};
use crate::runtime::{Clock, Tasks};
use crate::telemetry;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: super::ConfigArgument,
    /// `public_url=…` or `authority=…`: what the gateways on this journal are told to agree on from their next start.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let config = super::load(&arguments.config.config)?;
    let mut changes = Vec::new();
    for text in &arguments.set {
        let Some((name, value)) = text.split_once('=') else { bail!("`--set {text}`: give NAME=VALUE") };
        let Some(name) = Agreed::parse(name) else { bail!("`--set {text}`: known are public_url and authority") };
        changes.push((name, value));
    }
    let place = redacted(&config.journal.url);
    let journal = Journal::open(&config.journal, &Clock::system(), &Tasks::default()).await;
    let journal = journal.with_context(|| format!("can't open the journal {place}"))?;
    for (name, value) in changes {
        journal.agree(name, value).await?;
        super::print(&format!("{name} = {value}; start the gateways on this journal anew\n"));
    }
    super::print(&format!(
        "the schema of the journal {place} is up to date (version {})\n",
        journal.schema_version().await?
    ));
    journal.close().await;
    Ok(ExitCode::SUCCESS)
}
