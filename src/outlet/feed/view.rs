//! Views: a feed as clients of equal visibility see it, with an epoch and pages of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Mutex as AsyncMutex;

use super::FeedConfig;
use super::format::Format;
use super::reply::Reply;
use crate::event::Micros;
use crate::filter::Selection;
use crate::journal::{Border, Columns, Error, Head, Journal, Order, Past, Range, View};
use crate::runtime::{hex, sha256};
use crate::telemetry::Scrape;

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
    /// The head in each format as it was last made.
    heads: Mutex<[Option<KnownHead>; Format::ALL.len()]>,
    newest: Mutex<Newest>,
}

#[derive(Clone)]
struct KnownHead {
    position: i64,
    past: Past,
    reply: Arc<Reply>,
}

/// The feed time of the newest entry up to a position, of those that were there at a past.
#[derive(Clone, Copy, Default)]
struct Newest {
    through: i64,
    past: Past,
    time: Option<Micros>,
}

#[derive(Clone, Copy)]
struct Sealed {
    last: Option<Border>,
    /// Entries up to here were looked at for borders.
    through: i64,
    /// Entries between the last border and `through`: less than a page.
    waiting: i64,
    /// The oldest position that was kept then: pages that lose entries are ended by whoever purges.
    oldest: i64,
}

impl ViewState {
    /// The head, if nothing was journaled, erased or purged since it was made.
    pub fn head_at(&self, position: i64, past: Past, format: Format) -> Option<Arc<Reply>> {
        self.known_head(past, format).filter(|known| known.position == position).map(|known| known.reply)
    }

    /// The head, if none of what was journaled since it was made is the feed's.
    ///
    /// # Errors
    /// The journal.
    pub async fn head_still(
        &self,
        journal: &Journal,
        head: &Head,
        format: Format,
    ) -> Result<Option<Arc<Reply>>, Error> {
        let Some(known) = self.known_head(head.past(), format) else { return Ok(None) };
        if known.position < head.position {
            let range = Range { after: known.position, through: Some(head.position), order: Order::Ascending };
            if journal.count(&self.selection, range, 1).await? > 0 {
                return Ok(None);
            }
            let reply = Arc::new(known.reply.at(head.position));
            self.keep_head(head, format, Arc::clone(&reply));
            return Ok(Some(reply));
        }
        Ok(Some(known.reply))
    }

    pub fn keep_head(&self, head: &Head, format: Format, reply: Arc<Reply>) {
        let known = KnownHead { position: head.position, past: head.past(), reply };
        self.heads.lock().expect("no holder of this lock panics")[format as usize] = Some(known);
    }

    fn known_head(&self, past: Past, format: Format) -> Option<KnownHead> {
        let heads = self.heads.lock().expect("no holder of this lock panics");
        heads[format as usize].as_ref().filter(|known| known.past == past).cloned()
    }

    /// The feed time of the newest entry.
    ///
    /// # Errors
    /// The journal.
    pub async fn newest(&self, journal: &Journal, head: &Head) -> Result<Option<Micros>, Error> {
        let known = *self.newest.lock().expect("no holder of this lock panics");
        let known = if known.past == head.past() { known } else { Newest { past: head.past(), ..Newest::default() } };
        if known.through >= head.position {
            return Ok(known.time);
        }
        let range = Range { after: known.through, through: Some(head.position), order: Order::Descending };
        let found = journal.read(&self.selection, range, 1, Columns::ENVELOPE).await?;
        let time = found.entries.first().map(|entry| entry.feed_time).or(known.time);
        *self.newest.lock().expect("no holder of this lock panics") = Newest { through: head.position, time, ..known };
        Ok(time)
    }

    /// The last border that is known, and whether that is all: of a view that lies far behind, the borders are found in
    /// the background.
    ///
    /// # Errors
    /// The journal.
    pub async fn last_border(&self, journal: &Journal, head: &Head) -> Result<(Option<Border>, bool), Error> {
        let known = match self.known(head) {
            Some(known) => known,
            None => self.begin(journal, head).await?,
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
        Ok((self.known(head).and_then(|known| known.last), false))
    }

    /// One step of finding borders; whether it was the last one.
    ///
    /// # Errors
    /// The journal.
    pub async fn seal(&self, journal: &Journal, head: &Head) -> Result<(Option<Border>, bool), Error> {
        let known = match self.known(head) {
            Some(known) => known,
            None => self.begin(journal, head).await?,
        };
        let _one = self.sealing.lock().await;
        // Whoever waited may find it done.
        let known = self.known(head).unwrap_or(known);
        let now = if known.through < head.position { self.step(journal, known, head).await? } else { known };
        *self.known.lock().expect("no holder of this lock panics") = Some(now);
        Ok((now.last, now.through >= head.position))
    }

    /// Nothing after a purge: it may have ended a page.
    fn known(&self, head: &Head) -> Option<Sealed> {
        self.known.lock().expect("no holder of this lock panics").filter(|known| known.oldest >= head.oldest)
    }

    async fn begin(&self, journal: &Journal, head: &Head) -> Result<Sealed, Error> {
        let _one = self.sealing.lock().await;
        if let Some(known) = self.known(head) {
            return Ok(known);
        }
        journal.know_view(&self.view).await?;
        let (last, oldest) = (journal.last_border(&self.view.epoch).await?, head.oldest);
        let before = *self.known.lock().expect("no holder of this lock panics");
        let sealed = match before.filter(|before| before.last == last) {
            Some(before) => Sealed { oldest, ..before },
            None => Sealed { last, through: last.map_or(0, |border| border.last), waiting: 0, oldest },
        };
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
            true => {
                let waiting = journal.count(&self.selection, stretch(after), size).await?;
                Ok(Sealed { last, through, waiting, ..now })
            }
            false => Ok(Sealed { last, through: after, waiting: 0, ..now }),
        }
    }
}

