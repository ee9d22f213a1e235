//! The GraphQL clients and judges of `tests/node`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

/// A script with its arguments.
pub fn node(script: &str, arguments: &[&str]) -> Command {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/node");
    assert!(
        std::path::Path::new(folder).join("node_modules").exists(),
        "the GraphQL clients are not installed: run scripts/test, or npm ci --prefix tests/node"
    );
    let mut command = Command::new("node");
    command.arg(format!("{folder}/{script}")).args(arguments).current_dir(folder);
    command
}

/// Runs a script to its end and gives what it prints.
pub async fn run(script: &'static str, arguments: &[&str], input: String) -> String {
    let mut command = node(script, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|cause| panic!("node is needed (Debian's package nodejs): {cause}"));
    let output = tokio::task::spawn_blocking(move || {
        // A script that has no use for it may end before.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    });
    let output = output.await.unwrap();
    let (out, errors) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{script}: {out}{errors}");
    out
}

/// The same, where it prints JSON.
pub async fn run_json(script: &'static str, arguments: &[&str], input: &Value) -> Value {
    serde_json::from_str(&run(script, arguments, input.to_string()).await).unwrap()
}
