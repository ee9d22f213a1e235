//! What all parts of the door share: the ways to the other rooms, and what is known of webhooks at this moment.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::body::Renderer;
use super::definition::Definition;
use super::seal::Sealer;
use super::secrets::Secrets;
use super::shards::Shards;
use super::tail::{Seen, Tail};
use super::{Config, Consent, Project, Surroundings, Topics, metrics, oauth2, websub};
use crate::catalogue::Catalogue;
use crate::filter::{Dialects, Selection};
use crate::journal::webhooks::{Change, Edit, Notice, WebhookRow};
use crate::journal::{Error, Journal};
use crate::runtime::{Bell, Clock, Steady, Tasks};
use crate::web::Site;
use crate::web::auth::Auth;
use crate::web::outgoing::{Outgoing, is_loopback};
use crate::web::problem::{Kind, Problem};

/// Calls in flight over all webhooks: bounds sockets and memory. Permits are given in the order asked for, and no
/// webhook asks for more than its concurrency, so a slow one can't take them all.
pub(super) const CALLS_IN_FLIGHT_MAX: usize = 256;
/// … and over those whose last call failed, beside the others.
pub(super) const CALLS_OF_SUSPECTS_MAX: usize = 64;
/// Of one webhook and kind, at most one event is journaled in so long.
const TELL_EVERY_MICROS: i64 = 60 * 1_000_000;

/// What all parts of the door share.
pub(super) struct Shared {
    pub(super) journal: Journal,
    pub(super) catalogue: Arc<Catalogue>,
    pub(super) outgoing: Outgoing,
    pub(super) clock: Clock,
    /// For waits: it never goes back.
    pub(super) steady: Steady,
    pub(super) public_url: String,
    pub(super) authority: String,
    pub(super) auth: Auth,
    pub(super) sealer: Sealer,
    pub(super) consent: Consent,
    pub(super) tasks: Tasks,
    pub(super) project: Project,
    pub(super) topic: Topics,
    /// Subscribers that may be asked now.
    pub(super) asking: Arc<Semaphore>,
    /// Rung when a webhook was registered, changed or removed.
    pub(super) changed: Bell,
    /// Which ones, and whether they are new.
    pub(super) changes: Mutex<HashMap<String, bool>>,
    /// Stops the lanes of a webhook.
    pub(super) stops: Mutex<HashMap<String, CancellationToken>>,
    pub(super) tail: Tail,
    pub(super) made: metrics::Calls,
    pub(super) tokens: oauth2::Tokens,
    /// When an event of a kind was journaled about a webhook last.
    pub(super) told: Mutex<HashMap<(String, &'static str), i64>>,
    /// The shards of webhooks that this process delivers.
    pub(super) shards: Shards,
    pub(super) calls: Semaphore,
    pub(super) calls_of_suspects: Semaphore,
}

impl Shared {
    pub(super) fn new(
        config: &Config,
        journal: Journal,
        site: &Site,
        sealer: Sealer,
        surroundings: Surroundings,
    ) -> Self {
        let Surroundings { catalogue, outgoing, clock, auth, tasks, project, topic } = surroundings;
        Self {
            sealer,
            journal,
            catalogue,
            outgoing,
            clock,
            steady: clock.steady(),
            public_url: site.public_url.clone(),
            authority: site.authority.clone(),
            auth,
            consent: config.consent,
            tasks,
            project,
            topic,
            asking: Arc::new(Semaphore::new(websub::ASKED_AT_ONCE)),
            changed: Bell::default(),
            changes: Mutex::default(),
            stops: Mutex::default(),
            tail: Tail::default(),
            made: metrics::Calls::default(),
            tokens: oauth2::Tokens::default(),
            told: Mutex::default(),
            shards: Shards::default(),
            calls: Semaphore::new(CALLS_IN_FLIGHT_MAX),
            calls_of_suspects: Semaphore::new(CALLS_OF_SUSPECTS_MAX),
        }
    }

    /// The owner changed this webhook: its lanes start no more calls, and the supervisor looks again.
    pub(super) fn changed(&self, id: &str) {
        if let Some(stop) = self.stops.lock().expect("nothing panics while it holds this lock").get(id) {
            stop.cancel();
        }
        self.note_change(id, false);
    }

