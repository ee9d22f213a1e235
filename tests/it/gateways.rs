//! Several gateways on one PostgreSQL journal: they share the work, take over what a dead one leaves, and each answers for
//! all of them.
//!
//! `scripts/crash` kills for longer: `POSTERN_CRASH_ROUNDS`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use crate::support::network::Network;
use crate::support::receiver::Receiver;
use crate::support::serve::{Serve, free_port};
use crate::support::webhooks::ok;
use crate::support::{Database, Engine, provider};

const WEBHOOKS: usize = 20;
const KEYS: i64 = 17;
/// How soon the other gateway must have taken over what a killed one did.
const TAKEOVER: Duration = Duration::from_secs(10);

/// Gateways on one journal, which read one table.
struct Topology {
    dir: tempfile::TempDir,
    journal: Database,
    shop: Database,
    client: reqwest::Client,
}

impl Topology {
    async fn new() -> Self {
        provider();
        let (journal, shop) = (Database::create(Engine::Postgres).await, Database::create(Engine::Postgres).await);
        let mut connection = PgConnection::connect(&shop.url).await.unwrap();
        let table = "create table event_store (seq bigserial primary key, id text not null, type text not null, \
             cart text not null, at timestamptz not null default now(), payload jsonb not null)";
        sqlx::query(table).execute(&mut connection).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[journal]\nurl = {:?}\n[webhooks]\nconsent = \"off\"\nallow = [\"127.0.0.1\"]\n\
             sealing_key = \"q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=\"\n\
             [[source]]\nname = \"cart\"\nurl = {:?}\ntable = \"event_store\"\n\
             [source.columns]\nsequence = \"seq\"\nid = \"id\"\ntype = \"type\"\naggregate_type = {{ value = \"Cart\" }}\n\
             aggregate_id = \"cart\"\noccurred_at = \"at\"\ndata = \"payload\"\n",
            journal.url, shop.url
        );
        std::fs::write(dir.path().join("postern.toml"), text).unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap();
        Self { dir, journal, shop, client }
    }

    /// One more gateway, once it is ready.
    async fn serve(&self) -> Serve {
        self.serve_on(free_port(), &self.dir.path().join("postern.toml")).await
    }

    async fn serve_on(&self, port: u16, config: &Path) -> Serve {
        self.serve_with(port, config, &[]).await
    }

    /// One more, whose way to the journal leads through a network.
    async fn serve_through(&self, network: &Network) -> Serve {
        let config = self.dir.path().join("postern.toml");
        self.serve_with(free_port(), &config, &[("POSTERN_JOURNAL__URL", network.url.as_str())]).await
    }

    async fn serve_with(&self, port: u16, config: &Path, environment: &[(&str, &str)]) -> Serve {
        let log = std::fs::File::create(self.dir.path().join(format!("{port}.log"))).unwrap();
        let serve = Serve::spawn(port, config, log, environment);
        self.until("a gateway that is ready", async || serve.is_ready(&self.client).await).await;
        serve
    }

    async fn insert(&self, numbers: std::ops::RangeInclusive<i64>) {
        let mut connection = PgConnection::connect(&self.shop.url).await.unwrap();
        for n in numbers {
            let sql = "insert into event_store (id, type, cart, payload) values ($1, 'ItemAdded', $2, $3::jsonb)";
            let (id, cart) = (format!("00000000-0000-7000-8000-{n:012}"), format!("c{}", n % KEYS));
            let query = sqlx::query(sql).bind(id).bind(cart).bind(format!("{{\"n\": {n}}}"));
            query.execute(&mut connection).await.unwrap();
        }
    }

    async fn json(&self, serve: &Serve, path: &str) -> Value {
        let Ok(answer) = self.client.get(format!("{}{path}", serve.url)).send().await else { return Value::Null };
        serde_json::from_str(&answer.text().await.unwrap_or_default()).unwrap_or_default()
    }

    async fn register(&self, serve: &Serve, url: &str) -> String {
        let webhook = json!({ "url": url, "from": "beginning" }).to_string();
        let request = self.client.post(format!("{}/webhooks", serve.url)).header("content-type", "application/json");
        let answer = request.body(webhook).send().await.unwrap();
        assert_eq!(answer.status(), 201);
        let shown: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        shown["id"].as_str().unwrap().to_owned()
    }

    async fn position(&self, serve: &Serve) -> i64 {
        self.json(serve, "/readyz").await["journal"]["position"].as_i64().unwrap_or(-1)
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) -> Duration {
        let since = Instant::now();
        while !is_so().await {
            if since.elapsed() > Duration::from_secs(60) {
                for entry in std::fs::read_dir(self.dir.path()).unwrap() {
                    let path = entry.unwrap().path();
                    if path.extension().is_some_and(|ext| ext == "log") {
                        eprintln!("{}:\n{}", path.display(), std::fs::read_to_string(&path).unwrap());
                    }
                }
                panic!("waited 60 s in vain: {what}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        since.elapsed()
    }
}

/// How often each webhook (by its path) took each event, and that nobody overtook on its first arrival.
fn verify(receiver: &Receiver, events: i64) -> usize {
    let mut taken: HashMap<String, (HashSet<i64>, HashMap<String, i64>)> = HashMap::new();
    let (calls, mut again) = (receiver.calls(), 0);
    for call in &calls {
        let (seen, newest) = taken.entry(call.line.clone()).or_default();
        let n = call.number();
        if !seen.insert(n) {
            again += 1;
            continue;
        }
        let before = newest.insert(call.header("webhook-key").to_owned(), n).unwrap_or(0);
        assert!(before < n, "{}: {before} arrived before {n}", call.line);
    }
    assert_eq!(taken.len(), WEBHOOKS);
    for (path, (seen, _)) in &taken {
        let lost: Vec<i64> = (1..=events).filter(|n| !seen.contains(n)).collect();
        assert!(lost.is_empty(), "{path} lost {lost:?}");
    }
    again
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_that_are_killed_in_turn_lose_nothing_and_keep_the_order() {
    let rounds: u64 = std::env::var("POSTERN_CRASH_ROUNDS").map_or(2, |text| text.parse().unwrap());
    let topology = Topology::new().await;
    let receiver = Receiver::start(ok).await;
    let mut gateways = [topology.serve().await, topology.serve().await];
    for n in 0..WEBHOOKS {
        topology.register(&gateways[n % 2], &format!("{}/{n}", receiver.url)).await;
    }
    let (per_round, mut sent) = (150, 0);
    for round in 0..rounds {
        let first = sent + 1;
        sent += per_round;
        // In the middle of the work.
        let kill = async {
            let some = WEBHOOKS * (first as usize - 1) + WEBHOOKS * 10;
            topology.until("some calls", async || receiver.calls().len() >= some).await;
            gateways[usize::from(round % 2 == 1)].kill();
        };
        tokio::join!(topology.insert(first..=sent), kill);
        let (dead, other) = (usize::from(round % 2 == 1), usize::from(round % 2 == 0));
        let other = &gateways[other];
        let taken_over =
            topology.until("the other to journal all", async || topology.position(other).await >= sent).await;
        assert!(taken_over <= TAKEOVER, "the source was taken over after {taken_over:?} only");
        gateways[dead] = topology.serve().await;
    }
    topology
        .until("all calls", async || {
            let seen: HashSet<_> = receiver.calls().iter().map(|call| (call.line.clone(), call.number())).collect();
            seen.len() >= WEBHOOKS * sent as usize
        })
        .await;
    let again = verify(&receiver, sent);
    println!("{rounds} kills, {sent} events, {again} calls came again");
    for gateway in &gateways {
        assert_eq!(topology.position(gateway).await, topology.position(&gateways[0]).await);
        let feed = topology.client.get(format!("{}/feeds/all.atom", gateway.url)).send().await.unwrap();
        assert!(feed.text().await.unwrap().contains(&format!("{sent:012}")), "each shows the newest event");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_shared_and_a_clean_stop_hands_it_over_at_once() {
    let topology = Topology::new().await;
    let receiver = Receiver::start(ok).await;
    let mut first = topology.serve().await;
    let webhook = topology.register(&first, &format!("{}/hook", receiver.url)).await;
    topology.insert(1..=5).await;
    receiver.wait(5).await;
    let second = topology.serve().await;
    // Also the one that does not read the source says how it is doing, and who else is there.
    topology
        .until("a source that both show as healthy", async || {
            let shown = [topology.json(&first, "/sources/cart").await, topology.json(&second, "/sources/cart").await];
            shown.iter().all(|source| source["healthy"] == true && source["lagSeconds"].is_number())
        })
        .await;
    // An edit through one reaches the one that delivers.
    let pause = topology.client.put(format!("{}/webhooks/{webhook}", second.url)).header("command", "Pause");
    assert!(pause.send().await.unwrap().status().is_success());
    assert_eq!(topology.json(&first, &format!("/webhooks/{webhook}")).await["status"], "paused");
    topology.insert(6..=8).await;
    topology.until("the journal to grow", async || topology.position(&second).await >= 8).await;
    assert_eq!(receiver.calls().len(), 5);
    let resume = topology.client.put(format!("{}/webhooks/{webhook}", first.url)).header("command", "Resume");
    assert!(resume.send().await.unwrap().status().is_success());
    receiver.wait(8).await;
    assert!(first.terminate().await.success());
    topology.insert(9..=12).await;
    let handed_over = topology.until("the other to go on", async || receiver.calls().len() >= 12).await;
    assert!(handed_over < Duration::from_secs(4), "it waited {handed_over:?} as if for a dead one");
    let mut numbers = receiver.numbers();
    // Of other aggregates.
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=12).collect::<Vec<_>>(), "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_whose_configuration_is_older_leaves_the_work_to_the_newer_one() {
    let topology = Topology::new().await;
    let receiver = Receiver::start(ok).await;
    let old = topology.serve().await;
    topology.register(&old, &format!("{}/hook", receiver.url)).await;
    topology.insert(1..=2).await;
    receiver.wait(2).await;
    // The newer one withholds a type that the older one would publish.
    let newer = topology.dir.path().join("newer.toml");
    let text = std::fs::read_to_string(topology.dir.path().join("postern.toml")).unwrap();
    std::fs::write(&newer, format!("{text}[events.\"ItemAdded\"]\npublish = false\n")).unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let new = topology.serve_on(port, &newer).await;
    topology
        .until("the newer one to read the source", async || {
            let metrics = topology.client.get(format!("{}/metrics", new.url)).send().await.unwrap();
            metrics.text().await.unwrap().contains("postern_leases{work=\"source\"} 1")
        })
        .await;
    topology.insert(3..=4).await;
    let withheld = async || topology.json(&old, "/sources/cart").await["withheld"] == 2;
    topology.until("both rows to stay inside", withheld).await;
    assert_eq!(topology.json(&new, "/sources/cart").await["journaled"], 2);
}

/// Hands an event in at a gateway's own source, and tells whether it was taken.
async fn push(topology: &Topology, serve: &Serve, id: &str) -> bool {
    let data = json!({ "word": format!("data of {id}") });
    let event = json!({"specversion": "1.0", "id": id, "source": "/erp", "type": "T", "data": data});
    let push = topology.client.post(format!("{}/sources/erp/events", serve.url));
    let push = push.header("content-type", "application/cloudevents+json").body(event.to_string());
    push.send().await.is_ok_and(|answer| answer.status() == 202)
}

async fn with_push() -> Topology {
    let topology = Topology::new().await;
    let path = topology.dir.path().join("postern.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + "[[source]]\nname = \"erp\"\npush = true\n").unwrap();
    topology
}

#[tokio::test]
async fn a_gateway_that_vanishes_in_the_middle_of_a_write_holds_nobody_up() {
    let topology = with_push().await;
    let network = Network::without_tls_to(&topology.journal.url).await;
    let (vanishing, other) = (topology.serve_through(&network).await, topology.serve().await);
    // Its data is said when the head is locked.
    network.fall_silent_behind("data of 1");
    assert!(!push(&topology, &vanishing, "1").await);
    assert!(network.has_fallen_silent(), "it holds the head's lock, and is gone");
    let waited = topology.until("the other one to write", async || push(&topology, &other, "2").await).await;
    assert!(waited < TAKEOVER, "{waited:?}");
    // It is not gone after all.
    topology.until("the first one to write again", async || push(&topology, &vanishing, "1").await).await;
    topology.until("both events", async || topology.position(&other).await == 2).await;
}

#[tokio::test]
async fn connections_that_are_dead_without_a_word_are_given_up() {
    let topology = with_push().await;
    let network = Network::to(&topology.journal.url).await;
    let serve = topology.serve_through(&network).await;
    assert!(push(&topology, &serve, "1").await);
    network.fall_silent();
    topology.until("a write", async || push(&topology, &serve, "2").await).await;
    let feed = format!("{}/feeds/all.atom", serve.url);
    topology
        .until("a feed with both", async || {
            let Ok(answer) = topology.client.get(&feed).send().await else { return false };
            answer.text().await.is_ok_and(|text| text.matches("<entry>").count() == 2)
        })
        .await;
    topology.insert(1..=3).await;
    topology.until("what the source has", async || topology.position(&serve).await == 5).await;
}

#[tokio::test]
async fn what_a_gateway_gave_up_does_not_wait_on_the_server_for_ever() {
    let topology = Topology::new().await;
    let _serve = topology.serve().await;
    let (mut holder, mut watcher) = (
        PgConnection::connect(&topology.journal.url).await.unwrap(),
        PgConnection::connect(&topology.journal.url).await.unwrap(),
    );
    let mut lock = holder.begin().await.unwrap();
    // Without a transaction id, for which others' tests would wait.
    sqlx::query("lock table leases in exclusive mode").execute(&mut *lock).await.unwrap();
    let mut waiting = async || -> Vec<i32> {
        let sql = "select pid from pg_stat_activity where datname = current_database() and application_name = 'postern' \
                   and wait_event_type = 'Lock'";
        sqlx::query_scalar(sql).fetch_all(&mut watcher).await.unwrap()
    };
    topology.until("a round that waits for the lock", async || !waiting().await.is_empty()).await;
    let first = waiting().await;
    topology
        .until("its end, while a later one waits", async || {
            let now = waiting().await;
            !now.is_empty() && first.iter().all(|pid| !now.contains(pid))
        })
        .await;
    drop(lock);
    topology.until("a gateway that works again", async || waiting().await.is_empty()).await;
}

#[tokio::test]
async fn who_hears_others_is_not_disturbed_by_own_writes() {
    let topology = with_push().await;
    let serve = topology.serve().await;
    let mut watcher = PgConnection::connect(&topology.journal.url).await.unwrap();
    let mut listening = async || -> Vec<i32> {
        let sql = "select pid from pg_stat_activity where datname = current_database() and query like 'LISTEN%'";
        sqlx::query_scalar(sql).fetch_all(&mut watcher).await.unwrap()
    };
    topology.until("a connection that listens", async || listening().await.len() == 1).await;
    let first = listening().await;
    // A connection that is younger than five seconds is not doubted; the head is looked at every second.
    let started = Instant::now();
    for n in 0.. {
        assert!(push(&topology, &serve, &n.to_string()).await);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        if started.elapsed() > Duration::from_secs(9) {
            break;
        }
    }
    assert_eq!(listening().await, first);
}
