//! Sources, from a table to the journal: which interleavings of transactions are survived, on each engine.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use postern::catalogue::Catalogue;
use postern::event::Entry;
use postern::source;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection, SqliteConnection};

use crate::support::{Database, Engine, Gateway, entries, json, run, wait_for};

/// `[[source]]` for [`table`], with more keys.
pub fn configuration(url: &str, more: &str) -> String {
    format!(
        "[[source]]\nname = \"cart\"\nurl = {url:?}\ntable = \"tb_cart_event\"\n{more}\n\
         [source.columns]\nsequence = \"seq\"\nid = \"event_id\"\ntype = \"event_type\"\n\
         aggregate_type = {{ value = \"Cart\" }}\naggregate_id = \"cart_id\"\naggregate_version = \"version\"\n\
         occurred_at = \"occurred_at\"\ndata = \"payload\"\noutbox = \"outbox\"\n"
    )
}

pub const OFTEN: &str = "poll = { fixed_delay = \"5ms\" }";

pub fn table(engine: Engine) -> &'static str {
    match engine {
        Engine::Postgres => {
            "create table tb_cart_event (seq bigserial primary key, event_id text not null, event_type text not null \
             default 'ItemAdded', cart_id text not null, version bigint not null, occurred_at timestamptz not null default \
             '2026-01-01T00:00:00Z', payload jsonb default '{\"n\": 1}', outbox boolean default true)"
        }
        Engine::Mysql => {
            "create table tb_cart_event (seq bigint primary key auto_increment, event_id varchar(100) not null, \
             event_type varchar(100) not null default 'ItemAdded', cart_id varchar(100) not null, version bigint not null, \
             occurred_at timestamp(6) not null default '2026-01-01 00:00:00', payload json default '{\"n\": 1}', \
             outbox boolean default true)"
        }
        Engine::Sqlite => {
            "create table tb_cart_event (seq integer primary key, event_id text not null, event_type text not null \
             default 'ItemAdded', cart_id text not null, version bigint not null, occurred_at text not null default \
             '2026-01-01T00:00:00Z', payload text default '{\"n\": 1}', outbox int default 1)"
        }
    }
}

pub fn insert(id: &str, cart: &str, version: i64) -> String {
    format!("insert into tb_cart_event (event_id, cart_id, version) values ('{id}', '{cart}', {version})")
}

/// What the journal holds, by the sources' own ids; a late one is marked with `+`.
async fn journaled(gateway: &Gateway) -> Vec<String> {
    let mark =
        |entry: Entry| format!("{}{}", entry.event.id.trim_start_matches("cart:"), if entry.late { "+" } else { "" });
    entries(gateway).await.into_iter().map(mark).collect()
}

pub async fn until(gateway: &Gateway, expected: &[&str]) {
    let is_there = || async { (journaled(gateway).await == expected).then_some(()) };
    wait_for(&format!("{expected:?} in the journal"), is_there).await;
}

/// What the source counts: journaled, withheld, quarantined.
pub async fn counts(gateway: &Gateway) -> (i64, i64, i64) {
    let row = gateway.app().journal().source("cart").await.unwrap();
    row.map_or((0, 0, 0), |row| (row.journaled, row.withheld, row.quarantined))
}

/// Waits until so many events wait at the gate.
async fn waiting(gateway: &Gateway, count: i64) {
    let is_so = || async { (json(gateway.get("/sources/cart").await).await["gate"]["waiting"] == count).then_some(()) };
    wait_for(&format!("{count} events at the gate"), is_so).await;
}

