//! Where hostile bytes come in, one function a door: for the fuzzer, and for `tests/it/hostile_input.rs`, which mutates what
//! stands in `corpus/`. They go the way that strangers' bytes go: through a gateway's sockets, its files and its sources.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use postern::app;
use postern::catalogue::Catalogue;
use postern::config::Config;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

const KEY: &str = "q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=";

/// A gateway that is asked, and a server of ours that it asks.
pub struct Doors {
    pub gateway: app::Gateway,
    client: reqwest::Client,
    /// What our server answers.
    script: Arc<Mutex<Vec<u8>>>,
    server: String,
    dir: tempfile::TempDir,
}

impl Doors {
    /// On a journal of its own.
    ///
    /// # Panics
    /// Where no gateway can be started at all.
    pub async fn open() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("postern.toml");
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = \"sqlite://journal.db\"\n\
             [webhooks]\nallow = [\"127.0.0.1\"]\nsealing_key = {KEY:?}\n[[source]]\nname = \"erp\"\npush = true\n"
        );
        std::fs::write(&path, text).expect("a file");
        let config = Config::load(&path, &[]).expect("a configuration");
        let gateway = app::Gateway::start(config, app::Options::default()).await.expect("a gateway");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        let script = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new().fallback(play).with_state(Arc::clone(&script));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { gateway, client, script, server, dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.address())
    }

    async fn ask(&self, request: reqwest::RequestBuilder) {
        // What can't be sent at all tells nothing of the gateway.
        let Ok(request) = request.build() else { return };
        let shown = format!("{} {}", request.method(), request.url());
        let answer = self.client.execute(request).await.unwrap_or_else(|cause| panic!("{shown}: {cause}"));
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        assert!(status.as_u16() < 500, "{shown} answers {status}: {text}");
    }

    /// A CloudEvent: the first byte chooses the form; in the binary one, lines before an empty one are headers.
    pub async fn push(&self, input: &[u8]) {
        let Some((form, rest)) = input.split_first() else { return };
        let mut request = self.client.post(self.url("/sources/erp/events"));
        let mut body = rest;
        match form {
            b'b' => request = request.header("content-type", "application/cloudevents-batch+json"),
            b's' => request = request.header("content-type", "application/cloudevents+json"),
            _ => {
                request = request.header("content-type", "application/json");
                while let Some(end) = body.iter().position(|byte| *byte == b'\n') {
                    let (line, after) = (&body[..end], &body[end + 1..]);
                    body = after;
                    let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
                    let name = HeaderName::from_bytes(&line[..colon]);
                    let value = HeaderValue::from_bytes(&line[colon + 1..]);
                    if let (Ok(name), Ok(value)) = (name, value)
                        && name.as_str().starts_with("ce-")
                    {
                        request = request.header(name, value);
                    }
                }
            }
        }
        self.ask(request.body(body.to_vec())).await;
    }

    /// A GraphQL request, or a document where it is no JSON.
    pub async fn graphql(&self, input: &[u8]) {
        let is_json = input.first() == Some(&b'{') && serde_json::from_slice::<serde_json::Value>(input).is_ok();
        let document = serde_json::json!({ "query": String::from_utf8_lossy(input) });
        let body = if is_json { input.to_vec() } else { document.to_string().into_bytes() };
        self.ask(self.client.post(self.url("/graphql")).header("content-type", "application/json").body(body)).await;
    }

    /// Query strings, cursors and ids: a path and what follows it, waiting for nothing.
    pub async fn query(&self, input: &[u8]) {
        const KEEP: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ').add(b'#').add(b'"');
        let text = percent_encoding::percent_encode(input, KEEP).to_string();
        for path in ["/feeds/all.atom?", "/feeds/all.json?", "/events/", "/webhooks?", "/webhooks/"] {
            let path = format!("{path}{text}");
            if !path.contains("wait") {
                self.ask(self.client.get(self.url(&path))).await;
            }
        }
    }

    /// What a receiver answers to the question for consent and to a call: header lines, an empty one, a body.
    pub async fn answer(&self, input: &[u8]) {
        self.say(input);
        let webhook = serde_json::json!({ "url": format!("{}/hook", self.server) }).to_string();
        let request = self.client.post(self.url("/webhooks")).header("content-type", "application/json");
        let answer = request.body(webhook).send().await.expect("an answer");
        assert_eq!(answer.status(), 201);
        let shown: serde_json::Value = serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("JSON");
        let own = self.url(&format!("/webhooks/{}", shown["id"].as_str().expect("an id")));
        for command in ["Verify", "Test"] {
            let answer = self.client.put(&own).header("command", command).send().await.expect("an answer");
            assert!(answer.status().as_u16() < 500, "{command} answers {}", answer.status());
        }
        assert_eq!(self.client.delete(own).send().await.expect("an answer").status(), 204);
    }

    /// A document that a source reads as a feed: the first byte chooses its kind.
    pub async fn feed(&self, input: &[u8]) {
        let (kind, document) = input.split_first().unwrap_or((&b'a', b""));
        let kind = if *kind == b'r' { "application/rss+xml" } else { "application/atom+xml" };
        self.say(&[b"200\ncontent-type:", kind.as_bytes(), b"\n\n", document].concat());
        let source = format!("name = \"partner\"\nfeed = \"{}/feed\"\n", self.server);
        let source = toml::from_str(&source).expect("a source");
        let _ = postern::source::check(&source, &Catalogue::default()).await;
    }

    /// The cells of a row, one a line: a byte chooses text, blob, number or nothing.
    pub async fn row(&self, input: &[u8]) {
        let file = self.dir.path().join("shop.db");
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut connection = options.connect().await.expect("a database");
        let table =
            "create table if not exists t (seq integer primary key, id, type, kind, cart, version, at, data, meta)";
        sqlx::query(table).execute(&mut connection).await.expect("a table");
        sqlx::query("delete from t").execute(&mut connection).await.expect("an empty table");
        let mut cells = input.split(|byte| *byte == b'\n');
        let mut insert = sqlx::query(
            "insert into t (id, type, kind, cart, version, at, data, meta) values ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        for _ in 0..8 {
            let (form, cell) = cells.next().unwrap_or_default().split_first().unwrap_or((&b'-', b""));
            let text = || String::from_utf8_lossy(cell).into_owned();
            insert = match form {
                b't' => insert.bind(text()),
                b'b' => insert.bind(cell.to_vec()),
                b'i' => insert.bind(text().parse::<i64>().unwrap_or(i64::MIN)),
                b'f' => insert.bind(text().parse::<f64>().unwrap_or(f64::MAX)),
                _ => insert.bind(None::<String>),
            };
        }
        insert.execute(&mut connection).await.expect("a row");
        connection.close().await.expect("closed");
        let source = format!(
            "name = \"cart\"\nurl = \"sqlite://{}\"\ntable = \"t\"\ntime_zone = \"Europe/Berlin\"\n[columns]\n\
             sequence = \"seq\"\nid = \"id\"\ntype = \"type\"\naggregate_type = \"kind\"\naggregate_id = \"cart\"\n\
             aggregate_version = \"version\"\noccurred_at = \"at\"\ndata = \"data\"\nmetadata = \"meta\"\n",
            file.display()
        );
        let source = toml::from_str(&source).expect("a source");
        let report = postern::source::check(&source, &Catalogue::default()).await;
        let report = report.unwrap_or_else(|cause| panic!("a row stops its source: {cause}"));
        assert_eq!(report.published + report.withheld + report.quarantined, 1, "a row is one of these");
    }

    /// A configuration file.
    pub async fn config(&self, input: &[u8]) {
        let path: PathBuf = self.dir.path().join("fuzzed.toml");
        std::fs::write(&path, input).expect("a file");
        let _ = Config::load(&path, &[("NAME".to_owned(), "value".to_owned())]);
    }

    fn say(&self, answer: &[u8]) {
        *self.script.lock().expect("nobody panics with it") = answer.to_vec();
    }
}

/// A status on the first line, header lines, an empty line, the body.
async fn play(State(script): State<Arc<Mutex<Vec<u8>>>>, _: Bytes) -> Response {
    let script = script.lock().expect("nobody panics with it").clone();
    let mut lines = script.splitn(2, |byte| *byte == b'\n');
    let status = lines.next().and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok()).filter(|status| status.as_u16() >= 200);
    let mut rest = lines.next().unwrap_or_default();
    let mut response = status.unwrap_or(StatusCode::OK).into_response();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { break };
        let (name, value) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(line[colon + 1..].trim_ascii()));
        // Those of the connection are its server's own.
        if let (Ok(name), Ok(value)) = (name, value)
            && !["content-length", "transfer-encoding", "connection", "upgrade"].contains(&name.as_str())
        {
            response.headers_mut().append(name, value);
        }
    }
    *response.body_mut() = rest.to_vec().into();
    response
}
