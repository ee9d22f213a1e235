//! The hub: subscribers verify, get the feed's new entries signed, renew, leave, and lose what they do not renew.

use serde_json::{Value, json};

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::{Engine, Gateway, event, events, json, wait_for};

/// A subscriber that confirms what it is asked, or does not.
async fn subscriber(confirms: bool) -> Receiver {
    Receiver::start(move |call| {
        let query = call.line.split_once('?').map_or("", |(_, query)| query);
        let challenge = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "hub.challenge");
        match challenge {
            Some((_, challenge)) if confirms => Answer::With(200, Vec::new(), challenge.into_owned()),
            Some(_) => Answer::Status(404),
            None => Answer::Status(200),
        }
    })
    .await
}

async fn ask(gateway: &Gateway, fields: &[(&str, &str)]) -> reqwest::Response {
    let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let request = gateway.client().post(gateway.url("/websub"));
    request.header("content-type", "application/x-www-form-urlencoded").body(form).send().await.unwrap()
}

async fn webhooks(gateway: &Gateway) -> Vec<Value> {
    let list = json(gateway.get("/webhooks").await).await;
    list["items"].as_array().unwrap().clone()
}

fn pings(receiver: &Receiver) -> Vec<Call> {
    receiver.calls().into_iter().filter(|call| call.line.starts_with("POST")).collect()
}

#[tokio::test]
async fn a_subscriber_gets_the_documents_of_new_entries_until_it_leaves() {
    let gateway = Gateway::start_with(
        Engine::Sqlite,
        "[[feed]]\nname = \"checked-out\"\nfilter = { types = [\"CheckedOut\"] }\n",
    )
    .await;
    let receiver = subscriber(true).await;
    gateway.append(events(1..=5)).await;
    let topic = gateway.url("/feeds/checked-out.atom");
    let head = gateway.get("/feeds/checked-out.atom").await;
    let links = head.headers()["link"].to_str().unwrap().to_owned();
    assert!(links.contains("/websub>; rel=\"hub\"") && links.contains("checked-out.atom>; rel=\"self\""), "{links}");
    assert!(head.text().await.unwrap().contains("<link rel=\"hub\" href=\""));
    let callback = format!("{}?own=1", receiver.url);
    let fields = [
        ("hub.mode", "subscribe"),
        ("hub.topic", topic.as_str()),
        ("hub.callback", callback.as_str()),
        ("hub.secret", "websub-secret"),
        ("hub.lease_seconds", "86400"),
        ("hub.extra", "ignored"),
    ];
    assert_eq!(ask(&gateway, &fields).await.status(), 202);
    wait_for("the subscription", || async { (webhooks(&gateway).await.len() == 1).then_some(()) }).await;
    let asked = &receiver.calls()[0].line;
    assert!(asked.starts_with("GET /hook?own=1&hub.mode=subscribe&hub.topic="), "{asked}");
    assert!(asked.contains("hub.lease_seconds=86400"));

    gateway.append(events(6..=20)).await;
    wait_for("three entries", || async {
        let text: String =
            pings(&receiver).iter().map(|call| String::from_utf8_lossy(&call.body).into_owned()).collect();
        [10, 15, 20].iter().all(|n| text.contains(&format!("urn:uuid:{}", event(*n).id))).then_some(())
    })
    .await;
    for call in pings(&receiver) {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"websub-secret");
        let tag = aws_lc_rs::hmac::sign(&key, &call.body);
        assert_eq!(call.header("x-hub-signature"), format!("sha256={}", postern::runtime::hex(tag.as_ref())));
        assert!(call.header("content-type").starts_with("application/atom+xml"));
        assert!(call.header("link").contains(&format!("<{topic}>; rel=\"self\"")), "{}", call.header("link"));
        assert!(call.header("link").contains("rel=\"hub\""));
        let body = String::from_utf8_lossy(&call.body);
        assert!(!body.contains("ItemAdded") && !body.contains(&event(5).id), "new ones of this feed: {body}");
    }
    // Once more: renewed, not doubled.
    let revision = |shown: &Value| shown["updatedAt"].clone();
    let before = revision(&webhooks(&gateway).await[0]);
    assert_eq!(ask(&gateway, &fields).await.status(), 202);
    wait_for("the renewal", || async { (revision(&webhooks(&gateway).await[0]) != before).then_some(()) }).await;
    assert_eq!(webhooks(&gateway).await.len(), 1);
    let leave = [("hub.mode", "unsubscribe"), ("hub.topic", topic.as_str()), ("hub.callback", callback.as_str())];
    assert_eq!(ask(&gateway, &leave).await.status(), 202);
    wait_for("nobody", || async { webhooks(&gateway).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn who_does_not_confirm_is_not_subscribed_and_bad_requests_say_why() {
    let gateway = Gateway::start().await;
    let receiver = subscriber(false).await;
    let topic = gateway.url("/feeds/all.json");
    let fields = [("hub.mode", "subscribe"), ("hub.topic", topic.as_str()), ("hub.callback", receiver.url.as_str())];
    assert_eq!(ask(&gateway, &fields).await.status(), 202);
    receiver.wait(1).await;
    assert!(webhooks(&gateway).await.is_empty());
    let long = "x".repeat(200);
    for (name, value, status) in [
        ("hub.mode", "publish", 400),
        ("hub.topic", "https://elsewhere.example/feed", 400),
        ("hub.callback", "not a url", 400),
        ("hub.callback", "https://10.0.0.1/", 422),
        ("hub.lease_seconds", "-1", 400),
        ("hub.secret", long.as_str(), 400),
    ] {
        let mut fields: Vec<(&str, &str)> = fields.iter().copied().filter(|(known, _)| *known != name).collect();
        fields.push((name, value));
        let refused = ask(&gateway, &fields).await;
        assert_eq!(refused.status(), status, "{name}={value}");
        assert!(json(refused).await["detail"].as_str().unwrap().contains("hub."), "{name}");
    }
    let wrong = gateway.post_json("/websub", &json!({})).await;
    assert_eq!(wrong.status(), 415);
}
