//! Sources on a PostgreSQL server that is stopped, promoted, followed or worn out.

use sqlx::{Connection as _, PgConnection};

use crate::sources::{OFTEN, configuration, counts, insert, table, until, until_all};
use crate::support::cluster::Cluster;
use crate::support::{Engine, Gateway, json, run, wait_for};

async fn shop(cluster: &Cluster, more: &str) -> (Gateway, PgConnection) {
    let mut a = cluster.connect().await;
    run!(a, table(Engine::Postgres));
    (Gateway::start_with(Engine::Sqlite, &configuration(&cluster.url(), more)).await, a)
}

#[tokio::test]
async fn a_prepared_transaction_is_found_when_it_is_committed() {
    let cluster = Cluster::create();
    let (gateway, mut a) = shop(&cluster, OFTEN).await;
    let mut b = cluster.connect().await;
    run!(a, "begin", insert("1", "x", 1), "prepare transaction 'p'");
    drop(a);
    run!(b, insert("2", "y", 1));
    until(&gateway, &["2"]).await;
    run!(b, insert("3", "y", 2));
    until(&gateway, &["2", "3"]).await;
    run!(b, "commit prepared 'p'");
    until(&gateway, &["2", "3", "1+"]).await;
}

#[tokio::test]
async fn a_server_that_crashes_loses_and_repeats_nothing() {
    let cluster = Cluster::create();
    let (gateway, mut a) = shop(&cluster, OFTEN).await;
    run!(a, insert("1", "x", 1));
    until(&gateway, &["1"]).await;
    cluster.stop();
    let state = async || json(gateway.get("/sources/cart").await).await;
    let trouble = || async { state().await["lastError"].as_str().map(str::to_owned) };
    let said = wait_for("the trouble at /sources", trouble).await;
    assert!(said.starts_with("source `cart`: "), "{said}");
    assert_eq!(state().await["healthy"], false);
    cluster.start();
    let mut a = cluster.connect().await;
    run!(a, insert("2", "x", 2));
    until(&gateway, &["1", "2"]).await;
    let healed = || async { Some(state().await).filter(|state| state["healthy"] == true) };
    let state = wait_for("a healthy source", healed).await;
    assert_eq!(state["lastError"].as_str(), None);
    assert_eq!(counts(&gateway).await, (2, 0, 0));
}

#[tokio::test]
async fn a_standby_is_read_and_numbers_that_are_given_anew_after_a_fail_over_are_too() {
    let primary = Cluster::create();
    let mut a = primary.connect().await;
    run!(a, table(Engine::Postgres), insert("1", "x", 1));
    let standby = primary.standby();
    standby.start();
    let config = |cluster: &Cluster| configuration(&cluster.url(), &format!("{OFTEN}\nsweep = \"100ms\""));
    let mut gateway = Gateway::start_with(Engine::Sqlite, &config(&standby)).await;
    until(&gateway, &["1"]).await;
    let mut b = primary.connect().await;
    run!(a, "begin", insert("2", "x", 2));
    run!(b, insert("3", "y", 1));
    until(&gateway, &["1", "3"]).await;
    run!(a, "commit");
    until(&gateway, &["1", "3", "2+"]).await;

    // The standby does not get what comes now, and takes over.
    gateway.reconfigure(&config(&primary)).await;
    standby.stop();
    run!(a, insert("4 lost by the fail-over", "x", 3));
    until(&gateway, &["1", "3", "2+", "4 lost by the fail-over"]).await;
    primary.stop();
    standby.start();
    standby.promote();
    let mut a = standby.connect().await;
    // Sequences of a standby are ahead by up to 32.
    let given_anew = |id: &str| insert(id, "y", 2).replace("(event_id", "(seq, event_id").replace("('", "(4, '");
    run!(a, given_anew("4 anew"), insert("5", "y", 3));
    gateway.reconfigure(&config(&standby)).await;
    until_all(&gateway, &["1", "3", "2+", "4 lost by the fail-over", "5", "4 anew"]).await;
}

#[tokio::test]
async fn transactions_that_wrap_around_hide_nothing() {
    for follow in ["probe", "xmin"] {
        let cluster = Cluster::create();
        // Not more than half of the numbers may be in use.
        for transaction in [1_500_000_000, 3_000_000_000, 4_294_966_900] {
            cluster.jump_to(transaction);
            let mut a = cluster.connect().await;
            run!(a, "alter database template0 allow_connections true");
            let databases: Vec<String> =
                sqlx::query_scalar("select datname from pg_database").fetch_all(&mut a).await.unwrap();
            for database in databases {
                run!(PgConnection::connect(&cluster.url_of(&database)).await.unwrap(), "vacuum freeze");
            }
        }
        let (gateway, mut a) = shop(&cluster, &format!("{OFTEN}\nfollow = {follow:?}\nsweep = \"20ms\"")).await;
        let mut expected = Vec::new();
        for n in 1..=500 {
            run!(a, insert(&n.to_string(), "x", n));
            expected.push(n.to_string());
        }
        // Below the first, so that only a sweep finds it.
        let low = "insert into tb_cart_event (seq, event_id, cart_id, version) values (-5, 'low', 'x', 0)";
        run!(a, low);
        let counted = || async { (counts(&gateway).await.0 == 501).then_some(()) };
        wait_for("501 events", counted).await;
        let next: i64 = sqlx::query_scalar("select pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
            .fetch_one(&mut a)
            .await
            .unwrap();
        assert!(next > 1 << 32, "{next} did not wrap around");
    }
}
