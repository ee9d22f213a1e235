//! Where the pages of a feed end. A view is a feed as clients of equal visibility see it; its borders are rows
//! keyed by (epoch, n), never computed from positions: a filtered view pages over its own entries.

use sqlx::AssertSqlSafe;

use super::db::{Conn, execute, select, with_conn};
use super::entries::Condition;
use super::writer::Write;
use super::{Error, Journal};
use crate::filter::Selection;

/// Borders found by one statement: bounds the work of a request that meets a view that lies behind.
const BORDERS_MAX: i64 = 100;

/// A feed with its filter, one visibility and a page size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Short hash of (journal id, filter, visibility, page size).
    pub epoch: String,
    pub feed: String,
    /// What the hash was made of, to be read by people.
    pub definition: String,
}

/// A sealed page: the entries of the view after `after` up to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Border {
    pub n: i64,
    /// Last position of the page before; 0 for the first.
    pub after: i64,
    pub last: i64,
}

impl Journal {
    /// Makes the view known, so that its borders outlive the process. Idempotent.
    ///
    /// # Errors
    /// The database.
    pub async fn know_view(&self, view: &View) -> Result<(), Error> {
        self.inner.writer.write(Write::View(view.clone())).await.map(|_| ())
    }

    /// The feed that an epoch belongs or belonged to.
    ///
    /// # Errors
    /// The database.
    pub async fn view_feed(&self, epoch: &str) -> Result<Option<String>, Error> {
        let sql = "select feed from views where epoch = $1";
        let epoch = epoch.replace('\0', "");
        Ok(select!(self.db(), query_scalar.fetch_optional, sql, epoch))
    }

    /// The sealed page `n` of an epoch.
    ///
    /// # Errors
    /// The database.
    pub async fn page_border(&self, epoch: &str, n: i64) -> Result<Option<Border>, Error> {
        let sql = "select p.n, coalesce(b.last_position, 0) as after, p.last_position as last from pages p \
                   left join pages b on b.epoch = p.epoch and b.n = p.n - 1 where p.epoch = $1 and p.n = $2";
        Ok(select!(self.db(), query_as.fetch_optional, sql, epoch, n))
    }

    /// The sealed page that the next entry after a position belongs to.
    ///
    /// # Errors
    /// The database.
    pub async fn page_after(&self, epoch: &str, position: i64) -> Result<Option<Border>, Error> {
        let sql = "select p.n, coalesce(b.last_position, 0) as after, p.last_position as last from pages p \
                   left join pages b on b.epoch = p.epoch and b.n = p.n - 1 \
                   where p.epoch = $1 and p.last_position > $2 order by p.last_position limit 1";
        Ok(select!(self.db(), query_as.fetch_optional, sql, epoch, position))
    }

    /// The last sealed page of an epoch, if any.
    ///
    /// # Errors
    /// The database.
    pub async fn last_border(&self, epoch: &str) -> Result<Option<Border>, Error> {
        let sql = "select p.n, coalesce(b.last_position, 0) as after, p.last_position as last from pages p \
                   left join pages b on b.epoch = p.epoch and b.n = p.n - 1 where p.epoch = $1 order by p.n desc limit 1";
        Ok(select!(self.db(), query_as.fetch_optional, sql, epoch))
    }

