//! GraphQL as other people's programs see it: the audit of graphql-http, the verdicts of graphql-js, the clients graphql-ws
//! and graphql-sse.

use serde_json::{Value, json};

use crate::support::{Engine, Gateway, event, events, json as body, node};

/// A gateway whose catalogue has these schemas, and the folder in which they are.
async fn with_schemas(schemas: &[(String, Value)]) -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let mut config = String::new();
    for (n, (name, schema)) in schemas.iter().enumerate() {
        let path = folder.path().join(format!("{n}.json"));
        std::fs::write(&path, schema.to_string()).unwrap();
        config.push_str(&format!("[events.\"{name}\"]\nschema = \"{}\"\n", path.display()));
    }
    (Gateway::start_with(Engine::Sqlite, &config).await, folder)
}

fn orders() -> [(String, Value); 2] {
    let money = json!({ "type": "object", "properties": { "amount": { "type": "number" } } });
    let line = json!({ "properties": { "sku": { "type": "string" }, "qty": { "type": "integer", "maximum": 99 } } });
    let placed = json!({
        "properties": {
            "orderId": { "type": "string" }, "count": { "type": "integer" },
            "total": money, "lines": { "type": "array", "items": line }
        }
    });
    let cancelled = json!({ "properties": { "orderId": { "type": "string" }, "count": { "type": "string" } } });
    [("OrderPlaced".to_owned(), placed), ("order.cancelled".to_owned(), cancelled)]
}

