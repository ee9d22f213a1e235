//! `postern doctor`: what looks wrong, and no secret.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Gateway;
use crate::support::webhooks::register;

async fn doctor(config: &Path, more: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.arg("doctor").args(more).arg("--config").arg(config);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn a_report_tells_much_and_no_secret() {
    let config = format!(
        "[[source]]\nname = \"billing\"\npush = true\n\
         [[source]]\nname = \"cart\"\nurl = \"postgres://reader:SECRET-1@127.0.0.1:1/shop?password=SECRET-2\"\n\
         table = \"t\"\n[source.columns]\nsequence = \"a\"\nid = \"a\"\ntype = \"a\"\naggregate_type = \"a\"\n\
         aggregate_id = \"a\"\noccurred_at = \"a\"\ndata = \"a\"\n\
         [[source]]\nname = \"partner\"\nfeed = \"https://user:SECRET-3@partner.invalid/feed?key=SECRET-4\"\n\
         [webhooks]\nallow = [\"127.0.0.1\"]\nsealing_key = \"q83vEjRWeJC6mP3VbQ7mR1Yk0n8qk0u9cZ3vQ2lH0fE=\"\n\
         proxy = \"http://user:SECRET-6@127.0.0.1:9\"\n\
         [[client]]\nname = \"erp\"\ntoken_hash = \"sha256:{}\"\nscopes = [\"read\", \"webhooks\", \"admin\"]\n",
        "ab".repeat(32)
    );
    let gateway = Gateway::start_with(crate::support::Engine::Sqlite, &config).await;
    let path = gateway.dir.path().join("postern.toml");
    for more in [&[] as &[&str], &["--json"]] {
        let (code, said) = doctor(&path, more).await;
        assert_eq!(code, Some(1), "sources that were never read are findings: {said}");
        assert!(said.contains("source `cart` has never journaled anything"), "{said}");
        for secret in ["SECRET", "q83vEj", "abababab"] {
            assert!(!said.contains(secret), "{secret} in {said}");
        }
    }
    let (_, said) = doctor(&path, &["--json"]).await;
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["facts"]["journal"]["position"], 0);
    assert_eq!(report["facts"]["configuration"]["clients"][0]["name"], "erp");
}

#[tokio::test]
async fn what_looks_wrong_is_said_first() {
    let gateway = Gateway::start().await;
    register(&gateway, json!({"url": "http://127.0.0.1:9/hook"})).await;
    let path = gateway.dir.path().join("postern.toml");
    let journal = gateway.dir.path().join("journal.db");
    std::fs::set_permissions(&journal, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (code, said) = doctor(&path, &[]).await;
    assert_eq!((code, said.lines().next()), (Some(0), Some("nothing looks wrong")), "{said}");
    assert!(said.contains("active: 1"), "{said}");
    std::fs::set_permissions(&journal, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = doctor(&path, &[]).await;
    assert!(code == Some(1) && said.starts_with("! the journal ") && said.contains("chmod"), "{said}");
    // The journal is away, or the configuration is none.
    let away = gateway.dir.path().join("away.toml");
    std::fs::write(&away, "[journal]\nurl = \"postgres://nobody:SECRET@127.0.0.1:1/x\"\n").unwrap();
    let (code, said) = doctor(&away, &[]).await;
    assert!(code == Some(1) && said.contains("can't be opened") && !said.contains("SECRET"), "{said}");
    std::fs::write(&away, "[jurnal]\n").unwrap();
    let (code, said) = doctor(&away, &[]).await;
    assert!(code == Some(1) && said.contains("did you mean `journal`"), "{said}");
}
