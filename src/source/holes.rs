//! Numbers below the highest that were not visible when it was read: an open transaction's, or nobody's any more.
//! They are looked for ever more rarely, and after a day only by sweeps. Pure; times are
//! microseconds.

use serde::{Deserialize, Serialize};

use super::Error;
use super::status::{self, CatchUp};

const SECOND: i64 = 1_000_000;
/// Looked for at every poll: nearly all transactions end within a minute.
const HOT: i64 = 60 * SECOND;
/// Then every second, up to this age.
const WARM: i64 = 600 * SECOND;
const WARM_EVERY: i64 = SECOND;
/// Then rarely, up to this age.
const COLD: i64 = 86_400 * SECOND;
const COLD_EVERY: i64 = 30 * SECOND;
/// Ranges that are remembered: looking for all of them takes well below a tenth of a second.
pub(super) const RANGES_MAX: usize = 10_000;
/// So far below the first row ever read is looked for the rows of transactions that were open at that moment. It is one
/// range; the bound is for databases that walk over the leftovers of deleted rows.
const BELOW_FIRST: i64 = 1_000_000;

/// A range of missing numbers, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hole {
    from: i64,
    to: i64,
    since: i64,
    /// Nobody who could fill it runs any more: it ages faster. Not kept.
    settled: bool,
}

/// The missing numbers: disjoint ranges in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holes {
    ranges: Vec<Hole>,
    /// No longer looked for by themselves. What is neither here nor above was read.
    resting: Vec<(i64, i64)>,
    warm_probed: i64,
    cold_probed: i64,
}

impl Holes {
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// The first ranges that are looked for.
    pub(super) fn first(&self, ranges_max: usize) -> impl Iterator<Item = status::Hole> {
        let shown = self.ranges.iter().take(ranges_max);
        shown.map(|Hole { from, to, since, settled }| status::Hole {
            from: *from,
            to: *to,
            since: *since,
            settled: *settled,
            held_by: Vec::new(),
        })
    }

    /// Since when this number is looked for, if it is.
    pub(super) fn since(&self, number: i64) -> Option<i64> {
        let at = self.ranges.partition_point(|hole| hole.to < number);
        self.ranges.get(at).filter(|hole| hole.from <= number).map(|hole| hole.since)
    }

    /// This number may not have been read.
    pub(super) fn holds(&self, number: i64) -> bool {
        let at = self.resting.partition_point(|(_, to)| *to < number);
        self.since(number).is_some() || self.resting.get(at).is_some_and(|(from, _)| *from <= number)
    }

    /// All numbers that may not have been read.
    pub(super) fn unread(&self) -> Vec<(i64, i64)> {
        let probed = self.ranges.iter().map(|hole| (hole.from, hole.to));
        merged(self.resting.iter().copied().chain(probed).collect())
    }

    /// The ranges that should be looked for now. After a start that is all of them, so that none is given up unseen.
    pub(super) fn due(&mut self, now: i64) -> Vec<(i64, i64)> {
        let warm = (now - self.warm_probed).abs() >= WARM_EVERY;
        let cold = (now - self.cold_probed).abs() >= COLD_EVERY;
        if warm {
            self.warm_probed = now;
        }
        if cold {
            self.cold_probed = now;
        }
        let is_due = |hole: &&Hole| {
            let age = now - hole.since;
            (age < HOT && !hole.settled) || (age < WARM && warm) || cold
        };
        self.ranges.iter().filter(is_due).map(|hole| (hole.from, hole.to)).collect()
    }

    /// Those that are looked for at every poll, lowest first: from, to, since.
    pub(super) fn hot(&self, now: i64) -> Vec<(i64, i64, i64)> {
        let is_hot = |hole: &&Hole| now - hole.since < HOT && !hole.settled;
        self.ranges.iter().filter(is_hot).map(|hole| (hole.from, hole.to, hole.since)).collect()
    }

    /// Nobody who could fill these ranges (ascending) runs any more.
    pub(super) fn settle(&mut self, settled: &[(i64, i64)]) {
        for (from, to) in settled {
            let at = self.ranges.partition_point(|hole| hole.to < *from);
            self.ranges[at..].iter_mut().take_while(|hole| hole.to <= *to).for_each(|hole| hole.settled = true);
        }
    }

