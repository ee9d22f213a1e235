//! `gate = "version"`: an event waits until the version before it, of its aggregate, was read. Pure; what it has
//! forgotten, or never knew, the table is asked for.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::mapping::{Mapping, Row};
use crate::event::Event;

/// Aggregates that are remembered: two numbers each.
const AGGREGATES_MAX: usize = 200_000;

/// The versions that were read.
#[derive(Default)]
pub(super) struct Gate {
    hasher: RandomState,
    /// The highest of each aggregate. Two that share a hash let each other pass too early, hardly ever.
    read: HashMap<u64, i64>,
    /// This table counts from 0, not from 1.
    from_zero: bool,
}

impl Gate {
    /// Judges by the first rows of the table where its versions begin.
    pub(super) fn new(first: &[Row], mapping: &Mapping) -> Self {
        let is_zero = |row| mapping.version_of(row).is_some_and(|(_, version)| version == 0);
        Self { from_zero: first.iter().any(is_zero), ..Self::default() }
    }

    /// No event waits for this row any more.
    pub(super) fn read_row(&mut self, row: &Row, mapping: &Mapping) {
        if let Some(((r#type, id), version)) = mapping.version_of(row) {
            self.read((&r#type, &id), version);
        }
    }

    /// No event waits for this one any more.
    pub(super) fn read_event(&mut self, event: &Event) {
        if let Some(version) = event.aggregate_version {
            self.read((&event.aggregate_type, &event.aggregate_id), version);
        }
    }

    fn read(&mut self, aggregate: (&str, &str), version: i64) {
        if self.read.len() >= AGGREGATES_MAX {
            self.read.clear();
        }
        self.from_zero |= version == 0;
        let highest = self.read.entry(self.hasher.hash_one(aggregate)).or_insert(version);
        *highest = version.max(*highest);
    }

    /// The version before this one was read, or there is none.
    pub(super) fn is_next(&self, event: &Event) -> bool {
        let Some(version) = event.aggregate_version else { return true };
        let first = i64::from(!self.from_zero);
        version <= first || self.read.get(&self.key(event)).is_some_and(|read| *read >= version - 1)
    }

    /// Of events in the order of their versions, the aggregates and versions that only the table can tell of.
    pub(super) fn unknown<'a>(&self, events: impl Iterator<Item = &'a Event>) -> Vec<(String, i64)> {
        let (mut ahead, mut unknown) = (HashMap::new(), Vec::new());
        for event in events {
            let Some(version) = event.aggregate_version else { continue };
            let before = ahead.insert(self.key(event), version);
            if !self.is_next(event) && before.is_none_or(|before| before < version - 1) {
                unknown.push((event.aggregate_id.clone(), version - 1));
            }
        }
        unknown
    }

    fn key(&self, event: &Event) -> u64 {
        self.hasher.hash_one((event.aggregate_type.as_str(), event.aggregate_id.as_str()))
    }
}
