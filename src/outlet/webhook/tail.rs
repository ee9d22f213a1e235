//! The end of the journal in memory: read once for all webhooks that are up to date.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock};

use crate::event::Entry;
use crate::filter::Selection;
use crate::journal::{Page, Past};

/// Events and bytes that are kept. A webhook that is further behind reads the journal itself.
pub(super) const ENTRIES_MAX: usize = 2_000;
const BYTES_MAX: usize = 8 * 1024 * 1024;

/// Cheap to share.
#[derive(Default)]
pub(super) struct Tail {
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    entries: VecDeque<Arc<Entry>>,
    /// Every event after this position and up to `to` is here.
    after: i64,
    to: i64,
    bytes: usize,
    past: Option<Past>,
}

/// What a webhook gets of it.
pub(super) struct Seen {
    pub(super) entries: Vec<Arc<Entry>>,
    /// Everything up to here was looked at.
    pub(super) covered: i64,
    pub(super) more: bool,
}

impl Tail {
    /// Starts anew: nothing up to a position is here.
    pub(super) fn start(&self, to: i64, past: Past) {
        let kept = Kept { after: to, to, past: Some(past), ..Kept::default() };
        *self.kept.write().expect("nothing panics while it holds this lock") = kept;
    }

    /// Up to where it has come.
    pub(super) fn to(&self) -> i64 {
        self.kept.read().expect("nothing panics while it holds this lock").to
    }

    /// Takes what was read after its end. What was erased or purged since is not shown any more.
    pub(super) fn push(&self, page: Page) -> Vec<Arc<Entry>> {
        let mut kept = self.kept.write().expect("nothing panics while it holds this lock");
        let past = page.head.past();
        if kept.past.is_some_and(|known| known != past) {
            (kept.after, kept.bytes) = (kept.to, 0);
            kept.entries.clear();
        }
        kept.past = Some(past);
        let entries: Vec<Arc<Entry>> = page.entries.into_iter().map(Arc::new).collect();
        for entry in &entries {
            kept.bytes += entry.event.payload_bytes();
            kept.entries.push_back(Arc::clone(entry));
        }
        kept.to = page.covered;
        while kept.entries.len() > ENTRIES_MAX || kept.bytes > BYTES_MAX {
            let Some(oldest) = kept.entries.pop_front() else { break };
            kept.bytes -= oldest.event.payload_bytes();
            kept.after = oldest.position;
        }
        entries
    }

    /// What a selection lets through after a position, at most so many; nothing if the tail does not reach back that far, or
    /// was read before something of the past changed.
    pub(super) fn read(&self, selection: &Selection, after: i64, limit: usize, past: Past) -> Option<Seen> {
        let kept = self.kept.read().expect("nothing panics while it holds this lock");
        if after < kept.after || kept.past != Some(past) {
            return None;
        }
        let from = kept.entries.partition_point(|entry| entry.position <= after);
        let mut matching = kept.entries.range(from..).filter(|entry| selection.shows(entry)).cloned();
        let entries: Vec<Arc<Entry>> = matching.by_ref().take(limit).collect();
        let more = matching.next().is_some();
        let covered = entries.last().filter(|_| more).map_or(kept.to.max(after), |last| last.position);
        Some(Seen { entries, covered, more })
    }
}
