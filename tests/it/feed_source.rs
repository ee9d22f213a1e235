//! Feeds as sources: another gateway's, and those of foreign servers, which answer here as a test tells them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use postern::catalogue::Catalogue;
use postern::source;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::support::{Engine, Gateway, entries, event, events, json, wait_for};

const OFTEN: &str = "poll = { fixed_delay = \"20ms\" }";

fn partner(feed: &str, more: &str) -> String {
    format!("[[source]]\nname = \"partner\"\nfeed = {feed:?}\n{more}\n")
}

async fn ids(gateway: &Gateway) -> Vec<String> {
    entries(gateway).await.into_iter().map(|entry| entry.event.id).collect()
}

async fn until_there(gateway: &Gateway, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|id| format!("partner:{id}")).collect();
    wait_for(&format!("{expected:?}"), || async { (ids(gateway).await == expected).then_some(()) }).await;
}

async fn until_count(gateway: &Gateway, count: i64) {
    let head = || async { gateway.app().journal().head().await.unwrap().position };
    wait_for(&format!("{count} events"), || async { (head().await >= count).then_some(()) }).await;
}

async fn state(gateway: &Gateway) -> Value {
    json(gateway.get("/sources/partner").await).await
}

/// Waits until the source says what is wrong.
async fn until_wrong(gateway: &Gateway, part: &str) -> String {
    wait_for(part, || async {
        let error = state(gateway).await["lastError"].as_str().unwrap_or_default().to_owned();
        error.contains(part).then_some(error)
    })
    .await
}

async fn until_healthy(gateway: &Gateway) -> Value {
    wait_for("a healthy source", || async { Some(state(gateway).await).filter(|state| state["healthy"] == true) }).await
}

type Script = Arc<dyn Fn(&str, &HeaderMap) -> Response + Send + Sync>;

/// A foreign server.
#[derive(Clone)]
struct Server {
    url: String,
    script: Arc<Mutex<Script>>,
    /// Path with query, headers, and the status of the answer.
    calls: Arc<Mutex<Vec<(String, HeaderMap, u16)>>>,
}

