//! The feed in its other formats, through parsers that are not ours.

use serde_json::Value;

use crate::support::{Engine, Gateway, event, events, json};

const SMALL: &str = "[[feed]]\nname = \"all\"\npage_size = 10\n";

async fn gateway(n: i64) -> Gateway {
    let gateway = Gateway::start_with(Engine::Sqlite, SMALL).await;
    gateway.append(events(1..=n)).await;
    gateway
}

fn ids(range: std::ops::RangeInclusive<i64>) -> Vec<String> {
    range.map(|n| event(n).id).collect()
}

fn of<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list.as_array().unwrap().iter().map(|item| item[key].as_str().unwrap()).collect()
}

#[tokio::test]
async fn rss_has_every_event_under_its_atom_id() {
    let gateway = gateway(25).await;
    let head = gateway.get("/feeds/all.rss").await;
    assert_eq!(head.headers()["content-type"], "application/rss+xml; charset=utf-8");
    let (mut seen, mut text) = (Vec::new(), gateway.get_text("/feeds/all.rss?after=0").await);
    loop {
        let channel = rss::Channel::read_from(text.as_bytes()).unwrap();
        let items = channel.items();
        seen.extend(items.iter().map(|item| item.guid().unwrap().value().trim_start_matches("urn:uuid:").to_owned()));
        if items.is_empty() {
            break;
        }
        assert!(items.iter().all(|item| !item.guid().unwrap().is_permalink() && item.pub_date().is_some()));
        // RSS has no links of its own to what follows: the header tells.
        let mut links = text.lines().filter(|line| line.starts_with("<atom:link rel=\"next"));
        let next =
            links.next().unwrap().split("href=\"").nth(1).unwrap().trim_end_matches("\"/>").replace("&amp;", "&");
        text = gateway.get_text(next.strip_prefix(&gateway.url("")).unwrap()).await;
    }
    assert_eq!(seen, ids(1..=25));
}

#[tokio::test]
async fn json_feeds_are_walked_by_next_url_and_show_events_whole_on_request() {
    let gateway = gateway(25).await;
    for start in ["/feeds/all.json?after=0", "/feeds/all.json?after=0&embed=data", "/feeds/all.json?after=0&limit=4"] {
        let (mut seen, mut path) = (Vec::new(), start.to_owned());
        loop {
            let feed = json(gateway.get(&path).await).await;
            assert_eq!(feed["version"], "https://jsonfeed.org/version/1.1");
            let items = of(&feed["items"], "id");
            if items.is_empty() {
                break;
            }
            seen.extend(items.iter().map(|id| id.trim_start_matches("urn:uuid:").to_owned()));
            for item in feed["items"].as_array().unwrap() {
                assert_eq!(item["_event"].is_object(), start.contains("embed"), "{item}");
            }
            path = feed["next_url"].as_str().unwrap().strip_prefix(&gateway.url("")).unwrap().to_owned();
        }
        assert_eq!(seen, ids(1..=25), "{start}");
    }
    let whole = json(gateway.get("/feeds/all.json?embed=data").await).await;
    let detail = json(gateway.get(&format!("/events/{}", event(25).id)).await).await;
    assert_eq!(whole["items"][0]["_event"], detail);
    assert_eq!(json(gateway.get("/feeds/all.atom?embed=data").await).await["status"], 400);
}

#[tokio::test]
async fn batches_of_cloudevents_are_followed_as_http_feeds_are_and_can_be_pushed_elsewhere() {
    let gateway = gateway(25).await;
    let other = Gateway::start_with(Engine::Sqlite, "[[source]]\nname = \"copy\"\npush = true\n").await;
    let (mut seen, mut last) = (Vec::new(), String::new());
    loop {
        let batch = gateway.get(&format!("/feeds/all.cloudevents{last}")).await;
        assert_eq!(batch.headers()["content-type"], "application/cloudevents-batch+json; charset=utf-8");
        let text = batch.text().await.unwrap();
        let events: Value = serde_json::from_str(&text).unwrap();
        let found = of(&events, "id");
        let Some(newest) = found.last() else { break };
        last = format!("?lastEventId={newest}&timeout=500");
        seen.extend(found.iter().map(|id| (*id).to_owned()));
        let push = other.client().post(other.url("/sources/copy/events")).body(text);
        let push = push.header("content-type", "application/cloudevents-batch+json").send().await.unwrap();
        assert_eq!(push.status(), 202, "{}", push.text().await.unwrap());
    }
    assert_eq!(seen, ids(1..=25));
    let copied = crate::support::entries(&other).await;
    let original = crate::support::entries(&gateway).await;
    for (copy, original) in copied.iter().zip(&original) {
        let (copy, original) = (&copy.event, &original.event);
        assert_eq!((&copy.id, &copy.data, copy.key()), (&original.id, &original.data, original.key()));
        assert_eq!(copy.occurred_at, original.occurred_at);
    }
    assert_eq!(copied.len(), 25);
    let first = json(gateway.get("/feeds/all.cloudevents?limit=1").await).await[0].clone();
    assert_eq!(first["sequence"], "00000000000000000001");
    assert_eq!(first["source"], format!("{}/sources/cart", gateway.app().public_url()));
}

