//! What an owner does with a webhook and its deliveries beside editing it: commands, previews, several at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postern::event::Event;
use serde_json::{Value, json};

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::webhooks::{
    caught_up, command, command_with, deliveries, get, numbers, ok, own_path, put, register, wait_for_deliveries,
    wait_for_status,
};
use crate::support::{Engine, Gateway, event, events, json, wait_for};

/// A receiver that refuses some events with 500 until it is told otherwise.
async fn refusing(refused: &'static [i64]) -> Receiver {
    Receiver::start(move |call| Answer::Status(if refused.contains(&call.number()) { 500 } else { 204 })).await
}

fn delivery_path(webhook: &Value, n: i64) -> String {
    format!("{}/deliveries/{}", own_path(webhook), event(n).id)
}

async fn delivery(gateway: &Gateway, webhook: &Value, n: i64) -> Value {
    get(gateway, &delivery_path(webhook, n)).await
}

/// What the command of a delivery is answered with.
async fn of_delivery(gateway: &Gateway, webhook: &Value, n: i64, command: &str) -> u16 {
    put(gateway, &delivery_path(webhook, n), &[("command", command)], &json!({})).await.status().as_u16()
}

/// Of one of the ten carts, in the order of the calls.
fn of_cart(receiver: &Receiver, cart: i64) -> Vec<i64> {
    receiver.numbers().into_iter().filter(|n| n % 10 == cart).collect()
}

async fn wait_for_no_replay(gateway: &Gateway, webhook: &Value) {
    let path = own_path(webhook);
    wait_for("the replay's end", || async { get(gateway, &path).await["replay"].is_null().then_some(()) }).await;
}

#[tokio::test]
async fn pause_and_resume_keep_everything() {
    let mut gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    let webhook = register(&gateway, json!({"url": receiver.url})).await;
    let path = own_path(&webhook);
    gateway.append(events(1..=5)).await;
    caught_up(&gateway, &webhook).await;
    let paused = command(&gateway, &path, "Pause").await;
    assert_eq!((&paused["status"], &paused["statusReason"]), (&json!("paused"), &json!("paused by its owner")));
    gateway.append(events(6..=10)).await;
    gateway.restart().await;
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "pending").await), [6, 7, 8, 9, 10]);
    assert_eq!(get(&gateway, &path).await["status"], "paused");
    let replay = put(&gateway, &path, &[("command", "Replay")], &json!({"from": "beginning"})).await;
    assert_eq!(replay.status(), 409, "nothing is sent while it is paused");
    assert_eq!(receiver.calls().len(), 5);
    assert_eq!(command(&gateway, &path, "Resume").await["status"], "active");
    assert_eq!(command(&gateway, &path, "Resume").await["status"], "active", "a second one changes nothing");
    caught_up(&gateway, &webhook).await;
    let mut called = receiver.numbers();
    called.sort_unstable();
    assert_eq!(called, (1..=10).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_old_one_until_its_grace_ends() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    let webhook = register(&gateway, json!({"url": receiver.url})).await;
    let path = own_path(&webhook);
    let etag = gateway.get(&path).await.headers()["etag"].clone();
    let rotated = put(&gateway, &path, &[("command", "RotateSecret")], &json!({"grace": "1h"})).await;
    assert_eq!(rotated.status(), 200);
    assert_ne!(rotated.headers()["etag"], etag);
    let rotated = json(rotated).await;
    assert!(rotated["oldSecretUntil"].is_string());
    let (old, new) = (webhook["secret"].as_str().unwrap(), rotated["secret"].as_str().unwrap());
    assert!(new.starts_with("whsec_") && new != old);
    assert!(!gateway.get_text(&path).await.contains("whsec_"), "shown once");
    gateway.append(events(1..=1)).await;
    let first = &receiver.wait(1).await[0];
    assert!(first.verifies(old) && first.verifies(new));
    assert_eq!(first.header("webhook-signature").matches("v1,").count(), 2);

    let stale = put(&gateway, &path, &[("command", "RotateSecret"), ("if-match", "\"r1\"")], &json!({})).await;
    assert_eq!(stale.status(), 412);
    let given = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let rotated = command_with(&gateway, &path, "RotateSecret", &json!({"grace": "0s", "secret": given})).await;
    assert_eq!(rotated["secret"], given);
    gateway.append(events(2..=2)).await;
    let second = &receiver.wait(2).await[1];
    assert!(second.verifies(given) && !second.verifies(old) && !second.verifies(new));
    for (arguments, status) in
        [(json!({"grace": "8d"}), 422), (json!({"secret": "short"}), 422), (json!({"colour": "red"}), 400)]
    {
        let refused = put(&gateway, &path, &[("command", "RotateSecret")], &arguments).await;
        assert_eq!(refused.status(), status, "{arguments}");
    }
}

