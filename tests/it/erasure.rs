//! What `DELETE /events/{id}` and `postern forget` leave behind, through every door.

use std::process::{Command, Output};

use reqwest::header::HeaderValue;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use postern::event::Event;
use postern::web::auth::new_token;

use crate::support::receiver::{Answer, Receiver};
use crate::support::{Engine, Gateway, arrival, entries, event, events, json, run, wait_for};

const SMALL: &str = "[[feed]]\nname = \"all\"\npage_size = 4\nmax_age = \"1h\"\n";
/// What must be nowhere in the end.
const SECRET: &str = "Erika-Mustermann-1964";

fn secret(n: i64) -> Event {
    Event { data: format!("{{\"name\":\"{SECRET}\"}}"), metadata: Some(format!("{{\"by\":\"{SECRET}\"}}")), ..event(n) }
}

/// Events 1 to 10, recorded an hour ago, the third of which is to be erased; pages of four.
async fn gateway(engine: Engine, config: &str) -> Gateway {
    let gateway = Gateway::start_with(engine, config).await;
    gateway.append(events(1..=2)).await;
    let mut append = postern::journal::Append { source: "cart".to_owned(), ..Default::default() };
    append.arrivals.push(postern::journal::Arrival { summary: format!("{SECRET} paid"), ..arrival(secret(3)) });
    gateway.app().journal().append(append).await.unwrap();
    gateway.append(events(4..=10)).await;
    let older = "update entries set recorded_at = recorded_at - 3600000000";
    match engine {
        Engine::Sqlite => run!(SqliteConnection::connect(&gateway.journal_url).await.unwrap(), older),
        _ => run!(PgConnection::connect(&gateway.journal_url).await.unwrap(), older),
    }
    gateway
}

async fn erase(gateway: &Gateway, id: &str) -> u16 {
    gateway.client().delete(gateway.url(&format!("/events/{id}"))).send().await.unwrap().status().as_u16()
}

async fn page_path(gateway: &Gateway, format: &str) -> String {
    let feeds = json(gateway.get("/feeds").await).await;
    format!("/feeds/all/{}/1.{format}", feeds["feeds"][0]["epoch"].as_str().unwrap())
}

async fn first_page(gateway: &Gateway, format: &str) -> (String, String) {
    let page = gateway.get(&page_path(gateway, format).await).await;
    assert_eq!(page.headers()["cache-control"], "public, max-age=3600, immutable");
    (page.headers()["etag"].to_str().unwrap().to_owned(), page.text().await.unwrap())
}

