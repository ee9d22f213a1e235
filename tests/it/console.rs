//! The console, through its pages and forms as a browser without scripts uses them.

use postern::event::Event;
use postern::web::auth::new_token;
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};

use crate::sources::{OFTEN, configuration, insert, table};
use crate::support::receiver::{Answer, Receiver};
use crate::support::webhooks::{get, ok, own_path, register, wait_for_deliveries, wait_for_status};
use crate::support::{Engine, Gateway, event, events, run, wait_for};

/// Sends a form as a browser does from a page of the gateway.
async fn send(gateway: &Gateway, path: &str, body: &str) -> reqwest::Response {
    let request = gateway.client().post(gateway.url(path)).header("sec-fetch-site", "same-origin");
    request.header("content-type", "application/x-www-form-urlencoded").body(body.to_owned()).send().await.unwrap()
}

/// The same for a command that leads back to a page; gives that page.
async fn command(gateway: &Gateway, path: &str, body: &str) -> String {
    let response = send(gateway, path, body).await;
    let (status, location) = (response.status(), response.headers().get("location").cloned());
    assert_eq!(status, 303, "{body}: {}", response.text().await.unwrap());
    gateway.get_text(location.unwrap().to_str().unwrap()).await
}

async fn webhook_to(gateway: &Gateway, url: &str) -> serde_json::Value {
    register(gateway, json!({ "url": url, "from": "beginning", "retry": ["1h"] })).await
}

#[tokio::test]
async fn every_page_answers_as_html_that_loads_nothing_from_elsewhere() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        pages_of(Gateway::start_with(engine, "").await).await;
    }
}