#[tokio::test]
async fn a_test_is_one_call_whose_answer_is_shown() {
    let gateway = Gateway::start().await;
    for format in ["standard", "cloudevents", "cloudevents-binary", "cloudevents-batch", "thin"] {
        let receiver = Receiver::start(|_| Answer::With(202, Vec::new(), "thanks".to_owned())).await;
        let body = json!({"url": receiver.url, "format": format, "filter": {"types": ["NoSuchType"]}});
        let webhook = register(&gateway, body).await;
        let told = command(&gateway, &own_path(&webhook), "Test").await;
        assert_eq!(
            (&told["delivered"], &told["status"], &told["answer"]),
            (&json!(true), &json!(202), &json!("thanks"))
        );
        assert_eq!((&told["error"], told["durationMs"].is_i64()), (&Value::Null, true));
        let calls = receiver.calls();
        assert_eq!(calls.len(), 1);
        assert!(calls[0].verifies(webhook["secret"].as_str().unwrap()));
        assert_eq!(calls[0].header("webhook-id"), told["eventId"].as_str().unwrap());
        let text = String::from_utf8_lossy(&calls[0].body).into_owned();
        let r#type = calls[0].headers.get("ce-type").map_or(text.clone(), |value| value.to_str().unwrap().to_owned());
        assert!(r#type.contains("postern.webhook.test"), "{format}: {text}");
        assert!(serde_json::from_str::<Value>(&text).is_ok(), "{format}: {text}");
        let shown = get(&gateway, &own_path(&webhook)).await;
        assert_eq!((&shown["undelivered"], &shown["status"]), (&json!(0), &json!("active")));
    }
}

#[tokio::test]
async fn a_test_that_fails_tells_why_and_leaves_nothing_behind() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(|_| Answer::With(418, Vec::new(), "teapot".to_owned())).await;
    let webhook = register(&gateway, json!({"url": receiver.url})).await;
    let path = own_path(&webhook);
    let told = command(&gateway, &path, "Test").await;
    assert_eq!((&told["delivered"], &told["status"], &told["answer"]), (&json!(false), &json!(418), &json!("teapot")));
    assert_eq!(told["error"], "status");
    caught_up(&gateway, &webhook).await;
    assert_eq!(get(&gateway, &format!("{path}/deliveries")).await["items"], json!([]));
    assert_eq!(get(&gateway, &path).await["status"], "active");
    assert_eq!(receiver.calls().len(), 1, "it is not repeated");
}

