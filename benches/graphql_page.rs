//! A page of 50 events with 10 typed attributes of their data through GraphQL, against an axum handler written for it, which
//! reads the same rows of the same journal and writes the same attributes with serde. Eight keep-alive connections.

#[path = "support/databases.rs"]
mod databases;
#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/http.rs"]
mod http;
mod support;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use anyhow::ensure;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use gateway::{Gateway, Setting};
use http::Connection;
use postern::catalogue::Catalogue;
use postern::event::{Event, Micros};
use postern::journal::Arrival;
use postern::outlet::graphql::Schema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{PgPool, SqlitePool};
use support::{Comparison, LOAD, Measured, Meter};

const EVENTS: usize = 1_000;
const CONNECTIONS: usize = 8;
const REQUESTS: usize = 4_000;
const REPETITIONS: usize = 7;
const TARGET: f64 = 0.6;
const QUERY: &str = "query Page($first: Int!) { events(first: $first) { nodes { id ... on CartCreated { data { \
    cartId customerId currency total itemCount channel country coupon createdAt note } } } } }";

/// What the handler reads and writes of an event's data.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    cart_id: Cow<'a, str>,
    #[serde(borrow)]
    customer_id: Cow<'a, str>,
    #[serde(borrow)]
    currency: Cow<'a, str>,
    total: f64,
    item_count: i32,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    country: Cow<'a, str>,
    coupon: Option<Cow<'a, str>>,
    #[serde(borrow)]
    created_at: Cow<'a, str>,
    #[serde(borrow)]
    note: Cow<'a, str>,
}

#[derive(Serialize)]
struct Node<'a> {
    id: &'a str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Answer<'a> {
    data: Root<'a>,
}

#[derive(Serialize)]
struct Root<'a> {
    events: Events<'a>,
}

#[derive(Serialize)]
struct Events<'a> {
    nodes: Vec<Node<'a>>,
}

#[derive(Deserialize)]
struct Ask {
    variables: Variables,
}

#[derive(Deserialize)]
struct Variables {
    first: i64,
}