impl Server {
    /// The script gets the server's URL, too.
    async fn start(script: impl Fn(&str, &HeaderMap) -> Response + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, script: Arc::new(Mutex::new(Arc::new(script))), calls: Arc::default() };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    fn now(&self, script: impl Fn(&str, &HeaderMap) -> Response + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    fn count(&self, path: &str, status: u16) -> usize {
        self.calls.lock().unwrap().iter().filter(|call| call.0 == path && call.2 == status).count()
    }

    async fn gateway(&self, more: &str) -> Gateway {
        Gateway::start_with(Engine::Sqlite, &partner(&format!("{}/feed", self.url), more)).await
    }
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    let script = Arc::clone(&server.script.lock().unwrap());
    let path = uri.path_and_query().unwrap().to_string();
    // A long poll that nothing ends yet.
    let response = loop {
        let response = script(&path, &headers);
        if response.status() != StatusCode::CONTINUE {
            break response;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    server.calls.lock().unwrap().push((path, headers, response.status().as_u16()));
    response
}

fn not_found() -> Response {
    StatusCode::NOT_FOUND.into_response()
}

/// An Atom document. A link is relation and href, an entry its id; its time grows with the id's last digits.
fn atom(links: &[(&str, &str)], ids: &[&str]) -> String {
    let links = links.iter().map(|(rel, href)| format!("<link rel=\"{rel}\" href=\"{href}\"/>"));
    let entries = ids.iter().map(|id| {
        let minute: u32 = id.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
        format!("<entry><id>{id}</id><title>t</title><updated>2026-01-01T00:{minute:02}:00Z</updated></entry>")
    });
    format!(
        "<?xml version=\"1.0\"?><feed xmlns=\"http://www.w3.org/2005/Atom\"><id>f</id><title>f</title>\
         <updated>2026-01-01T00:00:00Z</updated>{}{}</feed>",
        links.collect::<String>(),
        entries.collect::<String>()
    )
}

#[tokio::test]
async fn a_chain_of_two_gateways_loses_and_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shop_url = format!("sqlite://{}?mode=rwc", dir.path().join("shop.db").display());
    let mut shop = SqliteConnection::connect(&shop_url).await.unwrap();
    let table =
        "create table events (seq integer primary key, id text, cart text, version int, at text, data text, meta text)";
    sqlx::raw_sql(table).execute(&mut shop).await.unwrap();
    let fill = |from: i64, to: i64| {
        format!(
            "with recursive n(n) as (select {from} union all select n + 1 from n where n < {to}) insert into events \
             select n, case n % 3 when 0 then 'o/ü ' || n else printf('00000000-0000-7000-8000-%012d', n) end, 'c-' || n % 7, \
             n, '2026-01-01T00:00:00.123456Z', '{{\"n\":  12345678901234567890.10, \"x\": \"\\u00fc\\ud800\"}}', \
             case n % 2 when 0 then '{{\"m\" : 1.0}}' end from n"
        )
    };
    sqlx::raw_sql(AssertSqlSafe(fill(1, 250))).execute(&mut shop).await.unwrap();
    let source = format!(
        "[[source]]\nname = \"cart\"\nurl = {:?}\ntable = \"events\"\npoll = {{ fixed_delay = \"10ms\" }}\n[source.columns]\n\
         sequence = \"seq\"\nid = \"id\"\ntype = {{ value = \"Ü & Co\" }}\naggregate_type = {{ value = \"Cart\" }}\n\
         aggregate_id = \"cart\"\naggregate_version = \"version\"\noccurred_at = \"at\"\ndata = \"data\"\nmetadata = \"meta\"\n\
         [[feed]]\nname = \"small\"\npage_size = 20\n",
        dir.path().join("shop.db").display().to_string().replacen('/', "sqlite:///", 1)
    );
    let mut a = Gateway::start_with(Engine::Sqlite, &source).await;
    let mut b = Gateway::start_with(Engine::Sqlite, &partner(&a.url("/feeds/small.atom"), OFTEN)).await;
    until_count(&b, 40).await;
    b.restart().await;
    until_count(&b, 90).await;
    b.restart().await;
    sqlx::raw_sql(AssertSqlSafe(fill(251, 320))).execute(&mut shop).await.unwrap();
    a.restart().await;
    until_count(&b, 320).await;
    for n in 321..=323 {
        sqlx::raw_sql(AssertSqlSafe(fill(n, n))).execute(&mut shop).await.unwrap();
        until_count(&b, n).await;
    }
    let (from, to) = (entries(&a).await, entries(&b).await);
    assert_eq!((from.len(), to.len()), (323, 323));
    for (from, to) in from.iter().zip(&to) {
        let id = if from.event.id.starts_with("cart:") {
            format!("partner:{}", from.event.id)
        } else {
            from.event.id.clone()
        };
        let expected = postern::event::Event { id, source: "partner".to_owned(), ..from.event.clone() };
        assert_eq!(to.event, expected);
    }
    assert!(to[0].event.data.contains("12345678901234567890.10") && to[1].event.metadata.is_some());
    let state = until_healthy(&b).await;
    assert_eq!((&state["kind"], &state["follow"], &state["duplicates"]), (&"feed".into(), &Value::Null, &0.into()));
    assert!(state["lagSeconds"].is_number() && state["lastEventAt"] == "2026-01-01T00:00:00.123456Z", "{state}");
}

#[tokio::test]
async fn a_gateway_whose_journal_is_another_one_is_read_from_its_beginning() {
    let mut a = Gateway::start().await;
    a.append(events(1..=5)).await;
    let b = Gateway::start_with(Engine::Sqlite, &partner(&a.url("/feeds/all.atom"), OFTEN)).await;
    until_count(&b, 5).await;
    a.journal_url = format!("sqlite://{}", a.dir.path().join("other.db").display());
    a.restart().await;
    a.append(events(4..=7)).await;
    until_count(&b, 7).await;
    assert_eq!(ids(&b).await, events(1..=7).into_iter().map(|event| event.id).collect::<Vec<_>>());
    until_healthy(&b).await;
}

/// Another Postern's feed of one document, that waits when it is asked to.
fn postern(server: &str, count: i64, path: &str) -> Response {
    let after: i64 =
        path.split_once("after=").map_or(0, |(_, after)| after.split('&').next().unwrap().parse().unwrap());
    if path.starts_with("/events/") {
        let n = path.trim_start_matches("/events/");
        let detail = format!(
            "{{\"id\":\"{n}\",\"type\":\"T\",\"aggregateType\":\"A\",\"aggregateId\":\"1\",\"aggregateVersion\":null,\
             \"occurredAt\":\"2026-01-01T00:00:00Z\",\"data\":{n},\"metadata\":null}}"
        );
        return if n == "2" { not_found() } else { detail.into_response() };
    }
    if path.contains("wait=20") && after == count {
        return StatusCode::CONTINUE.into_response();
    }
    let ids: Vec<String> = (after + 1..=count).map(|n| n.to_string()).collect();
    let mut body =
        atom(&[("next", &format!("{server}/feed?after={count}"))], &ids.iter().map(String::as_str).collect::<Vec<_>>());
    for id in &ids {
        body = body.replace(&format!("<id>{id}</id>"), &format!("<id>{id}</id><link href=\"{server}/events/{id}\"/>"));
    }
    let position = count.to_string();
    ([("feed-position", position.clone()), ("feed-head", position)], body).into_response()
}

#[tokio::test]
async fn news_of_another_gateway_come_by_waiting_and_what_is_gone_is_quarantined() {
    let server = Server::start(|_, _| not_found()).await;
    let (url, count) = (server.url.clone(), Arc::new(Mutex::new(3)));
    let shared = Arc::clone(&count);
    server.now(move |path, _| postern(&url, *shared.lock().unwrap(), path));
    let gateway = server.gateway("").await;
    until_there(&gateway, &["1", "3"]).await;
    for n in 4..=6 {
        *count.lock().unwrap() = n;
        until_count(&gateway, n - 1).await;
    }
    assert!(server.count("/feed?after=3&wait=20", 200) == 1 && server.count("/feed?after=4&wait=20", 200) == 1);
    assert_eq!(server.count("/feed?after=3", 200), 0, "it waits at once and does not look again");
    let quarantine = json(gateway.get("/sources/partner/quarantine").await).await;
    let row = &quarantine["items"][0];
    assert_eq!(
        (&row["reason"], &row["eventId"], quarantine["items"].as_array().unwrap().len()),
        (&"gone".into(), &"2".into(), 1)
    );
    let retry =
        gateway.client().put(gateway.url(&format!("/sources/partner/quarantine/{}", row["id"].as_str().unwrap())));
    let retry = retry.header("command", "Retry").send().await.unwrap();
    assert_eq!(retry.status(), 422);
}

#[tokio::test]
async fn archives_are_read_oldest_first_and_once() {
    let archives = |path: &str| match path {
        "/a1" => Some(atom(&[], &["e1", "e2"])),
        "/a2" => Some(atom(&[("prev-archive", "a1")], &["e4", "e3"])),
        "/a3" => Some(atom(&[("prev-archive", "/a2")], &["e5", "e6"])),
        _ => None,
    };
    let with = move |head: String| {
        move |path: &str, _: &HeaderMap| match (path, archives(path)) {
            (_, Some(archive)) => archive.into_response(),
            ("/feed", _) => head.clone().into_response(),
            _ => not_found(),
        }
    };
    let server = Server::start(with(atom(&[("prev-archive", "/a2")], &["e6", "e5"]))).await;
    let mut gateway = server.gateway(OFTEN).await;
    until_there(&gateway, &["e1", "e2", "e3", "e4", "e5", "e6"]).await;
    let read = server.count("/a1", 200);
    gateway.restart().await;
    server.now(with(atom(&[("prev-archive", "/a3")], &["e8", "e7"])));
    until_there(&gateway, &["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"]).await;
    assert_eq!((server.count("/a1", 200), server.count("/a3", 200)), (read, 2));
}

#[tokio::test]
async fn pages_are_walked_to_one_of_which_all_is_known() {
    let with = |newest: u32| {
        move |path: &str, _: &HeaderMap| {
            let page: u32 = path.split_once("page=").map_or(1, |(_, page)| page.parse().unwrap());
            let ids: Vec<String> =
                (1..=newest).rev().skip((page as usize - 1) * 2).take(2).map(|n| format!("e{n}")).collect();
            let next = format!("/feed?page={}", page + 1);
            let links = if newest > page * 2 { vec![("next", next.as_str())] } else { Vec::new() };
            atom(&links, &ids.iter().map(String::as_str).collect::<Vec<_>>()).into_response()
        }
    };
    let server = Server::start(with(5)).await;
    let gateway = server.gateway(OFTEN).await;
    until_there(&gateway, &["e1", "e2", "e3", "e4", "e5"]).await;
    server.now(with(8));
    until_there(&gateway, &["e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"]).await;
    assert_eq!(server.count("/feed?page=4", 200), 0);
}

const RSS: &str = "<rss version=\"2.0\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\"><channel><title>c</title><link>l</link>\
    <description>d</description>\
    <item><title>three</title><description>no id</description></item>\
    <item><guid isPermaLink=\"false\">g2</guid><title>two</title><pubDate>Fri, 02 Jan 2026 00:00:00 +0100</pubDate>\
    <category domain=\"http://x/type\">Sent</category><category domain=\"http://x/aggregate\">i-7</category>\
    <enclosure url=\"http://x/f\" length=\"1\" type=\"text/plain\"/></item>\
    <item><link>http://x/1</link><description>&lt;b>one&lt;/b></description><dc:date>2026-01-01T00:00:00Z</dc:date></item>\
    <item><guid>urn:uuid:00000000-0000-7000-8000-0000000000AA</guid><title>untimed</title></item></channel></rss>";

#[tokio::test]
async fn rss_is_mapped_and_what_has_no_id_is_quarantined_once() {
    let server = Server::start(|_, _| RSS.into_response()).await;
    let gateway = server.gateway(OFTEN).await;
    until_count(&gateway, 3).await;
    // The same again, as a new document.
    server.now(|_, _| RSS.replace("<title>c</title>", "<title>d</title>").into_response());
    let looked = server.count("/feed", 200);
    wait_for("looks", || async { (server.count("/feed", 200) > looked + 2).then_some(()) }).await;
    let entries = entries(&gateway).await;
    let of = |id: &str| &entries.iter().find(|entry| entry.event.id == id).unwrap().event;
    let (untimed, one, two) = (of("00000000-0000-7000-8000-0000000000aa"), of("partner:http://x/1"), of("partner:g2"));
    assert_eq!((untimed.r#type.as_str(), untimed.aggregate_type.as_str()), ("Entry", "partner"));
    assert_eq!(one.data, r#"{"summary":"<b>one</b>","links":[{"rel":"alternate","href":"http://x/1"}]}"#);
    assert_eq!((two.r#type.as_str(), two.aggregate_id.as_str()), ("Sent", "i-7"));
    assert_eq!(two.occurred_at.to_text(), "2026-01-01T23:00:00.000Z");
    assert!(
        two.data.contains(r#""links":[{"rel":"enclosure","href":"http://x/f","type":"text/plain"}]"#),
        "{}",
        two.data
    );
    let state = until_healthy(&gateway).await;
    assert_eq!((&state["quarantined"], &state["changed"], &state["journaled"]), (&1.into(), &0.into(), &3.into()));
    let quarantine = json(gateway.get("/sources/partner/quarantine").await).await;
    let row = &quarantine["items"][0];
    assert!(row["reason"] == "missing-id" && row["raw"].as_str().unwrap().contains("no id"), "{row}");
}

#[tokio::test]
async fn a_head_that_did_not_change_is_asked_for_by_its_validators() {
    let with = |tag: &'static str, ids: &'static [&'static str]| {
        move |_: &str, headers: &HeaderMap| match headers.get("if-none-match") {
            Some(known) if known == tag => StatusCode::NOT_MODIFIED.into_response(),
            _ => ([("etag", tag)], atom(&[], ids)).into_response(),
        }
    };
    let server = Server::start(with("\"1\"", &["e1"])).await;
    let mut gateway = server.gateway(OFTEN).await;
    wait_for("two 304", || async { (server.count("/feed", 304) >= 2).then_some(()) }).await;
    gateway.restart().await;
    let before = server.count("/feed", 304);
    wait_for("another 304", || async { (server.count("/feed", 304) > before + 1).then_some(()) }).await;
    assert_eq!(server.count("/feed", 200), 1);
    server.now(with("\"2\"", &["e2", "e1"]));
    until_there(&gateway, &["e1", "e2"]).await;
    assert_eq!(server.count("/feed", 200), 2);
}

#[tokio::test]
async fn what_can_t_be_read_is_said_and_read_once_it_is_mended() {
    let text = |body: &[u8]| {
        let body = body.to_vec();
        Box::new(move || body.clone().into_response()) as Box<dyn Fn() -> Response + Send + Sync>
    };
    let redirect = || (StatusCode::MOVED_PERMANENTLY, [("location", "/new")]).into_response();
    let elsewhere = || atom(&[("prev-archive", "http://127.0.0.1:1/a")], &["e1"]).into_response();
    let busy = || (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "1")]).into_response();
    let cases = [
        (Box::new(not_found) as Box<dyn Fn() -> Response + Send + Sync>, "/0 answers 404"),
        (text(b"<feed><entry>"), "ends too early"),
        (text(b"<feed><entry></feed>"), "can't be read as Atom"),
        (text(b"<html/>"), "is neither Atom nor RSS"),
        (text(b"<feed xmlns=\"http://www.w3.org/2005/Atom\"><title>\xfc</title></feed>"), "can't be read as Atom"),
        (text(format!("<feed>{}", "<x:a>".repeat(200_000)).as_bytes()), "nests deeper"),
        (text(&vec![b' '; 17 << 20]), "larger than 16 MB"),
        (Box::new(redirect), "/new; redirects are not followed: configure that URL"),
        (Box::new(elsewhere), "links to http://127.0.0.1:1"),
        (Box::new(busy), "asks us to stay away for 1s"),
    ];
    let (answers, parts): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let server = Server::start(move |path, _| answers[path[1..].parse::<usize>().unwrap()]()).await;
    let source = |n| format!("[[source]]\nname = \"p{n}\"\nfeed = \"{}/{n}\"\n{OFTEN}\n", server.url);
    let gateway = Gateway::start_with(Engine::Sqlite, &(0..parts.len()).map(source).collect::<String>()).await;
    let states = async || json(gateway.get("/sources").await).await["items"].as_array().unwrap().clone();
    for (n, part) in parts.iter().enumerate() {
        let error = async || states().await[n]["lastError"].as_str().unwrap_or_default().to_owned();
        wait_for(part, || async { error().await.contains(part).then_some(()) }).await;
    }
    // A document that says its encoding is read in it.
    let latin = b"<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?><feed xmlns=\"http://www.w3.org/2005/Atom\"><entry><id>\xfc</id>\
        <updated>2026-01-01T00:00:00Z</updated></entry></feed>";
    server.now(|_, _| latin.to_vec().into_response());
    let is_mended = |state: &Value| state["healthy"] == true && state["lastError"] == Value::Null;
    wait_for("all mended", || async { states().await.iter().all(is_mended).then_some(()) }).await;
    assert!(ids(&gateway).await.contains(&"p0:ü".to_owned()));
}

#[tokio::test]
async fn credentials_are_sent_and_not_shown() {
    let server = Server::start(|_, _| atom(&[], &["e1"]).into_response()).await;
    let url = format!("{}/feed", server.url.replace("http://", "http://erp:s%40cret@"));
    let gateway = Gateway::start_with(Engine::Sqlite, &partner(&url, OFTEN)).await;
    until_there(&gateway, &["e1"]).await;
    let sent = server.calls.lock().unwrap()[0].1["authorization"].clone();
    assert_eq!(sent, "Basic ZXJwOnNAY3JldA==");
    server.now(|_, _| StatusCode::UNAUTHORIZED.into_response());
    let error = until_wrong(&gateway, "answers 401").await;
    assert!(!error.contains("cret"), "{error}");
    server.now(|_, _| atom(&[], &["e1"]).into_response());
    let gateway = server.gateway(&format!("token = \"pst_1\"\n{OFTEN}")).await;
    until_there(&gateway, &["e1"]).await;
    assert_eq!(server.calls.lock().unwrap().last().unwrap().1["authorization"], "Bearer pst_1");

    let config = |more: &str| toml::from_str::<source::Config>(&format!("name = \"p\"\n{more}")).unwrap();
    assert!(!format!("{:?}", config(&format!("feed = {url:?}"))).contains("cret"));
    for (more, part) in [
        ("feed = \"ftp://x/y\"", "https://"),
        ("feed = \"https://x/y\"\npush = true", "`feed` takes nothing"),
        ("feed = \"https://x/y\"\ntable = \"t\"", "`feed` takes nothing"),
        ("feed = \"https://u:p@x/y\"\ntoken = \"t\"", "exclude each other"),
        ("push = true\ntoken = \"t\"", "`token` goes with `feed`"),
    ] {
        let fault = config(more).check().unwrap_err().to_string();
        assert!(fault.contains(part), "{more}: {fault}");
    }
}

#[tokio::test]
async fn check_says_what_is_promised_for_each_kind_of_feed() {
    let a = Gateway::start().await;
    a.append(vec![event(1)]).await;
    let server = Server::start(|path, _| match path {
        "/archived" => atom(&[("prev-archive", "/a1")], &["e1"]).into_response(),
        "/paged" => atom(&[("next", "/2")], &["e1"]).into_response(),
        _ => RSS.into_response(),
    })
    .await;
    for (feed, part) in [
        (a.url("/feeds/all.atom"), "every event of another Postern's feed exactly once"),
        (format!("{}/archived", server.url), "in the archives"),
        (format!("{}/paged", server.url), "page by page"),
        (format!("{}/rss", server.url), "only what is on the head at a poll is found; poll often enough"),
    ] {
        let config: source::Config = toml::from_str(&partner(&feed, "").replace("[[source]]\n", "")).unwrap();
        let report = source::check(&config, &Catalogue::default()).await.unwrap();
        let text = report.to_string();
        assert!(report.published >= 1 && text.contains(part) && text.contains(&format!("feed {feed}")), "{text}");
    }
}