#[tokio::test]
async fn a_replay_sends_the_same_ids_and_bytes_again_and_says_so() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let gateway = Gateway::start_with(engine, "[events.CheckedOut]\nreplay = false\n").await;
        let receiver = Receiver::start(ok).await;
        let webhook = register(&gateway, json!({"url": receiver.url, "filter": {"sources": ["cart"]}})).await;
        let path = own_path(&webhook);
        gateway.append(events(1..=30)).await;
        caught_up(&gateway, &webhook).await;
        let some = json!({"from": {"after": event(10).id}, "to": {"after": event(14).id}});
        let replay = command_with(&gateway, &path, "Replay", &some).await["replay"].clone();
        assert_eq!((&replay["kind"], &replay["total"]), (&json!("replay"), &json!(4)));
        wait_for_no_replay(&gateway, &webhook).await;
        let calls = receiver.calls();
        let (first, again) = calls.split_at(30);
        let first: HashMap<i64, &Call> = first.iter().map(|call| (call.number(), call)).collect();
        let mut numbers: Vec<i64> = again.iter().map(Call::number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [11, 12, 13, 14]);
        for call in again {
            assert_eq!(call.header("webhook-replay"), replay["id"].as_str().unwrap());
            assert_eq!(call.body, first[&call.number()].body);
            assert!(call.verifies(webhook["secret"].as_str().unwrap()));
        }
        command_with(&gateway, &path, "Replay", &json!({"from": "beginning"})).await;
        wait_for_no_replay(&gateway, &webhook).await;
        let mut numbers: Vec<i64> = receiver.numbers().split_off(34);
        numbers.sort_unstable();
        let owed: Vec<i64> = (1..=30).filter(|n| event(*n).r#type != "CheckedOut").collect();
        assert_eq!(numbers, owed, "what may not be sent again is not");
        assert!(first.values().all(|call| !call.headers.contains_key("webhook-replay")));
        for (arguments, status) in
            [(json!({}), 400), (json!({"from": "yesterday"}), 422), (json!({"from": {"after": "none"}}), 422)]
        {
            let refused = put(&gateway, &path, &[("command", "Replay")], &arguments).await;
            assert_eq!(refused.status(), status, "{arguments}");
        }
    }
}

#[tokio::test]
async fn one_replay_runs_at_a_time_and_ends_when_its_owner_wants() {
    let mut gateway = Gateway::start().await;
    let is_open = Arc::new(AtomicBool::new(true));
    let open = Arc::clone(&is_open);
    // Replays are refused until then, so that they last.
    let receiver = Receiver::start(move |call| {
        let is_refused = call.headers.contains_key("webhook-replay") && open.load(Ordering::Relaxed);
        Answer::Status(if is_refused { 500 } else { 204 })
    })
    .await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["2h"]})).await;
    let path = own_path(&webhook);
    gateway.append(events(1..=3)).await;
    caught_up(&gateway, &webhook).await;
    let replay = command_with(&gateway, &path, "Replay", &json!({"from": "beginning"})).await["replay"].clone();
    receiver.wait(6).await;
    let second = put(&gateway, &path, &[("command", "Replay")], &json!({"from": "beginning"})).await;
    assert_eq!(second.status(), 409);
    assert!(json(second).await["detail"].as_str().unwrap().contains("CancelReplay"));
    gateway.restart().await;
    assert_eq!(get(&gateway, &path).await["replay"]["id"], replay["id"]);
    // The live lane goes on beside it.
    gateway.append(events(4..=4)).await;
    wait_for("the live one", || async { receiver.numbers().contains(&4).then_some(()) }).await;
    assert_eq!(command(&gateway, &path, "CancelReplay").await["replay"], Value::Null);
    is_open.store(false, Ordering::Relaxed);
    let again = command_with(&gateway, &path, "Replay", &json!({"from": {"after": event(2).id}})).await;
    assert_ne!(again["replay"]["id"], replay["id"]);
    wait_for_no_replay(&gateway, &webhook).await;
    let of_second: Vec<i64> = receiver
        .calls()
        .iter()
        .filter(|call| call.headers.get("webhook-replay").is_some_and(|id| *id != replay["id"].as_str().unwrap()))
        .map(Call::number)
        .collect();
    assert_eq!(of_second.len(), 2, "{of_second:?}");
    assert!(of_second.contains(&3) && of_second.contains(&4));
}

