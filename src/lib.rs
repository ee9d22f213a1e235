//! Postern: a legacy-integration gateway.
//!
//! Data flows one way, **source → journal → outlet**. Sources read the event stores of other services, the journal
//! puts the events that may leave into one ordered, gap-free log, outlets offer them: an Atom feed, GraphQL, webhooks.
//! A ring between rooms is a journal row plus the bell. `ARCHITECTURE.md` tells who may import whom.
#![forbid(unsafe_code)]

// The words: pure, shared by all rooms.
pub mod event;
pub mod filter;
pub mod json;

pub mod catalogue;
pub mod projection;

// What every loop needs.
pub mod runtime;
pub mod telemetry;

// The hall.
pub mod journal;

// The front door and the way out.
pub mod web;

// The rooms.
pub mod console;
pub mod outlet;
pub mod source;

// The only ones that know every room.
pub mod app;
pub mod cli;
pub mod config;
