//! The journal's contract, one suite on both engines.

use std::collections::HashSet;

use postern::event::Micros;
use postern::filter::{Filter, Selection};
use postern::journal::{Append, Appended, Columns, Error, Order, Range};

use crate::support::{Engine, Gateway, arrival, event, events};

/// Runs each test on a SQLite and on a PostgreSQL journal.
macro_rules! on_both_engines {
    ($($name:ident)*) => {
        mod sqlite { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Sqlite).await; })* }
        mod postgres { $(#[tokio::test] async fn $name() { super::$name(super::Engine::Postgres).await; })* }
    };
}

on_both_engines! {
    positions_are_dense_and_in_the_order_given
    a_known_event_is_dropped_changed_data_is_counted_and_another_identity_is_quarantined
    many_writers_leave_no_gap_and_no_reader_sees_one
    feed_time_never_decreases_and_is_not_dragged_by_the_future
    a_time_leads_to_the_first_event_that_is_not_older
    a_filter_and_visibility_hold_in_every_read
    a_cursor_of_another_journal_is_gone_and_one_beyond_the_head_unknown
    text_passes_through_byte_for_byte
    a_batch_and_its_checkpoint_are_one
    everything_is_there_after_a_restart
}

fn everything() -> Selection {
    Selection::visible(&Filter::default())
}

async fn positions(gateway: &Gateway) -> Vec<(i64, String)> {
    let page = gateway.app().journal().read(&everything(), Range::after(0), 100_000, Columns::ENVELOPE).await.unwrap();
    assert!(!page.more);
    page.entries.into_iter().map(|entry| (entry.position, entry.event.id)).collect()
}

async fn positions_are_dense_and_in_the_order_given(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    gateway.append(events(1..=250)).await;
    gateway.append(events(251..=251)).await;
    let expected: Vec<_> = (1..=251).map(|n| (n, event(n).id)).collect();
    assert_eq!(positions(&gateway).await, expected);
}

async fn a_known_event_is_dropped_changed_data_is_counted_and_another_identity_is_quarantined(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    gateway.append(events(1..=2)).await;
    let changed = postern::event::Event { data: "{\"n\":-1}".to_owned(), ..event(1) };
    let conflict = postern::event::Event { aggregate_id: "cart-other".to_owned(), ..event(2) };
    let appended = gateway.append(vec![event(1), changed, conflict, event(3), event(3)]).await;
    assert_eq!(appended, Appended { journaled: 1, duplicates: 2, changed: 1, conflicts: 1, first: Some(3) });
    assert_eq!(positions(&gateway).await.len(), 3);
    let journal = gateway.app().journal();
    let quarantined = journal.quarantine("cart", None, "", 10).await.unwrap();
    assert_eq!(quarantined.len(), 1);
    assert_eq!(
        (quarantined[0].reason.as_str(), quarantined[0].event_id.clone()),
        ("conflicting-id", Some(event(2).id))
    );
    let source = journal.source("cart").await.unwrap().unwrap();
    assert_eq!((source.journaled, source.duplicates, source.changed, source.quarantined), (3, 2, 1, 1));
}

async fn many_writers_leave_no_gap_and_no_reader_sees_one(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let journal = gateway.app().journal();
    let writers = (0..8).map(|writer| async move {
        for batch in 0..25 {
            let from = writer * 1_000 + batch * 10;
            // Each batch is offered twice, as after a crash.
            for _ in 0..2 {
                gateway_append(journal, from..=from + 9).await;
            }
        }
    });
    let reader = async {
        let mut seen = 0;
        while seen < 2_000 {
            let page = journal.read(&everything(), Range::after(seen), 500, Columns::ENVELOPE).await.unwrap();
            for entry in page.entries {
                assert_eq!(entry.position, seen + 1, "a reader saw a gap");
                seen = entry.position;
            }
        }
    };
    tokio::join!(futures_util::future::join_all(writers), reader);
    let all = positions(&gateway).await;
    assert_eq!(all.len(), 2_000);
    assert_eq!(all.iter().map(|(_, id)| id).collect::<HashSet<_>>().len(), 2_000);
}

async fn gateway_append(journal: &postern::journal::Journal, range: std::ops::RangeInclusive<i64>) {
    let arrivals = events(range).into_iter().map(arrival).collect();
    journal.append(Append { source: "cart".to_owned(), arrivals, ..Append::default() }).await.unwrap();
}

async fn feed_time_never_decreases_and_is_not_dragged_by_the_future(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let at =
        |n: i64, time: &str| postern::event::Event { occurred_at: Micros::parse_rfc3339(time).unwrap(), ..event(n) };
    let batch = vec![
        at(1, "2026-01-01T10:00:00Z"),
        at(2, "2026-01-01T09:00:00Z"),
        at(3, "2099-01-01T00:00:00Z"),
        at(4, "2026-01-02T00:00:00Z"),
    ];
    gateway.append(batch).await;
    let page = gateway.app().journal().read(&everything(), Range::after(0), 10, Columns::ENVELOPE).await.unwrap();
    let times: Vec<Micros> = page.entries.iter().map(|entry| entry.feed_time).collect();
    assert_eq!(times[0].to_millis_text(), "2026-01-01T10:00:00.000Z");
    assert_eq!(times[1], times[0], "an older event does not turn time back");
    assert_eq!(times[2], page.entries[2].recorded_at.plus(5 * 60 * 1_000_000), "the future counts as in five minutes");
    assert_eq!(times[3], times[2]);
}

