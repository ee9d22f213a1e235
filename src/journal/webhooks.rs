//! Who wants what, where to, sealed with which key, and how far it got: the rows of `webhooks`.

use super::db::{Conn, execute, select};
use super::{Error, Journal};

/// What an owner registered, and its progress.
#[derive(Clone, sqlx::FromRow)]
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
    pub last_success_at: Option<i64>,
}

/// What is stored. That a webhook is failing is told by `failing_since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Waits for the receiver's consent.
    Pending,
    Active,
    Paused,
    Disabled,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

impl TryFrom<String> for Status {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        [Self::Pending, Self::Active, Self::Paused, Self::Disabled]
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| format!("`{text}` is no status of a webhook"))
    }
}

/// An edit by the owner.
pub enum Change {
    Create(Box<WebhookRow>),
    /// All but its progress, and only if nothing but progress was written since `read_at`, the `updated_at` that was
    /// read: what was decided of one URL must not hold for another. Else [`Error::Stale`].
    Update {
        row: Box<WebhookRow>,
        read_at: i64,
    },
    /// With its deliveries and its log; if it was not edited since it was read.
    Delete {
        id: String,
        revision: i64,
    },
}

impl Journal {
    /// Durable when it returns.
    ///
    /// # Errors
    /// [`Error::Stale`] if the webhook changed meanwhile, or the database.
    pub async fn change_webhook(&self, change: Change) -> Result<(), Error> {
        self.inner.writer.webhook(change).await
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

pub(super) async fn apply(conn: &mut Conn, change: &Change) -> Result<(), Error> {
    let changed = match change {
        Change::Create(row) => insert(conn, row).await?,
        Change::Update { row, read_at } => update(conn, row, *read_at).await?,
        Change::Delete { id, revision } => delete(conn, id, *revision).await?,
    };
    if changed == 0 { Err(Error::Stale) } else { Ok(()) }
}

async fn insert(conn: &mut Conn, row: &WebhookRow) -> Result<u64, Error> {
    let sql = "insert into webhooks (id, owner, revision, url, definition, secrets, status, status_reason, cursor, \
               created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let WebhookRow { id, owner, revision, url, definition, secrets, status_reason, cursor, .. } = row;
    let (status, created, updated) = (row.status.as_str(), row.created_at, row.updated_at);
    Ok(execute!(
        conn,
        sql,
        id,
        owner,
        revision,
        url,
        definition,
        secrets,
        status,
        status_reason,
        cursor,
        created,
        updated
    ))
}

async fn update(conn: &mut Conn, row: &WebhookRow, read_at: i64) -> Result<u64, Error> {
    // The cursor is not in it: a dispatcher may be moving it at this moment. And it is a new start: what failed before
    // does not count against it.
    let sql = "update webhooks set revision = $2, url = $3, definition = $4, secrets = $5, status = $6, \
               status_reason = $7, updated_at = $8, failing_since = null where id = $1 and updated_at = $9";
    let WebhookRow { id, revision, url, definition, secrets, status_reason, updated_at, .. } = row;
    let status = row.status.as_str();
    Ok(execute!(conn, sql, id, revision, url, definition, secrets, status, status_reason, updated_at, read_at))
}

async fn delete(conn: &mut Conn, id: &str, revision: i64) -> Result<u64, Error> {
    let deleted = execute!(conn, "delete from webhooks where id = $1 and revision = $2", id, revision);
    if deleted > 0 {
        execute!(conn, "delete from deliveries where webhook = $1", id);
        execute!(conn, "delete from attempts where webhook = $1", id);
    }
    Ok(deleted)
}