    /// This number is no longer missing.
    pub(super) fn found(&mut self, number: i64) {
        let at = self.ranges.partition_point(|hole| hole.to < number);
        if let Some(hole) = self.ranges.get(at).copied().filter(|hole| hole.from <= number) {
            let below = (hole.from < number).then(|| Hole { to: number - 1, ..hole });
            let above = (number < hole.to).then(|| Hole { from: number + 1, ..hole });
            self.ranges.splice(at..=at, below.into_iter().chain(above));
        }
        let at = self.resting.partition_point(|(_, to)| *to < number);
        if let Some((from, to)) = self.resting.get(at).copied().filter(|(from, _)| *from <= number) {
            let below = (from < number).then(|| (from, number - 1));
            let above = (number < to).then(|| (number + 1, to));
            self.resting.splice(at..=at, below.into_iter().chain(above));
        }
    }

    /// Of the numbers above `after` up to `through`, only `seen` (ascending) were there.
    fn missed(&mut self, after: i64, seen: &[i64], through: i64, now: i64) {
        let mut last = after;
        for number in seen.iter().copied().chain(through.checked_add(1)) {
            if number.saturating_sub(last) > 1 {
                self.ranges.push(Hole { from: last + 1, to: number - 1, since: now, settled: false });
            }
            last = last.max(number);
        }
    }

    /// Lets rest what was looked for long enough. Returns how many ranges.
    fn rest_old(&mut self, now: i64) -> u64 {
        let old: Vec<Hole> = self.ranges.extract_if(.., |hole| now - hole.since >= COLD).collect();
        self.rest(&old)
    }

    /// Lets rest the lowest where there are too many. Returns how many ranges.
    fn rest_surplus(&mut self) -> u64 {
        let surplus = self.ranges.len().saturating_sub(RANGES_MAX);
        let lowest: Vec<Hole> = self.ranges.drain(..surplus).collect();
        self.rest(&lowest)
    }

    fn rest(&mut self, holes: &[Hole]) -> u64 {
        self.resting.extend(holes.iter().map(|hole| (hole.from, hole.to)));
        self.resting.sort_unstable();
        self.resting = merged(std::mem::take(&mut self.resting));
        while self.resting.len() > RANGES_MAX {
            // Two neighbours become one: numbers between them that were read are known by their id.
            self.resting = self.resting.chunks(2).map(|two| (two[0].0, two[two.len() - 1].1)).collect();
        }
        holes.len() as u64
    }
}

/// Ranges in ascending order, disjoint.
pub(super) fn merged(mut ranges: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    ranges.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges {
        match merged.last_mut() {
            Some((_, last)) if from <= last.saturating_add(1) => *last = to.max(*last),
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// How many ranges are no longer looked for, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Lost {
    pub too_old: u64,
    pub too_many: u64,
}

/// How far a source was read. Kept in the journal as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The table and the column whose numbers these are.
    pub column: Option<String>,
    /// The highest number that was read. Everything at or below it was seen or is in `holes`.
    pub max: Option<i64>,
    /// The id of the row with that number, and where it is read from.
    pub last_id: Option<String>,
    pub id_column: Option<String>,
    pub holes: Holes,
    pub lost: Lost,
    /// Where the last sweep ended, on engines that can be swept.
    pub swept: Option<Horizon>,
    /// How far a table is read that is far ahead, for those who look at the journal alone.
    pub catch_up: Option<CatchUp>,
}

/// A sweep finds the rows that were written since the one before, whatever their number. See `sql/postgres`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Horizon {
    /// All transactions below this one had ended when the new end of the table was looked through …
    pub end: i64,
    /// … and when the whole table was.
    pub whole: i64,
    pub whole_at: i64,
    /// The size of the table then: what is new stands behind it, or in the room of deleted rows.
    pub pages: i64,
    /// The database cluster and its timeline.
    #[serde(default)]
    pub server: (i64, i64),
}

impl Horizon {
    /// The rows may be others, although their numbers are the same. Older checkpoints don't say whose they are.
    pub(super) fn is_of_another(&self, now: &Self) -> bool {
        self.server != (0, 0) && self.server != now.server
    }
}

/// Holes are packed: three numbers a range, each as the difference to what precedes it, because a full list is
/// written with every batch.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Stored {
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    max: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_column: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    holes: Vec<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    resting: Vec<(i64, i64)>,
    lost: Lost,
    #[serde(skip_serializing_if = "Option::is_none")]
    swept: Option<Horizon>,
    #[serde(skip_serializing_if = "Option::is_none")]
    catch_up: Option<CatchUp>,
}

