//! What a webhook call looks like: formats, filters, selections as data, signatures, and how a receiver lets us in.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use postern::event::Event;
use serde_json::{Value, json};

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::webhooks::{
    caught_up, deliveries, get, numbers, ok, own_path, put, register, text_tag, verifies_publicly, wait_for_deliveries,
    wait_for_status,
};
use crate::support::{Engine, Gateway, event, events, json};

/// A webhook that gets all events so far, and the first `count` of its calls, by event.
async fn calls_of(gateway: &Gateway, attributes: Value, count: usize) -> (Value, Vec<Call>) {
    let receiver = Receiver::start(ok).await;
    let mut body = attributes;
    body["url"] = receiver.url.clone().into();
    body["from"] = "beginning".into();
    let webhook = register(gateway, body).await;
    let mut calls = receiver.wait(count).await;
    calls.sort_by_key(|call| call.header("webhook-sequence").parse::<i64>().unwrap());
    (webhook, calls)
}

fn body(call: &Call) -> Value {
    serde_json::from_slice(&call.body).unwrap()
}

/// Which of the events 1 to 20 a draft would get.
async fn matching(gateway: &Gateway, filters: Value) -> Value {
    let draft = json!({"url": "http://127.0.0.1:9/", "filters": filters});
    let response = gateway.post_json("/webhooks/preview", &draft).await;
    assert_eq!(response.status(), 200, "{filters}");
    json(response).await["matched"].clone()
}

#[tokio::test]
async fn each_format_has_its_content_type_its_headers_and_its_body() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=2)).await;
    let second = event(2);
    let (data, time) = (json!({"n": 2, "sku": "TEA"}), second.occurred_at.to_text());
    let cloud = json!({
        "specversion": "1.0", "id": second.id, "source": gateway.url("/sources/cart"), "type": "ItemAdded",
        "subject": "cart-2", "time": time, "datacontenttype": "application/json", "sequence": "00000000000000000002",
        "partitionkey": "cart-2", "aggregatetype": "Cart", "aggregateversion": "1", "data": data,
    });

    let (_, calls) = calls_of(&gateway, json!({"format": "standard"}), 2).await;
    assert_eq!((calls[1].line.as_str(), calls[1].header("content-type")), ("POST /hook", "application/json"));
    assert_eq!(body(&calls[1]), json!({"type": "ItemAdded", "timestamp": time, "data": data}));

    let (_, calls) = calls_of(&gateway, json!({"format": "cloudevents"}), 2).await;
    assert_eq!(calls[1].header("content-type"), "application/cloudevents+json");
    assert_eq!(body(&calls[1]), cloud);
    assert!(!calls[1].headers.keys().any(|name| name.as_str().starts_with("ce-")));

    let (_, calls) = calls_of(&gateway, json!({"format": "cloudevents-binary"}), 2).await;
    assert_eq!((calls[1].header("content-type"), body(&calls[1])), ("application/json", data.clone()));
    for (name, value) in cloud.as_object().unwrap() {
        match name.as_str() {
            "data" | "datacontenttype" => assert!(!calls[1].headers.contains_key(format!("ce-{name}"))),
            name => assert_eq!(calls[1].header(&format!("ce-{name}")), value.as_str().unwrap()),
        }
    }

    let (_, calls) = calls_of(&gateway, json!({"format": "cloudevents-batch"}), 1).await;
    assert_eq!(calls[0].header("content-type"), "application/cloudevents-batch+json");
    let batch = body(&calls[0]);
    assert_eq!((batch.as_array().unwrap().len(), &batch[1]), (2, &cloud));
    assert!(calls[0].header("webhook-id").starts_with("batch-") && !calls[0].headers.contains_key("webhook-key"));
}

#[tokio::test]
async fn a_thin_call_tells_where_the_event_is_and_nothing_of_it() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=2)).await;
    let (webhook, calls) = calls_of(&gateway, json!({"format": "thin"}), 2).await;
    assert!(calls[1].verifies(webhook["secret"].as_str().unwrap()));
    let thin = body(&calls[1]);
    assert_eq!((&thin["type"], &thin["data"]["id"]), (&json!("ItemAdded"), &json!(event(2).id)));
    assert_eq!(thin["data"]["position"], 2);
    assert!(!String::from_utf8_lossy(&calls[1].body).contains("TEA"));
    let follow = async |link: &Value| gateway.client().get(link.as_str().unwrap()).send().await.unwrap();
    let shown = follow(&thin["data"]["links"]["self"]).await;
    assert_eq!((shown.status().as_u16(), &json(shown).await["id"]), (200, &json!(event(2).id)));
    // The feed goes on at this event.
    let feed = follow(&thin["data"]["links"]["feed"]).await.text().await.unwrap();
    assert!(feed.contains(&event(2).id) && !feed.contains(&event(1).id), "{feed}");
}

