//! The webhook door: whoever registers a URL gets each matching event posted to it, signed, at least once, in order
//! per aggregate.
//!
//! Dispatch is cursor, not queue: a webhook is a durable cursor into the journal plus rows for its exceptions, so a
//! healthy delivery costs no row and an idle webhook nothing at all.
//!
//! ```text
//! rest        definition, attributes (what may be written)     deliveries (what did not arrive)
//!   └─ rows ─┐
//! supervisor ─ index (for whom) ─ tail (the journal's end in memory)
//!   └─ one dispatch a lane of a webhook that has something to do ─ target (what for)
//!        ├─ lanes (whose turn it is), pace (how fast)
//!        └─ attempt (one call) ─ body, signature
//! ```

mod attempt;
mod attributes;
mod batch;
mod body;
mod commands;
mod consent;
mod definition;
mod deliveries;
mod dispatch;
mod index;
mod lanes;
mod metrics;
mod missed;
mod oauth2;
mod pace;
mod preview;
mod represent;
mod rest;
mod seal;
mod secrets;
pub mod signature;
mod supervisor;
mod tail;
mod target;
mod turn;
mod websub;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::info;
use url::Url;

use crate::catalogue::Catalogue;
use crate::filter::{Dialects, Selection};
use crate::journal::webhooks::WebhookRow;
use crate::journal::{self, Journal};
use crate::runtime::{Bell, Clock, Steady, Tasks};
use crate::web::Site;
use crate::web::auth::Auth;
use crate::web::outgoing::{Egress, Outgoing, is_loopback};
use crate::web::problem::{Kind, Problem};
pub use body::Projection;
use body::Renderer;
use definition::Definition;
use seal::Sealer;
use secrets::Secrets;
use tail::{Seen, Tail};
pub use websub::Topic;

/// Calls in flight over all webhooks: bounds sockets and memory. Permits are given in the order asked for, and no
/// webhook asks for more than its concurrency, so a slow one can't take them all.
const CALLS_IN_FLIGHT_MAX: usize = 256;
/// … and over those whose last call failed, beside the others.
const CALLS_OF_SUSPECTS_MAX: usize = 64;
/// Of one webhook and kind, at most one event is journaled in so long.
const TELL_EVERY_MICROS: i64 = 60 * 1_000_000;

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

