//! Presets: each on its store's own tables, with rows as that library writes them.

use postern::catalogue::Catalogue;
use postern::event::Entry;
use postern::filter::{Filter, Selection};
use postern::journal::{Columns, Range};
use postern::source;
use sqlx::{AssertSqlSafe, Connection as _, MySqlConnection, PgConnection};

use crate::support::{Database, Engine, Gateway, wait_for};

/// What becomes of a row: type, aggregate, version, time, data.
fn line(entry: &Entry) -> String {
    let event = &entry.event;
    let version = event.aggregate_version.map_or("-".to_owned(), |version| version.to_string());
    let data: String = event.data.split_whitespace().collect();
    format!(
        "{} {}/{} {version} {} {data}",
        event.r#type,
        event.aggregate_type,
        event.aggregate_id,
        event.occurred_at.to_text()
    )
}

async fn run(engine: Engine, url: &str, texts: &[&str]) {
    for text in texts {
        let text = AssertSqlSafe((*text).to_owned());
        match engine {
            Engine::Postgres => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
            }
            _ => {
                let mut connection = MySqlConnection::connect(url).await.unwrap();
                sqlx::raw_sql(text).execute(&mut connection).await.unwrap();
            }
        }
    }
}

/// The store's tables and rows, and what is journaled.
async fn preset(engine: Engine, preset: &str, texts: &[&str], expected: &[&str]) {
    let database = Database::create(engine).await;
    run(engine, &database.url, texts).await;
    let config = format!(
        "[[source]]\nname = \"store\"\nurl = {:?}\n{preset}\npoll = {{ fixed_delay = \"5ms\" }}\n",
        database.url
    );
    let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
    let journal = gateway.app().journal();
    wait_for("all rows", || async {
        let row = journal.source("store").await.unwrap()?;
        (row.journaled + row.quarantined + row.duplicates >= expected.len() as i64).then_some(())
    })
    .await;
    let selection = Selection::visible(&Filter::default());
    let page = journal.read(&selection, Range::after(0), 100, Columns::ALL).await.unwrap();
    assert_eq!(page.entries.iter().map(line).collect::<Vec<_>>(), expected);
    let row = journal.source("store").await.unwrap().unwrap();
    assert_eq!((row.quarantined, row.changed), (0, 0));
}

macro_rules! presets {
    ($($name:ident: $engine:ident $preset:literal [$($text:literal),+ $(,)?] => [$($expected:literal),+ $(,)?];)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                preset(Engine::$engine, $preset, &[$($text),+], &[$($expected),+]).await;
            }
        )+
    };
}