fn main() -> anyhow::Result<()> {
    support::pin();
    let (gateway_side, bare_side) = (support::runtime("gateway")?, support::runtime("bare")?);
    let databases = gateway_side.block_on(databases::Databases::create(["graphql"]))?;
    let schema = schema().to_string();
    let events: Vec<Arrival> = (0..EVENTS).map(arrival).collect();
    let mut comparisons = Vec::new();
    for (name, url) in [("SQLite", None), ("PostgreSQL", Some(databases.urls[0].as_str()))] {
        let setting = Setting {
            journal_url: url,
            config: "[events.CartCreated]\nschema = \"cart.json\"\n",
            file: Some(("cart.json", &schema)),
        };
        let gateway = gateway_side.block_on(Gateway::start(&setting, &events))?;
        let journal = match url {
            Some(url) => Rows::Postgres(bare_side.block_on(PgPool::connect(url))?),
            None => Rows::Sqlite(bare_side.block_on(SqlitePool::connect(gateway.app.journal().url()))?),
        };
        let bare = bare_side.block_on(serve(journal))?;
        let body = json!({ "query": QUERY, "variables": { "first": 50 } }).to_string();
        let request = |address| {
            format!(
                "POST /graphql HTTP/1.1\r\nhost: {address}\r\naccept: */*\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let mut comparison = Comparison::new(name, TARGET);
        for turn in 0..=REPETITIONS {
            let ours = load(gateway.app.address(), &request(gateway.app.address()))?;
            let ceiling = load(bare, &request(bare))?;
            if turn > 0 {
                comparison.add(ours, ceiling);
            }
        }
        comparisons.push(comparison);
        gateway_side.block_on(gateway.app.stop());
    }
    support::print("request", &comparisons);
    large_catalogue()?;
    gateway_side.block_on(databases.drop())
}

/// How long a gateway with 200 event types of 50 attributes takes to make its schema.
fn large_catalogue() -> anyhow::Result<()> {
    let properties: serde_json::Map<String, serde_json::Value> = (0..50)
        .map(|n| {
            let kind = if n % 2 == 0 { json!({ "type": "string" }) } else { json!({ "type": "integer" }) };
            (format!("attribute{n}"), kind)
        })
        .collect();
    let schema = json!({ "properties": properties }).to_string();
    let schemas = (0..200).map(|n| (format!("type.{n}"), vec![schema.clone()])).collect();
    let started = std::time::Instant::now();
    let catalogue = Catalogue::new(&Default::default(), Default::default(), &schemas).map_err(anyhow::Error::msg)?;
    let sdl = Schema::new(&catalogue).map_err(anyhow::Error::msg)?.sdl();
    println!(
        "200 event types of 50 attributes: {} ms, an SDL of {} kB",
        started.elapsed().as_millis(),
        sdl.len() / 1_000
    );
    Ok(())
}

/// 21 attributes, some 750 bytes.
fn arrival(n: usize) -> Arrival {
    let data = json!({
        "cartId": format!("cart-{n}"), "customerId": format!("customer-{}", n % 97), "currency": "EUR",
        "total": n as f64 + 0.25, "itemCount": n % 9, "channel": "web", "country": "CH", "coupon": null,
        "createdAt": "2026-01-01T12:00:00.000Z", "note": "please ring twice",
        "agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "locale": "de-CH",
        "segment": "returning", "campaign": "winter-sale", "referrer": "https://shop.example.com/teas/green",
        "address": { "street": "Example Street 17", "zip": "8000", "city": "Zurich", "floor": 3 },
        "items": [{ "sku": "TEA-1", "qty": 2, "price": 7.5 }, { "sku": "TEA-2", "qty": 1, "price": 9.9 }],
        "flags": ["gift", "express"], "weight": 1.25, "tax": 0.081, "revision": n
    });
    let event = Event {
        id: uuid::Uuid::now_v7().to_string(),
        source: "shop".to_owned(),
        r#type: "CartCreated".to_owned(),
        aggregate_type: "Cart".to_owned(),
        aggregate_id: format!("cart-{n}"),
        aggregate_version: Some(1),
        occurred_at: Micros(1_767_225_600_000_000),
        data: data.to_string(),
        metadata: None,
    };
    Arrival { event, sequence: None, summary: "a cart".to_owned(), mismatch: None, late: false }
}

fn schema() -> serde_json::Value {
    let text = json!({ "type": "string" });
    json!({ "properties": {
        "cartId": text, "customerId": text, "currency": text, "total": { "type": "number" },
        "itemCount": { "type": "integer", "maximum": 1000 }, "channel": text, "country": text, "coupon": text,
        "createdAt": { "type": "string", "format": "date-time" }, "note": text, "locale": text
    } })
}

#[derive(Clone)]
enum Rows {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

/// Starts the ceiling.
async fn serve(rows: Rows) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = axum::Router::new().route("/graphql", post(answer)).with_state(rows).into_make_service();
    postern::runtime::Tasks::default().spawn("bare", async move {
        axum::serve(listener, service).await.expect("a listener that works goes on working");
    });
    Ok(address)
}

async fn answer(State(rows): State<Rows>, body: Bytes) -> Response {
    let ask: Ask = serde_json::from_slice(&body).expect("the load generator sends JSON");
    let sql =
        "select event_id, type, data from entries where position > $1 and position <= $2 order by position limit $3";
    let rows: Vec<(String, String, String)> = match rows {
        Rows::Sqlite(pool) => {
            sqlx::query_as(sql).bind(0_i64).bind(i64::MAX).bind(ask.variables.first).fetch_all(&pool).await
        }
        Rows::Postgres(pool) => {
            sqlx::query_as(sql).bind(0_i64).bind(i64::MAX).bind(ask.variables.first).fetch_all(&pool).await
        }
    }
    .expect("the journal can be read");
    let nodes: Vec<Node<'_>> = rows
        .iter()
        .map(|(id, _, data)| Node { id, data: serde_json::from_str(data).expect("the data fits") })
        .collect();
    let text = serde_json::to_string(&Answer { data: Root { events: Events { nodes } } });
    ([(header::CONTENT_TYPE, "application/json")], text.expect("it can be written")).into_response()
}

/// Asks from a thread of its own, whose time is not counted.
fn load(address: SocketAddr, request: &str) -> anyhow::Result<Measured> {
    let meter = Meter::start()?;
    let request: Arc<[u8]> = request.as_bytes().into();
    let asking = thread::Builder::new().name(LOAD.to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let ask = |_| ask(address, Arc::clone(&request));
        runtime.block_on(futures_util::future::try_join_all((0..CONNECTIONS).map(ask)))
    })?;
    asking.join().expect("the load generator does not panic")?;
    meter.stop(REQUESTS)
}

async fn ask(address: SocketAddr, request: Arc<[u8]>) -> anyhow::Result<()> {
    let mut connection = Connection::connect(address).await?;
    for _ in 0..REQUESTS / CONNECTIONS {
        let answer = connection.exchange(&request).await?;
        ensure!(answer.status() == 200, "an answer was not 200: {}", answer.head);
        let text = std::str::from_utf8(answer.body)?;
        ensure!(text.matches("please ring twice").count() == 50 && !text.contains("errors"), "another answer: {text}");
    }
    Ok(())
}