/// The same interleavings on two engines. `A` and `B` are two sessions.
macro_rules! interleavings {
    ($module:ident, $engine:expr, $connection:ty) => {
        mod $module {
            use super::*;

            struct Shop {
                gateway: Gateway,
                a: $connection,
                b: $connection,
                database: Database,
            }

            async fn shop() -> Shop {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                let b = <$connection>::connect(&database.url).await.unwrap();
                run!(a, table($engine));
                let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
                Shop { gateway, a, b, database }
            }

            #[tokio::test]
            async fn a_row_that_becomes_visible_after_a_higher_one_is_journaled_late() {
                let Shop { gateway, mut a, mut b, database: _database } = shop().await;
                run!(a, "begin", insert("1", "x", 1));
                run!(b, insert("2", "y", 1));
                until(&gateway, &["2"]).await;
                run!(b, insert("3", "y", 2));
                until(&gateway, &["2", "3"]).await;
                run!(a, "commit");
                // The very first read already knew that a row below its first might come.
                until(&gateway, &["2", "3", "1+"]).await;
            }

            #[tokio::test]
            async fn a_rolled_back_row_never_appears_and_holds_up_nothing() {
                let Shop { gateway, mut a, mut b, database: _database } = shop().await;
                run!(b, insert("0", "z", 1));
                until(&gateway, &["0"]).await;
                run!(a, "begin", insert("1", "x", 1));
                run!(b, insert("2", "y", 1));
                until(&gateway, &["0", "2"]).await;
                run!(a, "rollback");
                run!(b, insert("3", "y", 2));
                until(&gateway, &["0", "2", "3"]).await;
            }

            #[tokio::test]
            async fn rows_of_savepoints_are_journaled_once_they_are_committed() {
                let Shop { gateway, mut a, mut b, database: _database } = shop().await;
                run!(
                    a,
                    "begin",
                    "savepoint s",
                    insert("1", "x", 1),
                    "savepoint t",
                    insert("gone", "x", 2),
                    "rollback to savepoint t"
                );
                run!(b, insert("2", "y", 1));
                until(&gateway, &["2"]).await;
                run!(a, "release savepoint s", insert("3", "x", 2), "commit");
                until(&gateway, &["2", "1+", "3"]).await;
            }

            #[tokio::test]
            async fn a_hole_is_settled_once_nobody_can_fill_it() {
                let Shop { gateway, mut a, mut b, database: _database } = shop().await;
                run!(b, insert("0", "z", 1));
                until(&gateway, &["0"]).await;
                run!(a, "begin", insert("1", "x", 1));
                run!(b, insert("2", "y", 1), "begin", insert("3", "x", 1), "rollback", insert("4", "y", 2));
                let holes = async |settled: [Option<bool>; 2]| {
                    let is_so = || async {
                        let state = json(gateway.get("/sources/cart").await).await;
                        let found = [0, 1].map(|n| state["holes"][n]["settled"].as_bool());
                        (found == settled).then(|| state["holes"].clone())
                    };
                    wait_for(&format!("holes that are settled: {settled:?}"), is_so).await
                };
                if $engine == Engine::Postgres {
                    // The one that runs was there before both, so it may fill both.
                    let seen = holes([Some(false), Some(false)]).await;
                    let held = || async {
                        let state = json(gateway.get("/sources/cart").await).await;
                        (state["holes"][0]["heldBy"].as_array().is_some_and(|by| by.len() == 1)).then_some(())
                    };
                    wait_for(&format!("who holds {seen}"), held).await;
                } else {
                    holes([Some(false), Some(true)]).await;
                }
                run!(a, "rollback");
                holes([Some(true), Some(true)]).await;
            }

            #[tokio::test]
            async fn holes_survive_a_restart() {
                let Shop { mut gateway, mut a, mut b, database: _database } = shop().await;
                run!(b, insert("0", "z", 1));
                run!(a, "begin", insert("1", "x", 1));
                run!(b, insert("2", "y", 1));
                until(&gateway, &["0", "2"]).await;
                gateway.restart().await;
                run!(b, insert("3", "y", 2));
                until(&gateway, &["0", "2", "3"]).await;
                run!(a, "commit");
                until(&gateway, &["0", "2", "3", "1+"]).await;
            }

            #[tokio::test]
            async fn a_table_that_is_emptied_and_starts_again_is_read_again() {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                run!(a, table($engine), insert("1", "x", 1), insert("2", "x", 2), insert("3", "y", 1));
                let more = format!("{OFTEN}\nsweep = \"20ms\"");
                let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, &more)).await;
                until(&gateway, &["1", "2", "3"]).await;
                let restart = if $engine == Engine::Postgres { " restart identity" } else { "" };
                run!(a, format!("truncate table tb_cart_event{restart}"), insert("4", "x", 3));
                until(&gateway, &["1", "2", "3", "4"]).await;
            }

            #[tokio::test]
            async fn numbers_that_were_given_anew_and_overtook_are_noticed() {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                run!(a, table($engine), insert("1", "x", 1), insert("2", "x", 2));
                let more = format!("{OFTEN}\nsweep = \"100ms\"");
                let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, &more)).await;
                until(&gateway, &["1", "2"]).await;
                // In one step, so that the highest number is never seen to go back.
                run!(
                    a,
                    "begin",
                    "delete from tb_cart_event",
                    "insert into tb_cart_event (seq, event_id, cart_id, version) values \
                     (1, 'a', 'y', 1), (2, 'b', 'y', 2), (3, 'c', 'y', 3)",
                    "commit"
                );
                until_all(&gateway, &["1", "2", "a", "b", "c"]).await;
            }

            #[tokio::test]
            async fn a_version_waits_at_the_gate_for_the_one_before_it() {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                let hidden =
                    insert("x1", "x", 1).replace("version)", "version, outbox)").replace(", 1)", ", 1, false)");
                run!(a, table($engine), hidden, insert("x2", "x", 2));
                let config = configuration(&database.url, &format!("{OFTEN}\ngate = \"version\""));
                let mut gateway = Gateway::start_with(Engine::Sqlite, &config).await;
                until(&gateway, &["x2"]).await;
                run!(a, insert("y2", "y", 2), insert("y3", "y", 3), insert("z1", "z", 1), insert("z1 again", "z", 1));
                until(&gateway, &["x2", "z1", "z1 again"]).await;
                waiting(&gateway, 2).await;
                // What was read is known from the table, what waits from the checkpoint.
                gateway.restart().await;
                run!(a, insert("x3", "x", 3));
                until(&gateway, &["x2", "z1", "z1 again", "x3"]).await;
                waiting(&gateway, 2).await;
                run!(a, insert("y1", "y", 1));
                until(&gateway, &["x2", "z1", "z1 again", "x3", "y1", "y2+", "y3+"]).await;
                waiting(&gateway, 0).await;
            }

            #[tokio::test]
            async fn equal_times_are_told_apart() {
                let Shop { gateway, mut a, mut b, database: _database } = shop().await;
                run!(a, "begin", insert("1", "x", 1));
                run!(b, "begin", insert("2", "y", 1), "commit");
                until(&gateway, &["2"]).await;
                run!(a, "commit");
                until(&gateway, &["2", "1+"]).await;
                let entries = entries(&gateway).await;
                assert_eq!(entries[0].event.occurred_at, entries[1].event.occurred_at);
                assert_eq!(entries[0].event.occurred_at.to_text(), "2026-01-01T00:00:00.000Z");
            }

            #[tokio::test]
            async fn a_row_inserted_below_what_was_never_missing_is_found_by_a_sweep() {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                run!(a, table($engine), insert("1", "x", 1));
                let more = format!("{OFTEN}\nsweep = \"20ms\"");
                let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, &more)).await;
                until(&gateway, &["1"]).await;
                run!(
                    a,
                    "insert into tb_cart_event (seq, event_id, cart_id, version) values (-5, 'low', 'x', 2)",
                    insert("2", "x", 3)
                );
                until_all(&gateway, &["1", "2", "low+"]).await;
                let report = check(&configuration(&database.url, ""), &Catalogue::default()).await.unwrap();
                assert!(report.to_string().contains("whatever its number"), "{report}");
                assert!(report.warnings.is_empty(), "{report}");
                assert_eq!((report.published, report.quarantined), (3, 0));
            }

            #[tokio::test]
            async fn a_table_that_is_far_ahead_is_caught_up_with_page_by_page() {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                run!(a, table($engine));
                // Numbers 1000 apart; in each cart, neighbours are swapped.
                let rows: Vec<String> = (1..=2_000_i64)
                    .map(|n| format!("({}, 'e{n}', 'cart', {})", n * 1_000, if n % 2 == 0 { n - 1 } else { n + 1 }))
                    .collect();
                run!(
                    a,
                    format!("insert into tb_cart_event (seq, event_id, cart_id, version) values {}", rows.join(", "))
                );
                let mut gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
                wait_for("some rows", || async { (counts(&gateway).await.0 > 0).then_some(()) }).await;
                gateway.restart().await;
                wait_for("all rows", || async { (counts(&gateway).await.0 == 2_000).then_some(()) }).await;
                let versions: Vec<_> =
                    entries(&gateway).await.iter().map(|entry| entry.event.aggregate_version).collect();
                assert!(versions.is_sorted(), "{versions:?}");
                run!(a, "insert into tb_cart_event (seq, event_id, cart_id, version) values (1500, 'low', 'x', 1)");
                wait_for("a row between", || async { (counts(&gateway).await.0 == 2_001).then_some(()) }).await;
            }

            #[tokio::test]
            async fn rows_of_one_aggregate_stand_by_version_also_when_the_table_is_read_in_pages() {
                let database = Database::create($engine).await;
                let mut a = <$connection>::connect(&database.url).await.unwrap();
                run!(a, table($engine));
                // Two pages and a half. In each cart, neighbours are swapped; one pair lies across the border.
                let rows: Vec<String> = (1..=25_000_i64)
                    .map(|seq| {
                        let turn = (seq - 1) / 10;
                        let version = if turn % 2 == 0 { turn + 1 } else { turn - 1 };
                        format!("({seq}, 'e{seq}', 'cart-{}', {version})", seq % 10)
                    })
                    .collect();
                for rows in rows.chunks(5_000) {
                    run!(
                        a,
                        format!(
                            "insert into tb_cart_event (seq, event_id, cart_id, version) values {}",
                            rows.join(", ")
                        )
                    );
                }
                let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, "")).await;
                wait_for("all rows", || async { (counts(&gateway).await.0 == 25_000).then_some(()) }).await;
                let mut versions: HashMap<String, Option<i64>> = HashMap::new();
                for entry in entries(&gateway).await {
                    let before = versions.insert(entry.event.aggregate_id.clone(), entry.event.aggregate_version);
                    assert!(before.is_none_or(|before| before < entry.event.aggregate_version), "{entry:?}");
                }
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn a_storm_of_transactions_loses_and_doubles_nothing() {
                let Shop { gateway, mut a, database, .. } = shop().await;
                run!(a, "create unique index one_version on tb_cart_event (cart_id, version)");
                let writers = (0..8_u64).map(|writer| {
                    let url = database.url.clone();
                    tokio::spawn(async move {
                        let mut connection = <$connection>::connect(&url).await.unwrap();
                        storm!(connection, writer)
                    })
                });
                let written = futures_util::future::join_all(writers).await;
                let expected: BTreeSet<String> = written.into_iter().flat_map(Result::unwrap).collect();
                assert!(expected.len() > 100, "the storm was a breeze: {}", expected.len());
                wait_for("all committed rows", || async {
                    (counts(&gateway).await.0 >= expected.len() as i64).then_some(())
                })
                .await;
                let entries = entries(&gateway).await;
                let found: BTreeSet<String> = entries.iter().map(|entry| entry.event.id.replace("cart:", "")).collect();
                assert_eq!(found, expected);
                assert_eq!(entries.len(), expected.len(), "each once");
                let mut versions: HashMap<&str, Option<i64>> = HashMap::new();
                for entry in &entries {
                    let before = versions.insert(&entry.event.aggregate_id, entry.event.aggregate_version);
                    assert!(before.is_none_or(|before| before < entry.event.aggregate_version), "{entry:?}");
                }
            }
        }
    };
}

