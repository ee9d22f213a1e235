//! Several events in one call: how batches are cut, kept and repeated.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::webhooks::{
    caught_up, command_with, deliveries, get, numbers, ok, own_path, put, register, wait_for_deliveries,
};
use crate::support::{Engine, Gateway, event, events, number, wait_for};

/// Which events a call holds.
fn held(call: &Call) -> Vec<i64> {
    let events: Vec<Value> = serde_json::from_slice(&call.body).unwrap();
    events.iter().map(|event| number(event["id"].as_str().unwrap())).collect()
}

fn all_held(receiver: &Receiver) -> Vec<Vec<i64>> {
    receiver.calls().iter().map(held).collect()
}

/// A receiver that refuses the batch that starts with an event.
async fn refusing(first: i64, status: u16) -> Receiver {
    Receiver::start(move |call| Answer::Status(if held(call)[0] == first { status } else { 204 })).await
}

fn draft(receiver: &Receiver, retry: &[&str]) -> Value {
    json!({
        "url": receiver.url, "from": "beginning", "format": "cloudevents-batch", "batch": {"max": 3, "wait": "50ms"},
        "retry": retry,
    })
}

#[tokio::test]
async fn events_come_in_order_and_at_most_so_many_at_once() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let gateway = Gateway::start_with(engine, "").await;
        gateway.append(events(1..=10)).await;
        let receiver = Receiver::start(ok).await;
        let webhook = register(&gateway, draft(&receiver, &[])).await;
        caught_up(&gateway, &webhook).await;
        let calls = receiver.calls();
        assert_eq!(all_held(&receiver), [vec![1, 2, 3], vec![4, 5, 6], vec![7, 8, 9], vec![10]]);
        let ids: HashSet<&str> = calls.iter().map(|call| call.header("webhook-id")).collect();
        assert_eq!(ids.len(), 4, "each has its own");
        for call in &calls {
            assert!(call.verifies(webhook["secret"].as_str().unwrap()));
            assert_eq!(call.header("content-type"), "application/cloudevents-batch+json");
            assert!(!call.headers.contains_key("webhook-key"), "it has many");
        }
        // What goes on after it.
        assert_eq!(calls[0].header("webhook-sequence"), "3");
        let delivered = deliveries(&gateway, &webhook, "delivered").await;
        assert_eq!(numbers(&delivered), (1..=10).collect::<Vec<i64>>(), "each by itself");
    }
}

#[tokio::test]
async fn a_batch_waits_until_it_is_full_or_old_enough() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    let body = json!({"url": receiver.url, "format": "cloudevents-batch", "batch": {"max": 3, "wait": "1s"}});
    let webhook = register(&gateway, body).await;
    let started = std::time::Instant::now();
    gateway.append(events(1..=1)).await;
    gateway.append(events(2..=2)).await;
    let calls = receiver.wait(1).await;
    assert!(calls[0].at.duration_since(started) >= Duration::from_millis(900));
    caught_up(&gateway, &webhook).await;
    // A full one does not wait; what is left over does.
    gateway.append(events(3..=6)).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(all_held(&receiver), [vec![1, 2], vec![3, 4, 5], vec![6]]);
}

#[tokio::test]
async fn what_a_batch_is_by_default_and_where_it_does_not_belong() {
    let gateway = Gateway::start().await;
    let webhook = register(&gateway, json!({"url": "http://127.0.0.1:9/", "format": "cloudevents-batch"})).await;
    assert_eq!(webhook["batch"], json!({"max": 100, "wait": "1s"}));
    for (format, batch) in [
        ("standard", json!({"max": 3, "wait": "1s"})),
        ("cloudevents-batch", json!({"max": 0, "wait": "1s"})),
        ("cloudevents-batch", json!({"max": 1001, "wait": "1s"})),
        ("cloudevents-batch", json!({"max": 3, "wait": "61s"})),
        ("cloudevents-batch", json!({"max": 3, "wait": 1})),
    ] {
        let draft = json!({"url": "http://127.0.0.1:9/", "format": format, "batch": batch});
        assert_eq!(gateway.post_json("/webhooks", &draft).await.status(), 422, "{draft}");
    }
}

#[tokio::test]
async fn a_failing_batch_is_repeated_as_it_was_over_restarts_and_alone() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let mut gateway = Gateway::start_with(engine, "").await;
        let receiver = refusing(1, 500).await;
        let webhook = register(&gateway, draft(&receiver, &["400ms"; 20])).await;
        gateway.append(events(1..=3)).await;
        receiver.wait(2).await;
        gateway.append(events(4..=10)).await;
        receiver.wait(receiver.calls().len() + 1).await;
        gateway.restart().await;
        let before = receiver.calls().len();
        receiver.wait(before + 1).await;
        let calls = receiver.calls();
        assert!(calls.iter().all(|call| held(call) == [1, 2, 3]), "nothing beside it: {:?}", all_held(&receiver));
        let path = own_path(&webhook);
        wait_for("ten that wait", || async {
            let shown = get(&gateway, &path).await;
            (shown["status"] == "failing" && shown["undelivered"] == 10).then_some(())
        })
        .await;
        receiver.now(ok);
        caught_up(&gateway, &webhook).await;
        let calls = receiver.calls();
        let first: Vec<&Call> = calls.iter().take_while(|call| held(call) == [1, 2, 3]).collect();
        for (call, n) in first.iter().zip(1..) {
            assert_eq!((call.header("webhook-id"), call.attempt()), (first[0].header("webhook-id"), n));
            assert_eq!(call.body, first[0].body);
            assert!(call.verifies(webhook["secret"].as_str().unwrap()));
        }
        let rest: Vec<Vec<i64>> = calls[first.len()..].iter().map(held).collect();
        assert_eq!(rest, [vec![4, 5, 6], vec![7, 8, 9], vec![10]]);
    }
}