presets! {
    akka_jdbc_on_postgres: Postgres "preset = \"akka-jdbc\"" [
        "create table event_journal (ordering bigserial, persistence_id varchar(255) not null, sequence_number bigint not null, \
         deleted boolean default false not null, writer varchar(255) not null, write_timestamp bigint, adapter_manifest varchar(255), \
         event_ser_id integer not null, event_ser_manifest varchar(255) not null, event_payload bytea not null, \
         meta_ser_id integer, meta_ser_manifest varchar(255), meta_payload bytea, primary key (persistence_id, sequence_number)); \
         create unique index event_journal_ordering_idx on event_journal (ordering)",
        "insert into event_journal (persistence_id, sequence_number, writer, write_timestamp, event_ser_id, event_ser_manifest, \
         event_payload) values ('Cart|c-1', 1, 'w', 1767225600000, 33, 'com.shop.ItemAdded', '{\"sku\": \"TEA\"}')",
    ] => ["com.shop.ItemAdded Cart/Cart|c-1 1 2026-01-01T00:00:00.000Z {\"sku\":\"TEA\"}"];

    akka_jdbc_on_mariadb: Mysql "preset = \"akka-jdbc\"" [
        "create table event_journal (ordering serial, deleted boolean default false not null, persistence_id varchar(255) not null, \
         sequence_number bigint not null, writer text not null, write_timestamp bigint not null, adapter_manifest text not null, \
         event_payload blob not null, event_ser_id integer not null, event_ser_manifest text not null, meta_payload blob, \
         meta_ser_id integer, meta_ser_manifest text, primary key (persistence_id, sequence_number))",
        "insert into event_journal (persistence_id, sequence_number, writer, write_timestamp, adapter_manifest, event_payload, \
         event_ser_id, event_ser_manifest) values ('Cart|c-1', 2, 'w', 1767225600000, '', '{\"sku\": 1}', 33, 'ItemAdded')",
    ] => ["ItemAdded Cart/Cart|c-1 2 2026-01-01T00:00:00.000Z {\"sku\":1}"];

    akka_r2dbc: Postgres "preset = \"akka-r2dbc\"" [
        "create table event_journal (slice int not null, entity_type varchar(255) not null, persistence_id varchar(255) not null, \
         seq_nr bigint not null, db_timestamp timestamp with time zone not null, event_ser_id integer not null, \
         event_ser_manifest varchar(255) not null, event_payload bytea not null, deleted boolean default false not null, \
         writer varchar(255) not null, adapter_manifest varchar(255), tags text array, meta_ser_id integer, \
         meta_ser_manifest varchar(255), meta_payload bytea, primary key (persistence_id, seq_nr))",
        "insert into event_journal (slice, entity_type, persistence_id, seq_nr, db_timestamp, event_ser_id, event_ser_manifest, \
         event_payload, writer) values (1, 'Cart', 'Cart|1', 1, '2026-01-01Z', 33, 'Added', '{}', 'w')",
    ] => ["Added Cart/Cart|1 1 2026-01-01T00:00:00.000Z {}"];

    atomfeed: Postgres "preset = \"atomfeed\"" [
        "create table event_records (id serial primary key, uuid varchar(40), title varchar(255), timestamp timestamp, \
         uri varchar(255), object varchar(1000), category varchar(255), date_created timestamp, tags varchar(255))",
        "insert into event_records (uuid, title, timestamp, uri, object, category) \
         values ('e-1', 'Encounter', '2026-01-01', null, '/ws/encounter/1', 'Encounter')",
    ] => ["Encounter Encounter/e-1 - 2026-01-01T00:00:00.000Z {\"uri\":null,\"object\":\"/ws/encounter/1\",\"category\":\"Encounter\"}"];

    axon_by_jpa: Postgres "preset = \"axon\"" [
        "create table domain_event_entry (global_index bigint not null primary key, event_identifier varchar(255) not null unique, \
         meta_data bytea, payload bytea not null, payload_revision varchar(255), payload_type varchar(255) not null, \
         time_stamp varchar(255) not null, aggregate_identifier varchar(255) not null, sequence_number bigint not null, \
         type varchar(255), unique (aggregate_identifier, sequence_number))",
        "insert into domain_event_entry values (7, 'e-1', '{\"traceId\": \"t\"}', '{\"orderId\": \"o-1\"}', null, 'shop.OrderPlaced', \
         '2026-01-01T00:00:00.123456Z', 'o-1', 0, 'Order')",
    ] => ["shop.OrderPlaced Order/o-1 0 2026-01-01T00:00:00.123456Z {\"orderId\":\"o-1\"}"];

    axon_by_jpa_with_large_objects: Postgres "preset = \"axon\"" [
        "create table domain_event_entry (global_index bigint not null primary key, event_identifier varchar(255) not null unique, \
         meta_data oid, payload oid not null, payload_revision varchar(255), payload_type varchar(255) not null, \
         time_stamp varchar(255) not null, aggregate_identifier varchar(255) not null, sequence_number bigint not null, type varchar(255))",
        "insert into domain_event_entry values (7, 'e-1', null, lo_from_bytea(0, '{\"orderId\": \"o-1\"}'), null, 'shop.OrderPlaced', \
         '2026-01-01T00:00:00.123456Z', 'o-1', 0, 'Order')",
    ] => ["shop.OrderPlaced Order/o-1 0 2026-01-01T00:00:00.123456Z {\"orderId\":\"o-1\"}"];

    axon5_on_mariadb: Mysql "preset = \"axon5\"" [
        "create table aggregate_event_entry (global_index bigint not null primary key, aggregate_type varchar(255), \
         aggregate_identifier varchar(255), aggregate_sequence_number bigint, type varchar(255) not null, version varchar(255) not null, \
         timestamp varchar(255) not null, payload longblob not null, metadata longblob, identifier varchar(255) not null unique)",
        "insert into aggregate_event_entry values (1, null, null, null, 'shop.Pinged', '1.0', '2026-01-01T00:00:00Z', '{}', '{}', 'e-1')",
    ] => ["shop.Pinged event/e-1 - 2026-01-01T00:00:00.000Z {}"];

    atomfeed_on_mariadb: Mysql "preset = \"atomfeed\"" [
        "create table event_records (id int auto_increment primary key, uuid varchar(40), title varchar(255), timestamp timestamp, \
         uri varchar(255), object varchar(1000), category varchar(255), date_created timestamp, tags varchar(255))",
        "insert into event_records (uuid, title, timestamp, uri, object, category) \
         values ('e-1', 'Encounter', '2026-01-01', '/ws/1', '/ws/encounter/1', '')",
    ] => ["Encounter event//ws/1 - 2026-01-01T00:00:00.000Z {\"uri\":\"/ws/1\",\"object\":\"/ws/encounter/1\",\"category\":\"\"}"];

    masstransit_on_mariadb: Mysql "preset = \"masstransit\"" [
        "create table OutboxMessage (SequenceNumber bigint auto_increment primary key, EnqueueTime datetime(6), \
         SentTime datetime(6) not null, Headers longtext, Properties longtext, InboxMessageId char(36), OutboxId char(36), \
         MessageId char(36) not null, ContentType varchar(256) not null, MessageType longtext not null, Body longtext not null, \
         ConversationId char(36), CorrelationId char(36))",
        "insert into OutboxMessage (SentTime, MessageId, ContentType, MessageType, Body) values \
         ('2026-01-01', 'm-1', 'json', 'urn:message:Shop:OrderPlaced;urn:message:Shop:IEvent', '{\"message\":{\"orderId\":1}}')",
    ] => ["Shop:OrderPlaced MassTransit/m-1 - 2026-01-01T00:00:00.000Z {\"orderId\":1}"];

    spatie_on_postgres: Postgres "preset = \"spatie\"" [
        "create table stored_events (id bigserial primary key, aggregate_uuid uuid, aggregate_version bigint, \
         event_version smallint not null default 1, event_class varchar(255) not null, event_properties jsonb not null, \
         meta_data jsonb not null, created_at timestamp(0) not null)",
        "insert into stored_events (event_class, event_properties, meta_data, created_at) values \
         ('App.Events.MoneyAdded', '{\"amount\": 1}', '{}', '2026-01-01')",
    ] => ["App.Events.MoneyAdded aggregate/1 - 2026-01-01T00:00:00.000Z {\"amount\":1}"];

    spring_modulith_on_mariadb: Mysql "preset = \"spring-modulith\"" [
        "create table EVENT_PUBLICATION (ID varchar(36) not null primary key, LISTENER_ID varchar(512) not null, \
         EVENT_TYPE varchar(512) not null, SERIALIZED_EVENT varchar(4000) not null, PUBLICATION_DATE timestamp(6) not null, \
         COMPLETION_DATE timestamp(6) default null null)",
        "insert into EVENT_PUBLICATION values ('a', 'a', 'shop.Placed', '{}', '2026-01-01', null), ('b', 'b', 'shop.Placed', '{}', '2026-01-01', null)",
    ] => ["shop.Placed publication/2f3862edfedab5fdc3710dc901c4db95 - 2026-01-01T00:00:00.000Z {}"];

    watermill_on_mariadb: Mysql "preset = \"watermill\"\ntable = \"watermill_orders\"" [
        "create table watermill_orders (`offset` bigint not null auto_increment, uuid varchar(36) not null, \
         created_at timestamp default current_timestamp, payload json default null, metadata json default null, primary key (`offset`))",
        "insert into watermill_orders (uuid, created_at, payload, metadata) values ('u-1', '2026-01-01', '{}', '{\"name\":\"placed\"}')",
    ] => ["placed message/u-1 - 2026-01-01T00:00:00.000Z {}"];

    axon_by_jdbc: Postgres "preset = \"axon\"" [
        "create table if not exists DomainEventEntry (globalIndex bigserial not null, aggregateIdentifier varchar(255) not null, \
         sequenceNumber bigint not null, type varchar(255), eventIdentifier varchar(255) not null, metaData bytea, \
         payload bytea not null, payloadRevision varchar(255), payloadType varchar(255) not null, timeStamp varchar(255) not null, \
         primary key (globalIndex), unique (aggregateIdentifier, sequenceNumber), unique (eventIdentifier))",
        "insert into DomainEventEntry (aggregateIdentifier, sequenceNumber, type, eventIdentifier, payload, payloadType, timeStamp) \
         values ('o-1', 1, 'Order', 'e-2', '{}', 'OrderPaid', '2026-01-01T00:00:00Z')",
    ] => ["OrderPaid Order/o-1 1 2026-01-01T00:00:00.000Z {}"];

    axon_on_mariadb: Mysql "preset = \"axon\"" [
        "create table DomainEventEntry (globalIndex bigint auto_increment not null, aggregateIdentifier varchar(255) not null, \
         sequenceNumber bigint not null, type varchar(255), eventIdentifier varchar(255) not null, metaData blob, \
         payload blob not null, payloadRevision varchar(255), payloadType varchar(255) not null, timeStamp varchar(255) not null, \
         primary key (globalIndex), unique (aggregateIdentifier, sequenceNumber), unique (eventIdentifier))",
        "insert into DomainEventEntry (aggregateIdentifier, sequenceNumber, type, eventIdentifier, payload, payloadType, timeStamp) \
         values ('o-1', 1, 'Order', 'e-2', '{}', 'OrderPaid', '2026-01-01T00:00:00Z')",
    ] => ["OrderPaid Order/o-1 1 2026-01-01T00:00:00.000Z {}"];

    axon5: Postgres "preset = \"axon5\"" [
        "create table aggregate_event_entry (global_index bigint not null primary key, aggregate_type varchar(255), \
         aggregate_identifier varchar(255), aggregate_sequence_number bigint, type varchar(255) not null, version varchar(255) not null, \
         timestamp varchar(255) not null, payload bytea not null, metadata bytea, identifier varchar(255) not null unique)",
        "insert into aggregate_event_entry values (1, 'Order', 'o-1', 0, 'shop.OrderPlaced', '1.0', '2026-01-01T00:00:00Z', '{}', '{}', 'e-1')",
    ] => ["shop.OrderPlaced Order/o-1 0 2026-01-01T00:00:00.000Z {}"];

    cap_on_postgres: Postgres "preset = \"cap\"" [
        "create schema cap; create table cap.published (\"Id\" bigint primary key not null, \"Version\" varchar(20) not null, \
         \"Name\" varchar(200) not null, \"Content\" text null, \"Retries\" int not null, \"Added\" timestamp not null, \
         \"ExpiresAt\" timestamp null, \"StatusName\" varchar(50) not null)",
        "insert into cap.published values (7, 'v1', 'order.placed', \
         '{\"Headers\":{\"cap-msg-id\":\"7\",\"cap-corr-id\":\"c-1\"},\"Value\":{\"total\":12345678901234567890.10}}', \
         0, '2026-01-01', null, 'Succeeded')",
    ] => ["order.placed cap/c-1 - 2026-01-01T00:00:00.000Z {\"total\":12345678901234567890.10}"];

    cap_on_mariadb: Mysql "preset = \"cap\"" [
        "create table `cap.published` (`Id` bigint not null, `Version` varchar(20), `Name` varchar(200) not null, `Content` longtext, \
         `Retries` int, `Added` datetime not null, `ExpiresAt` datetime, `StatusName` varchar(40) not null, primary key (`Id`))",
        "insert into `cap.published` values (7, 'v1', 'order.placed', '{\"Headers\":{\"cap-msg-id\":\"7\"},\"Value\":{\"n\":1}}', \
         0, '2026-01-01', null, 'Succeeded')",
    ] => ["order.placed cap/7 - 2026-01-01T00:00:00.000Z {\"n\":1}"];

    commanded: Postgres "preset = \"commanded\"" [
        "create table streams (stream_id bigserial primary key, stream_uuid text not null unique, stream_version bigint default 0 not null, \
         created_at timestamptz default now() not null, deleted_at timestamptz); \
         create table events (event_id uuid primary key, event_type text not null, causation_id uuid, correlation_id uuid, \
         data bytea not null, metadata bytea, created_at timestamptz not null); \
         create table stream_events (event_id uuid not null references events, stream_id bigint not null references streams, \
         stream_version bigint not null, original_stream_id bigint references streams, original_stream_version bigint, \
         primary key (event_id, stream_id)); create unique index ix on stream_events (stream_id, stream_version)",
        "insert into streams (stream_id, stream_uuid) values (0, '$all'), (5, 'account-9'); \
         insert into events values ('00000000-0000-7000-8000-000000000001', 'Opened', null, null, '{\"n\": 1}', null, '2026-01-01Z'), \
         ('00000000-0000-7000-8000-000000000002', 'Closed', null, null, '{}', '{}', '2026-01-01Z'); \
         insert into stream_events values ('00000000-0000-7000-8000-000000000001', 5, 1, 5, 1), \
         ('00000000-0000-7000-8000-000000000001', 0, 1, 5, 1), ('00000000-0000-7000-8000-000000000002', 5, 2, 5, 2), \
         ('00000000-0000-7000-8000-000000000002', 0, 2, 5, 2)",
    ] => [
        "Opened account/account-9 1 2026-01-01T00:00:00.000Z {\"n\":1}",
        "Closed account/account-9 2 2026-01-01T00:00:00.000Z {}",
    ];

    debezium_on_postgres: Postgres "preset = \"debezium\"" [
        "create table outboxevent (id uuid not null primary key, aggregatetype varchar(255) not null, aggregateid varchar(255) not null, \
         type varchar(255) not null, timestamp timestamp not null, payload varchar(8000), tracingspancontext varchar(256))",
        "insert into outboxevent values ('00000000-0000-7000-8000-000000000001', 'Order', 'o-1', 'OrderCreated', '2026-01-01', '{}', null)",
    ] => ["OrderCreated Order/o-1 - 2026-01-01T00:00:00.000Z {}"];

    debezium_on_mariadb: Mysql "preset = \"debezium\"\ncolumns.occurred_at = \"created_at\"" [
        "create table outbox (id binary(16) not null primary key, aggregatetype varchar(255) not null, aggregateid varchar(255) not null, \
         type varchar(255) not null, payload json, created_at timestamp(6) not null default current_timestamp(6))",
        "insert into outbox values (unhex('00000000000070008000000000000001'), 'Order', 'o-1', 'OrderCreated', '{}', '2026-01-01')",
    ] => ["OrderCreated Order/o-1 - 2026-01-01T00:00:00.000Z {}"];

    ecotone_on_mariadb: Mysql "preset = \"ecotone\"\ntable = \"_4228e4a00331b5d5e751db0481828e22a2c3c8ef\"" [
        "create table _4228e4a00331b5d5e751db0481828e22a2c3c8ef (no bigint not null auto_increment, event_id char(36) not null, \
         event_name varchar(100) not null, payload json not null, metadata json not null, created_at datetime(6) not null, \
         aggregate_version int unsigned generated always as (json_extract(metadata, '$._aggregate_version')) stored, primary key (no))",
        "insert into _4228e4a00331b5d5e751db0481828e22a2c3c8ef (event_id, event_name, payload, metadata, created_at) values \
         ('e-1', 'placed', '{\"n\":1}', '{\"_aggregate_id\":\"o-1\",\"_aggregate_type\":\"Order\",\"_aggregate_version\":3}', '2026-01-01')",
    ] => ["placed Order/o-1 3 2026-01-01T00:00:00.000Z {\"n\":1}"];

    eventuate_tram: Postgres "preset = \"eventuate-tram\"" [
        "create schema eventuate; create table eventuate.message (id varchar(1000) primary key, destination text not null, \
         headers text not null, payload text not null, published smallint default 0, message_partition smallint, creation_time bigint)",
        "insert into eventuate.message values ('0000-1', 'Order', '{\"PARTITION_ID\":\"o-1\",\"event-type\":\"OrderCreated\",\
         \"event-aggregate-type\":\"Order\",\"event-aggregate-id\":\"o-1\"}', '{\"total\":1}', 0, null, 1767225600000)",
    ] => ["OrderCreated Order/o-1 - 2026-01-01T00:00:00.000Z {\"total\":1}"];

    marten: Postgres "preset = \"marten\"" [
        "create table mt_streams (id uuid not null primary key, type varchar null, version bigint, timestamp timestamptz default now(), \
         snapshot jsonb, snapshot_version integer, created timestamptz default now(), tenant_id varchar default '*DEFAULT*', is_archived bool default false); \
         create sequence mt_events_sequence; create table mt_events (seq_id bigint not null primary key, id uuid not null, \
         stream_id uuid, version bigint not null, data jsonb not null, type varchar(500) not null, timestamp timestamptz default now() not null, \
         tenant_id varchar default '*DEFAULT*', mt_dotnet_type varchar null, is_archived bool default false)",
        "insert into mt_streams (id, type) values ('00000000-0000-7000-8000-0000000000aa', 'trip'); \
         insert into mt_events values (nextval('mt_events_sequence'), '00000000-0000-7000-8000-000000000001', \
         '00000000-0000-7000-8000-0000000000aa', 1, '{\"Day\": 1}', 'trip_started', '2026-01-01Z')",
    ] => ["trip_started trip/00000000-0000-7000-8000-0000000000aa 1 2026-01-01T00:00:00.000Z {\"Day\":1}"];

    masstransit: Postgres "preset = \"masstransit\"" [
        "create table \"OutboxMessage\" (\"SequenceNumber\" bigint generated by default as identity primary key, \"EnqueueTime\" timestamptz, \
         \"SentTime\" timestamptz not null, \"Headers\" text, \"Properties\" text, \"InboxMessageId\" uuid, \"InboxConsumerId\" uuid, \
         \"OutboxId\" uuid, \"MessageId\" uuid not null, \"ContentType\" varchar(256) not null, \"MessageType\" text not null, \
         \"Body\" text not null, \"ConversationId\" uuid, \"CorrelationId\" uuid, \"InitiatorId\" uuid, \"RequestId\" uuid)",
        "insert into \"OutboxMessage\" (\"SentTime\", \"MessageId\", \"ContentType\", \"MessageType\", \"Body\", \"ConversationId\") values \
         ('2026-01-01Z', '00000000-0000-7000-8000-000000000001', 'application/vnd.masstransit+json', \
         'urn:message:Shop:OrderPlaced;urn:message:Shop:IEvent', '{\"messageId\":\"x\",\"message\":{\"orderId\":1}}', \
         '00000000-0000-7000-8000-0000000000cc')",
    ] => ["Shop:OrderPlaced MassTransit/00000000-0000-7000-8000-0000000000cc - 2026-01-01T00:00:00.000Z {\"orderId\":1}"];

    message_db: Postgres "preset = \"message-db\"" [
        "create schema message_store; create table message_store.messages (global_position bigserial not null, position bigint not null, \
         time timestamp without time zone default (now() at time zone 'utc') not null, stream_name text not null, type text not null, \
         data jsonb, metadata jsonb, id uuid not null default gen_random_uuid(), primary key (global_position))",
        "insert into message_store.messages (position, time, stream_name, type, data) values \
         (0, '2026-01-01', 'account-9-x', 'Opened', '{\"a\": 1}'), (0, '2026-01-01', 'settings', 'Changed', null)",
    ] => [
        "Opened account/9-x 0 2026-01-01T00:00:00.000Z {\"a\":1}",
        "Changed settings/settings 0 2026-01-01T00:00:00.000Z null",
    ];

    prooph: Postgres "preset = \"prooph\"\ntable = \"_a\"" [
        "create table \"_a\" (no bigserial, event_id uuid not null, event_name varchar(100) not null, payload json not null, \
         metadata jsonb not null, created_at timestamp(6) not null, primary key (no))",
        "insert into \"_a\" (event_id, event_name, payload, metadata, created_at) values ('00000000-0000-7000-8000-000000000001', 'placed', \
         '{\"n\":1.0}', '{\"_aggregate_id\": \"o-1\", \"_aggregate_type\": \"Order\", \"_aggregate_version\": 3}', '2026-01-01')",
    ] => ["placed Order/o-1 3 2026-01-01T00:00:00.000Z {\"n\":1.0}"];

    pyeventsourcing: Postgres "preset = \"pyeventsourcing\"" [
        "create table stored_events (originator_id uuid not null, originator_version bigint not null, topic text, state bytea, \
         notification_id bigserial, primary key (originator_id, originator_version))",
        "insert into stored_events (originator_id, originator_version, topic, state) values ('00000000-0000-7000-8000-0000000000aa', 1, \
         'dogs:Dog.Registered', '{\"name\":\"Fido\",\"timestamp\":{\"_type_\":\"datetime_iso\",\"_data_\":\"2026-01-01T00:00:00+00:00\"}}')",
    ] => ["Dog.Registered Dog/00000000-0000-7000-8000-0000000000aa 1 2026-01-01T00:00:00.000Z \
           {\"name\":\"Fido\",\"timestamp\":{\"_type_\":\"datetime_iso\",\"_data_\":\"2026-01-01T00:00:00+00:00\"}}"];

    rails_event_store_on_postgres: Postgres "preset = \"rails-event-store\"" [
        "create table event_store_events (id bigserial primary key, event_id uuid not null unique, event_type varchar not null, \
         metadata jsonb, data jsonb not null, created_at timestamp(6) not null, valid_at timestamp(6)); \
         create table event_store_events_in_streams (id bigserial primary key, stream varchar not null, position integer, \
         event_id uuid not null, created_at timestamp(6) not null)",
        "insert into event_store_events (event_id, event_type, data, created_at) values ('00000000-0000-7000-8000-000000000001', \
         'OrderPlaced', '{\"n\": 1}', '2026-01-01'); insert into event_store_events_in_streams (stream, event_id, created_at) values \
         ('Order$7', '00000000-0000-7000-8000-000000000001', '2026-01-01')",
    ] => ["OrderPlaced Order/Order$7 - 2026-01-01T00:00:00.000Z {\"n\":1}"];

    rails_event_store_on_mariadb: Mysql "preset = \"rails-event-store\"" [
        "create table event_store_events (id bigint auto_increment primary key, event_id varchar(36) not null unique, event_type varchar(255) not null, \
         metadata json, data json not null, created_at datetime(6) not null, valid_at datetime(6))",
        "create table event_store_events_in_streams (id bigint auto_increment primary key, stream varchar(255) not null, position int, \
         event_id varchar(36) not null, created_at datetime(6) not null)",
        "insert into event_store_events (event_id, event_type, data, created_at) values ('e-1', 'OrderPlaced', '{\"n\":1}', '2026-01-01')",
    ] => ["OrderPlaced event/e-1 - 2026-01-01T00:00:00.000Z {\"n\":1}"];

    spatie: Mysql "preset = \"spatie\"" [
        "create table stored_events (id bigint unsigned auto_increment primary key, aggregate_uuid char(36), aggregate_version bigint unsigned, \
         event_version tinyint unsigned not null default 1, event_class varchar(255) not null, event_properties json not null, \
         meta_data json not null, created_at timestamp not null)",
        "insert into stored_events (aggregate_uuid, aggregate_version, event_class, event_properties, meta_data, created_at) values \
         ('a-1', 1, 'App.Events.MoneyAdded', '{\"amount\":1}', '{}', '2026-01-01')",
    ] => ["App.Events.MoneyAdded aggregate/a-1 1 2026-01-01T00:00:00.000Z {\"amount\":1}"];

    spring_modulith: Postgres "preset = \"spring-modulith\"" [
        "create table event_publication (id uuid not null primary key, listener_id text not null, event_type text not null, \
         serialized_event text not null, publication_date timestamptz not null, completion_date timestamptz, status text, \
         completion_attempts int, last_resubmission_date timestamptz)",
        "insert into event_publication (id, listener_id, event_type, serialized_event, publication_date) values \
         (gen_random_uuid(), 'a', 'shop.OrderPlaced', '{\"id\":1}', '2026-01-01Z'), \
         (gen_random_uuid(), 'b', 'shop.OrderPlaced', '{\"id\":1}', '2026-01-01Z')",
    ] => ["shop.OrderPlaced publication/0c33a265149c2f910d79a38d4a536be5 - 2026-01-01T00:00:00.000Z {\"id\":1}"];

    watermill: Postgres "preset = \"watermill\"\ntable = \"watermill_orders\"" [
        "create table watermill_orders (\"offset\" bigserial, uuid varchar(36) not null, created_at timestamp not null default current_timestamp, \
         payload json default null, metadata json default null, transaction_id xid8 not null, primary key (transaction_id, \"offset\"))",
        "insert into watermill_orders (uuid, created_at, payload, metadata, transaction_id) values \
         ('u-1', '2026-01-01', '{\"n\":1}', '{\"name\":\"placed\"}', pg_current_xact_id())",
    ] => ["placed message/u-1 - 2026-01-01T00:00:00.000Z {\"n\":1}"];
}

