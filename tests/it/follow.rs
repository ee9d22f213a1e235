//! `postern follow` against a gateway.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use postern::event::Event;

use crate::support::{Engine, Gateway, event, events, wait_for};

fn follow(dir: &Path, url: &str, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.arg("follow").arg(url).args(more).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The ids of whole lines.
fn ids(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned();
    lines.map(id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_written_once_whoever_is_killed() {
    let mut gateway = Gateway::start_with(Engine::Sqlite, "[[feed]]\nname = \"all\"\npage_size = 7\n").await;
    let dir = tempfile::tempdir().unwrap();
    let (out, url) = (dir.path().join("events.jsonl"), gateway.url("/feeds/all.atom"));
    let mut last = 0;
    for round in 1..=6 {
        gateway.append(events(last + 1..=last + 50)).await;
        last += 50;
        let mut child = follow(dir.path(), &url, &["--out", "events.jsonl"]);
        // Somewhere on its way, and once after everything.
        let enough = if round == 3 { last } else { last - 40 };
        let is_there = || async { (ids(&out).len() as i64 >= enough).then_some(()) };
        wait_for("lines", is_there).await;
        if round % 2 == 0 {
            gateway.restart().await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let ended = follow(dir.path(), &url, &["--out", "events.jsonl", "--once"]).wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ids(&out), (1..=last).map(|n| event(n).id).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_lines_are_printed_and_faults_are_told() {
    let gateway = Gateway::start().await;
    let broken = Event { data: "{\n  \"a\":\r\n [1,\n2]\n}".to_owned(), ..event(3) };
    gateway.append(events(1..=2).into_iter().chain([broken]).collect()).await;
    let dir = tempfile::tempdir().unwrap();
    let url = gateway.url("/feeds/all");
    let printed = follow(dir.path(), &url, &["--once", "--after", "1"]).wait_with_output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap().lines().count(), 2);
    let again = follow(dir.path(), &url, &["--once"]).wait_with_output().unwrap();
    assert!(again.stdout.is_empty(), "the cursor is kept");
    for (url, more, says) in [
        (gateway.url("/feeds/none"), vec!["--cursor", "a"], "there is no feed `none`"),
        (url.clone(), vec!["--cursor", "b", "--after", "nobody"], "nobody"),
        (url.clone(), vec!["--out", "b"], "shorter than the cursor file says"),
    ] {
        let refused = follow(dir.path(), &url, &more).wait_with_output().unwrap();
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(1) && said.contains(says), "{more:?}: {said}");
    }
}