struct Shared {
    journal: Journal,
    catalogue: Arc<Catalogue>,
    outgoing: Outgoing,
    clock: Clock,
    /// For waits: it never goes back.
    steady: Steady,
    public_url: String,
    authority: String,
    auth: Auth,
    sealer: Sealer,
    consent: Consent,
    tasks: Tasks,
    project: Project,
    topic: Topics,
    /// Subscribers that may be asked now.
    asking: Arc<Semaphore>,
    /// Rung when a webhook was registered, changed or removed.
    changed: Bell,
    /// Which ones, and whether they are new.
    changes: Mutex<HashMap<String, bool>>,
    /// Stops the lanes of a webhook.
    stops: Mutex<HashMap<String, CancellationToken>>,
    tail: Tail,
    made: metrics::Calls,
    tokens: oauth2::Tokens,
    /// When an event of a kind was journaled about a webhook last.
    told: Mutex<HashMap<(String, &'static str), i64>>,
    calls: Semaphore,
    calls_of_suspects: Semaphore,
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
        let Surroundings { catalogue, outgoing, clock, auth, tasks, project, topic } = surroundings;
        let shared = Shared {
            sealer: find_key(config, journal.url(), &journal).await?,
            journal,
            catalogue,
            outgoing,
            clock,
            steady: clock.steady(),
            public_url: site.public_url.clone(),
            authority: site.authority.clone(),
            auth,
            consent: config.consent,
            tasks,
            project,
            topic,
            asking: Arc::new(Semaphore::new(websub::ASKED_AT_ONCE)),
            changed: Bell::default(),
            changes: Mutex::default(),
            stops: Mutex::default(),
            tail: Tail::default(),
            made: metrics::Calls::default(),
            tokens: oauth2::Tokens::default(),
            told: Mutex::default(),
            calls: Semaphore::new(CALLS_IN_FLIGHT_MAX),
            calls_of_suspects: Semaphore::new(CALLS_OF_SUSPECTS_MAX),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts delivering.
    pub fn run(self) {
        let tasks = self.shared.tasks.clone();
        tasks.spawn("webhooks", supervisor::supervise(self.shared, tasks.clone()));
    }
}

impl Shared {
    /// The owner changed this webhook: its lanes start no more calls, and the supervisor looks again.
    fn changed(&self, id: &str) {
        if let Some(stop) = self.stops.lock().expect("nothing panics while it holds this lock").get(id) {
            stop.cancel();
        }
        self.note_change(id, false);
    }

    /// The supervisor looks again at this webhook, which goes on meanwhile.
    fn note_change(&self, id: &str, is_new: bool) {
        let mut changes = self.changes.lock().expect("nothing panics while it holds this lock");
        changes.entry(id.to_owned()).and_modify(|known| *known &= is_new).or_insert(is_new);
        drop(changes);
        self.changed.ring();
    }

    fn take_changes(&self) -> HashMap<String, bool> {
        std::mem::take(&mut *self.changes.lock().expect("nothing panics while it holds this lock"))
    }

    /// Whether an event of this kind about a webhook is journaled now: not the next one so soon.
    fn may_tell(&self, id: &str, what: &'static str) -> bool {
        let now = self.steady.now_micros();
        let mut told = self.told.lock().expect("nothing panics while it holds this lock");
        told.retain(|_, at| *at + TELL_EVERY_MICROS > now);
        let is_first = !told.contains_key(&(id.to_owned(), what));
        told.entry((id.to_owned(), what)).or_insert(now);
        is_first
    }

    fn needs_consent(&self, url: &Url) -> bool {
        self.consent == Consent::Required && !is_loopback(url)
    }

    /// The end of the journal as a selection sees it, from memory if it reaches back so far.
    fn seen(&self, selection: &Selection, after: i64, limit: usize) -> Option<Seen> {
        self.tail.read(selection, after, limit, self.journal.known_past())
    }

    /// What a webhook gets: its filters, within what its owner may see. Nothing for an owner that is gone.
    fn selection(&self, row: &WebhookRow, definition: &Definition) -> Option<Selection> {
        let visible = self.auth.visibility(&row.owner)?.and(&definition.filter);
        if definition.filters.is_empty() {
            return Some(visible);
        }
        let dialects = Dialects::parse(&definition.filters, &self.public_url).ok()?;
        Some(visible.and_dialects(Arc::new(dialects)))
    }

    /// Nothing if its selection can't be used.
    fn renderer(&self, definition: &Definition) -> Option<Renderer> {
        let topic = definition.websub.as_ref().map(|subscription| (self.topic)(&subscription.topic));
        Some(Renderer {
            // A feed that is not configured any more.
            topic: match topic {
                Some(found) => Some(found?),
                None => None,
            },
            format: definition.format,
            public_url: self.public_url.clone(),
            journal_id: self.journal.id().to_owned(),
            projection: definition.query.as_deref().map(|query| (self.project)(query)).transpose().ok()?,
        })
    }

    fn check_query(&self, definition: &Definition) -> Result<(), Problem> {
        match definition.query.as_deref().map(|query| (self.project)(query)) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(cause)) => Err(Problem::new(Kind::Unprocessable, format!("`query`: {cause}"))),
        }
    }

    fn unseal(&self, row: &WebhookRow) -> Option<Secrets> {
        Secrets::unseal(&self.sealer, &row.secrets, &row.id)
    }
}

fn definition_of(row: &WebhookRow) -> Definition {
    serde_json::from_str(&row.definition).expect("only checked definitions are stored")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::webhooks::{Change, Edit};

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
