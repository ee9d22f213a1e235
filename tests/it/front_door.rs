//! Who asks, what they see, and how the door answers what it does not know.

use postern::web::auth::new_token;
use serde_json::json;

use crate::support::serve::{Serve, free_port};
use crate::support::{Engine, Gateway, event, events, json, provider, wait_for};

fn client(name: &str, hash: &str, scopes: &str, events: &str) -> String {
    format!("[[client]]\nname = {name:?}\ntoken_hash = {hash:?}\nscopes = {scopes}\nevents = {events}\n")
}

#[tokio::test]
async fn a_client_sees_only_its_events_in_every_door() {
    let ((all, all_hash), (some, some_hash)) = (new_token(), new_token());
    let config = client("all", &all_hash, "[\"read\", \"webhooks\"]", "{}")
        + &client("some", &some_hash, "[\"read\"]", "{ types = [\"CheckedOut\"] }");
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    gateway.append(events(1..=10)).await;
    let get = |path: String, token: &str| gateway.client().get(gateway.url(&path)).bearer_auth(token).send();

    let feed = get("/feeds/all.atom".into(), &some).await.unwrap();
    assert_eq!(feed.headers()["cache-control"], "private, no-cache");
    let feed = feed.text().await.unwrap();
    assert_eq!(feed.matches("<entry>").count(), 2);
    assert!(!feed.contains("ItemAdded"));
    assert_eq!(get("/feeds/all.atom".into(), &all).await.unwrap().text().await.unwrap().matches("<entry>").count(), 10);

    let (hidden, unknown) = (format!("/events/{}", event(1).id), "/events/nothing".to_owned());
    let hidden = get(hidden, &some).await.unwrap();
    let unknown = get(unknown, &some).await.unwrap();
    assert_eq!((hidden.status(), unknown.status()), (unknown.status(), hidden.status()));
    assert_eq!(hidden.status(), 404);
    assert_eq!(get(format!("/feeds/all.atom?after={}", event(1).id), &some).await.unwrap().status(), 404);

    let query =
        json!({ "query": format!("{{ event(id: \"{}\") {{ id }} events {{ nodes {{ type }} }} }}", event(1).id) });
    let request = gateway.client().post(gateway.url("/graphql")).bearer_auth(&some);
    let answer = request.header("content-type", "application/json").body(query.to_string()).send().await.unwrap();
    let answer = json(answer).await;
    assert_eq!(answer["data"]["event"], json!(null));
    assert_eq!(answer["data"]["events"]["nodes"].as_array().unwrap().len(), 2);

    let refused = get("/webhooks".into(), &some).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(json(refused).await["detail"].as_str().unwrap().contains("webhooks"));
}

#[tokio::test]
async fn without_a_known_token_only_the_open_routes_answer() {
    let (token, hash) = new_token();
    let gateway = Gateway::start_with(Engine::Sqlite, &client("erp", &hash, "[\"read\"]", "{}")).await;
    for path in ["/", "/healthz", "/readyz", "/openapi.json", "/style.css"] {
        assert_eq!(gateway.get(path).await.status(), 200, "{path}");
    }
    for path in ["/feeds", "/feeds/all.atom", "/events/x", "/graphql?query={__typename}", "/webhooks"] {
        let refused = gateway.get(path).await;
        assert_eq!(refused.status(), 401, "{path}");
        let challenges: Vec<_> = refused.headers().get_all("www-authenticate").iter().collect();
        assert_eq!(challenges, ["Basic realm=\"Postern\", charset=\"UTF-8\"", "Bearer realm=\"Postern\""], "{path}");
        let wrong = gateway.client().get(gateway.url(path)).bearer_auth(format!("{token}x")).send().await.unwrap();
        assert_eq!(wrong.status(), 401, "{path}");
        let mut challenges = wrong.headers().get_all("www-authenticate").iter();
        assert!(challenges.any(|value| value == "Bearer realm=\"Postern\", error=\"invalid_token\""), "{path}");
    }
    let right = gateway.client().get(gateway.url("/feeds/all.atom")).bearer_auth(token).send().await.unwrap();
    assert_eq!(right.status(), 200);
}