#[tokio::test]
async fn what_is_dead_is_recovered_and_listed_as_delivered() {
    let gateway = Gateway::start().await;
    let receiver = refusing(&[2, 5]).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["20ms"]})).await;
    let path = own_path(&webhook);
    gateway.append(events(1..=12)).await;
    let dead = wait_for_deliveries(&gateway, &webhook, "dead", 2).await;
    assert_eq!(numbers(&dead), [2, 5]);
    receiver.wait(14).await;
    let refused: Vec<Call> = receiver.calls().into_iter().filter(|call| [2, 5].contains(&call.number())).collect();
    receiver.now(ok);
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let replay = command_with(&gateway, &path, "Recover", &since).await["replay"].clone();
    assert_eq!((&replay["kind"], &replay["total"]), (&json!("recover"), &json!(2)));
    wait_for_no_replay(&gateway, &webhook).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(get(&gateway, &format!("{path}/deliveries")).await["items"], json!([]));
    let calls = receiver.calls();
    assert_eq!(calls.len(), 16, "nothing else is sent again");
    for call in &calls[14..] {
        let before = refused.iter().find(|before| before.number() == call.number()).unwrap();
        assert_eq!((&call.body, call.header("webhook-replay")), (&before.body, replay["id"].as_str().unwrap()));
    }
    let shown = delivery(&gateway, &webhook, 2).await;
    assert_eq!((&shown["status"], shown["log"].as_array().unwrap().len()), (&json!("delivered"), 3), "{shown}");
    assert_eq!(deliveries(&gateway, &webhook, "delivered").await.len(), 12);
    assert_eq!(command_with(&gateway, &path, "Recover", &since).await["replay"]["total"], 0);
    let missing = put(&gateway, &path, &[("command", "Recover")], &json!({})).await;
    assert_eq!(missing.status(), 400);
}

#[tokio::test]
async fn what_is_failing_dead_or_delivered_is_sent_again_when_asked_for() {
    let gateway = Gateway::start().await;
    let receiver = refusing(&[2, 3]).await;
    let failing = register(&gateway, json!({"url": receiver.url, "retry": ["2h"], "description": "failing"})).await;
    gateway.append(events(1..=13)).await;
    wait_for_deliveries(&gateway, &failing, "failing", 2).await;
    receiver.now(ok);
    assert_eq!(of_delivery(&gateway, &failing, 12, "Resend").await, 409, "it was not tried yet");
    assert_eq!(of_delivery(&gateway, &failing, 2, "Resend").await, 200);
    wait_for("its key", || async { (of_cart(&receiver, 2) == [2, 2, 12]).then_some(()) }).await;
    wait_for_deliveries(&gateway, &failing, "failing", 1).await;
    let shown = delivery(&gateway, &failing, 2).await;
    assert_eq!((&shown["status"], &shown["attempts"]), (&json!("delivered"), &json!(2)));

    let receiver = refusing(&[2]).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "from": "beginning", "retry": ["20ms"]})).await;
    wait_for_deliveries(&gateway, &webhook, "dead", 1).await;
    receiver.wait(14).await;
    receiver.now(ok);
    let before = receiver.calls();
    for n in [2, 7] {
        assert_eq!(of_delivery(&gateway, &webhook, n, "Resend").await, 200);
        wait_for_no_replay(&gateway, &webhook).await;
        let last = receiver.calls().pop().unwrap();
        assert_eq!(last.number(), n);
        assert!(last.headers.contains_key("webhook-replay"));
        assert!(before.iter().filter(|call| call.number() == n).all(|call| call.body == last.body));
        assert_eq!(delivery(&gateway, &webhook, n).await["status"], "delivered");
    }
    assert_eq!(get(&gateway, &format!("{}/deliveries", own_path(&webhook))).await["items"], json!([]));
    assert_eq!(receiver.calls().len(), 16);
    let nobodys = format!("{}/deliveries/no-such-event", own_path(&webhook));
    assert_eq!(put(&gateway, &nobodys, &[("command", "Resend")], &json!({})).await.status(), 404);
}

