//! An entry of another Postern's feed is a summary; its detail is the event, whose data is taken byte for byte.

use reqwest::header;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use super::client::{Client, JSON, TIMEOUT};
use super::document::Item;
use crate::catalogue::Catalogue;
use crate::event::{DATA_BYTES_MAX, Event, Micros, public_id};
use crate::journal::redacted;
use crate::source::Error;
use crate::source::mapping::{Mapped, fault};

/// Data and metadata, and the rest.
const DETAIL_BYTES_MAX: usize = 2 * DATA_BYTES_MAX + 64 * 1024;

/// As [`crate::event::EventJson`] writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail<'a> {
    id: String,
    r#type: String,
    aggregate_type: String,
    aggregate_id: String,
    aggregate_version: Option<i64>,
    occurred_at: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// The event that an entry of `page` announces. One that its feed does not show any more is quarantined.
pub(super) async fn whole(
    client: &Client,
    source: &str,
    catalogue: &Catalogue,
    page: &Url,
    item: &Item,
) -> Result<Mapped, Error> {
    let link = item.link.as_deref().ok_or_else(|| client.error("an entry has no link to its event"))?;
    let url = client.link(page, link)?;
    let answer = client.get(&url, &[(header::ACCEPT, JSON)], DETAIL_BYTES_MAX, TIMEOUT).await?;
    let shown = redacted(url.as_str());
    if matches!(answer.status, 404 | 410) {
        let gone = fault("gone", format!("the feed lists it, but {shown} answers {}", answer.status));
        return Ok(item.outcome(Err(gone), catalogue));
    }
    let answer = client.fine(answer)?;
    let detail: Detail<'_> = serde_json::from_slice(&answer.body)
        .map_err(|cause| client.error(format!("{shown} is not the JSON of an event: {cause}")))?;
    let time = Micros::parse_rfc3339(&detail.occurred_at);
    let time = time.ok_or_else(|| client.error(format!("{shown}: `occurredAt` is no time")))?;
    let event = Event {
        id: public_id(source, &detail.id),
        source: source.to_owned(),
        r#type: detail.r#type,
        aggregate_type: detail.aggregate_type,
        aggregate_id: detail.aggregate_id,
        aggregate_version: detail.aggregate_version,
        occurred_at: time,
        data: detail.data.get().to_owned(),
        metadata: detail.metadata.map(|metadata| metadata.get().to_owned()),
    };
    Ok(item.outcome(Ok(event), catalogue))
}
