//! Events that are handed in over HTTP.

use postern::filter::{Filter, Selection};
use postern::journal::{Columns, Range};
use serde_json::{Value, json};

use crate::support::{Engine, Gateway, json};

const PUSH: &str = "[[source]]\nname = \"billing\"\npush = true\n[events.Internal]\npublish = false\n";

async fn send(gateway: &Gateway, kind: &str, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> (u16, Value) {
    let mut request = gateway.client().post(gateway.url("/sources/billing/events")).header("content-type", kind);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body(body).send().await.unwrap();
    (response.status().as_u16(), json(response).await)
}

async fn structured(gateway: &Gateway, event: Value) -> (u16, Value) {
    send(gateway, "application/cloudevents+json", &[], event.to_string()).await
}

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/erp", "type": "InvoiceSent", "subject": "i-7", "time": "2026-01-01T00:00:00Z"})
}

#[tokio::test]
async fn every_form_is_journaled_before_it_is_answered() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let gateway = Gateway::start_with(engine, PUSH).await;
        let body = r#"{"specversion":"1.0","id":"1","source":"/erp","type":"InvoiceSent","partitionkey":"k","data":{"n": 1.10}}"#;
        let first = send(&gateway, "application/cloudevents+json", &[], body).await;
        assert_eq!(first, (202, json!({"items": [{"id": "billing:1", "position": 1, "duplicate": false}]})));
        let mut other = event("2");
        other["type"] = "Internal".into();
        let mut base64 = event("3");
        base64["data_base64"] = "eyJhIjoxfQ==".into();
        let batch = json!([event("1x"), other, base64, event("1x")]).to_string();
        let (status, answer) = send(&gateway, "application/cloudevents-batch+json", &[], batch.clone()).await;
        let item = |id: &str, position: Value, duplicate: bool| json!({"id": id, "position": position, "duplicate": duplicate});
        let expected = [
            item("billing:1x", 2.into(), false),
            item("billing:2", Value::Null, false),
            item("billing:3", 3.into(), false),
            item("billing:1x", 2.into(), true),
        ];
        assert_eq!((status, &answer["items"]), (202, &json!(expected)));
        let (status, again) = send(&gateway, "application/cloudevents-batch+json", &[], batch).await;
        assert_eq!((status, &again["items"][2]), (202, &item("billing:3", 3.into(), true)));
        // Without a time, it may come again, too.
        let untimed = r#"{"specversion":"1.0","id":"u","source":"/erp","type":"InvoiceSent"}"#;
        for duplicate in [false, true] {
            let (status, answer) = send(&gateway, "application/cloudevents+json", &[], untimed).await;
            assert_eq!((status, &answer["items"][0]["duplicate"]), (202, &duplicate.into()), "{answer}");
        }
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "00000000-0000-7000-8000-0000000000AA"),
            ("ce-source", "/erp"),
            ("ce-type", "Sch%C3%B6n"),
            ("ce-aggregatetype", "Invoice"),
            ("ce-traceparent", "t"),
        ];
        let (status, answer) = send(&gateway, "application/json", &headers, "[1, 2]").await;
        assert_eq!((status, &answer["items"][0]["position"]), (202, &5.into()), "{answer}");

        let selection = Selection::visible(&Filter::default());
        let page = gateway.app().journal().read(&selection, Range::after(0), 10, Columns::ALL).await.unwrap();
        let [one, two, three, _, four] = page.entries.as_slice() else { panic!("{:?}", page.entries) };
        assert_eq!((one.event.data.as_str(), one.event.key().as_str()), ("{\"n\": 1.10}", "billing/k"));
        assert_eq!((two.event.data.as_str(), two.event.aggregate_id.as_str()), ("null", "i-7"));
        assert_eq!(three.event.data, "{\"a\":1}");
        assert_eq!(
            (four.event.id.as_str(), four.event.r#type.as_str()),
            ("00000000-0000-7000-8000-0000000000aa", "Schön")
        );
        assert_eq!(
            (four.event.aggregate_type.as_str(), &four.event.aggregate_id.to_lowercase()),
            ("Invoice", &four.event.id)
        );
        assert_eq!(four.event.metadata.as_deref(), Some(r#"{"cesource":"/erp","traceparent":"t"}"#));
    }
}

#[tokio::test]
async fn what_is_no_event_is_refused_whole_and_says_why() {
    let gateway = Gateway::start_with(Engine::Sqlite, PUSH).await;
    assert_eq!(structured(&gateway, event("1")).await.0, 202);
    let changed = |name: &str, value: Value| {
        let mut event = event("9");
        event[name] = value;
        event
    };
    for (event, status, part) in [
        (changed("specversion", "0.3".into()), 400, "specversion"),
        (changed("id", "".into()), 400, "`id` is missing"),
        (changed("type", 7.into()), 400, "`type` must be a text"),
        (changed("source", Value::Null), 400, "`source` is missing"),
        (changed("time", "yesterday".into()), 400, "`time`"),
        (changed("subject", "x".repeat(513).into()), 400, "`subject`"),
        (changed("data_base64", "!".into()), 400, "base64"),
        (changed("data_base64", "PHhtbC8+".into()), 415, "must be JSON"),
        (changed("datacontenttype", "text/xml".into()), 415, "text/xml"),
        (changed("data", "x".repeat(1024 * 1024).into()), 413, "1 MB"),
        (json!([1]), 400, "no JSON object"),
        (changed("ext", json!({"deep": 1})), 400, "`ext`"),
    ] {
        let (answered, problem) = structured(&gateway, event).await;
        assert!(
            answered == status && problem["detail"].as_str().unwrap().contains(part),
            "{part}: {answered} {problem}"
        );
    }
    let mut other = event("1");
    other["data"] = json!({"other": true});
    let batch = json!([event("2"), other]).to_string();
    let (status, problem) = send(&gateway, "application/cloudevents-batch+json", &[], batch).await;
    assert!(status == 409 && problem["detail"].as_str().unwrap().contains("billing:1"), "{problem}");
    let batch = json!([event("2"), event("")]).to_string();
    let (status, problem) = send(&gateway, "application/cloudevents-batch+json", &[], batch).await;
    assert!(status == 400 && problem["detail"].as_str().unwrap().starts_with("event 1: `id`"), "{problem}");
    assert_eq!(gateway.app().journal().head().await.unwrap().position, 1, "none of the batches was taken");
    let raw = [("ce-specversion", "1.0"), ("ce-id", "ü"), ("ce-source", "/x"), ("ce-type", "T")];
    assert!(send(&gateway, "application/json", &raw, "{}").await.1["detail"].as_str().unwrap().contains("`ce-id`"));
    assert_eq!(send(&gateway, "text/plain", &[], "x").await.0, 415);
    assert_eq!(send(&gateway, "application/cloudevents-batch+json", &[], "x".repeat(5 << 20)).await.0, 413);
    let other = gateway.post_json("/sources/other/events", &json!({})).await;
    assert_eq!(other.status(), 404);
}

#[tokio::test]
async fn a_client_hands_in_where_its_scope_says() {
    let (token, hash) = postern::web::auth::new_token();
    let clients = format!("[[client]]\nname = \"erp\"\ntoken_hash = \"{hash}\"\nscopes = [\"push:billing\"]\n");
    let two = PUSH.replacen("[[source]]", "[[source]]\nname = \"other\"\npush = true\n[[source]]", 1);
    let gateway = Gateway::start_with(Engine::Sqlite, &format!("{two}{clients}")).await;
    let send = async |source: &str| {
        let request = gateway.client().post(gateway.url(&format!("/sources/{source}/events"))).bearer_auth(&token);
        let request = request.header("content-type", "application/cloudevents+json").body(event("1").to_string());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((send("billing").await, send("other").await), (202, 403));
    assert_eq!(structured(&gateway, event("1")).await.0, 401);
}
