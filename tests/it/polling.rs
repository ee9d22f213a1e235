//! The programs of `docs/polling.md`, as they stand there.

use std::path::Path;
use std::process::Command;

use crate::support::{Engine, Gateway, event, events};

/// A program as it is run: its language in the page, the file's name, what runs it and on which packages.
const PROGRAMS: [(&str, &str, &str, &str); 5] = [
    ("sh", "poll.sh", "sh", "curl"),
    ("python", "poll.py", "python3", "python3"),
    ("js", "poll.mjs", "node", "nodejs"),
    ("php", "poll.php", "php", "php-cli"),
    ("java", "Poll.java", "java", "default-jdk-headless"),
];

fn program(language: &str) -> String {
    let page = include_str!("../../docs/polling.md");
    let (_, from) = page.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```\n").unwrap().0.to_owned()
}

/// Runs it in a folder and gives the lines that it prints.
async fn run(folder: &Path, which: (&str, &str, &str, &str), feed: String) -> Vec<String> {
    let (language, file, runner, package) = which;
    std::fs::write(folder.join(file), program(language)).unwrap();
    let mut command = Command::new(runner);
    command.arg(folder.join(file)).env("FEED", feed).env("STATE", folder.join("state")).current_dir(folder);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap_or_else(|cause| panic!("{runner} is needed (Debian's package {package}): {cause}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{language}: {errors}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn atom_ids(range: std::ops::RangeInclusive<i64>) -> Vec<String> {
    range.map(|n| format!("urn:uuid:{}", event(n).id)).collect()
}

async fn each_event_once(language: &str) {
    let gateway = Gateway::start_with(Engine::Sqlite, "[[feed]]\nname = \"all\"\npage_size = 10\n").await;
    let which = PROGRAMS.into_iter().find(|(name, ..)| *name == language).unwrap();
    let extension = if language == "sh" { "atom" } else { "json" };
    let feed = gateway.url(&format!("/feeds/all.{extension}"));
    let folder = gateway.dir.path().join(language);
    std::fs::create_dir(&folder).unwrap();
    for (from, to) in [(1, 25), (26, 25), (26, 30), (31, 47)] {
        if to >= from {
            gateway.append(events(from..=to)).await;
        }
        assert_eq!(run(&folder, which, feed.clone()).await, atom_ids(from..=to), "{language}, {from} to {to}");
    }
    // Of another journal, as after a restored backup: told where to go on.
    let embed = if matches!(language, "sh" | "java") { "" } else { "&embed=data" };
    let feed_of_state = gateway.url(if embed.is_empty() { "/feeds/all.atom" } else { "/feeds/all.json" });
    std::fs::write(folder.join("state"), format!("{feed_of_state}?after=00000000-7{embed}")).unwrap();
    assert_eq!(run(&folder, which, feed).await, atom_ids(1..=47), "{language}, another journal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_reads_each_event_once() {
    each_event_once("sh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_reads_each_event_once() {
    each_event_once("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_reads_each_event_once() {
    each_event_once("js").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn php_reads_each_event_once() {
    each_event_once("php").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn java_reads_each_event_once() {
    each_event_once("java").await;
}
