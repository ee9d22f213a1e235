//! What goes wrong with other people's databases: the events go on, the trouble is at `/sources`, nothing is lost.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection, SqliteConnection};

use crate::sources::{OFTEN, configuration, counts, insert, table, until};
use crate::support::network::Network;
use crate::support::{Database, Engine, Gateway, entries, json, run, wait_for};

async fn source(gateway: &Gateway) -> Value {
    json(gateway.get("/sources/cart").await).await
}

/// What stands as `lastError`, once there is one.
async fn trouble(gateway: &Gateway) -> String {
    wait_for("a trouble", || async { source(gateway).await["lastError"].as_str().map(str::to_owned) }).await
}

/// The quarantined ids by their reason.
async fn quarantine(gateway: &Gateway) -> BTreeMap<String, Vec<String>> {
    let page = json(gateway.get("/sources/cart/quarantine?limit=1000").await).await;
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in page["items"].as_array().unwrap() {
        let id = row["eventId"].as_str().unwrap_or_default().to_owned();
        reasons.entry(row["reason"].as_str().unwrap().to_owned()).or_default().push(id);
    }
    reasons
}

fn insert_data(id: &str, data: &str) -> String {
    format!("insert into tb_cart_event (event_id, cart_id, version, payload) values ('{id}', 'x', 1, {data})")
}

#[tokio::test]
async fn a_network_that_is_cut_delays_and_loses_nothing() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    run!(a, table(Engine::Postgres), insert("1", "x", 1));
    let mut network = Network::to(&database.url).await;
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(network.url.as_str(), OFTEN)).await;
    let mut expected = vec!["1".to_owned()];
    for round in 0..3 {
        let ids: Vec<&str> = expected.iter().map(String::as_str).collect();
        until(&gateway, &ids).await;
        network.cut().await;
        trouble(&gateway).await;
        let id = format!("in the dark {round}");
        run!(a, insert(&id, "x", round + 2));
        expected.push(id);
        network.mend().await;
    }
    let ids: Vec<&str> = expected.iter().map(String::as_str).collect();
    until(&gateway, &ids).await;
    let healed = || async { (source(&gateway).await["healthy"] == true).then_some(()) };
    wait_for("a healthy source", healed).await;
    assert_eq!(counts(&gateway).await, (4, 0, 0));
}

#[tokio::test]
async fn a_column_that_is_dropped_or_retyped_under_way_is_told_and_waited_for() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    run!(a, table(Engine::Postgres), insert("1", "x", 1));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    until(&gateway, &["1"]).await;
    run!(a, "alter table tb_cart_event alter column version type numeric, alter column payload type text");
    run!(a, insert("2", "x", 2));
    until(&gateway, &["1", "2"]).await;
    run!(a, "alter table tb_cart_event rename column payload to body", insert("3", "x", 3));
    let said = trouble(&gateway).await;
    assert!(said.contains("payload"), "{said}");
    run!(a, "alter table tb_cart_event rename column body to payload");
    until(&gateway, &["1", "2", "3"]).await;
    run!(a, "alter table tb_cart_event rename to tb_old", insert("4", "x", 4).replace("tb_cart_event", "tb_old"));
    assert!(trouble(&gateway).await.contains("tb_cart_event"));
    run!(a, "alter table tb_old rename to tb_cart_event");
    until(&gateway, &["1", "2", "3", "4"]).await;
}

