//! What all gateways on one journal must agree on, as links and ids are made of it: kept with the journal, and a difference is
//! refused.

use super::db::{Db, answered, select, with_pool};
use super::{Error, Journal};

/// Something that is agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreed {
    /// The start of every link.
    PublicUrl,
    /// Part of every Atom id.
    Authority,
}

impl std::fmt::Display for Agreed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Agreed {
    pub fn parse(name: &str) -> Option<Self> {
        [Self::PublicUrl, Self::Authority].into_iter().find(|agreed| agreed.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::PublicUrl => "public_url",
            Self::Authority => "authority",
        }
    }
}

impl Journal {
    /// Checks what this process is told against what was agreed on; the first one to come decides.
    ///
    /// # Errors
    /// [`Error::Disagrees`], or the database.
    pub async fn must_agree(&self, what: Agreed, value: &str) -> Result<(), Error> {
        let sql = "insert into settings (name, value) values ($1, $2) on conflict do nothing";
        self.insert(sql, what.name(), value).await?;
        let sql = "select value from settings where name = $1";
        let agreed: String = select!(self.db(), query_scalar.fetch_one, sql, what.name());
        match agreed == value {
            true => Ok(()),
            false => Err(Error::Disagrees { what, agreed, told: value.to_owned() }),
        }
    }

    /// Changes what is agreed on, for the next starts.
    ///
    /// # Errors
    /// The database.
    pub async fn agree(&self, what: Agreed, value: &str) -> Result<(), Error> {
        self.set(what.name(), value).await
    }

    /// Changes a setting.
    pub(super) async fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let sql = "insert into settings (name, value) values ($1, $2) \
                   on conflict (name) do update set value = excluded.value";
        self.insert(sql, name, value).await
    }

    async fn insert(&self, sql: &'static str, name: &str, value: &str) -> Result<(), Error> {
        with_pool!(self.db(), pool => answered(sqlx::query(sql).bind(name).bind(value).execute(pool)).await?.rows_affected());
        Ok(())
    }

    /// The journal database's clock, in microseconds since 1970.
    ///
    /// # Errors
    /// The database.
    pub async fn now(&self) -> Result<i64, Error> {
        let sql = match self.db() {
            Db::Sqlite(_) => "select cast(unixepoch('subsec') * 1000000 as integer)",
            Db::Postgres(_) => "select (extract(epoch from clock_timestamp()) * 1000000)::bigint",
        };
        Ok(select!(self.db(), query_scalar.fetch_one, sql))
    }

    /// The last change of the schema that was made.
    ///
    /// # Errors
    /// The database.
    pub async fn schema_version(&self) -> Result<i64, Error> {
        let sql = "select max(version) from _sqlx_migrations";
        Ok(select!(self.db(), query_scalar.fetch_one, sql))
    }
}