#[tokio::test]
async fn an_edit_changes_no_batch_that_was_tried() {
    let gateway = Gateway::start().await;
    let receiver = refusing(1, 500).await;
    let webhook = register(&gateway, draft(&receiver, &["2h"])).await;
    gateway.append(events(1..=6)).await;
    wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    let mut edited = draft(&receiver, &["2h"]);
    edited["batch"] = json!({"max": 2, "wait": "50ms"});
    edited["headers"] = json!({"x-tenant": "b"});
    assert_eq!(put(&gateway, &own_path(&webhook), &[], &edited).await.status(), 200);
    receiver.now(ok);
    let path = format!("{}/deliveries/{}", own_path(&webhook), event(1).id);
    assert_eq!(put(&gateway, &path, &[("command", "Resend")], &json!({})).await.status(), 200);
    caught_up(&gateway, &webhook).await;
    assert_eq!(all_held(&receiver), [vec![1, 2, 3], vec![1, 2, 3], vec![4, 5], vec![6]]);
    let calls = receiver.calls();
    assert_eq!((&calls[0].body, calls[0].header("webhook-id")), (&calls[1].body, calls[1].header("webhook-id")));
    assert_eq!(calls[1].header("x-tenant"), "b", "headers are the new ones");
}

#[tokio::test]
async fn the_events_of_an_exhausted_batch_are_dead_and_come_back_when_recovered() {
    let gateway = Gateway::start().await;
    let receiver = refusing(1, 400).await;
    let webhook = register(&gateway, draft(&receiver, &["20ms"])).await;
    gateway.append(events(1..=7)).await;
    let dead = wait_for_deliveries(&gateway, &webhook, "dead", 3).await;
    assert_eq!(numbers(&dead), [1, 2, 3]);
    assert!(dead.iter().all(|row| row["attempts"] == 2 && row["lastStatus"] == 400), "{dead:?}");
    wait_for("the others", || async { (receiver.calls().len() == 4).then_some(()) }).await;
    assert_eq!(all_held(&receiver), [vec![1, 2, 3], vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    receiver.now(ok);
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let replay = command_with(&gateway, &own_path(&webhook), "Recover", &since).await["replay"].clone();
    assert_eq!(replay["total"], 3);
    caught_up(&gateway, &webhook).await;
    let path = own_path(&webhook);
    wait_for("its end", || async { get(&gateway, &path).await["replay"].is_null().then_some(()) }).await;
    let again: Vec<Vec<i64>> = receiver
        .calls()
        .iter()
        .filter(|call| call.headers.get("webhook-replay").is_some_and(|id| *id == replay["id"].as_str().unwrap()))
        .map(held)
        .collect();
    assert_eq!(again, [vec![1, 2, 3]], "what was delivered is not sent again");
    assert!(deliveries(&gateway, &webhook, "dead").await.is_empty());
}

#[tokio::test]
async fn a_failing_batch_is_discarded_as_a_whole() {
    let gateway = Gateway::start().await;
    let receiver = refusing(1, 500).await;
    let webhook = register(&gateway, draft(&receiver, &["2h"])).await;
    gateway.append(events(1..=7)).await;
    wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    let path = format!("{}/deliveries/{}", own_path(&webhook), event(1).id);
    assert_eq!(put(&gateway, &path, &[("command", "Discard")], &json!({})).await.status(), 200);
    caught_up(&gateway, &webhook).await;
    assert_eq!(all_held(&receiver), [vec![1, 2, 3], vec![4, 5, 6], vec![7]]);
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "discarded").await), [1, 2, 3], "each is listed");
}

#[tokio::test]
async fn a_webhook_with_failing_events_may_become_a_batched_one_and_back() {
    for ordering in ["key", "none", "strict"] {
        let mut gateway = Gateway::start().await;
        let receiver = Receiver::start(|_| Answer::Status(500)).await;
        let retry = ["400ms"; 20];
        let single = json!({"url": receiver.url, "from": "beginning", "ordering": ordering, "retry": retry});
        let webhook = register(&gateway, single.clone()).await;
        let path = own_path(&webhook);
        gateway.append(events(1..=5)).await;
        let failing = if ordering == "strict" { 1 } else { 5 };
        wait_for_deliveries(&gateway, &webhook, "failing", failing).await;
        let mut batched = draft(&receiver, &retry);
        batched["ordering"] = ordering.into();
        for edited in [&batched, &single, &batched] {
            assert_eq!(put(&gateway, &path, &[], edited).await.status(), 200);
            let before = receiver.calls().len();
            receiver.wait(before + 2).await;
        }
        gateway.restart().await;
        receiver.now(ok);
        let before = receiver.calls().len();
        caught_up(&gateway, &webhook).await;
        let mut arrived: Vec<i64> = Vec::new();
        for call in &receiver.calls()[before..] {
            match call.body.starts_with(b"[") {
                true => arrived.extend(held(call)),
                false => arrived.push(call.number()),
            }
        }
        arrived.sort_unstable();
        arrived.dedup();
        assert_eq!(arrived, [1, 2, 3, 4, 5], "{ordering}");
    }
}
