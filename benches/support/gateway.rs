//! A gateway in this process, on a journal of its own that holds some events already.

use anyhow::ensure;
use postern::app;
use postern::config::Config;
use postern::journal::{Append, Arrival};

/// Events in one transaction.
const BATCH: usize = 1_000;

pub struct Gateway {
    pub app: app::Gateway,
    /// Removed when dropped.
    _folder: tempfile::TempDir,
}

/// What a gateway is started with beside events.
#[derive(Default)]
pub struct Setting<'a> {
    /// Nothing: SQLite.
    pub journal_url: Option<&'a str>,
    /// More configuration.
    pub config: &'a str,
    /// A file beside the configuration, by name.
    pub file: Option<(&'a str, &'a str)>,
}

impl Gateway {
    /// It may call receivers on this machine by http.
    pub async fn start(setting: &Setting<'_>, arrivals: &[Arrival]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("postern.toml");
        let (journal, more) = (setting.journal_url.unwrap_or("sqlite://journal.db"), setting.config);
        let config = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = \"{journal}\"\n\
             [webhooks]\nallow = [\"127.0.0.1\"]\nsealing_key = \"q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=\"\n{more}"
        );
        std::fs::write(&path, config)?;
        if let Some((name, text)) = setting.file {
            std::fs::write(folder.path().join(name), text)?;
        }
        let app = app::Gateway::start(Config::load(&path, &[])?, app::Options::default()).await?;
        for batch in arrivals.chunks(BATCH) {
            let append = Append { source: "shop".to_owned(), arrivals: batch.to_vec(), ..Append::default() };
            let appended = app.journal().append(append).await?;
            ensure!(
                appended.journaled == batch.len() as u64,
                "only {} of {} events were new",
                appended.journaled,
                batch.len()
            );
        }
        Ok(Self { app, _folder: folder })
    }
}