#[tokio::test]
async fn a_public_address_without_clients_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postern.toml");
    std::fs::write(&path, "[server]\nlisten = \"0.0.0.0:0\"\n[journal]\nurl = \"sqlite://j.db\"\n").unwrap();
    let config = postern::config::Config::load(&path, &[]).unwrap();
    let error = postern::app::Gateway::start(config, postern::app::Options::default()).await.err().unwrap();
    assert!(error.to_string().contains("postern token"), "{error}");
}

#[tokio::test]
async fn a_second_gateway_on_the_same_file_is_refused() {
    let gateway = Gateway::start().await;
    let path = gateway.dir.path().join("second.toml");
    let config = format!("[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = {:?}\n", gateway.journal_url);
    std::fs::write(&path, config).unwrap();
    let config = postern::config::Config::load(&path, &[]).unwrap();
    let error = postern::app::Gateway::start(config, postern::app::Options::default()).await.err().unwrap();
    assert!(error.to_string().contains("another gateway"), "{error}");
}

#[tokio::test]
async fn errors_are_problems_with_a_request_id() {
    let gateway = Gateway::start().await;
    let response = gateway.client().get(gateway.url("/nowhere")).header("x-request-id", "abc-1").send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["x-request-id"], "abc-1");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem = json(response).await;
    assert_eq!(problem["type"], format!("{}/problems/not-found", gateway.url("")));
    assert_eq!((problem["status"].as_i64(), problem["instance"].as_str()), (Some(404), Some("/nowhere")));
    let response = gateway.client().delete(gateway.url("/feeds/all.atom")).send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert!(response.headers()["allow"].to_str().unwrap().contains("GET"));
    let head = gateway.client().head(gateway.url("/feeds/all.atom")).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert!(head.headers().contains_key("etag"));
}

#[tokio::test]
async fn an_open_gateway_answers_only_under_its_own_name() {
    let gateway = Gateway::start_with(Engine::Sqlite, "[server]\npublic_url = \"https://events.example.com\"\n").await;
    let ask = |host: &str| gateway.client().get(gateway.url("/feeds")).header("host", host).send();
    for (host, status) in [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("events.example.com", 200),
        ("attacker.example", 403),
        ("127.0.0.1.attacker.example:80", 403),
    ] {
        assert_eq!(ask(host).await.unwrap().status(), status, "{host}");
    }
}

#[tokio::test]
async fn the_frameworks_refusals_are_problems_too() {
    let gateway = Gateway::start_with(Engine::Sqlite, "").await;
    let refused = gateway.get("/events/%ff").await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    assert_eq!(json(refused).await["status"], 400);
}

#[tokio::test]
async fn what_waits_for_events_is_counted_while_it_does() {
    provider();
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("postern.toml");
    std::fs::write(&config, "").unwrap();
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let serve = Serve::spawn(free_port(), &config, log, &[]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    wait_for("a gateway", || async { serve.is_ready(&client).await.then_some(()) }).await;
    let open = |kinds: [&'static str; 3], count: u8| {
        let (client, url) = (&client, format!("{}/metrics", serve.url));
        async move {
            let all = || async {
                let text = client.get(&url).send().await.unwrap().text().await.unwrap();
                let is_so = |kind| text.contains(&format!("postern_http_open{{kind=\"{kind}\"}} {count}.0\n"));
                kinds.iter().all(is_so).then_some(())
            };
            wait_for("counts", all).await;
        }
    };
    let kinds = ["long_poll", "stream", "subscription"];
    open(kinds, 0).await;
    let subscription = json!({"query": "subscription { events { __typename } }"}).to_string();
    let requests = [
        client.get(format!("{}/feeds/all.atom?after=0&wait=60", serve.url)),
        client.get(format!("{}/feeds/all/stream", serve.url)),
        client
            .post(format!("{}/graphql", serve.url))
            .header("content-type", "application/json")
            .header("accept", "text/event-stream")
            .body(subscription),
    ];
    let asked = requests.map(|request| tokio::spawn(async move { request.send().await.unwrap().text().await }));
    open(kinds, 1).await;
    asked.iter().for_each(tokio::task::JoinHandle::abort);
    open(kinds, 0).await;
}
