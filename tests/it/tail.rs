//! `postern tail` beside a gateway.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::support::{Engine, Gateway, events};

fn tail(gateway: &Gateway, more: &[&str]) -> (Child, impl Iterator<Item = String>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    let config = gateway.dir.path().join("postern.toml");
    command.args(["tail", "--config"]).arg(config).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    (child, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_prints_what_is_there_and_what_comes() {
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let gateway = Gateway::start_with(engine, "").await;
        gateway.append(events(1..=10)).await;
        let (mut child, mut lines) = tail(&gateway, &["--after", "8"]);
        assert!(lines.next().unwrap().starts_with("9 "));
        let tenth = lines.next().unwrap();
        gateway.append(events(11..=11)).await;
        assert!(lines.next().unwrap().starts_with("11 "));
        child.kill().unwrap();
        child.wait().unwrap();
        let event = &events(10..=10)[0];
        let expected = format!(" {} {} {}: ", event.r#type, event.key(), event.id);
        assert!(tenth.starts_with("10 ") && tenth.contains(&expected), "{tenth}");

        let (mut child, mut lines) = tail(&gateway, &["--after", "0", "--filter", "{ types = [\"CheckedOut\"] }"]);
        assert!(lines.next().unwrap().contains(" CheckedOut "));
        child.kill().unwrap();
        child.wait().unwrap();

        let (child, _) = tail(&gateway, &["--filter", "{ typs = [] }"]);
        let said = child.wait_with_output().unwrap();
        assert_eq!(said.status.code(), Some(1));
        assert!(String::from_utf8(said.stderr).unwrap().contains("write it as '{ types"));
    }
}