impl Checkpoint {
    pub(super) fn parse(source: &str, text: Option<&str>) -> Result<Self, Error> {
        let stored: Stored = match text {
            Some(text) => {
                serde_json::from_str(text).map_err(|cause| Error::Checkpoint { name: source.to_owned(), cause })?
            }
            None => Stored::default(),
        };
        let (mut end, mut since) = (0_i64, 0_i64);
        let ranges = stored.holes.as_chunks::<3>().0.iter().map(|[skip, length, later]| {
            let from = end.wrapping_add(*skip);
            end = from.wrapping_add(*length);
            since = since.wrapping_add(*later);
            Hole { from, to: end, since, settled: false }
        });
        let holes = Holes { ranges: ranges.collect(), resting: stored.resting, ..Holes::default() };
        let Stored { column, max, last_id, id_column, lost, swept, catch_up, .. } = stored;
        Ok(Self { column, max, last_id, id_column, holes, lost, swept, catch_up })
    }

    pub(super) fn to_json(&self) -> String {
        let (mut end, mut since) = (0_i64, 0_i64);
        let mut packed = Vec::with_capacity(self.holes.len() * 3);
        for hole in &self.holes.ranges {
            packed.extend([
                hole.from.wrapping_sub(end),
                hole.to.wrapping_sub(hole.from),
                hole.since.wrapping_sub(since),
            ]);
            (end, since) = (hole.to, hole.since);
        }
        let (column, last_id, id_column) = (self.column.clone(), self.last_id.clone(), self.id_column.clone());
        let (resting, lost) = (self.holes.resting.clone(), self.lost);
        let Self { max, swept, catch_up, .. } = *self;
        let stored = Stored { column, max, last_id, id_column, holes: packed, resting, lost, swept, catch_up };
        serde_json::to_string(&stored).expect("numbers and texts are JSON")
    }

    /// Everything up to `through` is journaled; above the old maximum, only `seen` (ascending) was there.
    pub(super) fn advance(&mut self, seen: &[i64], through: i64, now: i64) {
        // Before the first row nobody knows which numbers were ever used, but transactions may be open right now.
        let first = seen.first().copied().unwrap_or(through.saturating_add(1));
        let after =
            self.max.unwrap_or_else(|| first.saturating_sub(BELOW_FIRST + 1).max(first.saturating_sub(1).min(0)));
        if self.max.is_none() && after > i64::MIN {
            self.holes.resting.push((i64::MIN, after));
        }
        self.holes.missed(after, seen, through, now);
        self.lost.too_many += self.holes.rest_surplus();
        self.max = Some(through);
    }

