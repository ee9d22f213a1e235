//! A receiver agrees before its first delivery: the handshake of CloudEvents, a challenge, or a callback later.
//!
//! One on this machine never has to, so receivers are called by `0.0.0.0`, which leads here and is no loopback address.

use serde_json::{Value, json};

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::webhooks::{
    caught_up, command, deliveries, get, numbers, ok, own_path, put, register, wait_for_deliveries, wait_for_status,
};
use crate::support::{Engine, Gateway, event, events, json, wait_for};

const CONFIG: &str = "[webhooks]\nallow = [\"0.0.0.0\"]\n";

async fn gateway() -> Gateway {
    Gateway::start_with(Engine::Sqlite, CONFIG).await
}

fn url_of(receiver: &Receiver) -> String {
    receiver.url.replace("127.0.0.1", "0.0.0.0")
}

fn is_options(call: &Call) -> bool {
    call.line.starts_with("OPTIONS ")
}

/// Answers the handshake with headers and everything else with 204.
fn granting(headers: &'static [(&'static str, &'static str)]) -> impl Fn(&Call) -> Answer + Send + Sync + 'static {
    move |call| match is_options(call) {
        true => {
            Answer::With(200, headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect(), String::new())
        }
        false => Answer::Status(204),
    }
}

fn refusing(_: &Call) -> Answer {
    Answer::Status(404)
}

/// What the challenge is, if the call is one.
fn challenge(call: &Call) -> Option<String> {
    let body: Value = serde_json::from_slice(&call.body).ok()?;
    let is_challenge = body["type"] == "postern.webhook.verification";
    is_challenge.then(|| body["challenge"].as_str().unwrap().to_owned())
}

/// Methods of the calls so far.
fn methods(receiver: &Receiver) -> Vec<String> {
    receiver.calls().iter().map(|call| call.line.split(' ').next().unwrap().to_owned()).collect()
}

/// The webhook once its receiver has answered.
async fn answered(gateway: &Gateway, webhook: &Value) -> Value {
    let path = own_path(webhook);
    wait_for("an answer", || async {
        let shown = get(gateway, &path).await;
        let is_asking = shown["statusReason"].as_str().is_some_and(|reason| reason.contains("being asked"));
        (!is_asking).then_some(shown)
    })
    .await
}

#[tokio::test]
async fn a_receiver_that_allows_the_origin_is_called_and_told_who_calls() {
    for allowed in [&[("webhook-allowed-origin", "*")], &[("webhook-allowed-origin", "127.0.0.1")]] {
        let gateway = gateway().await;
        let receiver = Receiver::start(granting(allowed)).await;
        gateway.append(events(1..=1)).await;
        let webhook = register(&gateway, json!({"url": url_of(&receiver), "from": "beginning"})).await;
        assert_eq!(webhook["status"], "pending");
        caught_up(&gateway, &webhook).await;
        let shown = get(&gateway, &own_path(&webhook)).await;
        assert_eq!((&shown["status"], &shown["statusReason"]), (&json!("active"), &Value::Null));
        let calls = receiver.calls();
        assert_eq!(methods(&receiver), ["OPTIONS", "POST"]);
        assert!(calls[0].body.is_empty() && !calls[0].headers.contains_key("webhook-request-rate"));
        assert!(calls[0].header("webhook-request-callback").starts_with(&gateway.url(&own_path(&webhook))));
        assert!(calls.iter().all(|call| call.header("webhook-request-origin") == "127.0.0.1"));
        assert!(!calls[1].headers.contains_key("webhook-request-callback"));
    }
}

#[tokio::test]
async fn a_receiver_that_knows_no_handshake_echoes_a_signed_challenge() {
    for bare in [true, false] {
        let gateway = gateway().await;
        let receiver = Receiver::start(move |call| match challenge(call) {
            Some(challenge) if bare => Answer::With(200, Vec::new(), format!("{challenge}\n")),
            Some(challenge) => Answer::With(201, Vec::new(), json!({"challenge": challenge}).to_string()),
            None => Answer::Status(if is_options(call) { 405 } else { 204 }),
        })
        .await;
        gateway.append(events(1..=1)).await;
        let auth = json!({"bearer": "tok"});
        let body = json!({"url": url_of(&receiver), "from": "beginning", "auth": auth});
        let webhook = register(&gateway, body).await;
        caught_up(&gateway, &webhook).await;
        assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "active");
        assert_eq!(methods(&receiver), ["OPTIONS", "POST", "POST"]);
        let calls = receiver.calls();
        assert!(challenge(&calls[1]).is_some_and(|challenge| challenge.len() >= 32));
        assert!(calls[1].verifies(webhook["secret"].as_str().unwrap()));
        assert!(calls.iter().all(|call| call.header("authorization") == "Bearer tok"));
        assert_eq!(calls[2].number(), 1);
    }
}

