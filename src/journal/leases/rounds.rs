//! What a process does about its leases on PostgreSQL every round: renews them, gives back what has ended, and takes its
//! share of what is free.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool};
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Ended, Grant, Held, Leases, MARGIN, Member, ROUND, TERM};
use crate::journal::db::{self, NOW_POSTGRES};
use crate::journal::incarnation::is_same;
use crate::journal::listen::CHANNEL;
use crate::runtime::Backoff;

/// What nobody has taken for so long is taken even beyond one's share.
const PATIENCE_MICROS: i64 = 2_000_000;
/// Rows of processes and of work that nobody wants any more are forgotten after this.
const FORGET_MICROS: i64 = 3_600_000_000;
/// After a round that failed; the longer it goes on, the more, as what was asked may still wait on the server.
const RETRY: Duration = Duration::from_millis(300);
const RETRY_MAX: Duration = Duration::from_secs(3);
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// The rows by which processes see one another.
const PROCESS: &str = "process:";

/// One row, and the database's clock.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) holder: String,
    pub(super) expires_at: i64,
    pub(super) state: Option<String>,
    pub(super) now: i64,
}

impl Row {
    fn is_held(&self) -> bool {
        self.expires_at > self.now && !self.holder.is_empty()
    }
}

/// What a process does next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) take: Vec<String>,
    /// So many of its own, as others have less.
    pub(super) give: usize,
}

/// `waiting`: what this process would do and does not. `ending`: how many of its leases it is giving up already.
/// `current`: the configuration that was set last. Processes that have another one leave the work to those that have it.
pub(super) fn plan(process: &str, current: &str, rows: &[Row], waiting: &[String], ending: usize) -> Plan {
    let members: Vec<&Row> = rows.iter().filter(|row| row.name.starts_with(PROCESS) && row.is_held()).collect();
    let has_current = |row: &&&Row| row.state.as_deref() == Some(current);
    let eligible: Vec<&str> = match members.iter().filter(has_current).count() {
        0 => members.iter().map(|row| row.holder.as_str()).collect(),
        _ => members.iter().filter(has_current).map(|row| row.holder.as_str()).collect(),
    };
    let held = || rows.iter().filter(|row| row.is_held() && !row.name.starts_with(PROCESS));
    let count = |holder: &str| held().filter(|row| row.holder == holder).count();
    let mine = count(process).saturating_sub(ending);
    if !eligible.contains(&process) {
        return Plan { take: Vec::new(), give: mine };
    }
    let is_free = |name: &&String| rows.iter().any(|row| row.name == **name && !row.is_held());
    let free: Vec<&String> = waiting.iter().filter(is_free).collect();
    let total = held().count() + free.len();
    let share = total.div_ceil(eligible.len());
    let waits_long = |name: &String| {
        rows.iter().any(|row| row.name == *name && row.now.saturating_sub(row.expires_at) > PATIENCE_MICROS)
    };
    let room = share.saturating_sub(mine);
    let take = free.iter().enumerate().filter(|(n, name)| *n < room || waits_long(name));
    let take = take.map(|(_, name)| (*name).clone()).collect();
    let is_short = |other: &&str| *other != process && count(other) < total / eligible.len();
    let give = if eligible.iter().any(is_short) { mine.saturating_sub(share) } else { 0 };
    Plan { take, give }
}