#[tokio::test]
async fn what_is_discarded_is_given_up_and_its_key_goes_on() {
    let gateway = Gateway::start().await;
    let receiver = refusing(&[2]).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["2h"]})).await;
    gateway.append(events(1..=22)).await;
    wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    assert_eq!(of_delivery(&gateway, &webhook, 2, "Discard").await, 200);
    caught_up(&gateway, &webhook).await;
    assert_eq!(of_cart(&receiver, 2), [2, 12, 22]);
    let shown = delivery(&gateway, &webhook, 2).await;
    assert_eq!((&shown["status"], &shown["nextAttemptAt"]), (&json!("discarded"), &Value::Null));
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "discarded").await), [2]);

    let receiver = refusing(&[2]).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "from": "beginning", "retry": ["20ms"]})).await;
    wait_for_deliveries(&gateway, &webhook, "dead", 1).await;
    receiver.wait(23).await;
    assert_eq!(of_delivery(&gateway, &webhook, 2, "Discard").await, 200);
    caught_up(&gateway, &webhook).await;
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "discarded").await), [2]);
    assert_eq!(of_delivery(&gateway, &webhook, 3, "Discard").await, 409, "it was delivered");
    let since = json!({"since": "2026-01-01T00:00:00Z"});
    let recovered = command_with(&gateway, &own_path(&webhook), "Recover", &since).await;
    assert_eq!(recovered["replay"]["total"], 0, "it is given up");
}

#[tokio::test]
async fn a_delivery_knows_two_commands() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    let webhook = register(&gateway, json!({"url": receiver.url})).await;
    gateway.append(events(1..=1)).await;
    wait_for_deliveries(&gateway, &webhook, "delivered", 1).await;
    let path = delivery_path(&webhook, 1);
    for headers in [&[("command", "Explode")][..], &[]] {
        let refused = put(&gateway, &path, headers, &json!({})).await;
        assert_eq!(refused.status(), 400);
        assert!(json(refused).await["detail"].as_str().unwrap().ends_with("Resend, Discard"));
    }
    assert_eq!(gateway.post_json(&path, &json!({})).await.status(), 405);
}

#[tokio::test]
async fn a_held_key_waits_until_its_dead_event_is_resent_or_discarded() {
    for (wish, calls) in [("Resend", vec![2, 2, 2, 12, 22]), ("Discard", vec![2, 2, 12, 22])] {
        let mut gateway = Gateway::start().await;
        let receiver = refusing(&[2]).await;
        let body = json!({"url": receiver.url, "retry": ["20ms"], "onExhausted": "hold_key"});
        let webhook = register(&gateway, body).await;
        gateway.append(events(1..=22)).await;
        wait_for_deliveries(&gateway, &webhook, "dead", 1).await;
        receiver.wait(21).await;
        wait_for_deliveries(&gateway, &webhook, "pending", 2).await;
        gateway.restart().await;
        assert_eq!(numbers(&deliveries(&gateway, &webhook, "dead").await), [2]);
        assert_eq!(numbers(&deliveries(&gateway, &webhook, "pending").await), [12, 22]);
        // Others go on.
        gateway.append(events(23..=31)).await;
        wait_for("the others", || async { (receiver.calls().len() == 30).then_some(()) }).await;
        receiver.now(ok);
        assert_eq!(of_delivery(&gateway, &webhook, 2, wish).await, 200);
        caught_up(&gateway, &webhook).await;
        assert_eq!(of_cart(&receiver, 2), calls, "{wish}");
    }
}

