//! GraphQL, through HTTP.

use postern::event::Event;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Engine, Gateway, event, events, json as body};

/// What graphql-js asks to get the whole schema, without descriptions.
const INTROSPECTION: &str = "query IntrospectionQuery { __schema { queryType { name } types { ...FullType } directives { name \
    locations args { ...InputValue } } } } fragment FullType on __Type { kind name fields(includeDeprecated: true) { name \
    args { ...InputValue } type { ...TypeRef } isDeprecated } inputFields { ...InputValue } interfaces { ...TypeRef } \
    enumValues(includeDeprecated: true) { name } possibleTypes { ...TypeRef } } fragment InputValue on __InputValue { name \
    type { ...TypeRef } defaultValue } fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType \
    { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name } } } } } } } }";

async fn answer(gateway: &Gateway, query: &str, variables: Value) -> Value {
    let response = gateway.post_json("/graphql", &json!({ "query": query, "variables": variables })).await;
    assert_eq!(response.status(), 200);
    body(response).await
}

async fn data(gateway: &Gateway, query: &str) -> Value {
    let answer = answer(gateway, query, json!({})).await;
    assert_eq!(answer["errors"], Value::Null, "{answer}");
    answer["data"].clone()
}

async fn code(gateway: &Gateway, query: &str) -> String {
    let answer = answer(gateway, query, json!({})).await;
    answer["errors"][0]["extensions"]["code"]
        .as_str()
        .unwrap_or_else(|| panic!("no code for {query}: {answer}"))
        .to_owned()
}

async fn with_events(range: std::ops::RangeInclusive<i64>) -> Gateway {
    let gateway = Gateway::start().await;
    gateway.append(events(range)).await;
    gateway
}

