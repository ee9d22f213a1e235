//! Who may still fill a missing number: whoever had a transaction open when it was seen first. Not told by transaction
//! ids: who only drew a number has none yet. Any role may read which virtual transactions run.

use std::collections::{BTreeMap, VecDeque};

use sqlx::postgres::PgPool;

use crate::source::Evidence;

/// Sets of running transactions that are remembered; what comes beyond only ages.
const SETS_MAX: usize = 100;

/// The transactions that ran when numbers were seen to be missing for the first time.
#[derive(Default)]
pub(in crate::source) struct Witness {
    /// For numbers that are missing since a time or longer: the transactions that still run, each with its process if it
    /// has a lock to write the table. Oldest first.
    sets: VecDeque<(i64, BTreeMap<String, Option<i32>>)>,
}

impl Witness {
    /// Nothing on a replica: the locks of its primary are not to be seen.
    pub(super) async fn evidence(
        &mut self,
        pool: &PgPool,
        table: &str,
        missing: &[(i64, i64, i64)],
    ) -> Result<Evidence, sqlx::Error> {
        // A prepared transaction has no process, but keeps its lock on the table.
        let text = "select virtualtransaction, max(pid) filter (where relation is not null) from pg_locks \
                    where locktype = 'virtualxid' or (mode = 'RowExclusiveLock' and relation = to_regclass($1) \
                    and database = (select oid from pg_database where datname = current_database())) group by 1";
        let mut connection = pool.acquire().await?;
        let is_replica: bool = sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(&mut *connection).await?;
        if is_replica {
            return Ok(Evidence::default());
        }
        let running: Vec<(String, Option<i32>)> = sqlx::query_as(text).bind(table).fetch_all(&mut *connection).await?;
        Ok(self.judge(running.into_iter().collect(), missing))
    }

    fn judge(&mut self, running: BTreeMap<String, Option<i32>>, missing: &[(i64, i64, i64)]) -> Evidence {
        for (_, set) in &mut self.sets {
            set.retain(|transaction, process| {
                *process = running.get(transaction).copied().flatten().or(*process);
                running.contains_key(transaction)
            });
        }
        // Older ones are settled only once those before them are, as time is all that tells which set is a range's.
        let mut settled_through = i64::MIN;
        while let Some((since, _)) = self.sets.pop_front_if(|(_, set)| set.is_empty()) {
            settled_through = since;
        }
        let newest = missing.iter().map(|(_, _, since)| *since).max().unwrap_or(i64::MIN);
        let is_new = newest > self.sets.back().map_or(settled_through, |(since, _)| *since);
        if is_new && self.sets.len() < SETS_MAX {
            self.sets.push_back((newest, running));
        }
        let settled = missing.iter().filter(|(_, _, since)| *since <= settled_through);
        let settled = settled.map(|(from, to, _)| (*from, *to)).collect();
        let held_by =
            self.sets.iter().map(|(since, set)| (*since, set.values().flatten().copied().collect())).collect();
        Evidence { settled, held_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_settled_once_all_have_ended_that_ran_when_it_was_first_missing() {
        let running = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), None)).collect();
        let mut witness = Witness::default();
        let one = [(5, 6, 100)];
        assert!(witness.judge(running(&["a", "b"]), &one).settled.is_empty());
        assert!(witness.judge(running(&["b", "c"]), &one).settled.is_empty());
        let two = [(5, 6, 100), (9, 9, 200)];
        // The first is settled; whoever runs now may fill the second.
        assert_eq!(witness.judge(running(&["c"]), &two).settled, [(5, 6)]);
        assert_eq!(witness.judge(running(&["d"]), &two).settled, [(5, 6), (9, 9)]);
    }

    #[test]
    fn one_that_runs_long_holds_up_those_after_it() {
        let running = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), Some(7))).collect();
        let mut witness = Witness::default();
        witness.judge(running(&["long"]), &[(1, 1, 100)]);
        let missing = [(1, 1, 100), (2, 2, 200)];
        let found = witness.judge(running(&["long", "short"]), &missing);
        assert_eq!(found.held_by, [(100, vec![7]), (200, vec![7, 7])]);
        assert!(witness.judge(running(&["long"]), &missing).settled.is_empty());
        assert_eq!(witness.judge(running(&[]), &missing).settled, [(1, 1), (2, 2)]);
    }
}
