//! Webhooks through their doors: REST on one side, a receiver on the other.

use std::time::Duration;

use serde_json::json;

use postern::event::Event;

use crate::support::receiver::{Answer, Call, Receiver};
use crate::support::webhooks::{caught_up, deliveries, get, numbers, ok, own_path, put, register};
use crate::support::{Engine, Gateway, event, events, json, wait_for};

macro_rules! on_both_engines {
    ($($name:ident)*) => {
        mod sqlite { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Sqlite).await; })* }
        mod postgres { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Postgres).await; })* }
    };
}

#[tokio::test]
async fn what_must_not_be_sent_again_stays_out_of_a_catch_up() {
    let gateway = Gateway::start_with(Engine::Sqlite, "[events.ItemAdded]\nreplay = false\n").await;
    let receiver = Receiver::start(ok).await;
    gateway.append(events(1..=20)).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "from": "beginning"})).await;
    gateway.append(events(21..=40)).await;
    caught_up(&gateway, &webhook).await;
    let all = events(1..=40);
    let owed = all.iter().zip(1..).filter(|(event, n)| *n > 20 || event.r#type != "ItemAdded").map(|(_, n)| n);
    let mut called = receiver.numbers();
    called.sort_unstable();
    assert_eq!(called, owed.collect::<Vec<i64>>());
    assert!(called[0] <= 20 && called.len() < 40, "{called:?}");
}

on_both_engines! {
    every_matching_event_arrives_signed_once_and_in_order
    a_failing_event_holds_its_own_key_only_and_keeps_its_id_and_bytes
    what_is_used_up_is_dead_and_its_key_goes_on
    a_410_disables_and_the_refused_event_comes_first_after_resume
    a_restart_goes_on_where_it_was
    a_webhook_is_registered_shown_replaced_and_deleted
}

async fn every_matching_event_arrives_signed_once_and_in_order(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let receiver = Receiver::start(ok).await;
    gateway.append(events(1..=20)).await;
    let body = json!({"url": receiver.url, "from": "beginning", "filter": {"types": ["Item*"]}});
    let webhook = register(&gateway, body).await;
    gateway.append(events(21..=40)).await;
    let calls = receiver.wait(32).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!(receiver.calls().len(), 32, "each once");
    let secret = webhook["secret"].as_str().unwrap();
    let mut last = std::collections::HashMap::new();
    for call in &calls {
        assert!(call.verifies(secret));
        let n = call.number();
        let expected = event(n);
        assert_eq!(call.header("webhook-id"), expected.id);
        assert_eq!(call.header("webhook-key"), format!("Cart/{}", expected.aggregate_id));
        assert_eq!((call.header("webhook-attempt"), call.header("content-type")), ("1", "application/json"));
        assert!(call.header("user-agent").starts_with("Postern/"));
        let via = format!("-{}>; rel=\"via\"", call.header("webhook-sequence"));
        assert!(call.header("link").ends_with(&via), "{}", call.header("link"));
        let time = expected.occurred_at.to_text();
        assert_eq!(
            call.body,
            format!("{{\"type\":\"ItemAdded\",\"timestamp\":\"{time}\",\"data\":{}}}", expected.data)
        );
        assert!(last.insert(expected.aggregate_id, n).is_none_or(|before| before < n));
    }
    let delivered = deliveries(&gateway, &webhook, "delivered").await;
    assert_eq!(delivered.len(), 32);
    assert_eq!((&delivered[0]["status"], &delivered[0]["lastStatus"]), (&json!("delivered"), &json!(204)));
}