#[tokio::test]
async fn a_binary_cloud_event_encodes_what_a_header_can_not_carry() {
    let gateway = Gateway::start().await;
    let odd = Event { aggregate_id: "ä \"1\" 5%".to_owned(), aggregate_version: None, ..event(1) };
    gateway.append(vec![odd]).await;
    let (webhook, calls) = calls_of(&gateway, json!({"format": "cloudevents-binary"}), 1).await;
    assert_eq!(calls[0].header("ce-subject"), "%C3%A4%20%221%22%205%25");
    assert!(!calls[0].headers.contains_key("ce-aggregateversion"));
    assert!(calls[0].verifies(webhook["secret"].as_str().unwrap()));
}

#[tokio::test]
async fn filters_speak_the_dialects_of_cloud_events() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=20)).await;
    for (filters, count) in [
        (json!([]), 20),
        (json!([{"exact": {"type": "CheckedOut"}}]), 4),
        (json!([{"exact": {"type": "CheckedOut", "subject": "cart-5"}}]), 2),
        (json!([{"prefix": {"type": "Check"}}, {"suffix": {"subject": "-0"}}]), 2),
        (json!([{"exact": {"source": "cart"}}]), 20),
        (json!([{"exact": {"source": gateway.url("/sources/cart")}}]), 20),
        (json!([{"any": [{"exact": {"subject": "cart-1"}}, {"exact": {"subject": "cart-2"}}]}]), 4),
        (json!([{"all": [{"exact": {"subject": "cart-1"}}, {"exact": {"data.n": "11"}}]}]), 1),
        (json!([{"not": {"exact": {"type": "CheckedOut"}}}]), 16),
        (json!([{"prefix": {"data.n": "1"}}]), 11),
        (json!([{"exact": {"data.sku": "TEA"}}]), 20),
        (json!([{"exact": {"data.n.x": "1"}}]), 0),
        (json!([{"exact": {"aggregatetype": "Cart", "aggregateversion": "2"}}]), 10),
        (json!([{"exact": {"colour": "red"}}]), 0),
    ] {
        assert_eq!(matching(&gateway, filters.clone()).await, count, "{filters}");
    }
    // Both kinds of filter, and the live way.
    let receiver = Receiver::start(ok).await;
    let body = json!({
        "url": receiver.url, "from": "beginning", "filter": {"types": ["ItemAdded"]},
        "filters": [{"suffix": {"data.n": "1"}}],
    });
    let webhook = register(&gateway, body).await;
    gateway.append(events(21..=40)).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(receiver.numbers(), [1, 11, 21, 31]);
}

#[tokio::test]
async fn a_dialect_that_nobody_knows_is_refused() {
    let gateway = Gateway::start().await;
    for (filters, told) in [
        (json!([{"sql": "type = 'A'"}]), "`sql` is not known; known are exact, prefix, suffix, all, any, not"),
        (json!([{"exact": "type"}]), "`exact` holds attributes and texts"),
        (json!([{"all": []}]), "`all` holds a list of one filter or more"),
        (json!({"exact": {"type": "A"}}), "`filters` must be a list"),
    ] {
        let response = gateway.post_json("/webhooks", &json!({"url": "http://127.0.0.1:9/", "filters": filters})).await;
        assert_eq!(response.status(), 422, "{filters}");
        let detail = json(response).await["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("`filters`") && detail.contains(told), "{detail}");
    }
    assert_eq!(get(&gateway, "/webhooks").await["items"], json!([]));
}

#[tokio::test]
async fn a_selection_is_the_data() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=2)).await;
    let query = r#"{ id kind: type position dataJson(pick: ["n"]) aggregate { type key } }"#;
    let selected = json!({
        "id": event(2).id, "kind": "ItemAdded", "position": "2", "dataJson": {"n": 2},
        "aggregate": {"type": "Cart", "key": "cart-2"},
    });
    for (format, data) in [("standard", "/data"), ("cloudevents", "/data"), ("cloudevents-binary", "")] {
        let (webhook, calls) = calls_of(&gateway, json!({"query": query, "format": format}), 2).await;
        assert_eq!(body(&calls[1]).pointer(data), Some(&selected), "{format}");
        assert!(calls[1].verifies(webhook["secret"].as_str().unwrap()));
        assert_eq!(get(&gateway, &own_path(&webhook)).await["query"], query);
    }
    let (_, calls) = calls_of(&gateway, json!({"query": query, "format": "cloudevents-batch"}), 1).await;
    assert_eq!(body(&calls[0])[1]["data"], selected);
}

