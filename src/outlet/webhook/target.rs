//! What a dispatch works for: one lane of one webhook, with all that its row says made ready.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use percent_encoding::percent_decode_str;

use super::Shared;
use super::attempt::Delivery;
use super::attributes::RATE_MAX;
use super::body::Renderer;
use super::definition::{Batch, Definition, Format, OnExhausted, Ordering};
use super::lanes::Rules;
use super::pace::Pace;
use super::receiver::Receiver;
use crate::event::Entry;
use crate::filter::{Filter, OWN_SOURCE, Selection};
use crate::journal::replays::{Kind, ReplayRow};
use crate::journal::webhooks::WebhookRow;
use crate::journal::{Columns, Error, Lease, Order, Page, Range};

/// Of the calls that a webhook may make at once, a replay may use a quarter.
const REPLAY_SHARE: usize = 4;

pub(super) struct Target {
    pub(super) row: WebhookRow,
    /// Nothing: the live lane.
    pub(super) replay: Option<ReplayRow>,
    pub(super) selection: Selection,
    pub(super) receiver: Receiver,
    pub(super) rules: Rules,
    pub(super) batch: Option<Batch>,
    pub(super) renderer: Renderer,
    /// Nothing is sent for who has lost it. There is none where nothing is written down either: a test, a preview.
    pub(super) lease: Option<Lease>,
}

/// How fast a webhook's receiver may be called: by what its owner and what the receiver itself said.
pub(super) fn pace(row: &WebhookRow, definition: &Definition) -> Arc<Mutex<Pace>> {
    let own = definition.rate.iter().map(|rate| (rate.max, rate.per()));
    let allowed = row
        .allowed_rate
        .iter()
        .map(|rate| (u32::try_from(*rate).unwrap_or(u32::MAX).min(RATE_MAX), Duration::from_secs(60)));
    let rates: Vec<_> = own.chain(allowed).collect();
    Arc::new(Mutex::new(Pace::new(definition.concurrency, &rates, &definition.schedule())))
}

impl Target {
    /// Nothing if its owner is gone or its secrets can't be read.
    pub(super) fn new(
        shared: &Shared,
        row: WebhookRow,
        replay: Option<ReplayRow>,
        pace: Arc<Mutex<Pace>>,
    ) -> Option<Self> {
        let definition = super::definition_of(&row);
        let secrets = shared.unseal(&row)?;
        let selection = match &replay {
            // Whatever the filter says by now: the owner names the event.
            Some(ReplayRow { kind: Kind::Resend, .. }) => shared.auth.visibility(&row.owner)?,
            _ => shared.selection(&row, &definition)?,
        };
        let concurrency = definition.concurrency;
        let rules = Rules {
            schedule: definition.schedule(),
            concurrency: if replay.is_some() { (concurrency / REPLAY_SHARE).max(1) } else { concurrency },
            on_exhausted: if replay.is_some() { OnExhausted::Skip } else { definition.on_exhausted },
            is_batched: definition.batch.is_some(),
            // One batch after the other.
            ordering: if definition.batch.is_some() { Ordering::Strict } else { definition.ordering },
            pace,
        };
        let renderer = shared.renderer(&definition)?;
        Some(Self {
            receiver: Receiver::new(shared, &row, &definition, secrets)?,
            batch: definition.batch,
            row,
            replay,
            selection,
            rules,
            renderer,
            lease: None,
        })
    }

    /// Empty for the live lane.
    pub(super) fn replay_id(&self) -> &str {
        self.replay.as_ref().map_or("", |replay| &replay.id)
    }

    /// An event on its way. Of a batched webhook only its place: batches are put together when their turn comes.
    pub(super) fn delivery(&self, entry: &Entry) -> Delivery {
        if self.batch.is_some() { self.place(entry) } else { self.alone(entry) }
    }

    fn place(&self, entry: &Entry) -> Delivery {
        let key = entry.event.key();
        Delivery {
            position: entry.position,
            event_id: entry.event.id.clone(),
            r#type: entry.event.r#type.clone(),
            turn: if self.rules.ordering == Ordering::Key { key.clone() } else { self.rules.ordering.turn(entry) },
            key,
            ..Delivery::default()
        }
    }

    /// A call for this event alone; of a batched webhook a batch of one.
    pub(super) fn alone(&self, entry: &Entry) -> Delivery {
        let renderer = &self.renderer;
        let is_batched = renderer.format.is_batched();
        let body = if is_batched { renderer.batch(std::slice::from_ref(entry)) } else { renderer.body(entry) };
        self.with_body(entry, renderer, body)
    }