async fn a_failing_event_holds_its_own_key_only_and_keeps_its_id_and_bytes(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let receiver = Receiver::start(|call| match call.number() {
        3 => Answer::With(500, Vec::new(), "out of order\0".to_owned()),
        _ => Answer::Status(200),
    })
    .await;
    gateway.append(events(1..=40)).await;
    let body =
        json!({"url": receiver.url, "from": "beginning", "retry": ["1s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]});
    let webhook = register(&gateway, body).await;
    // Of ten keys the third is held: 13, 23 and 33 wait.
    receiver.wait(37).await;
    let path = format!("{}/deliveries", own_path(&webhook));
    let undelivered = wait_for("a row", || async {
        let shown = get(&gateway, &path).await;
        let items = shown["items"].as_array().unwrap();
        (items.len() == 4).then(|| items.clone())
    })
    .await;
    assert_eq!(numbers(&undelivered), [3, 13, 23, 33]);
    let failing = &undelivered[0];
    assert_eq!(failing["status"], "failing");
    assert_eq!((&failing["lastStatus"], &failing["lastError"]), (&json!(500), &json!("status")));
    assert!(failing["nextAttemptAt"].is_string() && failing["key"] == "Cart/cart-3");
    assert_eq!((&undelivered[1]["status"], &undelivered[1]["attempts"]), (&json!("pending"), &json!(0)));
    assert_eq!(numbers(&deliveries(&gateway, &webhook, "pending").await), [13, 23, 33]);
    let shown = get(&gateway, &own_path(&webhook)).await;
    assert_eq!((&shown["status"], &shown["undelivered"]), (&json!("active"), &json!(4)));
    receiver.now(ok);
    caught_up(&gateway, &webhook).await;
    let calls = receiver.calls();
    let key: Vec<i64> = calls.iter().filter(|c| c.header("webhook-key") == "Cart/cart-3").map(Call::number).collect();
    let order: Vec<i64> = key.iter().copied().skip_while(|n| *n == 3).collect();
    assert_eq!(order, [13, 23, 33], "in order and once: {key:?}");
    let third: Vec<&Call> = calls.iter().filter(|call| call.number() == 3).collect();
    assert!(third.len() >= 2 && third.iter().all(|call| call.body == third[0].body));
    assert!(third.iter().enumerate().all(|(n, call)| call.attempt() == n as i64 + 1));
    assert!(third.iter().all(|call| call.verifies(webhook["secret"].as_str().unwrap())));
    let shown = get(&gateway, &format!("{path}/{}", event(3).id)).await;
    assert_eq!((&shown["status"], &shown["log"][0]["answer"]), (&json!("delivered"), &json!("out of order\u{fffd}")));
    assert_eq!(shown["log"].as_array().unwrap().len(), third.len());
}

async fn what_is_used_up_is_dead_and_its_key_goes_on(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let receiver = Receiver::start(|call| Answer::Status(if call.number() == 2 { 400 } else { 200 })).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["20ms", "20ms"]})).await;
    gateway.append(events(1..=22)).await;
    let dead = wait_for("the dead one", || async {
        let dead = deliveries(&gateway, &webhook, "dead").await;
        let shown = get(&gateway, &own_path(&webhook)).await;
        (!dead.is_empty() && shown["lag"] == 0).then_some(dead)
    })
    .await;
    assert_eq!((numbers(&dead), &dead[0]["attempts"]), (vec![2], &json!(3)));
    receiver.wait(24).await;
    let key: Vec<i64> = receiver.numbers().into_iter().filter(|n| n % 10 == 2).collect();
    assert_eq!(key, [2, 2, 2, 12, 22]);
}

async fn a_410_disables_and_the_refused_event_comes_first_after_resume(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let receiver = Receiver::start(|call| Answer::Status(if call.number() == 4 { 410 } else { 200 })).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "concurrency": 1})).await;
    gateway.append(events(1..=30)).await;
    let path = own_path(&webhook);
    let shown = wait_for("the end", || async {
        let shown = get(&gateway, &path).await;
        (shown["status"] == "disabled").then_some(shown)
    })
    .await;
    assert!(shown["statusReason"].as_str().unwrap().contains(&event(4).id), "{shown}");
    assert_eq!(receiver.numbers(), [1, 2, 3, 4], "nothing after it");
    receiver.now(ok);
    let resumed = put(&gateway, &path, &[("command", "Resume")], &json!({})).await;
    assert_eq!((resumed.status().as_u16(), &json(resumed).await["status"]), (200, &json!("active")));
    caught_up(&gateway, &webhook).await;
    let sequences = receiver.numbers();
    assert_eq!(sequences[4], 4);
    let mut rest = sequences[5..].to_vec();
    rest.sort_unstable();
    assert_eq!(rest, (5..=30).collect::<Vec<i64>>());
}