#[tokio::test]
async fn numbered_pages_are_there_in_each_format_without_data() {
    let gateway = gateway(25).await;
    let epoch = json(gateway.get("/feeds").await).await["feeds"][0]["epoch"].as_str().unwrap().to_owned();
    let mut tags = Vec::new();
    for (extension, count) in [("atom", "<entry>"), ("rss", "<item>"), ("json", "content_text")] {
        let page = gateway.get(&format!("/feeds/all/{epoch}/1.{extension}")).await;
        assert!(page.headers()["cache-control"].to_str().unwrap().contains("immutable"));
        tags.push(page.headers()["etag"].clone());
        let again = gateway.get(&format!("/feeds/all/{epoch}/1.{extension}")).await;
        let text = page.text().await.unwrap();
        assert_eq!(text.matches(count).count(), 10, "{extension}");
        assert_eq!(again.text().await.unwrap(), text, "from memory");
        assert!(text.contains(&format!("/feeds/all/{epoch}/2.{extension}")), "{text}");
    }
    tags.dedup();
    assert_eq!(tags.len(), 3, "no two formats share a tag");
    assert_eq!(gateway.get(&format!("/feeds/all/{epoch}/1.cloudevents")).await.status(), 404);
    // Full up to the end of a page, and never changing.
    let batch = gateway.get("/feeds/all.cloudevents?after=0&limit=1000").await;
    assert!(batch.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(json(batch).await.as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn a_person_reads_a_feed_and_finds_the_way() {
    let gateway = gateway(25).await;
    let nasty = postern::event::Event { r#type: "<script>alert(1)</script>".to_owned(), ..event(26) };
    gateway.append(vec![nasty]).await;
    let page = gateway.client().get(gateway.url("/feeds/all")).header("accept", "text/html").send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let html = page.text().await.unwrap();
    assert!(!html.contains("<script>") && html.contains("&lt;script&gt;alert(1)"));
    assert_eq!(html.matches("/events/").count(), 26);
    let older = html.split("<a href=\"").find(|link| link.contains(">older<")).unwrap().split('"').next().unwrap();
    let older = gateway.get_text(older.strip_prefix(&gateway.url("")).unwrap()).await;
    assert!(older.contains(&event(20).id) && older.contains(">newer<"));
}

#[tokio::test]
async fn the_list_is_a_service_document_too() {
    let gateway = gateway(1).await;
    let ask =
        async |accept: &str| gateway.client().get(gateway.url("/feeds")).header("accept", accept).send().await.unwrap();
    let service = ask("application/atomsvc+xml").await;
    assert_eq!(service.headers()["content-type"], "application/atomsvc+xml");
    let (service, collection) = (service.text().await.unwrap(), gateway.url("/feeds/all.atom"));
    assert!(service.contains(&format!("<collection href=\"{collection}\">")), "{service}");
    assert!(ask("text/html").await.text().await.unwrap().contains("/feeds/all.rss"));
    assert_eq!(ask("image/png").await.status(), 406);
}

#[tokio::test]
async fn one_event_is_a_cloudevent_and_an_entry_too() {
    let gateway = gateway(3).await;
    let path = format!("/events/{}", event(2).id);
    let ask =
        async |accept: &str| gateway.client().get(gateway.url(&path)).header("accept", accept).send().await.unwrap();
    let cloud = ask("application/cloudevents+json").await;
    assert_eq!(cloud.headers()["content-type"], "application/cloudevents+json");
    let batch = json(gateway.get("/feeds/all.cloudevents").await).await;
    assert_eq!(json(cloud).await, batch[1]);
    let entry = ask("application/atom+xml").await;
    assert_eq!(entry.headers()["content-type"], "application/atom+xml; type=entry; charset=utf-8");
    let text = entry.text().await.unwrap();
    let entry = text.split_once("<entry").unwrap().1;
    let feed: atom_syndication::Feed =
        format!("<feed xmlns=\"http://www.w3.org/2005/Atom\"><entry{entry}</feed>").parse().unwrap();
    assert_eq!(feed.entries()[0].id(), format!("urn:uuid:{}", event(2).id));
    assert_eq!(feed.entries()[0].authors().len(), 1, "an entry without a feed names its author");
}

#[tokio::test]
async fn documents_come_compressed_as_the_client_likes() {
    let gateway = gateway(25).await;
    let epoch = json(gateway.get("/feeds").await).await["feeds"][0]["epoch"].as_str().unwrap().to_owned();
    for path in
        [format!("/feeds/all/{epoch}/1.atom"), "/feeds/all.json".to_owned(), "/feeds/all.rss?after=0".to_owned()]
    {
        let plain = gateway.get(&path).await;
        assert!(
            !plain.headers().contains_key("content-encoding")
                && plain.headers()["vary"].to_str().unwrap().contains("accept-encoding")
        );
        let (etag, plain) = (plain.headers()["etag"].clone(), plain.bytes().await.unwrap());
        for encoding in ["br", "gzip"] {
            let answer =
                gateway.client().get(gateway.url(&path)).header("accept-encoding", encoding).send().await.unwrap();
            assert_eq!(answer.headers()["content-encoding"], encoding);
            assert_eq!(answer.headers()["etag"], etag);
            let (body, mut read) = (answer.bytes().await.unwrap(), Vec::new());
            match encoding {
                "br" => brotli::BrotliDecompress(&mut &body[..], &mut read).unwrap(),
                _ => drop(std::io::copy(&mut flate2::read::GzDecoder::new(&body[..]), &mut read).unwrap()),
            }
            assert!(
                read == plain && body.len() * 4 < plain.len(),
                "{path} {encoding}: {} of {}",
                body.len(),
                plain.len()
            );
        }
    }
}

#[tokio::test]
async fn the_format_is_negotiated() {
    let gateway = gateway(1).await;
    for (accept, expected) in [
        ("*/*", "atom"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("application/rss+xml", "rss"),
        ("application/json", "json"),
        ("application/feed+json", "json"),
        ("application/cloudevents-batch+json", "cloudevents"),
    ] {
        let answer = gateway.client().get(gateway.url("/feeds/all")).header("accept", accept).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{accept}");
        let location = gateway.url(&format!("/feeds/all.{expected}"));
        assert_eq!(answer.headers()["content-location"], location, "{accept}");
        assert!(answer.headers()["vary"].to_str().unwrap().contains("accept"));
    }
    let none = gateway.client().get(gateway.url("/feeds/all")).header("accept", "image/png").send().await.unwrap();
    assert_eq!(none.status(), 406);
    let listed = json(gateway.get("/feeds").await).await;
    assert_eq!(listed["feeds"][0]["formats"], serde_json::json!(["atom", "rss", "json", "cloudevents", "html"]));
}

/// Reads a stream up to so many events with data: their ids, and all of its text.
async fn streamed(response: reqwest::Response, count: usize) -> (Vec<String>, String) {
    let (mut response, mut text) = (response, String::new());
    while text.matches("data: ").count() < count || !text.ends_with("\n\n") {
        text += std::str::from_utf8(&response.chunk().await.unwrap().expect("it goes on")).unwrap();
    }
    let cursors = text.lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned);
    (cursors.collect(), text)
}

#[tokio::test]
async fn a_stream_sends_events_as_they_come_and_goes_on_where_it_was_lost() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let mut gateway = Gateway::start_with(engine, SMALL).await;
        gateway.append(events(1..=120)).await;
        let open = |query: &str| gateway.client().get(gateway.url(&format!("/feeds/all/stream{query}")));
        let all = open("?after=0").send().await.unwrap();
        assert_eq!(all.headers()["content-type"], "text/event-stream");
        assert_eq!(all.headers()["cache-control"], "no-store");
        let (cursors, text) = streamed(all, 120).await;
        assert_eq!(cursors.iter().filter(|cursor| cursor.ends_with("-120")).count(), 1);
        let sent: Vec<Value> = text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|json| serde_json::from_str(json).unwrap())
            .collect();
        assert_eq!(sent.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), ids(1..=120));
        assert_eq!(sent[119], json(gateway.get(&format!("/events/{}", event(120).id)).await).await);

        let (now, checkouts) = (open("").send().await.unwrap(), open("?type=CheckedOut").send().await.unwrap());
        gateway.append(events(121..=125)).await;
        assert!(streamed(now, 5).await.1.contains(&event(121).id));
        assert!(streamed(checkouts, 1).await.1.contains(&event(125).id));
        let last = cursors.iter().find(|cursor| cursor.ends_with("-118")).unwrap();
        let again = open("?after=0").header("last-event-id", last).send().await.unwrap();
        let (_, text) = streamed(again, 7).await;
        assert!(text.contains(&event(119).id) && !text.contains(&event(118).id), "Last-Event-ID wins");
        for (query, status) in [("?after=nobody", 404), ("?after=ffffffff-1", 410), ("?limit=5&after=0", 400)] {
            assert_eq!(open(query).send().await.unwrap().status(), status, "{query}");
        }
        // A stop ends the streams at once.
        let mut open_when_stopped = open("?after=125").send().await.unwrap();
        gateway.restart().await;
        while let Ok(Some(chunk)) = open_when_stopped.chunk().await {
            assert!(!chunk.starts_with(b"data"), "nothing happened");
        }
    }
}
