//! A gateway in this process, on a SQLite journal of its own that holds some events already.

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

impl Gateway {
    /// It may call receivers on this machine by http.
    pub async fn start(arrivals: &[Arrival]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("postern.toml");
        let config = "[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = \"sqlite://journal.db\"\n\
                      [webhooks]\nallow = [\"127.0.0.1\"]\n";
        std::fs::write(&path, config)?;
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
