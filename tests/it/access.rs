//! Every route of the OpenAPI document, asked by every kind of client; and nothing that a client may not see shows anywhere.

use std::collections::BTreeMap;

use postern::web::auth::{hash_password, new_token};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::support::issuer::{Issuer, Key, claims};
use crate::support::receiver::Receiver;
use crate::support::webhooks::ok;
use crate::support::{Engine, Gateway, event, events, json};

/// Who may, by operation of the document. A new route has to be named here.
const OPEN: &[&str] = &["docs", "index", "alive", "ready", "openapi", "agree", "agreeByPost"];
const READ: &[&str] =
    &["listFeeds", "feed", "feedDocument", "feedStream", "feedPage", "event", "graphqlGet", "graphqlPost"];
/// `read`, and what is sent later must have an owner in the configuration.
const READ_AND_OWN: &[&str] = &["subscribe"];
const WEBHOOKS: &[&str] = &["listWebhooks", "createWebhook", "replaceWebhooks", "deleteWebhooks", "previewWebhook"];
/// Of a webhook: those of others are not there.
const OWN_WEBHOOK: &[&str] =
    &["webhook", "replaceWebhook", "deleteWebhook", "webhookKey", "listDeliveries", "delivery", "commandDelivery"];
const PUSH: &[&str] = &["pushEvents"];
const ADMIN: &[&str] = &[
    "metrics",
    "reloadConfiguration",
    "eraseEvent",
    "listSources",
    "source",
    "listQuarantine",
    "commandQuarantine",
    "getQuarantinedRow",
    "commandQuarantinedRow",
];

/// A kind of client: how it says who it is, and what it may.
struct Who {
    kind: &'static str,
    authorization: Option<String>,
    is_known: bool,
    scopes: &'static [&'static str],
    /// It has an entry in the configuration, so it may own what is sent later.
    owns: bool,
    sees: bool,
}

impl Who {
    fn known(kind: &'static str, authorization: String, scopes: &'static [&'static str]) -> Self {
        Self { kind, authorization: Some(authorization), is_known: true, scopes, owns: true, sees: true }
    }

    fn unknown(kind: &'static str, authorization: Option<&str>) -> Self {
        let authorization = authorization.map(str::to_owned);
        Self { kind, authorization, is_known: false, scopes: &[], owns: false, sees: false }
    }

    fn may(&self, operation: &str) -> bool {
        let needs = |scope: &str| self.scopes.contains(&scope);
        match operation {
            _ if READ.contains(&operation) => needs("read"),
            _ if READ_AND_OWN.contains(&operation) => needs("read") && self.owns,
            _ if WEBHOOKS.contains(&operation) || OWN_WEBHOOK.contains(&operation) => needs("webhooks"),
            _ if PUSH.contains(&operation) => needs("push:billing") || needs("admin"),
            _ if ADMIN.contains(&operation) => needs("admin"),
            _ => panic!("say in this file who may do `{operation}`"),
        }
    }

    fn expected(&self, operation: &str) -> &'static str {
        match operation {
            _ if OPEN.contains(&operation) => "open",
            _ if !self.is_known => "401",
            _ if !self.may(operation) => "403",
            _ if OWN_WEBHOOK.contains(&operation) || (operation == "event" && !self.sees) => "404",
            _ => "allowed",
        }
    }
}

fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}")))
}

/// A client of the configuration and its token.
fn client(name: &str, scopes: &[&str], more: &str) -> (String, String) {
    let (token, hash) = new_token();
    let config = format!("[[client]]\nname = {name:?}\ntoken_hash = {hash:?}\nscopes = {scopes:?}\n{more}\n");
    (config, format!("Bearer {token}"))
}

const BLIND: &str = "events = { types = [\"CheckedOut\"] }";

