//! Where readers stand: what a cursor, an id or a time means, and whether what follows is still kept.

use super::columns::Columns;
use super::db::select;
use super::entries::normal_id;
use super::{Error, Head, Journal};
use crate::event::{Cursor, Micros, event_id_of_atom_id};
use crate::filter::Selection;

/// Longest text that can be a cursor or an id; longer ones are not looked up.
const AFTER_BYTES_MAX: usize = 512;

impl Journal {
    /// The position that a text names: a cursor, an event id, an Atom id or a bare position. 0 is the beginning.
    /// An event that the selection hides is answered exactly like an unknown one.
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::UnknownPosition`] (also for a position beyond the head), [`Error::Expired`].
    pub async fn locate(&self, selection: &Selection, after: &str) -> Result<i64, Error> {
        if after.is_empty() || after.len() > AFTER_BYTES_MAX || after.chars().any(char::is_control) {
            return Err(Error::Malformed { text: after.chars().filter(|c| !c.is_control()).take(80).collect() });
        }
        let unknown = || Error::UnknownPosition { text: after.to_owned() };
        if let Some(position) = self.confirmed(after) {
            return Ok(position);
        }
        let head = self.head().await?;
        let position = if let Some(cursor) = Cursor::parse(after) {
            self.position_of_cursor(&cursor, &head).await?
        } else if after.bytes().all(|b| b.is_ascii_digit()) {
            after.parse().map_err(|_| unknown())?
        } else {
            let id = event_id_of_atom_id(after).unwrap_or_else(|| after.to_owned());
            let found = self.by_ids(selection, std::slice::from_ref(&id), Columns::ENVELOPE).await?;
            match found.first() {
                Some(entry) => entry.position,
                // Whoever sees everything is told that it was there; to others it is what they may not see.
                None if selection.is_everything() => {
                    *self.positions(&[normal_id(&id)]).await?.values().next().ok_or_else(unknown)?
                }
                None => return Err(unknown()),
            }
        };
        if position > head.position {
            return Err(unknown());
        }
        if position < head.oldest - 1 {
            return Err(self.expired(after, head.oldest));
        }
        Ok(position)
    }

    /// A position that is known to be there without asking the database.
    fn confirmed(&self, after: &str) -> Option<i64> {
        let position = match Cursor::parse(after) {
            Some(cursor) => Some(cursor.position).filter(|_| cursor.journal_id == self.id()),
            None => after.parse().ok().filter(|_| after.bytes().all(|b| b.is_ascii_digit())),
        };
        let oldest = self.known_past().oldest;
        position.filter(|position| oldest > 0 && (oldest - 1..=self.known_position()).contains(position))
    }

    async fn position_of_cursor(&self, cursor: &Cursor, head: &Head) -> Result<i64, Error> {
        if cursor.journal_id == self.id() {
            return Ok(cursor.position);
        }
        let sql = "select last_position from incarnations where id = $1";
        let last: Option<i64> = select!(self.db(), query_scalar.fetch_optional, sql, cursor.journal_id.as_str());
        match last {
            Some(last) if cursor.position <= last => Ok(cursor.position),
            _ => Err(self.expired(&cursor.to_string(), head.oldest)),
        }
    }

    /// Whether what follows a position was still there after it was read.
    ///
    /// # Errors
    /// [`Error::Expired`].
    pub fn check_kept(&self, after: i64) -> Result<(), Error> {
        let oldest = self.known_past().oldest;
        match after < oldest - 1 {
            true => Err(self.expired(&Cursor::new(self.id(), after).to_string(), oldest)),
            false => Ok(()),
        }
    }

    fn expired(&self, text: &str, oldest: i64) -> Error {
        let oldest = Cursor::new(self.id(), oldest - 1);
        Error::Expired { text: text.to_owned(), oldest: oldest.to_string() }
    }

    /// The last position whose feed time lies before `time`: reading after it misses nothing dated `time` or later.
    ///
    /// # Errors
    /// [`Error::Expired`] if there may have been such an event that was purged, or the database.
    pub async fn before_time(&self, time: Micros) -> Result<i64, Error> {
        let position = self.search("select feed_time from entries where position = $1", time).await?;
        let head = self.head().await?;
        self.kept_from(position, time, &head, head.feed_time)
    }

    /// The last position that was recorded before `time`.
    ///
    /// # Errors
    /// As [`Journal::before_time`].
    pub async fn before_recorded(&self, time: Micros) -> Result<i64, Error> {
        let position = self.last_recorded_before(time).await?;
        let head = self.head().await?;
        self.kept_from(position, time, &head, head.recorded_at)
    }

    /// The same, whatever was purged.
    pub(super) async fn last_recorded_before(&self, time: Micros) -> Result<i64, Error> {
        self.search("select recorded_at from entries where position = $1", time).await
    }

    /// `newest` is the last time of the journal: what is later was never purged.
    fn kept_from(&self, position: i64, time: Micros, head: &Head, newest: Micros) -> Result<i64, Error> {
        let may_be_gone = position < head.oldest && head.oldest > 1 && time <= newest;
        if may_be_gone { Err(self.expired(&time.to_text(), head.oldest)) } else { Ok(position) }
    }

    /// Binary search: both times never decrease along the journal, and positions have no gaps.
    async fn search(&self, sql: &'static str, time: Micros) -> Result<i64, Error> {
        let head = self.head().await?;
        let (mut before, mut from) = (head.oldest - 1, head.position + 1);
        while from - before > 1 {
            let middle = before + (from - before) / 2;
            let at: Option<i64> = select!(self.db(), query_scalar.fetch_optional, sql, middle);
            // A row that is missing was purged in this moment: it lies before everything that is left.
            if at.is_none_or(|at| at < time.0) { before = middle } else { from = middle }
        }
        Ok(before)
    }
}
