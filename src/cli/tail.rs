//! `postern tail`: follows the journal in the terminal, beside the gateway that serves it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::event::Entry;
use crate::filter::{Filter, Selection};
use crate::journal::{Columns, Journal, Range, redacted};
use crate::source::{CatchUp, catching_up};
use crate::telemetry;

/// How often it is looked for more.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often it is said how far a source is that catches up.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
const PAGE: usize = 500;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: super::ConfigArgument,
    /// Start after this event id, cursor or position, 0 for the beginning; without, with the next event.
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Only these events; written as a feed's `filter`: '{ types = ["Order*"] }'.
    #[arg(long)]
    filter: Option<String>,
}

#[derive(Deserialize)]
struct Filtered {
    filter: Filter,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let config = super::load(&arguments.config.config)?;
    let filter = match &arguments.filter {
        Some(text) => {
            toml::from_str::<Filtered>(&format!("filter = {text}"))
                .with_context(|| format!("--filter `{text}`: write it as '{{ types = [\"Order*\"] }}'"))?
                .filter
        }
        None => Filter::default(),
    };
    filter.check().context("--filter")?;
    let selection = Selection::visible(&Filter::default()).and(&filter);
    let place = redacted(&config.journal.url);
    let journal =
        Journal::open_to_read(&config.journal).await.with_context(|| format!("can't open the journal {place}"))?;
    let Some(journal) = journal else { bail!("there is no journal {place} yet; `postern serve` makes it") };
    let mut after = match &arguments.after {
        Some(text) => journal.locate(&selection, text).await?,
        None => journal.head().await?.position,
    };
    let mut tell_at = Instant::now();
    loop {
        if Instant::now() >= tell_at {
            tell_at = Instant::now() + PROGRESS_EVERY;
            for source in &config.sources {
                if let Some(CatchUp { done, total, rate }) =
                    journal.source(&source.name).await?.and_then(|row| catching_up(&row))
                {
                    eprintln!("{}: catching up, {done} of about {total} rows, {rate} a second", source.name);
                }
            }
        }
        let page = journal.read(&selection, Range::after(after), PAGE, Columns::ENVELOPE).await?;
        after = page.covered;
        let mut lines = String::new();
        page.entries.iter().for_each(|entry| line(&mut lines, entry));
        // Its reader closed the pipe and has seen enough.
        if std::io::stdout().write_all(lines.as_bytes()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        if !page.more {
            sleep(LOOK_EVERY).await;
        }
    }
}

fn line(lines: &mut String, entry: &Entry) {
    let Entry { position, event, recorded_at, late, summary, .. } = entry;
    let late = if *late { " late" } else { "" };
    // What stands in an event must not move the terminal's cursor.
    let plain = |text: &str| text.replace(char::is_control, "\u{fffd}");
    let (r#type, key, id) = (plain(&event.r#type), plain(&event.key()), plain(&event.id));
    let _ = writeln!(lines, "{position} {} {type} {key} {id}{late}: {}", recorded_at.to_text(), plain(summary));
}
