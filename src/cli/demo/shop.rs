//! A lively cart service with an event store of its own: carts are created, filled, changed, checked out or left.
//! Some of its events are internal (`outbox = false`) and must never be seen outside.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use tracing::warn;

use crate::event::Micros;
use crate::runtime::{Clock, Tasks, random_bytes};

/// Carts that are shopped in at the same time.
const OPEN_CARTS: usize = 6;
const CATALOGUE: [(&str, &str, i64); 8] = [
    ("TEA-EARL-GREY", "Earl Grey, 100 g", 790),
    ("TEA-SENCHA", "Sencha, 100 g", 1250),
    ("MUG-BLUE", "Mug, blue", 1490),
    ("POT-GLASS", "Tea pot, glass", 3900),
    ("BISCUIT-OAT", "Oat biscuits", 420),
    ("HONEY-ACACIA", "Acacia honey", 880),
    ("FILTER-100", "Paper filters, 100", 350),
    ("BOOK-TEA", "The book of tea", 2200),
];

pub struct Shop {
    pool: SqlitePool,
    clock: Clock,
    carts: Vec<Cart>,
}

struct Cart {
    id: String,
    version: i64,
    lines: Vec<(usize, i64)>,
}

impl Cart {
    fn total(&self) -> i64 {
        self.lines.iter().map(|(item, quantity)| CATALOGUE[*item].2 * quantity).sum()
    }

    fn lines(&self) -> Value {
        self.lines
            .iter()
            .map(|(item, quantity)| json!({ "sku": CATALOGUE[*item].0, "quantity": quantity, "price": CATALOGUE[*item].2 }))
            .collect()
    }
}

impl Shop {
    /// Opens the shop's database, and makes its event store if it is new.
    pub async fn open(path: &Path) -> anyhow::Result<Self> {
        let options =
            SqliteConnectOptions::new().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.with_context(|| format!("can't open the shop's database {}", path.display()))?;
        sqlx::query(
            "create table if not exists tb_cart_event (
                seq         integer primary key autoincrement,
                event_id    text    not null unique,
                event_type  text    not null,
                cart_id     text    not null,
                version     integer not null,
                occurred_at text    not null,
                payload     text    not null,
                headers     text,
                outbox      boolean not null,
                unique (cart_id, version)
            )",
        )
        .execute(&pool)
        .await?;
        Ok(Self { pool, clock: Clock::system(), carts: Vec::new() })
    }

    /// Writes so many events a second until the tasks stop. The first ones at once, so that there is something to see.
    pub fn run(mut self, tasks: &Tasks, rate: f64) {
        let stopping = tasks.stopping();
        tasks.spawn("demo shop", async move {
            let mut first = 12;
            loop {
                if let Err(cause) = self.step().await {
                    warn!(%cause, "the demo's shop can't write its event store, trying again");
                }
                if first > 0 {
                    first -= 1;
                    continue;
                }
                let pause = Duration::from_secs_f64(1.0 / rate);
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stopping.cancelled() => break,
                }
            }
            self.pool.close().await;
        });
    }

    async fn step(&mut self) -> Result<(), sqlx::Error> {
        if self.carts.len() < OPEN_CARTS {
            let cart = Cart { id: format!("cart-{}", crate::runtime::random_hex(4)), version: 0, lines: Vec::new() };
            self.carts.push(cart);
            return self.write(self.carts.len() - 1, "CartCreated", true, json!({ "currency": "EUR" })).await;
        }
        let at = chance(self.carts.len());
        match chance(10) {
            0..=4 => self.add(at).await,
            5 if self.carts[at].lines.len() > 1 => self.remove(at).await,
            6 => self.write(at, "RecommendationsShown", false, json!({ "model": "r7", "count": 1 + chance(5) })).await,
            7 if self.carts[at].lines.len() > 1 => self.check_out(at).await,
            8 if chance(4) == 0 => {
                let result = self.write(at, "CartAbandoned", true, json!({ "total": self.carts[at].total() })).await;
                self.carts.remove(at);
                result
            }
            _ => self.add(at).await,
        }
    }

    async fn add(&mut self, at: usize) -> Result<(), sqlx::Error> {
        let (item, quantity) = (chance(CATALOGUE.len()), 1 + chance(3) as i64);
        self.carts[at].lines.push((item, quantity));
        let (sku, title, price) = CATALOGUE[item];
        self.write(at, "ItemAdded", true, json!({ "sku": sku, "title": title, "quantity": quantity, "price": price }))
            .await
    }

    async fn remove(&mut self, at: usize) -> Result<(), sqlx::Error> {
        let which = chance(self.carts[at].lines.len());
        let (item, _) = self.carts[at].lines.remove(which);
        self.write(at, "ItemRemoved", true, json!({ "sku": CATALOGUE[item].0 })).await
    }

    /// An internal event and a public one: what the risk engine thinks is nobody's business.
    async fn check_out(&mut self, at: usize) -> Result<(), sqlx::Error> {
        self.write(at, "FraudScoreComputed", false, json!({ "score": chance(100) as f64 / 100.0 })).await?;
        let (total, lines) = (self.carts[at].total(), self.carts[at].lines());
        let data = json!({ "total": total, "currency": "EUR", "lines": lines, "shipTo": { "country": "DE" } });
        let result = self.write(at, "CheckedOut", true, data).await;
        self.carts.remove(at);
        result
    }

    async fn write(&mut self, at: usize, r#type: &str, outbox: bool, data: Value) -> Result<(), sqlx::Error> {
        let now = Micros(self.clock.now_micros());
        let cart = &mut self.carts[at];
        cart.version += 1;
        sqlx::query(
            "insert into tb_cart_event (event_id, event_type, cart_id, version, occurred_at, payload, headers, outbox)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(r#type)
        .bind(&cart.id)
        .bind(cart.version)
        .bind(now.to_text())
        .bind(data.to_string())
        .bind(json!({ "correlationId": cart.id, "service": "cart" }).to_string())
        .bind(outbox)
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

fn chance(below: usize) -> usize {
    (u64::from_le_bytes(random_bytes()) % below.max(1) as u64) as usize
}
