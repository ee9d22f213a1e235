//! `postern follow`: the reference replicator. Every event once, as a line of JSON, whatever is killed in between: ask for
//! what follows the last answer, write it down, then write down where the next one starts.

use std::fs::{File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep};
use url::Url;

use crate::json::Plain;
use crate::runtime::Backoff;
use crate::telemetry;
use crate::web::outgoing::{self, Outgoing};

/// Seconds that the server may wait for something new.
const WAIT: &str = "20";
/// A whole answer, with the wait.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Between two empty answers of a server that did not wait.
const PAUSE: Duration = Duration::from_secs(1);
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The variable that holds the bearer token, if one is needed.
const TOKEN: &str = "POSTERN_TOKEN";

#[derive(clap::Args)]
pub struct Arguments {
    /// The URL of a feed of a Postern, in any of its formats. A token is read from POSTERN_TOKEN.
    url: Url,
    /// The file that keeps how far was read.
    #[arg(long, default_value = "postern-follow.cursor")]
    cursor: PathBuf,
    /// Append the lines to this file instead of printing them: then none is there twice, even after a kill -9.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Where to start as long as there is no cursor file: an event id, a cursor or a position.
    #[arg(long, default_value = "0", value_name = "ID")]
    after: String,
    /// End once everything is read.
    #[arg(long)]
    once: bool,
}

/// What the cursor file holds.
#[derive(Serialize, Deserialize)]
struct Cursor {
    /// What to ask for next.
    next: String,
    /// So many bytes of the output file belong to what was read; what is behind them was cut off by a kill.
    bytes: u64,
}

#[derive(Deserialize)]
struct Feed<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
    next_url: Option<String>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(rename = "_event", borrow)]
    event: Option<&'a RawValue>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let host = arguments.url.host_str().context("the URL of a feed starts with https:// or http://")?;
    let outgoing = Outgoing::new(&[host.to_owned()]).map_err(anyhow::Error::msg)?;
    let mut cursor = match std::fs::read(&arguments.cursor) {
        Ok(kept) => serde_json::from_slice(&kept)
            .with_context(|| format!("{} is no cursor file", arguments.cursor.display()))?,
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            Cursor { next: first(&arguments.url, &arguments.after).into(), bytes: 0 }
        }
        Err(cause) => return Err(cause).with_context(|| format!("can't read {}", arguments.cursor.display())),
    };
    let mut out = arguments.out.as_deref().map(|path| open(path, cursor.bytes)).transpose()?;
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        let (asked, url) = (Instant::now(), Url::parse(&cursor.next)?);
        ensure!(
            url.origin() == arguments.url.origin(),
            "the feed goes on at {url}: follow it at the URL that it gives itself, with a cursor file of its own"
        );
        let answer = match fetch(&outgoing, &waiting(url, !arguments.once)).await? {
            Ok(answer) => answer,
            Err(cause) => {
                let wait = backoff.next_wait();
                eprintln!("{cause}; will retry in {}s", wait.as_secs());
                sleep(wait).await;
                continue;
            }
        };
        backoff.reset();
        let (lines, next) = read(&answer)?;
        write(out.as_mut(), &lines)?;
        if next != cursor.next {
            cursor = Cursor { next, bytes: cursor.bytes + lines.len() as u64 };
            keep(&arguments.cursor, &cursor)?;
        }
        if lines.is_empty() && arguments.once {
            return Ok(ExitCode::SUCCESS);
        }
        if lines.is_empty() && asked.elapsed() < PAUSE {
            sleep(PAUSE).await;
        }
    }
}

/// The events of an answer as lines, and what follows them.
fn read(answer: &[u8]) -> anyhow::Result<(String, String)> {
    let feed: Feed<'_> = serde_json::from_slice(answer).context("the answer is no JSON Feed")?;
    let mut lines = String::new();
    for item in &feed.items {
        let event = item.event.context("an item has no `_event`: is this the feed of a Postern?")?;
        // A line break between the parts of a JSON text means nothing.
        lines.extend(event.get().chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }));
        lines.push('\n');
    }
    Ok((lines, feed.next_url.context("the answer does not say what follows")?))
}

fn write(out: Option<&mut File>, lines: &str) -> anyhow::Result<()> {
    match out {
        Some(file) => {
            file.write_all(lines.as_bytes())?;
            file.sync_data()?;
        }
        None => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(lines.as_bytes())?;
            stdout.flush()?;
        }
    }
    Ok(())
}

/// The feed as JSON with the events whole, from here on.
fn first(feed: &Url, after: &str) -> Url {
    let mut url = feed.clone();
    let path = url.path().trim_end_matches('/');
    let name =
        [".atom", ".json", ".rss", ".cloudevents", ".html"].iter().find_map(|extension| path.strip_suffix(extension));
    let path = format!("{}.json", name.unwrap_or(path));
    url.set_path(&path);
    url.query_pairs_mut().append_pair("after", after).append_pair("embed", "data");
    url
}

/// The same place, asked for with or without a wait. (What follows an answer that was waited for says so, too.)
fn waiting(mut url: Url, waits: bool) -> Url {
    let others: Vec<(String, String)> =
        url.query_pairs().filter(|(name, _)| name != "wait").map(|(name, value)| (name.into(), value.into())).collect();
    let wait = waits.then(|| ("wait".to_owned(), WAIT.to_owned()));
    url.query_pairs_mut().clear().extend_pairs(others.into_iter().chain(wait));
    url
}

/// The inner error passes; the outer one needs somebody.
async fn fetch(outgoing: &Outgoing, url: &Url) -> anyhow::Result<Result<Vec<u8>, String>> {
    let mut request = outgoing.client(url)?.get(url.clone()).timeout(TIMEOUT);
    if let Ok(token) = std::env::var(TOKEN) {
        request = request.bearer_auth(token);
    }
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(cause) => return Ok(Err(format!("can't reach {}: {cause}", url.origin().ascii_serialization()))),
    };
    let (status, body) = (response.status(), outgoing::body(&mut response, ANSWER_BYTES_MAX).await);
    let body = match body {
        Ok(body) => body.context("an answer is larger than 64 MiB")?,
        Err(cause) => return Ok(Err(format!("an answer was cut off: {cause}"))),
    };
    if status.is_success() {
        return Ok(Ok(body));
    }
    let detail = serde_json::from_slice::<Plain>(&body).ok().map(|plain| plain.0);
    let detail = detail.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or_default();
    if status.is_server_error() || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) {
        return Ok(Err(format!("the server answers {status} {detail}")));
    }
    bail!("the server answers {status}: {detail}")
}

/// The output with nothing behind what the cursor knows.
fn open(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let shown = path.display();
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(path);
    let mut file = file.with_context(|| format!("can't write {shown}"))?;
    ensure!(
        file.metadata()?.len() >= bytes,
        "{shown} is shorter than the cursor file says: it is another one, or was cut"
    );
    file.set_len(bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// Replaced as a whole: a kill leaves the old one or the new one.
fn keep(path: &Path, cursor: &Cursor) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(cursor)?)?;
    file.sync_all()?;
    std::fs::rename(&new, path).with_context(|| format!("can't write {}", path.display()))
}
