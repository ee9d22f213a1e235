//! What readers are told once the oldest entries are gone.

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::support::receiver::{Answer, Receiver};
use crate::support::{Engine, Gateway, entries, event, events, json, run, wait_for};

const SMALL: &str = "[[feed]]\nname = \"all\"\npage_size = 4\n[[feed]]\nname = \"own\"\nfilter = { sources = [\"postern\"] }\n[[feed]]\nname = \"long\"\n";

/// Events 1 to 20, of which the first ten were recorded so long ago that they go; a paused webhook has got none.
async fn purged(engine: Engine) -> (Gateway, String, String) {
    let mut gateway = Gateway::start_with(engine, SMALL).await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    gateway.append(events(1..=20)).await;
    let feeds = json(gateway.get("/feeds").await).await;
    let epoch = feeds["feeds"][0]["epoch"].as_str().unwrap().to_owned();
    assert_eq!(gateway.get(&format!("/feeds/all/{epoch}/1.atom")).await.status(), 200);
    let long = feeds["feeds"][2]["epoch"].as_str().unwrap().to_owned();
    assert_eq!(gateway.get(&format!("/feeds/long/{long}/1.atom")).await.status(), 200);
    let filter = json!({"types": ["ItemAdded"]});
    let body = json!({"url": receiver.url, "filter": filter, "from": "beginning", "retry": ["2h"]});
    let webhook = json(gateway.post_json("/webhooks", &body).await).await;
    // Each of the eight keys of that type has failed once.
    receiver.wait(8).await;
    let path = format!("/webhooks/{}", webhook["id"].as_str().unwrap());
    let rows = async || json(gateway.get(&format!("{path}/deliveries?status=failing")).await).await;
    wait_for("their rows", || async { (rows().await["items"].as_array()?.len() == 8).then_some(()) }).await;
    let older = "update entries set recorded_at = recorded_at - 8000000000000 where position <= 10";
    match engine {
        Engine::Sqlite => run!(SqliteConnection::connect(&gateway.journal_url).await.unwrap(), older),
        _ => run!(PgConnection::connect(&gateway.journal_url).await.unwrap(), older),
    }
    gateway.journal_keys = "retention = \"90d\"\n";
    gateway.restart().await;
    wait_for("ten to go", || async { (entries(&gateway).await.first()?.position == 11).then_some(()) }).await;
    (gateway, epoch, long)
}

async fn what_is_purged_is_410_with_the_way_to_what_is_left(engine: Engine) {
    let (gateway, epoch, long) = purged(engine).await;
    let journal = gateway.app().journal().id().to_owned();
    let oldest = format!("after={journal}-10");
    let gone = [
        "/feeds/all.atom?after=0".to_owned(),
        "/feeds/all.atom?after=9".to_owned(),
        "/feeds/all.atom?since=2026-01-01T00:00:00Z".to_owned(),
        "/feeds/all.atom?recorded-since=2020-01-01T00:00:00Z".to_owned(),
        "/feeds/all/stream?after=3".to_owned(),
        format!("/feeds/all/{epoch}/1.atom"),
        format!("/feeds/all/{epoch}/3.atom"),
        // It was open, and whoever stands before it has not got what it lost.
        format!("/feeds/long/{long}/1.atom"),
        format!("/feeds/all.atom?after={}", event(9).id),
    ];
    for path in gone {
        let answer = gateway.get(&path).await;
        assert_eq!(answer.status(), 410, "{path}");
        let link = answer.headers()["link"].to_str().unwrap().to_owned();
        assert!(link.starts_with(&format!("<{}", gateway.url("/feeds/"))), "absolute: {link}");
        assert!(link.contains(&oldest) && link.contains("rel=\"next\""), "{path}: {link}");
    }
    assert_eq!(gateway.get(&format!("/feeds/all/{epoch}/4.atom")).await.status(), 200, "positions 13 to 16");
    let left = json(gateway.get("/feeds/all.json?after=10").await).await;
    assert_eq!(left["items"][0]["id"], format!("urn:uuid:{}", event(11).id));
    let since = gateway.get_text("/feeds/all.json?since=2026-01-01T00:15:00Z").await;
    assert!(since.contains(&event(15).id) && !since.contains(&event(14).id));
    let later = gateway.get("/feeds/all.atom?since=2999-01-01T00:00:00Z").await;
    assert_eq!(later.status(), 200, "nothing of then was purged");
    let page = gateway.get_text(&format!("/feeds/long/{long}/2.json")).await;
    assert!(page.contains(&event(11).id) && page.contains(&event(20).id), "what is left of it, and what comes");
    let head = gateway.get_text("/feeds/long.atom").await;
    assert!(head.contains(&event(11).id) && !head.contains(&event(10).id));
    let batch = gateway.get("/feeds/all.cloudevents").await;
    assert_eq!(batch.headers()["cache-control"], "public, no-cache", "it starts elsewhere another day");

    let query = json!({ "query": "subscription { events(from: { origin: BEGINNING }) { events { position } } }" });
    let call = gateway.client().post(gateway.url("/graphql")).header("accept", "text/event-stream");
    let mut live = call.header("content-type", "application/json").body(query.to_string()).send().await.unwrap();
    let first = live.chunk().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains(r#""position":"11""#), "what is left: {first:?}");
    let batch = batch.text().await.unwrap();
    assert!(batch.contains(&event(11).id), "who names no start gets what is left");
    assert_eq!(gateway.get(&format!("/events/{}", event(3).id)).await.status(), 404);
    gateway.append(events(1..=3)).await;
    assert!(entries(&gateway).await.iter().all(|entry| entry.event.id != event(3).id), "it never comes back");

    let missed = json(gateway.get("/feeds/own.json?after=10&embed=data").await).await;
    let items = missed["items"].as_array().unwrap();
    let missed: Vec<&Value> =
        items.iter().map(|item| &item["_event"]).filter(|event| event["type"] == "postern.webhook.missed").collect();
    let event = missed[0];
    let (from, to, count) = (&event["data"]["from"], &event["data"]["to"], &event["data"]["count"]);
    assert_eq!((from, to, count), (&json!(1), &json!(10), &json!(8)), "8 of the first 10 are of its type");
    assert_eq!(missed.len(), 1);
}

#[tokio::test]
async fn purged_on_sqlite() {
    what_is_purged_is_410_with_the_way_to_what_is_left(Engine::Sqlite).await;
}

#[tokio::test]
async fn purged_on_postgres() {
    what_is_purged_is_410_with_the_way_to_what_is_left(Engine::Postgres).await;
}
