//! Who asks, for the length of one request: every read of the journal goes through it, and what one request may take.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_graphql::{ContextBase, ContextSelectionSet, Lookahead, ServerError, ServerResult};
use tokio::sync::OnceCell;

use super::batch::Batch;
use super::directory::Directory;
use super::documents::Documents;
use super::event::EventNode;
use super::failure::{Failure, TOO_COMPLEX};
use super::plan::Plan;
use super::sieve::Sieve;
use super::types::Types;
use crate::event::{Cursor, event_id_of_atom_id, is_uuid};
use crate::filter::Selection;
use crate::journal::{self, Columns, Head, Journal, Page, Range};

/// Most bytes of events in one answer: aliases can repeat them without cost.
const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Errors of fields that are null, of which one answer tells; those beyond are null without an error.
const ERRORS_MAX: usize = 100;

/// By the address of a selection set, which stands as long as the request, and the type of event.
type Plans = HashMap<(usize, Option<usize>), Arc<Plan>>;

pub(super) struct Caller {
    pub(super) journal: Journal,
    pub(super) types: Arc<Types>,
    pub(super) directory: Arc<Directory>,
    pub(super) documents: Arc<Documents>,
    pub(super) selection: Selection,
    /// Where a subscription goes on, whatever its `from` says.
    pub(super) resumed_from: Option<String>,
    /// The one event that may be asked for.
    pub(super) given: Option<EventNode>,
    /// Of a subscription: the position up to which its batches tell.
    reached: AtomicI64,
    payload_bytes: AtomicUsize,
    errors: AtomicUsize,
    plans: Mutex<Plans>,
    /// Bytes of payloads that were read; one reads at a time, so that many roots do not hold very much.
    read_bytes: tokio::sync::Mutex<usize>,
    head: OnceCell<Head>,
    pub(super) counted: OnceCell<BTreeMap<String, journal::EventType>>,
    events: Batch<(String, Columns), Option<EventNode>>,
    versions: Batch<(String, String), Option<Option<i64>>>,
}

impl Caller {
    pub(super) fn new(
        journal: Journal,
        types: Arc<Types>,
        directory: Arc<Directory>,
        documents: Arc<Documents>,
        selection: Selection,
        resumed_from: Option<String>,
    ) -> Self {
        let (reached, payload_bytes, errors, plans) = Default::default();
        let (read_bytes, head, counted, events, versions) = Default::default();
        Self {
            journal,
            types,
            directory,
            documents,
            selection,
            resumed_from,
            given: None,
            reached,
            payload_bytes,
            errors,
            plans,
            read_bytes,
            head,
            counted,
            events,
            versions,
        }
    }

    /// The same for one event, which is the answer to whichever is asked for.
    pub(super) fn with(self, given: EventNode) -> Self {
        Self { given: Some(given), ..self }
    }

    /// A batch begins that tells everything up to a position. What one answer may take, each batch may.
    pub(super) fn new_batch(&self, position: i64) {
        self.reached.store(position, Ordering::Relaxed);
        self.payload_bytes.store(0, Ordering::Relaxed);
        self.errors.store(0, Ordering::Relaxed);
    }

    /// The cursor of the last batch, if there was one.
    pub(super) fn reached(&self) -> Option<String> {
        let position = self.reached.load(Ordering::Relaxed);
        (position > 0).then(|| self.cursor(position))
    }

