//! `postern check`: everything that can be known before starting. Writes nothing. Exit 1 on any fault.

use std::process::ExitCode;

use crate::catalogue::Catalogue;
use crate::config::Config;
use crate::journal::{self, Journal};
use crate::outlet::{feed, graphql, webhook};
use crate::web::auth::Auth;
use crate::{source, telemetry, web};

pub async fn run(arguments: super::ConfigArgument) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let config = super::load(&arguments.config)?;
    let mut report = Report::default();
    report.add("configuration", Ok(format!("{} is readable", arguments.config.display())));
    report.add("server", server(&config));
    report.add("webhooks", webhooks(&config));
    report.add(
        "feeds",
        feed::check(&config.all_feeds, &config.feeds).map(|()| format!("`all` and {} more", config.feeds.len())),
    );
    report.add("journal", journal(&config.journal).await);
    let names = source::check_names(&config.sources).map_err(|cause| cause.to_string());
    report.add("sources", names.map(|()| config.sources.len().to_string()));
    let catalogue = config.catalogue();
    report.add(
        "catalogue",
        catalogue.as_ref().map(|_| format!("{} event types", config.events.len())).map_err(Clone::clone),
    );
    let catalogue = catalogue.unwrap_or_default();
    report.add("graphql", graphql(&config, &catalogue));
    for source in &config.sources {
        let checked = source::check(source, &catalogue).await;
        let notes = || source.notes.iter().map(|note| format!("\n  {note}")).collect::<String>();
        let checked =
            checked.map_err(|cause| format!("{cause}{}", notes())).and_then(|checked| match checked.is_hopeless() {
                true => Err(format!("no row can be mapped\n{checked}")),
                false => Ok(checked.to_string()),
            });
        report.add(&source.name, checked);
    }
    super::print(if report.faults == 0 { "no fault found\n" } else { "faults found\n" });
    Ok(if report.faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The schema, and whether the trusted documents are valid under it.
fn graphql(config: &Config, catalogue: &Catalogue) -> Result<String, String> {
    let faults = graphql::Schema::new(catalogue)?.document_faults(&config.graphql)?;
    if faults.is_empty() {
        return Ok(format!("{} event types with a schema", catalogue.schemas().len()));
    }
    let lines = faults.into_iter().map(|(id, fault)| format!("\n  the trusted document `{id}`: {fault}"));
    Err(format!("documents that are not valid{}", lines.collect::<String>()))
}

#[derive(Default)]
struct Report {
    faults: usize,
}

impl Report {
    fn add(&mut self, what: &str, result: Result<String, String>) {
        match result {
            Ok(fine) => super::print(&format!("{what}: {fine}\n")),
            Err(fault) => {
                self.faults += 1;
                super::print(&format!("{what}: FAULT: {fault}\n"));
            }
        }
    }
}

fn server(config: &Config) -> Result<String, String> {
    let listen = config.server.listen;
    let auth = Auth::new(&config.auth, &config.clients)?;
    let site = web::Site::new(&config.server, listen)?;
    match auth.is_open() {
        true if !listen.ip().is_loopback() => Err(format!("{listen} is public and no [[client]] is configured")),
        true => Ok(format!("{listen}, open to everybody on this machine, as {}", site.public_url)),
        false => {
            let issuer = config.auth.jwt.as_ref().map(|jwt| format!(" and tokens of {}", jwt.issuer));
            let clients = format!("{} clients{}", config.clients.len(), issuer.unwrap_or_default());
            Ok(format!("{listen}, for {clients}, as {}", site.public_url))
        }
    }
}

fn webhooks(config: &Config) -> Result<String, String> {
    config.webhooks.outgoing()?;
    webhook::check(&config.webhooks, &config.journal.url).map_err(|cause| cause.to_string())?;
    Ok(format!("may call public addresses by https, and {:?}", config.webhooks.allow))
}

async fn journal(config: &journal::Config) -> Result<String, String> {
    let place = journal::redacted(&config.url);
    let journal = Journal::open_to_read(config).await.map_err(|cause| format!("{place}: {cause}"))?;
    let Some(journal) = journal else { return Ok(format!("{place}, will be made at the first start")) };
    let head = journal.head().await.map_err(|cause| format!("{place}: {cause}"))?;
    Ok(format!("{place}, {} events", head.position))
}
