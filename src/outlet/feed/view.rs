//! Views: a feed as clients of equal visibility see it, with an epoch and pages of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Mutex as AsyncMutex;

use super::FeedConfig;
use super::format::Format;
use super::reply::Reply;
use crate::filter::Selection;
use crate::journal::{Border, Error, Head, Journal, Order, Past, Range, View};
use crate::runtime::{hex, sha256};

/// Visibilities of different clients make views of their own; of more than this one is forgotten, and looked up again
/// when it is asked for. Their borders are rows and stay.
const VIEWS_MAX: usize = 64;
/// Statements that one request spends on a view that lies behind; the background loop does the rest.
const SEALS_PER_REQUEST: usize = 3;
/// Rendered pages kept in memory, all views together.
const CACHE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A view with what this process knows of its pages.
pub struct ViewState {
    pub view: View,
    pub feed: FeedConfig,
    /// What the client may see.
    visible: Selection,
    /// That, and the feed's filter.
    pub selection: Selection,
    sealed: AsyncMutex<Option<Sealed>>,
    /// The head in each format as it was last made, and the journal's position then.
    heads: Mutex<Heads>,
}

type Heads = [Option<(i64, Arc<Reply>)>; Format::ALL.len()];

#[derive(Clone, Copy)]
struct Sealed {
    last: Option<Border>,
    /// Entries up to here were looked at for borders.
    through: i64,
    /// Entries between the last border and `through`: less than a page.
    waiting: i64,
}

impl ViewState {
    /// The head, if nothing was journaled since it was made.
    pub fn head_at(&self, position: i64, format: Format) -> Option<Arc<Reply>> {
        let heads = self.heads.lock().expect("no holder of this lock panics");
        heads[format as usize].as_ref().filter(|(at, _)| *at == position).map(|(_, reply)| Arc::clone(reply))
    }

    pub fn keep_head(&self, position: i64, format: Format, reply: Arc<Reply>) {
        self.heads.lock().expect("no holder of this lock panics")[format as usize] = Some((position, reply));
    }

    /// Brings the borders up to the head. `None`: much is left to do, come back in a second.
    ///
    /// # Errors
    /// The journal.
    pub async fn last_border(&self, journal: &Journal, head: &Head) -> Result<Option<Option<Border>>, Error> {
        let mut sealed = self.sealed.lock().await;
        let mut now = match *sealed {
            Some(sealed) => sealed,
            None => {
                journal.know_view(&self.view).await?;
                let last = journal.last_border(&self.view.epoch).await?;
                Sealed { last, through: last.map_or(0, |border| border.last), waiting: 0 }
            }
        };
        let size = self.feed.page_size as i64;
        if now.through < head.position {
            // Each entry is counted once: a feed of few events must not look at the whole journal with every append.
            let range = Range { after: now.through, through: Some(head.position), order: Order::Ascending };
            let found = journal.count(&self.selection, range, size).await?;
            if now.waiting + found < size {
                now = Sealed { waiting: now.waiting + found, through: head.position, ..now };
            }
        }
        let mut complete = now.through >= head.position;
        for _ in 0..SEALS_PER_REQUEST {
            if complete {
                break;
            }
            let (last, all) = journal.seal(&self.view, &self.selection, size, now.last, head.position).await?;
            let through = if all { head.position } else { last.map_or(0, |border| border.last) };
            let range =
                Range { after: last.map_or(0, |border| border.last), through: Some(through), order: Order::Ascending };
            let waiting = journal.count(&self.selection, range, size).await?;
            (now, complete) = (Sealed { last, through, waiting }, all);
        }
        *sealed = Some(now);
        Ok(complete.then_some(now.last))
    }
}

/// The views that were asked for since the process started.
#[derive(Default)]
pub struct Views {
    known: Mutex<VecDeque<Arc<ViewState>>>,
}

impl Views {
    /// The view of a feed that a client with this visibility gets.
    pub fn get(&self, journal: &Journal, feed: &FeedConfig, visible: &Selection) -> Arc<ViewState> {
        let mut views = self.known.lock().expect("no holder of this lock panics");
        if let Some(state) = views.iter().find(|state| state.feed.name == feed.name && state.visible == *visible) {
            return Arc::clone(state);
        }
        if views.len() >= VIEWS_MAX {
            views.pop_front();
        }
        let selection = visible.and(&feed.filter);
        let definition = serde_json::json!({
            "journal": journal.id(), "feed": feed.name, "selection": selection, "pageSize": feed.page_size,
        })
        .to_string();
        let epoch = hex(&sha256(&definition)[..5]);
        let view = View { epoch, feed: feed.name.clone(), definition };
        let (feed, visible, sealed, heads) = (feed.clone(), visible.clone(), AsyncMutex::new(None), Mutex::default());
        let state = Arc::new(ViewState { view, feed, visible, selection, sealed, heads });
        views.push_back(Arc::clone(&state));
        state
    }

    /// All views that are known.
    pub fn all(&self) -> Vec<Arc<ViewState>> {
        self.known.lock().expect("no holder of this lock panics").iter().cloned().collect()
    }
}

/// Rendered sealed pages, oldest out first. Their bytes change only when something is erased or purged; then all are
/// forgotten.
#[derive(Default)]
pub struct PageCache {
    pages: Mutex<Pages>,
}

/// The epoch, the number, the extension.
type PageKey = (String, i64, &'static str);

#[derive(Default)]
struct Pages {
    by_page: HashMap<PageKey, Arc<Reply>>,
    order: VecDeque<PageKey>,
    bytes: usize,
    /// What they were read under.
    past: Past,
}

impl PageCache {
    /// The pages as of this past; nothing for an older one.
    fn pages(&self, past: Past) -> Option<MutexGuard<'_, Pages>> {
        let mut pages = self.pages.lock().expect("no holder of this lock panics");
        if pages.past.erasures < past.erasures || pages.past.oldest < past.oldest {
            *pages = Pages { past, ..Pages::default() };
        }
        Some(pages).filter(|pages| pages.past == past)
    }

    /// `past` is what is known now.
    pub fn get(&self, epoch: &str, n: i64, format: Format, past: Past) -> Option<Arc<Reply>> {
        let pages = self.pages(past)?;
        pages.by_page.get(&(epoch.to_owned(), n, format.extension())).cloned()
    }

    /// `past` was known before the page's entries were read.
    pub fn put(&self, epoch: &str, n: i64, format: Format, page: Arc<Reply>, past: Past) {
        let key = (epoch.to_owned(), n, format.extension());
        let Some(mut guard) = self.pages(past) else { return };
        let pages = &mut *guard;
        pages.bytes += page.body_bytes();
        if let Some(same) = pages.by_page.insert(key.clone(), page) {
            pages.bytes -= same.body_bytes();
            return;
        }
        pages.order.push_back(key);
        while pages.bytes > CACHE_BYTES_MAX {
            let Some(oldest) = pages.order.pop_front() else { break };
            if let Some(gone) = pages.by_page.remove(&oldest) {
                pages.bytes -= gone.body_bytes();
            }
        }
    }
}
