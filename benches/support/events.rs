//! Events to measure with.

use postern::event::{Event, Micros};
use postern::journal::Arrival;
use postern::runtime::{random_bytes, random_hex};

/// Events of made-up carts with random ids, each with so many bytes of data.
pub fn arrivals(count: usize, carts: usize, data_bytes: usize) -> Vec<Arrival> {
    (0..count).map(|n| arrival(n, carts, data_bytes)).collect()
}

fn arrival(n: usize, carts: usize, data_bytes: usize) -> Arrival {
    let id = uuid::Builder::from_random_bytes(random_bytes()).into_uuid().to_string();
    let start = format!("{{\"sku\":\"TEA-{n}\",\"quantity\":{},\"note\":\"", n % 9 + 1);
    let note = random_hex(data_bytes.saturating_sub(start.len() + 2).div_ceil(2));
    let event = Event {
        id,
        source: "shop".to_owned(),
        r#type: if n.is_multiple_of(5) { "CheckedOut" } else { "ItemAdded" }.to_owned(),
        aggregate_type: "Cart".to_owned(),
        aggregate_id: format!("cart-{}", n % carts),
        aggregate_version: i64::try_from(n / carts + 1).ok(),
        occurred_at: Micros(1_767_225_600_000_000 + i64::try_from(n).unwrap_or(0) * 1_000),
        data: format!("{start}{note}\"}}"),
        metadata: None,
    };
    let summary = format!("{} {}", event.r#type, event.aggregate_id);
    Arrival { event, sequence: None, summary, mismatch: None, late: false }
}
