//! The command line, one file a command. Exit codes: 0, 1 for a fault that was found, 2 for wrong usage.

mod audit;
mod backup;
mod catalogue;
mod check;
mod demo;
mod doctor;
mod follow;
mod forget;
mod healthcheck;
mod init;
mod migrate;
mod openapi;
mod schema;
mod serve;
mod tail;
mod token;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Error};
use crate::telemetry::traces;

/// A legacy-integration gateway: domain events from the event stores you have, out as an Atom feed, through GraphQL and
/// as signed webhooks.
#[derive(Parser)]
#[command(name = "postern", version, about, after_help = "Start here: postern demo")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A cart service writing its event store, the gateway on it, and a receiver that verifies each webhook call.
    #[command(after_help = "Example: postern demo --listen 127.0.0.1:9000 --rate 20")]
    Demo(demo::Arguments),
    /// Looks through a database for event stores and writes a configuration for them.
    #[command(after_help = "Example: postern init postgres://reader:secret@db/shop")]
    Init(init::Arguments),
    /// Runs the gateway.
    #[command(after_help = "Example: POSTERN_SERVER__LISTEN=127.0.0.1:9000 postern serve --config postern.toml")]
    Serve(serve::Arguments),
    /// Exits 0 if the gateway of this configuration lives: for container engines.
    #[command(after_help = "Example: postern healthcheck --config /etc/postern/postern.toml")]
    Healthcheck(ConfigArgument),
    /// Validates the configuration, connects, maps the first rows of each source, says what would be published.
    #[command(after_help = "Example: postern check --config postern.toml && echo fine")]
    Check(ConfigArgument),
    /// Compares the sources with the journal, prints what is missing; exit 1 if anything is.
    #[command(after_help = "Example: postern audit --source cart")]
    Audit(audit::Arguments),
    /// Prints the events of the journal as they come.
    #[command(after_help = "Example: postern tail --after 0 --filter '{ types = [\"Order*\"] }'")]
    Tail(tail::Arguments),
    /// Replicates a feed: each event once, as a line of JSON. Written to be copied.
    #[command(after_help = "Example: postern follow https://events.example.com/feeds/all.json --out events.jsonl")]
    Follow(follow::Arguments),
    /// Erases one event: its data goes, its place stays and says so.
    #[command(after_help = "Example: postern forget 0197b5f0-6d3c-7a51-9d1c-2f7d6c1f0a11")]
    Forget(forget::Arguments),
    /// Tells what looks wrong, and what somebody needs to know who is asked for help; no secrets. Exit 1 with findings.
    #[command(after_help = "Example: postern doctor --json > report.json")]
    Doctor(doctor::Arguments),
    /// Copies a SQLite journal while it is served.
    #[command(after_help = "Example: postern backup /backups/postern-2026-11-28.db")]
    Backup(backup::Arguments),
    /// Brings the journal's schema up to date, before new gateways start; changes what all of them agree on.
    #[command(after_help = "Example: postern migrate --set public_url=https://events.example.com")]
    Migrate(migrate::Arguments),
    /// Schemas of events' data.
    #[command(subcommand)]
    Catalogue(catalogue::Command),
    /// Prints the GraphQL schema, or what it changes for clients of an older one; exit 1 if it breaks any.
    #[command(after_help = "Examples: postern schema > schema.graphql\n          postern schema --diff schema.graphql")]
    Schema(schema::Arguments),
    /// Prints the OpenAPI 3.1 document.
    #[command(after_help = "Example: postern openapi > openapi.json")]
    Openapi(ConfigArgument),
    /// Makes a token for a client; prints it once, and the hash for the configuration.
    #[command(after_help = "Example: postern token erp")]
    Token(token::Arguments),
}

#[derive(clap::Args)]
struct ConfigArgument {
    /// The configuration file.
    #[arg(long, default_value = "postern.toml")]
    config: PathBuf,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            eprintln!("error: can't start: {cause}");
            return ExitCode::from(1);
        }
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Demo(arguments) => demo::run(arguments).await,
            Command::Init(arguments) => init::run(arguments).await,
            Command::Serve(arguments) => serve::run(arguments).await,
            Command::Healthcheck(arguments) => healthcheck::run(arguments).await,
            Command::Check(arguments) => check::run(arguments).await,
            Command::Audit(arguments) => audit::run(arguments).await,
            Command::Tail(arguments) => tail::run(arguments).await,
            Command::Follow(arguments) => follow::run(arguments).await,
            Command::Forget(arguments) => forget::run(arguments).await,
            Command::Doctor(arguments) => doctor::run(arguments).await,
            Command::Backup(arguments) => backup::run(arguments).await,
            Command::Migrate(arguments) => migrate::run(arguments).await,
            Command::Catalogue(command) => catalogue::run(command).await,
            Command::Schema(arguments) => schema::run(arguments),
            Command::Openapi(arguments) => openapi::run(arguments),
            Command::Token(arguments) => token::run(&arguments),
        }
    });
    traces::stop();
    // A look-up or a file that hangs must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    match result {
        Ok(code) => code,
        Err(cause) => {
            eprintln!("error: {cause:#}");
            ExitCode::from(1)
        }
    }
}

/// Prints to standard output; a reader that closed its pipe has seen enough.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn load(path: &Path) -> Result<Config, Error> {
    // Names and values that are not Unicode can't be ours.
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Config::load(path, &environment)
}

/// Without a file: the defaults.
fn load_if_there(path: &Path) -> Result<Config, Error> {
    match load(path) {
        Err(Error::Missing(_)) => Ok(Config::default()),
        other => other,
    }
}
