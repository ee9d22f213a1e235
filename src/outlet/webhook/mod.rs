//! The webhook door: whoever registers a URL gets each matching event posted to it, signed, at least once, in order
//! per aggregate.
//!
//! Dispatch is cursor, not queue: a webhook is a durable cursor into the journal plus rows for its exceptions, so a
//! healthy delivery costs no row and an idle webhook nothing at all.
//!
//! ```text
//! rest, register     draft, attributes (what may be written)     deliveries (what did not arrive)
//!   └─ rows ─┐
//! supervisor ─ index (for whom) ─ tail (the journal's end in memory)
//!   └─ one dispatch a lane of a webhook that has something to do ─ target (what for)
//!        ├─ lanes (whose turn it is), pace (how fast)
//!        └─ calls (what a turn is about) ─ attempt (one call) ─ body, signature
//! ```

mod attempt;
mod attributes;
mod batch;
mod body;
mod calls;
mod commands;
mod consent;
mod definition;
mod deliveries;
mod dispatch;
mod draft;
mod index;
mod lanes;
mod metrics;
mod missed;
mod oauth2;
mod pace;
mod preview;
mod receiver;
mod register;
mod represent;
mod rest;
mod seal;
mod secrets;
mod shards;
mod shared;
pub mod signature;
mod supervisor;
mod tail;
mod target;
mod turn;
mod websub;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use serde::Deserialize;
use tracing::info;

use crate::catalogue::Catalogue;
use crate::journal::{self, Journal};
use crate::runtime::{Clock, Tasks};
use crate::web::Site;
use crate::web::auth::Auth;
use crate::web::outgoing::{Egress, Outgoing};
pub use body::Projection;
use seal::Sealer;
use shared::{Shared, definition_of};
pub use websub::Topic;

/// `[webhooks]` of the configuration.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses, networks and hosts that the egress guard would refuse otherwise, and that may be called by http.
    pub allow: Vec<String>,
    /// What is refused though it is public.
    pub deny: Vec<String>,
    pub consent: Consent,
    /// A private authority for receivers' certificates, beside the public ones. PEM.
    pub ca_file: Option<PathBuf>,
    /// What receivers are shown that ask for a certificate: certificate chain and key in one file. PEM.
    pub client_cert_file: Option<PathBuf>,
    /// `http://`, `https://` or `socks5://`: the way out.
    pub proxy: Option<String>,
    /// Base64 of 32 bytes.
    pub sealing_key: Option<String>,
    /// A file that holds it. With a SQLite journal it is made on the first start.
    pub sealing_key_file: Option<PathBuf>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("allow", &self.allow)
            .field("deny", &self.deny)
            .field("ca_file", &self.ca_file)
            .field("client_cert_file", &self.client_cert_file)
            .field("proxy", &self.proxy.as_ref().map(|_| "***"))
            .field("consent", &self.consent)
            .field("sealing_key", &self.sealing_key.as_ref().map(|_| "***"))
            .field("sealing_key_file", &self.sealing_key_file)
            .finish()
    }
}

impl Config {
    /// The way to receivers.
    ///
    /// # Errors
    /// A sentence that names the key and what is wrong.
    pub fn outgoing(&self) -> Result<Outgoing, String> {
        let read = |name: &str, path: &Option<PathBuf>| match path {
            Some(path) => match std::fs::read(path) {
                Ok(pem) => Ok(Some(pem)),
                Err(cause) => Err(format!("`webhooks.{name}`: {}: {cause}", path.display())),
            },
            None => Ok(None),
        };
        Outgoing::with(&Egress {
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            authorities: read("ca_file", &self.ca_file)?,
            identity: read("client_cert_file", &self.client_cert_file)?,
            proxy: self.proxy.clone(),
        })
    }
}

/// Whether a receiver must agree before its first delivery. One on this machine never has to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consent {
    #[default]
    Required,
    Off,
}

/// Why the door can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`webhooks`: {0}")]
    Key(#[from] seal::KeyError),
    #[error("`webhooks`: give `sealing_key` or `sealing_key_file`, not both")]
    TwoKeys,
    #[error(
        "`webhooks.sealing_key` or `webhooks.sealing_key_file` must be given with a PostgreSQL journal: all processes on \
         it share the key; `openssl rand -base64 32` makes one"
    )]
    NoKey,
    #[error("the sealing key file {path} is gone, and secrets of webhooks are sealed with its key: restore the file")]
    KeyLost { path: String },
    #[error("secrets of webhooks in this journal were sealed with another key than the one in {named}")]
    OtherKey { named: String },
    #[error(transparent)]
    Journal(#[from] journal::Error),
}

/// Makes a selection set on `Event` ready, or says what is wrong with it.
pub type Project = Box<dyn Fn(&str) -> Result<Projection, String> + Send + Sync>;

/// Finds the feed whose head is at a URL.
pub type Topics = Box<dyn Fn(&str) -> Option<Topic> + Send + Sync>;

/// What webhooks need of others.
pub struct Surroundings {
    pub catalogue: Arc<Catalogue>,
    pub outgoing: Outgoing,
    pub clock: Clock,
    pub auth: Auth,
    pub tasks: Tasks,
    pub project: Project,
    /// The feed whose head is at a URL.
    pub topic: Topics,
}