async fn a_time_leads_to_the_first_event_that_is_not_older(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let journal = gateway.app().journal();
    assert_eq!(journal.before_time(event(1).occurred_at).await.unwrap(), 0);
    gateway.append(events(1..=100)).await;
    for (n, expected) in [(1, 0), (2, 1), (57, 56), (100, 99)] {
        assert_eq!(journal.before_time(event(n).occurred_at).await.unwrap(), expected);
        assert_eq!(journal.before_time(event(n).occurred_at.plus(1)).await.unwrap(), n);
    }
}

async fn a_filter_and_visibility_hold_in_every_read(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    gateway.append(events(1..=100)).await;
    let journal = gateway.app().journal();
    let visible = Selection::visible(&Filter { types: vec!["Checked*".to_owned()], ..Filter::default() });
    let page = journal.read(&visible, Range::after(0), 5, Columns::ALL).await.unwrap();
    assert_eq!(page.entries.iter().map(|entry| entry.position).collect::<Vec<_>>(), [5, 10, 15, 20, 25]);
    assert!(page.more);
    assert_eq!(page.covered, 25);
    let rest = journal.read(&visible, Range::after(95), 5, Columns::ALL).await.unwrap();
    assert_eq!((rest.entries.len(), rest.covered, rest.more), (1, 100, false));
    let back = Range { after: 0, through: Some(50), order: Order::Descending };
    let back = journal.read(&visible, back, 2, Columns::ENVELOPE).await.unwrap();
    assert_eq!(back.entries.iter().map(|entry| entry.position).collect::<Vec<_>>(), [50, 45]);
    assert!(journal.by_ids(&visible, &[event(1).id, event(5).id], Columns::ENVELOPE).await.unwrap().len() == 1);
    assert!(matches!(journal.locate(&visible, &event(1).id).await, Err(Error::UnknownPosition { .. })));
    assert_eq!(journal.locate(&visible, &event(5).id).await.unwrap(), 5);
    let narrowed = visible.and(&Filter { aggregate_ids: vec!["cart-5".to_owned()], ..Filter::default() });
    assert_eq!(journal.read(&narrowed, Range::after(0), 100, Columns::ENVELOPE).await.unwrap().entries.len(), 10);
}

async fn a_cursor_of_another_journal_is_gone_and_one_beyond_the_head_unknown(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    gateway.append(events(1..=3)).await;
    let journal = gateway.app().journal();
    assert_eq!(journal.locate(&everything(), &format!("{}-3", journal.id())).await.unwrap(), 3);
    assert_eq!(journal.locate(&everything(), "2").await.unwrap(), 2);
    assert_eq!(journal.locate(&everything(), &format!("urn:uuid:{}", event(2).id.to_uppercase())).await.unwrap(), 2);
    let beyond = format!("{}-4", journal.id());
    assert!(matches!(journal.locate(&everything(), &beyond).await, Err(Error::UnknownPosition { .. })));
    assert!(matches!(journal.locate(&everything(), "ffffffff-1").await, Err(Error::Expired { .. })));
    for malformed in ["", "a\u{1}b", &"x".repeat(513)] {
        assert!(matches!(journal.locate(&everything(), malformed).await, Err(Error::Malformed { .. })));
    }
}

async fn text_passes_through_byte_for_byte(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let data =
        r#"{"big": 12345678901234567890123, "e":1.0E+2,  "nul":"\u0000", "lone":"\ud800", "rtl":"مرحبا","a":1,"a":2}"#;
    let metadata = "{ \"spaces\" : [ ] }";
    let nasty = postern::event::Event { data: data.to_owned(), metadata: Some(metadata.to_owned()), ..event(1) };
    gateway.append(vec![nasty]).await;
    let page = gateway.app().journal().read(&everything(), Range::after(0), 1, Columns::ALL).await.unwrap();
    assert_eq!(page.entries[0].event.data, data);
    assert_eq!(page.entries[0].event.metadata.as_deref(), Some(metadata));
    let detail = gateway.get_text(&format!("/events/{}", event(1).id)).await;
    assert!(detail.contains(data) && detail.contains(metadata), "{detail}");
}

async fn a_batch_and_its_checkpoint_are_one(engine: Engine) {
    let gateway = Gateway::start_with(engine, "").await;
    let journal = gateway.app().journal();
    let append = |n: i64, data: &str, checkpoint: &str| Append {
        source: "cart".to_owned(),
        arrivals: vec![arrival(postern::event::Event { data: data.to_owned(), ..event(n) })],
        checkpoint: Some(checkpoint.to_owned()),
        ..Append::default()
    };
    journal.append(append(1, "{}", "{\"max\":1}")).await.unwrap();
    // A row that the database refuses (PostgreSQL has no NUL in text) takes its batch and its checkpoint back.
    let refused = journal.append(append(2, "\0", "{\"max\":2}")).await;
    let source = journal.source("cart").await.unwrap().unwrap();
    match engine {
        Engine::Postgres => {
            assert!(refused.is_err());
            assert_eq!((source.checkpoint.as_deref(), source.journaled), (Some("{\"max\":1}"), 1));
            assert_eq!(positions(&gateway).await.len(), 1);
        }
        _ => assert_eq!((source.checkpoint.as_deref(), source.journaled), (Some("{\"max\":2}"), 2)),
    }
    journal.append(append(3, "{}", "{\"max\":3}")).await.unwrap();
    assert_eq!(positions(&gateway).await.last().unwrap().1, event(3).id);
}

async fn everything_is_there_after_a_restart(engine: Engine) {
    let mut gateway = Gateway::start_with(engine, "").await;
    gateway.append(events(1..=120)).await;
    let id = gateway.app().journal().id().to_owned();
    let before = positions(&gateway).await;
    gateway.restart().await;
    assert_eq!(gateway.app().journal().id(), id);
    assert_eq!(positions(&gateway).await, before);
    gateway.append(events(121..=121)).await;
    assert_eq!(positions(&gateway).await.last().unwrap().0, 121);
}
