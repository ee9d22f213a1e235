//! Blocks of a page that are run as they stand, in their order, in one folder and one shell:
//!
//! - `sh run`: run by bash; what fails, be it an HTTP answer, fails the test. A block `text` behind it is what it prints,
//!   where `…` stands for anything.
//! - `sh serve`: runs until the page ends. A page without one has `postern demo`.
//! - `toml postern.toml` is written, `sql shop.db` is run on that SQLite file.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::BINARY;
use super::pages::{Block, Page, pages};
use crate::support::{provider, run, wait_for};

/// What a shell says when a block is done.
const DONE: &str = "--- the block is done ---";

macro_rules! run_as_they_stand {
    ($($name:ident: $page:literal)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(#[tokio::test(flavor = "multi_thread")] async fn $name() { run_page($page).await; })*
    };
}

run_as_they_stand! {
    readme: "README.md"
    concepts: "docs/concepts.md"
    security: "docs/security.md"
    sources: "docs/sources.md"
    upgrade: "docs/upgrade.md"
    webhooks: "docs/webhooks.md"
}

fn is(block: &Block, language: &str, name: &str) -> bool {
    (block.language.as_str(), block.name.as_str()) == (language, name)
}

#[test]
fn every_page_that_says_so_is_run() {
    for page in pages() {
        let says_so = page.blocks().iter().any(|block| is(block, "sh", "run"));
        assert_eq!(says_so, PAGES.contains(&page.path.as_str()), "{}", page.path);
    }
}

/// The first of three in a row: the gateway's, its demo's receiver's, and one at which nobody listens. Below those that the
/// kernel gives to whoever asks for any.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 30_200 + u16::try_from(std::process::id() % 2_000).unwrap();
    loop {
        let port = first + NEXT.fetch_add(3, Ordering::Relaxed);
        if (port..port + 3).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return port;
        }
    }
}

/// Killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Place {
    folder: tempfile::TempDir,
    port: u16,
    client: reqwest::Client,
}

impl Place {
    fn new() -> Self {
        provider();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(BINARY, folder.path().join("bin/postern")).unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { folder, port: free_ports(), client }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A block as it is run here: with ports of our own.
    fn text(&self, block: &Block) -> String {
        let port = |port: u16| format!("127.0.0.1:{port}");
        block.text.replace("127.0.0.1:8080", &port(self.port)).replace("127.0.0.1:9000", &port(self.port + 2))
    }

    fn bash(&self, log: &str) -> Command {
        let mut command = Command::new("bash");
        let path = format!("{}:{}", self.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env("PATH", path).env("POSTERN_SERVER__LISTEN", format!("127.0.0.1:{}", self.port));
        command.current_dir(self.path()).stderr(File::create(self.path().join(log)).unwrap());
        command
    }

    async fn json(&self, path: &str) -> Option<Value> {
        let answer = self.client.get(format!("http://127.0.0.1:{}{path}", self.port)).send().await.ok()?;
        serde_json::from_str(&answer.error_for_status().ok()?.text().await.ok()?).ok()
    }

    /// Starts what serves, and waits until it has read all that there is.
    async fn serve(&self, command: &str) -> Running {
        let mut bash = self.bash("serve.log");
        bash.args(["-c", &format!("exec {command}")]).stdin(Stdio::null()).stdout(Stdio::null());
        let running = Running(bash.spawn().expect("bash is needed"));
        let is_read = |source: &Value| {
            source["kind"] == "push" || (source["healthy"] == true && source["lagSeconds"].is_number())
        };
        let all_read = || async {
            self.json("/sources").await.filter(|sources| sources["items"].as_array().unwrap().iter().all(is_read))
        };
        wait_for(&format!("`{command}` to have read its sources"), all_read).await;
        running
    }

    /// With some of each type of events.
    async fn demo(&self) -> Running {
        let demo = self.serve(&format!("postern demo --listen 127.0.0.1:{} --rate 100", self.port)).await;
        let checked_out = || async {
            self.json("/feeds/checkouts.json").await.filter(|feed| !feed["items"].as_array().unwrap().is_empty())
        };
        wait_for("a cart that is checked out", checked_out).await;
        demo
    }
}

/// A shell that keeps its variables from block to block.
struct Shell {
    running: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    errors: PathBuf,
}

impl Shell {
    fn start(place: &Place) -> Self {
        let mut bash = place.bash("shell.log");
        let mut child = bash.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("bash is needed");
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut shell = Self { running: Running(child), input, output, errors: place.path().join("shell.log") };
        let curl = "curl() { command curl --fail-with-body --max-time 60 --noproxy '*' \"$@\"; }";
        shell.run(&format!("set -euo pipefail\n{curl}\n"));
        shell
    }

    /// What the block prints.
    fn run(&mut self, text: &str) -> String {
        writeln!(self.input, "{text}\nprintf '\\n%s\\n' '{DONE}'").unwrap();
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).unwrap() == 0 {
                let errors = std::fs::read_to_string(&self.errors).unwrap_or_default();
                let ended = self.running.0.wait().unwrap();
                panic!("{ended} in\n{text}\nwhich printed\n{printed}\n{errors}");
            }
            if line.trim_end() == DONE {
                return printed;
            }
            printed += &line;
        }
    }
}

/// Whether a text is what is shown, where `…` stands for anything.
fn fits(shown: &str, text: &str) -> bool {
    let parts: Vec<&str> = shown.trim().split('…').collect();
    let [first, middle @ .., last] = parts.as_slice() else { return shown.trim() == text.trim() };
    let Some(mut rest) = text.trim().strip_prefix(*first) else { return false };
    for part in middle {
        let Some(at) = rest.find(*part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(*last)
}

async fn run_page(path: &str) {
    let (place, blocks) = (Place::new(), Page::read(path).blocks());
    let mut serving = Vec::new();
    if !blocks.iter().any(|block| is(block, "sh", "serve")) {
        serving.push(place.demo().await);
    }
    let mut shell = Shell::start(&place);
    let mut printed = None;
    for block in &blocks {
        let text = place.text(block);
        match (block.language.as_str(), block.name.as_str()) {
            ("sh", "run") => printed = Some(shell.run(&text)),
            ("sh", "serve") => serving.push(place.serve(text.trim()).await),
            ("toml", "postern.toml") => std::fs::write(place.path().join("postern.toml"), text).unwrap(),
            ("sql", "shop.db") => {
                let file = SqliteConnectOptions::new().filename(place.path().join("shop.db")).create_if_missing(true);
                let mut connection = SqliteConnection::connect_with(&file).await.unwrap();
                run!(connection, text);
                connection.close().await.unwrap();
            }
            ("text", _) => {
                if let Some(printed) = printed.take() {
                    assert!(fits(&text, &printed), "{path} shows\n{text}\nbut it prints\n{printed}");
                }
            }
            _ => {}
        }
    }
}
