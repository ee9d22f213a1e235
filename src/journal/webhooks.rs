//! Who wants what, where to, sealed with which key, and how far it got: the rows of `webhooks`.

use serde_json::json;
use sqlx::AssertSqlSafe;

use super::append::{Record, apply_records, new_id};
use super::batch::numbered;
use super::db::{Conn, execute, select, with_conn};
use super::leases::Lease;
use super::writer::{HeadRow, Write};
use super::{Error, Journal, inbox};
use crate::filter::OWN_SOURCE;

/// The aggregate type of what is journaled about webhooks.
pub const AGGREGATE_TYPE: &str = "Webhook";

/// What an owner registered, and its progress.
#[derive(Clone, Default, sqlx::FromRow)]
pub struct WebhookRow {
    pub id: String,
    pub owner: String,
    /// Counts edits; progress and status do not change it.
    pub revision: i64,
    pub url: String,
    /// What the owner wrote beside URL and secret, as JSON.
    pub definition: String,
    /// Sealed; bound to the id of this row.
    pub secrets: Vec<u8>,
    #[sqlx(try_from = "String")]
    pub status: Status,
    pub status_reason: Option<String>,
    pub cursor: i64,
    pub created_at: i64,
    pub updated_at: i64,
    pub failing_since: Option<i64>,
    /// Failed calls since then.
    pub failures: i64,
    pub last_success_at: Option<i64>,
    /// When the receiver at this URL agreed.
    pub consented_at: Option<i64>,
    /// Calls a minute that it allows.
    pub allowed_rate: Option<i64>,
    /// SHA-256, hex, of the key in the callback address that the receiver was given.
    pub callback_hash: Option<String>,
    pub idempotency_key: Option<String>,
    pub idempotency_hash: Option<String>,
}

/// What is stored. That a webhook is failing is told by `failing_since`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Waits for the receiver's consent.
    #[default]
    Pending,
    Active,
    Paused,
    Disabled,
    /// Its `query` does not fit the catalogue any more.
    SelectionInvalid,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
            Self::SelectionInvalid => "selection_invalid",
        }
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        [Self::Pending, Self::Active, Self::Paused, Self::Disabled, Self::SelectionInvalid]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no status of a webhook"))
    }
}

/// Webhooks of one owner in one status.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StatusCount {
    pub owner: String,
    #[sqlx(try_from = "String")]
    pub status: Status,
    pub count: i64,
    /// Those with a failure since their last success.
    pub failing: i64,
}

/// What happened to a webhook: journaled in the transaction in which it does, as `postern.webhook.…`.
#[derive(Clone, Debug)]
pub struct Notice {
    id: String,
    pub webhook: String,
    pub owner: String,
    pub r#type: &'static str,
    pub reason: Option<String>,
}

impl Notice {
    pub fn new(row: &WebhookRow, r#type: &'static str, reason: Option<String>) -> Self {
        Self { id: new_id(), webhook: row.id.clone(), owner: row.owner.clone(), r#type, reason }
    }

    fn record(&self) -> Record {
        let Self { id, webhook, owner, r#type, reason } = self;
        let what = r#type.rsplit('.').next().unwrap_or_default();
        Record {
            id: id.clone(),
            source: OWN_SOURCE.to_owned(),
            r#type,
            aggregate_type: AGGREGATE_TYPE.to_owned(),
            aggregate_id: webhook.clone(),
            data: json!({ "webhook": webhook, "owner": owner, "reason": reason }),
            summary: match reason {
                Some(reason) => format!("webhook {webhook} {what}: {reason}"),
                None => format!("webhook {webhook} {what}"),
            },
        }
    }
}

pub(super) async fn notify(conn: &mut Conn, head: &mut HeadRow, notices: &[Notice]) -> Result<(), Error> {
    // A checkpoint may be written again, as nobody knows whether it was.
    let known = inbox::read(conn, &notices.iter().map(|notice| notice.id.as_str()).collect::<Vec<_>>()).await?;
    let new = notices.iter().filter(|notice| known.iter().all(|(id, _)| *id != notice.id));
    apply_records(conn, head, new.map(Notice::record)).await.map(|_| ())
}

/// What an edit does to the rows.
pub enum Edit {
    Create(Box<WebhookRow>),
    /// All but its progress, and only if nothing but progress was written since `read_at`, the `updated_at` that was
    /// read: what was decided of one URL must not hold for another. Else [`Error::Stale`].
    Update {
        row: Box<WebhookRow>,
        read_at: i64,
        /// What failed before does not count against it any more.
        is_new_start: bool,
    },
    /// With its deliveries, replays and its log; if it was not edited since it was read.
    Delete {
        id: String,
        revision: i64,
    },
}

/// Edits of one request, all or none, and what is journaled about them.
#[derive(Default)]
pub struct Change {
    pub edits: Vec<Edit>,
    pub notices: Vec<Notice>,
}

impl Change {
    /// The webhooks that it is about.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.edits.iter().map(|edit| match edit {
            Edit::Create(row) | Edit::Update { row, .. } => row.id.as_str(),
            Edit::Delete { id, .. } => id,
        })
    }
}

impl Journal {
    /// Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Stale`] if the webhook changed meanwhile, or the database.
    pub async fn change_webhook(&self, change: Change) -> Result<(), Error> {
        self.inner.writer.webhook(change).await
    }

    /// The webhook that was registered under a key of its owner.
    ///
    /// # Errors
    /// The database.
    pub async fn webhook_by_key(&self, owner: &str, key: &str) -> Result<Option<WebhookRow>, Error> {
        let sql = "select * from webhooks where owner = $1 and idempotency_key = $2";
        Ok(select!(self.db(), query_as.fetch_optional, sql, owner, key))
    }

