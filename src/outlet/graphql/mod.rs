//! GraphQL: events by id, by place, by filter, with exactly the data that a client picks. Read-only.
//!
//! `http` speaks GraphQL over HTTP, `engine` runs operations, `measure` refuses what asks for too much, `schema`,
//! `event` and `connection` are the schema. Reads the journal with the caller's visibility; knows no other outlet.

mod connection;
mod engine;
mod event;
mod failure;
mod http;
mod measure;
mod schema;

use axum::Router;
use axum::routing::any;
use serde::Deserialize;

use crate::journal::Journal;

/// `[graphql]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether clients may ask for the schema.
    pub introspection: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { introspection: true }
    }
}

/// `/graphql`. Requests carry the [`Client`](crate::web::auth::Client) as an extension.
pub fn router(journal: Journal, config: Config) -> Router {
    Router::new().route("/graphql", any(http::handle)).with_state(engine::Engine::new(journal, &config))
}

/// The schema as text, sorted: `schema.graphql` in the repository, `postern schema` on the command line.
pub fn sdl() -> String {
    engine::sdl()
}
