//! A database of one test's own on the real servers, made for it and dropped after it.

use sqlx::{Connection as _, Executor as _, MySqlConnection, PgConnection};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
    Mysql,
}

pub struct Database {
    pub url: String,
    engine: Engine,
    name: String,
}

impl Database {
    /// # Panics
    /// If the server is not there: a test that needs it fails, and says what to do.
    pub async fn create(engine: Engine) -> Self {
        let name = format!("postern_test_{}", postern::runtime::random_hex(6));
        let server = server_url(engine);
        let hint = format!("no {engine:?} at {server}: scripts/test starts one, or set its POSTERN_TEST_…_URL");
        match engine {
            Engine::Postgres => {
                let mut connection = PgConnection::connect(&server).await.unwrap_or_else(|e| panic!("{hint}: {e}"));
                let sql = format!("create database {name}");
                connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            }
            Engine::Mysql => {
                let mut connection = MySqlConnection::connect(&server).await.unwrap_or_else(|e| panic!("{hint}: {e}"));
                let sql = format!("create database {name} character set utf8mb4");
                connection.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
            }
            Engine::Sqlite => panic!("a SQLite database is a file in the test's folder"),
        }
        let mut url = url::Url::parse(&server).unwrap();
        url.set_path(&name);
        Self { url: url.to_string(), engine, name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (engine, name) = (self.engine, self.name.clone());
        // A thread and a runtime of its own: the test's may be ending.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = server_url(engine);
                match engine {
                    Engine::Postgres => {
                        let mut connection = PgConnection::connect(&server).await?;
                        let sql = format!("drop database if exists {name} with (force)");
                        connection.execute(sqlx::AssertSqlSafe(sql)).await.map(|_| ())
                    }
                    Engine::Mysql => {
                        let mut connection = MySqlConnection::connect(&server).await?;
                        // Dropping waits for open transactions, and the test that holds them waits for the drop.
                        let open: Vec<u64> = sqlx::query_scalar(
                            "select cast(id as unsigned) from information_schema.processlist where db = ?",
                        )
                        .bind(&name)
                        .fetch_all(&mut connection)
                        .await?;
                        for id in open {
                            let _ = connection.execute(sqlx::AssertSqlSafe(format!("kill {id}"))).await;
                        }
                        let sql = format!("drop database if exists {name}");
                        connection.execute(sqlx::AssertSqlSafe(sql)).await.map(|_| ())
                    }
                    Engine::Sqlite => Ok(()),
                }
            })
        });
        if let Ok(Err(cause)) = dropping.join() {
            eprintln!("can't drop the test database {}: {cause}", self.name);
        }
    }
}

fn server_url(engine: Engine) -> String {
    let (variable, default) = match engine {
        Engine::Postgres => ("POSTERN_TEST_POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres"),
        Engine::Mysql | Engine::Sqlite => ("POSTERN_TEST_MYSQL_URL", "mysql://root@127.0.0.1:3306/mysql"),
    };
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}
