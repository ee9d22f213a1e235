//! The three doors out. An outlet reads the journal and speaks to the outside; it never speaks to another outlet.

pub mod feed;
pub mod graphql;
pub mod webhook;