#[tokio::test]
async fn what_a_preset_cannot_serve_is_refused_by_check_with_the_way_out() {
    let database = Database::create(Engine::Postgres).await;
    run(
        Engine::Postgres,
        &database.url,
        &["create table event_store_events (id bigserial primary key, event_id uuid not null, event_type varchar not null, \
           metadata bytea, data bytea not null, created_at timestamp not null); \
           create table event_store_events_in_streams (id bigserial primary key, stream varchar, event_id uuid); \
           insert into event_store_events (event_id, event_type, data, created_at) \
           values (gen_random_uuid(), 'OrderPlaced', '---\n:n: 1\n', now())"],
    )
    .await;
    let text = format!("name = \"store\"\nurl = {:?}\npreset = \"rails-event-store\"\n", database.url);
    let report = source::check(&toml::from_str(&text).unwrap(), &Catalogue::default()).await.unwrap();
    assert!(report.is_hopeless());
    let report = report.to_string();
    assert!(
        report.contains("quarantined (bad-json)") && report.contains("YAML, the default of binary columns"),
        "{report}"
    );
}

#[tokio::test]
async fn a_row_that_breaks_an_expression_goes_to_quarantine_alone() {
    let masstransit = "create table \"OutboxMessage\" (\"SequenceNumber\" bigserial primary key, \"SentTime\" timestamptz default now(), \
         \"Headers\" text, \"MessageId\" uuid default gen_random_uuid(), \"MessageType\" text default 'urn:message:A', \
         \"Body\" text, \"ConversationId\" uuid, \"CorrelationId\" uuid)";
    let eventuate = "create table message (id varchar(100) primary key, destination text default 'Order', headers text, \
         payload text default '{}', creation_time bigint default 1767225600000)";
    let rows = |into: &str, n: i32, bad: &str| {
        format!(
            "insert into {into} select {} from generate_series(1, {n}) n",
            bad.replace('#', "case when n = 7 then '{' else '{\"message\": 1}' end")
        )
    };
    for (preset, table, fill) in [
        ("masstransit", masstransit, rows("\"OutboxMessage\" (\"Body\")", 20, "#")),
        ("eventuate-tram", eventuate, rows("message (id, headers)", 20, "'m' || n, #")),
    ] {
        let database = Database::create(Engine::Postgres).await;
        run(Engine::Postgres, &database.url, &[table, &fill]).await;
        let poll = "poll = { fixed_delay = \"5ms\" }";
        let config = format!("[[source]]\nname = \"store\"\nurl = {:?}\npreset = {preset:?}\n{poll}\n", database.url);
        let gateway = Gateway::start_with(Engine::Sqlite, &config).await;
        let count =
            async || gateway.app().journal().source("store").await.unwrap().map(|row| (row.journaled, row.quarantined));
        wait_for("all rows", || async { (count().await == Some((19, 1))).then_some(()) }).await;
        let row = gateway.app().journal().quarantine("store", None, "", 2).await.unwrap().remove(0);
        assert!(row.reason == "bad-sql" && row.detail.contains("json"), "{row:?}");
    }
}

