//! `postern schema`: the GraphQL SDL.

use std::process::ExitCode;

use crate::outlet::graphql;

pub fn run() -> anyhow::Result<ExitCode> {
    super::print(&graphql::sdl());
    Ok(ExitCode::SUCCESS)
}
