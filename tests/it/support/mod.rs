//! The harness: a real gateway on a free port, real databases of its own, and ways to wait for a state.

pub mod cluster;
pub mod database;
pub mod issuer;
pub mod network;
pub mod node;
pub mod reader;
pub mod receiver;
pub mod serve;
pub mod webhooks;

use std::time::{Duration, Instant};

use postern::app;
use postern::config::Config;
use postern::event::{Entry, Event, Micros};
use postern::filter::{Filter, Selection};
use postern::journal::{Append, Appended, Arrival, Columns, Range};
use serde_json::Value;

pub use database::{Database, Engine};

/// Runs texts on a connection.
macro_rules! run {
    ($connection:expr, $($sql:expr),+ $(,)?) => {
        {
            $(sqlx::raw_sql(sqlx::AssertSqlSafe($sql.to_string())).execute(&mut $connection).await.unwrap();)+
        }
    };
}
pub(crate) use run;

/// Long enough for a machine that builds something beside the tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway in this process, on a journal of its own.
pub struct Gateway {
    app: Option<app::Gateway>,
    address: std::net::SocketAddr,
    client: reqwest::Client,
    config: String,
    /// More keys of `[journal]`.
    pub journal_keys: &'static str,
    pub journal_url: String,
    pub dir: tempfile::TempDir,
    _database: Option<Database>,
}

impl Gateway {
    /// On SQLite, open to everybody, without sources.
    pub async fn start() -> Self {
        Self::start_with(Engine::Sqlite, "").await
    }

    /// On the given journal engine, with more configuration (TOML, without `[server] listen` and `[journal]`).
    pub async fn start_with(engine: Engine, config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (journal_url, database) = match engine {
            Engine::Sqlite => (format!("sqlite://{}", dir.path().join("journal.db").display()), None),
            Engine::Postgres | Engine::Mysql => {
                let database = Database::create(engine).await;
                (database.url.clone(), Some(database))
            }
        };
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        provider();
        let mut gateway = Self {
            app: None,
            address: ([127, 0, 0, 1], 0).into(),
            client: client.build().unwrap(),
            config: config.to_owned(),
            journal_keys: "",
            journal_url,
            dir,
            _database: database,
        };
        gateway.open().await;
        gateway
    }

    async fn open(&mut self) {
        let journal = format!("[journal]\nurl = {:?}\n{}", self.journal_url, self.journal_keys);
        let key = "q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=";
        let webhooks = format!("[webhooks]\nallow = [\"127.0.0.1\"]\nsealing_key = \"{key}\"\n");
        let webhooks = if self.config.contains("[webhooks]") { String::new() } else { webhooks };
        let path = self.dir.path().join("postern.toml");
        std::fs::write(&path, format!("{journal}{webhooks}{}", self.config)).unwrap();
        let listen = ("POSTERN_SERVER__LISTEN".to_owned(), self.address.to_string());
        let config = Config::load(&path, &[listen]).unwrap();
        let app = app::Gateway::start(config, app::Options::default()).await.unwrap();
        self.address = app.address();
        self.app = Some(app);
    }

    /// Stops it and starts it again on the same port and journal.
    pub async fn restart(&mut self) {
        self.app.take().unwrap().stop().await;
        self.open().await;
    }

    /// Starts it again with other configuration.
    pub async fn reconfigure(&mut self, config: &str) {
        config.clone_into(&mut self.config);
        self.restart().await;
    }

    pub fn app(&self) -> &app::Gateway {
        self.app.as_ref().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    /// The body of a 200.
    pub async fn get_text(&self, path: &str) -> String {
        let response = self.get(path).await;
        assert_eq!(response.status(), 200, "GET {path}");
        response.text().await.unwrap()
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> reqwest::Response {
        let request = self.client.post(self.url(path)).header("content-type", "application/json");
        request.body(body.to_string()).send().await.unwrap()
    }

    /// Journals events of the source `cart`, in this order.
    pub async fn append(&self, events: Vec<Event>) -> Appended {
        let arrivals = events.into_iter().map(arrival).collect();
        let append = Append { source: "cart".to_owned(), arrivals, ..Append::default() };
        self.app().journal().append(append).await.unwrap()
    }
}

/// Makes TLS possible in this process.
pub fn provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

pub fn arrival(event: Event) -> Arrival {
    let summary = format!("{} {}", event.r#type, event.aggregate_id);
    Arrival { event, sequence: None, summary, mismatch: None, late: false }
}

/// All that is journaled.
pub async fn entries(gateway: &Gateway) -> Vec<Entry> {
    let selection = Selection::visible(&Filter::default());
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let after = Range::after(entries.last().map_or(0, |entry| entry.position));
        let page = gateway.app().journal().read(&selection, after, 1_000, Columns::ALL).await.unwrap();
        entries.extend(page.entries);
        if !page.more {
            return entries;
        }
    }
}

/// The n-th event of a made-up cart shop: a stable UUID, ten carts, a minute apart from 2026-01-01 on.
pub fn event(n: i64) -> Event {
    Event {
        id: format!("00000000-0000-7000-8000-{n:012}"),
        source: "cart".to_owned(),
        r#type: if n % 5 == 0 { "CheckedOut" } else { "ItemAdded" }.to_owned(),
        aggregate_type: "Cart".to_owned(),
        aggregate_id: format!("cart-{}", n % 10),
        aggregate_version: Some(n / 10 + 1),
        occurred_at: Micros(1_767_225_600_000_000 + n * 60_000_000),
        data: format!("{{\"n\":{n},\"sku\":\"TEA\"}}"),
        metadata: None,
    }
}

/// Which event has this id.
pub fn number(id: &str) -> i64 {
    id.strip_prefix("00000000-0000-7000-8000-")
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{id} is none of ours"))
}

pub fn events(range: std::ops::RangeInclusive<i64>) -> Vec<Event> {
    range.map(event).collect()
}

/// Asks again and again until there is an answer.
pub async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn json(response: reqwest::Response) -> Value {
    let text = response.text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"))
}