#[tokio::test]
async fn a_selection_that_can_not_be_used_is_refused_at_registration() {
    let gateway = Gateway::start().await;
    for query in [
        "{ id",
        "id",
        "",
        "{ colour }",
        "{ id } { type }",
        "query { id }",
        "{ id ...F } fragment F on Event { type }",
        "{ ... on NoSuchType { id } }",
        "{ aggregate { version } }",
    ] {
        let draft = json!({"url": "http://127.0.0.1:9/", "query": query});
        for path in ["/webhooks", "/webhooks/preview"] {
            let response = gateway.post_json(path, &draft).await;
            assert_eq!(response.status(), 422, "{query}");
            let problem = json(response).await;
            assert!(problem["detail"].as_str().unwrap().starts_with("`query`"), "{query}: {problem}");
        }
    }
    let thin = json!({"url": "http://127.0.0.1:9/", "query": "{ id }", "format": "thin"});
    assert_eq!(gateway.post_json("/webhooks", &thin).await.status(), 422);
    let webhook = register(&gateway, json!({"url": "http://127.0.0.1:9/", "query": "{ id }"})).await;
    let edit = json!({"url": "http://127.0.0.1:9/", "query": "{ colour }"});
    assert_eq!(put(&gateway, &own_path(&webhook), &[], &edit).await.status(), 422);
    assert_eq!(get(&gateway, &own_path(&webhook)).await["query"], "{ id }");
}

#[tokio::test]
async fn a_selection_that_the_catalogue_breaks_holds_its_webhook_until_it_fits_again() {
    let config = "[events.ItemAdded]\nschema = \"added.json\"\n";
    let mut gateway = Gateway::start().await;
    let path = gateway.dir.path().join("added.json");
    let write = |names: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
        std::fs::write(&path, json!({"type": "object", "properties": properties}).to_string()).unwrap();
    };
    write(&["sku", "note"]);
    gateway.reconfigure(config).await;
    let receiver = Receiver::start(ok).await;
    let query = "{ ... on ItemAdded { data { sku note } } }";
    let webhook = register(&gateway, json!({"url": receiver.url, "query": query})).await;
    gateway.append(events(1..=1)).await;
    assert_eq!(body(&receiver.wait(1).await[0])["data"], json!({"data": {"sku": "TEA", "note": null}}));

    write(&["sku"]);
    gateway.restart().await;
    let shown = wait_for_status(&gateway, &webhook, "selection_invalid").await;
    assert!(shown["statusReason"].as_str().unwrap().contains("`note`"), "{shown}");
    assert_eq!(get(&gateway, "/webhooks?status=selection_invalid").await["items"].as_array().unwrap().len(), 1);
    gateway.append(events(2..=4)).await;
    let resumed = put(&gateway, &own_path(&webhook), &[("command", "Resume")], &json!({})).await;
    assert_eq!(resumed.status(), 422, "it still does not fit");
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "pending").await), [2, 3, 4]);
    assert_eq!(receiver.numbers(), [1]);

    write(&["sku", "note"]);
    gateway.restart().await;
    receiver.wait(4).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "active");
    let mut called = receiver.numbers();
    called.sort_unstable();
    assert_eq!(called, [1, 2, 3, 4], "each once");
}

#[tokio::test]
async fn signatures_verify_by_public_key_and_in_the_forms_of_github_and_stripe() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=1)).await;
    let key_of = async |webhook: &Value| gateway.get(&format!("{}/key", own_path(webhook))).await;
    for profiles in [json!("v1a"), json!(["v1", "v1a"])] {
        let (webhook, calls) = calls_of(&gateway, json!({"signature": profiles}), 1).await;
        let keys = json(key_of(&webhook).await).await;
        assert_eq!(keys["keys"], json!([keys["key"]]));
        assert!(verifies_publicly(&calls[0], keys["key"].as_str().unwrap()));
        assert_eq!(calls[0].verifies(webhook["secret"].as_str().unwrap()), profiles.is_array());
    }
    let secret = "a text as it is";
    let (webhook, calls) = calls_of(&gateway, json!({"signature": "github", "secret": secret}), 1).await;
    assert_eq!(calls[0].header("x-hub-signature-256"), format!("sha256={}", text_tag(secret, &calls[0].body)));
    assert!(!calls[0].headers.contains_key("webhook-signature"));
    assert_eq!(key_of(&webhook).await.status(), 404);

    let (_, calls) = calls_of(&gateway, json!({"signature": "stripe", "secret": secret}), 1).await;
    let time = calls[0].header("webhook-timestamp");
    let signed = [time.as_bytes(), b".", &calls[0].body].concat();
    assert_eq!(calls[0].header("stripe-signature"), format!("t={time},v1={}", text_tag(secret, &signed)));
    assert!(!calls[0].headers.contains_key("webhook-signature"));
}

