//! The programs of `docs/receiving.md`, as they stand there, and what other people's libraries make of our calls.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern::event::Event;
use postern::runtime::Clock;
use serde_json::{Value, json};

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::{Engine, Gateway, event, events, node, number, provider, wait_for};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// Data comes as it was stored, which may be on several lines.
const BODY: &str =
    "{\"type\":\"OrderPlaced\",\"timestamp\":\"2026-01-01T00:00:00.000Z\",\"data\":{\n  \"note\": \"Zoë\"\n}}";
const KEY: &str = "Order/o-1";

/// A program as it is run: its language in the page, the file's name, what runs it and on which packages.
const PROGRAMS: [(&str, &str, &str, &str); 4] = [
    ("python", "receive.py", "python3", "python3"),
    ("js", "receive.mjs", "node", "nodejs"),
    ("php", "receive.php", "php", "php-cli"),
    ("java", "Receive.java", "java", "default-jdk-headless"),
];

macro_rules! in_each_language {
    ($($name:ident)*) => {
        mod python { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("python").await; })* }
        mod node_js { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("js").await; })* }
        mod php { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("php").await; })* }
        mod java { $(#[tokio::test(flavor = "multi_thread")] async fn $name() { super::$name("java").await; })* }
    };
}

in_each_language! {
    each_event_is_handled_once_and_in_order
    only_what_is_signed_is_taken
    what_was_handled_is_known_after_a_kill
    consent_is_given
}

/// A file of the page: its name stands behind the language of its block.
fn write(folder: &Path, language: &str, file: &str) {
    let page = include_str!("../../docs/receiving.md");
    let start = format!("```{language} {file}\n");
    let (_, from) = page.split_once(&start).unwrap_or_else(|| panic!("no {file} in the page"));
    std::fs::write(folder.join(file), from.split_once("```\n").unwrap().0).unwrap();
}

/// Below those that the kernel gives to whoever asks for any, so that nobody gets it in between.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn now() -> i64 {
    Clock::system().now_micros() / 1_000_000
}

/// As Standard Webhooks says; on purpose not with the code that is tested.
fn sign(secret: &str, id: &str, time: i64, body: &str) -> String {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, format!("{id}.{time}.{body}").as_bytes())))
}

fn headers(sequence: i64, id: &str, time: i64, signature: String) -> Vec<(&'static str, String)> {
    vec![
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", time.to_string()),
        ("webhook-signature", signature),
        ("webhook-sequence", sequence.to_string()),
        ("webhook-key", KEY.to_owned()),
        ("webhook-attempt", "1".to_owned()),
    ]
}

/// An event that was handled: position, key, id.
type Handled = (i64, String, String);

fn handled(sequence: i64, id: &str) -> Handled {
    (sequence, KEY.to_owned(), id.to_owned())
}

/// A program of the page that runs until it is dropped.
struct Program {
    child: Child,
    url: String,
    folder: PathBuf,
    client: reqwest::Client,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    /// Started and listening, with its state in the folder.
    async fn start(language: &str, folder: &Path, port: u16) -> Self {
        let (_, file, runner, package) = PROGRAMS.into_iter().find(|(name, ..)| *name == language).unwrap();
        write(folder, language, file);
        let mut command = Command::new(runner);
        if language == "php" {
            command.arg("-S").arg(format!("127.0.0.1:{port}"));
        }
        let errors = folder.join("errors");
        command.arg(folder.join(file)).current_dir(folder);
        command.env("PORT", port.to_string()).env("SECRET", SECRET).env("STATE", folder.join("state"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&errors).unwrap());
        let child = command.spawn();
        let child = child.unwrap_or_else(|cause| panic!("{runner} is needed (Debian's package {package}): {cause}"));
        provider();
        // A connection that is kept would not know of a restart.
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let url = format!("http://127.0.0.1:{port}/");
        let mut program = Self { child, url, folder: folder.to_owned(), client };
        wait_for("the program to listen", || {
            let ended = program.child.try_wait().unwrap();
            assert!(ended.is_none(), "{language}: {}", std::fs::read_to_string(&errors).unwrap_or_default());
            async move { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok() }
        })
        .await;
        program
    }