    pub(super) fn of<'a, T>(ctx: &ContextBase<'a, T>) -> &'a Self {
        ctx.data_unchecked::<Arc<Self>>()
    }

    pub(super) fn cursor(&self, position: i64) -> String {
        Cursor::new(self.journal.id(), position).to_string()
    }

    /// The plan of this selection for events of one type: made once a request.
    pub(super) fn plan(&self, ctx: &ContextSelectionSet<'_>, event_type: Option<usize>) -> ServerResult<Arc<Plan>> {
        let key = (std::ptr::from_ref(ctx.item).addr(), event_type);
        let plans = || self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans().get(&key) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(Plan::new(ctx, event_type)?);
        plans().insert(key, plan.clone());
        Ok(plan)
    }

    /// The head of the journal, for this request.
    pub(super) async fn head(&self) -> Result<Head, Failure> {
        Ok(*self.head.get_or_try_init(|| self.journal.head()).await?)
    }

    /// Reads a page; refuses when the request has read very much already.
    pub(super) async fn read(
        &self,
        sieve: &Sieve,
        selection: &Selection,
        range: Range,
        limit: usize,
        columns: Columns,
    ) -> Result<Page, Failure> {
        let mut read_bytes = self.read_bytes.lock().await;
        self.may_read(*read_bytes)?;
        let page = sieve.read(&self.journal, selection, range, limit, columns).await?;
        *read_bytes += page.entries.iter().map(|entry| entry.event.payload_bytes()).sum::<usize>();
        Ok(page)
    }

    fn may_read(&self, bytes: usize) -> Result<(), Failure> {
        if bytes <= PAYLOAD_BYTES_MAX {
            return Ok(());
        }
        let detail = format!("this request has read {bytes} bytes of data already; ask for smaller pages");
        Err(Failure::new(TOO_COMPLEX, detail))
    }

    /// Counts payload bytes that go into the answer.
    pub(super) fn spend(&self, bytes: usize) -> Result<(), Failure> {
        let before = self.payload_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > PAYLOAD_BYTES_MAX {
            let detail = format!("the answer holds more than {PAYLOAD_BYTES_MAX} bytes of events; ask for less");
            return Err(Failure::new(TOO_COMPLEX, detail));
        }
        Ok(())
    }

    /// How many more bytes the answer may have.
    pub(super) fn bytes_left(&self) -> usize {
        PAYLOAD_BYTES_MAX.saturating_sub(self.payload_bytes.load(Ordering::Relaxed))
    }

    /// Adds an error to the answer, unless it has very many.
    pub(super) fn tell<T>(&self, ctx: &ContextBase<'_, T>, error: ServerError) {
        if self.errors.fetch_add(1, Ordering::Relaxed) < ERRORS_MAX {
            ctx.add_error(error);
        }
    }

    /// The event with this id; those that are asked for at once are read together.
    pub(super) async fn event(&self, id: String, columns: Columns) -> Result<Option<EventNode>, Failure> {
        if self.given.is_some() {
            return Ok(self.given.clone());
        }
        let read = async |asked: Vec<(String, Columns)>| {
            let columns = asked.iter().fold(Columns::NONE, |columns, (_, needed)| columns.with(*needed));
            let ids: Vec<String> = asked.into_iter().map(|(id, _)| id).collect();
            self.events(&ids, columns).await
        };
        self.events.load((id, columns), read).await
    }

    /// The version of the newest event of an aggregate; nothing for an unknown or hidden one.
    pub(super) async fn version(&self, r#type: &str, key: &str) -> Result<Option<Option<i64>>, Failure> {
        let read =
            async |asked: Vec<(String, String)>| Ok(self.journal.latest_versions(&self.selection, &asked).await?);
        self.versions.load((r#type.to_owned(), key.to_owned()), read).await
    }

    /// The events with these ids or Atom ids, in their order; nothing for an unknown or hidden one.
    pub(super) async fn events(&self, ids: &[String], columns: Columns) -> Result<Vec<Option<EventNode>>, Failure> {
        // Feeds show them as Atom ids.
        let ids: Vec<String> = ids.iter().map(|id| event_id_of_atom_id(id).unwrap_or_else(|| id.clone())).collect();
        let mut read_bytes = self.read_bytes.lock().await;
        self.may_read(*read_bytes)?;
        let found = self.journal.by_ids(&self.selection, &ids, columns.with(Columns::ID)).await?;
        *read_bytes += found.iter().map(|entry| entry.event.payload_bytes()).sum::<usize>();
        drop(read_bytes);
        let by_id: HashMap<String, EventNode> =
            found.into_iter().map(|entry| (entry.event.id.clone(), EventNode(Arc::new(entry)))).collect();
        let node = |id: &String| match by_id.get(id) {
            None if is_uuid(id) => by_id.get(&id.to_ascii_lowercase()).cloned(),
            found => found.cloned(),
        };
        Ok(ids.iter().map(node).collect())
    }
}

/// The columns that the selections of these events need.
pub(super) fn columns(events: &[Lookahead<'_>]) -> Columns {
    let needs = [
        ("id", Columns::ID),
        ("source", Columns::SOURCE),
        ("aggregate", Columns::AGGREGATE),
        ("aggregateVersion", Columns::VERSION),
        ("occurredAt", Columns::OCCURRED),
        ("recordedAt", Columns::RECORDED),
        ("late", Columns::LATE),
        ("erasedAt", Columns::ERASED),
        ("data", Columns::DATA),
        ("dataJson", Columns::DATA),
        ("metadata", Columns::METADATA),
    ];
    let needed = needs.into_iter().filter(|(name, _)| events.iter().any(|event| event.field(name).exists()));
    needed.fold(Columns::NONE, |columns, (_, needed)| columns.with(needed))
}
