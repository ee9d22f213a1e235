//! All integration tests in one binary: one link step, one harness. Each file speaks through one door.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests are the outside world: own clients, own clocks, loud failures"
)]

#[path = "../../fuzz/doors.rs"]
mod doors;
mod support;

mod access;
mod caches;
mod catalogue;
mod clusters;
mod connections;
mod consent;
mod console;
mod crash;
mod detail;
mod docs;
mod doctor;
mod erasure;
mod faults;
mod feed;
mod feed_source;
mod follow;
mod formats;
mod front_door;
mod gateways;
mod graphql;
mod graphql_clients;
mod graphql_directory;
mod hostile_input;
mod hostile_receivers;
mod incarnations;
mod journal;
mod kill;
mod log_in;
mod polling;
mod presets;
mod push;
mod receiving;
mod retention;
mod sources;
mod tail;
mod traces;
mod webhook_batches;
mod webhook_commands;
mod webhook_edges;
mod webhook_formats;
mod webhooks;
mod websub;