async fn a_restart_goes_on_where_it_was(engine: Engine) {
    let mut gateway = Gateway::start_with(engine, "").await;
    let receiver = Receiver::start(|call| Answer::Status(if call.number() == 5 { 503 } else { 200 })).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["1s", "1s", "1s", "1s", "1s"]})).await;
    gateway.append(events(1..=15)).await;
    receiver.wait(14).await;
    gateway.restart().await;
    receiver.now(ok);
    gateway.append(events(16..=30)).await;
    caught_up(&gateway, &webhook).await;
    let mut sequences = receiver.numbers();
    let key: Vec<i64> = sequences.iter().copied().filter(|n| n % 10 == 5).skip_while(|n| *n == 5).collect();
    assert_eq!(key, [15, 25]);
    sequences.retain(|n| *n != 5);
    sequences.sort_unstable();
    assert_eq!(sequences, (1..=30).filter(|n| *n != 5).collect::<Vec<i64>>(), "a clean stop repeats nothing");
}

async fn a_webhook_is_registered_shown_replaced_and_deleted(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let response = gateway
        .post_json("/webhooks", &json!({"url": "http://127.0.0.1:9/x", "secret": secret, "description": "ä"}))
        .await;
    assert_eq!(response.status(), 201);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    let etag = response.headers()["etag"].to_str().unwrap().to_owned();
    let webhook = json(response).await;
    let path = own_path(&webhook);
    assert!(location.ends_with(&path));
    assert_eq!(webhook["secret"], secret);
    for (name, value) in
        [("format", "standard"), ("signature", "v1"), ("ordering", "key"), ("status", "active"), ("owner", "local")]
    {
        assert_eq!(webhook[name], value);
    }
    assert_eq!((&webhook["concurrency"], &webhook["retry"][0]), (&json!(8), &json!("5s")));
    // Its cursor passes what tells of its registration.
    let mut shown = wait_for("the same in the list", || async {
        let shown = get(&gateway, &path).await;
        (get(&gateway, "/webhooks").await["items"] == json!([shown])).then_some(shown)
    })
    .await;
    assert!(shown.get("secret").is_none());

    shown["filter"] = json!({"types": ["CheckedOut"]});
    let stale = put(&gateway, &path, &[("if-match", "\"r9\"")], &shown).await;
    assert_eq!(
        (stale.status().as_u16(), stale.headers()["content-type"].to_str().unwrap()),
        (412, "application/problem+json")
    );
    let replaced = put(&gateway, &path, &[("if-match", etag.as_str())], &shown).await;
    assert_eq!(replaced.status(), 200);
    assert_ne!(replaced.headers()["etag"].to_str().unwrap(), etag);
    assert_eq!(json(replaced).await["filter"], json!({"types": ["CheckedOut"]}));
    assert_eq!(put(&gateway, &path, &[], &json!({"description": "no url"})).await.status(), 400);
    let unknown = put(&gateway, &path, &[("command", "Explode")], &json!({})).await;
    assert_eq!(unknown.status(), 400);
    assert!(json(unknown).await["detail"].as_str().unwrap().contains("Pause, Resume, Verify"));

    let posted = gateway.post_json(&path, &json!({})).await;
    assert_eq!(posted.status(), 405);
    let allow = posted.headers()["allow"].to_str().unwrap();
    assert!(["GET", "PUT", "DELETE"].iter().all(|method| allow.contains(method)) && !allow.contains("POST"), "{allow}");
    let stale = gateway.client().delete(gateway.url(&path)).header("if-match", etag).send().await.unwrap();
    assert_eq!(stale.status(), 412);
    assert_eq!(gateway.client().delete(gateway.url(&path)).send().await.unwrap().status(), 204);
    assert_eq!(gateway.get(&path).await.status(), 404);
    assert_eq!(get(&gateway, "/webhooks").await, json!({"items": [], "next": null}));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let gateway = Gateway::start().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let webhook = register(&gateway, json!({"url": format!("http://127.0.0.1:9/{n}")})).await;
        ids.push(webhook["id"].clone());
    }
    let (mut url, mut seen) = (gateway.url("/webhooks?limit=2"), Vec::new());
    while !url.is_empty() {
        let page = json(gateway.client().get(&url).send().await.unwrap()).await;
        seen.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].clone()));
        url = page["next"].as_str().unwrap_or_default().to_owned();
    }
    assert_eq!(seen, ids);
    for bad in ["limit=0", "limit=x", "status=odd", "colour=red"] {
        assert_eq!(gateway.get(&format!("/webhooks?{bad}")).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn what_may_not_be_called_is_refused_at_registration() {
    let gateway = Gateway::start().await;
    for (body, status, slug) in [
        (json!({"url": "http://10.0.0.1/x"}), 422, "forbidden-address"),
        (json!({"url": "https://169.254.169.254/x"}), 422, "forbidden-address"),
        (json!({"url": "http://8.8.8.8/x"}), 422, "forbidden-address"),
        (json!({"url": "https://user:secret@8.8.8.8/x"}), 422, "unprocessable"),
        (json!({"url": "ftp://127.0.0.1/x"}), 422, "unprocessable"),
        (json!({"url": "http://127.0.0.1/x", "format": "xml"}), 422, "unprocessable"),
        (json!({"url": "http://127.0.0.1/x", "from": {"after": "no-such-event"}}), 422, "unprocessable"),
        (json!([]), 400, "bad-request"),
    ] {
        let response = gateway.post_json("/webhooks", &body).await;
        assert_eq!(response.status(), status, "{body}");
        let problem = json(response).await;
        assert!(problem["type"].as_str().unwrap().ends_with(slug), "{body} {problem}");
    }
    let plain = gateway.client().post(gateway.url("/webhooks")).body("{}").send().await.unwrap();
    assert_eq!(plain.status(), 415);
}

#[tokio::test]
async fn a_client_sees_and_gets_its_own_only() {
    let clients = [
        ("erp", "\"webhooks\"", ""),
        ("crm", "\"webhooks\"", "events = { types = [\"CheckedOut\"] }"),
        ("reader", "\"read\"", ""),
        ("boss", "\"webhooks\", \"admin\"", ""),
    ];
    let mut config = String::new();
    let mut tokens = std::collections::HashMap::new();
    for (name, scopes, more) in clients {
        let (token, hash) = postern::web::auth::new_token();
        config.push_str(&format!(
            "[[client]]\nname = \"{name}\"\ntoken_hash = \"{hash}\"\nscopes = [{scopes}]\n{more}\n"
        ));
        tokens.insert(name, token);
    }
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    let receiver = Receiver::start(ok).await;
    let call = |name: &str, method: reqwest::Method, path: &str| {
        gateway
            .client()
            .request(method, gateway.url(path))
            .bearer_auth(&tokens[name])
            .header("content-type", "application/json")
    };
    let body = json!({"url": receiver.url}).to_string();
    let created = call("crm", reqwest::Method::POST, "/webhooks").body(body.clone()).send().await.unwrap();
    let webhook = json(created).await;
    let path = own_path(&webhook);
    for (name, status) in [("crm", 200), ("erp", 404), ("boss", 200), ("reader", 403)] {
        let response = call(name, reqwest::Method::GET, &path).send().await.unwrap();
        assert_eq!(response.status(), status, "{name}");
    }
    let foreign = call("erp", reqwest::Method::DELETE, &path).send().await.unwrap();
    let unknown = call("erp", reqwest::Method::DELETE, "/webhooks/none").send().await.unwrap();
    assert_eq!((foreign.status(), unknown.status()), (unknown.status(), 404.try_into().unwrap()));
    let list = json(call("erp", reqwest::Method::GET, "/webhooks").send().await.unwrap()).await;
    assert_eq!(list["items"], json!([]));
    assert_eq!(call("reader", reqwest::Method::POST, "/webhooks").body(body).send().await.unwrap().status(), 403);
    gateway.append(events(1..=20)).await;
    let calls = receiver.wait(4).await;
    assert_eq!(calls.iter().map(Call::number).collect::<Vec<_>>(), [5, 10, 15, 20], "only what it may see");
}

#[tokio::test]
async fn a_client_that_may_see_less_now_reads_nothing_of_what_failed_before() {
    let (token, hash) = postern::web::auth::new_token();
    let client = format!("[[client]]\nname = \"erp\"\ntoken_hash = \"{hash}\"\nscopes = [\"webhooks\"]\n");
    let mut gateway = Gateway::start_with(Engine::Sqlite, &client).await;
    let receiver = Receiver::start(|_| Answer::Status(500)).await;
    let call = |gateway: &Gateway, method: reqwest::Method, path: &str| {
        let request = gateway.client().request(method, gateway.url(path)).bearer_auth(&token);
        request.header("content-type", "application/json")
    };
    let body = json!({"url": receiver.url, "from": "beginning", "retry": ["2h"]}).to_string();
    let created = call(&gateway, reqwest::Method::POST, "/webhooks").body(body).send().await.unwrap();
    let path = format!("{}/deliveries", own_path(&json(created).await));
    // Carts of their own, so that each is tried: two of the types that stay visible, and one that does not.
    gateway.append(events(4..=6)).await;
    let shown = async |gateway: &Gateway| {
        let shown = json(call(gateway, reqwest::Method::GET, &path).send().await.unwrap()).await;
        numbers(shown["items"].as_array().unwrap())
    };
    wait_for("three failures", || async { (receiver.calls().len() == 3).then_some(()) }).await;
    wait_for("three rows", || async { (shown(&gateway).await == [4, 5, 6]).then_some(()) }).await;
    gateway.reconfigure(&format!("{client}events = {{ types = [\"ItemAdded\"] }}\n")).await;
    assert_eq!(shown(&gateway).await, [4, 6]);
}

#[tokio::test]
async fn an_event_that_an_edit_takes_away_leaves_its_attempts_to_nobody() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(|call| match call.number() {
        1 => Answer::Status(500),
        _ => Answer::Status(204),
    })
    .await;
    let of_one_cart = |n, r#type: &str| Event { r#type: r#type.to_owned(), aggregate_id: "one".to_owned(), ..event(n) };
    gateway.append(vec![of_one_cart(1, "First"), of_one_cart(2, "Second")]).await;
    let retry = json!(["250ms", "250ms", "250ms", "250ms", "250ms", "250ms", "250ms", "250ms", "250ms", "250ms"]);
    let body = json!({"url": receiver.url, "from": "beginning", "retry": retry});
    let webhook = register(&gateway, body).await;
    receiver.wait(2).await;
    let body = json!({"url": receiver.url, "filter": {"types": ["Second"]}, "retry": retry});
    assert_eq!(put(&gateway, &own_path(&webhook), &[], &body).await.status(), 200);
    caught_up(&gateway, &webhook).await;
    let calls = receiver.calls();
    let second: Vec<i64> = calls.iter().filter(|call| call.number() == 2).map(Call::attempt).collect();
    assert_eq!(second, [1]);
}

#[tokio::test]
async fn retry_after_is_kept_and_redirects_are_never_followed() {
    let gateway = Gateway::start().await;
    let trap = Receiver::start(ok).await;
    let to = trap.url.clone();
    let receiver = Receiver::start(move |call| match (call.number(), call.attempt()) {
        (1, 1) => Answer::With(503, vec![("retry-after", "2".to_owned())], String::new()),
        (2, 1) => Answer::With(302, vec![("location", to.clone())], String::new()),
        _ => Answer::Status(200),
    })
    .await;
    let webhook = register(&gateway, json!({"url": receiver.url, "retry": ["10ms"]})).await;
    gateway.append(events(1..=2)).await;
    let calls = receiver.wait(4).await;
    let first: Vec<&Call> = calls.iter().filter(|call| call.number() == 1).collect();
    assert!(first[1].at.duration_since(first[0].at) >= Duration::from_secs(2));
    caught_up(&gateway, &webhook).await;
    assert!(trap.calls().is_empty());
    let shown = get(&gateway, &format!("{}/deliveries/{}", own_path(&webhook), event(2).id)).await;
    assert_eq!((&shown["log"][0]["error"], &shown["log"][0]["status"]), (&json!("redirect"), &json!(302)));
}

#[tokio::test]
async fn faults_have_their_class_and_endless_answers_an_end() {
    let config = "[webhooks]\nallow = [\"127.0.0.1\"]\nconsent = \"off\"\n";
    let gateway = Gateway::start_with(Engine::Sqlite, config).await;
    let large = Receiver::start(|_| Answer::With(200, Vec::new(), "x".repeat(200_000))).await;
    let mut webhooks = Vec::new();
    for (url, class) in [
        ("http://127.0.0.1:1/".to_owned(), "connect"),
        (large.url.clone(), "too_large"),
        (large.url.replace("http:", "https:"), "tls"),
        ("https://no-such-host.invalid/".to_owned(), "dns"),
    ] {
        webhooks.push((register(&gateway, json!({"url": url, "from": "beginning"})).await, class));
    }
    gateway.append(events(1..=1)).await;
    for (webhook, class) in webhooks {
        let failing =
            wait_for(class, || async { deliveries(&gateway, &webhook, "failing").await.into_iter().next() }).await;
        assert_eq!(failing["lastError"], class);
        assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "failing", "nothing was taken since");
        let shown = get(&gateway, &format!("{}/deliveries/{}", own_path(&webhook), event(1).id)).await;
        assert!(shown["log"][0]["answer"].as_str().unwrap_or_default().len() <= 4096);
    }
}

