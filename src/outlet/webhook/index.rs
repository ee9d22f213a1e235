//! Which webhooks an event is for, by a look-up instead of a walk over all of them. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::event::Entry;
use crate::filter::Selection;

/// What an event is looked up by.
const DIMENSIONS: usize = 4;

/// Selections by number.
#[derive(Default)]
pub(super) struct Index {
    selections: HashMap<usize, Selection>,
    dimensions: [Patterns; DIMENSIONS],
    /// Those without a pattern to find them by.
    any: Vec<usize>,
}

#[derive(Default)]
struct Patterns {
    exact: HashMap<String, Vec<usize>>,
    prefix: HashMap<String, Vec<usize>>,
    /// How many prefixes have so many bytes.
    lengths: BTreeMap<usize, usize>,
}

impl Patterns {
    fn insert(&mut self, pattern: &str, number: usize) {
        match pattern.strip_suffix('*') {
            Some(prefix) => {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                self.prefix.entry(prefix.to_owned()).or_default().push(number);
            }
            None => self.exact.entry(pattern.to_owned()).or_default().push(number),
        }
    }

    fn remove(&mut self, pattern: &str, number: usize) {
        let take = |map: &mut HashMap<String, Vec<usize>>, text: &str| {
            if let Some(numbers) = map.get_mut(text) {
                numbers.retain(|one| *one != number);
                if numbers.is_empty() {
                    map.remove(text);
                }
            }
        };
        match pattern.strip_suffix('*') {
            Some(prefix) => {
                take(&mut self.prefix, prefix);
                if let Some(count) = self.lengths.get_mut(&prefix.len()) {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            None => take(&mut self.exact, pattern),
        }
    }

    fn find(&self, text: &str, found: &mut Vec<usize>) {
        found.extend(self.exact.get(text).into_iter().flatten());
        for length in self.lengths.keys().take_while(|length| **length <= text.len()) {
            let numbers = text.get(..*length).and_then(|prefix| self.prefix.get(prefix));
            found.extend(numbers.into_iter().flatten());
        }
    }
}

/// The shortest list of patterns of which one must fit, the most telling dimension first; nothing if there is none.
fn patterns(selection: &Selection) -> Option<(usize, &[String])> {
    let lists = selection.filters().iter().flat_map(|filter| filter.lists().into_iter().enumerate());
    let lists =
        lists.map(|(dimension, (_, patterns))| (dimension, patterns)).filter(|(_, patterns)| !patterns.is_empty());
    // Ids of aggregates tell most; then types, sources and aggregate types.
    lists.min_by_key(|(dimension, patterns)| ((dimension + 1) % DIMENSIONS, patterns.len()))
}

impl Index {
    pub(super) fn insert(&mut self, number: usize, selection: Selection) {
        match patterns(&selection) {
            Some((dimension, list)) => {
                list.iter().for_each(|pattern| self.dimensions[dimension].insert(pattern, number))
            }
            None => self.any.push(number),
        }
        self.selections.insert(number, selection);
    }

    pub(super) fn remove(&mut self, number: usize) {
        let Some(selection) = self.selections.remove(&number) else { return };
        match patterns(&selection) {
            Some((dimension, list)) => {
                list.iter().for_each(|pattern| self.dimensions[dimension].remove(pattern, number))
            }
            None => self.any.retain(|one| *one != number),
        }
    }

    /// The numbers of the selections that let the event through, each once.
    pub(super) fn matching(&self, entry: &Entry) -> Vec<usize> {
        let event = &entry.event;
        let mut found = self.any.clone();
        let texts = [&event.r#type, &event.source, &event.aggregate_type, &event.aggregate_id];
        for (patterns, text) in self.dimensions.iter().zip(texts) {
            patterns.find(text, &mut found);
        }
        if let Some(erased) = &entry.erased_type {
            self.dimensions[0].find(erased, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|number| self.selections.get(number).is_some_and(|selection| selection.shows(entry)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use crate::filter::Filter;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn it_finds_what_a_walk_over_all_would_find() {
        let words = ["A", "A*", "Order", "Order*", "OrderPlaced", "*", "ä*", "x"];
        let mut filters = vec![Filter::default()];
        for (n, one) in words.iter().enumerate() {
            let other = words[(n * 3 + 1) % words.len()];
            filters.push(Filter { types: texts(&[one, other]), ..Filter::default() });
            filters.push(Filter { sources: texts(&[one]), types: texts(&[other]), ..Filter::default() });
            filters.push(Filter { aggregate_ids: texts(&[one]), ..Filter::default() });
            filters.push(Filter { aggregate_types: texts(&[one, one]), ..Filter::default() });
        }
        let everything = Selection::visible(&Filter::default());
        let selections: Vec<Selection> = filters.iter().map(|filter| everything.and(filter)).collect();
        let mut index = Index::default();
        for (number, selection) in selections.iter().enumerate() {
            index.insert(number, selection.clone());
        }
        let names = ["A", "AB", "Order", "OrderPlaced", "x", "ä", "äö", ""];
        let check = |index: &Index, left: &dyn Fn(usize) -> bool| {
            for (n, name) in names.iter().enumerate() {
                let other = names[(n * 5 + 2) % names.len()];
                let event = Event {
                    r#type: (*name).to_owned(),
                    source: other.to_owned(),
                    aggregate_type: other.to_owned(),
                    aggregate_id: (*name).to_owned(),
                    ..Event::default()
                };
                let erased_type = (n % 3 == 0).then(|| "OrderPlaced".to_owned());
                let entry = Entry { event, erased_type, ..Entry::default() };
                let expected: Vec<usize> =
                    (0..selections.len()).filter(|n| left(*n) && selections[*n].shows(&entry)).collect();
                assert_eq!(index.matching(&entry), expected, "{entry:?}");
            }
        };
        check(&index, &|_| true);
        for number in (0..selections.len()).step_by(2) {
            index.remove(number);
        }
        check(&index, &|n| n % 2 == 1);
        for number in 0..selections.len() {
            index.remove(number);
        }
        check(&index, &|_| false);
        let empty = |patterns: &Patterns| {
            patterns.exact.is_empty() && patterns.prefix.is_empty() && patterns.lengths.is_empty()
        };
        assert!(index.dimensions.iter().all(empty) && index.any.is_empty());
    }
}