fn positions(nodes: &Value) -> Vec<i64> {
    nodes.as_array().unwrap().iter().map(|node| node["position"].as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn schema_graphql_equals_the_built_schema() {
    let file = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schema.graphql")).unwrap();
    assert!(
        file == postern::outlet::graphql::Schema::new(&Default::default()).unwrap().sdl(),
        "run `cargo run -- schema > schema.graphql` and look at the difference"
    );
}

#[tokio::test]
async fn events_come_by_id_in_the_order_of_the_ids_and_null_for_unknown_ones() {
    let gateway = with_events(1..=3).await;
    let (one, three) = (event(1).id, event(3).id.to_uppercase());
    let query = format!(
        "{{ event(id: \"{one}\") {{ id }} none: event(id: \"x\") {{ id }} \
        eventsByIds(ids: [\"{three}\", \"x\", \"{one}\", \"{three}\"]) {{ position aggregateVersion occurredAt late erasedAt }} }}"
    );
    let data = data(&gateway, &query).await;
    assert_eq!(data["event"]["id"], one);
    assert_eq!(data["none"], Value::Null);
    let three = json!({ "position": "3", "aggregateVersion": "1", "occurredAt": "2026-01-01T00:03:00.000Z", "late": false, "erasedAt": null });
    let one = json!({ "position": "1", "aggregateVersion": "1", "occurredAt": "2026-01-01T00:01:00.000Z", "late": false, "erasedAt": null });
    assert_eq!(data["eventsByIds"], json!([three, null, one, three]));
}

#[tokio::test]
async fn pages_walked_in_any_direction_show_each_event_once() {
    let gateway = with_events(1..=10).await;
    for (size, cursor, order, start, next, more, other) in [
        ("first", "after", "ASC", 1, "endCursor", "hasNextPage", "hasPreviousPage"),
        ("first", "after", "DESC", 10, "endCursor", "hasNextPage", "hasPreviousPage"),
        ("last", "before", "ASC", 10, "startCursor", "hasPreviousPage", "hasNextPage"),
        ("last", "before", "DESC", 1, "startCursor", "hasPreviousPage", "hasNextPage"),
    ] {
        let (mut seen, mut place, mut pages) = (Vec::new(), Value::Null, 0);
        loop {
            let query = format!(
                "query($c: String) {{ events({size}: 3, {cursor}: $c, order: {order}) {{ nodes {{ position }} \
                pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }} }} }}"
            );
            let page = answer(&gateway, &query, json!({ "c": place })).await["data"]["events"].clone();
            let mut nodes = positions(&page["nodes"]);
            if size == "last" {
                nodes.reverse();
            }
            seen.extend(nodes);
            assert_eq!(page["pageInfo"][other], pages > 0, "{size} {order} {page}");
            pages += 1;
            if page["pageInfo"][more] == false {
                break;
            }
            place = page["pageInfo"][next].clone();
        }
        let upwards: Vec<i64> = (1..=10).collect();
        let downwards: Vec<i64> = (1..=10).rev().collect();
        assert_eq!((seen, pages), (if start == 1 { upwards } else { downwards }, 4), "{size} {order}");
    }
}

#[tokio::test]
async fn a_listing_starts_where_it_is_told_to() {
    let gateway = with_events(1..=5).await;
    let cursor = data(&gateway, &format!("{{ event(id: \"{}\") {{ cursor }} }}", event(3).id)).await["event"]["cursor"]
        .to_string();
    let after_event = format!("{{ eventId: \"{}\" }}", event(4).id);
    let after_cursor = format!("{{ cursor: {cursor} }}");
    for (from, expected) in [
        ("{ origin: BEGINNING }", vec![1, 2, 3, 4, 5]),
        ("{ origin: LATEST }", vec![]),
        ("{ time: \"2026-01-01T01:02:00+01:00\" }", vec![2, 3, 4, 5]),
        ("{ time: \"2026-01-01T00:02:00.000001Z\" }", vec![3, 4, 5]),
        (&after_event, vec![5]),
        (&after_cursor, vec![4, 5]),
    ] {
        let data = data(&gateway, &format!("{{ events(from: {from}) {{ nodes {{ position }} }} }}")).await;
        assert_eq!(positions(&data["events"]["nodes"]), expected, "{from}");
    }
    assert_eq!(code(&gateway, "{ events(from: { eventId: \"3\" }) { nodes { id } } }").await, "BAD_USER_INPUT");
    let both = "{ events(from: { eventId: \"3\", origin: LATEST }) { nodes { id } } }";
    assert_eq!(code(&gateway, both).await, "GRAPHQL_VALIDATION_FAILED");
}

#[tokio::test]
async fn an_empty_page_tells_where_to_go_on() {
    let gateway = with_events(1..=5).await;
    let latest = "{ events(from: { origin: LATEST }) { pageInfo { endCursor hasNextPage } } }";
    let page = data(&gateway, latest).await["events"]["pageInfo"].clone();
    assert_eq!(page["hasNextPage"], false);
    gateway.append(events(6..=7)).await;
    let data = data(&gateway, &format!("{{ events(after: {}) {{ nodes {{ position }} }} }}", page["endCursor"])).await;
    assert_eq!(positions(&data["events"]["nodes"]), [6, 7]);
}

#[tokio::test]
async fn filters_and_aggregates_narrow_the_listing() {
    let gateway = with_events(1..=30).await;
    let data = data(
        &gateway,
        "{ typed: events(filter: { types: [\"Checked*\"], aggregateIds: [\"cart-0\"] }) { nodes { position } } \
        aggregate(type: \"Cart\", id: \"cart-7\") { id type key version \
            events(last: 2) { edges { cursor node { position aggregate { key version } } } } } \
        none: aggregate(type: \"Cart\", id: \"cart\") { id } }",
    )
    .await;
    assert_eq!(positions(&data["typed"]["nodes"]), [10, 20, 30]);
    let aggregate = &data["aggregate"];
    assert_eq!((&aggregate["id"], &aggregate["version"]), (&json!("Cart/cart-7"), &json!("3")));
    assert_eq!(
        aggregate["events"]["edges"][1]["node"],
        json!({ "position": "27", "aggregate": { "key": "cart-7", "version": "3" } })
    );
    assert_eq!(data["none"], Value::Null);
    assert_eq!(code(&gateway, "{ events(filter: { types: [\"a*b\"] }) { nodes { id } } }").await, "BAD_USER_INPUT");
}

#[tokio::test]
async fn nodes_are_events_and_aggregates() {
    let gateway = with_events(1..=2).await;
    let id = event(2).id;
    let data = data(&gateway, &format!("{{ nodes(ids: [\"Cart/cart-1\", \"x\", \"{id}\", \"Cart/none\"]) {{ __typename id \
        ... on Aggregate {{ key }} ... on Event {{ position }} }} node(id: \"{id}\") {{ ... on UntypedEvent {{ type }} }} }}")).await;
    let aggregate = json!({ "__typename": "Aggregate", "id": "Cart/cart-1", "key": "cart-1" });
    assert_eq!(
        data["nodes"],
        json!([aggregate, null, { "__typename": "UntypedEvent", "id": id, "position": "2" }, null])
    );
    assert_eq!(data["node"], json!({ "type": "ItemAdded" }));
}

#[tokio::test]
async fn selections_on_an_event_are_walked_as_graphql_says() {
    let gateway = with_events(1..=1).await;
    let query = "query($no: Boolean = false) { events { nodes { __typename kind: type ...A ... on Node { id } ... { source } \
        ... on UntypedEvent { late @skip(if: true) position @include(if: $no) } aggregate { id } aggregate { key } \
        n: dataJson(pick: [\"n\"]) sku: dataJson(pick: \"sku\") } } } \
        fragment A on Event { cursor @include(if: $no) aggregateVersion ... @skip(if: true) { recordedAt } }";
    let node = data(&gateway, query).await["events"]["nodes"][0].clone();
    let expected = json!({ "__typename": "UntypedEvent", "kind": "ItemAdded", "aggregateVersion": "1", "id": event(1).id,
        "source": "cart", "aggregate": { "id": "Cart/cart-1", "key": "cart-1" }, "n": { "n": 1 }, "sku": { "sku": "TEA" } });
    assert_eq!(node, expected);
    let keys: Vec<&String> = node.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), 8);
    assert_eq!(code(&gateway, "{ events { nodes { data } } }").await, "GRAPHQL_VALIDATION_FAILED");
    assert_eq!(code(&gateway, "{ events { nodes { ... on Aggregate { id } } } }").await, "GRAPHQL_VALIDATION_FAILED");
}

