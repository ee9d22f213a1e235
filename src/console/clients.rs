//! `GET /console/clients`: who may come in, and what for. No credentials, not even their hashes.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Query, State};
use serde_json::{Value, json};

use super::{Console, ROWS_MAX, Shown};
use crate::event::escape;
use crate::web::auth::Client;

pub(super) async fn list(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    let after = query.get("after").map_or("", String::as_str);
    let known = console.auth.clients();
    let page: Vec<&Arc<Client>> = known.iter().filter(|client| client.name.as_str() > after).take(ROWS_MAX).collect();
    let next = page.last().filter(|last| known.last().is_some_and(|end| end.name > last.name));
    let item = |client: &&Arc<Client>| {
        let scopes: Vec<String> = client.scopes.iter().map(ToString::to_string).collect();
        json!({ "name": client.name, "scopes": scopes })
    };
    let data = json!({
        "is_open": console.auth.is_open(),
        "clients": page.iter().map(item).collect::<Value>(),
        "next": next.map(|last| format!("/console/clients?after={}", escape(&last.name))),
    });
    Ok(console.page(&client, "clients", "clients.html", data))
}
