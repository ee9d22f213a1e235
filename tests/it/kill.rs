//! The kill suite: `serve` is killed with -9 again and again while a shop writes; nothing may be lost, doubled or moved.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, MySqlPool, PgPool, SqlitePool};

use crate::support::node::node;
use crate::support::reader::{head_and_archives, replicate};
use crate::support::{Database, Engine, provider, wait_for};

const KILLS: usize = 10;
const WRITERS: i64 = 8;
const EVENTS_PER_WRITER: i64 = 1_250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_on_sqlite_lose_double_and_move_nothing() {
    run(Engine::Sqlite, Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_with_postgres_as_source_and_journal_lose_double_and_move_nothing() {
    run(Engine::Postgres, Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_on_mariadb_lose_double_and_move_nothing() {
    run(Engine::Mysql, Engine::Sqlite).await;
}

async fn run(source: Engine, journal: Engine) {
    provider();
    let dir = tempfile::tempdir().unwrap();
    let shop = Shop::create(source, dir.path()).await;
    let journal_database = if journal == Engine::Sqlite { None } else { Some(Database::create(journal).await) };
    let journal_url = match &journal_database {
        Some(database) => database.url.clone(),
        None => format!("sqlite://{}", dir.path().join("journal.db").display()),
    };
    let (calls, receiver) = receive().await;
    let port = free_port();
    let config = dir.path().join("postern.toml");
    std::fs::write(&config, configuration(port, &journal_url, &shop.url)).unwrap();

    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
    let gateway = format!("http://127.0.0.1:{port}");
    let mut serve = Serve::start(&config, &client, &gateway).await;
    let hook = json!({ "url": format!("{receiver}/hook"), "from": "beginning" });
    let request = client.post(format!("{gateway}/webhooks")).header("content-type", "application/json");
    let registered = request.body(hook.to_string()).send().await.unwrap();
    assert_eq!(registered.status(), 201, "{}", registered.text().await.unwrap());

    let writing = tokio::spawn({
        let shop = shop.clone();
        async move { futures_util::future::join_all((0..WRITERS).map(|writer| shop.write(writer))).await }
    });
    let is_over = Arc::new(AtomicBool::new(false));
    let replicas = ["all", "few"].map(|feed| {
        let (client, is_over) = (client.clone(), Arc::clone(&is_over));
        let start = format!("{gateway}/feeds/{feed}.atom?after=0");
        tokio::spawn(async move { replicate(&client, &start, || is_over.load(Ordering::Acquire)).await })
    });
    let subscribers = [Subscriber::start("follow-ws.mjs", &gateway), Subscriber::start("follow-sse.mjs", &gateway)];
    let total = WRITERS * EVENTS_PER_WRITER;
    for kill in 1..=KILLS {
        // At another tenth of the work each time, while calls and commits are in flight.
        let due = (total * 6 / 7) * kill as i64 / (KILLS as i64 + 1);
        wait_for("the journal to grow", || async { (head(&client, &gateway).await? >= due).then_some(()) }).await;
        serve.kill();
        serve = Serve::start(&config, &client, &gateway).await;
    }
    let committed: Vec<Committed> = writing.await.unwrap().into_iter().flatten().collect();
    let public: HashSet<&str> = committed.iter().filter(|c| c.public).map(|c| c.id.as_str()).collect();
    let expected = public.len() as i64;
    wait_for("all events to be journaled", || async { (head(&client, &gateway).await? >= expected).then_some(()) })
        .await;
    let positions = verify_journal(&client, &gateway, &public).await;
    for subscriber in &subscribers {
        subscriber.verify(&positions).await;
    }
    is_over.store(true, Ordering::Release);
    let [all, few] = replicas;
    verify_feeds(&client, &gateway, &all.await.unwrap(), &few.await.unwrap(), &public).await;
    wait_for("all events to be delivered", || async { (calls.distinct() >= public.len()).then_some(()) }).await;
    verify_calls(&calls, &public);
}

/// Each public event once, positions without a gap but for our own events about the webhook, versions ascending within
/// each aggregate. Gives the positions of the public ones.
async fn verify_journal(client: &reqwest::Client, gateway: &str, public: &HashSet<&str>) -> Vec<i64> {
    let own =
        ask(client, gateway, "{ events(first: 200, filter: { sources: [\"postern\"] }) { nodes { position } } }").await;
    let place = |node: &Value| node["position"].as_str().unwrap().parse::<i64>().unwrap();
    let own: Vec<i64> = own["data"]["events"]["nodes"].as_array().unwrap().iter().map(place).collect();
    let (mut after, mut seen, mut versions) = (None::<String>, HashSet::new(), HashMap::new());
    let mut positions = Vec::new();
    loop {
        let from = after.as_ref().map_or(String::new(), |cursor| format!(", after: \"{cursor}\""));
        let query = format!(
            "{{ events(first: 200{from}) {{ pageInfo {{ endCursor hasNextPage }} \
             nodes {{ id position aggregateVersion aggregate {{ key }} }} }} }}"
        );
        let answer = ask(client, gateway, &query).await;
        for node in answer["data"]["events"]["nodes"].as_array().unwrap_or_else(|| panic!("{answer}")) {
            let id = node["id"].as_str().unwrap().to_owned();
            assert!(public.contains(id.as_str()), "{id} was never committed, or is internal");
            assert!(seen.insert(id.clone()), "{id} is journaled twice");
            positions.push(place(node));
            let version: i64 = node["aggregateVersion"].as_str().unwrap().parse().unwrap();
            let before = versions.insert(node["aggregate"]["key"].to_string(), version);
            assert!(before.is_none_or(|before| before < version), "{id}: version {version} after {before:?}");
        }
        if answer["data"]["events"]["pageInfo"]["hasNextPage"] != true {
            break;
        }
        after = answer["data"]["events"]["pageInfo"]["endCursor"].as_str().map(str::to_owned);
    }
    let lost: Vec<&&str> = public.iter().filter(|id| !seen.contains(**id)).collect();
    assert!(lost.is_empty(), "{} of {} lost, such as {:?}", lost.len(), public.len(), lost.first());
    let mut places: Vec<i64> = positions.iter().chain(&own).copied().collect();
    places.sort_unstable();
    assert!(places.iter().copied().eq(1..=places.len() as i64), "positions have gaps");
    assert!(positions.is_sorted(), "positions come in order");
    positions
}

async fn ask(client: &reqwest::Client, gateway: &str, query: &str) -> Value {
    let request = client.post(format!("{gateway}/graphql")).header("content-type", "application/json");
    let answer = request.body(json!({ "query": query }).to_string()).send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

/// Replicas that were read over all kills have each event once, as an RFC 5005 reader has that comes afterwards.
async fn verify_feeds(client: &reqwest::Client, gateway: &str, all: &[String], few: &[String], public: &HashSet<&str>) {
    let set: HashSet<&str> = all.iter().map(|id| id.strip_prefix("urn:uuid:").unwrap()).collect();
    assert_eq!((set.len(), &set), (all.len(), public), "each public event once");
    let mut rest = all.iter();
    assert!(!few.is_empty() && few.iter().all(|id| rest.any(|other| other == id)), "some of them in the same order");
    assert_eq!(head_and_archives(client, &format!("{gateway}/feeds/all.atom")).await, all);
    assert_eq!(head_and_archives(client, &format!("{gateway}/feeds/few.atom")).await, few);
}

/// Each public event at least once; within a key the first sight of each in journal order.
fn verify_calls(calls: &Calls, public: &HashSet<&str>) {
    let calls = calls.0.lock().unwrap();
    let (mut seen, mut newest) = (HashSet::new(), HashMap::new());
    for call in calls.iter() {
        assert!(public.contains(call.id.as_str()), "{} was never committed, or is internal", call.id);
        if seen.insert(call.id.clone()) {
            let before = newest.insert(call.key.clone(), call.sequence).unwrap_or(0);
            assert!(before < call.sequence, "key {}: {} came after {before}", call.key, call.sequence);
        }
    }
    assert_eq!(seen.len(), public.len(), "the receiver saw each event");
}

async fn head(client: &reqwest::Client, gateway: &str) -> Option<i64> {
    let ready = client.get(format!("{gateway}/readyz")).send().await.ok()?.text().await.ok()?;
    serde_json::from_str::<Value>(&ready).ok()?["journal"]["position"].as_i64()
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn configuration(port: u16, journal: &str, source: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:{port}\"\n[journal]\nurl = {journal:?}\n\
         [webhooks]\nallow = [\"127.0.0.1\"]\nsealing_key = \"q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=\"\n\
         [[source]]\nname = \"cart\"\nurl = {source:?}\ntable = \"tb_cart_event\"\npoll = {{ fixed_delay = \"20ms\" }}\n\
         [source.columns]\nsequence = \"seq\"\nid = \"event_id\"\ntype = \"event_type\"\n\
         aggregate_type = {{ value = \"Cart\" }}\naggregate_id = \"cart_id\"\naggregate_version = \"version\"\n\
         occurred_at = \"occurred_at\"\ndata = \"payload\"\noutbox = \"outbox\"\n\
         [[feed]]\nname = \"few\"\npage_size = 30\nfilter = {{ aggregateIds = [\"cart-1-*\", \"cart-3-*\"] }}\n"
    )
}

/// The binary, as users run it.
struct Serve(Child);

impl Serve {
    async fn start(config: &Path, client: &reqwest::Client, gateway: &str) -> Self {
        let serve = Command::new(env!("CARGO_BIN_EXE_postern"))
            .args(["serve", "--config"])
            .arg(config)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        wait_for("serve to be ready", || head(client, gateway)).await;
        Self(serve)
    }

    fn kill(&mut self) {
        // SIGKILL.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A GraphQL client that follows the journal over all kills, each time from the last cursor that it saw.
struct Subscriber {
    client: Child,
    positions: Arc<Mutex<Vec<i64>>>,
}

impl Subscriber {
    fn start(script: &str, gateway: &str) -> Self {
        let mut client =
            node(script, &[gateway]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let positions = Arc::new(Mutex::new(Vec::new()));
        let (lines, seen) = (BufReader::new(client.stdout.take().unwrap()).lines(), Arc::clone(&positions));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let batch: Value = serde_json::from_str(&line).unwrap();
                let batch = batch["positions"].as_array().unwrap().iter().map(|position| position.as_i64().unwrap());
                seen.lock().unwrap().extend(batch);
            }
        });
        Self { client, positions }
    }

    /// Each position once and in order.
    async fn verify(&self, expected: &[i64]) {
        let seen = || async { (self.positions.lock().unwrap().len() >= expected.len()).then_some(()) };
        wait_for("a subscriber to see all events", seen).await;
        let positions = self.positions.lock().unwrap();
        let astray = positions.iter().zip(expected).position(|(position, expected)| position != expected);
        let around = astray.map(|at| &positions[at.saturating_sub(3)..positions.len().min(at + 3)]);
        assert_eq!((around, positions.len()), (None, expected.len()));
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

struct Call {
    id: String,
    key: String,
    sequence: i64,
}

#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    fn distinct(&self) -> usize {
        self.0.lock().unwrap().iter().map(|call| call.id.as_str()).collect::<HashSet<_>>().len()
    }
}

async fn receive() -> (Calls, String) {
    async fn hook(State(calls): State<Calls>, headers: HeaderMap) -> StatusCode {
        let text = |name: &str| headers[name].to_str().unwrap().to_owned();
        let call = Call {
            id: text("webhook-id"),
            key: text("webhook-key"),
            sequence: text("webhook-sequence").parse().unwrap(),
        };
        calls.0.lock().unwrap().push(call);
        StatusCode::NO_CONTENT
    }
    let calls = Calls::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", post(hook)).with_state(calls.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (calls, url)
}

struct Committed {
    id: String,
    public: bool,
}

/// A shop on any of the three databases: several writers, each with carts of its own, transactions that overlap.
#[derive(Clone)]
struct Shop {
    url: String,
    pool: Pool,
    _database: Option<Arc<Database>>,
}

#[derive(Clone)]
enum Pool {
    Sqlite(SqlitePool),
    Postgres(PgPool),
    Mysql(MySqlPool),
}

const TABLE: &str = "create table tb_cart_event (seq SERIAL, event_id varchar(36) not null unique, \
    event_type varchar(80) not null, cart_id varchar(80) not null, version bigint not null, \
    occurred_at varchar(40) not null, payload text not null, outbox boolean not null)";

impl Shop {
    async fn create(engine: Engine, dir: &Path) -> Self {
        let (url, database) = match engine {
            Engine::Sqlite => (format!("sqlite://{}?mode=rwc", dir.join("shop.db").display()), None),
            _ => {
                let database = Database::create(engine).await;
                (database.url.clone(), Some(Arc::new(database)))
            }
        };
        let table = |serial: &str| AssertSqlSafe(TABLE.replace("SERIAL", serial));
        let pool = match engine {
            Engine::Sqlite => {
                let pool = SqlitePool::connect(&url).await.unwrap();
                sqlx::query("pragma journal_mode = wal").execute(&pool).await.unwrap();
                sqlx::query(table("integer primary key autoincrement")).execute(&pool).await.unwrap();
                Pool::Sqlite(pool)
            }
            Engine::Postgres => {
                let pool = PgPool::connect(&url).await.unwrap();
                sqlx::query(table("bigserial primary key")).execute(&pool).await.unwrap();
                Pool::Postgres(pool)
            }
            Engine::Mysql => {
                let pool = MySqlPool::connect(&url).await.unwrap();
                sqlx::query(table("bigint auto_increment primary key")).execute(&pool).await.unwrap();
                Pool::Mysql(pool)
            }
        };
        let url = url.trim_end_matches("?mode=rwc").to_owned();
        Self { url, pool, _database: database }
    }

    /// Writes this writer's share and returns what was committed. Every seventh event is internal, every eighth
    /// transaction is rolled back after its inserts (a hole in the sequence), many stay open for a while.
    async fn write(&self, writer: i64) -> Vec<Committed> {
        let (mut committed, mut versions, mut n) = (Vec::new(), [0_i64; 5], 0);
        let mut transaction = 0_i64;
        while n < EVENTS_PER_WRITER {
            transaction += 1;
            let rolled_back = transaction % 8 == 0;
            let cart = (transaction % 5) as usize;
            let count = 1 + transaction % 4;
            let events: Vec<(String, i64, bool)> =
                (1..=count).map(|k| (uuid::Uuid::now_v7().to_string(), versions[cart] + k, (n + k) % 7 != 0)).collect();
            let cart_id = format!("cart-{writer}-{cart}");
            let pause = Duration::from_millis(((transaction * 7 + writer * 3) % 25) as u64);
            self.transaction(&events, &cart_id, pause, rolled_back).await;
            if !rolled_back {
                versions[cart] += count;
                n += count;
                committed.extend(events.into_iter().map(|(id, _, public)| Committed { id, public }));
            }
        }
        committed
    }

    async fn transaction(&self, events: &[(String, i64, bool)], cart_id: &str, pause: Duration, rolled_back: bool) {
        const COLUMNS: &str = "insert into tb_cart_event \
            (event_id, event_type, cart_id, version, occurred_at, payload, outbox) values ";
        macro_rules! write {
            ($pool:expr, $values:expr) => {{
                let mut transaction = $pool.begin().await.unwrap();
                for (id, version, public) in events {
                    let sql = AssertSqlSafe(format!("{COLUMNS}{}", $values));
                    sqlx::query(sql)
                        .bind(id.as_str())
                        .bind("ItemAdded")
                        .bind(cart_id)
                        .bind(*version)
                        .bind("2026-01-01T00:00:00Z")
                        .bind(format!("{{\"version\":{version}}}"))
                        .bind(*public)
                        .execute(&mut *transaction)
                        .await
                        .unwrap();
                    tokio::time::sleep(pause / 4).await;
                }
                if rolled_back { transaction.rollback().await.unwrap() } else { transaction.commit().await.unwrap() }
            }};
        }
        match &self.pool {
            // One writer at a time: SQLite has no overlapping transactions, a pause would only hold the others.
            Pool::Sqlite(pool) => {
                tokio::time::sleep(pause).await;
                let pause = Duration::ZERO;
                let mut transaction = pool.begin_with("begin immediate").await.unwrap();
                for (id, version, public) in events {
                    let sql =
                        AssertSqlSafe(format!("{COLUMNS}(?, 'ItemAdded', ?, ?, '2026-01-01T00:00:00Z', '{{}}', ?)"));
                    let query = sqlx::query(sql).bind(id.as_str()).bind(cart_id).bind(*version).bind(*public);
                    query.execute(&mut *transaction).await.unwrap();
                    tokio::time::sleep(pause).await;
                }
                if rolled_back { transaction.rollback().await.unwrap() } else { transaction.commit().await.unwrap() }
            }
            Pool::Postgres(pool) => write!(pool, "($1, $2, $3, $4, $5, $6, $7)"),
            Pool::Mysql(pool) => write!(pool, "(?, ?, ?, ?, ?, ?, ?)"),
        }
    }
}