#[tokio::test]
async fn paused_means_later_and_a_hanging_receiver_holds_nobody_else() {
    let gateway = Gateway::start().await;
    let hanging = Receiver::start(|_| Answer::Hang).await;
    let receiver = Receiver::start(ok).await;
    register(&gateway, json!({"url": hanging.url, "from": "beginning"})).await;
    let webhook = register(&gateway, json!({"url": receiver.url, "from": "beginning"})).await;
    let path = own_path(&webhook);
    assert_eq!(put(&gateway, &path, &[("command", "Pause")], &json!({})).await.status(), 200);
    hanging.wait(0).await;
    gateway.append(events(1..=50)).await;
    hanging.wait(8).await;
    let shown = get(&gateway, &path).await;
    assert_eq!((&shown["status"], receiver.calls().len()), (&json!("paused"), 0));
    let resumed = put(&gateway, &path, &[("command", "Resume")], &json!({})).await;
    assert_eq!(resumed.status(), 200);
    receiver.wait(50).await;
    caught_up(&gateway, &webhook).await;
    assert_eq!((hanging.calls().len(), receiver.calls().len()), (8, 50));
}

#[tokio::test]
async fn secrets_are_sealed_with_a_key_of_its_own_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut gateway = Gateway::start_with(Engine::Sqlite, "[webhooks]\nallow = [\"127.0.0.1\"]\n").await;
    let receiver = Receiver::start(ok).await;
    let webhook = register(&gateway, json!({"url": receiver.url})).await;
    let key = gateway.dir.path().join("postern.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    gateway.restart().await;
    gateway.append(events(1..=1)).await;
    let secret = webhook["secret"].as_str().unwrap();
    assert!(receiver.wait(1).await[0].verifies(secret));
    for file in std::fs::read_dir(gateway.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(20).any(|part| part == &secret.as_bytes()[6..26]));
    }
}