/// The configuration and all kinds of clients in it.
fn everybody(issuer: &Issuer, key: &Key) -> (String, Vec<Who>) {
    let jwt = |subject: &str, scope: &str, types: &str| {
        format!("Bearer {}", key.sign("ES256", &claims(subject, json!({"scope": scope, "types": types}))))
    };
    let clients = [
        client("reader", &["read"], ""),
        client("blind", &["read"], BLIND),
        client("owner", &["webhooks"], ""),
        client("pusher", &["push:billing"], ""),
        client("operator", &["admin"], ""),
        client("erp", &["read", "webhooks"], ""),
    ];
    let [reader, blind, owner, pusher, operator, erp] = &clients;
    let password = "a password of the poller";
    let poller =
        format!("[[client]]\nname = \"poller\"\npassword_hash = {:?}\nscopes = [\"read\"]\n", hash_password(password));
    let by_basic = basic("reader", reader.1.strip_prefix("Bearer ").unwrap());
    let all = vec![
        Who::unknown("nobody", None),
        Who::unknown("a wrong token", Some("Bearer pst_wrong")),
        Who::unknown("a token of another issuer", Some(&format!("Bearer {}", Key::ec("e").sign("ES256", &json!({}))))),
        Who::known("read", reader.1.clone(), &["read"]),
        Who { sees: false, ..Who::known("read without seeing the event", blind.1.clone(), &["read"]) },
        Who::known("webhooks", owner.1.clone(), &["webhooks"]),
        Who::known("push:billing", pusher.1.clone(), &["push:billing"]),
        Who::known("admin", operator.1.clone(), &["admin"]),
        Who::known("two scopes", erp.1.clone(), &["read", "webhooks"]),
        Who::known("Basic", basic("poller", password), &["read"]),
        Who::known("Basic with a token", by_basic, &["read"]),
        Who {
            owns: false,
            ..Who::known("JWT", jwt("someone", "read webhooks push:billing", "*"), &["read", "push:billing"])
        },
        Who {
            owns: false,
            sees: false,
            ..Who::known("JWT that sees little", jwt("erp", "read webhooks", "CheckedOut"), &["read"])
        },
        Who::known("JWT of a client", jwt("erp", "read webhooks admin", "*"), &["read", "webhooks"]),
    ];
    let clients: String = clients.iter().map(|(config, _)| config.as_str()).collect();
    let sources = "[[source]]\nname = \"billing\"\npush = true\n";
    (issuer.config("types_claim = \"types\"") + &clients + &poller + sources, all)
}

fn as_client(request: RequestBuilder, authorization: &str) -> RequestBuilder {
    request.header("authorization", authorization)
}