#[tokio::test]
async fn an_exhausted_event_can_pause_its_webhook_and_comes_first_when_it_is_resumed() {
    let gateway = Gateway::start().await;
    let receiver = refusing(&[4]).await;
    let body = json!({"url": receiver.url, "retry": ["20ms"], "onExhausted": "pause", "concurrency": 1});
    let webhook = register(&gateway, body).await;
    gateway.append(events(1..=20)).await;
    let paused = wait_for_status(&gateway, &webhook, "paused").await;
    assert!(paused["statusReason"].as_str().unwrap().contains(&event(4).id), "{paused}");
    let before = receiver.calls().len();
    gateway.append(events(21..=30)).await;
    receiver.now(ok);
    command(&gateway, &own_path(&webhook), "Resume").await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(receiver.numbers()[before], 4);
    assert_eq!(of_cart(&receiver, 4), [4, 4, 4, 14, 24]);
    let mut once: Vec<i64> = receiver.numbers().into_iter().filter(|n| *n != 4).collect();
    once.sort_unstable();
    assert_eq!(once, (1..=30).filter(|n| *n != 4).collect::<Vec<i64>>());
}

#[tokio::test]
async fn in_strict_order_everything_waits_for_a_failing_event() {
    let gateway = Gateway::start().await;
    let receiver = refusing(&[5]).await;
    let body = json!({"url": receiver.url, "ordering": "strict", "retry": ["2h"]});
    let webhook = register(&gateway, body).await;
    gateway.append(events(1..=20)).await;
    wait_for_deliveries(&gateway, &webhook, "failing", 1).await;
    wait_for_deliveries(&gateway, &webhook, "pending", 15).await;
    assert_eq!(receiver.numbers(), [1, 2, 3, 4, 5]);
    receiver.now(ok);
    assert_eq!(of_delivery(&gateway, &webhook, 5, "Resend").await, 200);
    caught_up(&gateway, &webhook).await;
    let order: Vec<i64> = (1..=5).chain(5..=20).collect();
    assert_eq!(receiver.numbers(), order);
}

#[tokio::test]
async fn without_an_order_nothing_waits_for_a_failing_event() {
    let gateway = Gateway::start().await;
    let receiver = refusing(&[5]).await;
    let of_one_cart = |n| Event { aggregate_id: "one".to_owned(), ..event(n) };
    let webhook = register(&gateway, json!({"url": receiver.url, "ordering": "none", "retry": ["2h"]})).await;
    gateway.append((1..=20).map(of_one_cart).collect()).await;
    wait_for_deliveries(&gateway, &webhook, "delivered", 19).await;
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "failing").await), [5]);
    assert!(deliveries(&gateway, &webhook, "pending").await.is_empty());
    receiver.now(ok);
    assert_eq!(of_delivery(&gateway, &webhook, 5, "Resend").await, 200);
    caught_up(&gateway, &webhook).await;
    assert_eq!(receiver.calls().len(), 21);
}

#[tokio::test]
async fn a_preview_shows_the_request_and_calls_nobody() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    gateway.append(events(1..=20)).await;
    let draft = json!({
        "url": receiver.url, "filter": {"types": ["CheckedOut"]}, "headers": {"x-tenant": "a", "x-api-key": "k"},
        "auth": {"bearer": "tok"},
    });
    let shown = json(gateway.post_json("/webhooks/preview", &draft).await).await;
    assert_eq!((&shown["examined"], &shown["matched"]), (&json!(20), &json!(4)));
    let request = &shown["request"];
    assert_eq!((&request["method"], &request["url"]), (&json!("POST"), &json!(receiver.url)));
    for (name, value) in [
        ("webhook-id", event(20).id.as_str()),
        ("webhook-key", "Cart/cart-0"),
        ("x-tenant", "a"),
        ("x-api-key", "***"),
        ("authorization", "***"),
        ("content-type", "application/json"),
    ] {
        assert_eq!(request["headers"][name], value, "{name}");
    }
    assert!(request["headers"]["webhook-signature"].as_str().unwrap().starts_with("v1,"));
    let time = event(20).occurred_at.to_text();
    let body = format!("{{\"type\":\"CheckedOut\",\"timestamp\":\"{time}\",\"data\":{}}}", event(20).data);
    assert_eq!(request["body"], body);
    let none = json!({"url": receiver.url, "filter": {"types": ["NoSuchType"]}});
    let none = json(gateway.post_json("/webhooks/preview", &none).await).await;
    assert_eq!((&none["matched"], &none["request"]), (&json!(0), &Value::Null));
    assert!(receiver.calls().is_empty());
    assert_eq!(get(&gateway, "/webhooks").await["items"], json!([]));
}