async fn pages_of(gateway: Gateway) {
    gateway.append(events(1..=60)).await;
    let receiver = Receiver::start(ok).await;
    let webhook = webhook_to(&gateway, &receiver.url).await;
    receiver.wait(60).await;
    wait_for_deliveries(&gateway, &webhook, "delivered", 50).await;
    let (webhook, event) = (own_path(&webhook), event(1).id);
    for path in [
        "/console".to_owned(),
        "/console/sources".to_owned(),
        "/console/events".to_owned(),
        format!("/console/events/{event}"),
        "/console/feeds".to_owned(),
        "/console/webhooks".to_owned(),
        format!("/console{webhook}"),
        format!("/console{webhook}?show=delivered"),
        format!("/console{webhook}/deliveries/{event}"),
        "/console/clients".to_owned(),
    ] {
        let response = gateway.get(&path).await;
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(response.headers()["cache-control"], "no-store", "{path}");
        let html = response.text().await.unwrap();
        assert!(html.contains("<html lang=\"en\">") && html.contains("</html>"), "{path}");
        assert!(!html.contains(" style=") && !html.contains(" onclick"), "{path}");
    }
    let overview = gateway.get_text("/console").await;
    let style = overview.split('"').find(|text| text.contains("console.css")).unwrap();
    assert_eq!(gateway.get(style).await.headers()["content-type"], "text/css; charset=utf-8");
    let docs = gateway.get("/docs").await;
    assert_eq!(
        (docs.status().as_u16(), &docs.headers()["content-type"]),
        (200, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert!(docs.text().await.unwrap().contains("POST /webhooks"));
    for path in ["/console/events/nothing", "/console/sources/nothing", "/console/webhooks/nothing"] {
        let response = gateway.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"), "{path}");
    }
}

#[tokio::test]
async fn only_admins_come_in_and_see_no_more_than_they_may() {
    let ((admin, admin_hash), (other, other_hash)) = (new_token(), new_token());
    let config = format!(
        "[[client]]\nname = \"ops\"\ntoken_hash = {admin_hash:?}\nscopes = [\"admin\", \"read\", \"webhooks\"]\n\
         events = {{ types = [\"CheckedOut\"] }}\n\
         [[client]]\nname = \"erp\"\ntoken_hash = {other_hash:?}\nscopes = [\"read\", \"webhooks\", \"push:billing\"]\n"
    );
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    gateway.append(events(1..=10)).await;
    let ask = |path: &str, token: &str| gateway.client().get(gateway.url(path)).bearer_auth(token).send();
    for path in ["/console", "/console/events", "/console/clients", "/console/stream", "/console/assets/console.js"] {
        assert_eq!(gateway.get(path).await.status(), 401, "{path}");
        let refused = ask(path, &other).await.unwrap();
        assert_eq!(refused.status(), 403, "{path}");
        assert!(refused.text().await.unwrap().contains("lacks the scope `admin`"), "{path}");
    }
    let journal = ask("/console/events", &admin).await.unwrap().text().await.unwrap();
    assert!(journal.contains("CheckedOut") && !journal.contains("ItemAdded"));
    assert_eq!(ask(&format!("/console/events/{}", event(1).id), &admin).await.unwrap().status(), 404);
    assert_eq!(ask(&format!("/console/events/{}", event(5).id), &admin).await.unwrap().status(), 200);
    let clients = ask("/console/clients", &admin).await.unwrap().text().await.unwrap();
    assert!(clients.contains("push:billing") && !clients.contains(&other_hash) && !clients.contains("sha256"));
}

#[tokio::test]
async fn forms_of_other_pages_are_refused() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    let webhook = webhook_to(&gateway, &receiver.url).await;
    let path = format!("/console{}", own_path(&webhook));
    let host = gateway.url("");
    for (name, value, status) in [
        ("x-nothing", "", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("sec-fetch-site", "none", 403),
        ("origin", "null", 403),
        ("origin", "https://attacker.example", 403),
        ("origin", host.as_str(), 303),
    ] {
        let request = gateway.client().post(gateway.url(&path)).header(name, value).body("command=Pause");
        assert_eq!(request.send().await.unwrap().status(), status, "{name}: {value}");
    }
    assert_eq!(get(&gateway, &own_path(&webhook)).await["status"], "paused");
}

#[tokio::test]
async fn buttons_of_a_webhook_do_what_they_say() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=3)).await;
    let receiver = Receiver::start(|_| Answer::With(500, Vec::new(), "<script>alert(1)</script>".to_owned())).await;
    let webhook = webhook_to(&gateway, &receiver.url).await;
    let failing = wait_for_deliveries(&gateway, &webhook, "failing", 3).await;
    let path = format!("/console{}", own_path(&webhook));

    let page = gateway.get_text(&path).await;
    assert!(page.contains("HTTP 500") && page.contains(">Discard"));
    assert!(!page.contains("<script>alert") && page.contains("&lt;script&gt;alert"));
    assert!(gateway.get_text("/console").await.contains("1 webhook is failing"));

    let first = format!("{path}/deliveries/{}", failing[0]["eventId"].as_str().unwrap());
    assert!(command(&gateway, &first, "command=Discard").await.contains("given up"));
    wait_for_deliveries(&gateway, &webhook, "discarded", 1).await;
    receiver.now(ok);
    let second = format!("{path}/deliveries/{}", failing[1]["eventId"].as_str().unwrap());
    command(&gateway, &second, "command=Resend").await;
    wait_for_deliveries(&gateway, &webhook, "delivered", 1).await;

    assert!(command(&gateway, &path, "command=Pause").await.contains("is paused"));
    wait_for_status(&gateway, &webhook, "paused").await;
    assert!(command(&gateway, &path, "command=Resume").await.contains("goes on"));
    wait_for_status(&gateway, &webhook, "active").await;

    let before = receiver.calls().len();
    let test = send(&gateway, &path, "command=Test").await;
    assert_eq!(test.status(), 200);
    assert!(test.text().await.unwrap().contains("delivered"));
    assert_eq!(receiver.calls().len(), before + 1);

    let rotated = send(&gateway, &path, "command=RotateSecret").await;
    assert_eq!(rotated.headers()["cache-control"], "no-store");
    assert!(rotated.text().await.unwrap().contains("whsec_"));
    assert!(!gateway.get_text(&path).await.contains("whsec_"));

    assert!(command(&gateway, &path, "command=Replay&from=beginning").await.contains("being sent again"));
    receiver.wait(before + 4).await;
    for (body, status) in [("command=Nonsense", 400), ("command=Replay&from=since&since=soon", 400), ("", 400)] {
        let refused = send(&gateway, &path, body).await;
        assert_eq!(refused.status(), status, "{body}");
        assert!(refused.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    }
}

