//! The only file that knows every room, with its folder: opens, wires, mounts, starts, renews and stops them.

mod collector;
mod pages;
mod rooms;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::journal::{self, Agreed, Journal};
use crate::runtime::{Backoff, Bell, Clock, Tasks};
use crate::web::Site;
use crate::web::auth::Auth;
use crate::web::server::{self, Doors, Proxies, Tls};
use rooms::Rooms;

/// How long a stop waits for calls in flight and last checkpoints.
const DRAIN: Duration = Duration::from_millis(1_500);
/// How long it waits for the database after that. Nothing is lost by leaving earlier.
const CLOSE: Duration = Duration::from_millis(300);
/// How long new rooms wait for the old ones: calls in flight end, as nothing else hurries.
const CHANGE: Duration = Duration::from_secs(20);
/// How often certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(60);

/// What the command line decides.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Serve everybody on a public address.
    pub insecure: bool,
    /// What is read again at a reload.
    pub config: Option<PathBuf>,
}

/// A gateway that runs.
pub struct Gateway {
    address: SocketAddr,
    base: Arc<Base>,
    rooms: Mutex<Rooms>,
    _lock: journal::Lock,
}

/// What stays for as long as the process lives.
struct Base {
    options: Options,
    /// `[server]` and `[journal]`, which a reload does not change.
    server: crate::web::Config,
    journal_config: journal::Config,
    site: Site,
    auth: Auth,
    clock: Clock,
    journal: Journal,
    doors: Doors,
    /// What `server.metrics_listen` shows.
    metrics: Doors,
    tls: Option<Tls>,
    /// The journal's own, and the server.
    tasks: Tasks,
    /// Cancelled before anything else when the gateway stops: it is not ready any more.
    leaving: CancellationToken,
    /// Rung when somebody asks for the configuration to be read again.
    reload: Bell,
}