#[tokio::test]
async fn own_headers_are_sent_and_the_secret_ones_are_shown_to_nobody() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=1)).await;
    let headers = json!({
        "X-Tenant": "a", "Authorization": "Digest d", "Cookie": "c=1", "X-Api-Key": "k", "X-Access-Token": "t",
        "X-Client-Secret": "s",
    });
    let receiver = Receiver::start(ok).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "from": "beginning", "headers": headers})).await;
    let masked = json!({
        "authorization": "***", "cookie": "***", "x-access-token": "***", "x-api-key": "***", "x-client-secret": "***",
        "x-tenant": "a",
    });
    let mut shown = get(&gateway, &own_path(&webhook)).await;
    assert_eq!((&webhook["headers"], &shown["headers"]), (&masked, &masked));
    // What was shown may be sent back.
    shown["description"] = "edited".into();
    shown["headers"]["x-api-key"] = "another".into();
    let edited = put(&gateway, &own_path(&webhook), &[], &shown).await;
    assert_eq!((edited.status().as_u16(), &json(edited).await["headers"]), (200, &masked));
    gateway.append(events(2..=2)).await;
    let calls = receiver.wait(2).await;
    for (name, value) in headers.as_object().unwrap() {
        let name = name.to_lowercase();
        assert_eq!(calls[0].header(&name), value.as_str().unwrap());
        let second = if name == "x-api-key" { "another" } else { value.as_str().unwrap() };
        assert_eq!(calls[1].header(&name), second);
    }
    for headers in [json!({"x-api-key": "***"}), json!({"webhook-id": "x"}), json!({"host": "x"})] {
        let draft = json!({"url": receiver.url, "headers": headers});
        assert_eq!(gateway.post_json("/webhooks", &draft).await.status(), 422, "{draft}");
    }
}