#[tokio::test]
async fn quarantined_rows_are_tried_again_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    let mut connection = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
    run!(
        connection,
        "pragma journal_mode = wal",
        table(Engine::Sqlite),
        insert("a", "1", 1),
        insert("b", "1", 2),
        insert("c", "1", 3)
    );
    run!(connection, "update tb_cart_event set payload = '<script>' where event_id <> 'a'");
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&url, OFTEN)).await;
    let page = wait_for("the quarantine", || async {
        Some(gateway.get_text("/console/sources/cart").await)
            .filter(|page| page.matches("value=\"Retry\"").count() == 3)
    })
    .await;
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
    assert!(gateway.get_text("/console").await.contains("2 quarantined rows"));

    let rows: Vec<&str> =
        page.split('"').filter(|text| text.starts_with("/console/sources/cart/quarantine/")).collect();
    let still_bad = send(&gateway, rows[0], "command=Retry").await;
    assert_eq!(still_bad.status(), 422);
    run!(connection, "update tb_cart_event set payload = '{}' where event_id = 'b'");
    assert!(command(&gateway, rows[0], "command=Retry").await.contains("is in the journal"));
    let page = command(&gateway, "/console/sources/cart/quarantine", "command=Discard").await;
    assert!(page.contains("Rows that left the quarantine: 1.") && page.contains("Empty."), "{page}");
}

#[tokio::test]
async fn the_journal_is_searched_page_by_page() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=120)).await;
    let hostile = Event {
        id: "cart:<script>alert(1)</script>".to_owned(),
        r#type: "\"><img src=x>".to_owned(),
        aggregate_id: "</td><b>'".to_owned(),
        data: r#"{"n":12345678901234567890123,"html":"</pre><script>alert(1)</script>"}"#.to_owned(),
        ..event(121)
    };
    gateway.append(vec![hostile.clone()]).await;
    let (mut path, mut found) = ("/console/events?type=ItemAdded".to_owned(), 0);
    loop {
        let page = gateway.get_text(&path).await;
        found += page.matches(">ItemAdded</a>").count();
        let Some(next) = page.split("rel=\"next\" href=\"").nth(1) else { break };
        path = next.split('"').next().unwrap().replace("&amp;", "&");
    }
    assert_eq!(found, 96);
    let count = |html: String| html.matches("href=\"/console/events/").count();
    let of = |query: &'static str| {
        let path = format!("/console/events?{query}");
        let gateway = &gateway;
        async move { gateway.get_text(&path).await }
    };
    assert_eq!(count(of("aggregate=Cart/cart-3").await), 12);
    assert_eq!(count(of("aggregate=Cart/*&type=CheckedOut").await), 24);
    assert_eq!(count(of("since=2026-01-01T01:58&order=oldest").await), 4);
    let wrong = gateway.get("/console/events?since=soon").await;
    assert_eq!(wrong.status(), 400);
    assert!(wrong.text().await.unwrap().contains("is no time"));
    let found = gateway.get(&format!("/console/events?id={}", event(7).id)).await;
    assert_eq!(found.headers()["location"], format!("/console/events/{}", event(7).id));
    assert_eq!(gateway.get("/console/events?id=7").await.headers()["location"], found.headers()["location"]);

    for path in ["/console/events".to_owned(), format!("/console/events/{}", postern::event::escape(&hostile.id))] {
        let page = gateway.get_text(&path).await;
        assert!(!page.contains("<script>alert") && !page.contains("<img src=x") && !page.contains("<b>'"), "{page}");
        assert!(path == "/console/events" || page.contains("12345678901234567890123"), "{page}");
    }
}

#[tokio::test]
async fn the_gateways_own_events_are_found_by_name() {
    let gateway = Gateway::start().await;
    let receiver = Receiver::start(ok).await;
    register(&gateway, json!({ "url": receiver.url })).await;
    let page = gateway.get_text("/console/events?source=postern").await;
    let link = page.split('"').find(|text| text.starts_with("/console/events/") && !text.contains('?')).unwrap();
    assert!(gateway.get_text(link).await.contains("postern.webhook.created"));
}

#[tokio::test]
async fn open_pages_are_told_of_changes_until_the_gateway_stops() {
    let mut gateway = Gateway::start().await;
    let mut stream = gateway.get("/console/stream").await;
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    gateway.append(events(1..=1)).await;
    let mut told = String::new();
    while !told.contains("data: 1\n") {
        told += std::str::from_utf8(&stream.chunk().await.unwrap().expect("more to come")).unwrap();
    }
    assert!(told.contains("event: change"));
    gateway.restart().await;
    while let Ok(Some(_)) = stream.chunk().await {}
}
