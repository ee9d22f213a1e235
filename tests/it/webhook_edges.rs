//! Where two things meet at one webhook: a wish and a schedule, an edit and what failed before, an erasure and a held batch.

use std::time::Duration;

use serde_json::json;

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::webhooks::{
    caught_up, command, deliveries, get, numbers, own_path, put, register, wait_for_deliveries, wait_for_status,
};
use crate::support::{Engine, Gateway, event, events, wait_for};

fn ok(_: &Call) -> Answer {
    Answer::Status(204)
}

#[tokio::test]
async fn a_resend_that_fails_waits_for_its_schedule_again() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": vec!["1h"; 15]})).await;
    gateway.append(events(1..=1)).await;
    wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    let delivery = format!("{}/deliveries/{}", own_path(&webhook), event(1).id);
    assert_eq!(put(&gateway, &delivery, &[("command", "Resend")], &json!({})).await.status(), 200);
    receiver.wait(2).await;
    wait_for("the second failure to be stored", || async {
        (get(&gateway, &delivery).await["attempts"] == 2).then_some(())
    })
    .await;
    // Longer than a webhook looks for wishes by itself: it must not find the same one again.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(receiver.calls().len(), 2);
}

#[tokio::test]
async fn a_poison_event_does_not_keep_a_receiver_down_for_the_others() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(|call| Answer::Status(if call.number() == 1 { 500 } else { 200 })).await;
    let mut retry = vec!["10ms"; 12];
    retry.push("1h");
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": retry})).await;
    gateway.append(events(1..=1)).await;
    receiver.wait(13).await;
    gateway.append(events(2..=2)).await;
    wait_for("the event of another key", || async { receiver.numbers().contains(&2).then_some(()) }).await;
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "failing").await), [1]);
}

#[tokio::test]
async fn after_a_410_nothing_is_called_before_it_is_resumed() {
    let gateway = Gateway::start().await;
    let mut receivers = Vec::new();
    for _ in 0..8 {
        let receiver = Receiver::start(|_| Answer::Status(410)).await;
        let webhook = register(&gateway, json!({"url": receiver.url, "concurrency": 1})).await;
        receivers.push((receiver, webhook));
    }
    gateway.append(events(1..=5)).await;
    for (_, webhook) in &receivers {
        wait_for_status(&gateway, webhook, "disabled").await;
    }
    let calls: Vec<usize> = receivers.iter().map(|(receiver, _)| receiver.calls().len()).collect();
    assert_eq!(calls, [1; 8]);
}

#[tokio::test]
async fn what_failed_before_an_edit_of_the_ordering_goes_first_and_nothing_goes_twice() {
    let mut gateway = Gateway::start().await;
    let receiver = Receiver::start(|call| Answer::Status(if call.number() == 2 { 500 } else { 200 })).await;
    let body = |ordering: &str| json!({"url": receiver.url, "ordering": ordering, "retry": vec!["200ms"; 20]});
    let webhook = register(&gateway, body("key")).await;
    gateway.append(vec![event(1), event(2), event(12)]).await;
    wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    assert_eq!(put(&gateway, &own_path(&webhook), &[], &body("strict")).await.status(), 200);
    gateway.append(vec![event(22), event(23), event(32)]).await;
    let before = receiver.calls().len();
    receiver.wait(before + 2).await;
    gateway.restart().await;
    receiver.now(ok);
    caught_up(&gateway, &webhook).await;
    let numbers: Vec<i64> = receiver.numbers().into_iter().filter(|n| *n != 2).collect();
    assert_eq!(numbers, [1, 12, 22, 23, 32]);
}

#[tokio::test]
async fn an_erased_event_leaves_a_held_batch() {
    let gateway = Gateway::start_with(Engine::Sqlite, "").await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let body = json!({
        "url": receiver.url, "format": "cloudevents-batch", "batch": {"max": 3, "wait": "10s"}, "retry": [],
        "onExhausted": "hold_key",
    });
    let webhook = register(&gateway, body).await;
    gateway.append(events(1..=3)).await;
    wait_for_deliveries(&gateway, &webhook, "dead", 1).await;
    let erased = gateway.client().delete(gateway.url(&format!("/events/{}", event(2).id))).send().await.unwrap();
    assert_eq!(erased.status(), 204);
    receiver.now(ok);
    let before = receiver.calls().len();
    caught_up(&gateway, &webhook).await;
    let bodies: String =
        receiver.calls()[before..].iter().map(|call| String::from_utf8_lossy(&call.body).into_owned()).collect();
    assert!(bodies.contains("\"n\":1") && bodies.contains("\"n\":3") && !bodies.contains("\"n\":2"), "{bodies}");
}

#[tokio::test]
async fn nobody_is_tested_who_did_not_agree() {
    let config = "[webhooks]\nallow = [\"0.0.0.0\"]\n";
    let gateway = Gateway::start_with(Engine::Sqlite, config).await;
    let receiver = Receiver::start(|_| Answer::Status(404)).await;
    let url = receiver.url.replace("127.0.0.1", "0.0.0.0");
    let webhook = register(&gateway, json!({"url": url})).await;
    command(&gateway, &own_path(&webhook), "Pause").await;
    let refused = put(&gateway, &own_path(&webhook), &[("command", "Test")], &json!({})).await;
    assert_eq!(refused.status(), 409);
}

#[tokio::test]
async fn events_about_webhooks_are_found_by_their_ids_and_a_failing_call_for_one_is_listed() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let body = json!({"url": receiver.url, "filter": {"sources": ["postern"]}});
    let watcher = register(&gateway, body).await;
    let other = register(&gateway, json!({"url": "http://127.0.0.1:9/other"})).await;
    let failing = wait_for_deliveries(&gateway, &watcher, "failing", 1).await;
    let id = failing[0]["eventId"].as_str().unwrap();
    let shown = get(&gateway, &format!("/events/{id}")).await;
    assert_eq!((&shown["type"], &shown["aggregateId"]), (&json!("postern.webhook.created"), &other["id"]));
    let delivery = get(&gateway, &format!("{}/deliveries/{id}", own_path(&watcher))).await;
    assert_eq!(delivery["lastStatus"], 500);
}