/// Five seconds of a writer that appends to one of 20 carts at its next version, pauses inside its transactions and
/// gives up some. Returns the ids that it committed.
macro_rules! storm {
    ($connection:expr, $writer:expr) => {{
        let mut random = $writer * 7_919 + 1;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let (mut committed, start) = (Vec::new(), std::time::Instant::now());
        for turn in 0.. {
            if start.elapsed() > Duration::from_secs(5) {
                break;
            }
            let cart = format!("cart-{}", next(20));
            let sql = format!("select coalesce(max(version), 0) from tb_cart_event where cart_id = '{cart}'");
            sqlx::raw_sql("begin").execute(&mut $connection).await.unwrap();
            let version: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut $connection).await.unwrap();
            let (mut ids, mut fine) = (Vec::new(), true);
            for n in 0..1 + next(3) {
                let id = format!("{}-{turn}-{n}", $writer);
                let sql = insert(&id, &cart, version + 1 + n as i64);
                fine &= sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut $connection).await.is_ok();
                if !fine {
                    break;
                }
                ids.push(id);
                tokio::time::sleep(Duration::from_millis(next(60))).await;
            }
            if fine && next(100) >= 15 {
                sqlx::raw_sql("commit").execute(&mut $connection).await.unwrap();
                committed.extend(ids);
            } else {
                sqlx::raw_sql("rollback").execute(&mut $connection).await.unwrap();
            }
        }
        committed
    }};
}

interleavings!(postgres, Engine::Postgres, PgConnection);
interleavings!(mariadb, Engine::Mysql, MySqlConnection);

#[tokio::test]
async fn numbers_drawn_long_before_their_rows_are_found_on_postgres() {
    let database = Database::create(Engine::Postgres).await;
    let (mut a, mut b) =
        (PgConnection::connect(&database.url).await.unwrap(), PgConnection::connect(&database.url).await.unwrap());
    run!(a, table(Engine::Postgres));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    // An open transaction that has a number and no row; and ten numbers of a transaction that is over.
    run!(a, "select nextval('tb_cart_event_seq_seq') from generate_series(1, 10)");
    run!(a, "begin", "select nextval('tb_cart_event_seq_seq')");
    run!(b, insert("12", "y", 1));
    until(&gateway, &["12"]).await;
    run!(a, "insert into tb_cart_event (seq, event_id, cart_id, version) values (11, '11', 'x', 1)", "commit");
    until(&gateway, &["12", "11+"]).await;
    run!(a, "insert into tb_cart_event (seq, event_id, cart_id, version) values (3, '3', 'x', 2)");
    until(&gateway, &["12", "11+", "3+"]).await;
}

#[tokio::test]
async fn a_transaction_of_another_table_holds_up_nothing_on_postgres() {
    let database = Database::create(Engine::Postgres).await;
    let (mut a, mut b) =
        (PgConnection::connect(&database.url).await.unwrap(), PgConnection::connect(&database.url).await.unwrap());
    run!(a, table(Engine::Postgres), "create table other (n int)", "begin", "insert into other values (1)");
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    run!(b, "insert into tb_cart_event (event_id, cart_id, version) select n, 'x', n from generate_series(1, 100) n");
    wait_for("100 rows", || async { (counts(&gateway).await.0 == 100).then_some(()) }).await;
    run!(a, "commit");
}

#[tokio::test]
async fn a_notification_wakes_a_source_that_polls_rarely() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    run!(a, table(Engine::Postgres), insert("1", "x", 1));
    let more = "poll = { fixed_delay = \"1h\" }\nlisten = \"cart_events\"";
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, more)).await;
    until(&gateway, &["1"]).await;
    let listens = "select count(*) from pg_stat_activity where query ilike 'listen%' and datname = current_database()";
    wait_for("a listener", || async {
        let mut b = PgConnection::connect(&database.url).await.unwrap();
        let count: i64 = sqlx::query_scalar(listens).fetch_one(&mut b).await.unwrap();
        (count > 0).then_some(())
    })
    .await;
    run!(a, "begin", insert("2", "x", 2), "notify cart_events", "commit");
    until(&gateway, &["1", "2"]).await;
}

#[tokio::test]
async fn a_sweep_and_a_poll_do_not_wait_for_one_another_around_a_lock_on_the_table() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    run!(a, table(Engine::Postgres), insert("1", "x", 1));
    let more = "poll = { fixed_delay = \"1ms\" }\nsweep = \"1ms\"";
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, more)).await;
    until(&gateway, &["1"]).await;
    // Well below the 60 s after which the server ends a statement of ours.
    run!(a, "set lock_timeout = '20s'");
    for _ in 0..300 {
        run!(a, "truncate table tb_cart_event");
    }
    run!(a, insert("2", "x", 2));
    until(&gateway, &["1", "2"]).await;
}

