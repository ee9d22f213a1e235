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
/// Positions that one step looks at: bounds how long a statement takes, and what a request does itself.
const WINDOW: i64 = 20_000;
/// Steps that one request spends on a view that lies behind; the background loop does the rest.
const STEPS_PER_REQUEST: usize = 3;
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
    known: Mutex<Option<Sealed>>,
    /// One looks for borders at a time.
    sealing: AsyncMutex<()>,
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

    /// The last border that is known, and whether that is all: of a view that lies far behind, the borders are found in
    /// the background.
    ///
    /// # Errors
    /// The journal.
    pub async fn last_border(&self, journal: &Journal, head: &Head) -> Result<(Option<Border>, bool), Error> {
        let known = match self.known() {
            Some(known) => known,
            None => self.begin(journal).await?,
        };
        if known.through >= head.position || head.position - known.through > WINDOW {
            return Ok((known.last, known.through >= head.position));
        }
        for _ in 0..STEPS_PER_REQUEST {
            let (last, is_complete) = self.seal(journal, head).await?;
            if is_complete {
                return Ok((last, true));
            }
        }
        Ok((self.known().and_then(|known| known.last), false))
    }

    /// One step of finding borders; whether it was the last one.
    ///
    /// # Errors
    /// The journal.
    pub async fn seal(&self, journal: &Journal, head: &Head) -> Result<(Option<Border>, bool), Error> {
        let known = match self.known() {
            Some(known) => known,
            None => self.begin(journal).await?,
        };
        let _one = self.sealing.lock().await;
        // Whoever waited may find it done.
        let known = self.known().unwrap_or(known);
        let now = if known.through < head.position { self.step(journal, known, head).await? } else { known };
        *self.known.lock().expect("no holder of this lock panics") = Some(now);
        Ok((now.last, now.through >= head.position))
    }

    fn known(&self) -> Option<Sealed> {
        *self.known.lock().expect("no holder of this lock panics")
    }

    async fn begin(&self, journal: &Journal) -> Result<Sealed, Error> {
        let _one = self.sealing.lock().await;
        if let Some(known) = self.known() {
            return Ok(known);
        }
        journal.know_view(&self.view).await?;
        let last = journal.last_border(&self.view.epoch).await?;
        let sealed = Sealed { last, through: last.map_or(0, |border| border.last), waiting: 0 };
        *self.known.lock().expect("no holder of this lock panics") = Some(sealed);
        Ok(sealed)
    }

    /// Each entry is counted once or twice: a feed of few events must not look at the whole journal with every append.
    async fn step(&self, journal: &Journal, now: Sealed, head: &Head) -> Result<Sealed, Error> {
        let size = self.feed.page_size as i64;
        let through = head.position.min(now.through + WINDOW);
        let stretch = |after: i64| Range { after, through: Some(through), order: Order::Ascending };
        let found = journal.count(&self.selection, stretch(now.through), size).await?;
        if now.waiting + found < size {
            return Ok(Sealed { waiting: now.waiting + found, through, ..now });
        }
        let (last, is_all) = journal.seal(&self.view, &self.selection, size, now.last, through).await?;
        let after = last.map_or(0, |border| border.last);
        match is_all {
            true => Ok(Sealed { last, through, waiting: journal.count(&self.selection, stretch(after), size).await? }),
            false => Ok(Sealed { last, through: after, waiting: 0 }),
        }
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
        let (feed, visible, known, heads) = (feed.clone(), visible.clone(), Mutex::default(), Mutex::default());
        let state = ViewState { view, feed, visible, selection, known, sealing: AsyncMutex::default(), heads };
        let state = Arc::new(state);
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
        pages.bytes += page.bytes_max();
        if let Some(same) = pages.by_page.insert(key.clone(), page) {
            pages.bytes -= same.bytes_max();
            return;
        }
        pages.order.push_back(key);
        while pages.bytes > CACHE_BYTES_MAX {
            let Some(oldest) = pages.order.pop_front() else { break };
            if let Some(gone) = pages.by_page.remove(&oldest) {
                pages.bytes -= gone.bytes_max();
            }
        }
    }
}
