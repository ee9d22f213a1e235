//! Readers of a feed that know nothing but its documents and headers.

use std::collections::HashSet;
use std::time::Duration;

use atom_syndication::Feed;

pub fn ids(feed: &Feed) -> Vec<String> {
    feed.entries().iter().map(|entry| entry.id().to_owned()).collect()
}

pub fn link<'a>(feed: &'a Feed, relation: &str) -> Option<&'a str> {
    feed.links().iter().find(|link| link.rel() == relation).map(atom_syndication::Link::href)
}

/// Follows `next` from a document on, over outages, until it is up to date and there will be no more.
pub async fn replicate(client: &reqwest::Client, start: &str, is_over: impl Fn() -> bool) -> Vec<String> {
    let (mut url, mut seen) = (start.to_owned(), Vec::new());
    loop {
        let was_over = is_over();
        let Some((head, position, feed)) = document(client, &url).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        seen.extend(ids(&feed));
        url = link(&feed, "next").or(link(&feed, "next-archive")).unwrap().to_owned();
        if head == position && was_over {
            return seen;
        }
    }
}

/// Nothing while the gateway is away.
async fn document(client: &reqwest::Client, url: &str) -> Option<(Option<String>, Option<String>, Feed)> {
    let answer = client.get(url).send().await.ok()?;
    let status = answer.status().as_u16();
    assert!(matches!(status, 200 | 503), "{url}: {status}");
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (head, position) = (header("feed-head"), header("feed-position"));
    let text = answer.text().await.ok().filter(|_| status == 200)?;
    Some((head, position, text.parse().unwrap()))
}

/// Head, then `prev-archive` to the first page: what an RFC 5005 reader does. The oldest first.
pub async fn head_and_archives(client: &reqwest::Client, head: &str) -> Vec<String> {
    let get = async |url: &str| client.get(url).send().await.unwrap().text().await.unwrap().parse::<Feed>().unwrap();
    let head = get(head).await;
    let mut newest_first = ids(&head);
    let mut seen: HashSet<String> = newest_first.iter().cloned().collect();
    let mut previous = link(&head, "prev-archive").map(str::to_owned);
    while let Some(url) = previous {
        let page = get(&url).await;
        newest_first.extend(ids(&page).into_iter().rev().filter(|id| seen.insert(id.clone())));
        previous = link(&page, "prev-archive").map(str::to_owned);
    }
    newest_first.reverse();
    newest_first
}
