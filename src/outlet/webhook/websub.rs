//! `POST /websub`: a hub (W3C WebSub) for the feeds. A subscription is a webhook with a lease, whose calls carry the feed's
//! document of the new entries.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::IntoResponse as _;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use url::{Url, form_urlencoded};

use super::attempt::send;
use super::definition::{Batch, Definition, Format, Ordering};
use super::rest::{Shown, WEBHOOKS_MAX, check_address};
use super::secrets::Secrets;
use super::signature::{self, Profile};
use super::{Shared, attributes, definition_of};
use crate::event::{Entry, Micros};
use crate::filter::Filter;
use crate::journal::Error;
use crate::journal::webhooks::{Change, Edit, Notice, Status, WebhookRow};
use crate::runtime::{hex, random_hex, sha256};
use crate::web::auth::{Client, Scope};
use crate::web::problem::{Kind, Problem};

/// Entries of one call.
const ENTRIES_MAX: usize = 100;
/// Seconds. Nothing is for ever.
const LEASE: std::ops::RangeInclusive<i64> = 60..=30 * 86_400;
const LEASE_DEFAULT: i64 = 10 * 86_400;
const SECRET_BYTES_MAX: usize = 199;
/// Subscribers that are being asked at a time.
pub(super) const ASKED_AT_ONCE: usize = 32;

/// What a subscription is to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subscription {
    pub(super) topic: String,
    /// RFC 3339. It ends then unless it is renewed.
    pub(super) lease_until: String,
}

/// Whether the webhook is a subscription whose lease has ended.
pub(super) fn is_over(row: &WebhookRow, now: i64) -> bool {
    // Most are none: reading all definitions would cost more than looking for the word.
    row.definition.contains("\"websub\"")
        && definition_of(row).websub.is_some_and(|subscription| {
            Micros::parse_rfc3339(&subscription.lease_until).is_none_or(|until| until.0 <= now)
        })
}

/// Writes the feed's document of entries, which are given in the order of the journal.
type Document = Arc<dyn Fn(&[Entry]) -> Bytes + Send + Sync>;

/// A feed that can be subscribed to.
#[derive(Clone)]
pub struct Topic {
    pub filter: Filter,
    pub content_type: &'static str,
    pub document: Document,
}

/// What a subscriber asks for.
struct Request {
    is_subscribe: bool,
    topic: String,
    callback: Url,
    lease: i64,
    secret: Option<String>,
}

impl Request {
    fn parse(shared: &Shared, body: &[u8]) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(Kind::BadRequest, detail);
        let (mut mode, mut topic, mut callback, mut lease, mut secret) = Default::default();
        // Others are ignored, as the specification asks for.
        for (name, value) in form_urlencoded::parse(body) {
            let field: &mut Option<String> = match name.as_ref() {
                "hub.mode" => &mut mode,
                "hub.topic" => &mut topic,
                "hub.callback" => &mut callback,
                "hub.lease_seconds" => &mut lease,
                "hub.secret" => &mut secret,
                _ => continue,
            };
            *field = Some(value.into_owned());
        }
        let is_subscribe = match mode.as_deref() {
            Some("subscribe") => true,
            Some("unsubscribe") => false,
            _ => return Err(bad("`hub.mode` must be subscribe or unsubscribe".to_owned())),
        };
        let topic = topic.filter(|topic: &String| (shared.topic)(topic).is_some()).ok_or_else(|| {
            bad(format!("`hub.topic` must be the URL of a feed here, such as {}/feeds/all.atom", shared.public_url))
        })?;
        let callback = attributes::url(&callback.unwrap_or_default().into());
        let callback =
            callback.map_err(|_| bad("`hub.callback` must be an absolute URL without fragment".to_owned()))?;
        let lease = match lease.filter(|text| !text.is_empty()).map(|text| text.parse::<i64>()) {
            None => LEASE_DEFAULT,
            Some(Ok(seconds)) if seconds > 0 => seconds.clamp(*LEASE.start(), *LEASE.end()),
            Some(_) => return Err(bad("`hub.lease_seconds` must be a positive whole number".to_owned())),
        };
        let secret = secret.filter(|text| !text.is_empty());
        if secret.as_ref().is_some_and(|text| text.len() > SECRET_BYTES_MAX) {
            return Err(bad("`hub.secret` must have less than 200 bytes".to_owned()));
        }
        Ok(Self { is_subscribe, topic, callback, lease, secret })
    }
}

pub(super) async fn hub(
    State(shared): State<Arc<Shared>>,
    Extension(client): Extension<Arc<Client>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Shown {
    client.must(&Scope::Read)?;
    client.must_own()?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        let detail = "send `Content-Type: application/x-www-form-urlencoded` with hub.mode, hub.topic and hub.callback";
        return Err(Problem::new(Kind::UnsupportedMediaType, detail));
    }
    let body = body.map_err(|_| Problem::new(Kind::TooLarge, "a subscription may have 64 kB at most"))?;
    let request = Request::parse(&shared, &body)?;
    check_address(&shared, "hub.callback", &request.callback).await?;
    let Ok(permit) = Arc::clone(&shared.asking).try_acquire_owned() else {
        let problem = Problem::new(Kind::TooMany, "many subscribers are being asked at the moment; try again");
        return Err(problem.with_header(header::RETRY_AFTER, "5"));
    };
    let tasks = shared.tasks.clone();
    tasks.spawn("websub verification", async move {
        let _permit = permit;
        let stopping = shared.tasks.stopping();
        tokio::select! {
            done = verify(&shared, &client.name, request) => if let Err(cause) = done {
                warn!(%cause, "can't store a subscription; the subscriber has to ask again");
            },
            () = stopping.cancelled() => {}
        }
    });
    Ok((StatusCode::ACCEPTED, "the callback is asked next\n").into_response())
}

