//! The feed, through HTTP and a parser that is not ours.

use atom_syndication::Feed;
use postern::event::Event;

use crate::support::reader::{self, ids, link};
use crate::support::{Engine, Gateway, event, events, json, wait_for};

/// A page size that lets the borders be met with few events.
const SMALL: &str = "[[feed]]\nname = \"all\"\npage_size = 10\n[[feed]]\nname = \"checkouts\"\npage_size = 3\nfilter = { types = [\"CheckedOut\"] }\n";

fn parse(xml: &str) -> Feed {
    Feed::read_from(xml.as_bytes()).unwrap_or_else(|cause| panic!("{cause}: {xml}"))
}

fn atom_ids(range: std::ops::RangeInclusive<i64>) -> Vec<String> {
    range.map(|n| format!("urn:uuid:{}", event(n).id)).collect()
}

async fn fetch(gateway: &Gateway, url: &str) -> Feed {
    let path = url.strip_prefix(&gateway.url("")).unwrap_or(url);
    parse(&gateway.get_text(path).await)
}

/// Walks `next` links from the beginning until one leads back to where it was.
async fn walk(gateway: &Gateway, start: &str) -> Vec<String> {
    let (mut seen, mut url) = (Vec::new(), start.to_owned());
    loop {
        let page = fetch(gateway, &url).await;
        seen.extend(ids(&page));
        let next = link(&page, "next").or(link(&page, "next-archive")).unwrap().to_owned();
        if page.entries().is_empty() || next == url {
            return seen;
        }
        url = next;
    }
}

async fn head_and_archives(gateway: &Gateway, feed: &str) -> Vec<String> {
    reader::head_and_archives(gateway.client(), &gateway.url(&format!("/feeds/{feed}.atom"))).await
}

async fn head_archives_and_walk_give_the_journal(engine: Engine) {
    for n in [0, 1, 9, 10, 11, 19, 107] {
        let gateway = Gateway::start_with(engine, SMALL).await;
        gateway.append(events(1..=n)).await;
        assert_eq!(head_and_archives(&gateway, "all").await, atom_ids(1..=n), "{n} events, archives");
        assert_eq!(walk(&gateway, "/feeds/all.atom?after=0").await, atom_ids(1..=n), "{n} events, walk");
        let checkouts: Vec<String> = (1..=n).filter(|n| n % 5 == 0).flat_map(|n| atom_ids(n..=n)).collect();
        assert_eq!(head_and_archives(&gateway, "checkouts").await, checkouts, "{n} events, filtered archives");
        assert_eq!(walk(&gateway, "/feeds/checkouts.atom?after=0").await, checkouts, "{n} events, filtered walk");
    }
}

#[tokio::test]
async fn on_sqlite_head_archives_and_walk_give_the_journal() {
    head_archives_and_walk_give_the_journal(Engine::Sqlite).await;
}

#[tokio::test]
async fn on_postgres_head_archives_and_walk_give_the_journal() {
    head_archives_and_walk_give_the_journal(Engine::Postgres).await;
}

#[tokio::test]
async fn a_sealed_page_is_immutable_and_the_same_after_a_restart() {
    let mut gateway = Gateway::start_with(Engine::Sqlite, SMALL).await;
    gateway.append(events(1..=25)).await;
    let head = fetch(&gateway, "/feeds/all.atom").await;
    let second = link(&head, "prev-archive").unwrap().to_owned();
    let path = second.strip_prefix(&gateway.url("")).unwrap().to_owned();
    let before = gateway.get(&path).await;
    assert_eq!(before.headers()["cache-control"], "public, max-age=31536000, immutable");
    let etag = before.headers()["etag"].clone();
    let before = before.text().await.unwrap();
    assert_eq!(ids(&parse(&before)), atom_ids(11..=20), "oldest first");
    gateway.append(events(26..=40)).await;
    gateway.restart().await;
    let after = gateway.get(&path).await;
    assert_eq!(after.headers()["etag"], etag);
    assert_eq!(after.text().await.unwrap(), before);
    let again = gateway.client().get(gateway.url(&path)).header("if-none-match", etag).send().await.unwrap();
    assert_eq!(again.status(), 304);
    // A cache keeps it once: it has one address.
    for (alias, status) in [("/02.atom", 404), ("/+2.atom", 404), ("/2.atom?x=1", 400)] {
        assert_eq!(gateway.get(&path.replace("/2.atom", alias)).await.status(), status, "{alias}");
    }
    assert_eq!(gateway.get(&path.replace("/all/", "/%61ll/")).await.status(), 404);
}

