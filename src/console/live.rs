//! `GET /console/stream`: tells open pages, as Server-Sent Events, that it is worth looking again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderName;
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Sse};
use futures_util::stream;

use super::{Console, Shown};
use crate::web::problem::{Kind, Problem};

/// Pages that are kept fresh at the same time: operators, not crowds.
pub(super) const STREAMS_MAX: usize = 100;
/// The state of sources and webhooks changes without the journal's bell.
const EVERY: Duration = Duration::from_secs(5);
/// However often the bell rings.
const PAUSE: Duration = Duration::from_secs(1);
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

pub(super) async fn stream(State(console): State<Arc<Console>>) -> Shown {
    let permit = Arc::clone(&console.streams).try_acquire_owned().map_err(|_| {
        Problem::new(Kind::TooMany, format!("{STREAMS_MAX} pages are kept fresh already; reload this one by hand"))
    })?;
    let bell = console.journal.bell();
    // Ends when the gateway stops; the page comes again.
    let changes = stream::unfold((console, bell, permit), |(console, mut bell, permit)| async move {
        let changed = async {
            bell.rung(EVERY).await;
            tokio::time::sleep(PAUSE).await;
        };
        console.stopping.run_until_cancelled(changed).await?;
        let change = Event::default().event("change").data(console.journal.known_position().to_string());
        Some((Ok::<_, Infallible>(change), (console, bell, permit)))
    });
    Ok(([(BUFFERING, "no")], Sse::new(changes)).into_response())
}