/// A stranger's webhook.
async fn strangers_webhook(gateway: &Gateway, authorization: &str) -> String {
    let receiver = Receiver::start(ok).await;
    let request = as_client(gateway.client().post(gateway.url("/webhooks")), authorization);
    let request = request.header("content-type", "application/json").body(json!({"url": receiver.url}).to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    json(answer).await["id"].as_str().unwrap().to_owned()
}

/// What an answer amounts to.
fn class(answer: &Response) -> String {
    match answer.status().as_u16() {
        status @ (401 | 403 | 404) => status.to_string(),
        status if status < 500 && status != 429 => "allowed".to_owned(),
        status => status.to_string(),
    }
}

#[tokio::test]
async fn every_route_lets_in_whom_it_should_and_nobody_else() {
    let key = Key::ec("e");
    let issuer = Issuer::start(&[&key]).await;
    let (config, everybody) = everybody(&issuer, &key);
    let (stranger, strangers_token) = client("stranger", &["webhooks"], "");
    let gateway = Gateway::start_with(Engine::Sqlite, &(config + &stranger)).await;
    gateway.append(events(1..=9)).await;
    let webhook = strangers_webhook(&gateway, &strangers_token).await;
    let document: Value = serde_json::from_str(&gateway.get_text("/openapi.json").await).unwrap();
    let mut faults = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let values = BTreeMap::from([
            ("{feed}", "all"),
            ("{format}", "atom"),
            ("{epoch}", "0"),
            ("{n}", "1"),
            ("{source}", "billing"),
            ("{row}", "1"),
        ]);
        let id = if path.starts_with("/webhooks") { webhook.clone() } else { event(1).id };
        let url = values.iter().fold(path.clone(), |path, (name, value)| path.replace(name, value));
        let url = url.replace("{id}", &id).replace("{event}", &event(1).id);
        assert!(!url.contains('{'), "give a value for {url}");
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let operation = operation["operationId"].as_str().unwrap();
            // What erases is not to take away what others ask for next.
            let url = if operation == "eraseEvent" { format!("/events/{}", event(9).id) } else { url.clone() };
            let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes()).unwrap();
            for who in &everybody {
                let mut request = gateway.client().request(method.clone(), gateway.url(&url));
                if let Some(value) = &who.authorization {
                    request = as_client(request, value);
                }
                if method != Method::GET && method != Method::DELETE {
                    request = request.header("content-type", "application/json").body("{}");
                }
                let answer = request.send().await.unwrap();
                let (expected, found) = (who.expected(operation), class(&answer));
                let fits = match expected {
                    "open" => !matches!(found.as_str(), "401" | "403" | "429" | "500"),
                    // What is asked for may be missing.
                    "allowed" => matches!(found.as_str(), "allowed" | "404"),
                    expected => found == expected,
                };
                if !fits {
                    faults.push(format!("{method} {url} ({operation}) by {}: {found}, not {expected}", who.kind));
                }
                if who.is_known && expected != "open" && !is_kept_apart(&answer) {
                    faults.push(format!("{method} {url} by {}: may be kept and shown to others", who.kind));
                }
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Whether no cache gives it to another client.
fn is_kept_apart(answer: &Response) -> bool {
    let header = |name: &str| {
        let values = answer.headers().get_all(name).iter().map(|value| value.to_str().unwrap());
        values.collect::<Vec<_>>().join(",")
    };
    let caching = header("cache-control");
    caching.contains("no-store") || (caching.contains("private") && header("vary").contains("authorization"))
}

/// A gateway of a client that sees checked out carts only, and may read and have webhooks.
async fn with_a_blind_client() -> (Gateway, String) {
    let (config, authorization) = client("blind", &["read", "webhooks"], BLIND);
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    gateway.append(events(1..=10)).await;
    (gateway, authorization)
}

async fn ask(gateway: &Gateway, authorization: &str, line: &str, body: Option<Value>) -> (u16, String) {
    let mut words = line.split(' ');
    let method = Method::from_bytes(words.next().unwrap().as_bytes()).unwrap();
    let request = gateway.client().request(method, gateway.url(words.next().unwrap()));
    let mut request = as_client(request, authorization);
    if let Some(command) = words.next() {
        request = request.header("command", command);
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test]
async fn a_hidden_event_answers_exactly_like_an_unknown_one() {
    let (gateway, blind) = with_a_blind_client().await;
    let own = ask(&gateway, &blind, "POST /webhooks", Some(json!({"url": Receiver::start(ok).await.url}))).await.1;
    let own = serde_json::from_str::<Value>(&own).unwrap()["id"].as_str().unwrap().to_owned();
    let (hidden, unknown) = (event(1).id, event(999).id);
    let graphql = |query: &str| ("POST /graphql".to_owned(), Some(json!({ "query": query })));
    let questions = [
        ("GET /events/ID".to_owned(), None),
        ("HEAD /events/ID".to_owned(), None),
        ("GET /feeds/all.atom?after=ID".to_owned(), None),
        ("GET /feeds/all.json?after=ID&embed=data".to_owned(), None),
        ("GET /feeds/all/stream?after=ID".to_owned(), None),
        graphql("{ event(id: \"ID\") { id type } }"),
        graphql("{ eventsByIds(ids: [\"ID\"]) { id } }"),
        graphql("{ node(id: \"ID\") { id } }"),
        graphql("{ events(after: \"ID\") { nodes { id } } }"),
        graphql("{ events(from: { eventId: \"ID\" }) { nodes { id } } }"),
        ("POST /webhooks".to_owned(), Some(json!({"url": "http://127.0.0.1:9/", "from": {"after": "ID"}}))),
        (format!("PUT /webhooks/{own} Replay"), Some(json!({"from": {"after": "ID"}}))),
        (format!("PUT /webhooks/{own} Replay"), Some(json!({"from": "beginning", "to": {"after": "ID"}}))),
        (format!("GET /webhooks/{own}/deliveries/ID"), None),
        (format!("GET /webhooks/{own}/deliveries?after=ID"), None),
        (format!("PUT /webhooks/{own}/deliveries/ID Resend"), Some(json!({}))),
        (format!("PUT /webhooks/{own}/deliveries/ID Discard"), Some(json!({}))),
    ];
    for (line, body) in questions {
        let mut answers = Vec::new();
        for id in [&hidden, &unknown] {
            let body = body.as_ref().map(|body| serde_json::from_str(&body.to_string().replace("ID", id)).unwrap());
            let (status, text) = ask(&gateway, &blind, &line.replace("ID", id), body).await;
            answers.push((status, text.replace(id.as_str(), "ID")));
        }
        assert_eq!(answers[0], answers[1], "{line} {body:?}");
        let (status, text) = &answers[0];
        assert!((200..500).contains(status) && !text.contains("VALIDATION"), "the question is wrong: {line} {text}");
        assert!(!text.contains("ItemAdded"), "{line}: {text}");
    }
}

#[tokio::test]
async fn counts_lists_and_errors_tell_nothing_of_hidden_types() {
    let (gateway, blind) = with_a_blind_client().await;
    let graphql = |query: &str| ("POST /graphql".to_owned(), Some(json!({ "query": query })));
    for (line, body) in [
        graphql("{ eventTypes { name count } }"),
        graphql("{ eventTypes { name } events(first: 100) { nodes { type dataJson } } }"),
        graphql("{ events(filter: { types: [\"Item*\"] }) { nodes { type } } }"),
        graphql("{ aggregate(type: \"Cart\", id: \"cart-1\") { version events { nodes { type } } } }"),
        graphql("{ events { nodes { ... on ItemAded { id } } } }"),
        graphql("{ __schema { types { name } } }"),
        ("GET /feeds".to_owned(), None),
        ("GET /feeds/all.json?after=0&embed=data".to_owned(), None),
        ("GET /feeds/all.cloudevents?after=0".to_owned(), None),
        ("GET /feeds/all.atom?after=0&type=ItemAdded".to_owned(), None),
        (
            "POST /webhooks/preview".to_owned(),
            Some(json!({"url": "http://127.0.0.1:9/", "filter": {"types": ["Item*"]}})),
        ),
    ] {
        let (status, text) = ask(&gateway, &blind, &line, body.clone()).await;
        assert!(status < 500, "{line} {body:?}: {status} {text}");
        let asked = body.map(|body| body.to_string()).unwrap_or_default() + &line;
        assert!(asked.contains("ItemAdded") || !text.contains("ItemAdded"), "{line}: {text}");
        assert!(!text.contains(&event(1).id), "{line}: {text}");
    }
    let (hidden, unknown) = (ask_type(&gateway, &blind, "ItemAdded"), ask_type(&gateway, &blind, "NoSuchType"));
    assert_eq!(hidden.await, unknown.await);
    let preview = json!({"url": "http://127.0.0.1:9/"});
    let (_, text) = ask(&gateway, &blind, "POST /webhooks/preview", Some(preview)).await;
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["matched"], 2);
}

async fn ask_type(gateway: &Gateway, authorization: &str, name: &str) -> (u16, String) {
    let query = format!("{{ eventType(name: \"{name}\") {{ name }} }}");
    let (status, text) = ask(gateway, authorization, "POST /graphql", Some(json!({ "query": query }))).await;
    (status, text.replace(name, "NAME"))
}

#[tokio::test]
async fn webhooks_of_others_show_nowhere() {
    let (one, first) = client("first", &["read", "webhooks"], "");
    let (two, second) = client("second", &["read", "webhooks"], "");
    let gateway = Gateway::start_with(Engine::Sqlite, &(one + &two)).await;
    let id = strangers_webhook(&gateway, &first).await;
    assert!(ask(&gateway, &first, "GET /webhooks", None).await.1.contains(&id));
    assert!(!ask(&gateway, &second, "GET /webhooks", None).await.1.contains(&id));
    assert!(ask(&gateway, &first, "GET /feeds/postern.json?after=0&embed=data", None).await.1.contains(&id));
    let (status, text) = ask(&gateway, &second, "GET /feeds/postern.json?after=0&embed=data", None).await;
    assert!(status == 200 && !text.contains(&id), "{text}");
    let others = ask(&gateway, &second, &format!("GET /webhooks/{id}"), None).await;
    let nobodys = "0".repeat(id.len());
    let unknown = ask(&gateway, &second, &format!("GET /webhooks/{nobodys}"), None).await;
    assert_eq!((others.0, others.1.replace(&id, "")), (unknown.0, unknown.1.replace(&nobodys, "")));
    assert_eq!(ask(&gateway, &second, "DELETE /webhooks", None).await.0, 204);
    assert_eq!(ask(&gateway, &first, &format!("GET /webhooks/{id}"), None).await.0, 200);
}
