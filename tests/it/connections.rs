//! What a connection may do, by TLS and without, and that it outlives a change of the configuration.

use std::time::Duration;

use postern::app::{self, Options};
use postern::config::Config;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Gateway, events, provider, wait_for};

/// Sends bytes on a connection of its own, and gives all that comes until it is closed.
async fn say(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(gateway.url("").strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(50), read).await.expect("it is closed").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn lengths_that_contradict_each_other_are_refused_and_nothing_after_them_is_read() {
    let gateway = Gateway::start().await;
    let hidden = "GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for lengths in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "content-length: +5\r\n",
    ] {
        let head =
            format!("POST /graphql HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{lengths}\r\n");
        let answer = say(&gateway, format!("{head}0\r\n\r\n{hidden}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{lengths:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{lengths:?}: {answer}");
    }
}

#[tokio::test]
async fn headers_and_bodies_that_dawdle_or_grow_are_cut_off() {
    let gateway = Gateway::start().await;
    let large = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(40_000));
    let answer = say(&gateway, large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let started = std::time::Instant::now();
    let slow = say(&gateway, b"GET / HTTP/1.1\r\nhost: loc");
    let body =
        "POST /webhooks HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let (slow, body) = tokio::join!(async { (slow.await, started.elapsed()) }, async {
        (say(&gateway, body.as_bytes()).await, started.elapsed())
    });
    assert!(slow.1 < Duration::from_secs(20), "{slow:?}");
    assert!(body.0.starts_with("HTTP/1.1 4") && body.0.contains("problem+json"), "{}", body.0);
    assert!(body.1 < Duration::from_secs(45), "{body:?}");
}

#[tokio::test]
async fn one_connection_carries_many_requests_of_http_2() {
    let gateway = Gateway::start().await;
    let client = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let ask = || async { client.get(gateway.url("/readyz")).send().await.unwrap() };
    for answer in futures_util::future::join_all((0..50).map(|_| ask())).await {
        assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    }
}

/// A certificate of its own authority, for `localhost`.
fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn client_that_trusts(certificate: &str) -> reqwest::Client {
    let certificate = reqwest::Certificate::from_pem(certificate.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([certificate]);
    client.pool_max_idle_per_host(0).build().unwrap()
}

#[tokio::test]
async fn tls_is_spoken_and_a_renewed_certificate_is_shown_after_a_reload() {
    provider();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let (first, key) = certificate();
    write("cert.pem", &first);
    write("key.pem", &key);
    write(
        "postern.toml",
        "[server]\nlisten = \"127.0.0.1:0\"\n[server.tls]\ncert_file = \"cert.pem\"\nkey_file = \"key.pem\"\n\
         [journal]\nurl = \"sqlite://journal.db\"\n",
    );
    let path = dir.path().join("postern.toml");
    let options = Options { config: Some(path.clone()), ..Options::default() };
    let gateway = app::Gateway::start(Config::load(&path, &[]).unwrap(), options).await.unwrap();
    let url = format!("https://localhost:{}/feeds", gateway.address().port());
    let answer = client_that_trusts(&first).get(&url).send().await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let feeds: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert!(feeds.to_string().contains("https://127.0.0.1"), "{feeds}");
    // One that does not fit its key changes nothing.
    let (second, second_key) = certificate();
    write("cert.pem", &second);
    gateway.reload().await;
    assert_eq!(client_that_trusts(&first).get(&url).send().await.unwrap().status(), 200);
    write("key.pem", &second_key);
    gateway.reload().await;
    assert_eq!(client_that_trusts(&second).get(&url).send().await.unwrap().status(), 200);
    assert!(client_that_trusts(&first).get(&url).send().await.is_err());
    gateway.stop().await;
}

#[tokio::test]
async fn the_configuration_is_read_again_without_a_restart_and_a_bad_one_changes_nothing() {
    provider();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postern.toml");
    let (token, hash) = postern::web::auth::new_token();
    let client = |name: &str, hash: &str| {
        format!("[[client]]\nname = {name:?}\ntoken_hash = {hash:?}\nscopes = [\"read\", \"admin\"]\n")
    };
    let base = "[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = \"sqlite://journal.db\"\n";
    let write = |more: &str| std::fs::write(&path, format!("{base}{}{more}", client("first", &hash))).unwrap();
    write("");
    let options = Options { config: Some(path.clone()), ..Options::default() };
    let gateway = app::Gateway::start(Config::load(&path, &[]).unwrap(), options).await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |method: reqwest::Method, path: &str, token: &str| {
        let url = format!("http://{}{path}", gateway.address());
        let request = http.request(method, url).bearer_auth(token);
        async move { request.send().await.unwrap() }
    };
    let get = |path: &str, token: &str| ask(reqwest::Method::GET, path, token);
    gateway
        .journal()
        .append(postern::journal::Append {
            source: "cart".to_owned(),
            arrivals: events(1..=3).into_iter().map(crate::support::arrival).collect(),
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(get("/feeds/orders.atom", &token).await.status(), 404);
    // What is wrong is told, and nothing changes.
    write("[[feed]]\nnmae = \"orders\"\n");
    let refused = ask(reqwest::Method::PUT, "/config", &token).await;
    assert_eq!(refused.status(), 422);
    assert!(refused.text().await.unwrap().contains("did you mean `name`"));
    gateway.reload().await;
    assert_eq!(get("/feeds/all.atom", &token).await.status(), 200);
    // A feed and a client more.
    let (second, second_hash) = postern::web::auth::new_token();
    write(&format!("[[feed]]\nname = \"orders\"\n{}", client("second", &second_hash)));
    assert_eq!(get("/feeds", &second).await.status(), 401);
    assert_eq!(ask(reqwest::Method::PUT, "/config", &token).await.status(), 202);
    let mut asked = gateway.reload_asked();
    asked.rung(Duration::from_secs(5)).await;
    gateway.reload().await;
    let feed = wait_for("the new feed", || async {
        let answer = get("/feeds/orders.atom", &second).await;
        (answer.status() == 200).then_some(answer)
    });
    assert!(feed.await.text().await.unwrap().contains("<entry>"));
    // And without the first one.
    std::fs::write(&path, format!("{base}{}", client("second", &second_hash))).unwrap();
    gateway.reload().await;
    assert_eq!(get("/feeds", &token).await.status(), 401);
    assert_eq!(get("/feeds/orders.atom", &second).await.status(), 404);
    // What can't change while it runs says so.
    std::fs::write(&path, format!("{}{}", base.replace("journal.db", "other.db"), client("second", &second_hash)))
        .unwrap();
    let refused = ask(reqwest::Method::PUT, "/config", &second).await;
    assert!(refused.text().await.unwrap().contains("restart"));
    gateway.stop().await;
}