fn sdl(gateway: &Gateway) -> String {
    let config = gateway.dir.path().join("postern.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_postern"));
    let output = command.args(["schema", "--config"]).arg(&config).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_of_graphql_over_http_finds_nothing() {
    let gateway = Gateway::start().await;
    node::run("audit.mjs", &[&gateway.url("/graphql")], String::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_on_documents_are_those_of_graphql_js() {
    let (gateway, _schemas) = with_schemas(&orders()).await;
    let texts = include_str!("../node/documents.graphql");
    let documents: Vec<(&str, &str)> =
        texts.split("### ").skip(1).map(|document| document.split_once('\n').unwrap()).collect();
    assert!(documents.len() >= 40);
    let input =
        json!({ "sdl": sdl(&gateway), "documents": documents.iter().map(|(_, text)| text).collect::<Vec<_>>() });
    let theirs = node::run_json("verdicts.mjs", &[], &input).await;
    for ((title, text), valid) in documents.iter().zip(theirs.as_array().unwrap()) {
        assert_eq!(title.starts_with("valid"), valid.as_bool().unwrap(), "graphql-js on {title}");
        let answer = body(gateway.post_json("/graphql", &json!({ "query": text })).await).await;
        let code = answer["errors"][0]["extensions"]["code"].as_str().unwrap_or_default();
        let refused = ["GRAPHQL_PARSE_FAILED", "GRAPHQL_VALIDATION_FAILED"].contains(&code);
        assert_eq!(!refused, valid.as_bool().unwrap(), "{title}: {answer}");
        assert!(
            answer["errors"].as_array().is_none_or(|errors| errors.iter().all(|e| e["extensions"]["code"].is_string()))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_catalogue_makes_a_schema_that_graphql_js_takes() {
    let properties: serde_json::Map<String, Value> = (0..50)
        .map(|n| {
            let nested = json!({ "properties": { "a": { "type": "string" }, "b-c": { "type": "integer" } } });
            let kinds = [json!({ "type": "string" }), json!({ "type": "integer" }), nested, json!({})];
            (format!("field{n}"), kinds[n % 4].clone())
        })
        .collect();
    let schemas: Vec<(String, Value)> =
        (0..200).map(|n| (format!("type.{n}"), json!({ "properties": properties }))).collect();
    let (gateway, _schemas) = with_schemas(&schemas).await;
    let document = "{ eventTypes { name graphqlType } events { nodes { ... on Type7 { data { field2 { b_c } } } } } }";
    let input = json!({ "sdl": sdl(&gateway), "documents": [document] });
    assert_eq!(node::run_json("verdicts.mjs", &[], &input).await, json!([true]));
    let answer = body(gateway.post_json("/graphql", &json!({ "query": document })).await).await;
    assert_eq!(answer["data"]["eventTypes"].as_array().map(Vec::len), Some(200), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_websocket_protocol_is_kept_with_its_close_codes() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=3)).await;
    let init = json!({ "type": "connection_init" });
    let subscribe = |id: &str, query: &str| json!({ "id": id, "type": "subscribe", "payload": { "query": query } });
    let live = "subscription { events { cursor } }";
    let all = "subscription { events(from: { origin: BEGINNING }, batch: 2) { caughtUp events { position } } }";
    let large = format!("{{\"type\":\"ping\",\"payload\":\"{}\"}}", "x".repeat(300 * 1024));
    let cases = json!([
        { "says": [subscribe("1", live)] },
        { "says": [init, init] },
        { "says": [init, subscribe("1", live), subscribe("1", live)] },
        { "says": [init, "no JSON"] },
        { "says": [init, { "type": "shout", "payload": "x".repeat(500) }] },
        { "says": [init, { "id": "1", "type": "subscribe" }] },
        { "says": [init, { "id": "", "type": "subscribe", "payload": { "query": live } }] },
        { "says": [init, large] },
        { "protocol": "graphql-ws", "says": [init] },
        { "origin": "http://elsewhere.example", "says": [init] },
        { "origin": gateway.url(""), "says": [init], "until": 1 },
        { "says": [init, { "type": "ping", "payload": { "a": 1 } }], "until": 2 },
        { "says": [init, subscribe("q", "{ events(first: 1) { nodes { position } } }")], "until": 3 },
        { "says": [init, subscribe("bad", "{ nothing }")], "until": 2 },
        { "says": [init, subscribe("s", all)], "until": 3 },
        { "says": [init, subscribe("s", "subscription { events(feed: \"none\") { cursor } }")], "until": 3 },
        { "says": [init, subscribe("s", live), { "id": "s", "type": "complete" }, subscribe("s", "{ __typename }")], "until": "complete" }
    ]);
    let played = node::run_json("protocol.mjs", &[&gateway.url("")], &cases).await;
    let closes: Vec<i64> = played.as_array().unwrap().iter().map(|case| case["close"].as_i64().unwrap()).collect();
    let expected = [4401, 4429, 4409, 4400, 4400, 4400, 4400, 1009, 400, 403, 1000, 1000, 1000, 1000, 1000, 1000, 1000];
    assert_eq!(closes, expected, "{played}");
    let heard = |case: usize, message: usize| played[case]["heard"][message].clone();
    assert_eq!(heard(11, 1), json!({ "type": "pong", "payload": { "a": 1 } }));
    assert_eq!(heard(12, 1)["payload"]["data"], json!({ "events": { "nodes": [{ "position": "1" }] } }));
    assert_eq!(heard(12, 2), json!({ "id": "q", "type": "complete" }));
    assert_eq!(heard(13, 1)["type"], "error");
    assert_eq!(heard(13, 1)["payload"][0]["extensions"]["code"], "GRAPHQL_VALIDATION_FAILED");
    let batch = |positions: &[&str], caught_up: bool| {
        let events: Vec<Value> = positions.iter().map(|position| json!({ "position": position })).collect();
        json!({ "events": { "caughtUp": caught_up, "events": events } })
    };
    assert_eq!(heard(14, 1)["payload"]["data"], batch(&["1", "2"], false));
    assert_eq!(heard(14, 2)["payload"]["data"], batch(&["3"], true));
    assert_eq!(heard(15, 1)["payload"]["errors"][0]["extensions"]["code"], "BAD_USER_INPUT");
    assert_eq!(heard(15, 2)["type"], "complete");
    // An id that was completed can be used again.
    assert!(played[16]["heard"].to_string().contains(r#"{"__typename":"Query"}"#), "{}", played[16]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_results_resumes_after_its_last_id() {
    let (gateway, _schemas) = with_schemas(&orders()).await;
    gateway.append(events(1..=3)).await;
    let read = async |query: &str, last: Option<&str>, wanted: usize| {
        let mut request = gateway.client().post(gateway.url("/graphql")).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let request = request.header("content-type", "application/json").body(json!({ "query": query }).to_string());
        let mut response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        let mut text = String::new();
        while text.matches("\n\n").count() < wanted {
            text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap());
        }
        text
    };
    let all = "subscription { events(from: { origin: BEGINNING }, batch: 2) { events { position } } }";
    let text = read(all, None, 2).await;
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 2, "{text}");
    assert!(text.contains(r#"data: {"data":{"events":{"events":[{"position":"1"},{"position":"2"}]}}"#), "{text}");
    gateway.append(vec![event(4)]).await;
    let text = read(all, Some(ids[0]), 1).await;
    assert!(text.contains(r#"[{"position":"3"},{"position":"4"}]"#), "{text}");
    let text = read("{ events(first: 1) { nodes { position } } }", None, 2).await;
    assert!(text.ends_with("event: complete\ndata:\n\n"), "{text}");
    let text = read("subscription { nothing }", None, 2).await;
    assert!(text.contains("GRAPHQL_VALIDATION_FAILED") && text.contains("event: complete"), "{text}");
    let text = read(all, Some("00000000-7"), 2).await;
    assert!(text.contains("CURSOR_EXPIRED") && text.contains("event: complete"), "{text}");
}