impl Leases {
    /// Goes on until [`Leases::leave`]. `configuration`: a short hash of what this process is told to do.
    pub(in crate::journal) async fn run(
        self,
        options: PgConnectOptions,
        configuration: String,
        journal: String,
    ) -> Ended {
        let mut connection = None;
        let (mut bell, mut is_failing) = (self.0.bell.clone(), false);
        let mut backoff = Backoff::new(RETRY, RETRY_MAX);
        while !self.0.has_left.load(Ordering::Acquire) {
            let done = async {
                let conn = match &mut connection {
                    Some(conn) => conn,
                    None => connection.insert(connect(&options).await?),
                };
                timeout(ROUND, self.round(conn, &configuration, &journal)).await.unwrap_or_else(|_| Err(db::silent()))
            };
            let cause = match done.await {
                Ok(true) => None,
                Ok(false) => return Ended::OtherJournal,
                Err(cause) => Some(cause),
            };
            match &cause {
                Some(cause) if !is_failing => warn!(%cause, "can't renew the leases of this gateway: {cause}"),
                None if is_failing => {
                    info!("the leases of this gateway are renewed again");
                    // Whatever they failed for: whoever waits for an answer since then waits long enough.
                    db::is_back();
                }
                _ => {}
            }
            is_failing = cause.is_some();
            self.end_stale();
            if is_failing {
                // With it goes what still waits on the server.
                connection = None;
                bell.rung(backoff.next_wait()).await;
            } else {
                backoff.reset();
                bell.rung(ROUND).await;
            }
        }
        Ended::Left
    }

    /// `false`: the journal is another one now.
    async fn round(&self, conn: &mut PgConnection, configuration: &str, journal: &str) -> Result<bool, sqlx::Error> {
        if !is_same(conn, journal).await? {
            return Ok(false);
        }
        self.renew(conn, configuration).await?;
        self.release(conn).await?;
        let rows = self.rows(conn).await?;
        let sql = "select value from settings where name = 'configuration'";
        let current: Option<String> = sqlx::query_scalar(sql).fetch_optional(&mut *conn).await?;
        self.look(&rows);
        let plan = {
            let wanted = self.wanted();
            let ending =
                wanted.values().filter(|it| it.held.as_ref().is_some_and(|held| held.lost.is_cancelled())).count();
            let is_waiting = |it: &super::Wanted| {
                it.held.is_none() && it.waiting.as_ref().is_some_and(|(_, stop)| !stop.is_cancelled())
            };
            let waiting: Vec<String> =
                wanted.iter().filter(|(_, it)| is_waiting(it)).map(|(name, _)| name.clone()).collect();
            plan(self.process(), current.as_deref().unwrap_or(configuration), &rows, &waiting, ending)
        };
        self.give(plan.give);
        self.take(conn, plan.take).await.map(|()| true)
    }