    /// After a look at all that was due: lets rest what was looked for long enough.
    pub(super) fn give_up(&mut self, now: i64) {
        self.lost.too_old += self.holes.rest_old(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(holes: &Holes) -> Vec<(i64, i64)> {
        holes.ranges.iter().map(|hole| (hole.from, hole.to)).collect()
    }

    fn at(max: i64) -> Checkpoint {
        Checkpoint { max: Some(max), ..Checkpoint::default() }
    }

    #[test]
    fn what_is_skipped_is_remembered_and_what_is_found_is_not() {
        let mut checkpoint = at(0);
        checkpoint.advance(&[2, 3, 7], 9, 5);
        assert_eq!(ranges(&checkpoint.holes), [(1, 1), (4, 6), (8, 9)]);
        for number in [5, 1, 2, 100] {
            checkpoint.holes.found(number);
        }
        assert_eq!(ranges(&checkpoint.holes), [(4, 4), (6, 6), (8, 9)]);
        assert_eq!(checkpoint.max, Some(9));
    }

    #[test]
    fn the_first_read_looks_a_little_below_its_first_row() {
        let below = |first: i64| {
            let mut checkpoint = Checkpoint::default();
            checkpoint.advance(&[first], first, 0);
            ranges(&checkpoint.holes)
        };
        assert_eq!(below(1), []);
        assert_eq!(below(3), [(1, 2)]);
        assert_eq!(below(5_000_000), [(4_000_000, 4_999_999)]);
        assert_eq!(below(-5), []);
        assert_eq!(below(i64::MIN), []);
    }

    #[test]
    fn what_is_not_looked_for_rests_until_it_is_found() {
        let mut checkpoint = Checkpoint::default();
        checkpoint.advance(&[5], 5, 0);
        assert_eq!(checkpoint.holes.resting, [(i64::MIN, 0)]);
        checkpoint.holes.found(-3);
        assert_eq!(checkpoint.holes.resting, [(i64::MIN, -4), (-2, 0)]);
        let kept = Checkpoint::parse("cart", Some(&checkpoint.to_json())).expect("readable");
        assert_eq!(kept, checkpoint);
    }

    #[test]
    fn holes_age_and_are_given_up_after_a_last_look() {
        let mut checkpoint = at(0);
        checkpoint.advance(&[2], 2, 0);
        let due = |checkpoint: &mut Checkpoint, seconds: i64| checkpoint.holes.due(seconds * SECOND).len();
        assert_eq!(due(&mut checkpoint, 40), 1);
        assert_eq!([due(&mut checkpoint, 41), due(&mut checkpoint, 41)], [1, 1], "hot");
        assert_eq!([due(&mut checkpoint, 65), due(&mut checkpoint, 65), due(&mut checkpoint, 66)], [1, 0, 1], "warm");
        assert_eq!(
            [due(&mut checkpoint, 700), due(&mut checkpoint, 729), due(&mut checkpoint, 730)],
            [1, 0, 1],
            "cold"
        );
        let json = checkpoint.to_json();
        let mut restarted = Checkpoint::parse("cart", Some(&json)).expect("readable");
        assert_eq!(due(&mut restarted, 200_000), 1, "looked for once more");
        restarted.give_up(200_000 * SECOND);
        assert_eq!((restarted.holes.len(), restarted.lost), (0, Lost { too_old: 1, too_many: 0 }));
        assert_eq!(restarted.holes.resting, [(1, 1)], "a sweep may still find it");
    }

    #[test]
    fn the_oldest_ranges_go_when_there_are_too_many() {
        let mut checkpoint = at(0);
        let seen: Vec<i64> = (1..=10_010).map(|n| n * 2).collect();
        checkpoint.advance(&seen, 20_020, 0);
        assert_eq!(checkpoint.lost, Lost { too_old: 0, too_many: 10 });
        assert_eq!(ranges(&checkpoint.holes)[0], (21, 21));
        assert_eq!(checkpoint.holes.resting[9], (19, 19));
        assert!(checkpoint.to_json().len() < 80_000);
        checkpoint.give_up(i64::MAX);
        let resting = &checkpoint.holes.resting;
        assert!(
            resting.len() <= RANGES_MAX
                && (1..=10_010).all(|n| resting.iter().any(|(from, to)| (*from..=*to).contains(&(2 * n - 1))))
        );
    }

    #[test]
    fn ranges_are_merged() {
        assert_eq!(merged(vec![(5, 50), (3, 100), (102, 103), (101, 101), (i64::MIN, 0)]), [(i64::MIN, 0), (3, 103)]);
    }

    #[test]
    fn a_checkpoint_survives_its_json() {
        let mut checkpoint = at(i64::MIN);
        checkpoint.advance(&[-3, 5], i64::MAX, 1_700_000_000_000_000);
        checkpoint.advance(&[], i64::MAX, 3);
        checkpoint.last_id = Some("ä\"".into());
        let json = checkpoint.to_json();
        assert_eq!(Checkpoint::parse("cart", Some(&json)).expect("readable"), checkpoint, "{json}");
        assert_eq!(Checkpoint::parse("cart", None).expect("readable"), Checkpoint::default());
        assert!(Checkpoint::parse("cart", Some("{")).is_err());
    }

    /// Against a plain set of numbers.
    #[test]
    fn ranges_are_a_set() {
        let mut random = 1_u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((random >> 33) % below).expect("small")
        };
        for _ in 0..300 {
            let (mut checkpoint, mut plain) = (at(0), std::collections::BTreeSet::new());
            for _ in 0..20 {
                let max = checkpoint.max.expect("set");
                let through = max + next(12);
                let seen: Vec<i64> = (max + 1..=through).filter(|_| next(2) == 0).collect();
                checkpoint.advance(&seen, through, 0);
                plain.extend((max + 1..=through).filter(|number| !seen.contains(number)));
                let found = next(100);
                checkpoint.holes.found(found);
                plain.remove(&found);
                let numbers: Vec<i64> =
                    ranges(&checkpoint.holes).into_iter().flat_map(|(from, to)| from..=to).collect();
                assert_eq!(numbers, plain.iter().copied().collect::<Vec<_>>());
            }
        }
    }
}
