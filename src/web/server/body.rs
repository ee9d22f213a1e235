//! Bodies that come in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

/// All of a body.
const TIME: Duration = Duration::from_secs(30);

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the body was not sent within {} s", TIME.as_secs())]
    Late,
    #[error(transparent)]
    Connection(#[from] hyper::Error),
}

/// A body that has so much time, from the first moment that it is waited for.
pub(super) struct Timed {
    body: Incoming,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Timed {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, deadline: None }
    }
}

impl Body for Timed {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(TIME)));
        deadline.as_mut().poll(context).map(|()| Some(Err(Error::Late)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