#[tokio::test]
async fn init_takes_no_number_of_an_aggregate_for_one_of_the_table() {
    let database = Database::create(Engine::Mysql).await;
    run(
        Engine::Mysql,
        &database.url,
        &["create table order_events (id bigint auto_increment primary key, event_id char(36), event_type varchar(50), \
           aggregate_id varchar(50), sequence_number bigint, created_at timestamp(6), payload json, \
           unique (aggregate_id, sequence_number), key (sequence_number))",
          "create table audit_log (id bigint auto_increment primary key, type varchar(50), data json, created_at timestamp)"],
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = postern(folder.path(), &database.url, &["init", &database.url]);
    assert_eq!(code, Some(0), "{said}");
    let text = std::fs::read_to_string(folder.path().join("postern.toml")).unwrap();
    assert!(
        text.contains("columns.sequence = \"id\"") && text.contains("columns.aggregate_version = \"sequence_number\""),
        "{text}"
    );
    assert!(!text.contains("audit_log"), "{text}");
}

#[tokio::test]
async fn init_knows_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("till.db").display());
    let mut till = sqlx::SqliteConnection::connect(&format!("{url}?mode=rwc")).await.unwrap();
    let table = "create table order_event (id integer primary key autoincrement, event_id text, event_type text, \
                 order_id text, occurred_at text, payload text)";
    sqlx::raw_sql(AssertSqlSafe(table.to_owned())).execute(&mut till).await.unwrap();
    let (code, said) = postern(folder.path(), "", &["init", "sqlite://till.db", "--config", "conf.toml"]);
    assert_eq!(code, Some(0), "{said}");
    let text = std::fs::read_to_string(folder.path().join("conf.toml")).unwrap();
    assert!(
        text.contains("columns.sequence = \"id\"") && text.contains("columns.aggregate_id = \"order_id\""),
        "{text}"
    );
    assert_eq!(postern(folder.path(), "", &["check", "--config", "conf.toml"]).0, Some(0));
}

