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
    let schema = graphql::Schema::new(&catalogue).map_err(anyhow::Error::msg)?;
    let sdl = schema.sdl();
    let Some(path) = arguments.diff else {
        super::print(&sdl);
        return Ok(ExitCode::SUCCESS);
    };
    let old = std::fs::read_to_string(&path).with_context(|| format!("can't read `{}`", path.display()))?;
    let diff = graphql::diff(&old, &sdl).map_err(anyhow::Error::msg)?;
    let faults = schema.document_faults(&config.graphql).map_err(anyhow::Error::msg)?;
    let broken = faults.iter().map(|(id, fault)| format!("breaks the trusted document `{id}`: {fault}"));
    let lines = diff.breaking.iter().cloned().chain(broken).chain(diff.other);
    super::print(&lines.map(|line| format!("{line}\n")).collect::<String>());
    Ok(if diff.breaking.is_empty() && faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