#[tokio::test]
async fn a_feed_that_is_new_to_a_long_journal_is_served_while_its_pages_are_cut() {
    let mut gateway = Gateway::start().await;
    for batch in 0..25 {
        gateway.append(events(batch * 1_000 + 1..=batch * 1_000 + 1_000)).await;
    }
    gateway.reconfigure("[[feed]]\nname = \"paid\"\nfilter = { types = [\"CheckedOut\"] }\n").await;
    let head = fetch(&gateway, "/feeds/paid.atom").await;
    assert_eq!(ids(&head)[0], format!("urn:uuid:{}", event(25_000).id));
    assert!(
        link(&head, "first").is_some() && link(&head, "prev-archive").is_none(),
        "where pages begin is not known yet"
    );
    assert_eq!(fetch(&gateway, "/feeds/paid.atom?after=20000").await.entries().len(), 100);
    let whole = wait_for("the pages to be cut", || async {
        let head = fetch(&gateway, "/feeds/paid.atom").await;
        link(&head, "prev-archive").is_some().then_some(head)
    })
    .await;
    assert_eq!(whole.entries().len(), 50, "the rest is on the pages");
    assert_eq!(head_and_archives(&gateway, "paid").await.len(), 5_000);
}

#[tokio::test]
async fn the_open_page_grows_and_then_seals_at_the_same_url() {
    let gateway = Gateway::start_with(Engine::Sqlite, SMALL).await;
    gateway.append(events(1..=12)).await;
    let head = fetch(&gateway, "/feeds/all.atom").await;
    let open = link(&head, "prev-archive").unwrap().replace("/1.atom", "/2.atom");
    let path = open.strip_prefix(&gateway.url("")).unwrap().to_owned();
    let response = gateway.get(&path).await;
    assert_eq!(response.headers()["cache-control"], "public, no-cache");
    assert_eq!(response.headers()["feed-head"], "12");
    assert_eq!(ids(&parse(&response.text().await.unwrap())), atom_ids(11..=12));
    gateway.append(events(13..=20)).await;
    let sealed = gateway.get(&path).await;
    assert!(sealed.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(ids(&parse(&sealed.text().await.unwrap())), atom_ids(11..=20));
    assert_eq!(gateway.get(&path.replace("/2.atom", "/9.atom")).await.status(), 404);
    assert_eq!(gateway.get(&path.replace("/2.atom", "/0.atom")).await.status(), 404);
}

#[tokio::test]
async fn pages_of_an_old_epoch_lead_to_exactly_the_same_place() {
    let mut gateway = Gateway::start_with(Engine::Sqlite, SMALL).await;
    gateway.append(events(1..=25)).await;
    let head = fetch(&gateway, "/feeds/all.atom").await;
    let second = link(&head, "prev-archive").unwrap().strip_prefix(&gateway.url("")).unwrap().to_owned();
    gateway.reconfigure(&SMALL.replace("page_size = 10", "page_size = 7")).await;
    // Sealed pages, and the open one, at which a reader stands that was up to date.
    for (page, next) in [("/1.atom", 1), ("/2.atom", 11), ("/3.atom", 21)] {
        let gone = gateway.get(&second.replace("/2.atom", page)).await;
        assert_eq!(gone.status(), 410, "{page}");
        let link = gone.headers()["link"].to_str().unwrap().to_owned();
        let url = link.strip_prefix('<').unwrap().split('>').next().unwrap();
        assert_eq!(ids(&fetch(&gateway, url).await).first(), atom_ids(next..=next).first(), "{page}: {link}");
    }
}

#[tokio::test]
async fn ids_that_no_event_can_have_are_unknown() {
    let gateway = Gateway::start_with(Engine::Postgres, "").await;
    for path in ["/events/%00", "/feeds/all/%00/1.atom", "/webhooks/%00"] {
        assert_eq!(gateway.get(path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn the_head_answers_304_until_something_happens() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=3)).await;
    let first = gateway.get("/feeds/all.atom").await;
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert!(etag.starts_with("W/\""));
    let ask = |etag: String| gateway.client().get(gateway.url("/feeds/all.atom")).header("if-none-match", etag).send();
    let unchanged = ask(etag.clone()).await.unwrap();
    assert_eq!(unchanged.status(), 304);
    assert_eq!(unchanged.headers()["etag"], etag.as_str());
    assert_eq!(unchanged.headers()["feed-head"], "3");
    gateway.append(events(4..=4)).await;
    let changed = ask(etag).await.unwrap();
    assert_eq!(changed.status(), 200);
    assert_eq!(ids(&parse(&changed.text().await.unwrap())).first(), atom_ids(4..=4).first(), "newest first");
}

#[tokio::test]
async fn a_time_is_told_once_its_second_is_over_and_then_hides_nothing() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=1)).await;
    let time = |response: &reqwest::Response| response.headers().get("last-modified").cloned();
    assert_eq!(time(&gateway.get("/feeds/all.atom").await), None, "more may come within this second");
    let told = || async { time(&gateway.get("/feeds/all.atom").await) };
    let first = wait_for("a time", told).await;
    let since = async || {
        let request = gateway.client().get(gateway.url("/feeds/all.atom")).header("if-modified-since", &first);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(since().await, 304);
    gateway.append(events(2..=2)).await;
    assert_eq!(since().await, 200);
}

