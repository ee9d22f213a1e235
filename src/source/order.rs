//! The order of a batch. Pure.

use std::collections::HashMap;

/// Lets the items of one aggregate exchange places among themselves so that their versions ascend (equal versions
/// keep their order). Items of other aggregates, and items without a version, do not move.
pub(super) fn by_version<T>(items: &mut Vec<T>, key: impl Fn(&T) -> Option<((&str, &str), i64)>) {
    let mut places: HashMap<(&str, &str), Vec<(usize, i64)>> = HashMap::new();
    for (place, item) in items.iter().enumerate() {
        if let Some((aggregate, version)) = key(item) {
            places.entry(aggregate).or_default().push((place, version));
        }
    }
    // For each place, the item that goes there.
    let mut moved: Option<Vec<usize>> = None;
    for of_one in places.into_values().filter(|of_one| !of_one.is_sorted_by_key(|(_, version)| *version)) {
        let target = moved.get_or_insert_with(|| (0..items.len()).collect());
        let mut ascending = of_one.clone();
        ascending.sort_by_key(|(_, version)| *version);
        for ((place, _), (item, _)) in of_one.into_iter().zip(ascending) {
            target[place] = item;
        }
    }
    let Some(moved) = moved else { return };
    let mut taken: Vec<Option<T>> = std::mem::take(items).into_iter().map(Some).collect();
    items.extend(moved.into_iter().filter_map(|item| taken[item].take()));
}

#[cfg(test)]
mod tests {
    use super::*;

    type Item = (usize, &'static str, Option<i64>);

    fn ordered(mut items: Vec<Item>) -> Vec<usize> {
        by_version(&mut items, |(_, aggregate, version)| version.map(|version| (("A", *aggregate), version)));
        items.into_iter().map(|(n, ..)| n).collect()
    }

    #[test]
    fn only_rows_of_one_aggregate_change_places() {
        let items = vec![
            (0, "a", Some(3)),
            (1, "b", Some(9)),
            (2, "a", None),
            (3, "a", Some(1)),
            (4, "b", Some(10)),
            (5, "a", Some(2)),
        ];
        assert_eq!(ordered(items), [3, 1, 2, 5, 4, 0]);
    }

    #[test]
    fn equal_versions_keep_their_order() {
        assert_eq!(ordered(vec![(0, "a", Some(2)), (1, "a", Some(1)), (2, "a", Some(1))]), [1, 2, 0]);
    }

    /// Every batch of up to 5 rows of 2 aggregates with versions 1 to 2 or none, against the rule in other words.
    #[test]
    fn all_small_batches_follow_the_rule() {
        const KINDS: [(&str, Option<i64>); 6] =
            [("a", Some(1)), ("a", Some(2)), ("a", None), ("b", Some(1)), ("b", Some(2)), ("b", None)];
        for length in 0..=5 {
            for code in 0..6_usize.pow(length) {
                let items: Vec<Item> = (0..length)
                    .map(|n| KINDS[code / 6_usize.pow(n) % 6])
                    .enumerate()
                    .map(|(n, (aggregate, version))| (n, aggregate, version))
                    .collect();
                let result = ordered(items.clone());
                for (place, item) in result.iter().enumerate() {
                    let (there, here) = (items[place], items[*item]);
                    assert_eq!((there.1, there.2.is_some()), (here.1, here.2.is_some()), "{items:?}");
                    assert!(here.2.is_some() || *item == place, "{items:?}");
                }
                for aggregate in ["a", "b"] {
                    let of_one =
                        result.iter().map(|n| items[*n]).filter(|item| item.1 == aggregate && item.2.is_some());
                    assert!(of_one.map(|(n, _, version)| (version, n)).is_sorted(), "{items:?}");
                }
            }
        }
    }
}