#[tokio::test]
async fn a_preview_shows_the_very_bytes_of_each_format() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=1)).await;
    for format in ["standard", "cloudevents", "cloudevents-binary", "cloudevents-batch", "thin"] {
        let receiver = Receiver::start(ok).await;
        let draft = json!({"url": receiver.url, "format": format, "from": "beginning"});
        let shown = json(gateway.post_json("/webhooks/preview", &draft).await).await["request"].clone();
        register(&gateway, draft).await;
        let call = receiver.wait(1).await.remove(0);
        assert_eq!(shown["body"], String::from_utf8_lossy(&call.body).into_owned(), "{format}");
        let of_attempt = ["webhook-id", "webhook-signature", "webhook-timestamp"];
        for (name, value) in shown["headers"].as_object().unwrap() {
            if !of_attempt.contains(&name.as_str()) {
                assert_eq!(value, call.header(name), "{format}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn the_same_registration_again_is_the_same_webhook() {
    let gateway = Gateway::start().await;
    let post = async |key: &str, body: &Value| {
        let request = gateway.client().post(gateway.url("/webhooks")).header("idempotency-key", key);
        request.header("content-type", "application/json").body(body.to_string()).send().await.unwrap()
    };
    let body = json!({"url": "http://127.0.0.1:9/"});
    let first = post("k1", &body).await;
    let (status, etag) = (first.status(), first.headers()["etag"].clone());
    let first = json(first).await;
    let again = post("k1", &body).await;
    assert_eq!((status.as_u16(), again.status().as_u16()), (201, 201));
    assert_eq!(again.headers()["etag"], etag);
    let again = json(again).await;
    assert_eq!((&again["id"], &again["secret"]), (&first["id"], &first["secret"]));
    let other = json!({"url": "http://127.0.0.1:9/other"});
    assert_eq!(post("k1", &other).await.status(), 422);
    assert_eq!(post("", &other).await.status(), 400);
    assert_ne!(json(post("k2", &body).await).await["id"], first["id"]);
    assert_eq!(get(&gateway, "/webhooks").await["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn registrations_with_one_key_at_the_same_time_make_one_webhook() {
    let gateway = Gateway::start().await;
    let body = json!({"url": "http://127.0.0.1:9/"}).to_string();
    let posts = (0..8).map(|_| {
        let request = gateway.client().post(gateway.url("/webhooks")).header("idempotency-key", "k");
        let request = request.header("content-type", "application/json").body(body.clone());
        tokio::spawn(async move { request.send().await.unwrap() })
    });
    let posts: Vec<_> = posts.collect();
    let mut ids = Vec::new();
    for post in posts {
        let response = post.await.unwrap();
        assert_eq!(response.status(), 201);
        ids.push(json(response).await["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(get(&gateway, "/webhooks").await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn several_are_replaced_together_or_not_at_all() {
    let gateway = Gateway::start().await;
    let mut items = Vec::new();
    for n in 0..2 {
        let webhook = register(&gateway, json!({"url": format!("http://127.0.0.1:9/{n}")})).await;
        let mut shown = get(&gateway, &own_path(&webhook)).await;
        shown["description"] = format!("edited {n}").into();
        items.push(shown);
    }
    let descriptions = async || -> Vec<Value> {
        let list = get(&gateway, "/webhooks").await;
        list["items"].as_array().unwrap().iter().map(|item| item["description"].clone()).collect()
    };
    let second = |name: &str, value: Value| {
        let mut second = items[1].clone();
        second[name] = value;
        json!({"items": [items[0], second]})
    };
    for (body, status) in [
        (second("format", json!("xml")), 422),
        (second("url", json!("http://10.0.0.1/")), 422),
        (second("id", json!("no-such-webhook")), 404),
        (second("id", items[0]["id"].clone()), 400),
        (json!({}), 400),
        (json!({"items": [1]}), 400),
    ] {
        assert_eq!(put(&gateway, "/webhooks", &[], &body).await.status(), status, "{body}");
        assert_eq!(descriptions().await, [Value::Null, Value::Null]);
    }
    let replaced = put(&gateway, "/webhooks", &[], &json!({"items": items})).await;
    assert_eq!(replaced.status(), 200);
    let replaced = json(replaced).await;
    assert_eq!((&replaced["items"][1]["description"], &replaced["next"]), (&json!("edited 1"), &Value::Null));
    assert_eq!(descriptions().await, ["edited 0", "edited 1"]);
}

#[tokio::test]
async fn deleting_the_collection_deletes_ones_own_only() {
    let mut config = String::new();
    let mut tokens = Vec::new();
    for (name, scopes) in [("erp", "\"webhooks\""), ("boss", "\"webhooks\", \"admin\"")] {
        let (token, hash) = postern::web::auth::new_token();
        config.push_str(&format!("[[client]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\nscopes = [{scopes}]\n"));
        tokens.push(token);
    }
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    let call = |method: reqwest::Method, path: &str, token: &str, body: String| {
        let request = gateway.client().request(method, gateway.url(path)).bearer_auth(token);
        request.header("content-type", "application/json").body(body).send()
    };
    let body = || json!({"url": "http://127.0.0.1:9/"}).to_string();
    for token in &tokens {
        let created = call(reqwest::Method::POST, "/webhooks", token, body()).await.unwrap();
        assert_eq!(created.status(), 201);
    }
    let count = async |token: &str| {
        let list = json(call(reqwest::Method::GET, "/webhooks", token, String::new()).await.unwrap()).await;
        list["items"].as_array().unwrap().len()
    };
    assert_eq!((count(&tokens[0]).await, count(&tokens[1]).await), (1, 2));
    let deleted = call(reqwest::Method::DELETE, "/webhooks", &tokens[1], String::new()).await.unwrap();
    assert_eq!(deleted.status(), 204);
    assert_eq!((count(&tokens[0]).await, count(&tokens[1]).await), (1, 1), "an administrator's own ones, too");
}

#[tokio::test]
async fn unknown_commands_and_methods_are_refused() {
    let gateway = Gateway::start().await;
    let webhook = register(&gateway, json!({"url": "http://127.0.0.1:9/"})).await;
    let path = own_path(&webhook);
    let known = "Pause, Resume, Verify, RotateSecret, Test, Replay, Recover, CancelReplay";
    let client = gateway.client();
    for request in [
        client.put(gateway.url(&path)).header("command", "Explode"),
        client.put(gateway.url("/webhooks")).header("command", "Pause"),
        client.post(gateway.url("/webhooks")).header("command", "Pause"),
        client.delete(gateway.url("/webhooks")).header("command", "Pause"),
        client.delete(gateway.url(&path)).header("command", "Pause"),
    ] {
        let refused = request.header("content-type", "application/json").body("{}").send().await.unwrap();
        assert_eq!(refused.status(), 400);
        let problem = json(refused).await;
        assert!(problem["detail"].as_str().unwrap().contains(known), "{problem}");
    }
    for (path, allowed) in [(path.clone(), "PUT"), (format!("{path}/deliveries"), "GET")] {
        let refused = gateway.post_json(&path, &json!({})).await;
        assert_eq!(refused.status(), 405);
        assert!(refused.headers()["allow"].to_str().unwrap().contains(allowed), "{path}");
    }
    assert_eq!(get(&gateway, &path).await["status"], "active");
}