async fn an_erased_event_is_gone_from_every_door_and_its_place_stays(engine: Engine) {
    let gateway = gateway(engine, SMALL).await;
    let (etag, page) = first_page(&gateway, "atom").await;
    assert!(page.contains(SECRET), "the summary holds it");
    let id = event(3).id;
    let path = page_path(&gateway, "atom").await;
    let modified = gateway.get(&path).await.headers()["last-modified"].clone();
    let since = async |time: HeaderValue| {
        let request = gateway.client().get(gateway.url(&path)).header("if-modified-since", time);
        request.send().await.unwrap().status()
    };
    assert_eq!(since(modified.clone()).await, 304);
    assert_eq!(erase(&gateway, &id).await, 204);
    assert_eq!(erase(&gateway, &id).await, 204, "a second time changes nothing");
    assert_eq!(erase(&gateway, "cart:unknown").await, 404);

    let tombstone = format!("ref=\"urn:uuid:{id}\"");
    let (again, page) = first_page(&gateway, "atom").await;
    assert_ne!(again, etag);
    assert_eq!(since(modified).await, 200, "who has the old page gets the new one");
    assert_eq!((page.matches("<entry>").count(), page.matches("<at:deleted-entry").count()), (3, 1));
    assert!(page.contains(&tombstone) && !page.contains(SECRET));
    let head = gateway.get_text("/feeds/all.atom").await;
    assert!(head.contains(&tombstone) && head.contains("postern.erased cart-3"), "{head}");
    for path in ["/feeds/all.rss?after=0", "/feeds/all.json?after=0&embed=data", "/feeds/all.cloudevents"] {
        let text = gateway.get_text(path).await;
        assert!(!text.contains(SECRET) && text.contains(&id), "{path}: {text}");
    }
    assert_eq!(gateway.get(&format!("/events/{id}")).await.status(), 410);
    let query = format!("{{ event(id: \"{id}\") {{ erasedAt dataJson metadata aggregate {{ version }} }} }}");
    let answer = json(gateway.post_json("/graphql", &json!({ "query": query })).await).await;
    let shown = &answer["data"]["event"];
    assert!(shown["erasedAt"].is_string(), "{answer}");
    assert_eq!((&shown["dataJson"], &shown["metadata"]), (&Value::Null, &Value::Null));
    assert_eq!(shown["aggregate"]["version"], "1", "the record of it has no version");

    let journal = entries(&gateway).await;
    let positions: Vec<i64> = journal.iter().map(|entry| entry.position).collect();
    assert_eq!(positions, (1..=11).collect::<Vec<_>>());
    let record = journal.last().unwrap();
    assert_eq!((record.event.r#type.as_str(), record.event.aggregate_id.as_str()), ("postern.erased", "cart-3"));
    assert_eq!(serde_json::from_str::<Value>(&record.event.data).unwrap()["id"], id);
    gateway.append(vec![secret(3)]).await;
    assert_eq!(entries(&gateway).await.len(), 11, "what was forgotten never comes back");
}

#[tokio::test]
async fn erased_on_sqlite() {
    an_erased_event_is_gone_from_every_door_and_its_place_stays(Engine::Sqlite).await;
}

#[tokio::test]
async fn erased_on_postgres() {
    an_erased_event_is_gone_from_every_door_and_its_place_stays(Engine::Postgres).await;
}

async fn forget(gateway: &Gateway, id: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(["forget", id, "--config"]).arg(gateway.dir.path().join("postern.toml"));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_has_the_gateway_erase_and_no_file_holds_it_afterwards() {
    let gateway = gateway(Engine::Sqlite, SMALL).await;
    let files = || -> Vec<u8> {
        let of = |name: &str| std::fs::read(gateway.dir.path().join(name)).unwrap_or_default();
        [of("journal.db"), of("journal.db-wal")].concat()
    };
    let holds = |bytes: &[u8]| bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
    assert!(holds(&files()));
    let unknown = forget(&gateway, "cart:unknown").await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("there is no event `cart:unknown`"));
    let done = forget(&gateway, &format!("urn:uuid:{}", event(3).id)).await;
    assert_eq!(String::from_utf8(done.stdout).unwrap(), format!("erased `{}`\n", event(3).id));
    let again = forget(&gateway, &event(3).id).await;
    assert!(String::from_utf8(again.stdout).unwrap().contains("is erased already"));
    wait_for("the old bytes to be overwritten", || async { (!holds(&files())).then_some(()) }).await;
}

#[tokio::test]
async fn a_webhook_that_waits_to_repeat_it_gets_its_erasure_instead() {
    let gateway = gateway(Engine::Sqlite, SMALL).await;
    let receiver =
        Receiver::start(|call| Answer::Status(if call.header("webhook-id") == event(3).id { 500 } else { 204 })).await;
    let filter = json!({"aggregateIds": ["cart-3"]});
    let body = json!({"url": receiver.url, "from": "beginning", "filter": filter, "retry": ["2h", "2h"]});
    let webhook = json(gateway.post_json("/webhooks", &body).await).await;
    receiver.wait(1).await;
    let path = format!("/webhooks/{}/deliveries", webhook["id"].as_str().unwrap());
    let row = async || json(gateway.get(&path).await).await["items"].clone();
    wait_for("its row", || async { (row().await[0]["status"] == "failing").then_some(()) }).await;
    assert_eq!(erase(&gateway, &event(3).id).await, 204);
    assert_eq!(row().await[0]["status"], "discarded");
    let calls = receiver.wait(2).await;
    assert_eq!(calls[1].header("webhook-key"), calls[0].header("webhook-key"), "the key goes on at once");
    assert!(String::from_utf8_lossy(&calls[1].body).contains(&event(3).id));
    wait_for("nothing left", || async { row().await.as_array().unwrap().is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn only_who_could_see_it_sees_its_erasure_and_only_an_admin_erases() {
    let client = |name: &str, scopes: &str, types: &str| {
        let (token, hash) = new_token();
        let sees = format!("{{ types = [{types}] }}");
        let text = format!("[[client]]\nname = {name:?}\ntoken_hash = {hash:?}\nscopes = {scopes}\nevents = {sees}\n");
        (token, text)
    };
    let (boss, text) = client("boss", "[\"read\", \"admin\"]", "");
    let (added, more) = client("added", "[\"read\"]", "\"ItemAdded\"");
    let (out, most) = client("out", "[\"read\"]", "\"CheckedOut\"");
    let clients = text + &more + &most;
    let gateway = gateway(Engine::Sqlite, &clients).await;
    let id = event(3).id;
    let delete = async |token: &str| {
        let request = gateway.client().delete(gateway.url(&format!("/events/{id}"))).bearer_auth(token);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(delete(&added).await, 403);
    assert_eq!(delete(&boss).await, 204);
    for (token, sees) in [(&boss, true), (&added, true), (&out, false)] {
        let request = gateway.client().get(gateway.url("/feeds/all.atom")).bearer_auth(token);
        let head = request.send().await.unwrap().text().await.unwrap();
        assert_eq!(head.contains("postern.erased") && head.contains(&id), sees, "{head}");
    }
}

#[tokio::test]
async fn caches_are_told_until_they_listen() {
    let cache = Receiver::start(|_| Answer::Status(503)).await;
    let root = cache.url.replace("hook", "below/");
    let gateway = gateway(Engine::Sqlite, &format!("{SMALL}[feeds]\npurge = [{root:?}]\n")).await;
    first_page(&gateway, "atom").await;
    assert_eq!(erase(&gateway, &event(3).id).await, 204);
    cache.wait(1).await;
    cache.now(|call| Answer::Status(if call.line.contains(".rss") { 404 } else { 200 }));
    let page = format!("PURGE {}", page_path(&gateway, "atom").await);
    let wanted = [page, "PURGE /feeds/all".to_owned(), format!("PURGE /events/{}", event(3).id)];
    let told = || async {
        let lines: Vec<String> = cache.calls().into_iter().skip(1).map(|call| call.line).collect();
        wanted.iter().all(|line| lines.contains(&line.replace(" /", " /below/"))).then_some(())
    };
    wait_for("all of them to be asked for", told).await;
    let host = cache.calls()[0].header("host").to_owned();
    assert_eq!(format!("http://{host}"), gateway.url(""), "asked for as clients ask");
}