/// Runs the binary in a folder; its exit code and everything it says.
fn postern(folder: &std::path::Path, url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_postern"));
    let output = command.args(arguments).current_dir(folder).env("DATABASE_URL", url).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn init_writes_a_configuration_that_works_and_never_twice() {
    let database = Database::create(Engine::Postgres).await;
    run(
        Engine::Postgres,
        &database.url,
        &["create schema es; create table es.mt_streams (id uuid primary key, type varchar); \
           create table es.mt_events (seq_id bigint primary key, id uuid, stream_id uuid, version bigint, data jsonb, \
           type varchar(500), timestamp timestamptz); \
           create table customer (id bigserial primary key, name text, created_at timestamptz); \
           create table outbox (id uuid primary key, aggregatetype varchar(255), aggregateid varchar(255), \
           type varchar(255), payload jsonb, written timestamptz, created_at timestamptz default now()); \
           create table tb_cart_event (seq bigserial primary key, event_id uuid, event_type text, cart_id text, \
           version bigint, occurred_at timestamptz, payload jsonb, outbox boolean); \
           insert into tb_cart_event (event_id, event_type, cart_id, version, occurred_at, payload, outbox) \
           values (gen_random_uuid(), 'CartCreated', 'c', 1, now(), '{}', true)"],
    )
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (code, said) = postern(folder.path(), &database.url, &["init", &database.url]);
    assert_eq!(code, Some(0), "{said}");
    for part in [
        "`es.mt_events`: Marten",
        "`outbox`: Debezium outbox",
        "`tb_cart_event`: an event table",
        "published: CartCreated",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let text = std::fs::read_to_string(folder.path().join("postern.toml")).unwrap();
    assert!(text.contains("url = \"${DATABASE_URL}\"") && !text.contains("postgres://"), "{text}");
    assert!(
        text.contains("table = \"es.mt_events\"") && text.contains("columns.occurred_at = \"created_at\""),
        "{text}"
    );
    assert!(!text.contains("customer") && text.contains("columns.aggregate_id = \"cart_id\""), "{text}");
    let (code, said) = postern(folder.path(), &database.url, &["check"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = postern(folder.path(), &database.url, &["init", &database.url]);
    assert!(code == Some(1) && said.contains("is not overwritten"), "{said}");
    let one = ["init", &database.url, "--table", "customer", "--config", "other.toml"];
    let (code, said) = postern(folder.path(), &database.url, &one);
    assert!(code == Some(1) && said.contains("no event table was recognised"), "{said}");
    let none = ["init", &database.url, "--table", "custmer", "--config", "other.toml"];
    assert!(postern(folder.path(), &database.url, &none).1.contains("there is no table `custmer`"));
}
