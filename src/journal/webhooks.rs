//! Who wants what, where to, sealed with which key, and how far it got: the rows of `webhooks`.

use super::db::{Conn, with_conn, with_pool};
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
    /// Only if nothing but progress was written since `read_at`, the `updated_at` that was read; else [`Error::Stale`].
    Replace {
        row: Box<WebhookRow>,
        read_at: i64,
    },
    /// Under the same condition: what was decided of one URL must not hold for another.
    SetStatus {
        id: String,
        status: Status,
        reason: Option<String>,
        now: i64,
        read_at: i64,
    },
    /// With its deliveries and its log.
    Delete {
        id: String,
        revision: i64,
    },
}

macro_rules! select {
    ($condition:literal) => {
        concat!(
            "select id, owner, revision, url, definition, secrets, status, status_reason, cursor, created_at, ",
            "updated_at, failing_since, last_success_at from webhooks where ",
            $condition
        )
    };
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
        let sql = select!("id = $1");
        // PostgreSQL refuses to look for a NUL.
        let id = id.replace('\0', "");
        Ok(with_pool!(self.db(), pool => sqlx::query_as(sql).bind(id).fetch_optional(pool).await?))
    }

    /// Webhooks by id, after one id; of one owner, or of all.
    ///
    /// # Errors
    /// The database.
    pub async fn webhooks(&self, owner: Option<&str>, after: &str, limit: i64) -> Result<Vec<WebhookRow>, Error> {
        let sql = select!("id > $1 and ($2 = '' or owner = $2) order by id limit $3");
        let (owner, after) = (owner.unwrap_or_default(), after.replace('\0', ""));
        Ok(
            with_pool!(self.db(), pool => sqlx::query_as(sql).bind(after).bind(owner).bind(limit).fetch_all(pool).await?),
        )
    }
}

pub(super) async fn apply(conn: &mut Conn, change: &Change) -> Result<(), Error> {
    match change {
        Change::Create(row) => insert(conn, row).await,
        Change::Replace { row, read_at } => replace(conn, row, *read_at).await,
        Change::SetStatus { id, status, reason, now, read_at } => {
            // A new start: what failed before does not count against it.
            let sql = "update webhooks set status = $2, status_reason = $3, updated_at = $4, failing_since = null \
                       where id = $1 and updated_at = $5";
            let changed = with_conn!(conn, c => sqlx::query(sql).bind(id.as_str()).bind(status.as_str())
                .bind(reason.as_deref()).bind(*now).bind(*read_at).execute(c).await?.rows_affected());
            if changed == 0 { Err(Error::Stale) } else { Ok(()) }
        }
        Change::Delete { id, revision } => delete(conn, id, *revision).await,
    }
}

async fn insert(conn: &mut Conn, row: &WebhookRow) -> Result<(), Error> {
    let sql = "insert into webhooks (id, owner, revision, url, definition, secrets, status, status_reason, cursor, \
               created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    with_conn!(conn, c => sqlx::query(sql)
        .bind(row.id.as_str())
        .bind(row.owner.as_str())
        .bind(row.revision)
        .bind(row.url.as_str())
        .bind(row.definition.as_str())
        .bind(row.secrets.as_slice())
        .bind(row.status.as_str())
        .bind(row.status_reason.as_deref())
        .bind(row.cursor)
        .bind(row.created_at)
        .bind(row.updated_at)
        .execute(c).await?.rows_affected());
    Ok(())
}

async fn replace(conn: &mut Conn, row: &WebhookRow, read_at: i64) -> Result<(), Error> {
    // The cursor is not in it: a dispatcher may be moving it at this moment.
    let sql = "update webhooks set revision = $2, url = $3, definition = $4, secrets = $5, status = $6, \
               status_reason = $7, updated_at = $8 where id = $1 and revision = $2 - 1 and updated_at = $9";
    let changed = with_conn!(conn, c => sqlx::query(sql)
        .bind(row.id.as_str())
        .bind(row.revision)
        .bind(row.url.as_str())
        .bind(row.definition.as_str())
        .bind(row.secrets.as_slice())
        .bind(row.status.as_str())
        .bind(row.status_reason.as_deref())
        .bind(row.updated_at)
        .bind(read_at)
        .execute(c).await?.rows_affected());
    if changed == 0 { Err(Error::Stale) } else { Ok(()) }
}

async fn delete(conn: &mut Conn, id: &str, revision: i64) -> Result<(), Error> {
    let sql = "delete from webhooks where id = $1 and revision = $2";
    let deleted = with_conn!(conn, c => sqlx::query(sql).bind(id).bind(revision).execute(c).await?.rows_affected());
    if deleted == 0 {
        return Err(Error::Stale);
    }
    for sql in ["delete from deliveries where webhook = $1", "delete from attempts where webhook = $1"] {
        with_conn!(conn, c => sqlx::query(sql).bind(id).execute(c).await?.rows_affected());
    }
    Ok(())
}