#[tokio::test]
async fn receivers_are_shown_a_password_or_a_token() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=1)).await;
    for (auth, masked, sent) in [
        (
            json!({"basic": {"username": "u", "password": "pä"}}),
            json!({"basic": {"username": "u", "password": "***"}}),
            "Basic dTpww6Q=",
        ),
        (json!({"bearer": "tok"}), json!({"bearer": "***"}), "Bearer tok"),
    ] {
        let receiver = Receiver::start(ok).await;
        let webhook = register(&gateway, json!({"url": receiver.url, "from": "beginning", "auth": auth})).await;
        let shown = get(&gateway, &own_path(&webhook)).await;
        assert_eq!((&webhook["auth"], &shown["auth"]), (&masked, &masked));
        caught_up(&gateway, &webhook).await;
        assert_eq!(put(&gateway, &own_path(&webhook), &[], &shown).await.status(), 200);
        gateway.append(vec![Event { id: format!("after {sent}"), ..event(2) }]).await;
        let calls = receiver.wait(2).await;
        assert!(calls.iter().all(|call| call.header("authorization") == sent), "{auth}");
        let both = json!({"url": receiver.url, "auth": auth, "headers": {"authorization": "x"}});
        assert_eq!(gateway.post_json("/webhooks", &both).await.status(), 422);
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_anew_when_the_receiver_refuses_it() {
    let gateway = Gateway::start().await;
    let count = Arc::new(AtomicUsize::new(0));
    let tokens = Receiver::start(move |_| {
        let n = count.fetch_add(1, Ordering::Relaxed) + 1;
        Answer::With(200, Vec::new(), json!({"access_token": format!("t{n}"), "expires_in": 3600}).to_string())
    })
    .await;
    let receiver = Receiver::start(ok).await;
    let oauth2 = json!({"tokenUrl": tokens.url, "clientId": "me", "clientSecret": "se:cret", "scope": "a b"});
    let body = json!({"url": receiver.url, "retry": ["20ms"], "concurrency": 1, "auth": {"oauth2": oauth2}});
    let webhook = register(&gateway, body).await;
    assert_eq!(webhook["auth"]["oauth2"]["clientSecret"], "***");
    gateway.append(events(1..=20)).await;
    caught_up(&gateway, &webhook).await;
    let asked = tokens.calls();
    assert_eq!(asked.len(), 1, "one for many calls");
    assert_eq!(asked[0].header("authorization"), "Basic bWU6c2UlM0FjcmV0");
    assert_eq!(asked[0].header("content-type"), "application/x-www-form-urlencoded");
    assert_eq!(asked[0].body, "grant_type=client_credentials&scope=a+b");
    assert!(receiver.calls().iter().all(|call| call.header("authorization") == "Bearer t1"));

    receiver.now(|call| Answer::Status(if call.header("authorization") == "Bearer t1" { 401 } else { 204 }));
    gateway.append(events(21..=30)).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(tokens.calls().len(), 2);
    let called: Vec<(i64, String)> =
        receiver.calls()[20..].iter().map(|call| (call.attempt(), call.header("authorization").to_owned())).collect();
    assert_eq!(called.len(), 11, "one was refused: {called:?}");
    assert_eq!(called.iter().filter(|(_, token)| token == "Bearer t1").count(), 1);
    assert!(deliveries(&gateway, &webhook, "dead").await.is_empty());
}

#[tokio::test]
async fn without_a_token_nothing_is_sent_and_the_fault_is_named() {
    let gateway = Gateway::start().await;
    let tokens = Receiver::start(|_| Answer::With(500, Vec::new(), "client_secret se:cret is wrong".to_owned())).await;
    let receiver = Receiver::start(ok).await;
    let oauth2 = json!({"tokenUrl": tokens.url, "clientId": "me", "clientSecret": "se:cret"});
    let body = json!({"url": receiver.url, "retry": ["2h"], "auth": {"oauth2": oauth2}});
    let webhook = register(&gateway, body).await;
    gateway.append(events(1..=1)).await;
    let failing = wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    assert_eq!((&failing[0]["lastError"], &failing[0]["lastStatus"]), (&json!("status"), &Value::Null));
    let shown = get(&gateway, &format!("{}/deliveries/{}", own_path(&webhook), event(1).id)).await;
    assert_eq!(shown["log"][0]["answer"], "token endpoint: status 500");
    assert!(receiver.calls().is_empty());
    let forbidden = json!({"url": receiver.url, "auth": {"oauth2": {
        "tokenUrl": "http://10.0.0.1/token", "clientId": "me", "clientSecret": "s" }}});
    let refused = gateway.post_json("/webhooks", &forbidden).await;
    assert_eq!(refused.status(), 422);
    assert!(json(refused).await["type"].as_str().unwrap().ends_with("forbidden-address"));
}

#[tokio::test]
async fn a_trace_goes_on_from_the_event_to_the_call() {
    let gateway = Gateway::start_with(Engine::Sqlite, "[[source]]\nname = \"erp\"\npush = true\n").await;
    let receiver = Receiver::start(|call| Answer::Status(if call.attempt() == 1 { 500 } else { 204 })).await;
    register(&gateway, json!({"url": receiver.url, "retry": ["50ms"], "format": "cloudevents"})).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let event = json!({
        "specversion": "1.0", "id": "1", "source": "/erp", "type": "T", "data": {},
        "traceparent": format!("00-{trace}-00f067aa0ba902b7-01"), "tracestate": "vendor=1",
    });
    let push = gateway.client().post(gateway.url("/sources/erp/events"));
    let push = push.header("content-type", "application/cloudevents+json").body(event.to_string());
    assert_eq!(push.send().await.unwrap().status(), 202);
    let calls = receiver.wait(2).await;
    let spans: Vec<&str> = calls.iter().map(|call| call.header("traceparent")).collect();
    assert!(spans.iter().all(|span| span.starts_with(&format!("00-{trace}-")) && span.ends_with("-01")), "{spans:?}");
    assert!(
        spans[0] != spans[1] && !spans[0].contains("00f067aa0ba902b7"),
        "each call is a step of its own: {spans:?}"
    );
    assert_eq!(calls[0].header("tracestate"), "vendor=1");
    assert_eq!(calls[0].body, calls[1].body);
    let body: Value = serde_json::from_slice(&calls[0].body).unwrap();
    assert_eq!(body["traceparent"], event["traceparent"]);
    let shown = gateway.get_text("/feeds/all.cloudevents").await;
    assert!(shown.contains(trace) && shown.contains("vendor=1"), "{shown}");
}
