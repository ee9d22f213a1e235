//! `postern schema`: the GraphQL SDL of the configuration if there is one, else that of an empty catalogue.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::outlet::graphql;

#[derive(clap::Args)]
pub struct Arguments {
    /// An older schema: prints what clients that were written for it meet now, instead of the schema.
    #[arg(long, value_name = "OLD")]
    diff: Option<PathBuf>,
    #[command(flatten)]
    config: super::ConfigArgument,
}

pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = super::load_if_there(&arguments.config.config)?;
    let catalogue = config.catalogue().map_err(anyhow::Error::msg)?;
    let sdl = graphql::Schema::new(&catalogue).map_err(anyhow::Error::msg)?.sdl();
    let Some(path) = arguments.diff else {
        super::print(&sdl);
        return Ok(ExitCode::SUCCESS);
    };
    let old = std::fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))?;
    let diff = graphql::diff(&old, &sdl).map_err(anyhow::Error::msg)?;
    let lines = diff.breaking.iter().chain(&diff.other).map(|line| format!("{line}\n"));
    super::print(&lines.collect::<String>());
    Ok(if diff.breaking.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
