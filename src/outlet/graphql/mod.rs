//! GraphQL: events by id, by place, by filter, as they come, with exactly the attributes that a client asks for. Read-only.
//!
//! The way of a request: `http`, `sse` or `ws` read it; `trusted` and `documents` find the document, which `measure` bounds;
//! `normal` gives it a form that the `engine` runs; the schema (`schema`, `directory`, `subscription`, `connection`,
//! `event`) reads the journal through the `caller`; `plan` and `data` write events as text. `types` is what the catalogue
//! adds to the schema. Knows no other outlet.

mod answer;
mod ask;
mod batch;
mod caller;
mod connection;
mod data;
mod diff;
mod directory;
mod documents;
mod engine;
mod event;
mod explorer;
mod failure;
mod http;
mod live;
mod measure;
mod normal;
mod plan;
mod project;
mod scalars;
mod schema;
mod sieve;
mod sse;
mod subscription;
mod trusted;
mod types;
mod ws;

use std::path::PathBuf;

use axum::Router;
use axum::routing::{any, get};
use serde::Deserialize;

pub use diff::{Diff, diff};
pub use directory::{Directory, FeedInfo, SourceInfo};
pub use engine::Schema;
pub use project::{Projection, Projector};

use crate::journal::Journal;

/// `[graphql]` of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Whether clients may ask for the schema.
    pub introspection: bool,
    /// A file: the trusted documents, by id.
    pub documents: Option<PathBuf>,
    /// Whether clients may ask with these only.
    pub only_trusted: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { introspection: true, documents: None, only_trusted: false }
    }
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct GraphQl {
    engine: engine::Engine,
}

impl GraphQl {
    /// # Errors
    /// Trusted documents that can't be read.
    pub fn new(journal: Journal, schema: Schema, directory: Directory, config: &Config) -> Result<Self, String> {
        Ok(Self { engine: engine::Engine::new(journal, schema, directory, config)? })
    }

    /// For selections on single events.
    pub fn projector(&self) -> Projector {
        Projector(self.engine.clone())
    }

    /// `/graphql`. Requests carry the [`Client`](crate::web::auth::Client) as an extension.
    pub fn router(self) -> Router {
        let page = Router::new().route("/graphql/explorer.js", get(explorer::script));
        Router::new().route("/graphql", any(http::handle)).with_state(self.engine).merge(page)
    }
}
