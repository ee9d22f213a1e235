//! `GET /console/feeds`: the feeds as the client sees them.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use serde_json::json;

use super::{Console, Shown};
use crate::web::auth::Client;

pub(super) async fn list(State(console): State<Arc<Console>>, Extension(client): Extension<Arc<Client>>) -> Shown {
    let feeds = console.doors.get(&client, "/feeds").await?["feeds"].take();
    Ok(console.page(&client, "feeds", "feeds.html", json!({ "feeds": feeds })))
}