/// The webhooks of a gateway. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    shared: Arc<Shared>,
}

/// The sealing key, if it exists, and what it is called: a key of the configuration or a file. With a SQLite journal it
/// is a file beside it if nothing else is said.
fn configured_key(config: &Config, journal_url: &str) -> Result<(Option<Sealer>, String), Error> {
    let beside = journal::sqlite_path(journal_url).map(|path| path.with_file_name("postern.key"));
    let may_be_made = beside.is_some();
    match (&config.sealing_key, config.sealing_key_file.clone().or(beside)) {
        (Some(_), _) if config.sealing_key_file.is_some() => Err(Error::TwoKeys),
        (Some(text), _) => Ok((Some(Sealer::parse(text, "`sealing_key`")?), "`webhooks.sealing_key`".to_owned())),
        (None, Some(file)) => match Sealer::read(&file)? {
            None if !may_be_made => Err(Error::NoKey),
            sealer => Ok((sealer, file.display().to_string())),
        },
        (None, None) => Err(Error::NoKey),
    }
}

/// Checks the sealing key as far as it can be without the journal.
///
/// # Errors
/// A key that is missing, given twice or no key.
pub fn check(config: &Config, journal_url: &str) -> Result<(), Error> {
    configured_key(config, journal_url).map(|_| ())
}

async fn find_key(config: &Config, journal_url: &str, journal: &Journal) -> Result<Sealer, Error> {
    let sealed = journal.webhooks(None, "", 1).await?.into_iter().next();
    match (configured_key(config, journal_url)?, sealed) {
        ((Some(sealer), named), Some(row)) => match sealer.unseal(&row.secrets, &row.id) {
            Some(_) => Ok(sealer),
            None => Err(Error::OtherKey { named }),
        },
        ((Some(sealer), _), None) => Ok(sealer),
        ((None, path), Some(_)) => Err(Error::KeyLost { path }),
        ((None, path), None) => {
            info!(key.file = %path, "made a sealing key in {path}; keep it with the journal's backups");
            Ok(Sealer::create(Path::new(&path))?)
        }
    }
}

/// `/webhooks…`, for known clients only.
pub fn router(webhooks: Webhooks) -> Router {
    rest::router(webhooks.shared)
}

/// What receivers call.
pub fn open_router(webhooks: Webhooks) -> Router {
    rest::open_router(webhooks.shared)
}

impl Webhooks {
    /// Opens the door: finds the sealing key, or with a SQLite journal makes one beside it. Nothing is sent before
    /// [`Webhooks::run`].
    ///
    /// # Errors
    /// A key that is missing, no key, or not the one that this journal's secrets are sealed with; the journal.
    pub async fn open(
        config: &Config,
        journal: Journal,
        site: &Site,
        surroundings: Surroundings,
    ) -> Result<Self, Error> {
        let sealer = find_key(config, journal.url(), &journal).await?;
        let shared = Shared::new(config, journal, site, sealer, surroundings);
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts delivering.
    pub fn run(self) {
        let tasks = self.shared.tasks.clone();
        shards::hold(&self.shared, &tasks);
        tasks.spawn("webhooks", supervisor::supervise(self.shared, tasks.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::secrets::Secrets;
    use super::*;
    use crate::journal::webhooks::{Change, Edit, WebhookRow};

    fn row(sealer: &Sealer) -> WebhookRow {
        let secrets = Secrets::default().seal(sealer, "w");
        WebhookRow { id: "w".into(), owner: "local".into(), definition: "{}".into(), secrets, ..WebhookRow::default() }
    }

    #[tokio::test]
    async fn a_key_is_made_once_and_neither_its_loss_nor_another_one_goes_unnoticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite://{}", dir.path().join("journal.db").display());
        let config = journal::Config { url: url.clone(), ..journal::Config::default() };
        let journal = Journal::open(&config, &Clock::system(), &Tasks::default()).await.expect("a journal");
        let (none, file) = (Config::default(), dir.path().join("postern.key"));
        assert!(matches!(find_key(&none, "postgres://db/x", &journal).await, Err(Error::NoKey)));
        let elsewhere = Config { sealing_key_file: Some(file.clone()), ..Config::default() };
        assert!(matches!(check(&elsewhere, "postgres://db/x"), Err(Error::NoKey)), "all processes must share it");
        let sealer = find_key(&none, &url, &journal).await.expect("made");
        assert!(file.exists());
        journal
            .change_webhook(Change { edits: vec![Edit::Create(Box::new(row(&sealer)))], ..Change::default() })
            .await
            .expect("stored");
        assert!(find_key(&none, &url, &journal).await.is_ok());
        std::fs::remove_file(&file).expect("removed");
        assert!(matches!(find_key(&none, &url, &journal).await, Err(Error::KeyLost { .. })));
        assert!(!file.exists(), "a new key would hide the loss");
        let other = Config { sealing_key: Some(format!("{}=", "A".repeat(43))), ..Config::default() };
        assert!(matches!(find_key(&other, &url, &journal).await, Err(Error::OtherKey { .. })));
        assert!(!format!("{other:?}").contains("AAA"));
    }
}
