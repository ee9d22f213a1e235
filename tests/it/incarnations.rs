//! A journal that is restored, failed over or told something else: cursors of what may never have happened are refused, and
//! caches can't mix two lives of one journal.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

use crate::support::cluster::Cluster;
use crate::support::{Database, Engine, Gateway, event, events, json, provider, wait_for};

/// Runs the binary while the gateway goes on; gives its exit code and what it says.
async fn postern(arguments: &[&str], config: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).arg("--config").arg(config);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

fn config_of(gateway: &Gateway) -> PathBuf {
    gateway.dir.path().join("postern.toml")
}

async fn journal_id(gateway: &Gateway) -> String {
    json(gateway.get("/readyz").await).await["journal"]["id"].as_str().unwrap().to_owned()
}

async fn epoch(gateway: &Gateway) -> Value {
    let feeds = json(gateway.get("/feeds").await).await;
    let all = feeds["feeds"].as_array().unwrap().iter().find(|feed| feed["name"] == "all").unwrap();
    all["epoch"].clone()
}

async fn open_on(file: &Path) -> postern::app::Gateway {
    let text = format!("[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = \"sqlite://{}\"\n", file.display());
    let path = file.with_extension("toml");
    std::fs::write(&path, text).unwrap();
    let config = postern::config::Config::load(&path, &[]).unwrap();
    postern::app::Gateway::start(config, postern::app::Options::default()).await.unwrap()
}

#[tokio::test]
async fn a_backup_is_made_while_it_serves_and_opened_as_another_journal() {
    let gateway = Gateway::start().await;
    gateway.append(events(1..=5)).await;
    let id = journal_id(&gateway).await;
    let copies = tempfile::tempdir().unwrap();
    let file = copies.path().join("backup.db");
    let copy = async { postern(&["backup", file.to_str().unwrap()], &config_of(&gateway)).await };
    let (copied, ()) = tokio::join!(copy, async {
        for n in 6..=40 {
            gateway.append(vec![event(n)]).await;
        }
    });
    assert_eq!(copied.0, Some(0), "{}", copied.1);
    assert!(copied.1.contains("sealing key"), "{}", copied.1);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let again = postern(&["backup", file.to_str().unwrap()], &config_of(&gateway)).await;
    assert!(again.0 == Some(1) && again.1.contains("exists already"), "{}", again.1);
    // Another life: what the copy holds is a beginning of the journal.
    let restored = open_on(&file).await;
    let at = restored.journal().head().await.unwrap().position;
    assert!((5..=40).contains(&at), "{at}");
    assert_ne!(restored.journal().id(), id);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let after = |cursor: String| {
        let url = format!("http://{}/feeds/all.atom?after={cursor}", restored.address());
        let request = client.get(url);
        async move { request.send().await.unwrap().status().as_u16() }
    };
    assert_eq!(after(format!("{id}-{at}")).await, 200, "what it held is here, too");
    assert_eq!(after(format!("{id}-{}", at + 1)).await, 410, "what came later may be something else here");
    let feeds: Value = {
        let answer = client.get(format!("http://{}/feeds", restored.address())).send().await.unwrap();
        serde_json::from_str(&answer.text().await.unwrap()).unwrap()
    };
    assert!(!feeds.to_string().contains(epoch(&gateway).await.as_str().unwrap()), "its pages have other addresses");
    let second = restored.journal().id().to_owned();
    restored.stop().await;
    let same = open_on(&file).await;
    assert_eq!(same.journal().id(), second, "once");
    same.stop().await;
}

#[tokio::test]
async fn what_is_on_postgres_is_backed_up_by_postgres() {
    let gateway = Gateway::start_with(Engine::Postgres, "").await;
    let (code, said) = postern(&["backup", "/nowhere/x"], &config_of(&gateway)).await;
    assert!(code == Some(1) && said.contains("pg_dump"), "{said}");
}

#[tokio::test]
async fn a_standby_that_takes_over_is_another_journal() {
    let primary = Cluster::create();
    let standby = primary.standby();
    let text = |cluster: &Cluster| {
        let key = "q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=";
        let url = cluster.url();
        format!("[server]\nlisten = \"127.0.0.1:0\"\n[journal]\nurl = {url:?}\n[webhooks]\nsealing_key = {key:?}\n")
    };
    provider();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postern.toml");
    let start = async |cluster: &Cluster| {
        std::fs::write(&path, text(cluster)).unwrap();
        let config = postern::config::Config::load(&path, &[]).unwrap();
        postern::app::Gateway::start(config, postern::app::Options::default()).await.unwrap()
    };
    let append = async |gateway: &postern::app::Gateway, n: i64| {
        let arrivals = vec![crate::support::arrival(event(n))];
        let append = postern::journal::Append { source: "cart".to_owned(), arrivals, ..Default::default() };
        gateway.journal().append(append).await.unwrap();
    };
    let first = start(&primary).await;
    append(&first, 1).await;
    let id = first.journal().id().to_owned();
    first.stop().await;
    let again = start(&primary).await;
    assert_eq!(again.journal().id(), id, "a restart changes nothing");
    standby.start();
    wait_for("the standby to catch up", || async {
        let mut connection = PgConnection::connect(&standby.url()).await.ok()?;
        sqlx::query_scalar::<_, i64>("select position from journal where position = 1")
            .fetch_optional(&mut connection)
            .await
            .ok()?
    })
    .await;
    standby.promote();
    // What the standby never got.
    append(&again, 2).await;
    again.stop().await;
    let taken_over = start(&standby).await;
    assert_ne!(taken_over.journal().id(), id);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (cursor, status) in [(1, 200), (2, 410)] {
        let url = format!("http://{}/feeds/all.atom?after={id}-{cursor}", taken_over.address());
        assert_eq!(client.get(url).send().await.unwrap().status(), status, "{cursor}");
    }
    taken_over.stop().await;
}

#[tokio::test]
async fn a_gateway_under_which_the_journal_is_exchanged_stops() {
    let gateway = Gateway::start_with(Engine::Postgres, "").await;
    let mut connection = PgConnection::connect(&gateway.journal_url).await.unwrap();
    sqlx::query("update journal set id = 'ffffffff'").execute(&mut connection).await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(30), gateway.app().failed().cancelled()).await.unwrap();
}

#[tokio::test]
async fn what_gateways_agree_on_is_changed_on_purpose_only() {
    let database = Database::create(Engine::Postgres).await;
    provider();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("postern.toml");
    let start = async |public_url: &str| {
        let key = "q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=";
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\npublic_url = {public_url:?}\n[journal]\nurl = {:?}\n\
             [webhooks]\nsealing_key = {key:?}\n",
            database.url
        );
        std::fs::write(&path, text).unwrap();
        let config = postern::config::Config::load(&path, &[]).unwrap();
        postern::app::Gateway::start(config, postern::app::Options::default()).await
    };
    start("https://one.example").await.unwrap().stop().await;
    let refused = start("https://two.example").await.err().unwrap();
    assert!(refused.to_string().contains("migrate --set public_url=https://two.example"), "{refused}");
    let (code, said) = postern(&["migrate", "--set", "public_url=https://two.example"], &path).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("up to date"), "{said}");
    start("https://two.example/").await.unwrap().stop().await;
    let (code, said) = postern(&["migrate", "--set", "colour=red"], &path).await;
    assert!(code == Some(1) && said.contains("known are"), "{said}");
}
