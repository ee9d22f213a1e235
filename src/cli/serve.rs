//! `postern serve`: the gateway, until SIGINT or SIGTERM.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

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
    let config = super::load(&arguments.config)?;
    telemetry::start_as(config.telemetry.log, "postern=info,warn");
    let options = app::Options { insecure: arguments.insecure, config: Some(arguments.config) };
    let gateway = tokio::select! {
        started = Gateway::start(config, options) => started?,
        () = runtime::stop_signal() => return Ok(ExitCode::SUCCESS),
    };
    let (failed, mut asked) = (gateway.failed(), gateway.reload_asked());
    let mut hangups = runtime::hangups();
    let stop = runtime::stop_signal();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = failed.cancelled() => {
                error!("a task crashed, see above");
                break;
            }
            () = hangups.next() => gateway.reload().await,
            () = asked.rung(Duration::MAX) => gateway.reload().await,
        }
    }
    let crashed = gateway.stop().await;
    Ok(if crashed { ExitCode::from(1) } else { ExitCode::SUCCESS })
}