#[tokio::test]
async fn rows_filled_in_below_the_first_are_swept_up_on_postgres() {
    let database = Database::create(Engine::Postgres).await;
    let (mut a, mut b) =
        (PgConnection::connect(&database.url).await.unwrap(), PgConnection::connect(&database.url).await.unwrap());
    let more = format!("{OFTEN}\nsweep = \"20ms\"");
    let with_number = |number: i64, outbox: bool| {
        format!(
            "insert into tb_cart_event (seq, event_id, cart_id, version, outbox) \
             values ({number}, '{number}', 'x', {number}, {outbox})"
        )
    };
    run!(a, table(Engine::Postgres), with_number(5_000_000, true), with_number(5_000_001, false));
    let mut gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, &more)).await;
    until(&gateway, &["5000000"]).await;
    // A copied history, in a savepoint of a transaction that stays open for a while.
    run!(a, "begin", "savepoint s", with_number(-5, true), with_number(17, true), with_number(18, false), "release s");
    run!(b, with_number(19, true));
    run!(a, "update tb_cart_event set outbox = true where seq = 5000001", "commit");
    until_all(&gateway, &["5000000", "19+", "-5+", "17+"]).await;
    // What was withheld when it was first read stays inside.
    wait_for("both withheld rows counted", || async { (counts(&gateway).await == (4, 2, 0)).then_some(()) }).await;

    // Wherever the sweep is when it is stopped.
    run!(b, with_number(3, true));
    gateway.restart().await;
    run!(b, "update tb_cart_event set version = version", with_number(5, true));
    until_all(&gateway, &["5000000", "19+", "-5+", "17+", "3+", "5+"]).await;
    assert_eq!(counts(&gateway).await, (6, 2, 0), "rows that only changed are not read again");
}

/// In whatever order.
pub async fn until_all(gateway: &Gateway, expected: &[&str]) {
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    let is_there = || async {
        let there = journaled(gateway).await;
        (there.iter().map(String::as_str).collect::<BTreeSet<_>>() == expected).then_some(())
    };
    wait_for(&format!("{expected:?} in the journal"), is_there).await;
}

/// The same table, whose numbers are not mapped.
fn unnumbered(url: &str, more: &str, columns: &str) -> String {
    configuration(url, &format!("{OFTEN}\n{more}")).replace("sequence = \"seq\"\n", columns)
}

#[tokio::test]
async fn a_table_without_numbers_is_followed_by_its_writers_on_postgres() {
    let database = Database::create(Engine::Postgres).await;
    let (mut a, mut b) =
        (PgConnection::connect(&database.url).await.unwrap(), PgConnection::connect(&database.url).await.unwrap());
    let row = |id: &str, version: i64, seconds: u32| {
        format!(
            "insert into tb_cart_event (event_id, cart_id, version, occurred_at) \
             values ('{id}', 'x', {version}, '2026-01-01T00:00:{seconds:02}Z')"
        )
    };
    run!(a, table(Engine::Postgres), row("0", 1, 0));
    let mut gateway = Gateway::start_with(Engine::Sqlite, &unnumbered(&database.url, "", "")).await;
    until(&gateway, &["0"]).await;
    // What commits first waits for what began first; then they stand by time, and by version where they are of one cart.
    run!(a, "begin", "savepoint s", row("1", 3, 3), "release s");
    run!(b, row("2", 2, 2), row("3", 4, 4));
    run!(a, row("4", 5, 1), "commit");
    until(&gateway, &["0", "2", "1", "3", "4"]).await;
    gateway.restart().await;
    run!(b, "begin", "insert into tb_cart_event (event_id, cart_id, version, outbox) values ('in', 'x', 6, false)");
    run!(b, "update tb_cart_event set payload = '{\"n\": 2}' where event_id = '0'", row("5", 7, 5), "commit");
    until(&gateway, &["0", "2", "1", "3", "4", "5"]).await;
    let counted = || async { (counts(&gateway).await == (6, 1, 0)).then_some(()) };
    wait_for("a withheld row, and none twice", counted).await;
    // More than two pages in one transaction.
    run!(
        b,
        "insert into tb_cart_event (event_id, cart_id, version) select 'm' || n, 'm' || n % 7, n from generate_series(1, 25000) n"
    );
    wait_for("all of them", || async { (counts(&gateway).await.0 == 25_006).then_some(()) }).await;
    let mut versions: HashMap<String, i64> = HashMap::new();
    for entry in entries(&gateway).await.into_iter().filter(|entry| entry.event.aggregate_id.starts_with('m')) {
        let before = versions.insert(entry.event.aggregate_id, entry.event.aggregate_version.unwrap());
        assert!(before < entry.event.aggregate_version, "{before:?}");
    }

    run!(a, "create view seen as select * from tb_cart_event");
    let view = unnumbered(&database.url, "", "").replace("tb_cart_event", "seen");
    run!(a, "create table more () inherits (tb_cart_event)");
    for of_many in [view, unnumbered(&database.url, "", "")] {
        let cause = check(&of_many, &Catalogue::default()).await.unwrap_err().to_string();
        assert!(cause.contains("neither views nor"), "{cause}");
    }
}

#[tokio::test]
async fn a_table_without_numbers_is_followed_by_its_times_on_mariadb() {
    let database = Database::create(Engine::Mysql).await;
    let (mut a, mut b) = (
        MySqlConnection::connect(&database.url).await.unwrap(),
        MySqlConnection::connect(&database.url).await.unwrap(),
    );
    let row = |id: &str, version: i64| {
        format!(
            "insert into tb_cart_event (event_id, cart_id, version, occurred_at) values ('{id}', 'x', {version}, now(6))"
        )
    };
    run!(a, table(Engine::Mysql), insert("0", "x", 1));
    run!(
        b,
        "insert into tb_cart_event (event_id, cart_id, version) select concat('m', seq), 'm', seq from seq_1_to_25000"
    );
    let mut gateway = Gateway::start_with(Engine::Sqlite, &unnumbered(&database.url, "", "")).await;
    let count = async |gateway: &Gateway, count: i64| {
        wait_for(&format!("{count} events"), || async { (counts(gateway).await.0 == count).then_some(()) }).await;
    };
    count(&gateway, 25_001).await;
    run!(a, "begin", row("1", 2));
    run!(b, row("2", 3));
    count(&gateway, 25_002).await;
    gateway.restart().await;
    run!(b, row("3", 4));
    count(&gateway, 25_003).await;
    // Longer than clocks may differ, and polled much faster than InnoDB renews what it tells of transactions.
    run!(a, "do sleep(2)", "commit");
    count(&gateway, 25_004).await;
    let newest: Vec<String> = journaled(&gateway).await.split_off(25_001);
    assert_eq!(newest, ["2", "3", "1+"]);
    let report = check(&unnumbered(&database.url, "", ""), &Catalogue::default()).await.unwrap().to_string();
    assert!(report.contains("not found: rows that are dated back"), "{report}");
}

