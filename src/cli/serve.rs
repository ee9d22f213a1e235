//! `postern serve`: the gateway, until SIGINT or SIGTERM.

use std::path::PathBuf;
use std::process::ExitCode;

use tracing::error;

use crate::app::{self, Gateway};
use crate::{runtime, telemetry};

#[derive(clap::Args)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "postern.toml")]
    config: PathBuf,
    /// Serve everybody on a public address.
    #[arg(long)]
    insecure: bool,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start("postern=info,warn");
    let config = super::load(&arguments.config)?;
    let options = app::Options { insecure: arguments.insecure };
    let gateway = tokio::select! {
        started = Gateway::start(config, options) => started?,
        () = runtime::stop_signal() => return Ok(ExitCode::SUCCESS),
    };
    let stopping = gateway.tasks().stopping();
    tokio::select! {
        () = runtime::stop_signal() => {}
        () = stopping.cancelled() => error!("a task crashed, see above"),
    }
    let crashed = gateway.stop().await;
    Ok(if crashed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