    /// A call with these bytes, which were made in a format that may be another one by now.
    pub(super) fn frozen(&self, entry: &Entry, body: Vec<u8>, format: &str) -> Delivery {
        self.with_body(entry, &self.renderer.with(Format::of_word(format)), body.into())
    }

    fn with_body(&self, entry: &Entry, renderer: &Renderer, body: Bytes) -> Delivery {
        let (headers, format) = (renderer.headers(entry), renderer.format);
        let delivery = Delivery { headers, body, format, content_type: renderer.content_type(), ..self.place(entry) };
        if !format.is_batched() {
            return Delivery { trace: entry.event.trace_context(), ..delivery };
        }
        Delivery { event_id: format!("batch-{}", entry.event.id), key: String::new(), ..delivery }
    }

    pub(super) fn owes(&self, shared: &Shared, entry: &Entry) -> bool {
        owes(shared, &self.row, self.replay.as_ref(), entry)
    }

    /// What comes next in the journal.
    pub(super) async fn read(&self, shared: &Shared, after: i64, limit: usize) -> Result<Page, Error> {
        let through = self.replay.as_ref().map(|replay| replay.through);
        let range = Range { through, ..Range::after(after) };
        self.read_of(shared, &self.selection, range, limit, self.renderer.columns()).await
    }

    /// What of a range belongs to the lane.
    pub(super) async fn read_of(
        &self,
        shared: &Shared,
        selection: &Selection,
        range: Range,
        limit: usize,
        columns: Columns,
    ) -> Result<Page, Error> {
        match self.replay.as_ref().map(|replay| replay.kind) {
            Some(Kind::Recover) => shared.journal.read_dead(&self.row.id, selection, range, limit).await,
            _ => shared.journal.read(selection, range, limit, columns).await,
        }
    }

    /// What may be part of a turn from a position on, and up to where.
    pub(super) fn of_turn(&self, turn: &str, position: i64, through: i64) -> (Selection, i64) {
        let through = self.replay.as_ref().map_or(through, |replay| through.min(replay.through));
        match Ordering::of_turn(turn) {
            Ordering::Key => (self.selection.and(&aggregate_of(turn)), through),
            Ordering::Strict => (self.selection.clone(), through),
            Ordering::None => (self.selection.clone(), position),
        }
    }
}

/// Whether a lane gets an event that its selection lets through: what must not be sent again stays out of a catch-up, unless
/// its owner asks for this very event. What is about itself it never gets: that would never end.
pub(super) fn owes(shared: &Shared, row: &WebhookRow, replay: Option<&ReplayRow>, entry: &Entry) -> bool {
    let is_wanted = match replay {
        None => entry.recorded_at.0 >= row.created_at || shared.catalogue.replays(&entry.event.r#type),
        Some(replay) => replay.kind == Kind::Resend || shared.catalogue.replays(&entry.event.r#type),
    };
    let is_about_itself = entry.event.source == OWN_SOURCE && entry.event.aggregate_id == row.id;
    entry.erased_at.is_none() && is_wanted && !is_about_itself
}

impl Ordering {
    /// What waits for an event: what its aggregate, everything, or nothing else is called.
    pub(super) fn turn(self, entry: &Entry) -> String {
        match self {
            Self::Key => entry.event.key(),
            Self::Strict => String::new(),
            Self::None => entry.position.to_string(),
        }
    }

    /// Which one a turn was made by, perhaps before an edit: keys have a slash.
    pub(super) fn of_turn(turn: &str) -> Self {
        match turn {
            "" => Self::Strict,
            key if key.contains('/') => Self::Key,
            _ => Self::None,
        }
    }
}

/// How many events, between a row's position and another one, stand at or behind the row of a turn, counting no further
/// than `most`.
pub(super) async fn count_behind(
    shared: &Shared,
    selection: &Selection,
    turn: &str,
    from: i64,
    through: i64,
    most: i64,
) -> Result<i64, Error> {
    let range = Range { after: from - 1, through: Some(through), order: Order::Ascending };
    let of_turn = match Ordering::of_turn(turn) {
        Ordering::Key => selection.and(&aggregate_of(turn)),
        Ordering::Strict => selection.clone(),
        Ordering::None => return Ok(i64::from(from <= through)),
    };
    if from > through { Ok(0) } else { shared.journal.count(&of_turn, range, most).await }
}

/// A filter for the events of a key; an id that ends with `*` makes it let more through.
fn aggregate_of(key: &str) -> Filter {
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let (aggregate_type, aggregate_id) = key.split_once('/').unwrap_or((key, ""));
    Filter {
        aggregate_types: vec![plain(aggregate_type)],
        aggregate_ids: vec![plain(aggregate_id)],
        ..Filter::default()
    }
}
