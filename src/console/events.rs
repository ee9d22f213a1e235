//! `/console/events…`: the journal, searched page by page, and one event with its ways out.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect, Response};
use serde_json::{Value, json};

use super::form::parse_time;
use super::{Console, ROWS_MAX, Shown};
use crate::event::{Cursor, Entry, escape, event_id_of_atom_id};
use crate::filter::{Filter, OWN_SOURCE, Selection};
use crate::journal::{Columns, Error, Head, Order, Page, Range};
use crate::json::indented;
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};

/// Positions that one page looks at: what nobody matches must not be looked for in the whole journal at once.
const LOOKED_AT_MAX: i64 = 200_000;
/// Longest text of data that is shown.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What the form at the top of the journal asks for.
#[derive(Default)]
struct Search {
    id: Option<String>,
    r#type: Option<String>,
    source: Option<String>,
    aggregate: Option<String>,
    since: Option<String>,
    is_oldest_first: bool,
    /// The first position of the page.
    from: Option<i64>,
}

impl Search {
    fn parse(query: &HashMap<String, String>) -> Self {
        let field =
            |name: &str| query.get(name).map(|text| text.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
        Self {
            id: field("id"),
            r#type: field("type"),
            source: field("source"),
            aggregate: field("aggregate"),
            since: field("since"),
            is_oldest_first: query.get("order").is_some_and(|order| order == "oldest"),
            from: field("from").and_then(|text| text.parse().ok()),
        }
    }

    /// What of the visible events it asks for.
    fn selection(&self, visible: &Selection) -> Result<Selection, Problem> {
        let list = |text: &Option<String>| text.iter().cloned().collect::<Vec<_>>();
        let mut filter = Filter { types: list(&self.r#type), sources: list(&self.source), ..Filter::default() };
        let mut exact = None;
        match self.aggregate.as_deref().map(|text| (text, text.split_once('/'))) {
            Some((text, Some((r#type, id)))) if !text.contains('*') => exact = Some((r#type, id)),
            Some((_, Some((r#type, id)))) => {
                filter.aggregate_types = vec![r#type.to_owned()];
                filter.aggregate_ids = vec![id.to_owned()];
            }
            Some((id, None)) => filter.aggregate_ids = vec![id.to_owned()],
            None => {}
        }
        filter.check().map_err(|cause| Problem::new(Kind::BadRequest, cause.to_string()))?;
        let selection = visible.and(&filter);
        Ok(match exact {
            Some((r#type, id)) => selection.of_aggregate(r#type, id),
            None => selection,
        })
    }

    /// The same search from another position on, or from its start.
    fn url(&self, from: Option<i64>) -> String {
        let fields =
            [("type", &self.r#type), ("source", &self.source), ("aggregate", &self.aggregate), ("since", &self.since)];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value.clone()?)));
        let order = self.is_oldest_first.then(|| ("order", "oldest".to_owned()));
        let from = from.map(|from| ("from", from.to_string()));
        let pairs: Vec<String> =
            fields.chain(order).chain(from).map(|(name, value)| format!("{name}={}", escape(&value))).collect();
        format!("/console/events?{}", pairs.join("&"))
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id, "type": self.r#type, "source": self.source, "aggregate": self.aggregate, "since": self.since,
            "order": if self.is_oldest_first { "oldest" } else { "newest" },
        })
    }
}

/// `GET /console/events`
pub(super) async fn search(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Query(query): Query<HashMap<String, String>>,
) -> Shown {
    client.must(&Scope::Read)?;
    let search = Search::parse(&query);
    let found = match &search.id {
        Some(id) => match named(&console, &client, id).await {
            Ok(entry) => {
                return Ok(Redirect::to(&format!("/console/events/{}", escape(&entry.event.id))).into_response());
            }
            Err(problem) => Err(problem),
        },
        None => find(&console, &client, &search).await,
    };
    let sources = console.doors.get(&client, "/sources").await?["items"].take();
    let names: Vec<&Value> = sources.as_array().into_iter().flatten().map(|source| &source["name"]).collect();
    let mut data = json!({
        "query": search.json(), "sources": names, "is_first": search.from.is_none(), "first": search.url(None),
    });
    let status = match found {
        Ok(Found { page, next }) => {
            data["events"] = page.entries.iter().map(row).collect();
            let ended_early = page.entries.len() < ROWS_MAX;
            data["looked"] =
                json!(next.filter(|_| ended_early).map(|next| format!("Looked as far as position {next}.")));
            data["next"] = json!(next.map(|next| search.url(Some(next))));
            axum::http::StatusCode::OK
        }
        Err(problem) => {
            data["problem"] = json!(problem.detail);
            problem.kind.status()
        }
    };
    Ok((status, console.page(&client, "events", "events.html", data)).into_response())
}

struct Found {
    page: Page,
    /// Where the next page begins, if there may be one.
    next: Option<i64>,
}

async fn find(console: &Console, client: &Client, search: &Search) -> Result<Found, Problem> {
    let (journal, selection) = (&console.journal, search.selection(&client.visible)?);
    let head = journal.head().await?;
    let since = match &search.since {
        Some(text) => journal.before_time(parse_time(text)?).await?,
        None => head.oldest - 1,
    };
    let range = stretch(search, &head, since);
    let page = journal.read_under(head, &selection, range, ROWS_MAX, Columns::ENVELOPE).await?;
    let next = match range.order {
        Order::Ascending => Some(page.covered + 1).filter(|next| *next <= head.position),
        Order::Descending => Some(page.covered).filter(|next| *next > since),
    };
    Ok(Found { page, next })
}

/// The positions that a page looks at.
fn stretch(search: &Search, head: &Head, since: i64) -> Range {
    if search.is_oldest_first {
        let after = search.from.map_or(since, |from| from.saturating_sub(1).max(since));
        Range { through: Some(after.saturating_add(LOOKED_AT_MAX)), ..Range::after(after) }
    } else {
        let through = search.from.unwrap_or(head.position).min(head.position);
        Range { after: (through - LOOKED_AT_MAX).max(since), through: Some(through), order: Order::Descending }
    }
}

fn row(entry: &Entry) -> Value {
    let event = &entry.event;
    json!({
        "position": entry.position, "id": event.id, "type": event.r#type, "source": event.source,
        "aggregateType": event.aggregate_type, "aggregateId": event.aggregate_id,
        "aggregateVersion": event.aggregate_version, "occurredAt": event.occurred_at.to_text(),
        "summary": entry.summary, "late": entry.late, "erased": entry.erased_at.is_some(),
    })
}

/// The visible event that a text names: its id, its Atom id, a cursor or a position. One of the gateway's own, too.
async fn named(console: &Console, client: &Client, text: &str) -> Result<Entry, Problem> {
    let (journal, visible) = (&console.journal, client.visible.with_own());
    let found = if text.bytes().all(|byte| byte.is_ascii_digit()) || Cursor::parse(text).is_some() {
        let position = journal.locate(&visible, text).await?;
        let range = Range { through: Some(position), ..Range::after(position - 1) };
        journal.read(&visible, range, 1, Columns::ALL).await?.entries
    } else {
        let id = event_id_of_atom_id(text).unwrap_or_else(|| text.to_owned());
        journal.by_ids(&visible, &[id], Columns::ALL).await?
    };
    let unknown = || Error::UnknownPosition { text: text.chars().take(100).collect() };
    found.into_iter().next().ok_or_else(|| unknown().into())
}

/// `GET /console/events/{id}`
pub(super) async fn show(
    State(console): State<Arc<Console>>,
    Extension(client): Extension<Arc<Client>>,
    Path(id): Path<String>,
) -> Shown {
    client.must(&Scope::Read)?;
    let entry = named(&console, &client, &id).await?;
    Ok(page(&console, &client, &entry))
}

fn page(console: &Console, client: &Client, entry: &Entry) -> Response {
    let event = &entry.event;
    let cursor = |position: i64| Cursor::new(console.journal.id(), position).to_string();
    let mut shown = row(entry);
    shown["cursor"] = json!(cursor(entry.position));
    shown["recordedAt"] = json!(entry.recorded_at.to_text());
    shown["erasedAt"] = json!(entry.erased_at.map(|at| at.to_text()));
    shown["erases"] = json!(entry.erases);
    let data = json!({
        "event": shown,
        "data": text(&event.data),
        "metadata": event.metadata.as_deref().map(text),
        "feed": if event.source == OWN_SOURCE { OWN_SOURCE } else { "all" },
        "before": cursor(entry.position - 1),
        "graphql": format!("{{ event(id: {}) {{ id type occurredAt dataJson metadata }} }}", json!(event.id)),
    });
    console.page(client, "events", "event.html", data)
}

/// A JSON text for reading; of a long one its beginning.
fn text(json: &str) -> Value {
    let cut = json.len() > TEXT_BYTES_MAX;
    let shown = if cut { json[..json.floor_char_boundary(TEXT_BYTES_MAX)].to_owned() } else { indented(json) };
    json!({ "text": shown, "cut": cut.then_some(json.len()) })
}