#[tokio::test]
async fn data_passes_through_as_it_came() {
    let gateway = Gateway::start().await;
    let token = r#"{"$serde_json::private::RawValue":"[\"forged\"]"}"#;
    let numbers = r#"{"a": 123456789012345678901234.50, "b":1e400 , "s":"\u00e9\ud800"}"#;
    let texts = [numbers, token, "7", "[ ]"];
    let append = texts.iter().zip(1..).map(|(data, n)| Event {
        data: (*data).into(),
        metadata: Some((*data).into()),
        ..event(n)
    });
    gateway.append(append.collect()).await;
    let picks = "{ events { nodes { dataJson metadata picked: dataJson(pick: [\"a\", \"$serde_json::private::RawValue\"]) } } }";
    let text = gateway.post_json("/graphql", &json!({ "query": picks })).await.text().await.unwrap();
    for data in texts {
        assert!(text.contains(&format!("\"dataJson\":{data},\"metadata\":{data},")), "{data} is not in {text}");
    }
    assert!(text.contains(r#""picked":{"a":123456789012345678901234.50}"#), "{text}");
    assert!(text.contains(&format!("\"picked\":{token}")), "{text}");
}

#[tokio::test]
async fn a_field_that_fails_keeps_its_key_and_its_neighbours() {
    let gateway = with_events(1..=1).await;
    let query = "{ events { nodes { type dataJson(pick: [\"a..b\"]) } } event(id: \"x\") { id } }";
    let answer = answer(&gateway, query, json!({})).await;
    assert_eq!(answer["data"]["events"]["nodes"], json!([{ "type": "ItemAdded", "dataJson": null }]));
    assert_eq!(answer["errors"][0]["path"], json!(["events", "nodes", 0, "dataJson"]));
    assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_USER_INPUT");
}

#[tokio::test]
async fn what_asks_for_too_much_or_makes_no_sense_is_refused_with_a_code() {
    let gateway = with_events(1..=1).await;
    let many = (0..101).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(",");
    let paths = (0..51).map(|n| format!("\"a{n}\"")).collect::<Vec<_>>().join(",");
    let deep = format!("{{ events {}", "{ nodes { aggregate { events ".repeat(6));
    let deep = format!("{deep} {{ nodes {{ id }} }} {}", "} ".repeat(19));
    for (query, expected) in [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("{ nonsense }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ event { id } }", "GRAPHQL_VALIDATION_FAILED"),
        ("mutation { a }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { a }", "GRAPHQL_VALIDATION_FAILED"),
        ("query A { __typename } query B { __typename }", "GRAPHQL_VALIDATION_FAILED"),
        ("query($first: Int!) { events(first: $first) { nodes { id } } }", "BAD_USER_INPUT"),
        ("{ event(id: 1) { x: id x: type } }", "GRAPHQL_VALIDATION_FAILED"),
        ("{ events(first: 201) { nodes { id } } }", "BAD_USER_INPUT"),
        ("{ events(last: -1) { nodes { id } } }", "BAD_USER_INPUT"),
        ("{ events(first: 1, last: 1) { nodes { id } } }", "BAD_USER_INPUT"),
        ("{ events(from: { time: \"yesterday\" }) { nodes { id } } }", "BAD_USER_INPUT"),
        (&format!("{{ eventsByIds(ids: [{many}]) {{ id }} }}"), "BAD_USER_INPUT"),
        (&format!("{{ events {{ nodes {{ dataJson(pick: [{paths}]) }} }} }}"), "BAD_USER_INPUT"),
        ("{ events(after: \"nonsense\") { nodes { id } } }", "INVALID_CURSOR"),
        ("{ events(after: \"00000000-1\") { nodes { id } } }", "CURSOR_EXPIRED"),
        (&format!("{{ {} }}", "event(id: 1) { id } ".repeat(21)), "QUERY_TOO_COMPLEX"),
        ("{ events(first: 200) { nodes { aggregate { events { nodes { id } } } } } }", "QUERY_TOO_COMPLEX"),
        (&format!("{{ events(first: 1) {{ nodes {{ {} }} }} }}", "id ".repeat(5_000)), "QUERY_TOO_COMPLEX"),
        (&deep.replace("events", "events(first: 1)"), "QUERY_TOO_DEEP"),
        (&"[".repeat(100_000), "QUERY_TOO_DEEP"),
    ] {
        assert_eq!(code(&gateway, query).await, expected, "{query:.200}");
    }
    for wrong in [json!({ "first": "x", "after": null }), json!({ "first": 1, "after": 5 }), json!({ "first": 1.5 })] {
        let query = "query($first: Int!, $after: String) { events(first: $first, after: $after) { nodes { id } } }";
        assert_ne!(answer(&gateway, query, wrong.clone()).await["errors"], Value::Null, "{wrong}");
    }
    let answer = answer(&gateway, "{ events(first: 5) { nodes { id } } }", json!({})).await;
    assert_eq!(answer["extensions"]["cost"], json!({ "requested": 6, "limit": 5000 }));
}

#[tokio::test]
async fn introspection_can_be_switched_off() {
    let gateway = Gateway::start().await;
    let types = data(&gateway, INTROSPECTION).await["__schema"]["types"].to_string();
    assert!(types.contains("\"UntypedEvent\""), "{types}");
    let closed = Gateway::start_with(Engine::Sqlite, "[graphql]\nintrospection = false\n").await;
    assert_eq!(code(&closed, INTROSPECTION).await, "GRAPHQL_VALIDATION_FAILED");
    assert_eq!(data(&closed, "{ __typename }").await, json!({ "__typename": "Query" }));
}

#[tokio::test]
async fn a_hidden_event_is_answered_like_an_unknown_one() {
    let (token, hash) = postern::web::auth::new_token();
    let config = format!(
        "[[client]]\nname = \"erp\"\ntoken_hash = \"{hash}\"\nscopes = [\"read\"]\nevents = {{ types = [\"CheckedOut\"] }}\n"
    );
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    gateway.append(events(1..=10)).await;
    assert_eq!(gateway.post_json("/graphql", &json!({ "query": "{ __typename }" })).await.status(), 401);
    let ask = async |query: String| {
        let request = gateway
            .client()
            .post(gateway.url("/graphql"))
            .bearer_auth(&token)
            .header("content-type", "application/json");
        body(request.body(json!({ "query": query }).to_string()).send().await.unwrap()).await
    };
    let id = event(1).id;
    let hidden = format!(
        "{{ event(id: \"{id}\") {{ id }} node(id: \"Cart/cart-1\") {{ id }} aggregate(type: \"Cart\", id: \"cart-1\") {{ id }} }}"
    );
    assert_eq!(ask(hidden).await["data"], json!({ "event": null, "node": null, "aggregate": null }));
    assert_eq!(positions(&ask("{ events { nodes { position } } }".into()).await["data"]["events"]["nodes"]), [5, 10]);
    let from = |id: &str| format!("{{ events(from: {{ eventId: \"{id}\" }}) {{ nodes {{ id }} }} }}");
    let unknown = ask(from("00000000-0000-7000-8000-999999999999")).await.to_string();
    assert_eq!(ask(from(&id)).await.to_string(), unknown.replace("00000000-0000-7000-8000-999999999999", &id));
}

#[tokio::test]
async fn post_takes_json_only_and_bounded() {
    let gateway = Gateway::start().await;
    let good = r#"{"query": "{ __typename }"}"#;
    for (kind, content, status) in [
        ("application/json", good, 200),
        ("Application/JSON; charset=\"UTF-8\"", good, 200),
        ("application/json; charset=latin1", good, 415),
        ("text/plain", good, 415),
        ("application/x-www-form-urlencoded", "query={__typename}", 415),
        ("application/json", "{", 400),
        ("application/json", "[\"{ __typename }\"]", 400),
        ("application/json", "{\"query\": 5}", 400),
        ("application/json", "{}", 400),
        ("application/json", r#"{"query": "{ __typename }", "variables": []}"#, 400),
        ("application/json", r#"{"query": "{ __typename }", "extensions": 1}"#, 400),
        (
            "application/json",
            r#"{"query": "{ __typename }", "operationName": null, "variables": null, "extensions": {"a": 1}, "x": 1}"#,
            200,
        ),
        ("application/json", &format!("{{\"query\": \"{}\"}}", " ".repeat(256 * 1024)), 413),
    ] {
        let request =
            gateway.client().post(gateway.url("/graphql")).header("content-type", kind).body(content.to_owned());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{kind} {content:.100}");
        let is_problem = response.headers()["content-type"] == "application/problem+json";
        assert_eq!(is_problem, status != 200, "{kind} {content:.100}");
    }
    assert_eq!(gateway.client().post(gateway.url("/graphql")).body(good).send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn the_status_says_more_to_clients_that_know_the_newer_media_type() {
    let gateway = Gateway::start().await;
    let newer = "application/graphql-response+json";
    for (accept, query, status, kind) in [
        (Some(newer), "{ __typename }", 200, newer),
        (Some(newer), "{", 400, newer),
        (Some(newer), "{ nonsense }", 400, newer),
        (Some(newer), "{ events(first: -1) { nodes { id } } }", 200, newer),
        (Some("application/graphql-response+json, application/json;q=0.9"), "{", 400, newer),
        (Some("application/json"), "{", 200, "application/json"),
        (Some("*/*"), "{ nonsense }", 200, "application/json"),
        (None, "{ nonsense }", 200, "application/json"),
        (Some("image/png"), "{ __typename }", 406, "application/problem+json"),
    ] {
        let mut request = gateway.client().post(gateway.url("/graphql")).header("content-type", "application/json");
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let response = request.body(json!({ "query": query }).to_string()).send().await.unwrap();
        let expected = if status == 406 { kind.to_owned() } else { format!("{kind}; charset=utf-8") };
        assert_eq!(
            (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap()),
            (status, &*expected),
            "{accept:?} {query}"
        );
        let answer = body(response).await;
        assert_eq!(answer.get("data").is_some(), !["{", "{ nonsense }"].contains(&query) && status != 406, "{answer}");
    }
}

#[tokio::test]
async fn get_runs_queries_only_and_shows_browsers_a_page() {
    let gateway = Gateway::start().await;
    let get = async |query: &[(&str, &str)], accept: &str| {
        let url = reqwest::Url::parse_with_params(&gateway.url("/graphql"), query).unwrap();
        gateway.client().get(url).header("accept", accept).send().await.unwrap()
    };
    let two = "query A { a: __typename } query B($f: Int) { b: __typename events(first: $f) { nodes { id } } }";
    let variables = ("variables", "{\"f\": 1}");
    let answer = body(get(&[("query", two), ("operationName", "B"), variables], "*/*").await).await;
    assert_eq!(answer["data"]["b"], "Query", "{answer}");
    let mutation = get(&[("query", "mutation C { c } query D { d }"), ("operationName", "C")], "*/*").await;
    assert_eq!((mutation.status().as_u16(), &mutation.headers()["allow"]), (405, &"POST".parse().unwrap()));
    assert_eq!(get(&[("query", "subscription { a }")], "*/*").await.status(), 405);
    assert_eq!(get(&[("query", "{ __typename }"), ("variables", "{")], "*/*").await.status(), 400);
    assert_eq!(get(&[], "*/*").await.status(), 400);
    let page = get(&[], "text/html,application/xhtml+xml,*/*;q=0.8").await;
    assert_eq!(page.status(), 200);
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
}

#[tokio::test]
async fn other_methods_are_answered_as_http_says() {
    let gateway = Gateway::start().await;
    let ask =
        async |method: Method, path: &str| gateway.client().request(method, gateway.url(path)).send().await.unwrap();
    let head = ask(Method::HEAD, "/graphql?query=%7B__typename%7D").await;
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
    for (method, status) in [(Method::OPTIONS, 204), (Method::PUT, 405), (Method::DELETE, 405)] {
        let response = ask(method, "/graphql").await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["allow"], "GET, HEAD, POST, OPTIONS");
    }
}

/// A gateway whose catalogue has a schema of `OrderPlaced`, of `order.cancelled`, and none of `Checked`.
async fn typed() -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let placed = json!({
        "description": "An order was placed.",
        "$defs": { "Money": { "type": "object", "properties": { "amount": { "type": "number" }, "currency": { "enum": ["EUR", "CHF"] } } } },
        "type": "object",
        "properties": {
            "orderId": { "type": "string" }, "count": { "type": "integer", "maximum": 1000 }, "serial": { "type": "integer" },
            "placed-at": { "type": "string", "format": "date-time" }, "total": { "$ref": "#/$defs/Money" },
            "lines": { "type": "array", "items": { "properties": { "sku": { "type": "string" }, "qty": { "type": "integer", "maximum": 99 } } } },
            "tags": { "type": "object", "additionalProperties": { "type": "string" } },
            "old": { "type": "string", "deprecated": true }
        }
    });
    let cancelled = json!({ "properties": { "orderId": { "type": "string" }, "why": { "type": "string" } } });
    std::fs::write(folder.path().join("placed.json"), placed.to_string()).unwrap();
    std::fs::write(folder.path().join("cancelled.json"), cancelled.to_string()).unwrap();
    let path = folder.path().display();
    Gateway::start_with(Engine::Sqlite, &format!(
        "[events.OrderPlaced]\nschema = \"{path}/placed.json\"\n[events.\"order.cancelled\"]\nschema = [\"{path}/cancelled.json\"]\n"
    ))
    .await
}

fn with_data(n: i64, r#type: &str, data: &str) -> Event {
    Event { r#type: r#type.to_owned(), data: data.to_owned(), ..event(n) }
}

#[tokio::test]
async fn data_is_typed_by_the_schemas_of_the_catalogue() {
    let gateway = typed().await;
    let data_text = r#"{"orderId":"o-1","count":2,"serial":12345678901234567890,"placed-at":"2026-01-31T13:00:00+01:00","total":{"amount":1.5,"currency":"EUR"},"lines":[{"sku":"a","qty":1},{"sku":"b"},null],"tags":{"a":"b"},"hidden":true}"#;
    gateway
        .append(vec![
            with_data(1, "OrderPlaced", data_text),
            with_data(2, "order.cancelled", r#"{"why":"late","orderId":"o-1"}"#),
            with_data(3, "Checked", "{}"),
        ])
        .await;
    let query = "{ events { nodes { __typename id ...P ... on OrderCancelled { data { orderId why } } } } } \
        fragment P on OrderPlaced { data { __typename orderId count serial placed_at total { ...M } lines { sku } more: lines { qty } tags } \
            data { total { currency } lines { __typename } } } \
        fragment M on OrderPlacedDataMoney { amount }";
    let found = data(&gateway, query).await;
    let nodes = found["events"]["nodes"].as_array().unwrap();
    let names: Vec<&str> = nodes.iter().map(|node| node["__typename"].as_str().unwrap()).collect();
    assert_eq!(names, ["OrderPlaced", "OrderCancelled", "UntypedEvent"]);
    let expected = json!({
        "__typename": "OrderPlacedData", "orderId": "o-1", "count": 2, "serial": "12345678901234567890",
        "placed_at": "2026-01-31T12:00:00.000Z", "total": { "amount": 1.5, "currency": "EUR" },
        "lines": [{ "sku": "a", "__typename": "OrderPlacedDataLines" }, { "sku": "b", "__typename": "OrderPlacedDataLines" }, null],
        "more": [{ "qty": 1 }, { "qty": null }, null], "tags": { "a": "b" }
    });
    assert_eq!(nodes[0]["data"], expected);
    assert_eq!(nodes[1]["data"], json!({ "orderId": "o-1", "why": "late" }));
    assert_eq!(nodes[2].get("data"), None);
    assert_eq!(
        code(&gateway, "{ events { nodes { ... on OrderPlaced { data { orderID } } } } }").await,
        "GRAPHQL_VALIDATION_FAILED"
    );
}

#[tokio::test]
async fn a_value_that_does_not_fit_is_null_and_told_with_its_path() {
    let gateway = typed().await;
    gateway
        .append(vec![
            with_data(
                1,
                "OrderPlaced",
                r#"{"orderId":7,"lines":[{"sku":"a","qty":1},{"qty":"many"}],"total":"1 EUR"}"#,
            ),
            with_data(2, "OrderPlaced", "[]"),
            with_data(3, "OrderPlaced", r#"{"orderId":"o-3"}"#),
        ])
        .await;
    let query =
        "{ all: events { nodes { ... on OrderPlaced { data { orderId lines { q: qty } total { amount } } } } } }";
    let answer = answer(&gateway, query, json!({})).await;
    let nodes = &answer["data"]["all"]["nodes"];
    assert_eq!(nodes[0]["data"], json!({ "orderId": null, "lines": [{ "q": 1 }, { "q": null }], "total": null }));
    assert_eq!(nodes[1]["data"], Value::Null);
    assert_eq!(nodes[2]["data"]["orderId"], "o-3");
    let told: Vec<(Value, Value)> = answer["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["path"].clone(), error["extensions"]["code"].clone()))
        .collect();
    let mismatch = |path: Value| (path, json!("DATA_MISMATCH"));
    assert_eq!(
        told,
        [
            mismatch(json!(["all", "nodes", 0, "data", "orderId"])),
            mismatch(json!(["all", "nodes", 0, "data", "lines", 1, "q"])),
            mismatch(json!(["all", "nodes", 0, "data", "total"])),
            mismatch(json!(["all", "nodes", 1, "data"])),
        ]
    );
    assert!(!answer["errors"].to_string().contains("many"), "{answer}");
}