    /// How many webhooks an owner has.
    ///
    /// # Errors
    /// The database.
    pub async fn count_webhooks(&self, owner: &str) -> Result<i64, Error> {
        Ok(select!(self.db(), query_scalar.fetch_one, "select count(*) from webhooks where owner = $1", owner))
    }

    /// How many webhooks each owner has in each status.
    ///
    /// # Errors
    /// The database.
    pub async fn count_webhooks_by_status(&self) -> Result<Vec<StatusCount>, Error> {
        let sql = "select owner, status, count(*) as count, count(failing_since) as failing from webhooks \
                   group by owner, status";
        Ok(select!(self.db(), query_as.fetch_all, sql))
    }

    /// Moves the cursors of webhooks that had nothing to deliver up to a position, in one go.
    ///
    /// # Errors
    /// The database; nothing was moved then.
    pub async fn pass_webhooks(&self, ids: Vec<String>, position: i64, leases: Vec<Lease>) -> Result<(), Error> {
        self.inner.writer.write(Write::Pass { ids, position, leases }).await.map(|_| ())
    }

    /// # Errors
    /// The database.
    pub async fn webhook(&self, id: &str) -> Result<Option<WebhookRow>, Error> {
        let sql = "select * from webhooks where id = $1";
        // PostgreSQL refuses to look for a NUL.
        let id = id.replace('\0', "");
        Ok(select!(self.db(), query_as.fetch_optional, sql, id))
    }

    /// Webhooks by id, after one id; of one owner, or of all.
    ///
    /// # Errors
    /// The database.
    pub async fn webhooks(&self, owner: Option<&str>, after: &str, limit: i64) -> Result<Vec<WebhookRow>, Error> {
        let sql = "select * from webhooks where id > $1 and ($2 = '' or owner = $2) order by id limit $3";
        let (owner, after) = (owner.unwrap_or_default(), after.replace('\0', ""));
        Ok(select!(self.db(), query_as.fetch_all, sql, after, owner, limit))
    }
}

pub(super) async fn apply(conn: &mut Conn, head: Option<&mut HeadRow>, change: &Change) -> Result<(), Error> {
    for edit in &change.edits {
        let done = match edit {
            Edit::Create(row) => insert(conn, row).await?,
            Edit::Update { row, read_at, is_new_start } => update(conn, row, *read_at, *is_new_start).await?,
            Edit::Delete { id, revision } => delete(conn, id, *revision).await?,
        };
        if done == 0 {
            return Err(Error::Stale);
        }
    }
    match head {
        Some(head) => notify(conn, head, &change.notices).await,
        None => Ok(()),
    }
}

/// Ids in one statement.
const IDS_AT_ONCE: usize = 500;

pub(super) async fn pass(conn: &mut Conn, ids: &[String], position: i64) -> Result<(), Error> {
    for ids in ids.chunks(IDS_AT_ONCE) {
        let sql = format!(
            "update webhooks set cursor = $1 where cursor < $1 and status = 'active' and id in ({})",
            numbered(2, ids.len())
        );
        with_conn!(&mut *conn, c => {
            let query = sqlx::query(AssertSqlSafe(sql)).bind(position);
            ids.iter().fold(query, |query, id| query.bind(id.as_str())).execute(c).await?.rows_affected()
        });
    }
    Ok(())
}

async fn insert(conn: &mut Conn, row: &WebhookRow) -> Result<u64, Error> {
    let sql = "insert into webhooks (id, owner, revision, url, definition, secrets, status, status_reason, cursor, \
               created_at, updated_at, consented_at, allowed_rate, callback_hash, idempotency_key, idempotency_hash) \
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";
    Ok(execute!(
        conn,
        sql,
        row.id.as_str(),
        row.owner.as_str(),
        row.revision,
        row.url.as_str(),
        row.definition.as_str(),
        row.secrets.as_slice(),
        row.status.as_str(),
        row.status_reason.as_deref(),
        row.cursor,
        row.created_at,
        row.updated_at,
        row.consented_at,
        row.allowed_rate,
        row.callback_hash.as_deref(),
        row.idempotency_key.as_deref(),
        row.idempotency_hash.as_deref()
    ))
}

async fn update(conn: &mut Conn, row: &WebhookRow, read_at: i64, is_new_start: bool) -> Result<u64, Error> {
    // The cursor is not in it: a dispatch may be moving it at this moment.
    let sql = "update webhooks set revision = $2, url = $3, definition = $4, secrets = $5, status = $6, \
               status_reason = $7, updated_at = $8, consented_at = $10, allowed_rate = $11, callback_hash = $12, \
               failing_since = case when $13 then null else failing_since end, \
               failures = case when $13 then 0 else failures end where id = $1 and updated_at = $9";
    Ok(execute!(
        conn,
        sql,
        row.id.as_str(),
        row.revision,
        row.url.as_str(),
        row.definition.as_str(),
        row.secrets.as_slice(),
        row.status.as_str(),
        row.status_reason.as_deref(),
        row.updated_at,
        read_at,
        row.consented_at,
        row.allowed_rate,
        row.callback_hash.as_deref(),
        is_new_start
    ))
}

async fn delete(conn: &mut Conn, id: &str, revision: i64) -> Result<u64, Error> {
    let deleted = execute!(conn, "delete from webhooks where id = $1 and revision = $2", id, revision);
    if deleted > 0 {
        for table in ["deliveries", "replays", "attempts"] {
            execute!(conn, AssertSqlSafe(format!("delete from {table} where webhook = $1")), id);
        }
    }
    Ok(deleted)
}
