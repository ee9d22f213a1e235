//! The clients of `docs/graphql.md`, generated and run as they stand there.

use std::path::Path;
use std::process::Command;

use postern::event::Event;
use serde_json::json;

use crate::support::{Gateway, event};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of the page: its name stands behind the language of its block.
fn write(folder: &Path, file: &str) {
    let page = include_str!("../../docs/graphql.md");
    let (_, from) = page.split_once(&format!(" {file}\n")).unwrap_or_else(|| panic!("no {file} in the page"));
    std::fs::write(folder.join(file), from.split_once("```\n").unwrap().0).unwrap();
}

/// A gateway with two orders, and a folder with its schema.
async fn shop() -> (Gateway, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let line = json!({ "properties": { "sku": { "type": "string" }, "qty": { "type": "integer", "maximum": 99 } } });
    let schema = json!({ "properties": {
        "orderId": { "type": "string" }, "total": { "type": "number" }, "lines": { "type": "array", "items": line }
    } });
    let mut gateway = Gateway::start().await;
    std::fs::write(gateway.dir.path().join("placed.json"), schema.to_string()).unwrap();
    gateway.reconfigure("[events.OrderPlaced]\nschema = \"placed.json\"\n").await;
    let placed = |n: i64| {
        let data =
            json!({ "orderId": format!("o-{n}"), "total": 1.5, "lines": [{ "sku": "a" }, { "sku": "b", "qty": 2 }] });
        Event { r#type: "OrderPlaced".to_owned(), data: data.to_string(), ..event(n) }
    };
    gateway.append(vec![placed(1), event(2), placed(3)]).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    let schema = command.args(["schema", "--config"]).arg(gateway.dir.path().join("postern.toml")).output().unwrap();
    std::fs::write(folder.path().join("schema.graphql"), schema.stdout).unwrap();
    (gateway, folder)
}

/// Runs a program in the folder and gives what it prints.
async fn run(gateway: &Gateway, folder: &Path, program: String, arguments: &[&str]) -> String {
    let mut command = Command::new(&program);
    command.args(arguments).current_dir(folder);
    command.env("FEED", gateway.url("/feeds/all.json")).env("GRAPHQL", gateway.url("/graphql"));
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap();
    let output = output.unwrap_or_else(|cause| panic!("{program} is missing, run scripts/test: {cause}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const EXPECTED: &str = "o-3 1.5 a b\no-1 1.5 a b\n";

#[tokio::test(flavor = "multi_thread")]
async fn typescript_gets_the_details_of_a_feed_page() {
    let (gateway, folder) = shop().await;
    let folder = folder.path();
    ["codegen.ts", "detail.ts"].iter().for_each(|file| write(folder, file));
    let modules = format!("{ROOT}/tests/node/node_modules");
    assert!(Path::new(&modules).exists(), "run scripts/test, or npm ci --prefix tests/node");
    std::os::unix::fs::symlink(&modules, folder.join("node_modules")).unwrap();
    let tool = |name: &str| format!("{modules}/.bin/{name}");
    run(&gateway, folder, tool("graphql-codegen"), &[]).await;
    let compile = "--strict --skipLibCheck --target es2022 --module commonjs --types node detail.ts";
    let compile: Vec<&str> = compile.split(' ').collect();
    run(&gateway, folder, tool("tsc"), &compile).await;
    assert_eq!(run(&gateway, folder, "node".to_owned(), &["detail.js"]).await, EXPECTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_gets_the_details_of_a_feed_page() {
    let (gateway, folder) = shop().await;
    let folder = folder.path();
    ["pyproject.toml", "detail.graphql", "detail.py"].iter().for_each(|file| write(folder, file));
    let tool = |name: &str| format!("{ROOT}/target/tools/python/bin/{name}");
    run(&gateway, folder, tool("ariadne-codegen"), &[]).await;
    assert_eq!(run(&gateway, folder, tool("python"), &["detail.py"]).await, EXPECTED);
}
