//! The crash suite: webhooks whose receivers fail, hang up and dawdle, while the gateway is killed with -9, loses its
//! journal's database or can't write any more. No event is lost, what comes again is the same, and nobody is overtaken.
//!
//! All chance comes from one seed: which attempts fail and how, and after how many calls the gateway dies. What happens
//! to be in flight then is the machine's affair, so the same seed is a likely repetition, not a certain one.
//!
//! `scripts/crash` does the same for longer. What it sets: `POSTERN_CRASH_SEED`, `…_EVENTS`, `…_ROUNDS` (kills) and
//! `…_AWAY` (seconds).

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::{Database, Engine, provider};

const BINARY: &str = env!("CARGO_BIN_EXE_postern");
const SEED: u64 = 20_260_101;
const KEYS: usize = 37;
const BATCH: usize = 10;
/// Without any call. A gateway that waits for its database looks for it every 30 s only, in the end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Calls for one event of one webhook, on average: more than faults and kills can explain.
const CALLS_MAX: usize = 25;
/// Later attempts at an event succeed; its webhook's schedule is much longer.
const FAULTY_ATTEMPTS_MAX: u64 = 3;
/// How often a later attempt fails.
const AGAIN_PERCENT: u64 = 40;
/// As a supervisor does: the port or the lock of one that was killed may be held for another moment.
const STARTS_MAX: usize = 50;
/// On the small disk: room for some commits.
const ROOM_KIB: u64 = 256;

/// A webhook, and how often the first attempt at an event fails there.
struct Hook {
    name: &'static str,
    ordering: &'static str,
    faulty_percent: u64,
}