    /// Renews what this process holds, and itself.
    async fn renew(&self, conn: &mut PgConnection, configuration: &str) -> Result<(), sqlx::Error> {
        let started = self.elapsed();
        let (mut names, mut fences, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for (name, wanted) in self.wanted().iter() {
            if let Some(held) = &wanted.held {
                names.push(name.clone());
                fences.push(held.fence);
                states.push(wanted.report.as_ref().map(|report| report()));
            }
        }
        let sql = format!(
            "with mine as (select name from leases where holder = $1 order by name for update) \
             update leases l set expires_at = {NOW_POSTGRES} + $5, state = s.state \
             from unnest($2::text[], $3::bigint[], $4::text[]) as s (name, fence, state), mine \
             where l.name = s.name and l.fence = s.fence and l.holder = $1 and mine.name = l.name returning l.name"
        );
        let renewed: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(self.process())
            .bind(&names)
            .bind(&fences)
            .bind(&states)
            .bind(micros(TERM))
            .fetch_all(&mut *conn)
            .await?;
        let until = started + millis(TERM) - millis(MARGIN);
        for (name, wanted) in self.wanted().iter_mut() {
            let Some(held) = &wanted.held else { continue };
            if renewed.contains(name) {
                if let Some(grant) = held.grant.upgrade() {
                    grant.until.store(until, Ordering::Release);
                }
            } else if names.contains(name) {
                warn!(lease.name = %name, "another gateway has taken `{name}` from this one");
                held.lost.cancel();
            }
        }
        let sql = format!(
            "insert into leases (name, holder, fence, expires_at, state) values ($1, $2, 1, {NOW_POSTGRES} + $3, $4) \
             on conflict (name) do update set expires_at = excluded.expires_at, state = excluded.state"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(format!("{PROCESS}{}", self.process()))
            .bind(self.process())
            .bind(micros(TERM))
            .bind(configuration)
            .execute(&mut *conn)
            .await
            .map(|_| ())
    }

    /// Frees the rows of work that has ended.
    async fn release(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let returned: Vec<(String, i64)> =
            self.wanted().iter().filter_map(|(name, it)| Some((name.clone(), it.returned?))).collect();
        if returned.is_empty() {
            return Ok(());
        }
        let (names, fences): (Vec<String>, Vec<i64>) = returned.into_iter().unzip();
        let sql = format!(
            "update leases l set holder = '', expires_at = {NOW_POSTGRES}, state = null \
             from unnest($2::text[], $3::bigint[]) as s (name, fence) \
             where l.name = s.name and l.fence = s.fence and l.holder = $1"
        );
        let process = self.process();
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(process).bind(&names).bind(&fences).execute(&mut *conn).await?;
        for (name, fence) in names.iter().zip(&fences) {
            if let Some(wanted) = self.wanted().get_mut(name)
                && wanted.returned == Some(*fence)
            {
                wanted.returned = None;
            }
        }
        self.ring_others(conn).await
    }

    async fn ring_others(&self, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let payload = format!("{} leases", self.process());
        sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(&mut *conn).await.map(|_| ())
    }

    /// All rows; those that this process would take are made if there are none.
    async fn rows(&self, conn: &mut PgConnection) -> Result<Vec<Row>, sqlx::Error> {
        let names: Vec<String> = self.wanted().keys().cloned().collect();
        let sql = format!(
            "insert into leases (name, holder, fence, expires_at) select name, '', 0, {NOW_POSTGRES} \
             from unnest($1::text[]) as s (name) where not exists (select 1 from leases l where l.name = s.name) \
             on conflict do nothing"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(names).execute(&mut *conn).await?;
        let sql = format!("delete from leases where expires_at < {NOW_POSTGRES} - $1");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(FORGET_MICROS).execute(&mut *conn).await?;
        let sql = format!("select name, holder, expires_at, state, {NOW_POSTGRES} as now from leases order by name");
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&mut *conn).await
    }

    /// Keeps what others say.
    fn look(&self, rows: &[Row]) {
        let is_work = |row: &&Row| row.is_held() && !row.name.starts_with(PROCESS);
        let of_others = rows.iter().filter(is_work).filter(|row| row.holder != self.process());
        let states = of_others.filter_map(|row| Some((row.name.clone(), row.state.clone()?))).collect();
        let members = rows.iter().filter(|row| row.name.starts_with(PROCESS) && row.is_held());
        let members = members.map(|member| Member {
            process: member.holder.clone(),
            leases: rows.iter().filter(is_work).filter(|row| row.holder == member.holder).count(),
        });
        *self.others() = super::Others { states, members: members.collect() };
    }

    fn give(&self, count: usize) {
        let wanted = self.wanted();
        let held = wanted.values().rev().filter_map(|wanted| wanted.held.as_ref());
        held.filter(|held| !held.lost.is_cancelled()).take(count).for_each(|held| held.lost.cancel());
    }

    async fn take(&self, conn: &mut PgConnection, names: Vec<String>) -> Result<(), sqlx::Error> {
        if names.is_empty() {
            return Ok(());
        }
        let started = self.elapsed();
        let sql = format!(
            "update leases set holder = $1, fence = fence + 1, expires_at = {NOW_POSTGRES} + $3, state = null \
             where name in (select name from leases where name = any($2) order by name for update) \
             and expires_at <= {NOW_POSTGRES} returning name, fence"
        );
        let taken: Vec<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(self.process())
            .bind(names)
            .bind(micros(TERM))
            .fetch_all(&mut *conn)
            .await?;
        for (name, fence) in taken {
            let Some((sender, stop)) = self.wanted().get_mut(&name).and_then(|wanted| wanted.waiting.take()) else {
                continue;
            };
            let lease = self.grant(&name, Some(fence), started + millis(TERM) - millis(MARGIN), &stop);
            let held = Held { fence, grant: Arc::downgrade(&lease.0), lost: lease.0.lost.clone() };
            if let Some(wanted) = self.wanted().get_mut(&name) {
                wanted.held = Some(held);
            }
            // Whoever waited and went drops it, which gives it back.
            let _ = sender.send(lease);
        }
        Ok(())
    }

    /// Ends the work of leases that could not be renewed in time.
    fn end_stale(&self) {
        let (now, mut ended) = (self.elapsed(), 0);
        for held in self.wanted().values().filter_map(|wanted| wanted.held.as_ref()) {
            let is_over = |grant: Arc<Grant>| grant.until.load(Ordering::Acquire) <= now;
            if !held.lost.is_cancelled() && held.grant.upgrade().is_some_and(is_over) {
                held.lost.cancel();
                ended += 1;
            }
        }
        if ended > 0 {
            warn!(leases = ended, "{ended} leases could not be renewed in time: their work waits, or others do it");
        }
    }

    /// Leaves all work to the others, at once. For the end of a process: whatever it still writes is refused.
    pub(in crate::journal) async fn leave(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        self.0.has_left.store(true, Ordering::Release);
        self.0.bell.ring();
        let mut conn = pool.acquire().await?;
        let sql = format!(
            "update leases set holder = '', expires_at = {NOW_POSTGRES}, state = null where holder = $1 \
             and name in (select name from leases where holder = $1 order by name for update)"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(self.process()).execute(&mut *conn).await?;
        self.ring_others(&mut conn).await
    }
}

/// Nothing that a round asks takes long, but it may have to wait for a lock.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connected = async {
        let mut conn = db::connect(options).await?;
        sqlx::raw_sql("set statement_timeout = '5s'").execute(&mut conn).await?;
        Ok(conn)
    };
    timeout(CONNECT_MAX, connected).await.unwrap_or_else(|_| Err(db::silent()))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, holder: &str, expires_at: i64, state: Option<&str>) -> Row {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        Row { name, holder, expires_at, state: state.map(str::to_owned), now: 100 }
    }

