//! GraphQL beside events: types, feeds, the journal, and which part of it each client is told; filters that no index
//! answers; trusted documents; what is too much.

use std::time::Duration;

use postern::event::Event;
use serde_json::{Value, json};

use crate::support::{Engine, Gateway, event, events, json as body, wait_for};

async fn ask(gateway: &Gateway, token: Option<&str>, request: Value) -> Value {
    let mut call = gateway.client().post(gateway.url("/graphql")).header("content-type", "application/json");
    if let Some(token) = token {
        call = call.bearer_auth(token);
    }
    body(call.body(request.to_string()).send().await.unwrap()).await
}

async fn data(gateway: &Gateway, query: &str) -> Value {
    let answer = ask(gateway, None, json!({ "query": query })).await;
    assert_eq!(answer["errors"], Value::Null, "{answer}");
    answer["data"].clone()
}

async fn code(gateway: &Gateway, request: Value) -> String {
    let answer = ask(gateway, None, request).await;
    answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_else(|| panic!("no error: {answer}")).to_owned()
}

fn of_type(n: i64, r#type: &str, aggregate_type: &str, data: &str) -> Event {
    let (r#type, aggregate_type) = (r#type.to_owned(), aggregate_type.to_owned());
    Event { r#type, aggregate_type, data: data.to_owned(), ..event(n) }
}

/// Three types, one with a schema and one that is withheld; a feed; a source.
async fn shop(more: &str) -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("placed.json");
    std::fs::write(&path, json!({ "properties": { "n": { "type": "integer" } } }).to_string()).unwrap();
    let config = format!(
        "[[source]]\nname = \"billing\"\npush = true\n[[feed]]\nname = \"orders\"\ntitle = \"Orders\"\n\
         filter = {{ types = [\"Order*\"] }}\n[events.OrderPlaced]\nschema = \"{}\"\n[events.Secret]\npublish = false\n{more}",
        path.display()
    );
    (Gateway::start_with(Engine::Sqlite, &config).await, folder)
}

/// A client with a token, as configuration.
fn client(name: &str, events: &str) -> (String, String) {
    let (token, hash) = postern::web::auth::new_token();
    (token, format!("[[client]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\nscopes = [\"read\"]\nevents = {events}\n"))
}

#[tokio::test]
async fn types_are_listed_with_counts_schemas_and_graphql_names() {
    let (gateway, _schemas) = shop("").await;
    gateway
        .append(vec![
            of_type(1, "OrderPlaced", "Order", r#"{"n":1}"#),
            of_type(2, "OrderPlaced", "Order", "{}"),
            of_type(3, "OrderPaid", "Order", "{}"),
        ])
        .await;
    let query = "{ eventTypes { id name graphqlType published count mismatchCount firstSeenAt } \
        eventType(name: \"OrderPlaced\") { schema lastSeenAt } none: eventType(name: \"None\") { id } \
        node(id: \"event-type//OrderPaid\") { __typename id ... on EventType { count } } }";
    let found = data(&gateway, query).await;
    let listed = |n: usize| &found["eventTypes"][n];
    assert_eq!(found["eventTypes"].as_array().unwrap().len(), 3, "{found}");
    assert_eq!((&listed(0)["name"], &listed(0)["graphqlType"]), (&json!("OrderPaid"), &Value::Null));
    assert_eq!((&listed(1)["name"], &listed(1)["graphqlType"]), (&json!("OrderPlaced"), &json!("OrderPlaced")));
    assert_eq!((&listed(1)["count"], &listed(1)["published"]), (&json!("2"), &json!(true)));
    assert!(listed(1)["firstSeenAt"].is_string());
    assert_eq!((&listed(2)["name"], &listed(2)["count"]), (&json!("Secret"), &json!("0")));
    assert_eq!((&listed(2)["published"], &listed(2)["firstSeenAt"]), (&json!(false), &Value::Null));
    assert_eq!(found["eventType"]["schema"], json!({ "properties": { "n": { "type": "integer" } } }));
    assert_eq!(found["none"], Value::Null);
    assert_eq!(found["node"], json!({ "__typename": "EventType", "id": "event-type//OrderPaid", "count": "1" }));
}

#[tokio::test]
async fn feeds_and_the_journal_tell_where_they_stand() {
    let (gateway, _schemas) = shop("").await;
    gateway.append(vec![of_type(1, "OrderPlaced", "Order", "{}"), of_type(2, "CartOpened", "Cart", "{}")]).await;
    let query = "{ feeds { id name title url headCursor } node(id: \"feed//orders\") { id } \
        journal { headCursor tailCursor sources { name kind healthy lagSeconds quarantined lastEventAt } } \
        events(feed: \"orders\") { nodes { position } } }";
    let found = data(&gateway, query).await;
    let head = found["journal"]["headCursor"].as_str().unwrap();
    assert!(head.ends_with("-2") && found["journal"]["tailCursor"].as_str().unwrap().ends_with("-0"), "{found}");
    let names: Vec<&str> =
        found["feeds"].as_array().unwrap().iter().map(|feed| feed["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["all", "orders", "postern"]);
    let orders = json!({
        "id": "feed//orders", "name": "orders", "title": "Orders",
        "url": gateway.url("/feeds/orders.atom"), "headCursor": head
    });
    assert_eq!(found["feeds"][1], orders);
    assert_eq!(found["node"], json!({ "id": "feed//orders" }));
    let billing = json!({
        "name": "billing", "kind": "push", "healthy": true, "lagSeconds": null, "quarantined": "0", "lastEventAt": null
    });
    assert_eq!(found["journal"]["sources"], json!([billing]));
    assert_eq!(found["events"]["nodes"], json!([{ "position": "1" }]));
    let unknown = json!({ "query": "{ events(feed: \"none\") { nodes { id } } }" });
    assert_eq!(code(&gateway, unknown).await, "BAD_USER_INPUT");
}

#[tokio::test]
async fn each_client_is_told_of_its_own_part() {
    let (placed, by_type) = client("by-type", "{ types = [\"OrderPlaced\"] }");
    let (carts, by_aggregate) = client("by-aggregate", "{ aggregate_types = [\"Cart\"] }");
    let (billing, by_source) = client("by-source", "{ sources = [\"billing\"] }");
    let (gateway, _schemas) = shop(&format!("{by_type}{by_aggregate}{by_source}")).await;
    gateway
        .append(vec![
            of_type(1, "OrderPlaced", "Order", "{}"),
            of_type(2, "Touched", "Order", "{}"),
            of_type(3, "Touched", "Cart", "{}"),
        ])
        .await;
    let query = json!({ "query": "{ eventTypes { name count } journal { sources { name } } }" });
    let told = async |token: &str| ask(&gateway, Some(token), query.clone()).await["data"].clone();
    let counted = |name: &str, count: &str| json!({ "name": name, "count": count });
    let none = json!({ "sources": [] });
    assert_eq!(told(&placed).await, json!({ "eventTypes": [counted("OrderPlaced", "1")], "journal": none }));
    let listed = [counted("OrderPlaced", "0"), counted("Secret", "0"), counted("Touched", "1")];
    assert_eq!(told(&carts).await, json!({ "eventTypes": listed, "journal": none }));
    assert_eq!(told(&billing).await["journal"], json!({ "sources": [{ "name": "billing" }] }));
    let hidden =
        json!({ "query": "{ eventType(name: \"Touched\") { name } node(id: \"event-type//Touched\") { id } }" });
    assert_eq!(ask(&gateway, Some(&placed), hidden).await["data"], json!({ "eventType": null, "node": null }));
}

#[tokio::test]
async fn filters_by_time_and_data_walk_the_journal() {
    let (gateway, _schemas) = shop("").await;
    let event =
        |n: i64| of_type(n, "OrderPlaced", "Order", &format!(r#"{{"n":{n},"lines":[{{"sku":"s-{}"}}]}}"#, n % 3));
    gateway.append((1..=30).map(event).collect()).await;
    let listed = async |arguments: &str| {
        let query =
            format!("{{ events({arguments}) {{ nodes {{ position }} pageInfo {{ hasNextPage endCursor }} }} }}");
        let page = data(&gateway, &query).await["events"].clone();
        let position = |node: &Value| node["position"].as_str().unwrap().parse::<i64>().unwrap();
        let positions: Vec<i64> = page["nodes"].as_array().unwrap().iter().map(position).collect();
        (positions, page["pageInfo"].clone())
    };
    let occurred = "filter: { occurredFrom: \"2026-01-01T00:03:00Z\", occurredBefore: \"2026-01-01T00:06:00Z\" }";
    assert_eq!(listed(occurred).await.0, [3, 4, 5]);
    let second = "filter: { data: [{ path: \"lines.sku\", eq: \"s-1\" }] }";
    let (first, info) = listed(&format!("first: 3, {second}")).await;
    assert_eq!((first, &info["hasNextPage"]), (vec![1, 4, 7], &json!(true)));
    let (next, _) = listed(&format!("first: 3, after: {}, {second}", info["endCursor"])).await;
    assert_eq!(next, [10, 13, 16]);
    assert_eq!(listed(&format!("last: 2, {second}")).await.0, [25, 28]);
    assert_eq!(listed(&format!("first: 2, order: DESC, {second}")).await.0, [28, 25]);
    let both = "filter: { types: [\"Order*\"], data: [{ path: \"n\", eq: 7 }, { path: \"lines.sku\", eq: \"s-1\" }] }";
    assert_eq!(listed(both).await.0, [7]);
    let wrong = json!({ "query": "{ events(filter: { data: [{ path: \"a..b\", eq: 1 }] }) { nodes { id } } }" });
    assert_eq!(code(&gateway, wrong).await, "BAD_USER_INPUT");
}

#[tokio::test]
async fn only_trusted_documents_are_answered_if_so_configured() {
    let folder = tempfile::tempdir().unwrap();
    let (path, text) = (folder.path().join("manifest.json"), "query First { events(first: 1) { nodes { position } } }");
    let operations = json!([{ "id": "abc", "name": "First", "type": "query", "body": text }]);
    let apollo = json!({ "format": "apollo-persisted-query-manifest", "version": 1, "operations": operations });
    std::fs::write(&path, apollo.to_string()).unwrap();
    let config = |only| format!("[graphql]\ndocuments = \"{}\"\nonly_trusted = {only}\n", path.display());
    let mut gateway = Gateway::start_with(Engine::Sqlite, &config(true)).await;
    gateway.append(events(1..=2)).await;
    let apollos = |id: &str| json!({ "extensions": { "persistedQuery": { "version": 1, "sha256Hash": id } } });
    let expected = json!({ "events": { "nodes": [{ "position": "1" }] } });
    for request in [json!({ "documentId": "sha256:abc" }), apollos("abc"), json!({ "query": text })] {
        assert_eq!(ask(&gateway, None, request).await["data"], expected);
    }
    let by_url = gateway.get("/graphql?documentId=abc").await;
    assert_eq!(body(by_url).await["data"], expected);
    assert_eq!(code(&gateway, apollos("none")).await, "PERSISTED_QUERY_NOT_FOUND");
    let other = "{ events(first: 2) { nodes { position } } }";
    assert_eq!(code(&gateway, json!({ "query": other })).await, "OPERATION_NOT_ALLOWED");
    let mut with_text = apollos("none");
    with_text["query"] = other.into();
    assert_eq!(code(&gateway, with_text.clone()).await, "PERSISTED_QUERY_NOT_FOUND");

    std::fs::write(&path, json!({ "abc": text }).to_string()).unwrap();
    gateway.reconfigure(&config(false)).await;
    assert_eq!(ask(&gateway, None, apollos("abc")).await["data"], expected);
    assert_eq!(ask(&gateway, None, with_text).await["errors"], Value::Null);
}

/// Reads the resident memory of this process, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024
}

#[tokio::test]
async fn what_a_client_may_not_see_is_on_no_page_and_in_no_list() {
    let (token, erp) = client("erp", "{ types = [\"Touched\"] }");
    let (gateway, _schemas) = shop(&erp).await;
    let page = async |config: &str| {
        let request = gateway.client().get(gateway.url("/graphql")).bearer_auth(&token).header("accept", "text/html");
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(text.contains("explorer.js"), "{config} {text}");
        text
    };
    assert!(!page("").await.contains("OrderPlaced"));
    // Nothing of the feed of orders is for this client.
    let answer =
        ask(&gateway, Some(&token), json!({ "query": "{ feeds { name } node(id: \"feed//orders\") { id } }" })).await;
    assert_eq!(answer["data"], json!({ "feeds": [{ "name": "all" }, { "name": "postern" }], "node": null }));
    let list = gateway.client().get(gateway.url("/feeds")).bearer_auth(&token).send().await.unwrap();
    assert!(!list.text().await.unwrap().contains("orders"));
}

#[tokio::test]
async fn an_aggregate_is_named_as_it_is() {
    let (gateway, _schemas) = shop("").await;
    let named = |n: i64, id: &str| Event { aggregate_id: id.to_owned(), ..of_type(n, "Touched", "Order", "{}") };
    gateway.append(vec![named(1, "o*"), named(2, "o1"), named(3, "o2")]).await;
    let query = "{ aggregate(type: \"Order\", id: \"o*\") { id version events { nodes { position } } } }";
    let found = data(&gateway, query).await;
    assert_eq!(found["aggregate"]["events"]["nodes"], json!([{ "position": "1" }]), "{found}");
}

#[tokio::test]
async fn what_is_selected_twice_is_read_once_and_merged() {
    let (gateway, _schemas) = shop("").await;
    gateway.append(vec![of_type(1, "OrderPlaced", "Order", r#"{"n":1}"#), of_type(2, "Touched", "Cart", "{}")]).await;
    let query = "query($yes: Boolean = true, $no: Boolean = false) { \
        events(last: 1) { nodes { position } } ...Again \
        events(last: 1) @skip(if: $yes) { nodes { id } } \
        aggregate(type: \"Order\", id: \"cart-1\") { events { nodes { position } } ... on Node { id } } \
        node(id: \"Order/cart-1\") { ... on Aggregate { events { nodes { position } } } ...A } \
        typed: events(first: 1) { nodes { aggregate { key } ...P ... on OrderPlaced { data { n @skip(if: $no) } aggregate { type } } } } } \
        fragment Again on Query { events(last: 1) { nodes { type @include(if: $yes) source @include(if: $no) } } } \
        fragment A on Aggregate { events { nodes { type } } } fragment P on Event { aggregate { key } }";
    let found = data(&gateway, query).await;
    assert_eq!(found["events"]["nodes"], json!([{ "position": "2", "type": "Touched" }]));
    let both = json!([{ "position": "1", "type": "OrderPlaced" }]);
    assert_eq!(found["node"], json!({ "events": { "nodes": both } }));
    assert_eq!(found["aggregate"]["id"], "Order/cart-1");
    let typed = json!([{ "aggregate": { "key": "cart-1", "type": "Order" }, "data": { "n": "1" } }]);
    assert_eq!(found["typed"]["nodes"], typed);
}

#[tokio::test]
async fn schemas_with_odd_names_and_texts_make_a_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.json");
    let odd = json!({
        "description": "Three \"\"\" quotes, a \\ and a \u{0} \u{1b}[31m", "properties": {
            "": { "type": "string", "description": "no \"\"\"name" }, "a-b": { "type": "string" }, "__c": { "type": "string" }
        }
    });
    std::fs::write(&path, odd.to_string()).unwrap();
    let config = format!("[events.Odd]\nschema = \"{}\"\n", path.display());
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    gateway.append(vec![of_type(1, "Odd", "Odd", r#"{"":"nameless","a-b":"x","__c":"y","__c":"z"}"#)]).await;
    let found = data(&gateway, "{ events { nodes { ... on Odd { data { _ a_b _c } } } } }").await;
    assert_eq!(found["events"]["nodes"][0]["data"], json!({ "_": "nameless", "a_b": "x", "_c": "z" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_a_library_knows_do_no_harm() {
    let (gateway, _schemas) = shop("").await;
    // Each level of this would be read with a count of its own, until the stack is full.
    let mut deep = "[".repeat(100) + &"]".repeat(100);
    for _ in 0..9 {
        let text = Value::String(deep);
        deep = format!("{}{{\"$serde_json::private::RawValue\":{text}}}{}", "[".repeat(100), "]".repeat(100));
    }
    let query = "query($d: JSON!) { events(filter: { data: [{ path: \"n\", eq: $d }] }) { nodes { id } } }";
    let request = format!("{{\"query\":{},\"variables\":{{\"d\":{deep}}}}}", Value::from(query));
    let call = gateway.client().post(gateway.url("/graphql")).header("content-type", "application/json");
    assert!(call.body(request).send().await.unwrap().status().as_u16() < 500);
    let event =
        format!("{{\"specversion\":\"1.0\",\"id\":\"d\",\"source\":\"/x\",\"type\":\"OrderPlaced\",\"data\":{deep}}}");
    let call = gateway.client().post(gateway.url("/sources/billing/events"));
    let pushed = call.header("content-type", "application/cloudevents+json").body(event).send().await.unwrap();
    assert!(pushed.status().as_u16() < 500, "{}", pushed.status());
    assert_eq!(data(&gateway, "{ journal { sources { name } } }").await["journal"]["sources"][0]["name"], "billing");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_bounded_whatever_the_data_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("big.json");
    let item = json!({ "properties": { "a": { "type": "string" }, "b": { "type": "string" } } });
    let big = json!({ "properties": { "lines": { "type": "array", "items": item }, "q": { "type": "string" } } });
    std::fs::write(&path, big.to_string()).unwrap();
    let config = format!("[events.Big]\nschema = \"{}\"\n", path.display());
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    let lines = format!("{{\"lines\":[{}{{}}]}}", "{},".repeat(300_000));
    let twice = format!("{{{}\"q\":1}}", "\"q\":1,".repeat(100_000));
    gateway.append(vec![of_type(1, "Big", "Big", &lines), of_type(2, "Big", "Big", &twice)]).await;
    let aliases = |name: &str, count: usize| (0..count).map(|n| format!("x{n}: {name} ")).collect::<String>();
    let query = format!("{{ events {{ nodes {{ ... on Big {{ data {{ {} }} }} }} }} }}", aliases("lines { a b }", 20));
    assert_eq!(code(&gateway, json!({ "query": query })).await, "QUERY_TOO_COMPLEX");
    let query = format!("{{ events {{ nodes {{ ... on Big {{ data {{ {} }} }} }} }} }}", aliases("q", 300));
    let answer = ask(&gateway, None, json!({ "query": query })).await;
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(100));
    let query = format!("{{ events {{ nodes {{ {} }} }} }}", aliases("dataJson(pick: [\"\"])", 100));
    let answer = ask(&gateway, None, json!({ "query": query })).await;
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_documents_are_refused() {
    let (gateway, _schemas) = shop("").await;
    gateway.append(events(1..=10)).await;
    let aliases: String = (0..2_000).map(|n| format!("a{n}: type ")).collect();
    let bomb: String = (0..30).map(|n| format!("fragment F{n} on Query {{ ...F{m} ...F{m} }} ", m = n + 1)).collect();
    let deep = format!("{}{}", "{ events { nodes { aggregate ".repeat(20), "} } } ".repeat(20));
    let overlapping: String = (0..300).map(|n| format!("... on Event {{ x{}: type }} ", n % 7)).collect();
    for document in [
        format!("{{ {} }}", "a: journal { headCursor } ".repeat(2_000)),
        format!("{{ events(first: 200) {{ nodes {{ {aliases} }} }} }}"),
        format!("{{ ...F0 }} {bomb} fragment F30 on Query {{ journal {{ headCursor }} }}"),
        deep,
        format!("{{ event(id: \"x\") {{ {} }} }}", overlapping.repeat(3)),
        format!("{{ nodes(ids: [{}]) {{ id }} }}", "\"x\",".repeat(5_000)),
        format!("{{ eventsByIds(ids: [{}]) {{ id }} }}", "\"x\",".repeat(101)),
        "{ events(first: 200) { nodes { aggregate { events(first: 200) { nodes { id } } } } } }".to_owned(),
        format!("query({}) {{ journal {{ headCursor }} }}", "$a: Int ".repeat(1_000)),
        format!("{{ events(filter: {{ types: {}\"a\"{} }}) {{ nodes {{ id }} }} }}", "[".repeat(500), "]".repeat(500)),
        format!("{{ event(id: \"{}\") {{ id }} }}", "\\u{1F600}".repeat(1_000)),
    ] {
        let answer = ask(&gateway, None, json!({ "query": document })).await;
        let codes = answer["errors"].as_array().map_or(0, Vec::len);
        assert!(codes > 0 || answer["data"]["event"].is_null(), "{}: {answer}", &document[..60]);
        assert!(answer.to_string().len() < 100_000, "{}", &document[..60]);
    }
    let before = resident();
    for _ in 0..3 {
        let call = gateway.client().post(gateway.url("/graphql")).header("content-type", "application/json");
        // It may be refused before all of it is sent.
        if let Ok(answer) = call.body("x".repeat(30 * 1024 * 1024)).send().await {
            assert_eq!(answer.status(), 413);
        }
    }
    assert!(resident() < before + 200, "from {before} to {} MiB", resident());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_hold_so_many_subscriptions_and_gets_them_back() {
    let gateway = Gateway::start().await;
    let subscribe = async || {
        let query = json!({ "query": "subscription { events { cursor } }" });
        let call = gateway.client().post(gateway.url("/graphql")).header("accept", "text/event-stream");
        let mut answer = call.header("content-type", "application/json").body(query.to_string()).send().await.unwrap();
        let first = tokio::time::timeout(Duration::from_secs(20), answer.chunk()).await.unwrap().unwrap().unwrap();
        (answer, String::from_utf8(first.to_vec()).unwrap())
    };
    let mut open = Vec::new();
    for n in 0..200 {
        let (answer, first) = subscribe().await;
        assert!(first.contains("cursor"), "{n}: {first}");
        open.push(answer);
    }
    assert!(subscribe().await.1.contains("RATE_LIMITED"));
    open.clear();
    wait_for("subscriptions to be given back", || async { subscribe().await.1.contains("cursor").then_some(()) }).await;
}
