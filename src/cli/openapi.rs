//! `postern openapi`: the OpenAPI document, with the `public_url` of the configuration if there is one.

use std::process::ExitCode;

use crate::web::{self, openapi};

pub fn run(arguments: super::ConfigArgument) -> anyhow::Result<ExitCode> {
    let config = super::load_if_there(&arguments.config)?;
    let site = web::Site::new(&config.server, config.server.listen).map_err(anyhow::Error::msg)?;
    super::print(&openapi::document(&site.public_url));
    Ok(ExitCode::SUCCESS)
}