/// Verification of intent (section 5.3): only who answers the challenge subscribes, renews or leaves.
async fn verify(shared: &Shared, owner: &str, request: Request) -> Result<(), Error> {
    let known = find(shared, owner, &request).await?;
    if !request.is_subscribe && known.is_none() {
        return Ok(());
    }
    let challenge = random_hex(24);
    let mut asked = request.callback.clone();
    let mode = if request.is_subscribe { "subscribe" } else { "unsubscribe" };
    asked
        .query_pairs_mut()
        .append_pair("hub.mode", mode)
        .append_pair("hub.topic", &request.topic)
        .append_pair("hub.challenge", &challenge)
        .append_pair("hub.lease_seconds", &request.lease.to_string());
    let (outcome, _) = send(shared, reqwest::Request::new(Method::GET, asked)).await;
    let is_echo = outcome.error.is_none() && outcome.answer.as_deref() == Some(challenge.as_str());
    if !is_echo {
        let callback = request.callback.authority();
        info!("{callback} did not confirm that it wants to {mode} {}; nothing is changed", request.topic);
        return Ok(());
    }
    match (known, request.is_subscribe) {
        (Some(row), true) => renew(shared, row, &request).await,
        (None, true) => subscribe(shared, owner, &request).await,
        (Some(row), false) => end(shared, &row).await,
        (None, false) => Ok(()),
    }
}

async fn find(shared: &Shared, owner: &str, request: &Request) -> Result<Option<WebhookRow>, Error> {
    shared.journal.webhook_by_key(owner, &key(request)).await
}

/// One subscription of a callback to a topic, however often and at the same time it is asked for.
fn key(request: &Request) -> String {
    let parts = format!("{}\n{}", request.topic, request.callback);
    format!("websub {}", hex(&sha256(&parts)))
}

fn definition(shared: &Shared, request: &Request) -> Definition {
    let until = Micros(shared.clock.now_micros()).plus(request.lease * 1_000_000);
    Definition {
        format: Format::Websub,
        signature: if request.secret.is_some() { vec![Profile::Websub] } else { Vec::new() },
        ordering: Ordering::Strict,
        batch: Some(Batch { max: ENTRIES_MAX, wait: "0s".to_owned() }),
        filter: (shared.topic)(&request.topic).map(|topic| topic.filter).unwrap_or_default(),
        websub: Some(Subscription { topic: request.topic.clone(), lease_until: until.to_text() }),
        ..Definition::default()
    }
}

fn secrets(request: &Request) -> Secrets {
    let mut secrets = Secrets::default();
    secrets.set(request.secret.clone().unwrap_or_else(signature::new_secret), &[]);
    secrets
}

async fn subscribe(shared: &Shared, owner: &str, request: &Request) -> Result<(), Error> {
    if shared.journal.count_webhooks(owner).await? >= WEBHOOKS_MAX {
        warn!("client `{owner}` has {WEBHOOKS_MAX} webhooks, a subscription is refused");
        return Ok(());
    }
    let (id, now) = (uuid::Uuid::now_v7().to_string(), shared.clock.now_micros());
    let row = WebhookRow {
        owner: owner.to_owned(),
        revision: 1,
        url: request.callback.to_string(),
        definition: definition(shared, request).to_json(),
        secrets: secrets(request).seal(&shared.sealer, &id),
        status: Status::Active,
        cursor: shared.journal.head().await?.position,
        created_at: now,
        updated_at: now,
        consented_at: Some(now),
        idempotency_key: Some(key(request)),
        id,
        ..WebhookRow::default()
    };
    let notices = vec![Notice::new(&row, "postern.webhook.created", Some(format!("subscribed to {}", request.topic)))];
    shared.journal.change_webhook(Change { edits: vec![Edit::Create(Box::new(row.clone()))], notices }).await?;
    shared.note_change(&row.id, true);
    Ok(())
}

async fn renew(shared: &Shared, row: WebhookRow, request: &Request) -> Result<(), Error> {
    let row = WebhookRow {
        revision: row.revision + 1,
        definition: definition(shared, request).to_json(),
        secrets: secrets(request).seal(&shared.sealer, &row.id),
        // Who asks again wants it again.
        status: Status::Active,
        status_reason: None,
        ..row
    };
    let row = shared.edit(row, true, None).await?;
    shared.changed(&row.id);
    Ok(())
}

/// It was left, or its lease is over.
pub(super) async fn end(shared: &Shared, row: &WebhookRow) -> Result<(), Error> {
    let edits = vec![Edit::Delete { id: row.id.clone(), revision: row.revision }];
    let notices = vec![Notice::new(row, "postern.webhook.deleted", Some("its subscription has ended".to_owned()))];
    match shared.journal.change_webhook(Change { edits, notices }).await {
        // Renewed, or left, at the same time.
        Ok(()) | Err(Error::Stale) => {}
        Err(cause) => return Err(cause),
    }
    shared.changed(&row.id);
    Ok(())
}