    /// Records the borders of pages that are full between `last` and the position `through`, at most
    /// some. Returns the last border now, and whether all that are full were recorded.
    ///
    /// # Errors
    /// The database.
    pub async fn seal(
        &self,
        view: &View,
        selection: &Selection,
        page_size: i64,
        last: Option<Border>,
        through: i64,
    ) -> Result<(Option<Border>, bool), Error> {
        let (n, after) = last.map_or((0, 0), |border| (border.n, border.last));
        let condition = Condition::of(selection, 5);
        let sql = format!(
            "select position from (select e.position, row_number() over (order by e.position) as k from entries e \
             where e.position > $1 and e.position <= $2{} order by e.position limit $3) as numbered \
             where k % $4 = 0 order by position",
            condition.text
        );
        let (sql, entries) = (AssertSqlSafe(sql), BORDERS_MAX * page_size);
        let found: Vec<i64> =
            select!(self.db(), query_scalar.fetch_all, sql, after, through, entries, page_size; condition.binds);
        let Some(&newest) = found.last() else { return Ok((last, true)) };
        let borders: Vec<(i64, i64)> = (n + 1..).zip(found.iter().copied()).collect();
        let newest = Border {
            n: n + borders.len() as i64,
            after: if borders.len() > 1 { borders[borders.len() - 2].1 } else { after },
            last: newest,
        };
        let complete = (borders.len() as i64) < BORDERS_MAX;
        self.inner.writer.write(Write::Pages { epoch: view.epoch.clone(), after, borders }).await?;
        // Somebody else may have found other ones, or ended a page, in between: theirs hold.
        let written = self.last_border(&view.epoch).await?;
        Ok((written, complete && written == Some(newest)))
    }
}

pub(super) async fn insert_view(conn: &mut Conn, view: &View) -> Result<(), Error> {
    let sql = "insert into views (epoch, feed, definition, created_at) \
               select $1, $2, $3, recorded_at from journal where singleton = 1 on conflict (epoch) do nothing";
    execute!(conn, sql, view.epoch.as_str(), view.feed.as_str(), view.definition.as_str());
    Ok(())
}

/// Ends the open pages that are about to lose entries up to a position. Whoever stands before such a page must be told, and
/// a page that was ended without all of its entries is 410.
pub(super) async fn close(conn: &mut Conn, through: i64) -> Result<(), Error> {
    let views: Vec<(String, String)> =
        with_conn!(&mut *conn, c => sqlx::query_as("select epoch, definition from views").fetch_all(c).await?);
    for (epoch, definition) in views {
        let Ok(definition) = serde_json::from_str::<Definition>(&definition) else { continue };
        let sql = "select n, last_position from pages where epoch = $1 order by n desc limit 1";
        let last: Option<(i64, i64)> =
            with_conn!(&mut *conn, c => sqlx::query_as(sql).bind(epoch.as_str()).fetch_optional(c).await?);
        let (n, last) = last.unwrap_or((0, 0));
        let condition = Condition::of(&definition.selection, 3);
        let sql =
            format!("select 1 from entries e where e.position > $1 and e.position <= $2{} limit 1", condition.text);
        let lost: Option<i32> = with_conn!(&mut *conn, c => {
            let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(last).bind(through);
            let query = condition.binds.iter().fold(query, |query, text| query.bind(text.as_str()));
            query.fetch_optional(c).await?
        });
        if lost.is_some() {
            insert_borders(conn, &epoch, last, &[(n + 1, through)]).await?;
        }
    }
    Ok(())
}

/// The part of [`View::definition`] that is read again.
#[derive(serde::Deserialize)]
struct Definition {
    selection: Selection,
}

/// Only if they follow what is there: the page before the first of them ends at `after`.
pub(super) async fn insert_borders(
    conn: &mut Conn,
    epoch: &str,
    after: i64,
    borders: &[(i64, i64)],
) -> Result<(), Error> {
    let Some((first, _)) = borders.first() else { return Ok(()) };
    let sql = "select last_position from pages where epoch = $1 and n = $2";
    let before: Option<i64> =
        with_conn!(&mut *conn, c => sqlx::query_scalar(sql).bind(epoch).bind(first - 1).fetch_optional(c).await?);
    if before.unwrap_or(0) != after {
        return Ok(());
    }
    let sql = "insert into pages (epoch, n, last_position) values ($1, $2, $3) on conflict (epoch, n) do nothing";
    for (n, last) in borders {
        execute!(conn, sql, epoch, n, last);
    }
    Ok(())
}
