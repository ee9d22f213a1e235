//! Thousands of clients that wait for the next event: how much memory each takes, how soon all are answered, and what
//! others notice of it. The gateway is the release binary, in a process of its own.
//!
//! `cargo bench --bench feed_wait -- 5000`

#[path = "support/http.rs"]
mod http;

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Connection;
use tokio::sync::Barrier;

const WAITERS: usize = 5_000;
/// What one may take.
const TARGET_KIB: f64 = 32.0;

struct Serve {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    fn start(address: SocketAddr) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("postern.toml");
        let config = "[journal]\nurl = \"sqlite://journal.db\"\n[[source]]\nname = \"shop\"\npush = true\n";
        std::fs::write(&path, config)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
        command.args(["serve", "--config"]).arg(path).env("POSTERN_SERVER__LISTEN", address.to_string());
        let child = command.stderr(Stdio::null()).spawn()?;
        Ok(Self { child, _folder: folder })
    }

    fn resident_kib(&self) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let waiters = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(WAITERS);
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let serve = Serve::start(address)?;
    let mut other = loop {
        if let Ok(connection) = Connection::connect(address).await {
            break connection;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // The statements are prepared and the view is known before anything is counted.
    ask(&mut other, "/feeds/all.atom?after=0").await?;
    let before = serve.resident_kib()?;
    let (asked, answers) = (Arc::new(Barrier::new(waiters + 1)), Arc::new(Barrier::new(waiters + 1)));
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..waiters {
        let (asked, answers) = (Arc::clone(&asked), Arc::clone(&answers));
        waiting.spawn(wait(address, asked, answers));
        // The accept queue has a bound.
        if n % 100 == 99 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    asked.wait().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let each = (serve.resident_kib()? - before) / waiters as f64;
    let calm = slowest(&mut other, Duration::from_secs(3)).await?;

    let event = r#"{"specversion":"1.0","id":"1","source":"/bench","type":"T","data":{}}"#;
    let push = format!(
        "POST /sources/shop/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/cloudevents+json\r\n\
         content-length: {}\r\n\r\n{event}",
        event.len()
    );
    let pushed = Instant::now();
    ensure!(other.exchange(push.as_bytes()).await?.status() == 202, "the event was not taken");
    let busy = slowest(&mut other, Duration::from_millis(500)).await?;
    answers.wait().await;
    let mut times = Vec::with_capacity(waiters);
    while let Some(answer) = waiting.join_next().await {
        times.push(answer??.duration_since(pushed));
    }
    times.sort();
    println!("{waiters} clients wait: {each:.1} KiB each (target < {TARGET_KIB} KiB)");
    println!(
        "one event: the first answer after {:.0?}, half after {:.0?}, the last after {:.0?}",
        times[0],
        times[waiters / 2],
        times[waiters - 1]
    );
    println!("the head, asked meanwhile by another client: at most {busy:.1?} ({calm:.1?} while all wait)");
    Ok(())
}

/// Asks once and tells when the answer came.
async fn wait(address: SocketAddr, asked: Arc<Barrier>, answers: Arc<Barrier>) -> anyhow::Result<Instant> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    let mut connection = Connection::with_buffer(stream, 4 * 1024);
    connection.send(b"GET /feeds/all.atom?after=0&wait=60 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").await?;
    asked.wait().await;
    let answer = connection.receive().await?.context("an answer")?;
    let at = Instant::now();
    let is_whole = answer.status() == 200 && answer.body.windows(7).any(|text| text == b"<entry>");
    answers.wait().await;
    ensure!(is_whole, "not the event: {}", answer.head);
    Ok(at)
}

async fn ask(connection: &mut Connection, path: &str) -> anyhow::Result<()> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n");
    ensure!(connection.exchange(request.as_bytes()).await?.status() == 200, "{path} was not answered");
    Ok(())
}

async fn slowest(connection: &mut Connection, during: Duration) -> anyhow::Result<Duration> {
    let (until, mut slowest) = (Instant::now() + during, Duration::ZERO);
    while Instant::now() < until {
        let started = Instant::now();
        ask(connection, "/feeds/all.atom").await?;
        slowest = slowest.max(started.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(slowest)
}