const HOOKS: [Hook; 5] = [
    Hook { name: "healthy", ordering: "key", faulty_percent: 0 },
    Hook { name: "shaky", ordering: "key", faulty_percent: 10 },
    Hook { name: "bad", ordering: "key", faulty_percent: 25 },
    // Each fault holds up all that follows.
    Hook { name: "strict", ordering: "strict", faulty_percent: 5 },
    Hook { name: "unordered", ordering: "none", faulty_percent: 10 },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_on_sqlite_lose_no_call_and_let_nobody_overtake() {
    kill_again_and_again(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_on_postgres_lose_no_call_and_let_nobody_overtake() {
    kill_again_and_again(Engine::Postgres).await;
}

async fn kill_again_and_again(journal: Engine) {
    let database = if journal == Engine::Sqlite { None } else { Some(Database::create(journal).await) };
    let trial = Trial::new(database.as_ref().map(|database| database.url.as_str())).await;
    let serve = trial.serve().await;
    let webhooks = trial.register().await;
    let ((_serve, crashes), ()) = tokio::join!(trial.kill(serve), trial.push());
    trial.verify(&webhooks, &crashes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_for_a_while_loses_no_call_and_lets_nobody_overtake() {
    let cluster = Cluster::create();
    let trial = Trial::new(Some(cluster.url().as_str())).await;
    let serve = trial.serve().await;
    let webhooks = trial.register().await;
    // Not a state that is waited for: how long the outage is.
    let away = Duration::from_secs(setting("POSTERN_CRASH_AWAY", 3));
    let outage = async {
        trial.arrived(HOOKS.len() * trial.events / 3).await;
        cluster.stop();
        // What it can't write down while its leases end is sent again.
        let crashes = vec![trial.receiver.arrived()];
        tokio::time::sleep(away).await;
        cluster.start();
        (serve, crashes)
    };
    let ((_serve, crashes), ()) = tokio::join!(outage, trial.push());
    trial.verify(&webhooks, &crashes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_until_a_restart_loses_no_call_and_lets_nobody_overtake() {
    fill_the_disk(async |trial: &Trial, mut full: Serve| {
        full.kill();
        trial.serve().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_has_room_again_needs_no_restart() {
    fill_the_disk(async |_: &Trial, full: Serve| {
        let pid = full.0.id().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status();
        assert!(status.unwrap().success(), "prlimit is of util-linux");
        full
    })
    .await;
}

/// `help` gets a gateway that can't write any more, and gives one that can.
async fn fill_the_disk(help: impl AsyncFnOnce(&Trial, Serve) -> Serve) {
    let trial = Trial::new(None).await;
    let mut first = trial.serve().await;
    let webhooks = trial.register().await;
    // What it made by now tells how much there may be.
    first.kill();
    let small = trial.start(trial.on_a_small_disk()).await;
    let filling = async {
        trial.until("pushes to be refused", async || trial.has_refused(5)).await;
        let crashes = vec![trial.receiver.arrived()];
        (help(&trial, small).await, crashes)
    };
    let ((_serve, crashes), ()) = tokio::join!(filling, trial.push());
    trial.verify(&webhooks, &crashes).await;
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// A number that looks random and is the same for the same seed and parts (SplitMix64).
fn chance(seed: u64, parts: &[u64]) -> u64 {
    fn mix(number: u64) -> u64 {
        let a = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let b = (a ^ (a >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let c = (b ^ (b >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        c ^ (c >> 31)
    }
    parts.iter().fold(mix(seed), |state, part| mix(state ^ *part))
}

/// Below what systems give away, so that nobody gets it while the gateway is down.
fn free_port() -> u16 {
    loop {
        let port = 20_000 + u16::from_ne_bytes(postern::runtime::random_bytes()) % 12_000;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn id(n: usize) -> String {
    format!("00000000-0000-7000-8000-{n:012}")
}

fn key(n: usize) -> String {
    format!("key-{}", n % KEYS)
}

/// Written as no serialiser would, so that bytes that were made anew show.
fn data(n: usize) -> String {
    format!("{{\"n\": {n}, \"price\": 1.10, \"text\": \"Käse\"}}")
}

fn event(n: usize) -> String {
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{}\",\"source\":\"/erp\",\"type\":\"OrderPlaced\",\"partitionkey\":\"{}\",\
         \"time\":\"2026-01-01T00:00:00Z\",\"data\":{}}}",
        id(n),
        key(n),
        data(n)
    )
}

/// One gateway with its journal, its webhooks, their receiver and whoever pushes.
struct Trial {
    seed: u64,
    events: usize,
    rounds: u64,
    dir: tempfile::TempDir,
    config: PathBuf,
    gateway: String,
    client: reqwest::Client,
    receiver: Receiver,
    /// Pushes that were answered with a fault of the gateway's.
    refused: AtomicUsize,
}

impl Trial {
    /// On a journal of its own in a file, if no other is named.
    async fn new(journal: Option<&str>) -> Self {
        provider();
        let dir = tempfile::tempdir().unwrap();
        let (config, port) = (dir.path().join("postern.toml"), free_port());
        let file = format!("sqlite://{}", dir.path().join("journal.db").display());
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n[journal]\nurl = {:?}\n\
             [webhooks]\nallow = [\"127.0.0.1\"]\nsealing_key = \"q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=\"\n\
             [[source]]\nname = \"erp\"\npush = true\n",
            journal.unwrap_or(&file)
        );
        std::fs::write(&config, text).unwrap();
        let seed = setting("POSTERN_CRASH_SEED", SEED);
        Self {
            seed,
            events: setting("POSTERN_CRASH_EVENTS", 300) as usize,
            rounds: setting("POSTERN_CRASH_ROUNDS", 3),
            dir,
            config,
            gateway: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build().unwrap(),
            receiver: Receiver::start(seed).await,
            refused: AtomicUsize::new(0),
        }
    }

    /// The binary as users run it, once it is ready.
    async fn serve(&self) -> Serve {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["serve", "--config"]).arg(&self.config).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.start(command).await
    }

    /// The same where files can grow but a little: no full disk, but it needs no root, and writes fail half-way as they
    /// do there. Its log would fail, too.
    fn on_a_small_disk(&self) -> Command {
        let kib = |file: &str| std::fs::metadata(self.dir.path().join(file)).map_or(0, |file| file.len() / 1024);
        let most = kib("journal.db").max(kib("journal.db-wal")) + ROOM_KIB;
        let script = r#"ulimit -S -f "$0" && trap "" XFSZ && exec "$@""#;
        let mut command = Command::new("bash");
        command.args(["-c", script, &most.to_string(), BINARY, "serve", "--config"]).arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    async fn start(&self, mut command: Command) -> Serve {
        let (mut serve, mut starts) = (Serve(command.spawn().unwrap()), 1);
        let ready = async || {
            if serve.ended().is_ok() {
                assert!(starts < STARTS_MAX, "the gateway ends as soon as it starts");
                (serve, starts) = (Serve(command.spawn().unwrap()), starts + 1);
            }
            self.shows("/readyz", |shown| shown["status"] == "ready").await
        };
        self.until("the gateway to be ready", ready).await;
        serve
    }

    /// The webhooks' paths.
    async fn register(&self) -> Vec<String> {
        let retry: Vec<&str> = ["50ms", "100ms"].into_iter().chain(std::iter::repeat_n("200ms", 18)).collect();
        let mut paths = Vec::new();
        for (number, hook) in HOOKS.iter().enumerate() {
            let url = format!("{}/hook/{number}", self.receiver.url);
            let webhook = json!({
                "url": url, "description": hook.name, "ordering": hook.ordering, "from": "beginning", "retry": retry,
            });
            let url = format!("{}/webhooks", self.gateway);
            let request = self.client.post(url).header("content-type", "application/json");
            let answer = request.body(webhook.to_string()).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, 201, "{text}");
            let shown: Value = serde_json::from_str(&text).unwrap();
            paths.push(format!("/webhooks/{}", shown["id"].as_str().unwrap()));
        }
        paths
    }

    /// Pushes as a careful client does: what was not acknowledged comes again. Never far ahead of the calls, or most
    /// kills would meet nothing but a backlog.
    async fn push(&self) {
        for first in (1..=self.events).step_by(BATCH) {
            self.arrived(HOOKS.len() * first.saturating_sub(1 + self.events / 4)).await;
            let last = self.events.min(first + BATCH - 1);
            let batch = format!("[{}]", (first..=last).map(event).collect::<Vec<_>>().join(","));
            self.until("a push to be acknowledged", async || self.offer(&batch).await).await;
        }
    }

    async fn offer(&self, batch: &str) -> Result<(), String> {
        let request = self.client.post(format!("{}/sources/erp/events", self.gateway));
        let request = request.header("content-type", "application/cloudevents-batch+json").body(batch.to_owned());
        let answer = request.send().await.map_err(|cause| cause.to_string())?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|cause| cause.to_string())?;
        if status == 202 {
            return Ok(());
        }
        assert!(status >= 500, "a push was refused: {status} {text}");
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(format!("{status} {text}"))
    }

    fn has_refused(&self, count: usize) -> Result<(), String> {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused >= count { Ok(()) } else { Err(format!("{refused} of {count}")) }
    }

    /// Kills the gateway after so many calls as chance says, again and again. Gives the last gateway, and how many calls
    /// had come at each kill.
    async fn kill(&self, mut serve: Serve) -> (Serve, Vec<usize>) {
        // Each event is called for by each webhook: so many calls come for certain, and some are left for the last one.
        let certain = (HOOKS.len() - 1) * self.events;
        let point = |round| 1 + chance(self.seed, &[u64::MAX, round]) as usize % certain;
        let mut points: Vec<usize> = (0..self.rounds).map(point).collect();
        points.sort_unstable();
        let mut crashes = Vec::new();
        for point in points {
            self.arrived(point).await;
            serve.kill();
            crashes.push(self.receiver.arrived());
            serve = self.serve().await;
        }
        (serve, crashes)
    }

    async fn arrived(&self, count: usize) {
        let have_arrived = async || {
            let arrived = self.receiver.arrived();
            if arrived >= count { Ok(()) } else { Err(format!("{arrived} of {count}")) }
        };
        self.until("calls", have_arrived).await;
    }

    async fn shows(&self, path: &str, expected: impl Fn(&Value) -> bool) -> Result<(), String> {
        let answer = self.client.get(format!("{}{path}", self.gateway)).send().await;
        let text = answer.map_err(|cause| cause.to_string())?.text().await.map_err(|cause| cause.to_string())?;
        let shown: Value = serde_json::from_str(&text).unwrap_or_default();
        if expected(&shown) { Ok(()) } else { Err(format!("{path} shows {text}")) }
    }

    /// Asks again and again until there is an answer, for as long as calls come.
    async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
        let (mut since, mut seen) = (Instant::now(), 0);
        loop {
            let cause = match ask().await {
                Ok(answer) => return answer,
                Err(cause) => cause,
            };
            let arrived = self.receiver.arrived();
            if arrived != seen {
                (since, seen) = (Instant::now(), arrived);
            }
            assert!(since.elapsed() < PATIENCE, "no call for {PATIENCE:?} and in vain: {what} ({cause})");
            assert!(arrived < CALLS_MAX * HOOKS.len() * self.events, "calls without end, in vain: {what} ({cause})");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn verify(&self, webhooks: &[String], crashes: &[usize]) {
        for path in webhooks {
            let caught_up = |shown: &Value| shown["lag"] == 0 && shown["undelivered"] == 0;
            self.until("a webhook to catch up", async || self.shows(path, caught_up).await).await;
        }
        let calls = self.receiver.calls.lock().unwrap();
        calls.verify_each(self.events);
        for (number, hook) in HOOKS.iter().enumerate() {
            calls.verify_hook(number, hook, self.events);
        }
        println!(
            "seed {}: {} events, {} calls, crashes after {crashes:?}; taken again before a crash and after each: {:?}",
            self.seed,
            self.events,
            calls.all.len(),
            calls.again(crashes)
        );
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("serve.log")
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        eprintln!("the gateway's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        let Self { seed, events, rounds, .. } = self;
        eprintln!(
            "it was seed {seed}; again: POSTERN_CRASH_SEED={seed} POSTERN_CRASH_EVENTS={events} \
             POSTERN_CRASH_ROUNDS={rounds} cargo test --test it crash::"
        );
    }
}

struct Serve(Child);

impl Serve {
    fn kill(&mut self) {
        // SIGKILL.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn ended(&mut self) -> Result<(), String> {
        match self.0.try_wait().unwrap() {
            Some(_) => Ok(()),
            None => Err("it still runs".to_owned()),
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What becomes of a call.
enum Fault {
    Status(u16),
    /// The connection ends in the middle of the answer, or before it.
    HangUp,
    /// It is taken in the end.
    Slow(Duration),
}

/// Of the seed and the attempt alone.
fn fault(seed: u64, hook: usize, id: &str, attempt: u64) -> Option<Fault> {
    let percent = HOOKS.get(hook).map_or(0, |hook| hook.faulty_percent);
    let share = if attempt == 1 { percent } else { AGAIN_PERCENT };
    let event = id.rsplit('-').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let chance = chance(seed, &[hook as u64, event, attempt]);
    if percent == 0 || attempt > FAULTY_ATTEMPTS_MAX || chance % 100 >= share {
        return None;
    }
    Some(match (chance >> 16) % 8 {
        0 => Fault::Status(500),
        1 => Fault::Status(503),
        2 => Fault::Status(429),
        3 | 4 => Fault::HangUp,
        _ => Fault::Slow(Duration::from_millis(50 + (chance >> 32) % 251)),
    })
}

#[derive(Debug)]
struct Call {
    hook: usize,
    id: String,
    key: String,
    sequence: i64,
    body: Bytes,
}

#[derive(Default)]
struct Calls {
    all: Vec<Call>,
    /// Those that were answered with 2xx, in the order of the answers: places in `all`.
    taken: Vec<usize>,
}

impl Calls {
    /// An event is the same in all calls: its key, its place in the journal, its bytes.
    fn verify_each(&self, events: usize) {
        let numbers: HashMap<String, usize> = (1..=events).map(|n| (id(n), n)).collect();
        let (mut sequences, mut bodies) = (HashMap::new(), HashMap::new());
        for call in &self.all {
            let n = *numbers.get(&call.id).unwrap_or_else(|| panic!("nobody pushed the event of {call:?}"));
            assert_eq!(call.key, format!("erp/{}", key(n)), "{call:?}");
            assert!(call.body.ends_with(format!("\"data\":{}}}", data(n)).as_bytes()), "{call:?}");
            let sequence = *sequences.entry(call.id.as_str()).or_insert(call.sequence);
            assert_eq!(call.sequence, sequence, "{call:?} had another sequence before");
            let body = *bodies.entry((call.hook, call.id.as_str())).or_insert(&call.body);
            assert_eq!(&call.body, body, "{call:?} had other bytes before");
        }
    }

    /// Each event was taken, and what has to wait for another was taken for the first time after it.
    fn verify_hook(&self, number: usize, hook: &Hook, events: usize) {
        let (mut seen, mut newest) = (HashSet::new(), HashMap::new());
        let taken = self.taken.iter().map(|place| &self.all[*place]);
        for call in taken.filter(|call| call.hook == number) {
            if !seen.insert(call.id.as_str()) {
                continue;
            }
            let turn = match hook.ordering {
                "key" => call.key.as_str(),
                "strict" => "",
                _ => call.id.as_str(),
            };
            let before = newest.insert(turn, call.sequence).unwrap_or(0);
            assert!(before < call.sequence, "webhook `{}`: {before} was taken before {call:?}", hook.name);
        }
        let lost: Vec<usize> = (1..=events).filter(|n| !seen.contains(id(*n).as_str())).collect();
        assert!(lost.is_empty(), "webhook `{}`: {} of {events} lost, such as {}", hook.name, lost.len(), lost[0]);
    }

    /// How many were taken that had been taken before: before any crash, after the first …
    fn again(&self, crashes: &[usize]) -> Vec<usize> {
        let (mut seen, mut again) = (HashSet::new(), vec![0; crashes.len() + 1]);
        for place in &self.taken {
            let call = &self.all[*place];
            if !seen.insert((call.hook, call.id.as_str())) {
                again[crashes.partition_point(|crash| crash <= place)] += 1;
            }
        }
        again
    }
}

/// Takes the calls of all webhooks, or not, and remembers them.
#[derive(Clone)]
struct Receiver {
    seed: u64,
    url: String,
    calls: Arc<Mutex<Calls>>,
}

impl Receiver {
    async fn start(seed: u64) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let receiver = Self { seed, url, calls: Arc::default() };
        let router = Router::new().route("/hook/{hook}", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn arrived(&self) -> usize {
        self.calls.lock().unwrap().all.len()
    }
}

async fn take(State(receiver): State<Receiver>, Path(hook): Path<usize>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let number = |name: &str| text(name).parse::<i64>().unwrap_or(0);
    let (id, attempt) = (text("webhook-id").to_owned(), number("webhook-attempt").unsigned_abs());
    let fault = fault(receiver.seed, hook, &id, attempt);
    let call = Call { hook, id, key: text("webhook-key").to_owned(), sequence: number("webhook-sequence"), body };
    let place = {
        let mut calls = receiver.calls.lock().unwrap();
        calls.all.push(call);
        calls.all.len() - 1
    };
    match fault {
        Some(Fault::Status(status)) => return StatusCode::from_u16(status).unwrap().into_response(),
        Some(Fault::HangUp) => {
            let cut = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("hung up"))]);
            return Body::from_stream(cut).into_response();
        }
        // Of a caller that is killed meanwhile nothing is taken.
        Some(Fault::Slow(wait)) => tokio::time::sleep(wait).await,
        None => {}
    }
    receiver.calls.lock().unwrap().taken.push(place);
    StatusCode::NO_CONTENT.into_response()
}
