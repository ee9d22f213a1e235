//! Which events: the one filter of feeds, webhooks, GraphQL, ad-hoc query parameters and visibility.
//!
//! A [`Filter`] is what a user writes; a [`Selection`] is what a reader asks for: a filter and the
//! caller's visibility together. Both work on rows (as SQL, in `journal`) and on events in memory.

mod dialect;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use dialect::Dialects;

use crate::event::{Entry, Event};

/// Most patterns that one list of a filter may hold.
const PATTERNS_MAX: usize = 200;
/// The source of our own operational events: matched only where a filter names it.
pub const OWN_SOURCE: &str = "postern";

/// Lists are alternatives, the four of them must all hold; an empty list means "any".
/// A pattern is an exact text, or a prefix if it ends with `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Filter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", alias = "aggregate_types")]
    pub aggregate_types: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", alias = "aggregate_ids")]
    pub aggregate_ids: Vec<String>,
}

/// A filter that can't be used, and why.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("`{list}` holds more than {PATTERNS_MAX} patterns")]
    TooMany { list: &'static str },
    #[error("`{list}` holds `{pattern}`: give a text, or a prefix that ends with one `*`")]
    Pattern { list: &'static str, pattern: String },
}

impl Filter {
    /// Checks what a user wrote.
    ///
    /// # Errors
    /// A list that is too long, or a pattern that is empty, too long or has a `*` before its end.
    pub fn check(&self) -> Result<(), Error> {
        for (list, patterns) in self.lists() {
            if patterns.len() > PATTERNS_MAX {
                return Err(Error::TooMany { list });
            }
            for pattern in patterns {
                let body = pattern.strip_suffix('*').unwrap_or(pattern);
                let usable = !pattern.is_empty() && pattern.len() <= crate::event::NAME_BYTES_MAX;
                if !usable || body.contains('*') || body.contains('\0') {
                    return Err(Error::Pattern { list, pattern: pattern.clone() });
                }
            }
        }
        Ok(())
    }

    /// The lists with the names of the columns that they speak of, in a fixed order.
    pub fn lists(&self) -> [(&'static str, &[String]); 4] {
        [
            ("types", &self.types),
            ("sources", &self.sources),
            ("aggregateTypes", &self.aggregate_types),
            ("aggregateIds", &self.aggregate_ids),
        ]
    }

    /// Whether the filter lets the event through.
    pub fn matches(&self, event: &Event) -> bool {
        self.lets_through(&event.source, &event.r#type, &event.aggregate_type)
            && any(&self.aggregate_ids, &event.aggregate_id)
    }

    fn lets_through(&self, source: &str, r#type: &str, aggregate_type: &str) -> bool {
        any(&self.types, r#type) && any(&self.sources, source) && any(&self.aggregate_types, aggregate_type)
    }

    fn names_own_source(&self) -> bool {
        self.sources.iter().any(|pattern| matches_pattern(pattern, OWN_SOURCE))
    }
}

fn any(patterns: &[String], text: &str) -> bool {
    patterns.is_empty() || patterns.iter().any(|pattern| matches_pattern(pattern, text))
}

fn matches_pattern(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => text.starts_with(prefix),
        None => text == pattern,
    }
}

/// Whether one text can match both patterns.
fn overlap(one: &str, two: &str) -> bool {
    match (one.strip_suffix('*'), two.strip_suffix('*')) {
        (Some(one), Some(two)) => one.starts_with(two) || two.starts_with(one),
        (_, None) => matches_pattern(one, two),
        (None, Some(_)) => matches_pattern(two, one),
    }
}

/// What a reader asks for: every filter must hold. Made so that a caller's visibility can't be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Selection {
    filters: Vec<Filter>,
    /// Type and id, as they are: no patterns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aggregate: Option<(String, String)>,
    /// Of our own operational events, only those about what this client owns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    viewer: Option<String>,
    /// Also our own operational events, though no filter names them.
    #[serde(skip)]
    with_own: bool,
    /// Of a webhook; no SQL tells whether they hold.
    #[serde(skip)]
    dialects: Option<Arc<Dialects>>,
}

impl Selection {
    /// Everything that this visibility shows.
    pub fn visible(visibility: &Filter) -> Self {
        Self { filters: vec![visibility.clone()], aggregate: None, viewer: None, with_own: false, dialects: None }
    }

    /// The same, narrowed by one more filter.
    #[must_use]
    pub fn and(&self, filter: &Filter) -> Self {
        let mut filters = self.filters.clone();
        if *filter != Filter::default() {
            filters.push(filter.clone());
        }
        Self { filters, ..self.clone() }
    }

    /// The same, and our own operational events: for who names one by its id.
    #[must_use]
    pub fn with_own(&self) -> Self {
        Self { with_own: true, ..self.clone() }
    }

    /// The same, narrowed until nothing is left: no event has an empty type.
    #[must_use]
    pub fn nothing(&self) -> Self {
        self.and(&Filter { types: vec![String::new()], ..Filter::default() })
    }

    /// The same for a client who may not see what is about others.
    #[must_use]
    pub fn seen_by(&self, client: &str) -> Self {
        Self { viewer: Some(client.to_owned()), ..self.clone() }
    }

    /// Equal for all who see the same: who looks does not matter where our own events are left out.
    #[must_use]
    pub fn settled(self) -> Self {
        let viewer = self.viewer().map(str::to_owned);
        Self { viewer, ..self }
    }

    /// Whose of our own events are shown only, where any are.
    pub fn viewer(&self) -> Option<&str> {
        self.viewer.as_deref().filter(|_| !self.excludes_own_source())
    }

    /// The same, narrowed by dialects.
    #[must_use]
    pub fn and_dialects(&self, dialects: Arc<Dialects>) -> Self {
        Self { dialects: Some(dialects), ..self.clone() }
    }

    /// What has to be looked at in memory, as SQL can't tell.
    pub fn dialects(&self) -> Option<&Dialects> {
        self.dialects.as_deref()
    }

    /// The same, narrowed to one aggregate.
    #[must_use]
    pub fn of_aggregate(&self, r#type: &str, id: &str) -> Self {
        Self { aggregate: Some((r#type.to_owned(), id.to_owned())), ..self.clone() }
    }

    pub fn aggregate(&self) -> Option<&(String, String)> {
        self.aggregate.as_ref()
    }

    /// Whether it lets events of this type through, from wherever.
    pub fn lets_type_through(&self, r#type: &str) -> bool {
        self.filters.iter().all(|filter| any(&filter.types, r#type))
    }

    /// Whether it lets all events of this source through.
    pub fn lets_source_through(&self, source: &str) -> bool {
        self.filters.iter().all(|filter| {
            let only_sources = Filter { sources: filter.sources.clone(), ..Filter::default() };
            *filter == only_sources && any(&filter.sources, source)
        })
    }

    /// Whether events may be let through by all of these filters and `other`, as far as the patterns tell.
    pub fn may_meet(&self, other: &Filter) -> bool {
        self.filters.iter().all(|filter| {
            let lists = filter.lists().into_iter().zip(other.lists());
            lists.into_iter().all(|((_, one), (_, two))| {
                one.is_empty() || two.is_empty() || one.iter().any(|one| two.iter().any(|two| overlap(one, two)))
            })
        })
    }

    /// Whether it lets everything through but our own operational events.
    pub fn is_everything(&self) -> bool {
        self.aggregate.is_none()
            && self.dialects.is_none()
            && self.filters.iter().all(|filter| *filter == Filter::default())
    }

    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Our own operational events are left out unless one of the filters names their source.
    pub fn excludes_own_source(&self) -> bool {
        !self.with_own
            && !self.filters.iter().any(Filter::names_own_source)
            && !self.dialects().is_some_and(Dialects::names_own_source)
    }

    /// Whether it lets events of this kind through, whatever they are about: all of them, if no filter names ids of
    /// aggregates.
    pub fn lets_through(&self, source: &str, r#type: &str, aggregate_type: &str) -> bool {
        // Counts of our own events tell of others.
        let is_own = source == OWN_SOURCE && (self.excludes_own_source() || self.viewer().is_some());
        !is_own && self.filters.iter().all(|filter| filter.lets_through(source, r#type, aggregate_type))
    }

    /// Whether the entry is shown. The record of an erasure is to whomever the event was.
    pub fn shows(&self, entry: &Entry) -> bool {
        self.matches_as(&entry.event, entry.erased_type.as_deref())
    }

    pub fn matches(&self, event: &Event) -> bool {
        self.matches_as(event, None)
    }

    /// Each filter may hold for either of two types.
    fn matches_as(&self, event: &Event, other_type: Option<&str>) -> bool {
        if event.source == OWN_SOURCE
            && (self.excludes_own_source() || self.viewer().is_some_and(|viewer| !is_about_one_of(event, viewer)))
        {
            return false;
        }
        let as_other = other_type.map(|r#type| Event { r#type: r#type.to_owned(), ..event.clone() });
        let holds = |test: &dyn Fn(&Event) -> bool| test(event) || as_other.as_ref().is_some_and(test);
        if self.dialects().is_some_and(|dialects| !holds(&|event| dialects.matches(event))) {
            return false;
        }
        let is_its = |(r#type, id): &(String, String)| *r#type == event.aggregate_type && *id == event.aggregate_id;
        self.aggregate.as_ref().is_none_or(is_its)
            && self.filters.iter().all(|filter| holds(&|event| filter.matches(event)))
    }
}

/// Our own events say whom what they are about belongs to.
fn is_about_one_of(event: &Event, client: &str) -> bool {
    #[derive(Deserialize)]
    struct Owned {
        owner: String,
    }
    serde_json::from_str::<Owned>(&event.data).is_ok_and(|owned| owned.owner == client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Micros;

    fn event(r#type: &str, source: &str) -> Event {
        Event {
            id: "x".into(),
            source: source.into(),
            r#type: r#type.into(),
            aggregate_type: "Cart".into(),
            aggregate_id: "1".into(),
            aggregate_version: None,
            occurred_at: Micros(0),
            data: "{}".into(),
            metadata: None,
        }
    }

    #[test]
    fn lists_are_alternatives_and_all_lists_hold() {
        let filter =
            Filter { types: vec!["Order*".into(), "Paid".into()], sources: vec!["shop".into()], ..Filter::default() };
        assert!(filter.matches(&event("OrderPlaced", "shop")));
        assert!(filter.matches(&event("Paid", "shop")));
        assert!(!filter.matches(&event("PaidBack", "shop")));
        assert!(!filter.matches(&event("OrderPlaced", "other")));
    }

    #[test]
    fn our_own_events_must_be_named() {
        let everything = Selection::visible(&Filter::default());
        assert!(!everything.matches(&event("postern.webhook.created", OWN_SOURCE)));
        let named = everything.and(&Filter { sources: vec![OWN_SOURCE.into()], ..Filter::default() });
        assert!(named.matches(&event("postern.webhook.created", OWN_SOURCE)));
    }

    #[test]
    fn filters_that_exclude_each_other_never_meet() {
        let filter =
            |types: &[&str]| Filter { types: types.iter().map(|t| (*t).to_owned()).collect(), ..Filter::default() };
        let visible = Selection::visible(&filter(&["Order*", "Paid"]));
        for types in [&["OrderPlaced"][..], &["O*"], &["Paid*"], &["Paid"], &[]] {
            assert!(visible.may_meet(&filter(types)), "{types:?}");
        }
        for types in [&["Secret"][..], &["Paid.*"], &["Ordre*", "Pai"]] {
            assert!(!visible.may_meet(&filter(types)), "{types:?}");
        }
    }

    #[test]
    fn a_star_before_the_end_is_refused() {
        let filter = Filter { types: vec!["a*b".into()], ..Filter::default() };
        assert!(matches!(filter.check(), Err(Error::Pattern { list: "types", .. })));
    }
}