    /// The whole lines of its log.
    fn log(&self) -> Vec<Handled> {
        let text = std::fs::read_to_string(self.folder.join("state/handled.log")).unwrap_or_default();
        let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines).lines();
        let parse = |line: &str| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[0].parse::<i64>().unwrap(), fields[1].to_owned(), fields[2].to_owned())
        };
        lines.map(parse).collect()
    }

    /// Its log, once that is enough.
    async fn wait(&self, enough: impl Fn(&[Handled]) -> bool) -> Vec<Handled> {
        wait_for("the log", || async { Some(self.log()).filter(|log| enough(log)) }).await
    }

    /// Its log, once this event is in it.
    async fn wait_for_id(&self, wanted: &str) -> Vec<Handled> {
        self.wait(|log| log.iter().any(|(_, _, id)| id == wanted)).await
    }

    async fn post(&self, headers: &[(&'static str, String)], body: &str) -> (u16, String) {
        let mut request = self.client.post(&self.url).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, value.as_str());
        }
        let response = request.body(body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// A right call, which must be answered with 2xx.
    async fn call(&self, sequence: i64, id: &str, replay: bool) {
        let now = now();
        let mut headers = headers(sequence, id, now, sign(SECRET, id, now, BODY));
        if replay {
            headers.push(("webhook-replay", "r-1".to_owned()));
        }
        let (status, text) = self.post(&headers, BODY).await;
        assert!((200..300).contains(&status), "{id}: {status} {text}");
    }
}

async fn register(gateway: &Gateway, body: Value) {
    let response = gateway.post_json("/webhooks", &body).await;
    assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
}

async fn each_event_is_handled_once_and_in_order(language: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(language, folder.path(), free_port()).await;
    let gateway = Gateway::start_with(Engine::Sqlite, "").await;
    register(&gateway, json!({"url": program.url, "from": "beginning", "secret": SECRET})).await;
    gateway.append(events(1..=30)).await;
    let log = program.wait(|log| log.len() >= 30).await;
    assert_eq!(log.len(), 30, "{log:?}");
    let (mut ids, mut last) = (BTreeSet::new(), HashMap::new());
    for (sequence, key, id) in &log {
        assert_eq!(*key, format!("Cart/{}", event(number(id)).aggregate_id));
        assert!(ids.insert(id), "{id} twice");
        assert!(last.insert(key, sequence).is_none_or(|before| before < sequence), "{log:?}");
    }
}

async fn only_what_is_signed_is_taken(language: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(language, folder.path(), free_port()).await;
    let now = now();
    let right = sign(SECRET, "forged", now, BODY);
    for (why, time, signature) in [
        ("of another secret", now, sign(OTHER_SECRET, "forged", now, BODY)),
        ("of another body", now, sign(SECRET, "forged", now, "{}")),
        ("of another event", now, sign(SECRET, "other", now, BODY)),
        ("of another time", now, sign(SECRET, "forged", now - 1, BODY)),
        ("of another scheme", now, right.replace("v1,", "v2,")),
        ("cut off", now, right[..9].to_owned()),
        ("empty", now, String::new()),
        ("of the past", now - 400, sign(SECRET, "forged", now - 400, BODY)),
        ("of the future", now + 400, sign(SECRET, "forged", now + 400, BODY)),
    ] {
        let (status, _) = program.post(&headers(1, "forged", time, signature), BODY).await;
        assert_eq!(status, 401, "a signature {why}");
    }
    assert_eq!(program.post(&[], BODY).await.0, 401);
    // As while a secret is rotated, beside a signature of another scheme.
    let both = format!("{} v1a,AAAA {}", sign(OTHER_SECRET, "right", now, BODY), sign(SECRET, "right", now, BODY));
    let (status, text) = program.post(&headers(2, "right", now, both), BODY).await;
    assert!((200..300).contains(&status), "{status} {text}");
    assert_eq!(program.wait_for_id("right").await, [handled(2, "right")]);
}

async fn what_was_handled_is_known_after_a_kill(language: &str) {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let program = Program::start(language, folder.path(), port).await;
    program.call(5, "five", false).await;
    program.call(5, "five", false).await;
    program.call(6, "six", false).await;
    assert_eq!(program.wait_for_id("six").await, [handled(5, "five"), handled(6, "six")]);
    drop(program);
    let program = Program::start(language, folder.path(), port).await;
    program.call(5, "five", false).await;
    program.call(6, "six", true).await;
    program.call(4, "older", false).await;
    program.call(3, "replayed", true).await;
    program.call(7, "seven", false).await;
    let mut log = program.wait_for_id("seven").await;
    // The work on an event that is taken may be done twice if the program is killed in the middle of it.
    log.dedup();
    let expected = [handled(5, "five"), handled(6, "six"), handled(3, "replayed"), handled(7, "seven")];
    assert_eq!(log, expected);
}

async fn consent_is_given(language: &str) {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::start(language, folder.path(), free_port()).await;
    let request = program.client.request(reqwest::Method::OPTIONS, &program.url);
    let answer = request.header("webhook-request-origin", "events.example.com:8443").send().await.unwrap();
    assert!(answer.status().is_success());
    assert_eq!(answer.headers()["webhook-allowed-origin"], "events.example.com:8443");
    assert_eq!(answer.headers()["webhook-allowed-rate"], "*");
    let (now, body) = (now(), r#"{"type":"postern.webhook.verification","challenge":"c-1_x="}"#);
    // It is about no event, so it has no place.
    let headers = |secret| headers(0, "consent", now, sign(secret, "consent", now, body))[..3].to_vec();
    let (status, text) = program.post(&headers(SECRET), body).await;
    assert_eq!((status, serde_json::from_str::<Value>(&text).unwrap()), (200, json!({"challenge": "c-1_x="})));
    assert_eq!(program.post(&headers(OTHER_SECRET), body).await.0, 401);
    assert!(program.log().is_empty());
}

#[test]
fn the_call_on_the_page_is_rightly_signed() {
    let page = include_str!("../../docs/receiving.md");
    let call = page.split_once("```http\n").unwrap().1.split_once("\n```").unwrap().0;
    let (head, body) = call.split_once("\n\n").unwrap();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap();
    let time = header("webhook-timestamp").parse().unwrap();
    assert!(page.contains(SECRET));
    assert_eq!(header("webhook-signature"), sign(SECRET, header("webhook-id"), time, body));
}

/// A call as the scripts of `tests/python` and `tests/node` read it.
fn shown(call: &Call) -> Value {
    let headers: HashMap<&str, &str> =
        call.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    json!({"format": format_of(call), "headers": headers, "body": std::str::from_utf8(&call.body).unwrap()})
}

/// What the webhook's URL ends with.
fn format_of(call: &Call) -> &str {
    call.line.rsplit_once('/').unwrap().1
}

/// Runs a script that prints its verdict on each call.
async fn verdicts(mut command: Command) -> Vec<Value> {
    command.env("SECRET", SECRET);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap_or_else(|cause| panic!("a script's language is missing, run scripts/test: {cause}"));
    assert!(output.status.success(), "run scripts/test? {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn libraries_of_others_verify_and_read_what_is_sent() {
    let gateway = Gateway::start_with(Engine::Sqlite, "").await;
    let receiver = Receiver::start(|_| Answer::Status(204)).await;
    let data = r#"{"name":"Zoë 茶","price":1.50}"#.to_owned();
    let odd = Event { id: "order.1 5%ä".to_owned(), data, ..event(3) };
    let sent = [event(1), event(2), odd];
    gateway.append(sent.to_vec()).await;
    for format in ["standard", "cloudevents", "cloudevents-binary"] {
        let url = format!("{}/{format}", receiver.url);
        register(&gateway, json!({"url": url, "format": format, "from": "beginning", "secret": SECRET})).await;
    }
    let calls = receiver.wait(9).await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let shown: Vec<Value> = calls.iter().map(shown).collect();
    std::fs::write(folder.join("calls.json"), Value::from(shown).to_string()).unwrap();
    [("python", "verify.py"), ("python", "cloudevent.py"), ("js", "verify.mjs")]
        .iter()
        .for_each(|(language, file)| write(folder, language, file));
    let place = folder.to_str().unwrap();
    let mut python = Command::new(format!("{ROOT}/target/tools/python/bin/python"));
    python.arg(format!("{ROOT}/tests/python/receiving.py")).arg(place);
    let script = node::node("receiving.mjs", &[place]);
    std::os::unix::fs::symlink(format!("{ROOT}/tests/node/node_modules"), folder.join("node_modules")).unwrap();
    for verdicts in [verdicts(python).await, verdicts(script).await] {
        assert_eq!(verdicts.len(), 9);
        for (call, verdict) in calls.iter().zip(&verdicts) {
            let position: usize = call.header("webhook-sequence").parse().unwrap();
            let event = &sent[position - 1];
            let data: Value = serde_json::from_str(&event.data).unwrap();
            assert_eq!(verdict["forged"], "refused", "{verdict}");
            let body = &verdict["body"];
            match format_of(call) {
                "standard" => assert_eq!((&body["type"], &body["data"]), (&json!(event.r#type), &data)),
                "cloudevents" => assert_eq!((&body["id"], &body["data"]), (&json!(event.id), &data)),
                _ => assert_eq!(body, &data),
            }
            // Of the CloudEvents SDK, which only Python's script has.
            if !verdict["event"].is_null() {
                assert_eq!(verdict["event"], json!([event.id, event.r#type, data]));
            }
        }
        let read = verdicts.iter().filter(|verdict| !verdict["event"].is_null()).count();
        assert!([0, 6].contains(&read), "{read}");
    }
}
