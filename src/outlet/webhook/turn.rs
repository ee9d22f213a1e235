//! Between `lanes`, which knows whose turn it is, and `dispatch`, which makes the calls: what to start, and what
//! became of it.

use super::attempt::{Delivery, Outcome};
use crate::journal::deliveries::DeliveryRow;

/// A turn in the retry lane: the bytes of its row if it was tried before, else its next event.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) turn: String,
    pub(super) position: i64,
    /// How often the event at `position` was tried.
    pub(super) attempts: i64,
    /// Later events are not passed yet.
    pub(super) through: i64,
    /// Of a batch that was formed: its id and its last position.
    pub(super) batch: Option<(String, i64)>,
    pub(super) started: i64,
}

/// Which attempt a delivery is, of a turn whose row stands at `position` after so many `attempts`.
pub(super) fn attempt_of(delivery: &Delivery, position: i64, attempts: i64) -> i64 {
    if delivery.position == position { attempts + 1 } else { 1 }
}

#[derive(Debug)]
pub(super) enum Start {
    /// In a box: it goes through many hands.
    First {
        delivery: Box<Delivery>,
        started: i64,
    },
    Retry(Retry),
}

/// What became of a start.
#[derive(Debug)]
pub(super) enum Done {
    First {
        delivery: Box<Delivery>,
        started: i64,
        outcome: Outcome,
    },
    Retry {
        delivery: Delivery,
        started: i64,
        outcome: Outcome,
    },
    /// No event of the turn between its row and this position.
    NoneLeft {
        turn: String,
        through: i64,
    },
    /// The journal could not be read, or the dispatch is stopping: the turn is due again at this time.
    Put {
        turn: String,
        again_at: i64,
    },
    /// A batch was put together, and has to be stored before it is sent.
    Formed {
        row: DeliveryRow,
    },
    /// The dispatch is stopping.
    NotStarted,
}