/// The view at this place. The one that was not asked for longest goes first.
fn used(views: &mut [Arc<ViewState>], at: usize) -> Arc<ViewState> {
    if at + 1 < views.len() {
        views[at..].rotate_left(1);
    }
    Arc::clone(&views[views.len() - 1])
}

/// The views that were asked for since the process started.
#[derive(Default)]
pub struct Views {
    known: Mutex<Vec<Arc<ViewState>>>,
}

impl Views {
    /// The view of a feed that a client with this visibility gets.
    pub fn get(&self, journal: &Journal, feed: &FeedConfig, visible: &Selection) -> Arc<ViewState> {
        let mut views = self.known.lock().expect("no holder of this lock panics");
        let is_it = |state: &Arc<ViewState>| state.feed.name == feed.name && state.visible == *visible;
        if let Some(at) = views.iter().position(is_it) {
            return used(&mut views, at);
        }
        let selection = visible.and(&feed.filter).settled();
        // Clients of another name may see the same.
        let is_same = |state: &Arc<ViewState>| state.feed.name == feed.name && state.selection == selection;
        if let Some(at) = views.iter().position(is_same) {
            return used(&mut views, at);
        }
        if views.len() >= VIEWS_MAX {
            views.remove(0);
        }
        let definition = serde_json::json!({
            "journal": journal.id(), "feed": feed.name, "selection": selection, "pageSize": feed.page_size,
        })
        .to_string();
        let epoch = hex(&sha256(&definition)[..5]);
        let view = View { epoch, feed: feed.name.clone(), definition };
        let state = Arc::new(ViewState {
            view,
            feed: feed.clone(),
            visible: visible.clone(),
            selection,
            known: Mutex::default(),
            sealing: AsyncMutex::default(),
            heads: Mutex::default(),
            newest: Mutex::default(),
        });
        views.push(Arc::clone(&state));
        state
    }

    /// All views that are known.
    pub fn all(&self) -> Vec<Arc<ViewState>> {
        self.known.lock().expect("no holder of this lock panics").clone()
    }
}

/// Rendered sealed pages, oldest out first. Their bytes change only when something is erased or purged; then all are
/// forgotten.
#[derive(Default)]
pub struct PageCache {
    pages: Mutex<Pages>,
    hits: AtomicU64,
    misses: AtomicU64,
}

type PageKey = (i64, Format);

#[derive(Default)]
struct Pages {
    by_epoch: HashMap<String, HashMap<PageKey, Arc<Reply>>>,
    order: VecDeque<(String, PageKey)>,
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
        let found = self.pages(past).and_then(|pages| pages.by_epoch.get(epoch)?.get(&(n, format)).cloned());
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Adds how it does to a scrape.
    #[expect(clippy::cast_precision_loss, reason = "it is bounded far below 2⁵³ bytes")]
    pub fn measure(&self, scrape: &mut Scrape) {
        let bytes = self.pages.lock().expect("no holder of this lock panics").bytes as f64;
        scrape.gauges("postern_page_cache_bytes", "Sealed pages that are kept rendered", [(vec![], bytes)]);
        let of = |result: &str, count: &AtomicU64| (vec![("result", result.to_owned())], count.load(Ordering::Relaxed));
        let counts = [of("hit", &self.hits), of("miss", &self.misses)];
        scrape.counters("postern_page_cache_requests", "Sealed pages that were looked for there", counts);
    }

    /// `past` was known before the page's entries were read.
    pub fn put(&self, epoch: &str, n: i64, format: Format, page: Arc<Reply>, past: Past) {
        let Some(mut guard) = self.pages(past) else { return };
        let pages = &mut *guard;
        pages.bytes += page.bytes_max();
        let of_epoch = pages.by_epoch.entry(epoch.to_owned()).or_default();
        if let Some(same) = of_epoch.insert((n, format), page) {
            pages.bytes -= same.bytes_max();
            return;
        }
        pages.order.push_back((epoch.to_owned(), (n, format)));
        while pages.bytes > CACHE_BYTES_MAX {
            let Some((epoch, key)) = pages.order.pop_front() else { break };
            let Some(of_epoch) = pages.by_epoch.get_mut(&epoch) else { continue };
            if let Some(gone) = of_epoch.remove(&key) {
                pages.bytes -= gone.bytes_max();
            }
            if of_epoch.is_empty() {
                pages.by_epoch.remove(&epoch);
            }
        }
    }
}
