//! `postern check`: everything that can be known before starting. Exit 1 on any fault.

use std::process::ExitCode;

use crate::journal::{self, Journal};
use crate::runtime::{Clock, Tasks};
use crate::web::auth::Auth;
use crate::web::outgoing::Outgoing;
use crate::{source, telemetry};

pub async fn run(arguments: super::ConfigArgument) -> anyhow::Result<ExitCode> {
    telemetry::start("error");
    let config = super::load(&arguments.config)?;
    println!("configuration {}: readable", arguments.config.display());
    let mut faults = 0;
    let mut report = |what: &str, result: Result<String, String>| match result {
        Ok(fine) => println!("{what}: {fine}"),
        Err(fault) => {
            faults += 1;
            println!("{what}: FAULT: {fault}");
        }
    };
    let auth = Auth::new(&config.auth, &config.clients);
    let public = !config.server.listen.ip().is_loopback();
    report(
        "server",
        auth.and_then(|auth| match auth.is_open() {
            true if public => Err(format!("{} is public and no [[client]] is configured", config.server.listen)),
            true => Ok(format!("{}, open to everybody on this machine", config.server.listen)),
            false => Ok(format!("{}, for {} clients", config.server.listen, config.clients.len())),
        }),
    );
    report("webhooks", Outgoing::new(&config.webhooks.allow).map(|_| format!("allow {:?}", config.webhooks.allow)));
    report("journal", journal(&config.journal).await);
    let names = source::check_names(&config.sources);
    report("sources", names.map(|()| config.sources.len().to_string()).map_err(|cause| cause.to_string()));
    let catalogue = config.catalogue();
    for source in &config.sources {
        let checked = source::check(source, &catalogue).await;
        report(&format!("source {}", source.name), checked.map(|report| report.to_string()).map_err(|e| e.to_string()));
    }
    println!("{}", if faults == 0 { "no fault found" } else { "faults found" });
    Ok(if faults == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn journal(config: &journal::Config) -> Result<String, String> {
    let tasks = Tasks::default();
    let journal = Journal::open(config, &Clock::system(), &tasks).await.map_err(|cause| cause.to_string())?;
    let head = journal.head().await.map_err(|cause| cause.to_string())?;
    journal.close().await;
    Ok(format!("{}, {} events", journal::redacted(&config.url), head.position))
}
