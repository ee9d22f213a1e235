//! `postern doctor`: what somebody needs to know who is asked for help, without any secret.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::journal::{Journal, redacted, sqlite_path};
use crate::runtime::Clock;
use crate::telemetry;

/// A journal database whose clock differs by more than this is told of.
const CLOCKS_APART_MAX: i64 = 2_000_000;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    config: super::ConfigArgument,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// What was found out.
#[derive(Default)]
struct Report {
    /// What looks wrong.
    findings: Vec<String>,
    facts: Map<String, Value>,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("off");
    let mut report = Report::default();
    report.tell("version", env!("CARGO_PKG_VERSION"));
    report.tell("system", system());
    match super::load(&arguments.config.config) {
        Ok(config) => {
            report.configuration(&config);
            report.files(&config);
            report.journal(&config).await;
        }
        Err(cause) => report.findings.push(format!("the configuration can't be used: {cause}")),
    }
    let has_findings = !report.findings.is_empty();
    super::print(&if arguments.json { report.to_json() } else { report.to_text() });
    Ok(ExitCode::from(u8::from(has_findings)))
}

fn system() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or_default().trim_matches('"');
    let limits = read("/proc/self/limits");
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    json!({
        "os": name, "kernel": read("/proc/sys/kernel/osrelease"), "arch": std::env::consts::ARCH,
        "openFiles": files.split_whitespace().next(),
    })
}

impl Report {
    fn tell(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Names and numbers only: what is not listed here may be a secret.
    fn configuration(&mut self, config: &Config) {
        let sources = config.sources.iter().map(|source| {
            let place = source.feed.as_deref().unwrap_or(&source.url);
            json!({ "name": source.name, "place": redacted(place), "push": source.push, "follow": source.follow() })
        });
        let clients = config.clients.iter().map(|client| {
            let (token, password) = (client.token_hash.is_some(), client.password_hash.is_some());
            json!({ "name": client.name, "scopes": client.scopes, "token": token, "password": password })
        });
        let configuration = json!({
            "fingerprint": config.fingerprint,
            "listen": config.server.listen.to_string(),
            "publicUrl": config.server.public_url.as_deref().map(redacted),
            "tls": config.server.tls.is_some(),
            "trustedProxies": config.server.trusted_proxies,
            "retentionSeconds": config.journal.retention.map(|kept| kept.as_secs()),
            "sources": sources.collect::<Vec<_>>(),
            "feeds": config.feeds.iter().map(|feed| &feed.name).collect::<Vec<_>>(),
            "eventTypes": config.events.len(),
            "clients": clients.collect::<Vec<_>>(),
            "jwt": config.auth.jwt.is_some(),
            "webhookProxy": config.webhooks.proxy.is_some(),
            "webhookAllow": config.webhooks.allow,
        });
        self.tell("configuration", configuration);
    }

    /// Who may read what is secret.
    fn files(&mut self, config: &Config) {
        let journal = sqlite_path(&config.journal.url);
        let beside = journal.as_ref().map(|path| path.with_file_name("postern.key"));
        let key = config.webhooks.sealing_key_file.clone().or(beside);
        let tls = config.server.tls.as_ref();
        let files: [(&str, Option<PathBuf>); 4] = [
            ("the sealing key", key),
            ("the journal", journal),
            ("the certificate's key", tls.map(|tls| tls.key_file.clone())),
            ("the webhooks' client certificate", config.webhooks.client_cert_file.clone()),
        ];
        let mut shown = Vec::new();
        for (what, path) in files {
            let Some(path) = path else { continue };
            let Ok(metadata) = std::fs::metadata(&path) else {
                shown.push(json!({ "what": what, "path": path, "exists": false }));
                continue;
            };
            let mode = metadata.permissions().mode() & 0o777;
            shown.push(json!({ "what": what, "path": path, "mode": format!("{mode:o}"), "bytes": metadata.len() }));
            if mode & 0o007 != 0 {
                let path = path.display();
                self.findings.push(format!(
                    "{what} {path} can be read or written by everybody (mode {mode:o}): chmod o= {path}"
                ));
            }
        }
        self.tell("files", shown);
    }

    async fn journal(&mut self, config: &Config) {
        let place = redacted(&config.journal.url);
        let journal = match Journal::open_to_read(&config.journal).await {
            Ok(Some(journal)) => journal,
            Ok(None) => {
                return self.findings.push(format!("there is no journal {place} yet: was `postern serve` ever run?"));
            }
            Err(cause) => return self.findings.push(format!("the journal {place} can't be opened: {cause}")),
        };
        match self.look_into(&journal, config, &place).await {
            Ok(facts) => self.tell("journal", facts),
            Err(cause) => self.findings.push(format!("the journal {place} can't be read: {cause}")),
        }
    }

    async fn look_into(
        &mut self,
        journal: &Journal,
        config: &Config,
        place: &str,
    ) -> Result<Value, crate::journal::Error> {
        let head = journal.head().await?;
        let apart = journal.now().await? - Clock::system().now_micros();
        if apart.abs() > CLOCKS_APART_MAX {
            let seconds = apart / 1_000_000;
            self.findings.push(format!("the journal database's clock is {seconds} s apart from this machine's"));
        }
        let mut sources = Vec::new();
        for source in &config.sources {
            let Some(row) = journal.source(&source.name).await? else {
                self.findings.push(format!("source `{}` has never journaled anything", source.name));
                continue;
            };
            if row.quarantined > 0 {
                self.findings.push(format!("source `{}` has {} rows in quarantine", row.name, row.quarantined));
            }
            sources.push(json!({
                "name": row.name, "journaled": row.journaled, "withheld": row.withheld, "quarantined": row.quarantined,
                "changed": row.changed, "updatedAt": crate::event::Micros(row.updated_at).to_text(),
            }));
        }
        let mut webhooks: BTreeMap<&str, i64> = BTreeMap::new();
        let counts = journal.count_webhooks_by_status().await?;
        for count in &counts {
            *webhooks.entry(count.status.as_str()).or_default() += count.count;
            *webhooks.entry("failing").or_default() += count.failing;
        }
        for status in ["failing", "disabled", "selection_invalid"] {
            let count = webhooks.get(status).copied().unwrap_or(0);
            if count > 0 {
                self.findings.push(format!("{count} webhooks are {status}"));
            }
        }
        Ok(json!({
            "place": place, "id": journal.id(), "position": head.position, "oldest": head.oldest,
            "lastRecordedAt": head.recorded_at.to_text(), "schema": journal.schema_version().await?,
            "clockApartMicroseconds": apart, "sources": sources, "webhooks": webhooks,
        }))
    }

    fn to_json(&self) -> String {
        format!("{:#}\n", json!({ "findings": self.findings, "facts": self.facts }))
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        if self.findings.is_empty() {
            text.push_str("nothing looks wrong\n");
        }
        for finding in &self.findings {
            let _ = writeln!(text, "! {finding}");
        }
        for (name, value) in &self.facts {
            let _ = writeln!(text, "\n{name}");
            lines(&mut text, value, 1);
        }
        text
    }
}

/// One line a value, indented as it is nested.
fn lines(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::Object(_) | Value::Array(_) => {
                        let _ = writeln!(text, "{indent}{name}");
                        lines(text, value, depth + 1);
                    }
                    plain => _ = writeln!(text, "{indent}{name}: {plain}"),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| match item {
            Value::Object(_) | Value::Array(_) => _ = writeln!(text, "{indent}- {item}"),
            plain => _ = writeln!(text, "{indent}- {plain}"),
        }),
        plain => _ = writeln!(text, "{indent}{plain}"),
    }
}
