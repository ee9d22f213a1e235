//! The part of a filter that no index answers: entries are read and looked at.

use async_graphql::InputObject;

use super::failure::Failure;
use super::scalars::{DateTime, Json};
use crate::event::{Entry, Micros};
use crate::filter::Selection;
use crate::journal::{Columns, Error, Journal, Order, Page, READ_BYTES_MAX, Range};
use crate::projection::Match;

/// Entries that one request looks at. A page may then be short, or empty; its cursor tells where to go on.
const LOOKED_AT_MAX: usize = 10_000;
/// Entries that are read at a time.
const CHUNK: usize = 500;
const MATCHES_MAX: usize = 20;

/// An attribute of the data and the value that it must have.
#[derive(InputObject)]
pub(super) struct DataMatch {
    /// A dotted path, such as `lines.sku`; of a list, one item must have the value.
    path: String,
    eq: Json,
}

#[derive(Default)]
pub(super) struct Sieve {
    occurred_from: Option<Micros>,
    occurred_before: Option<Micros>,
    data: Vec<Match>,
}

impl Sieve {
    pub(super) fn new(
        occurred_from: Option<DateTime>,
        occurred_before: Option<DateTime>,
        data: Vec<DataMatch>,
    ) -> Result<Self, Failure> {
        if data.len() > MATCHES_MAX {
            return Err(Failure::input(format!("filter: `data` holds more than {MATCHES_MAX} matches")));
        }
        let wrong = |path: String| Failure::input(format!("filter: `data`: `{path}` is no dotted path"));
        let data = data.into_iter().map(|DataMatch { path, eq }| {
            let eq = match eq {
                Json::Value(value) => value.into_json().unwrap_or_default(),
                Json::Text(_) => return Err(wrong(path)),
            };
            Match::new(&path, eq).map_err(|_| wrong(path))
        });
        let (from, before) = (occurred_from.map(|time| time.0), occurred_before.map(|time| time.0));
        Ok(Self { occurred_from: from, occurred_before: before, data: data.collect::<Result<_, _>>()? })
    }

    pub(super) fn is_open(&self) -> bool {
        self.occurred_from.is_none() && self.occurred_before.is_none() && self.data.is_empty()
    }

    pub(super) fn lets_through(&self, entry: &Entry) -> bool {
        self.occurred_from.is_none_or(|from| entry.event.occurred_at >= from)
            && self.occurred_before.is_none_or(|before| entry.event.occurred_at < before)
            && self.data.iter().all(|wanted| wanted.holds(&entry.event.data))
    }

    /// What must be read, if `shown` is what will be shown.
    pub(super) fn columns(&self, shown: Columns) -> Columns {
        let times = self.occurred_from.is_some() || self.occurred_before.is_some();
        let shown = if times { shown.with(Columns::OCCURRED) } else { shown };
        if self.data.is_empty() { shown } else { shown.with(Columns::DATA) }
    }

    /// As [`Journal::read`] does, of what the sieve lets through.
    pub(super) async fn read(
        &self,
        journal: &Journal,
        selection: &Selection,
        mut range: Range,
        limit: usize,
        columns: Columns,
    ) -> Result<Page, Error> {
        if self.is_open() {
            return journal.read_settled(selection, range, limit, columns).await;
        }
        let (mut found, mut looked_at, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let page = journal.read(selection, range, CHUNK, self.columns(columns)).await?;
            for entry in page.entries {
                let position = entry.position;
                if self.lets_through(&entry) {
                    bytes += entry.event.payload_bytes();
                    found.push(entry);
                }
                if found.len() > limit || bytes > READ_BYTES_MAX {
                    found.truncate(limit.max(1));
                    let last = found.last().map_or(position, |entry| entry.position);
                    let covered = if range.order == Order::Ascending { last } else { last - 1 };
                    return Ok(Page { entries: found, covered, more: true, head: page.head });
                }
                looked_at += 1;
            }
            if !page.more || looked_at >= LOOKED_AT_MAX {
                return Ok(Page { entries: found, covered: page.covered, more: page.more, head: page.head });
            }
            match range.order {
                Order::Ascending => range.after = page.covered,
                Order::Descending => range.through = Some(page.covered),
            }
        }
    }
}
