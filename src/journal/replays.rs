//! What a webhook gets again: the rows of `replays`. Each is a lane beside the live one, with a cursor of its own.

use super::db::{Conn, execute, select};
use super::entries::Condition;
use super::writer::Write;
use super::{Columns, Error, Journal, Page, Range};
use crate::filter::Selection;

/// Events of one webhook that may wait to be sent again one by one.
const RESENDS_MAX: i64 = 1_000;

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All matching events of a stretch.
    Replay,
    /// Those of them that are dead.
    Recover,
    /// The one event at its end.
    Resend,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Recover => "recover",
            Self::Resend => "resend",
        }
    }
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let kind = [Self::Replay, Self::Recover, Self::Resend].into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| format!("`{text}` is no kind of a replay"))
    }
}

/// A stretch that is sent again, and how far that got.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ReplayRow {
    pub webhook: String,
    pub id: String,
    #[sqlx(try_from = "String")]
    pub kind: Kind,
    pub cursor: i64,
    pub through: i64,
    pub total: i64,
    pub created_at: i64,
}

impl Journal {
    /// Queues a replay behind those that the webhook has.
    ///
    /// # Errors
    /// [`Error::Busy`] where there is one that it must not stand beside, or the database.
    pub async fn start_replay(&self, row: ReplayRow) -> Result<(), Error> {
        self.inner.writer.write(Write::Replay(row)).await.map(|_| ())
    }

    /// Ends the replays of a webhook, with their exceptions; what is dead stays listed.
    ///
    /// # Errors
    /// The database.
    pub async fn cancel_replays(&self, webhook: &str) -> Result<(), Error> {
        self.inner.writer.write(Write::CancelReplays(webhook.to_owned())).await.map(|_| ())
    }

    /// The replay of a webhook whose turn it is.
    ///
    /// # Errors
    /// The database.
    pub async fn replay(&self, webhook: &str) -> Result<Option<ReplayRow>, Error> {
        let sql = "select * from replays where webhook = $1 order by id limit 1";
        Ok(select!(self.db(), query_as.fetch_optional, sql, webhook))
    }

    /// The webhooks that have something to send again, or exceptions.
    ///
    /// # Errors
    /// The database.
    pub async fn busy_webhooks(&self) -> Result<Vec<String>, Error> {
        let sql = "select webhook from replays union \
                   select webhook from deliveries where status in ('failing', 'held')";
        Ok(select!(self.db(), query_scalar.fetch_all, sql))
    }

    /// Like [`Journal::read`], but only what is dead at a webhook.
    ///
    /// # Errors
    /// The database.
    pub async fn read_dead(
        &self,
        webhook: &str,
        selection: &Selection,
        range: Range,
        limit: usize,
    ) -> Result<Page, Error> {
        let head = self.head().await?;
        let condition = Condition::of(selection, 5);
        let sql = format!(
            "select d.position from deliveries d join entries e on e.position = d.position where d.webhook = $1 \
             and d.replay = '' and d.status = 'dead' and d.position > $2 and d.position <= $3{} order by d.position limit $4",
            condition.text
        );
        let (sql, through) = (sqlx::AssertSqlSafe(sql), range.through.unwrap_or(head.position));
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        let positions: Vec<i64> =
            select!(self.db(), query_scalar.fetch_all, sql, webhook, range.after, through, rows; condition.binds);
        let more = positions.len() >= limit;
        let covered = positions.last().copied().filter(|_| more).unwrap_or(through);
        let mut entries = Vec::with_capacity(positions.len());
        for position in positions {
            let one = Range { after: position - 1, through: Some(position), ..range };
            entries.extend(self.read_under(head, selection, one, 1, Columns::ALL).await?.entries);
        }
        Ok(Page { entries, covered, more, head })
    }

    /// Asks for the events of a range that are dead and hold their turns, and tells how many there are.
    ///
    /// # Errors
    /// The database.
    pub async fn resend_held(&self, webhook: &str, range: Range) -> Result<u64, Error> {
        let through = range.through.unwrap_or(i64::MAX);
        let wished = super::deliveries::Wished::held(webhook, range.after + 1, through);
        Ok(self.inner.writer.write(Write::Wish(wished)).await?.journaled)
    }

    /// How many of the events of a range are dead at a webhook.
    ///
    /// # Errors
    /// The database.
    pub async fn count_dead(&self, webhook: &str, range: Range) -> Result<i64, Error> {
        let sql = "select count(*) from deliveries where webhook = $1 and replay = '' and status = 'dead' \
                   and position > $2 and position <= $3";
        let through = range.through.unwrap_or(i64::MAX);
        Ok(select!(self.db(), query_scalar.fetch_one, sql, webhook, range.after, through))
    }
}

pub(super) async fn insert(conn: &mut Conn, row: &ReplayRow) -> Result<(), Error> {
    let ReplayRow { webhook, id, cursor, through, total, created_at, .. } = row;
    let sql = "insert into replays (webhook, id, kind, cursor, through, total, created_at) \
               select $1, $2, $3, $4, $5, $6, $7 where (select count(*) from replays where webhook = $1 \
               and (($3 = 'resend' and kind = 'resend') or ($3 <> 'resend' and kind <> 'resend'))) < $8";
    let at_most = if row.kind == Kind::Resend { RESENDS_MAX } else { 1 };
    let kind = row.kind.as_str();
    let inserted = execute!(conn, sql, webhook, id, kind, cursor, through, total, created_at, at_most);
    if inserted == 0 { Err(Error::Busy) } else { Ok(()) }
}

pub(super) async fn cancel(conn: &mut Conn, webhook: &str) -> Result<(), Error> {
    execute!(conn, "delete from replays where webhook = $1", webhook);
    execute!(conn, "delete from deliveries where webhook = $1 and replay <> ''", webhook);
    Ok(())
}