    /// Stores an edit, unless there was another one meanwhile. `is_new_start`: what failed before does not count any more.
    ///
    /// # Errors
    /// [`Error::Stale`] after another edit, or the database.
    pub(super) async fn edit(
        &self,
        row: WebhookRow,
        is_new_start: bool,
        notice: Option<Notice>,
    ) -> Result<WebhookRow, Error> {
        let mut rows = [row];
        self.edit_all(&mut rows, is_new_start, notice.into_iter().collect()).await?;
        let [row] = rows;
        Ok(row)
    }

    /// The same for several, all or none.
    ///
    /// # Errors
    /// See [`Shared::edit`].
    pub(super) async fn edit_all(
        &self,
        rows: &mut [WebhookRow],
        is_new_start: bool,
        notices: Vec<Notice>,
    ) -> Result<(), Error> {
        let mut change = Change { edits: Vec::with_capacity(rows.len()), notices };
        for row in rows {
            let read_at = row.updated_at;
            // Later than the last change: its time tells whether there was another one.
            row.updated_at = self.clock.now_micros().max(read_at + 1);
            if is_new_start {
                row.failing_since = None;
            }
            change.edits.push(Edit::Update { row: Box::new(row.clone()), read_at, is_new_start });
        }
        self.journal.change_webhook(change).await
    }

    /// The supervisor looks again at this webhook, which goes on meanwhile.
    pub(super) fn note_change(&self, id: &str, is_new: bool) {
        let mut changes = self.changes.lock().expect("nothing panics while it holds this lock");
        changes.entry(id.to_owned()).and_modify(|known| *known &= is_new).or_insert(is_new);
        drop(changes);
        self.changed.ring();
    }

    pub(super) fn take_changes(&self) -> HashMap<String, bool> {
        std::mem::take(&mut *self.changes.lock().expect("nothing panics while it holds this lock"))
    }

    /// Whether an event of this kind about a webhook is journaled now: not the next one so soon.
    pub(super) fn may_tell(&self, id: &str, what: &'static str) -> bool {
        let now = self.steady.now_micros();
        let mut told = self.told.lock().expect("nothing panics while it holds this lock");
        told.retain(|_, at| *at + TELL_EVERY_MICROS > now);
        let is_first = !told.contains_key(&(id.to_owned(), what));
        told.entry((id.to_owned(), what)).or_insert(now);
        is_first
    }

    pub(super) fn needs_consent(&self, url: &Url) -> bool {
        self.consent == Consent::Required && !is_loopback(url)
    }

    /// The end of the journal as a selection sees it, from memory if it reaches back so far.
    pub(super) fn seen(&self, selection: &Selection, after: i64, limit: usize) -> Option<Seen> {
        self.tail.read(selection, after, limit, self.journal.known_past())
    }

    /// What a webhook gets: its filters, within what its owner may see. Nothing for an owner that is gone.
    pub(super) fn selection(&self, row: &WebhookRow, definition: &Definition) -> Option<Selection> {
        let visible = self.auth.visibility(&row.owner)?.and(&definition.filter);
        if definition.filters.is_empty() {
            return Some(visible);
        }
        let dialects = Dialects::parse(&definition.filters, &self.public_url).ok()?;
        Some(visible.and_dialects(Arc::new(dialects)))
    }

    /// Nothing if its selection can't be used.
    pub(super) fn renderer(&self, definition: &Definition) -> Option<Renderer> {
        let topic = definition.websub.as_ref().map(|subscription| (self.topic)(&subscription.topic));
        Some(Renderer {
            // A feed that is not configured any more.
            topic: match topic {
                Some(found) => Some(found?),
                None => None,
            },
            format: definition.format,
            public_url: self.public_url.clone(),
            journal_id: self.journal.id().to_owned(),
            projection: definition.query.as_deref().map(|query| (self.project)(query)).transpose().ok()?,
        })
    }

    pub(super) fn check_query(&self, definition: &Definition) -> Result<(), Problem> {
        match definition.query.as_deref().map(|query| (self.project)(query)) {
            None | Some(Ok(_)) => Ok(()),
            Some(Err(cause)) => Err(Problem::new(Kind::Unprocessable, format!("`query`: {cause}"))),
        }
    }

    pub(super) fn unseal(&self, row: &WebhookRow) -> Option<Secrets> {
        Secrets::unseal(&self.sealer, &row.secrets, &row.id)
    }
}

/// What is stored of a webhook.
pub(super) fn definition_of(row: &WebhookRow) -> Definition {
    serde_json::from_str(&row.definition).expect("only checked definitions are stored")
}