/// One test on three engines.
macro_rules! flagged {
    ($name:ident, $engine:expr, $connection:ty, $id:literal, $flag:literal, $set:literal) => {
        #[tokio::test]
        async fn $name() {
            let (database, folder) = match $engine {
                Engine::Sqlite => (None, Some(tempfile::tempdir().unwrap())),
                engine => (Some(Database::create(engine).await), None),
            };
            let file = |folder: &tempfile::TempDir| format!("sqlite://{}", folder.path().join("shop.db").display());
            let url = database.as_ref().map_or_else(|| file(folder.as_ref().unwrap()), |database| database.url.clone());
            let made = if $engine == Engine::Sqlite { format!("{url}?mode=rwc") } else { url.clone() };
            let (mut a, columns) = (<$connection>::connect(&made).await.unwrap(), "flag = \"relayed\"\n");
            run!(a, table($engine).replace("event_id text", concat!("event_id ", $id)).replace("event_id varchar(100)", concat!("event_id ", $id)));
            run!(a, concat!("alter table tb_cart_event add column relayed ", $flag));
            let row = |n: i64, more: &str, value: &str| {
                format!(
                    "insert into tb_cart_event (event_id, cart_id, version{more}) \
                     values ({}, 'x', {n}{value})", $set.replace('#', &n.to_string())
                )
            };
            run!(a, row(1, "", ""), row(2, ", outbox", ", '0'"), row(3, ", occurred_at, event_type", ", '2026-01-02', ''"));
            let left = "select count(*) from tb_cart_event where coalesce(cast(relayed as char(9)), '0') in ('0', 'false', 'f')";
            let mut gateway = Gateway::start_with(Engine::Sqlite, &unnumbered(&url, "", columns)).await;
            macro_rules! all_flagged {
                ($counts:expr) => {
                    wait_for(&format!("{:?}", $counts), || async { (counts(&gateway).await == $counts).then_some(()) }).await;
                    loop {
                        let left: i64 = sqlx::query_scalar(left).fetch_one(&mut a).await.unwrap();
                        if left == 0 {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
            }
            all_flagged!((1, 1, 1));
            gateway.restart().await;
            run!(a, row(4, "", ""));
            all_flagged!((2, 1, 1));
            // As after a crash between the journal and the flag: known, and flagged again.
            run!(a, "update tb_cart_event set relayed = null where version = 1", row(5, "", ""));
            all_flagged!((3, 1, 1));
            assert_eq!(entries(&gateway).await.len(), 3);
        }
    };
}

flagged!(
    a_flag_is_set_on_postgres,
    Engine::Postgres,
    PgConnection,
    "uuid",
    "boolean default false",
    "'00000000-0000-7000-8000-00000000000#'"
);
flagged!(a_flag_may_be_a_time, Engine::Postgres, PgConnection, "bytea", "timestamptz", "'\\x0#'");
flagged!(
    a_flag_is_set_on_mariadb,
    Engine::Mysql,
    MySqlConnection,
    "binary(16)",
    "boolean default false",
    "unhex('0000000000007000800000000000000#')"
);
flagged!(a_flag_is_set_on_sqlite, Engine::Sqlite, SqliteConnection, "text", "integer", "'e#'");

#[tokio::test]
async fn a_long_transaction_that_fills_more_than_a_page_is_journaled_in_order() {
    let database = Database::create(Engine::Postgres).await;
    let (mut a, mut b) =
        (PgConnection::connect(&database.url).await.unwrap(), PgConnection::connect(&database.url).await.unwrap());
    run!(a, table(Engine::Postgres));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    run!(
        a,
        "begin",
        "insert into tb_cart_event (event_id, cart_id, version) select n, 'x', n from generate_series(1, 12000) n"
    );
    run!(b, insert("high", "y", 1));
    until(&gateway, &["high"]).await;
    run!(a, "commit");
    wait_for("all rows", || async { (counts(&gateway).await.0 == 12_001).then_some(()) }).await;
    let found = journaled(&gateway).await;
    assert_eq!(found[1..], (1..=12_000).map(|n| format!("{n}+")).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_type_of_column_is_read_as_it_is_meant() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    run!(
        a,
        "create domain body as bytea",
        "create schema \"Shop\"",
        "create table \"Shop\".\"Log\" (\"No\" smallint, id uuid, type text, cart bigint, at timestamp, data body, meta jsonb, out boolean)",
        "insert into \"Shop\".\"Log\" values (1, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', 'T', 7, '2026-07-01 12:00:00.5', '{\"d\":0.10}', '{\"b\": 1}', true)"
    );
    let config = format!(
        "[[source]]\nname = \"log\"\nurl = {:?}\ntable = \"Shop.Log\"\ntime_zone = \"Europe/Berlin\"\nwhere = \"type <> 'U' -- all but U\"\n\
         [source.columns]\nsequence = \"No\"\nid = \"id\"\ntype = \"type\"\naggregate_type = {{ value = \"Cart\" }}\n\
         aggregate_id = \"cart\"\noccurred_at = \"at\"\ndata = \"data\"\nmetadata = \"meta\"\noutbox = \"out\"\n",
        database.url
    );
    let gateway = Gateway::start_with(Engine::Postgres, &config).await;
    let entry = wait_for("the row", || async { entries(&gateway).await.pop() }).await.event;
    assert_eq!(entry.id, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
    assert_eq!((entry.data.as_str(), entry.metadata.as_deref()), ("{\"d\":0.10}", Some("{\"b\": 1}")));
    assert_eq!((entry.aggregate_id.as_str(), entry.aggregate_version), ("7", None));
    assert_eq!(entry.occurred_at.to_text(), "2026-07-01T10:00:00.500Z");
}

#[tokio::test]
async fn mariadb_types_are_read_as_they_are_meant() {
    let database = Database::create(Engine::Mysql).await;
    let mut a = MySqlConnection::connect(&database.url).await.unwrap();
    run!(
        a,
        "create table `lo``g` (no int unsigned primary key, id binary(16), type varchar(9) character set latin1, cart bigint, at datetime(3), \
         data longtext, meta blob, out_ bit(1))",
        "insert into `lo``g` values (1, unhex('a0eebc999c0b4ef8bb6d6bb9bd380a11'), 'Tä', 7, '2026-01-01 12:00:00.5', '{\"d\":\"ä\"}', '{\"b\":1}', 1), \
         (2, unhex('b0eebc999c0b4ef8bb6d6bb9bd380a11'), 'T', 7, '2026-01-01 12:00:00.5', '{}', null, 0)"
    );
    let config = format!(
        "[[source]]\nname = \"log\"\nurl = {:?}\ntable = \"lo`g\"\ntime_zone = \"Europe/Berlin\"\nwhere = \"type <> 'U'\"\n\
         [source.columns]\nsequence = \"NO\"\nid = \"id\"\ntype = \"type\"\naggregate_type = {{ value = \"Cart\" }}\n\
         aggregate_id = \"cart\"\noccurred_at = \"at\"\ndata = \"data\"\nmetadata = \"meta\"\noutbox = \"out_\"\n",
        database.url.replace("mysql:", "mariadb:")
    );
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    let entry = wait_for("the row", || async { entries(&gateway).await.pop() }).await.event;
    assert_eq!((entry.id.as_str(), entry.r#type.as_str()), ("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "Tä"));
    assert_eq!((entry.data.as_str(), entry.metadata.as_deref()), ("{\"d\":\"ä\"}", Some("{\"b\":1}")));
    assert_eq!(entry.occurred_at.to_text(), "2026-01-01T11:00:00.500Z");
}

/// A SQLite shop in a folder of its own.
async fn sqlite_shop(more: &str) -> (Gateway, SqliteConnection, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    let mut connection = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
    run!(connection, "pragma journal_mode = wal", table(Engine::Sqlite));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&url, more)).await;
    (gateway, connection, dir)
}

#[tokio::test]
async fn a_number_that_sqlite_gives_again_is_a_new_row() {
    let (gateway, mut shop, _dir) = sqlite_shop(OFTEN).await;
    run!(shop, insert("1", "x", 1), insert("2", "x", 2));
    until(&gateway, &["1", "2"]).await;
    run!(shop, "delete from tb_cart_event where seq = 2", insert("2 again", "x", 3));
    until(&gateway, &["1", "2", "2 again"]).await;
    run!(shop, insert("3", "x", 4));
    until(&gateway, &["1", "2", "2 again", "3"]).await;
}

#[tokio::test]
async fn a_table_that_is_far_ahead_is_caught_up_with_over_restarts() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    let fill = "insert into tb_cart_event (seq, event_id, cart_id, version) \
                select n * 50, 'e' || n, 'x', n from generate_series(1, 4000) n";
    run!(a, table(Engine::Postgres), fill, "begin", insert("open", "y", 1));
    let config = configuration(&database.url, &format!("{OFTEN}\nsweep = \"20ms\""));
    let mut gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    for part in [1, 1_000, 2_000] {
        let is_on_its_way = || async { (gateway.app().journal().head().await.unwrap().position >= part).then_some(()) };
        wait_for("a part of it", is_on_its_way).await;
        gateway.restart().await;
    }
    let mut b = PgConnection::connect(&database.url).await.unwrap();
    run!(b, "insert into tb_cart_event (seq, event_id, cart_id, version) values (-7, 'low', 'z', 1)");
    run!(a, "commit");
    let all = || async { (gateway.app().journal().head().await.unwrap().position == 4_002).then_some(()) };
    wait_for("4002 events", all).await;
    let journaled = journaled(&gateway).await;
    let in_order: Vec<String> = (1..=4_000).map(|n| format!("e{n}")).collect();
    let found: Vec<&String> = journaled.iter().filter(|id| id.starts_with('e')).collect();
    assert_eq!(found, in_order.iter().collect::<Vec<_>>());
    let state = json(gateway.get("/sources/cart").await).await;
    assert_eq!((&state["catchUp"], &state["position"]), (&serde_json::Value::Null, &200_000.into()));
}

#[tokio::test]
async fn the_newest_row_of_sqlite_waits_at_the_gate_too() {
    let (gateway, mut shop, _dir) = sqlite_shop(&format!("{OFTEN}\ngate = \"version\"")).await;
    run!(shop, insert("y0", "y", 0), insert("x2", "x", 2));
    until(&gateway, &["y0"]).await;
    waiting(&gateway, 1).await;
    // This table counts from 0.
    run!(shop, insert("x1", "x", 1));
    waiting(&gateway, 2).await;
    run!(shop, insert("x0", "x", 0));
    until(&gateway, &["y0", "x0", "x1", "x2+"]).await;
}

#[tokio::test]
async fn a_source_that_is_pointed_at_another_table_reads_it_from_its_beginning() {
    let (mut gateway, mut shop, dir) = sqlite_shop(OFTEN).await;
    run!(shop, insert("1", "x", 1), insert("2", "x", 2));
    until(&gateway, &["1", "2"]).await;
    let other = table(Engine::Sqlite).replace("tb_cart_event", "tb_order_event");
    run!(shop, &other, &insert("1 of orders", "y", 1).replace("tb_cart_event", "tb_order_event"));
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    gateway.reconfigure(&configuration(&url, OFTEN).replace("tb_cart_event", "tb_order_event")).await;
    until(&gateway, &["1", "2", "1 of orders"]).await;
    // And back: what is known stays known.
    run!(shop, insert("3", "x", 3));
    gateway.reconfigure(&configuration(&url, OFTEN)).await;
    until(&gateway, &["1", "2", "1 of orders", "3"]).await;
}

#[tokio::test]
async fn what_is_not_true_in_outbox_or_where_stays_inside_and_bad_rows_are_kept() {
    let (gateway, mut shop, _dir) =
        sqlite_shop("poll = { fixed_rate = \"20ms\" }\nwhere = \"cart_id <> 'secret'\"").await;
    run!(
        shop,
        "insert into tb_cart_event (event_id, cart_id, version, outbox, payload) values \
         ('no', 'x', 1, 0, '{}'), ('null', 'x', 2, null, 'not even JSON'), ('where', 'secret', 1, 1, '{}'), \
         ('bad', 'x', 3, 1, '{\"a\":'), ('yes', 'x', 4, 1, '{\"big\": 12345678901234567890123}')"
    );
    until(&gateway, &["yes"]).await;
    assert_eq!(counts(&gateway).await, (1, 3, 1));
    assert_eq!(entries(&gateway).await[0].event.data, "{\"big\": 12345678901234567890123}");
    let bad = gateway.app().journal().quarantine("cart", None, "", 10).await.unwrap();
    assert_eq!(
        (bad[0].reason.as_str(), bad[0].event_id.as_deref(), bad[0].sequence.as_deref()),
        ("bad-json", Some("bad"), Some("4"))
    );
    assert!(bad[0].raw.contains("\"cart_id\":\"x\""), "{}", bad[0].raw);
}

#[tokio::test]
async fn data_that_does_not_fit_its_schema_is_counted_or_quarantined() {
    let (mut gateway, mut shop, dir) = sqlite_shop(OFTEN).await;
    let (url, schema) = (dir.path().join("shop.db"), dir.path().join("added.json"));
    std::fs::write(&schema, r#"{"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}"#)
        .unwrap();
    let config = |validate: &str| {
        let source = configuration(&format!("sqlite://{}", url.display()), OFTEN);
        let push = "[[source]]\nname = \"pushed\"\npush = true\n";
        format!("{push}{source}[events.ItemAdded]\nschema = {schema:?}\nvalidate = {validate:?}\n")
    };
    let event = |id: &str, data: &str| {
        insert(id, "x", 1).replace("version)", "version, payload)").replace(", 1)", &format!(", 1, '{data}')"))
    };
    gateway.reconfigure(&config("off")).await;
    run!(shop, event("1", "{}"));
    until(&gateway, &["1"]).await;
    gateway.reconfigure(&config("report")).await;
    run!(shop, event("2", r#"{"n": "1"}"#), event("3", r#"{"n": 1}"#), event("4", "[]"));
    until(&gateway, &["1", "2", "3", "4"]).await;
    let found = json(gateway.get("/sources/cart").await).await["mismatches"].clone();
    assert_eq!(found, serde_json::json!({ "ItemAdded": 2 }));
    gateway.reconfigure(&config("quarantine")).await;
    run!(shop, event("5", r#"{"n": "secret"}"#), event("6", r#"{"n": 1}"#));
    until(&gateway, &["1", "2", "3", "4", "6"]).await;
    let kept = json(gateway.get("/sources/cart/quarantine").await).await["items"].clone();
    assert_eq!((kept.as_array().map(Vec::len), kept[0]["reason"].as_str()), (Some(1), Some("bad-schema")));
    let detail = kept[0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("data/n does not fit the schema") && !detail.contains("secret"), "{detail}");
    let push = serde_json::json!({"specversion": "1.0", "id": "1", "source": "/", "type": "ItemAdded", "data": {}});
    let request = gateway.client().post(gateway.url("/sources/pushed/events"));
    let request = request.header("content-type", "application/cloudevents+json").body(push.to_string());
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 422);
    assert!(json(answer).await["detail"].as_str().unwrap().starts_with("event 0: data does not fit"));
}

#[tokio::test]
async fn a_database_that_comes_later_is_read_then() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&url, OFTEN)).await;
    let mut shop = SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
    run!(shop, table(Engine::Sqlite), insert("1", "x", 1));
    until(&gateway, &["1"]).await;
}

async fn check(text: &str, catalogue: &Catalogue) -> Result<source::Report, source::Error> {
    #[derive(serde::Deserialize)]
    struct Sources {
        source: Vec<source::Config>,
    }
    let sources: Sources = toml::from_str(text).unwrap();
    source::check(&sources.source[0], catalogue).await
}

#[tokio::test]
async fn check_names_what_is_missing_and_what_was_meant() {
    for (engine, database) in [
        (Engine::Postgres, Database::create(Engine::Postgres).await),
        (Engine::Mysql, Database::create(Engine::Mysql).await),
    ] {
        match engine {
            Engine::Postgres => run!(PgConnection::connect(&database.url).await.unwrap(), table(engine)),
            _ => run!(MySqlConnection::connect(&database.url).await.unwrap(), table(engine)),
        }
        let good = configuration(&database.url, "");
        let fault = async |from: &str, to: &str| {
            check(&good.replace(from, to), &Catalogue::default()).await.unwrap_err().to_string()
        };
        assert_eq!(
            fault("\"version\"", "\"versoin\"").await,
            "source `cart` has no column `versoin` in table `tb_cart_event`; did you mean `version`?"
        );
        assert!(fault("\"tb_cart_event\"", "\"cart_event\"").await.contains("there is no table `cart_event`"));
        assert!(fault("\"seq\"", "\"event_id\"").await.contains("`event_id` can't be the `sequence`"));
        let other = if engine == Engine::Postgres { "overlap" } else { "xmin" };
        let other = fault("[source.columns]", &format!("follow = {other:?}\n[source.columns]")).await;
        assert!(other.contains("is for"), "{other}");
    }
}

/// Runs `postern audit` on the gateway's own configuration; its exit code and what it prints.
async fn audit(gateway: &Gateway, more: &[&str]) -> (Option<i32>, String) {
    let config = gateway.dir.path().join("postern.toml");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(["audit", "--config"]).arg(config).args(more);
    // The gateway goes on meanwhile.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn audit_names_what_is_missing() {
    for (journal, follow) in [(Engine::Sqlite, "probe"), (Engine::Postgres, "probe"), (Engine::Sqlite, "xmin")] {
        let database = Database::create(Engine::Postgres).await;
        let mut a = PgConnection::connect(&database.url).await.unwrap();
        let bad = "insert into tb_cart_event (event_id, cart_id, version, event_type) values ('bad', 'x', 5, '')";
        let inside = "insert into tb_cart_event (event_id, cart_id, version, outbox) values ('in', 'x', 6, false)";
        run!(a, table(Engine::Postgres), insert("1", "x", 1), insert("2", "x", 2), bad, inside);
        // Rarely, so that the row below is not found while it is looked for.
        let more = format!("follow = {follow:?}\npoll = {{ fixed_delay = \"1h\" }}\nsweep = \"1h\"");
        let gateway = Gateway::start_with(journal, &configuration(&database.url, &more)).await;
        wait_for("all rows", || async { (counts(&gateway).await == (2, 1, 1)).then_some(()) }).await;
        let (code, said) = audit(&gateway, &[]).await;
        assert_eq!(said, "cart: 0 missing, 2 journaled, 1 withheld, 1 quarantined, 0 not read yet\n");
        assert_eq!(code, Some(0));
        run!(
            a,
            "insert into tb_cart_event (seq, event_id, cart_id, version) values (-7, 'lost', 'x', 4)",
            insert("3", "x", 3)
        );
        let (code, said) = audit(&gateway, &[]).await;
        let expected = match follow {
            "probe" => {
                "cart: 1 missing, 2 journaled, 1 withheld, 1 quarantined, 1 not read yet\n  missing: -7 cart:lost\n"
            }
            _ => {
                "cart: 2 missing, 2 journaled, 1 withheld, 1 quarantined, 0 not read yet\n  missing: cart:lost\n  missing: cart:3\n"
            }
        };
        assert_eq!((code, said.as_str()), (Some(1), expected));
        assert_eq!(audit(&gateway, &["--republish", "Other*"]).await, (Some(1), expected.to_owned()));
        let (code, said) = audit(&gateway, &["--repair"]).await;
        assert!(code == Some(0) && said.contains("of them are going to be journaled"), "{said}");
        let found: &[&str] = if follow == "probe" { &["1", "2", "lost+"] } else { &["1", "2", "lost+", "3+"] };
        until_all(&gateway, found).await;
        let is_known = || async { audit(&gateway, &[]).await.1.contains(": 0 missing,").then_some(()) };
        wait_for("an audit that misses nothing", is_known).await;
        // A request leaves the quarantine a moment after its event was journaled.
        let as_before = || async { (counts(&gateway).await.2 == 1).then_some(()) };
        wait_for("the quarantine to hold what it held before", as_before).await;
    }
}

#[tokio::test]
async fn a_type_that_is_published_later_is_republished_on_request_and_audits_run_on_time() {
    let (mut gateway, mut shop, dir) = sqlite_shop(OFTEN).await;
    let url = format!("sqlite://{}", dir.path().join("shop.db").display());
    let config = |publish| {
        let source = configuration(&url, &format!("{OFTEN}\naudit = \"50ms\""));
        format!("{source}[events.ItemRemoved]\npublish = {publish}\n")
    };
    gateway.reconfigure(&config(false)).await;
    let removed = insert("2", "x", 2).replace("version)", "version, event_type)").replace("2)", "2, 'ItemRemoved')");
    run!(shop, insert("1", "x", 1), removed, insert("3", "x", 3));
    until(&gateway, &["1", "3"]).await;
    gateway.reconfigure(&config(true)).await;
    let audited = async |missing: serde_json::Value| {
        let is_so = || async {
            let audit = &json(gateway.get("/sources/cart").await).await["audit"];
            (audit["missingIds"] == missing).then(|| audit.clone())
        };
        wait_for(&format!("an audit that misses {missing}"), is_so).await
    };
    let audit_found = audited(serde_json::json!(["cart:2"])).await;
    assert_eq!((audit_found["missing"].as_i64(), audit_found["journaled"].as_i64()), (Some(1), Some(2)));
    let (code, said) = audit(&gateway, &["--republish", "ItemRemoved"]).await;
    assert!(code == Some(0) && said.contains("1 of them are going to be journaled"), "{said}");
    until(&gateway, &["1", "3", "2+"]).await;
    audited(serde_json::json!([])).await;
    let text = gateway.get_text("/metrics").await;
    for line in [
        "postern_journal_position{journal=\"",
        "postern_source_healthy{source=\"cart\"} 1.0",
        "postern_source_journaled_total{source=\"cart\"} 3",
        "postern_source_withheld_total{source=\"cart\"} 1",
        "postern_source_audit_missing{source=\"cart\"} 0.0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line}: {text}");
    }
}

#[tokio::test]
async fn a_quarantined_row_that_is_mended_is_journaled_on_request() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    let bad = |id: &str| {
        format!("insert into tb_cart_event (event_id, cart_id, version, event_type) values ('{id}', 'x', 1, '')")
    };
    run!(a, table(Engine::Postgres), bad("1"), bad("2"), bad("3"), bad("4"));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    wait_for("all rows", || async { (counts(&gateway).await == (0, 0, 4)).then_some(()) }).await;
    let listed = json(gateway.get("/sources/cart/quarantine").await).await;
    let id = |n: usize| listed["items"][n]["id"].as_str().unwrap().to_owned();
    let put = async |path: &str, command: &str| {
        let request = gateway.client().put(gateway.url(&format!("/sources/cart/quarantine{path}")));
        let response = request.header("command", command).send().await.unwrap();
        (response.status().as_u16(), json(response).await)
    };
    let row = |n: usize| format!("/{}", id(n));
    let (status, still) = put(&row(0), "Retry").await;
    assert!(status == 422 && still["detail"].as_str().unwrap().contains("type is empty"), "{still}");
    run!(a, "update tb_cart_event set event_type = 'Mended' where event_id <> '3'");
    assert_eq!(put(&row(0), "Retry").await, (200, serde_json::json!({ "outcome": "journaled" })));
    assert_eq!(put(&row(0), "Retry").await.0, 404, "it is gone");
    assert_eq!(put(&row(1), "Discard").await.1["outcome"], "discarded");
    assert_eq!(put(&row(1), "Retry").await.0, 404, "it is given up");
    assert_eq!(put("?reason=", "Discard").await.0, 400, "an empty variable of a script");
    let one = json(gateway.get("/sources/cart/quarantine?reason=missing-type&limit=1").await).await;
    assert!(one["next"].as_str().unwrap().ends_with("&limit=1&reason=missing-type"), "{one}");
    assert_eq!(put(&row(2), "Drop").await.0, 400);
    run!(a, "update tb_cart_event set outbox = false where event_id = '4'");
    let (status, all) = put("?reason=missing-type", "Retry").await;
    assert_eq!(
        (status, &all["resolved"], &all["stay"], &all["next"]),
        (200, &1.into(), &1.into(), &serde_json::Value::Null)
    );
    run!(a, "delete from tb_cart_event where event_id = '3'");
    let (status, gone) = put(&row(2), "Retry").await;
    assert!(status == 422 && gone["detail"].as_str().unwrap().contains("no such row any more"), "{gone}");
    assert_eq!(journaled(&gateway).await, ["1+"]);
    assert_eq!(counts(&gateway).await, (1, 1, 1));
}

#[tokio::test]
async fn a_quarantined_row_without_a_number_is_found_by_its_id() {
    let database = Database::create(Engine::Mysql).await;
    let mut a = MySqlConnection::connect(&database.url).await.unwrap();
    run!(
        a,
        table(Engine::Mysql).replace("event_id varchar(100)", "event_id binary(16)"),
        "insert into tb_cart_event (event_id, cart_id, version, event_type, occurred_at) \
         values (unhex('00000000000070008000000000000001'), 'x', 1, '', now(6))"
    );
    let gateway = Gateway::start_with(Engine::Sqlite, &unnumbered(&database.url, "", "")).await;
    wait_for("the row", || async { (counts(&gateway).await == (0, 0, 1)).then_some(()) }).await;
    run!(a, "update tb_cart_event set event_type = 'Mended'");
    let row = gateway.app().journal().quarantine("cart", None, "", 1).await.unwrap().remove(0);
    let request = gateway.client().put(gateway.url(&format!("/sources/cart/quarantine/{}", row.id)));
    let answer = json(request.header("command", "Retry").send().await.unwrap()).await;
    assert_eq!(answer["outcome"], "journaled", "{answer}");
}

#[tokio::test]
async fn one_id_for_two_events_is_a_conflict_that_stays_and_is_counted() {
    let database = Database::create(Engine::Postgres).await;
    let mut a = PgConnection::connect(&database.url).await.unwrap();
    let id = "00000000-0000-7000-8000-0000000000AA";
    run!(a, table(Engine::Postgres), insert(id, "x", 1), insert(id, "y", 1), insert("3", "x", 2), insert("3", "z", 1));
    let gateway = Gateway::start_with(Engine::Sqlite, &configuration(&database.url, OFTEN)).await;
    wait_for("all rows", || async { (counts(&gateway).await == (2, 0, 2)).then_some(()) }).await;
    let before = json(gateway.get("/sources/cart/quarantine").await).await;
    let request = gateway.client().put(gateway.url("/sources/cart/quarantine")).header("command", "Retry");
    let answer = json(request.send().await.unwrap()).await;
    assert_eq!((&answer["resolved"], &answer["stay"]), (&0.into(), &2.into()), "{answer}");
    let after = json(gateway.get("/sources/cart/quarantine").await).await;
    assert_eq!(before["items"], after["items"], "they stay as they were");
    assert_eq!(
        audit(&gateway, &[]).await.1,
        "cart: 0 missing, 2 journaled, 0 withheld, 2 quarantined, 0 not read yet\n"
    );
}