    fn process(name: &str, configuration: &str) -> Row {
        row(&format!("process:{name}"), name, 200, Some(configuration))
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("w{n}")).collect()
    }

    #[test]
    fn work_is_shared_evenly_and_nothing_is_left() {
        let free = |count| names(count).into_iter().map(|name| row(&name, "", 100, None));
        let alone: Vec<Row> = free(5).chain([process("a", "c")]).collect();
        assert_eq!(plan("a", "c", &alone, &names(5), 0).take, names(5));
        let two: Vec<Row> = free(5).chain([process("a", "c"), process("b", "c")]).collect();
        assert_eq!(plan("a", "c", &two, &names(5), 0).take.len(), 3);
        let one_has_all: Vec<Row> = names(5)
            .iter()
            .map(|name| row(name, "a", 200, None))
            .chain([process("a", "c"), process("b", "c")])
            .collect();
        assert_eq!(plan("a", "c", &one_has_all, &[], 0), Plan { take: vec![], give: 2 });
        assert_eq!(plan("a", "c", &one_has_all, &[], 2).give, 0, "they are on their way");
        assert_eq!(plan("b", "c", &one_has_all, &names(5), 0), Plan::default());
    }

    #[test]
    fn a_dead_process_and_an_old_configuration_leave_the_work_to_others() {
        let dead = [row("w0", "b", 90, None), row("process:b", "b", 90, Some("c")), process("a", "c")];
        assert_eq!(plan("a", "c", &dead, &names(1), 0).take, names(1));
        let old = [row("w0", "a", 200, None), process("a", "old"), process("b", "new")];
        assert_eq!(plan("a", "new", &old, &[], 0).give, 1);
        assert_eq!(plan("b", "new", &old, &names(1), 0), Plan::default());
        let newest_is_dead = [row("w0", "", 100, None), process("a", "old")];
        assert_eq!(plan("a", "new", &newest_is_dead, &names(1), 0).take, names(1));
    }
}
