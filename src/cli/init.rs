//! `postern init`: a configuration for the event stores that a database holds. Never overwrites.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::journal::redacted;
use crate::{source, telemetry};

#[derive(clap::Args)]
pub struct Arguments {
    /// The database: postgres://, mysql://, mariadb:// or sqlite://.
    url: String,
    /// Only this table; it may be `schema.table`.
    #[arg(long)]
    table: Option<String>,
    /// The file to write.
    #[arg(long, alias = "out", default_value = "postern.toml")]
    config: PathBuf,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let Arguments { url, table, config } = arguments;
    let shown = config.display();
    if config.exists() {
        bail!("{shown} is there already and is not overwritten; give another file with --config");
    }
    let found = source::discover(&url, table.as_deref()).await?;
    if found.is_empty() {
        bail!(
            "no event table was recognised in {}; write `[[source]]` by hand, see README, section \"Your own database\"",
            redacted(&url)
        );
    }
    let mut text =
        "# Written by `postern init`. What can be said besides: README, section \"Configuration\".\n".to_owned();
    for found in &found {
        super::print(&format!("{}\n{}\n", found.what, found.report));
        let guessed =
            if found.text.contains("preset = ") { "" } else { "# Guessed by the columns' names: look at each.\n" };
        let warnings =
            found.report.warnings.iter().map(|warning| format!("# {}\n", warning.replace(char::is_control, " ")));
        let (what, warnings) = (found.what.replace(char::is_control, " "), warnings.collect::<String>());
        text += &format!("\n# {what}\n{guessed}{warnings}{}", found.text);
    }
    let file = OpenOptions::new().write(true).create_new(true).open(&config);
    let mut file = match file {
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => bail!("{shown} is there already"),
        file => file.with_context(|| format!("can't write {shown}"))?,
    };
    file.write_all(text.as_bytes()).with_context(|| format!("can't write {shown}"))?;
    let export = if text.contains("${DATABASE_URL}") { "export DATABASE_URL='<the URL that you gave>'\n" } else { "" };
    super::print(&format!(
        "wrote {shown} with {} sources; look at it, then:\n{export}postern check --config {shown}\npostern serve --config {shown}\n",
        found.len()
    ));
    Ok(ExitCode::SUCCESS)
}
