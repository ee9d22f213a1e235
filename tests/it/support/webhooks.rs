//! What an owner of webhooks does over REST, and what it waits for.

use serde_json::{Value, json};

use super::receiver::{Answer, Call};
use super::{Gateway, json, number, wait_for};

/// Registers one and gives what was answered, its secret included.
pub async fn register(gateway: &Gateway, body: Value) -> Value {
    let response = gateway.post_json("/webhooks", &body).await;
    assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    json(response).await
}

pub async fn get(gateway: &Gateway, path: &str) -> Value {
    serde_json::from_str(&gateway.get_text(path).await).unwrap()
}

pub fn own_path(webhook: &Value) -> String {
    format!("/webhooks/{}", webhook["id"].as_str().unwrap())
}

pub async fn deliveries(gateway: &Gateway, webhook: &Value, status: &str) -> Vec<Value> {
    let path = format!("{}/deliveries?status={status}", own_path(webhook));
    get(gateway, &path).await["items"].as_array().unwrap().clone()
}

pub async fn put(gateway: &Gateway, path: &str, headers: &[(&str, &str)], body: &Value) -> reqwest::Response {
    let request = gateway.client().put(gateway.url(path)).header("content-type", "application/json");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(body.to_string()).send().await.unwrap()
}

/// A `Command` without arguments that is done.
pub async fn command(gateway: &Gateway, path: &str, command: &str) -> Value {
    command_with(gateway, path, command, &json!({})).await
}

/// The same with arguments.
pub async fn command_with(gateway: &Gateway, path: &str, command: &str, arguments: &Value) -> Value {
    let response = put(gateway, path, &[("command", command)], arguments).await;
    assert_eq!(response.status(), 200, "{command}: {}", response.text().await.unwrap());
    json(response).await
}

/// Which events these deliveries are, as `support::event` numbers them.
pub fn numbers(items: &[Value]) -> Vec<i64> {
    items.iter().map(|item| number(item["eventId"].as_str().unwrap())).collect()
}

/// Waits until so many deliveries have a status.
pub async fn wait_for_deliveries(gateway: &Gateway, webhook: &Value, status: &str, count: usize) -> Vec<Value> {
    wait_for(status, || async { Some(deliveries(gateway, webhook, status).await).filter(|all| all.len() == count) })
        .await
}

/// Waits until a webhook has a status.
pub async fn wait_for_status(gateway: &Gateway, webhook: &Value, status: &str) -> Value {
    let path = own_path(webhook);
    wait_for(status, || async { Some(get(gateway, &path).await).filter(|shown| shown["status"] == status) }).await
}

pub async fn caught_up(gateway: &Gateway, webhook: &Value) {
    let path = own_path(webhook);
    wait_for("the cursor to reach the head", || async {
        let shown = get(gateway, &path).await;
        (shown["lag"] == 0 && shown["undelivered"] == 0).then_some(())
    })
    .await;
}

pub fn ok(_: &Call) -> Answer {
    Answer::Status(204)
}

/// What a receiver that knows the public key (`whpk_…`) does.
pub fn verifies_publicly(call: &Call, key: &str) -> bool {
    use base64::Engine as _;
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    let key = decode(key.strip_prefix("whpk_").unwrap());
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, key);
    let (id, time) = (call.header("webhook-id"), call.header("webhook-timestamp"));
    let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &call.body].concat();
    let signatures = call.header("webhook-signature").split(' ').filter_map(|text| text.strip_prefix("v1a,"));
    signatures.map(decode).any(|signature| key.verify(&signed, &signature).is_ok())
}

/// HMAC-SHA256 with the text of a secret, in hex.
pub fn text_tag(secret: &str, signed: &[u8]) -> String {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    aws_lc_rs::hmac::sign(&key, signed).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