/// Values that a column of its type can hold, and what becomes of their rows.
#[tokio::test]
async fn rows_that_nobody_can_read_stand_in_quarantine_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    let mut shop = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
    let exact = r#"{"n": 123456789012345678901234567890.10, "e": 1e400, "n": 2, "s": "\ud800"}"#;
    let set = |id: &str, what: &str| format!("update tb_cart_event set {what} where event_id = '{id}'");
    run!(
        shop,
        "pragma journal_mode = wal",
        table(Engine::Sqlite),
        insert("first", "x", 1),
        insert_data("large", "'\"' || printf('%.*c', 20000000, 'x') || '\"'"),
        insert_data("no-utf8", "cast(x'7b22ff227d' as text)"),
        insert_data("nul", "'{\"a\": \"' || char(0) || '\"}'"),
        insert_data("exact", &format!("'{exact}'")),
        insert_data("deep", "printf('%.*c', 5000, '[') || printf('%.*c', 5000, ']')"),
        insert("no-version", "x", 1),
        set("no-version", "version = 99999999999999999999"),
        insert("no-time", "x", 1),
        set("no-time", "occurred_at = '31.12.2025'"),
        insert("nul-type", "x", 1),
        set("nul-type", "event_type = 'a' || char(0) || 'b'"),
        insert("nul-id", "x", 1),
        set("nul-id", "event_id = 'a' || char(0)"),
        insert("last", "x", 2)
    );
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&url, OFTEN)).await;
    until(&gateway, &["first", "exact", "last"]).await;
    assert_eq!(entries(&gateway).await[1].event.data, exact);
    let kept = quarantine(&gateway).await;
    let kept: Vec<(&str, Vec<&str>)> =
        kept.iter().map(|(reason, ids)| (reason.as_str(), ids.iter().map(String::as_str).collect())).collect();
    assert_eq!(
        kept,
        [
            ("bad-json", vec!["nul"]),
            ("bad-text", vec!["no-utf8", "nul-type", ""]),
            ("bad-time", vec!["no-time"]),
            ("bad-version", vec!["no-version"]),
            ("too-deep", vec!["deep"]),
            ("too-large", vec!["large"]),
        ]
    );
    let state = source(&gateway).await;
    assert_eq!((&state["quarantined"], &state["healthy"]), (&8.into(), &true.into()));
}

#[tokio::test]
async fn binary_columns_of_postgres_and_a_row_of_20_mb_stop_nothing() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    run!(
        a,
        table(Engine::Postgres).replace("payload jsonb default '{\"n\": 1}'", "payload bytea default '{}'"),
        insert("first", "x", 1),
        insert_data("large", "convert_to('\"' || repeat('x', 20000000) || '\"', 'UTF8')"),
        insert_data("no-utf8", "'\\x7b22ff227d'"),
        insert_data("nul", "'\\x00'"),
        insert("last", "x", 2)
    );
    let gateway = Gateway::start_with(Engine::Postgres, &configuration(&database.url, OFTEN)).await;
    until(&gateway, &["first", "last"]).await;
    let kept = quarantine(&gateway).await;
    let kept: Vec<(&str, usize)> = kept.iter().map(|(reason, ids)| (reason.as_str(), ids.len())).collect();
    assert_eq!(kept, [("bad-json", 1), ("bad-text", 1), ("too-large", 1)]);
}

#[tokio::test]
async fn a_thousand_rows_that_are_no_events_go_to_quarantine_at_once() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    let poison = "insert into tb_cart_event (event_id, cart_id, version, event_type) \
                  select 'bad ' || n, 'x', n, '' from generate_series(1, 1000) n";
    run!(a, table(Engine::Postgres), insert("first", "x", 1), poison, insert("last", "x", 2));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    until(&gateway, &["first", "last"]).await;
    let counted = || async { (counts(&gateway).await == (2, 0, 1_000)).then_some(()) };
    wait_for("1000 rows in quarantine", counted).await;
    run!(a, "update tb_cart_event set event_type = 'Mended' where event_type = ''");
    let (mut next, mut resolved) = (Some(gateway.url("/sources/cart/quarantine?reason=missing-type")), 0);
    while let Some(url) = next {
        let request = gateway.client().put(url).header("command", "Retry");
        let answer = json(request.send().await.unwrap()).await;
        resolved += answer["resolved"].as_i64().unwrap();
        next = answer["next"].as_str().map(str::to_owned);
    }
    assert_eq!(resolved, 1_000);
    assert_eq!(entries(&gateway).await.len(), 1_002);
}
