//! `postern schema`: the GraphQL SDL of the configuration if there is one, else that of an empty catalogue.

use std::process::ExitCode;

use crate::outlet::graphql;

pub fn run(arguments: super::ConfigArgument) -> anyhow::Result<ExitCode> {
    let catalogue = super::load_if_there(&arguments.config)?.catalogue().map_err(anyhow::Error::msg)?;
    super::print(&graphql::Schema::new(&catalogue).map_err(anyhow::Error::msg)?.sdl());
    Ok(ExitCode::SUCCESS)
}