#[tokio::test]
async fn since_starts_at_the_first_event_that_is_not_older_and_goes_on_by_position() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=30)).await;
    let time = event(12).occurred_at.to_millis_text();
    let page = fetch(&gateway, &format!("/feeds/all.atom?since={time}&limit=5")).await;
    assert_eq!(ids(&page), atom_ids(12..=16));
    let next = fetch(&gateway, link(&page, "next").unwrap()).await;
    assert_eq!(ids(&next), atom_ids(17..=21), "the limit is kept");
    let future = fetch(&gateway, "/feeds/all.atom?since=2099-01-01T00:00:00Z").await;
    assert!(future.entries().is_empty());
}

#[tokio::test]
async fn after_takes_ids_atom_ids_cursors_and_positions() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=5)).await;
    let cursor = format!("{}-3", gateway.app().journal().id());
    for after in [event(3).id, format!("urn:uuid:{}", event(3).id), cursor, "3".to_owned()] {
        let response = gateway.get(&format!("/feeds/all.atom?after={after}")).await;
        assert_eq!((response.status().as_u16(), &response.headers()["feed-position"]), (200, &"5".parse().unwrap()));
        assert_eq!(ids(&parse(&response.text().await.unwrap())), atom_ids(4..=5), "after={after}");
    }
}

#[tokio::test]
async fn wrong_parameters_are_refused_with_an_example() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=2)).await;
    for (query, status, says) in [
        ("after=", 400, "event id"),
        ("after=nobody", 404, "nobody"),
        ("after=3", 404, "3"),
        ("after=ffffffff-1", 410, "?after="),
        ("after=0&since=2026-01-01T00:00:00Z", 400, "one of"),
        ("since=yesterday", 400, "since=2026-01-31T12:00:00Z"),
        ("since=2026-01-01T00:00:00+01:00", 400, "%2B"),
        ("after=0&limit=0", 400, "limit=20"),
        ("after=0&limit=-1", 400, "limit=20"),
        ("limit=5", 400, "?after=0"),
        ("aftr=0", 400, "unknown parameter `aftr`"),
    ] {
        let response = gateway.get(&format!("/feeds/all.atom?{query}")).await;
        assert_eq!(response.status(), status, "{query}");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let problem = json(response).await;
        assert!(problem["detail"].as_str().unwrap().contains(says), "{query}: {problem}");
    }
    assert_eq!(gateway.get("/feeds/nothing.atom").await.status(), 404);
    assert_eq!(gateway.get("/events/nothing").await.status(), 404);
}