impl Gateway {
    /// Binds the port, opens the journal (waiting for a database that can't be reached), starts all rooms.
    ///
    /// # Errors
    /// What the operator must mend: a configuration, an address in use, a journal that is served already.
    pub async fn start(config: Config, options: Options) -> anyhow::Result<Self> {
        rooms::check(&config).map_err(anyhow::Error::msg)?;
        collector::start().map_err(anyhow::Error::msg)?;
        let auth = Auth::new(&config.auth, &config.clients).map_err(anyhow::Error::msg)?;
        let listener = bind(config.server.listen, auth.is_open() && !options.insecure).await?;
        let address = listener.local_addr()?;
        let site = Site::new(&config.server, address).map_err(anyhow::Error::msg)?;
        if address.ip().is_unspecified() && config.server.public_url.is_none() {
            warn!("`server.public_url` is not set: links start with {}, which nobody else can follow", site.public_url);
        }
        let proxies = Proxies::new(&config.server.trusted_proxies).map_err(anyhow::Error::msg)?;
        let tls = config.server.tls.as_ref().map(Tls::new).transpose().map_err(anyhow::Error::msg)?;
        let metrics_listener = match config.server.metrics_listen {
            Some(listen) => Some(TcpListener::bind(listen).await.with_context(|| {
                format!("can't listen on {listen}; is another program there? See `server.metrics_listen`")
            })?),
            None => None,
        };
        let (clock, tasks) = (Clock::system(), Tasks::default());
        let journal = open_journal(&config.journal, &clock, &tasks).await?;
        for (what, value) in
            [(Agreed::PublicUrl, &config.server.public_url), (Agreed::Authority, &config.server.authority)]
        {
            if let Some(value) = value {
                journal.must_agree(what, value.trim_end_matches('/')).await?;
            }
        }
        let lock = journal.serve(&config.fingerprint, &tasks).await?;
        let base = Arc::new(Base {
            options,
            server: config.server.clone(),
            journal_config: config.journal.clone(),
            site,
            auth,
            clock,
            journal,
            doors: Doors::default(),
            metrics: Doors::default(),
            tls: tls.clone(),
            tasks: tasks.clone(),
            leaving: CancellationToken::new(),
            reload: Bell::default(),
        });
        let rooms = Rooms::prepare(config, &base).await?;
        rooms.open(&base);
        let http = server::serve(listener, tls, proxies.clone(), base.doors.clone(), tasks.stopping());
        tasks.spawn("http", http);
        if let Some(listener) = metrics_listener {
            let doors = base.metrics.clone();
            tasks.spawn("metrics", server::serve(listener, None, proxies, doors, tasks.stopping()));
        }
        tasks.spawn("certificates", renew_certificates(base.tls.clone(), tasks.stopping()));
        let url = &base.site.public_url;
        info!(server.url = %url, journal.id = base.journal.id(), "serving {url} on {address}");
        Ok(Self { address, base, rooms: Mutex::new(rooms), _lock: lock })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How the outside reaches it.
    pub fn public_url(&self) -> &str {
        &self.base.site.public_url
    }

    pub fn journal(&self) -> &Journal {
        &self.base.journal
    }

    /// Cancelled when a task has crashed.
    pub fn failed(&self) -> CancellationToken {
        self.base.tasks.stopping()
    }

    /// Rung when a client asks for the configuration to be read again.
    pub fn reload_asked(&self) -> Bell {
        self.base.reload.clone()
    }

    /// Reads the configuration again: clients, feeds, catalogue, sources, webhooks' keys, certificates. Connections stay;
    /// long polls, streams and subscriptions end and are resumed by their clients. One that can't be used changes nothing.
    pub async fn reload(&self) {
        match self.try_reload().await {
            Ok(()) => info!("the configuration was read again"),
            Err(cause) => error!("the configuration can't be used, all stays as it was: {cause:#}"),
        }
    }

    async fn try_reload(&self) -> anyhow::Result<()> {
        let base = &self.base;
        let config = base.read_config()?;
        if let Some(tls) = &base.tls {
            tls.reload().map_err(anyhow::Error::msg)?;
        }
        let (auth, clients) = (config.auth.clone(), config.clients.clone());
        let mut rooms = self.rooms.lock().await;
        let new = Rooms::prepare(config, base).await?;
        base.auth.reload(&auth, &clients).map_err(anyhow::Error::msg)?;
        base.journal.configure(&new.fingerprint).await?;
        let old = std::mem::replace(&mut *rooms, new);
        old.close(CHANGE).await;
        rooms.open(base);
        Ok(())
    }

    /// Stops within two seconds: it is not ready any more, takes no connections, calls in flight end, cursors are written.
    /// Returns whether a task had crashed.
    pub async fn stop(self) -> bool {
        self.base.leaving.cancel();
        let rooms = self.rooms.into_inner();
        tokio::join!(rooms.close(DRAIN), self.base.tasks.drain(DRAIN));
        let _ = tokio::time::timeout(CLOSE, self.base.journal.close()).await;
        self.base.tasks.crashed()
    }
}

impl Base {
    /// The configuration as it stands in its file now, if it can be used by a gateway that runs.
    fn read_config(&self) -> anyhow::Result<Config> {
        let Some(path) = &self.options.config else { bail!("this gateway has no configuration file") };
        let environment: Vec<(String, String)> = std::env::vars().collect();
        let config = Config::load(path, &environment)?;
        rooms::check(&config).map_err(anyhow::Error::msg)?;
        for (table, is_same) in
            [("[server]", config.server == self.server), ("[journal]", config.journal == self.journal_config)]
        {
            if !is_same {
                bail!("{table} has changed, which needs a restart");
            }
        }
        Ok(config)
    }
}

async fn bind(listen: SocketAddr, is_open: bool) -> anyhow::Result<TcpListener> {
    if is_open && !listen.ip().is_loopback() {
        bail!(
            "`server.listen` = {listen} is a public address and no [[client]] is configured: everybody could read \
             everything. Make a token with `postern token NAME`, listen on 127.0.0.1, or pass --insecure"
        );
    }
    TcpListener::bind(listen)
        .await
        .with_context(|| format!("can't listen on {listen}; is another program there? See `server.listen`"))
}

async fn open_journal(config: &journal::Config, clock: &Clock, tasks: &Tasks) -> anyhow::Result<Journal> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        match Journal::open(config, clock, tasks).await {
            Ok(journal) => return Ok(journal),
            Err(cause) if cause.is_transient() && cause.hint().is_none() && !config.url.starts_with("sqlite:") => {
                let wait = backoff.next_wait();
                let url = journal::redacted(&config.url);
                warn!(journal.url = %url, %cause, "can't reach the journal at {url}, will retry in {}s", wait.as_secs());
                tokio::time::sleep(wait).await;
            }
            Err(cause) => {
                let hint = cause.hint().map_or(String::new(), |hint| format!(" ({hint})"));
                let url = journal::redacted(&config.url);
                return Err(cause).with_context(|| format!("can't open the journal {url}{hint}"));
            }
        }
    }
}

/// Certificates are renewed by others, who may not tell us.
async fn renew_certificates(tls: Option<Tls>, stopping: CancellationToken) {
    let Some(tls) = tls else { return };
    while tokio::time::timeout(CERTIFICATES, stopping.cancelled()).await.is_err() {
        match tls.reload_if_changed() {
            Ok(true) => info!("the certificate was renewed"),
            Ok(false) => {}
            Err(cause) => warn!("the new certificate can't be used, the old one stays: {cause}"),
        }
    }
}
