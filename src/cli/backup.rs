//! `postern backup`: copies the journal while it is served.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::journal::{Journal, redacted, sqlite_path};
use crate::telemetry;

#[derive(clap::Args)]
pub struct Arguments {
    /// The file to write; it must not exist.
    file: PathBuf,
    #[command(flatten)]
    config: super::ConfigArgument,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let Arguments { file, config: super::ConfigArgument { config: path } } = arguments;
    let config = super::load(&path)?;
    let place = redacted(&config.journal.url);
    if sqlite_path(&config.journal.url).is_none() {
        bail!(
            "the journal {place} is on PostgreSQL, which makes its own backups, such as `pg_dump --format=custom` of that \
             database or continuous archiving. Keep the sealing key and {} with them",
            path.display()
        );
    }
    if file.exists() {
        bail!("{} exists already; give a new name", file.display());
    }
    let journal =
        Journal::open_to_read(&config.journal).await.with_context(|| format!("can't open the journal {place}"))?;
    let Some(journal) = journal else { bail!("there is no journal {place} yet") };
    journal.backup(&file).await.with_context(|| format!("can't write the backup {}", file.display()))?;
    let key = match (&config.webhooks.sealing_key, &config.webhooks.sealing_key_file) {
        (Some(_), _) => "the sealing key of the configuration".to_owned(),
        (None, Some(key)) => format!("the sealing key {}", key.display()),
        (None, None) => {
            let beside = sqlite_path(&config.journal.url).unwrap_or_default().with_file_name("postern.key");
            format!("the sealing key {}", beside.display())
        }
    };
    super::print(&format!(
        "wrote {} with all events up to position {}\nkeep with it: {} and {key}, without which the secrets of webhooks \
         are lost\n",
        file.display(),
        journal.head().await?.position,
        path.display(),
    ));
    Ok(ExitCode::SUCCESS)
}