#[tokio::test]
async fn filters_hold_on_the_head_and_along_the_walk() {
    let gateway = Gateway::start_with(Engine::Sqlite, SMALL).await;
    gateway.append(events(1..=57)).await;
    let expected = |matches: &dyn Fn(&Event) -> bool| -> Vec<String> {
        events(1..=57).iter().filter(|event| matches(event)).map(|event| format!("urn:uuid:{}", event.id)).collect()
    };
    let cart = event(3).aggregate_id;
    let of_cart = |event: &Event| event.aggregate_id == cart;
    for (query, ids_expected) in [
        ("type=CheckedOut".to_owned(), expected(&|event| event.r#type == "CheckedOut")),
        ("type=Checked*&type=ItemAdded".to_owned(), expected(&|_| true)),
        (format!("aggregate={cart}"), expected(&of_cart)),
        (
            format!("aggregate=Cart%2F{cart}&type=ItemAdded"),
            expected(&|event| of_cart(event) && event.r#type == "ItemAdded"),
        ),
        (format!("aggregate=Order%2F{cart}"), Vec::new()),
    ] {
        for limit in ["", "&limit=2"] {
            let walked = walk(&gateway, &format!("/feeds/all.atom?after=0{limit}&{query}")).await;
            assert_eq!(walked, ids_expected, "{query}{limit}");
        }
        let head = fetch(&gateway, &format!("/feeds/all.atom?{query}")).await;
        let newest: Vec<String> = ids_expected.iter().rev().take(50).cloned().collect();
        assert_eq!(ids(&head), newest, "{query}");
        assert_eq!(link(&head, "prev-archive"), None, "pages hold other events, too");
        assert_eq!(walk(&gateway, link(&head, "first").unwrap()).await, ids_expected, "{query}");
    }
    // A full one can't change; one that may grow can.
    let caching = async |path: &str| gateway.get(path).await.headers()["cache-control"].to_str().unwrap().to_owned();
    assert!(caching("/feeds/all.atom?after=0&limit=2&type=CheckedOut").await.contains("immutable"));
    assert_eq!(caching("/feeds/all.atom?after=0&limit=100&type=CheckedOut").await, "public, no-cache");
    let etag = async |path: &str| gateway.get(path).await.headers()["etag"].clone();
    assert_ne!(etag("/feeds/all.atom?type=CheckedOut").await, etag("/feeds/all.atom").await);
}

#[tokio::test]
async fn whoever_waits_is_answered_when_something_comes() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let gateway = Gateway::start_with(engine, SMALL).await;
        gateway.append(events(1..=3)).await;
        let ask = |query: &str| gateway.client().get(gateway.url(&format!("/feeds/all.atom?{query}"))).send();
        let waiting: Vec<_> = (0..50).map(|_| tokio::spawn(ask("after=3&wait=60"))).collect();
        let filtered = tokio::spawn(ask("after=3&wait=60&type=CheckedOut"));
        let preferring =
            gateway.client().get(gateway.url("/feeds/all.atom?after=3")).header("prefer", "wait=60").send();
        let preferring = tokio::spawn(preferring);
        gateway.append(events(4..=4)).await;
        for answer in waiting.into_iter().chain([preferring]) {
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.headers()["feed-position"], "4");
            assert_eq!(ids(&parse(&answer.text().await.unwrap())), atom_ids(4..=4));
        }
        gateway.append(events(5..=5)).await;
        let answer = parse(&filtered.await.unwrap().unwrap().text().await.unwrap());
        assert_eq!(ids(&answer), atom_ids(5..=5));
        assert!(link(&answer, "next").unwrap().ends_with("-5&wait=60&type=CheckedOut"));
        let empty = ask("after=5&wait=1").await.unwrap();
        assert_eq!(empty.headers()["cache-control"], "no-store");
        assert!(parse(&empty.text().await.unwrap()).entries().is_empty());
        assert_eq!(gateway.get("/feeds/all.atom?after=5").await.headers()["cache-control"], "public, no-cache");
        let preferred = gateway.client().get(gateway.url("/feeds/all.atom?after=5")).header("prefer", "wait=1");
        let preferred = preferred.send().await.unwrap();
        assert_eq!(preferred.headers()["preference-applied"], "wait=1");
        let has_prefer = preferred.headers().get_all("vary").iter().any(|value| value == "prefer");
        assert!(has_prefer && !preferred.headers()["link"].to_str().unwrap().contains("wait"));
        // What is there is not waited for.
        assert_eq!(ids(&parse(&ask("after=4&wait=60").await.unwrap().text().await.unwrap())), atom_ids(5..=5));
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_those_who_wait() {
    let mut gateway = Gateway::start().await;
    let waiting = tokio::spawn(gateway.client().get(gateway.url("/feeds/all.atom?after=0&wait=60")).send());
    let asked = || async { (gateway.get("/readyz").await.status() == 200).then_some(()) };
    wait_for("a gateway that answers", asked).await;
    gateway.restart().await;
    // Answered empty, or not accepted yet.
    if let Ok(answer) = waiting.await.unwrap() {
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn nasty_data_changes_no_count_and_no_date() {
    let gateway = Gateway::start().await;
    let nasty = Event {
        id: "cart:a b/<&>\"'\u{8}".to_owned(),
        r#type: "T\u{0b}<]]>&\u{202e}\u{fffe}".to_owned(),
        aggregate_id: "x".repeat(500),
        occurred_at: postern::event::Micros::parse_rfc3339("2026-01-01T00:00:00.123456Z").unwrap(),
        ..event(1)
    };
    gateway.append(vec![nasty.clone(), event(2)]).await;
    let xml = gateway.get_text("/feeds/all.atom").await;
    assert!(xml.contains("<published>2026-01-01T00:00:00.123Z</published>"), "{xml}");
    assert!(!xml.chars().any(|c| c.is_control() && !"\n\t".contains(c)), "control characters");
    let feed = parse(&xml);
    assert_eq!(feed.entries().len(), 2);
    let entry = &feed.entries()[1];
    let detail = entry.links()[0].href().strip_prefix(&gateway.url("")).unwrap();
    assert_eq!(json(gateway.get(detail).await).await["type"], nasty.r#type.as_str(), "the detail has the original");
    let after = fetch(&gateway, &format!("/feeds/all.atom?after={}", postern::event::escape(entry.id()))).await;
    assert_eq!(ids(&after), atom_ids(2..=2), "the Atom id leads back");
}

/// Reads documents with parsers that take nothing that is wrong, and prints how many entries each has and their dates.
const STRICT: &str = r#"
import json, sys, xml.etree.ElementTree as ET
ATOM = "{http://www.w3.org/2005/Atom}"
for path in sys.argv[1:]:
    text = open(path, "rb").read()
    if path.endswith("atom"):
        dates = [entry.find(ATOM + "published").text for entry in ET.fromstring(text).findall(ATOM + "entry")]
    elif path.endswith("rss"):
        dates = [item.find("pubDate").text for item in ET.fromstring(text).find("channel").findall("item")]
    elif path.endswith("json"):
        dates = [item["date_published"] for item in json.loads(text)["items"]]
    else:
        dates = [event["time"] for event in json.loads(text)]
    print(len(dates), sorted(set(dates)))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn strict_parsers_read_every_document() {
    let gateway = Gateway::start_with(Engine::Sqlite, "[[feed]]\nname = \"all\"\npage_size = 4\n").await;
    let nasty: Vec<String> = (0..=0xffff).filter_map(char::from_u32).map(String::from).collect();
    let mut append = postern::journal::Append { source: "cart".to_owned(), ..Default::default() };
    for n in 1..=6 {
        let words = ["]]>", "<!--", "\u{202e}", "&amp;&#0;", "\u{8}", "\r"];
        let text = format!("{}{}", words.concat(), nasty[(n as usize) * 256..][..256].concat());
        let data = serde_json::json!({ "long": nasty.concat().repeat(6), "text": text }).to_string();
        let time = postern::event::Micros::parse_rfc3339("2026-01-01T00:00:00.123456Z").unwrap();
        let id = format!("cart:{n} {}", &text[..20]);
        let event = Event { id, r#type: text.chars().take(90).collect(), data, occurred_at: time, ..event(n) };
        append.arrivals.push(postern::journal::Arrival { summary: nasty.concat(), ..crate::support::arrival(event) });
    }
    gateway.app().journal().append(append).await.unwrap();
    let epoch = json(gateway.get("/feeds").await).await["feeds"][0]["epoch"].as_str().unwrap().to_owned();
    let (mut command, mut expected) = (std::process::Command::new("python3"), String::new());
    command.arg("-c").arg(STRICT);
    for (format, date) in [
        ("atom", "2026-01-01T00:00:00.123Z"),
        ("rss", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ("json", "2026-01-01T00:00:00.123Z"),
        ("cloudevents", "2026-01-01T00:00:00.123456Z"),
    ] {
        let paths = [
            (format!("/feeds/all.{format}"), 6),
            (format!("/feeds/all.{format}?after=2"), 2),
            (format!("/feeds/all.{format}?since=2026-01-01T00:00:00Z"), 4),
            (format!("/feeds/all/{epoch}/1.{format}"), 4),
            (format!("/feeds/all/{epoch}/2.{format}"), 2),
        ];
        // Batches have no numbered pages and no head.
        let paths = paths.into_iter().filter(|(path, _)| format != "cloudevents" || path.contains('?'));
        for (path, count) in paths {
            let file = gateway.dir.path().join(path.replace(['/', '?', ':'], "_") + "." + format);
            std::fs::write(&file, gateway.get(&path).await.bytes().await.unwrap()).unwrap();
            command.arg(file);
            expected += &format!("{count} ['{date}']\n");
        }
    }
    let read = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&read.stderr), "");
    assert_eq!(String::from_utf8(read.stdout).unwrap(), expected);
}

#[tokio::test]
async fn two_gateways_on_one_postgres_journal_serve_the_same_bytes_and_never_an_older_head() {
    let gateway = Gateway::start_with(Engine::Postgres, SMALL).await;
    gateway.append(events(1..=25)).await;
    // Only one may write; another one that only serves feeds is made of the parts of one.
    let tasks = postern::runtime::Tasks::default();
    let config = postern::journal::Config { url: gateway.journal_url.clone(), ..Default::default() };
    let journal = postern::journal::Journal::open(&config, &postern::runtime::Clock::system(), &tasks).await.unwrap();
    let config = postern::config::Config::load(&gateway.dir.path().join("postern.toml"), &[]).unwrap();
    let site = postern::web::Config { public_url: Some(gateway.url("")), ..Default::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let site = postern::web::Site::new(&site, listener.local_addr().unwrap()).unwrap();
    let feeds =
        postern::outlet::feed::Feeds::new(journal, &config.all_feeds, config.feeds, &site, true, &tasks).unwrap();
    let auth = postern::web::auth::Auth::new(&config.auth, &[]).unwrap();
    let router = postern::web::front(axum::Router::new(), feeds.router(), auth, site);
    tokio::spawn(async move { axum::serve(listener, router).await });

    let both = async |path: &str| {
        let mut found = Vec::new();
        for url in [gateway.url(path), format!("{other}{path}")] {
            let answer = gateway.client().get(url).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
            found.push((answer.headers()["etag"].clone(), answer.bytes().await.unwrap()));
        }
        assert!(found[0] == found[1], "{path}");
        found.remove(0)
    };
    let (old, _) = both("/feeds/all.atom").await;
    let epoch = json(gateway.get("/feeds").await).await["feeds"][0]["epoch"].as_str().unwrap().to_owned();
    for n in 1..=3 {
        both(&format!("/feeds/all/{epoch}/{n}.atom")).await;
    }
    both("/feeds/all.json?after=3&limit=4").await;
    gateway.append(events(26..=30)).await;
    let new = gateway.get("/feeds/all.atom").await.headers()["etag"].clone();
    assert_ne!(new, old);
    let ask = gateway.client().get(format!("{other}/feeds/all.atom")).header("if-none-match", new.clone());
    assert_eq!(ask.send().await.unwrap().status(), 304, "the other one looks before it answers who has something else");
    assert!(!both(&format!("/feeds/all/{epoch}/3.atom")).await.1.is_empty());
    both("/feeds/all.atom?after=21").await;
}

#[tokio::test]
async fn an_event_is_shown_as_json_and_to_people() {
    let gateway = Gateway::start().await;
    let data = r#"{"sku":"TEA","account":12345678901234567890123,"price":1.50}"#;
    gateway.append(vec![Event { data: data.to_owned(), ..event(1) }]).await;
    let path = format!("/events/{}", event(1).id);
    let detail = json(gateway.get(&path).await).await;
    assert_eq!(detail["position"], 1);
    assert_eq!(detail["data"]["sku"], "TEA");
    assert_eq!(detail["occurredAt"], "2026-01-01T00:01:00.000Z");
    let html = gateway.client().get(gateway.url(&path)).header("accept", "text/html").send().await.unwrap();
    assert!(html.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let text = html.text().await.unwrap();
    assert!(text.contains("ItemAdded"));
    assert!(text.contains("12345678901234567890123,\n") && text.contains("1.50\n"), "every digit: {text}");
}
