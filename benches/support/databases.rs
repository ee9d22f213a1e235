//! Databases of PostgreSQL to measure on.

use anyhow::Context as _;
use postern::runtime::random_hex;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// Databases of PostgreSQL, made for one run.
pub struct Databases<const N: usize> {
    pub urls: [String; N],
    names: [String; N],
    admin: PgConnection,
}

impl<const N: usize> Databases<N> {
    /// # Errors
    /// No server, or one where no database may be created.
    pub async fn create(sides: [&str; N]) -> anyhow::Result<Self> {
        let server = std::env::var("POSTERN_TEST_POSTGRES_URL")
            .unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned());
        let hint = "no PostgreSQL: `docker compose up -d postgres` or scripts/test starts one, or set \
                    POSTERN_TEST_POSTGRES_URL to one where databases may be created";
        let mut admin = PgConnection::connect(&server).await.context(hint)?;
        let names = sides.map(|side| format!("postern_bench_{side}_{}", random_hex(4)));
        for name in &names {
            admin.execute(AssertSqlSafe(format!("create database {name}"))).await.context(hint)?;
        }
        let mut url = url::Url::parse(&server)?;
        let urls = names.clone().map(|name| {
            url.set_path(&name);
            url.to_string()
        });
        Ok(Self { urls, names, admin })
    }

    /// # Errors
    /// The server.
    pub async fn drop(mut self) -> anyhow::Result<()> {
        for name in &self.names {
            self.admin.execute(AssertSqlSafe(format!("drop database {name} with (force)"))).await?;
        }
        Ok(())
    }
}