#[tokio::test]
async fn whoever_does_not_agree_gets_nothing_and_its_owner_learns_why() {
    let gateway = gateway().await;
    gateway.append(events(1..=3)).await;
    let other = granting(&[("webhook-allowed-origin", "127.0.0.1.attacker.example")]);
    let no_rate = granting(&[("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "0")]);
    for (receiver, told, asked) in [
        (Receiver::start(ok).await, "answered 204 without the challenge", 2),
        (Receiver::start(refusing).await, "answered 404 to the challenge", 2),
        (Receiver::start(|_| Answer::Status(302)).await, "answered 302 to the challenge", 2),
        (Receiver::start(other).await, "allows `127.0.0.1.attacker.example`, not 127.0.0.1", 1),
        (Receiver::start(no_rate).await, "neither a positive whole number nor `*`", 1),
    ] {
        let webhook = register(&gateway, json!({"url": url_of(&receiver), "from": "beginning"})).await;
        let shown = answered(&gateway, &webhook).await;
        assert_eq!(shown["status"], "pending");
        assert!(shown["statusReason"].as_str().unwrap().contains(told), "{shown}");
        assert_eq!(receiver.calls().len(), asked, "{told}");
        assert_eq!(numbers(&deliveries(&gateway, &webhook, "pending").await), [1, 2, 3]);
        let test = put(&gateway, &own_path(&webhook), &[("command", "Test")], &json!({})).await;
        assert_eq!(test.status(), 409);
        assert_eq!(receiver.calls().len(), asked, "not even a test");
    }
    let nobody = register(&gateway, json!({"url": "http://0.0.0.0:1/"})).await;
    let shown = answered(&gateway, &nobody).await;
    assert!(shown["statusReason"].as_str().unwrap().contains("connect"), "{shown}");
    assert_eq!(get(&gateway, "/webhooks?status=pending").await["items"].as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn nothing_is_lost_while_a_receiver_has_not_agreed() {
    let mut gateway = gateway().await;
    let receiver = Receiver::start(refusing).await;
    let webhook = register(&gateway, json!({"url": url_of(&receiver)})).await;
    answered(&gateway, &webhook).await;
    gateway.append(events(1..=5)).await;
    gateway.restart().await;
    gateway.append(events(6..=10)).await;
    assert!(receiver.calls().iter().all(|call| !call.headers.contains_key("webhook-key")));
    receiver.now(granting(&[("webhook-allowed-origin", "*")]));
    let verified = command(&gateway, &own_path(&webhook), "Verify").await;
    assert_eq!((&verified["status"], &verified["statusReason"]), (&json!("active"), &Value::Null));
    caught_up(&gateway, &webhook).await;
    let calls = receiver.calls();
    let mut delivered: Vec<i64> =
        calls.iter().filter(|call| call.headers.contains_key("webhook-key")).map(Call::number).collect();
    delivered.sort_unstable();
    assert_eq!(delivered, (1..=10).collect::<Vec<i64>>());
}

#[tokio::test]
async fn a_rate_that_was_wished_for_must_be_allowed_and_is_obeyed() {
    let gateway = gateway().await;
    let rate = json!({"max": 50, "per": "30s"});
    let silent = Receiver::start(granting(&[("webhook-allowed-origin", "*")])).await;
    let webhook = register(&gateway, json!({"url": url_of(&silent), "rate": rate})).await;
    let shown = answered(&gateway, &webhook).await;
    assert_eq!(shown["status"], "pending");
    assert!(shown["statusReason"].as_str().unwrap().contains("WebHook-Allowed-Rate"), "{shown}");
    assert_eq!(silent.calls()[0].header("webhook-request-rate"), "100", "calls a minute");

    let allowed = &[("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "3")];
    let receiver = Receiver::start(granting(allowed)).await;
    let beside = Receiver::start(granting(&[("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "*")])).await;
    let webhook = register(&gateway, json!({"url": url_of(&receiver), "rate": rate})).await;
    let free = register(&gateway, json!({"url": url_of(&beside), "rate": rate})).await;
    wait_for_status(&gateway, &webhook, "active").await;
    wait_for_status(&gateway, &free, "active").await;
    gateway.append(events(1..=10)).await;
    caught_up(&gateway, &free).await;
    receiver.wait(4).await;
    gateway.append(events(11..=20)).await;
    caught_up(&gateway, &free).await;
    assert_eq!(beside.calls().len(), 21);
    // Three in the first minute.
    assert_eq!(receiver.calls().len(), 4, "{:?}", methods(&receiver));
    wait_for_deliveries(&gateway, &webhook, "pending", 17).await;
}

#[tokio::test]
async fn a_receiver_may_agree_later_by_the_callback_and_once() {
    for method in [reqwest::Method::GET, reqwest::Method::POST] {
        let gateway = gateway().await;
        let receiver = Receiver::start(refusing).await;
        let webhook = register(&gateway, json!({"url": url_of(&receiver)})).await;
        answered(&gateway, &webhook).await;
        gateway.append(events(1..=2)).await;
        let callback = receiver.calls()[0].header("webhook-request-callback").to_owned();
        receiver.now(ok);
        let call = async |url: &str| {
            let called = gateway.client().request(method.clone(), url).send().await.unwrap();
            called.status().as_u16()
        };
        let without_key = callback.split('?').next().unwrap();
        assert_eq!((call(&format!("{callback}0")).await, call(without_key).await), (404, 404));
        assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "pending");
        assert_eq!(call(&callback).await, 200);
        caught_up(&gateway, &webhook).await;
        assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "active");
        assert_eq!(call(&callback).await, 404, "a key works once");
        assert_eq!(receiver.calls().len(), 4, "two questions, two events");
    }
}

#[tokio::test]
async fn the_key_of_an_earlier_question_agrees_to_nothing() {
    let gateway = gateway().await;
    let receiver = Receiver::start(refusing).await;
    let webhook = register(&gateway, json!({"url": url_of(&receiver)})).await;
    answered(&gateway, &webhook).await;
    let earlier = receiver.calls()[0].header("webhook-request-callback").to_owned();
    command(&gateway, &own_path(&webhook), "Verify").await;
    let later = receiver.calls()[2].header("webhook-request-callback").to_owned();
    assert_eq!(gateway.client().get(&earlier).send().await.unwrap().status(), 404);
    let with_rate = |rate: &str| gateway.client().post(&later).header("webhook-allowed-rate", rate).send();
    assert_eq!(with_rate("0").await.unwrap().status(), 400);
    assert_eq!(with_rate("2").await.unwrap().status(), 200);
    receiver.now(ok);
    gateway.append(events(1..=5)).await;
    // Four questions, and two calls in the first minute.
    receiver.wait(6).await;
    let witness = Receiver::start(granting(&[("webhook-allowed-origin", "*")])).await;
    let beside = register(&gateway, json!({"url": url_of(&witness), "from": "beginning"})).await;
    caught_up(&gateway, &beside).await;
    assert_eq!(receiver.calls().len(), 6);
}

#[tokio::test]
async fn a_changed_url_proves_itself_again_before_its_first_delivery() {
    let gateway = gateway().await;
    let first = Receiver::start(granting(&[("webhook-allowed-origin", "*")])).await;
    let second = Receiver::start(refusing).await;
    let webhook = register(&gateway, json!({"url": url_of(&first)})).await;
    let path = own_path(&webhook);
    wait_for_status(&gateway, &webhook, "active").await;
    gateway.append(events(1..=1)).await;
    caught_up(&gateway, &webhook).await;
    // An edit that leaves the URL asks nobody.
    let edited = put(&gateway, &path, &[], &json!({"url": url_of(&first), "description": "x"})).await;
    assert_eq!(json(edited).await["status"], "active");
    let moved = put(&gateway, &path, &[], &json!({"url": url_of(&second)})).await;
    assert_eq!((moved.status().as_u16(), &json(moved).await["status"]), (200, &json!("pending")));
    gateway.append(events(2..=2)).await;
    answered(&gateway, &webhook).await;
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "pending").await), [2]);
    assert_eq!((methods(&first).len(), methods(&second)), (2, vec!["OPTIONS".to_owned(), "POST".to_owned()]));
    second.now(granting(&[("webhook-allowed-origin", "*")]));
    assert_eq!(command(&gateway, &path, "Verify").await["status"], "active");
    caught_up(&gateway, &webhook).await;
    assert_eq!(second.calls().last().unwrap().header("webhook-id"), event(2).id);

    // One that is paused is asked when it goes on.
    command(&gateway, &path, "Pause").await;
    assert_eq!(put(&gateway, &path, &[], &json!({"url": url_of(&first)})).await.status(), 200);
    gateway.append(events(3..=3)).await;
    assert_eq!(get(&gateway, &path).await["status"], "paused");
    assert_eq!(first.calls().len(), 2);
    assert_eq!(command(&gateway, &path, "Resume").await["status"], "pending");
    caught_up(&gateway, &webhook).await;
    assert_eq!(methods(&first), ["OPTIONS", "POST", "OPTIONS", "POST"]);
}

#[tokio::test]
async fn a_question_leaves_no_trace_on_a_webhook_that_is_active_or_paused() {
    let gateway = gateway().await;
    let receiver = Receiver::start(granting(&[("webhook-allowed-origin", "*")])).await;
    let webhook = register(&gateway, json!({"url": url_of(&receiver)})).await;
    let path = own_path(&webhook);
    wait_for_status(&gateway, &webhook, "active").await;
    let verified = command(&gateway, &path, "Verify").await;
    assert_eq!((&verified["status"], &verified["statusReason"]), (&json!("active"), &Value::Null));
    let paused = command(&gateway, &path, "Pause").await;
    let verified = command(&gateway, &path, "Verify").await;
    assert_eq!((&verified["status"], &verified["statusReason"]), (&json!("paused"), &paused["statusReason"]));
}

#[tokio::test]
async fn an_owner_may_pause_what_is_being_asked() {
    let gateway = gateway().await;
    for _ in 0..5 {
        let receiver = Receiver::start(granting(&[("webhook-allowed-origin", "*")])).await;
        let webhook = register(&gateway, json!({"url": url_of(&receiver)})).await;
        assert_eq!(command(&gateway, &own_path(&webhook), "Pause").await["status"], "paused");
        receiver.wait(1).await;
        assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "paused");
    }
}

#[tokio::test]
async fn a_question_that_a_restart_interrupts_is_asked_again() {
    let mut gateway = gateway().await;
    let receiver = Receiver::start(|_| Answer::Hang).await;
    let webhook = register(&gateway, json!({"url": url_of(&receiver)})).await;
    receiver.wait(1).await;
    receiver.now(granting(&[("webhook-allowed-origin", "*")]));
    gateway.restart().await;
    wait_for_status(&gateway, &webhook, "active").await;
}

#[tokio::test]
async fn consent_is_asked_for_neither_on_this_machine_nor_where_it_is_off() {
    let receiver = Receiver::start(ok).await;
    let off = Gateway::start_with(Engine::Sqlite, &format!("{CONFIG}consent = \"off\"\n")).await;
    let webhook = register(&off, json!({"url": url_of(&receiver)})).await;
    assert_eq!(webhook["status"], "active");
    let required = Gateway::start().await;
    let webhook = register(&required, json!({"url": receiver.url})).await;
    assert_eq!(webhook["status"], "active");
    required.append(events(1..=1)).await;
    caught_up(&required, &webhook).await;
    assert_eq!(methods(&receiver), ["POST"]);
}
